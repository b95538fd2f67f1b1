/* ref: the scalar definitions that every instruction set is held to.
 *
 * Block formats are defined in quant; this file only gives their functions the
 * shape of the table. Float sums are in double, in order of the index. */
#include "kernels/cpu/cpu_kernels.h"
#include "quant/float_formats.h"

/* One function per weight type, since the table of quant takes other integers. */
#define REF_DOT(name, type)                                                     \
    static float dot_##name(const void *restrict w, const void *restrict x, int n) \
    { return quant_get(type)->dot(w, x, n); }

REF_DOT(row_f32, QUANT_F32)     REF_DOT(row_f16, QUANT_F16)     REF_DOT(row_bf16, QUANT_BF16)
REF_DOT(q4_0, QUANT_Q4_0)       REF_DOT(q4_1, QUANT_Q4_1)
REF_DOT(q5_0, QUANT_Q5_0)       REF_DOT(q5_1, QUANT_Q5_1)       REF_DOT(q8_0, QUANT_Q8_0)
REF_DOT(q2_k, QUANT_Q2_K)       REF_DOT(q3_k, QUANT_Q3_K)       REF_DOT(q4_k, QUANT_Q4_K)
REF_DOT(q5_k, QUANT_Q5_K)       REF_DOT(q6_k, QUANT_Q6_K)
REF_DOT(iq1_s, QUANT_IQ1_S)     REF_DOT(iq2_xxs, QUANT_IQ2_XXS) REF_DOT(iq2_xs, QUANT_IQ2_XS)
REF_DOT(iq2_s, QUANT_IQ2_S)     REF_DOT(iq3_xxs, QUANT_IQ3_XXS) REF_DOT(iq3_s, QUANT_IQ3_S)
REF_DOT(iq4_nl, QUANT_IQ4_NL)   REF_DOT(iq4_xs, QUANT_IQ4_XS)
REF_DOT(mxfp4, QUANT_MXFP4)     REF_DOT(nvfp4, QUANT_NVFP4)

static void quantise_q8_0(void *restrict dst, const float *restrict src, int n)
{
    quant_get(QUANT_Q8_0)->from_float(dst, src, n);
    activation_fill_planes(dst, QUANT_Q8_0, n);
}

static void quantise_q8_1(void *restrict dst, const float *restrict src, int n)
{
    quant_get(QUANT_Q8_1)->from_float(dst, src, n);
    activation_fill_planes(dst, QUANT_Q8_1, n);
}

static void quantise_q8_k(void *restrict dst, const float *restrict src, int n)
{
    quant_get(QUANT_Q8_K)->from_float(dst, src, n);
}

/* One dot product after another, by whatever rung has the type's. */
#define REF_TILE(name, type)                                                                \
    static void tile_##name(const cpu_kernels *k, const tile_args *a)                       \
    {                                                                                       \
        for (int r = 0; r < a->rows; r++)                                                   \
            for (int c = 0; c < a->batch; c++)                                              \
                a->y[(uint64_t)c * a->y_stride + (uint64_t)r] =                             \
                    k->dot[type](a->w + (uint64_t)r * a->w_stride, a->x[c], a->n);          \
    }

REF_TILE(row_f32, QUANT_F32)            REF_TILE(row_f16, QUANT_F16)
REF_TILE(row_bf16, QUANT_BF16)          REF_TILE(q4_0, QUANT_Q4_0)
REF_TILE(q4_1, QUANT_Q4_1)              REF_TILE(q5_0, QUANT_Q5_0)
REF_TILE(q5_1, QUANT_Q5_1)              REF_TILE(q8_0, QUANT_Q8_0)
REF_TILE(q2_k, QUANT_Q2_K)              REF_TILE(q3_k, QUANT_Q3_K)
REF_TILE(q4_k, QUANT_Q4_K)              REF_TILE(q5_k, QUANT_Q5_K)
REF_TILE(q6_k, QUANT_Q6_K)              REF_TILE(iq1_s, QUANT_IQ1_S)
REF_TILE(iq2_xxs, QUANT_IQ2_XXS)        REF_TILE(iq2_xs, QUANT_IQ2_XS)
REF_TILE(iq2_s, QUANT_IQ2_S)            REF_TILE(iq3_xxs, QUANT_IQ3_XXS)
REF_TILE(iq3_s, QUANT_IQ3_S)            REF_TILE(iq4_nl, QUANT_IQ4_NL)
REF_TILE(iq4_xs, QUANT_IQ4_XS)          REF_TILE(mxfp4, QUANT_MXFP4)
REF_TILE(nvfp4, QUANT_NVFP4)

