/* formats: what the files of this module share. Private to src/quant. */
#ifndef QUANT_FORMATS_H
#define QUANT_FORMATS_H

#include <math.h>
#include <stddef.h>
#include "quant/blocks.h"
#include "quant/float_formats.h"
#include "quant/quant.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "block formats are read in place: a little-endian machine is needed"
#endif

/* One row of the type table each; defined in the file of its family. */
extern const quant_info
    quant_f32, quant_f16, quant_bf16,                                               /* plain.c   */
    quant_q4_0, quant_q4_1, quant_q5_0, quant_q5_1, quant_q8_0, quant_q8_1,         /* q32.c     */
    quant_q2_k, quant_q3_k, quant_q4_k, quant_q5_k, quant_q6_k, quant_q8_k,         /* kquants.c */
    quant_iq2_xxs, quant_iq2_xs, quant_iq2_s, quant_iq3_xxs, quant_iq3_s,           /* iquants.c */
    quant_iq1_s,                                                                    /* iq1.c     */
    quant_iq4_nl, quant_iq4_xs,                                                     /* iq4.c     */
    quant_mxfp4, quant_nvfp4;                                                       /* fp4.c     */

/* Every format has one encoder, NAME_encode(dst, src, importance or NULL, n);
 * this makes the function without importance from it. */
#define FROM_FLOAT_WITHOUT_IMPORTANCE(name)                                     \
    static void name##_from_float(void *dst, const float *src, int64_t n)       \
    { name##_encode(dst, src, NULL, n); }

/* Nearest integer, ties to even, for |v| < 2^22: at 1.5 * 2^23 floats have no
 * fraction bits, so the addition rounds. */
static inline int round_even(float v)
{
    return (int)((v + 12582912.0f) - 12582912.0f);
}

/* round_even limited to lo..hi; total: NaN gives lo, infinities an end. */
static inline int level_of(float v, int lo, int hi)
{
    if (!(v > (float)lo)) return lo;
    if (v >= (float)hi) return hi;
    return round_even(v);
}

/* v without its fraction, limited to 0..hi; total. */
static inline int truncated(float v, int hi)
{
    if (!(v > 0.0f)) return 0;
    return v >= (float)hi ? hi : (int)v;
}

/* a/d, but 0 where d is 0 or so small that the quotient is not finite. */
static inline float quotient(float a, float d)
{
    const float r = a / d;
    return r - r == 0.0f ? r : 0.0f;
}

static inline float inverse(float d)
{
    return quotient(1.0f, d);
}

static inline float mean_square(const float *x, int64_t n)
{
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sum / (float)n;
}

/* Weights of n elements with importance: the column's, raised where the element
 * is large. s2 is a mean square, times what the format says. */
static inline void importance_weights(float *w, const float *x, const float *importance, float s2,
                                      int n)
{
    for (int e = 0; e < n; e++) w[e] = importance[e] * sqrtf(s2 + x[e] * x[e]);
}

/* The element of greatest magnitude with its sign; the first one if several. */
static inline float signed_max(const float *x, int n)
{
    float best = 0.0f, a = 0.0f;
    for (int i = 0; i < n; i++) {
        const float m = x[i] < 0.0f ? -x[i] : x[i];
        if (m > a) { a = m; best = x[i]; }
    }
    return best;
}

static inline int32_t dot_i8(const int8_t *a, const int8_t *b, int n)
{
    int32_t sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

#endif
