#include "quant/quant.h"

#include "base/checked.h"
#include "base/status.h"
#include "quant/formats.h"

/* Types that only have a size here: tables of numbers, and block formats that
 * no file of this model uses. */
#define SIZE_ONLY(id, text, len, bytes) \
    static const quant_info size_##id = { .name = text, .block_len = len, .block_bytes = bytes, \
                                          .dot_type = QUANT_F32 };
SIZE_ONLY(i8,    "I8",    1,   1)
SIZE_ONLY(i16,   "I16",   1,   2)
SIZE_ONLY(i32,   "I32",   1,   4)
SIZE_ONLY(i64,   "I64",   1,   8)
SIZE_ONLY(f64,   "F64",   1,   8)
SIZE_ONLY(iq1_m, "IQ1_M", 256, 56)
SIZE_ONLY(tq1_0, "TQ1_0", 256, 54)
SIZE_ONLY(tq2_0, "TQ2_0", 256, 66)
SIZE_ONLY(q1_0,  "Q1_0",  128, 18)
SIZE_ONLY(q2_0,  "Q2_0",  64,  18)

static const quant_info *const table[QUANT_COUNT] = {
    [QUANT_F32] = &quant_f32,         [QUANT_F16] = &quant_f16,         [QUANT_BF16] = &quant_bf16,
    [QUANT_Q4_0] = &quant_q4_0,       [QUANT_Q4_1] = &quant_q4_1,
    [QUANT_Q5_0] = &quant_q5_0,       [QUANT_Q5_1] = &quant_q5_1,
    [QUANT_Q8_0] = &quant_q8_0,       [QUANT_Q8_1] = &quant_q8_1,       [QUANT_Q8_K] = &quant_q8_k,
    [QUANT_Q2_K] = &quant_q2_k,       [QUANT_Q3_K] = &quant_q3_k,       [QUANT_Q4_K] = &quant_q4_k,
    [QUANT_Q5_K] = &quant_q5_k,       [QUANT_Q6_K] = &quant_q6_k,
    [QUANT_IQ1_S] = &quant_iq1_s,     [QUANT_IQ2_XXS] = &quant_iq2_xxs, [QUANT_IQ2_XS] = &quant_iq2_xs,
    [QUANT_IQ2_S] = &quant_iq2_s,     [QUANT_IQ3_XXS] = &quant_iq3_xxs, [QUANT_IQ3_S] = &quant_iq3_s,
    [QUANT_IQ4_NL] = &quant_iq4_nl,   [QUANT_IQ4_XS] = &quant_iq4_xs,
    [QUANT_MXFP4] = &quant_mxfp4,     [QUANT_NVFP4] = &quant_nvfp4,
    [QUANT_I8] = &size_i8,            [QUANT_I16] = &size_i16,          [QUANT_I32] = &size_i32,
    [QUANT_I64] = &size_i64,          [QUANT_F64] = &size_f64,          [QUANT_IQ1_M] = &size_iq1_m,
    [QUANT_TQ1_0] = &size_tq1_0,      [QUANT_TQ2_0] = &size_tq2_0,
    [QUANT_Q1_0] = &size_q1_0,        [QUANT_Q2_0] = &size_q2_0,
};

const quant_info *quant_get(uint32_t type)
{
    return type < QUANT_COUNT ? table[type] : NULL;
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool same_name(const char *a, const char *b)
{
    while (*a && lower(*a) == lower(*b)) a++, b++;
    return *a == *b;
}

quant_type quant_by_name(const char *name)
{
    for (uint32_t t = 0; t < QUANT_COUNT; t++)
        if (table[t] && same_name(table[t]->name, name)) return (quant_type)t;
    return QUANT_COUNT;
}

bool quant_row_bytes(quant_type type, uint64_t n, uint64_t *bytes)
{
    const quant_info *q = quant_get((uint32_t)type);
    if (!q || n % (uint64_t)q->block_len) return false;
    return checked_mul_u64(n / (uint64_t)q->block_len, (uint64_t)q->block_bytes, bytes);
}

static int64_t first_not_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) if (x[i] - x[i] != 0.0f) return i;
    return n;
}

/* A scale that left its range decodes to infinity or NaN somewhere in its block. */
static int64_t first_not_decodable(const quant_info *q, const uint8_t *row, int64_t n)
{
    float x[QK];        /* a whole number of blocks of every type */
    for (int64_t at = 0; at < n; at += QK) {
        const int64_t m = min_i64(QK, n - at);
        q->to_float(x, row + at / q->block_len * q->block_bytes, m);
        const int64_t bad = first_not_finite(x, m);
        if (bad < m) return at + bad;
    }
    return n;
}

ds4_status quant_encode_row(quant_type type, void *dst, const float *src, const float *importance,
                            int64_t n, ds4_error *err)
{
    const quant_info *q = quant_get((uint32_t)type);
    if (!q || !q->from_float_weighted)
        return ds4_fail(err, DS4_EUNSUPPORTED, "type %s can not be encoded", q ? q->name : "(unknown)");
    if (n < 0 || n % q->block_len)
        return ds4_fail(err, DS4_EARG, "a row of %lld is not a multiple of %d, the block of %s",
                        (long long)n, q->block_len, q->name);
    if (!importance && !q->from_float)
        return ds4_fail(err, DS4_EARG, "type %s needs an importance vector", q->name);

    int64_t bad = first_not_finite(src, n);
    if (bad < n)
        return ds4_fail(err, DS4_EFORMAT, "column %lld is not a finite number", (long long)bad);
    for (int64_t i = 0; importance && i < n; i++)
        if (!(importance[i] >= 0.0f) || importance[i] - importance[i] != 0.0f)
            return ds4_fail(err, DS4_EARG, "the importance of column %lld is %g", (long long)i,
                            (double)importance[i]);

    q->from_float_weighted(dst, src, importance, n);
    bad = first_not_decodable(q, dst, n);
    if (bad < n)
        return ds4_fail(err, DS4_EFORMAT, "column %lld exceeds the range of %s",
                        (long long)bad, q->name);
    return DS4_OK;
}