static float dot_f32(const float *restrict a, const float *restrict b, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return (float)sum;
}

static double sum_squares(const float *restrict x, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

static void axpy_f32(float *restrict y, float a, const float *restrict x, int n)
{
    for (int i = 0; i < n; i++) y[i] += a * x[i];
}

void cpu_kernels_ref(cpu_kernels *k)
{
    *k = (cpu_kernels){
        .tile = {
            [QUANT_F32] = tile_row_f32,         [QUANT_F16] = tile_row_f16,         [QUANT_BF16] = tile_row_bf16,
            [QUANT_Q4_0] = tile_q4_0,           [QUANT_Q4_1] = tile_q4_1,           [QUANT_Q5_0] = tile_q5_0,
            [QUANT_Q5_1] = tile_q5_1,           [QUANT_Q8_0] = tile_q8_0,           [QUANT_Q2_K] = tile_q2_k,
            [QUANT_Q3_K] = tile_q3_k,           [QUANT_Q4_K] = tile_q4_k,           [QUANT_Q5_K] = tile_q5_k,
            [QUANT_Q6_K] = tile_q6_k,           [QUANT_IQ1_S] = tile_iq1_s,         [QUANT_IQ2_XXS] = tile_iq2_xxs,
            [QUANT_IQ2_XS] = tile_iq2_xs,       [QUANT_IQ2_S] = tile_iq2_s,         [QUANT_IQ3_XXS] = tile_iq3_xxs,
            [QUANT_IQ3_S] = tile_iq3_s,         [QUANT_IQ4_NL] = tile_iq4_nl,       [QUANT_IQ4_XS] = tile_iq4_xs,
            [QUANT_MXFP4] = tile_mxfp4,         [QUANT_NVFP4] = tile_nvfp4,
        },
        .dot = {
            [QUANT_F32] = dot_row_f32,     [QUANT_F16] = dot_row_f16,     [QUANT_BF16] = dot_row_bf16,
            [QUANT_Q4_0] = dot_q4_0,       [QUANT_Q4_1] = dot_q4_1,
            [QUANT_Q5_0] = dot_q5_0,       [QUANT_Q5_1] = dot_q5_1,       [QUANT_Q8_0] = dot_q8_0,
            [QUANT_Q2_K] = dot_q2_k,       [QUANT_Q3_K] = dot_q3_k,       [QUANT_Q4_K] = dot_q4_k,
            [QUANT_Q5_K] = dot_q5_k,       [QUANT_Q6_K] = dot_q6_k,
            [QUANT_IQ1_S] = dot_iq1_s,     [QUANT_IQ2_XXS] = dot_iq2_xxs, [QUANT_IQ2_XS] = dot_iq2_xs,
            [QUANT_IQ2_S] = dot_iq2_s,     [QUANT_IQ3_XXS] = dot_iq3_xxs, [QUANT_IQ3_S] = dot_iq3_s,
            [QUANT_IQ4_NL] = dot_iq4_nl,   [QUANT_IQ4_XS] = dot_iq4_xs,
            [QUANT_MXFP4] = dot_mxfp4,     [QUANT_NVFP4] = dot_nvfp4,
        },
        .quantise = {
            [QUANT_Q8_0] = quantise_q8_0,  [QUANT_Q8_1] = quantise_q8_1,  [QUANT_Q8_K] = quantise_q8_k,
        },
        .dot_f32 = dot_f32,
        .sum_squares = sum_squares,
        .axpy_f32 = axpy_f32,
    };
    attn_kernels_ref(&k->attn);
}
