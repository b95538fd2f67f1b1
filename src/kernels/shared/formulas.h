/* formulas: the arithmetic of single elements, once for all backends.
 *
 * Kept to the subset that C11, CUDA and Metal accept: plain functions over
 * plain numbers, no pointers to functions, no library beyond expf and friends.
 * Section numbers are those of docs/model.md. */
#ifndef KERNELS_SHARED_FORMULAS_H
#define KERNELS_SHARED_FORMULAS_H

#include <math.h>
#include <stdint.h>

#ifndef FORMULA
#define FORMULA static inline
#endif

FORMULA float formula_sigmoid(float z)
{
    return 1.0f / (1.0f + expf(-z));
}

/* silu(min(g, limit)) * clamp(u, -limit, limit); limit 0 means no clamp [4.14] */
FORMULA float formula_swiglu(float g, float u, float limit)
{
    if (limit > 0.0f) {
        g = g > limit ? limit : g;
        u = u > limit ? limit : u < -limit ? -limit : u;
    }
    return g / (1.0f + expf(-g)) * u;
}

/* sqrt(ln(1 + e^z)), the router's score; the two ends avoid overflow and loss [4.14] */
FORMULA float formula_sqrt_softplus(float z)
{
    const float s = z > 20.0f ? z : z < -20.0f ? expf(z) : log1pf(expf(z));
    return sqrtf(s);
}

/* Angle of a rotary pair: the product is rounded to float like the reference's,
 * its cosine and sine are exact to the last bit or so [4.7]. */
FORMULA void formula_rope_angle(int pos, float freq, float *c, float *s)
{
    const float angle = (float)pos * freq;
    *c = (float)cos((double)angle);
    *s = (float)sin((double)angle);
}

/* The smallest power of two >= x, for normal x > 0 [4.12] */
FORMULA float formula_pow2_ceil(float x)
{
    union { float f; uint32_t u; } v;
    v.f = x;
    v.u = (v.u + 0x7fffffu) & 0xff800000u;
    return v.f;
}

/* Nearest E4M3 value (bias 7, largest 448, subnormal step 2^-9), ties to the even
 * mantissa. |x| must be at most 448; NaN stays NaN, of which a card's, all ones, would carry into the sign. */
FORMULA float formula_round_e4m3(float x)
{
    const float a = fabsf(x);
    if (!(a <= 448.0f)) return x;
    if (a < 0.015625f)                              /* below 2^-6: steps of 2^-9 */
        return copysignf(rintf(a * 512.0f) * 0.001953125f, x);
    union { float f; uint32_t u; } v;               /* keep three mantissa bits   */
    v.f = a;
    v.u += 0x7ffffu + ((v.u >> 20) & 1u);
    v.u &= 0xfff00000u;
    return copysignf(v.f, x);
}

/* Nearest of 0 .5 1 1.5 2 3 4 6, ties to the even code. |x| must be at most 6. */
FORMULA float formula_round_e2m1(float x)
{
    const float a = fabsf(x);
    const float r = a < 2.0f ? rintf(a * 2.0f) * 0.5f
                  : a < 4.0f ? rintf(a)
                  : rintf(a * 0.5f) * 2.0f;
    return copysignf(r, x);
}

/* The quantise-dequantise scale of a block with largest magnitude amax [4.12] */
FORMULA float formula_fp8_scale(float amax)
{
    const float floor_amax = 1e-4f;
    return formula_pow2_ceil((amax > floor_amax ? amax : floor_amax) * (1.0f / 448.0f));
}

FORMULA float formula_fp4_scale(float amax)
{
    const float floor_amax = 6.0f * 1.17549435e-38f;
    return formula_pow2_ceil((amax > floor_amax ? amax : floor_amax) * (1.0f / 6.0f));
}

FORMULA float formula_clamp(float x, float limit)
{
    return x > limit ? limit : x < -limit ? -limit : x;
}

#endif
