/* float_formats: the small floating-point formats, one value at a time.
 *
 * Plain integer arithmetic in the subset that C11, CUDA and Metal accept: no
 * pointers, no libm, no tables. Every function is total: any bits in, a
 * defined value out. Any thread. */
#ifndef QUANT_FLOAT_FORMATS_H
#define QUANT_FLOAT_FORMATS_H

#if defined(__METAL_VERSION__)
#define FLOAT_FN static inline
FLOAT_FN uint32_t float_bits(float f)              { return as_type<uint32_t>(f); }
FLOAT_FN float    float_from_bits(uint32_t bits)   { return as_type<float>(bits); }
#else
#include <stdint.h>
#include <string.h>
#if defined(__CUDACC__)
#define FLOAT_FN static inline __host__ __device__
#else
#define FLOAT_FN static inline
#endif
FLOAT_FN uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}
FLOAT_FN float float_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
#endif

/* ---- binary16 (IEEE 754): sign 1, exponent 5 (bias 15), mantissa 10 ------ */

FLOAT_FN float half_to_float(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;

    if (exponent == 0) {                            /* zero, subnormal: mantissa * 2^-24 */
        const float v = (float)mantissa * 5.9604644775390625e-8f;
        return float_from_bits(float_bits(v) | sign);
    }
    if (exponent == 31)                             /* infinity, NaN */
        return float_from_bits(sign | 0x7f800000u | mantissa << 13);
    return float_from_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
}

/* Nearest, ties to even; beyond 65504 + half a step infinity. */
FLOAT_FN uint16_t float_to_half(float f)
{
    const uint32_t bits = float_bits(f);
    const uint32_t sign = (bits >> 16) & 0x8000u, a = bits & 0x7fffffffu;

    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x47800000u) return (uint16_t)(sign | 0x7c00u);            /* >= 65536 */
    if (a < 0x38800000u) {      /* < 2^-14: 0.5 has steps of 2^-24, so adding it rounds */
        const float v = float_from_bits(a) + 0.5f;
        return (uint16_t)(sign | (float_bits(v) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13));
}

/* ---- bfloat16: the upper half of binary32 -------------------------------- */

FLOAT_FN float bf16_to_float(uint16_t b)
{
    return float_from_bits((uint32_t)b << 16);
}

FLOAT_FN uint16_t float_to_bf16(float f)
{
    const uint32_t bits = float_bits(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 64u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* ---- E4M3, finite flavour: sign 1, exponent 4 (bias 7), mantissa 3 ------- *
 * No infinities; 7f and ff are NaN; largest 448; subnormals in steps of 2^-9. */

FLOAT_FN float e4m3_to_float(uint8_t c)
{
    const uint32_t sign = (uint32_t)(c & 0x80u) << 24;
    const uint32_t exponent = (c >> 3) & 15u, mantissa = c & 7u;

    if ((c & 0x7fu) == 0x7fu) return float_from_bits(sign | 0x7fc00000u);
    if (exponent == 0)
        return float_from_bits(float_bits((float)mantissa * 0.001953125f) | sign);
    return float_from_bits(sign | (exponent + 120u) << 23 | mantissa << 20);
}

/* Nearest, ties to even mantissa; magnitudes above 448 become 448. */
FLOAT_FN uint8_t float_to_e4m3(float f)
{
    const uint32_t bits = float_bits(f);
    const uint32_t sign = (bits >> 24) & 0x80u, a = bits & 0x7fffffffu;

    if (a > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
    if (a >= 0x43e00000u) return (uint8_t)(sign | 0x7eu);               /* >= 448 */
    if (a < 0x3c800000u) {      /* < 2^-6: 2^14 has steps of 2^-9, so adding it rounds */
        const float v = float_from_bits(a) + 16384.0f;
        return (uint8_t)(sign | (float_bits(v) - 0x46800000u));
    }
    return (uint8_t)(sign | ((a - 0x3c000000u + 0x7ffffu + ((a >> 20) & 1u)) >> 20));
}

/* ---- unsigned E4M3, the block scale of NVFP4 ----------------------------- */

FLOAT_FN float ue4m3_to_float(uint8_t c)
{
    return (c & 0x7fu) == 0x7fu ? 0.0f : e4m3_to_float((uint8_t)(c & 0x7fu));
}

/* Half a step rounds up; subnormals never round up into the normal range. */
FLOAT_FN uint8_t float_to_ue4m3(float f)
{
    if (!(f > 0.0f)) return 0;
    if (f >= 448.0f) return 0x7e;

    const uint32_t a = float_bits(f);
    if (a < 0x3c800000u) {
        const uint32_t mantissa = (uint32_t)(f * 512.0f + 0.5f);
        return (uint8_t)(mantissa > 7u ? 7u : mantissa);
    }
    const uint32_t c = (a - 0x3c000000u + 0x80000u) >> 20;
    return (uint8_t)(c > 0x7eu ? 0x7eu : c);
}

/* ---- E8M0: a power of two, 2^(e-127); 255 is NaN ------------------------- */

FLOAT_FN float e8m0_to_float(uint8_t e)
{
    if (e == 255) return float_from_bits(0x7fc00000u);
    return float_from_bits(e == 0 ? 0x00400000u : (uint32_t)e << 23);
}

/* Half of it, 2^(e-128): the scale that goes with doubled E2M1 values. */
FLOAT_FN float e8m0_to_float_halved(uint8_t e)
{
    if (e == 255) return float_from_bits(0x7fc00000u);
    return float_from_bits(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

/* ---- E2M1: sign 1, exponent 2, mantissa 1 -------------------------------- *
 * Codes 0..7 are 0 0.5 1 1.5 2 3 4 6; bit 3 is the sign. */

/* Twice the value, always a whole number. */
FLOAT_FN int e2m1_doubled(int code)
{
    const int c = code & 7;
    const int v = c < 4 ? c : (2 + (c & 1)) << ((c >> 1) - 1);
    return (code & 8) ? -v : v;
}

FLOAT_FN float e2m1_to_float(int code)
{
    const float v = 0.5f * (float)e2m1_doubled(code & 7);
    return (code & 8) ? -v : v;
}

/* Nearest, a tie goes to the even code; magnitudes above 6 become 6. */
FLOAT_FN int float_to_e2m1(float f)
{
    const float a = float_from_bits(float_bits(f) & 0x7fffffffu);
    const int code = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f)
                   + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
    return code | (int)((float_bits(f) >> 28) & 8u);
}

/* ---- scales --------------------------------------------------------------- */

/* The smallest power of two >= x, for x > 0 (P(x) of the activation rounding:
 * next exponent unless the mantissa is zero). */
FLOAT_FN float pow2_ceil(float x)
{
    return float_from_bits((float_bits(x) + 0x007fffffu) & 0x7f800000u);
}

#endif
