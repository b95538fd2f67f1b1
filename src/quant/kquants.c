/* kquants: super-blocks of 256 with integer scales for groups inside, and Q8_K
 * for activations.
 *
 *   Q2_K, Q4_K, Q5_K   x = (d*s) * code - (dmin*o)    per group: scale s, offset o
 *   Q3_K, Q6_K         x = d*s * code                 signed s and code
 *
 * A block is unpacked into codes and group numbers first; decoding and the dot
 * product then read like the formulas. */
#include <math.h>
#include <string.h>
#include "quant/formats.h"
#include "quant/search.h"

/* A block, its fields spread out. */
typedef struct {
    int8_t code[QK];
    int    scale[16], offset[16];       /* per group */
} unpacked;

/* What an encoder chooses before packing. */
typedef struct {
    uint8_t code[QK];
    uint8_t scale[16], offset[16];
} choice;

/* ---- unpacking ------------------------------------------------------------- */

/* 2-bit codes of Q2_K and Q3_K: element e = 128h + 32q + p is in bits 2q of
 * byte 32h + p. */
static void unpack_2bit(int8_t code[QK], const uint8_t bytes[64])
{
    for (int e = 0; e < QK; e++)
        code[e] = (int8_t)(bytes[e / 128 * 32 + e % 32] >> e % 128 / 32 * 2 & 3);
}

/* 4-bit codes of Q4_K and Q5_K: element e = 64c + 32h + p is nibble h of byte
 * 32c + p. */
static void unpack_4bit(int8_t code[QK], const uint8_t bytes[128])
{
    for (int e = 0; e < QK; e++)
        code[e] = (int8_t)(bytes[e / 64 * 32 + e % 32] >> e % 64 / 32 * 4 & 15);
}

/* Q4_K, Q5_K: eight 6-bit scales s and offsets o in 12 bytes:
 *
 *   bytes 0..3    s0..s3, and above them the high two bits of s4..s7
 *   bytes 4..7    o0..o3, and above them the high two bits of o4..o7
 *   bytes 8..11   low four bits of s4..s7, and above them those of o4..o7 */
static void unpack_6bit(const uint8_t b[12], int s[8], int o[8])
{
    for (int g = 0; g < 4; g++) {
        s[g] = b[g] & 63;
        o[g] = b[g + 4] & 63;
        s[g + 4] = (b[g + 8] & 15) | (b[g] >> 6) << 4;
        o[g + 4] = (b[g + 8] >> 4) | (b[g + 4] >> 6) << 4;
    }
}

static void pack_6bit(uint8_t b[12], const uint8_t s[8], const uint8_t o[8])
{
    for (int g = 0; g < 4; g++) {
        b[g] = (uint8_t)(s[g] | s[g + 4] >> 4 << 6);
        b[g + 4] = (uint8_t)(o[g] | o[g + 4] >> 4 << 6);
        b[g + 8] = (uint8_t)((s[g + 4] & 15) | (o[g + 4] & 15) << 4);
    }
}

/* Groups of 16; scale in the low nibble, offset in the high. */
static void unpack_q2_k(unpacked *u, const block_q2_k *b)
{
    unpack_2bit(u->code, b->codes);
    for (int g = 0; g < 16; g++) {
        u->scale[g] = b->scales[g] & 15;
        u->offset[g] = b->scales[g] >> 4;
    }
}

/* Groups of 16. Bit e/32 of high[e%32] set: code, else code - 4. The 6-bit
 * scale, stored plus 32: low nibbles in bytes 0..7 (g and g+8), high two bits
 * of g in bits 2(g/4) of byte 8 + g%4. */
static void unpack_q3_k(unpacked *u, const block_q3_k *b)
{
    unpack_2bit(u->code, b->codes);
    for (int e = 0; e < QK; e++)
        if (!(b->high[e % 32] >> e / 32 & 1)) u->code[e] = (int8_t)(u->code[e] - 4);
    for (int g = 0; g < 16; g++) {
        const int low = g < 8 ? b->scales[g] & 15 : b->scales[g - 8] >> 4;
        const int high = b->scales[8 + g % 4] >> g / 4 * 2 & 3;
        u->scale[g] = (low | high << 4) - 32;
    }
}

/* Groups of 32. */
static void unpack_q4_k(unpacked *u, const block_q4_k *b)
{
    unpack_4bit(u->code, b->codes);
    unpack_6bit(b->scales, u->scale, u->offset);
}

/* Groups of 32; the fifth bit of element e is bit e/32 of high[e%32]. */
static void unpack_q5_k(unpacked *u, const block_q5_k *b)
{
    unpack_4bit(u->code, b->codes);
    for (int e = 0; e < QK; e++)
        u->code[e] = (int8_t)(u->code[e] + 16 * (b->high[e % 32] >> e / 32 & 1));
    unpack_6bit(b->scales, u->scale, u->offset);
}

/* Groups of 16. Element e = 128h + 32k + p: low four bits in nibble k/2 of
 * low[64h + 32(k%2) + p], high two in bits 2k of high[32h + p]; stored plus 32. */
static void unpack_q6_k(unpacked *u, const block_q6_k *b)
{
    for (int e = 0; e < QK; e++) {
        const int h = e / 128, k = e % 128 / 32, p = e % 32;
        const int low = b->low[64 * h + 32 * (k % 2) + p] >> k / 2 * 4 & 15;
        const int high = b->high[32 * h + p] >> 2 * k & 3;
        u->code[e] = (int8_t)((low | high << 4) - 32);
    }
    for (int g = 0; g < 16; g++) u->scale[g] = b->scales[g];
}

/* ---- the two formulas ------------------------------------------------------- */

static void decode_affine(float *dst, const unpacked *u, int group, float d, float dmin)
{
    for (int e = 0; e < QK; e++) {
        const int g = e / group;
        dst[e] = d * (float)u->scale[g] * (float)u->code[e] - dmin * (float)u->offset[g];
    }
}

static void decode_signed(float *dst, const unpacked *u, int group, float d)
{
    for (int e = 0; e < QK; e++)
        dst[e] = d * (float)u->scale[e / group] * (float)u->code[e];
}

/* sum_g s_g * sum code*a */
static int32_t scaled_dot(const unpacked *u, int group, const block_q8_k *a)
{
    int32_t sum = 0;
    for (int g = 0; g < QK / group; g++)
        sum += u->scale[g] * dot_i8(u->code + g * group, a->codes + g * group, group);
    return sum;
}

/* sum_g o_g * sum a, from the sums of 16 that came with the activation */
static int32_t offset_dot(const unpacked *u, int group, const block_q8_k *a)
{
    int32_t sum = 0;
    for (int i = 0; i < 16; i++) sum += u->offset[i * 16 / group] * a->sums[i];
    return sum;
}

/* D*[scaled] - M*[offsets] with D = d_a*d, M = d_a*dmin */
static float dot_affine(const unpacked *u, int group, float d, float dmin, const block_q8_k *a)
{
    return a->d * d * (float)scaled_dot(u, group, a) - a->d * dmin * (float)offset_dot(u, group, a);
}

/* The functions of one affine type, and of one signed type. */
#define AFFINE_TYPE(type, group)                                                        \
    static void type##_to_float(float *dst, const void *src, int64_t n)                 \
    {                                                                                   \
        const block_##type *b = src;                                                    \
        unpacked u;                                                                     \
        for (int64_t i = 0; i < n / QK; i++) {                                          \
            unpack_##type(&u, &b[i]);                                                   \
            decode_affine(dst + i * QK, &u, group, half_to_float(b[i].d),               \
                          half_to_float(b[i].dmin));                                    \
        }                                                                               \
    }                                                                                   \
    static float type##_dot(const void *w, const void *x, int64_t n)                    \
    {                                                                                   \
        const block_##type *b = w;                                                      \
        const block_q8_k *a = x;                                                        \
        float sum = 0.0f;                                                               \
        unpacked u;                                                                     \
        for (int64_t i = 0; i < n / QK; i++) {                                          \
            unpack_##type(&u, &b[i]);                                                   \
            sum += dot_affine(&u, group, half_to_float(b[i].d),                         \
                              half_to_float(b[i].dmin), &a[i]);                         \
        }                                                                               \
        return sum;                                                                     \
    }

#define SIGNED_TYPE(type, group)                                                        \
    static void type##_to_float(float *dst, const void *src, int64_t n)                 \
    {                                                                                   \
        const block_##type *b = src;                                                    \
        unpacked u;                                                                     \
        for (int64_t i = 0; i < n / QK; i++) {                                          \
            unpack_##type(&u, &b[i]);                                                   \
            decode_signed(dst + i * QK, &u, group, half_to_float(b[i].d));              \
        }                                                                               \
    }                                                                                   \
    static float type##_dot(const void *w, const void *x, int64_t n)                    \
    {                                                                                   \
        const block_##type *b = w;                                                      \
        const block_q8_k *a = x;                                                        \
        float sum = 0.0f;                                                               \
        unpacked u;                                                                     \
        for (int64_t i = 0; i < n / QK; i++) {                                          \
            unpack_##type(&u, &b[i]);                                                   \
            sum += a[i].d * half_to_float(b[i].d) * (float)scaled_dot(&u, group, &a[i]);\
        }                                                                               \
        return sum;                                                                     \
    }

AFFINE_TYPE(q2_k, 16)
SIGNED_TYPE(q3_k, 16)
AFFINE_TYPE(q4_k, 32)
AFFINE_TYPE(q5_k, 32)
SIGNED_TYPE(q6_k, 16)

/* ---- choosing codes ---------------------------------------------------------- */

static float sum_of(const float *x, int n)
{
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += x[i];
    return sum;
}

static float largest(const float *x, int n)
{
    float best = 0.0f;
    for (int i = 0; i < n; i++) if (x[i] > best) best = x[i];
    return best;
}

/* Integer scales 0..top for the group scales x >= 0; returns d. */
static float whole_scales(const float *x, int groups, int top, uint8_t *out)
{
    const float best = largest(x, groups), s = quotient((float)top, best);
    for (int g = 0; g < groups; g++) out[g] = (uint8_t)level_of(s * x[g], 0, top);
    return best / (float)top;
}

typedef struct {
    int         group;              /* elements of a group                         */
    int         top, scale_top;     /* largest code; largest scale and offset      */
    affine_grid plain, weighted;    /* candidates without and with importance      */
    float       s2_factor;          /* times the mean square, with importance      */
    int         rms_weights;        /* without importance: rms + |x|, else |x|     */
} affine_plan;

static void plain_weights(float *w, const float *x, const affine_plan *p)
{
    const float rms = p->rms_weights ? sqrtf(mean_square(x, p->group)) : 0.0f;
    for (int e = 0; e < p->group; e++) w[e] = rms + fabsf(x[e]);
}

/* Codes, scales, offsets and the two half-precision factors of one block. */
static void choose_affine(choice *c, uint16_t *d, uint16_t *dmin, const float *x,
                          const float *importance, const affine_plan *p)
{
    const int groups = QK / p->group;
    const float s2 = importance ? p->s2_factor * mean_square(x, QK) : 0.0f;
    float scale[16], offset[16], total[16], w[SEARCH_MAX];

    for (int g = 0; g < groups; g++) {
        const int at = g * p->group;
        if (importance) importance_weights(w, x + at, importance + at, s2, p->group);
        else plain_weights(w, x + at, p);
        total[g] = sum_of(w, p->group);
        scale[g] = search_affine(p->group, p->top, x + at, w, importance ? p->weighted : p->plain,
                                 c->code + at, &offset[g]);
    }
    if (importance) {
        *d = float_to_half(search_positive(groups, p->scale_top, scale, total, c->scale));
        *dmin = float_to_half(search_positive(groups, p->scale_top, offset, total, c->offset));
    } else {
        *d = float_to_half(whole_scales(scale, groups, p->scale_top, c->scale));
        *dmin = float_to_half(whole_scales(offset, groups, p->scale_top, c->offset));
    }

    /* Once more with the scales as they are stored. */
    for (int e = 0; e < QK; e++) {
        const int g = e / p->group;
        const float step = half_to_float(*d) * (float)c->scale[g];
        const float low = half_to_float(*dmin) * (float)c->offset[g];
        if (step != 0.0f) c->code[e] = (uint8_t)level_of((x[e] + low) / step, 0, p->top);
    }
}

static void pack_2bit(uint8_t bytes[64], const uint8_t code[QK])
{
    memset(bytes, 0, 64);
    for (int e = 0; e < QK; e++)
        bytes[e / 128 * 32 + e % 32] |= (uint8_t)((code[e] & 3) << e % 128 / 32 * 2);
}

static void pack_4bit(uint8_t bytes[128], const uint8_t code[QK])
{
    memset(bytes, 0, 128);
    for (int e = 0; e < QK; e++)
        bytes[e / 64 * 32 + e % 32] |= (uint8_t)((code[e] & 15) << e % 64 / 32 * 4);
}

static void q2_k_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    static const affine_plan plan = {
        .group = 16, .top = 3, .scale_top = 15, .s2_factor = 1.0f, .rms_weights = 0,
        .plain = { -0.5f, 0.1f, 15, 1 }, .weighted = { -0.9f, 0.05f, 36, 0 } };
    block_q2_k *b = dst;
    choice c;
    for (int64_t i = 0; i < n / QK; i++) {
        choose_affine(&c, &b[i].d, &b[i].dmin, src + i * QK,
                      importance ? importance + i * QK : NULL, &plan);
        pack_2bit(b[i].codes, c.code);
        for (int g = 0; g < 16; g++) b[i].scales[g] = (uint8_t)(c.scale[g] | c.offset[g] << 4);
    }
}

static void q4_k_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    static const affine_plan plan = {
        .group = 32, .top = 15, .scale_top = 63, .s2_factor = 2.0f, .rms_weights = 1,
        .plain = { -1.0f, 0.1f, 20, 0 }, .weighted = { -0.9f, 0.05f, 36, 0 } };
    block_q4_k *b = dst;
    choice c;
    for (int64_t i = 0; i < n / QK; i++) {
        choose_affine(&c, &b[i].d, &b[i].dmin, src + i * QK,
                      importance ? importance + i * QK : NULL, &plan);
        pack_4bit(b[i].codes, c.code);
        pack_6bit(b[i].scales, c.scale, c.offset);
    }
}

static void q5_k_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    static const affine_plan plan = {
        .group = 32, .top = 31, .scale_top = 63, .s2_factor = 2.0f, .rms_weights = 1,
        .plain = { -0.5f, 0.1f, 15, 0 }, .weighted = { -0.9f, 0.05f, 36, 0 } };
    block_q5_k *b = dst;
    choice c;
    for (int64_t i = 0; i < n / QK; i++) {
        choose_affine(&c, &b[i].d, &b[i].dmin, src + i * QK,
                      importance ? importance + i * QK : NULL, &plan);
        pack_4bit(b[i].codes, c.code);
        pack_6bit(b[i].scales, c.scale, c.offset);
        memset(b[i].high, 0, sizeof b[i].high);
        for (int e = 0; e < QK; e++)
            b[i].high[e % 32] |= (uint8_t)((c.code[e] >> 4) << e / 32);
    }
}

/* Signed codes once more with the scales as they are stored; `half` is the
 * number that is added to a stored code. */
static void recode_signed(uint8_t code[QK], const float *x, float d, const int scale[16], int half)
{
    for (int e = 0; e < QK; e++) {
        const float step = d * (float)scale[e / 16];
        if (step != 0.0f) code[e] = (uint8_t)(level_of(x[e] / step, -half, half - 1) + half);
    }
}

/* Scales -32..31 for the group scales, stored plus 32; returns d. The group of
 * greatest magnitude gets -32; without any the field is 0. */
static float signed_scales(const float group[16], uint8_t stored[16])
{
    const float z = signed_max(group, 16), is = quotient(-32.0f, z);
    if (is == 0.0f) {
        memset(stored, 0, 16);
        return 0.0f;
    }
    for (int g = 0; g < 16; g++) stored[g] = (uint8_t)(level_of(is * group[g], -32, 31) + 32);
    return 1.0f / is;
}

static void pack_q3_k(block_q3_k *b, const uint8_t code[QK], const uint8_t stored[16])
{
    pack_2bit(b->codes, code);
    memset(b->high, 0, sizeof b->high);
    memset(b->scales, 0, sizeof b->scales);
    for (int e = 0; e < QK; e++) b->high[e % 32] |= (uint8_t)((code[e] >> 2) << e / 32);
    for (int g = 0; g < 16; g++) {
        b->scales[g % 8] |= (uint8_t)((stored[g] & 15) << g / 8 * 4);
        b->scales[8 + g % 4] |= (uint8_t)((stored[g] >> 4) << g / 4 * 2);
    }
}

static void q3_k_block(block_q3_k *b, const float *x, const float *importance)
{
    const float s2 = importance ? 2.0f * mean_square(x, QK) : 0.0f;
    uint8_t code[QK], stored[16];
    float group[16], total[16], w[16];

    for (int g = 0; g < 16; g++) {
        const int at = g * 16;
        if (importance) {
            importance_weights(w, x + at, importance + at, s2, 16);
            total[g] = sum_of(w, 16);
            group[g] = search_symmetric(16, 4, x + at, w, code + at);
        } else {
            group[g] = search_symmetric_descent(16, 4, x + at, code + at);
        }
    }
    b->d = float_to_half(importance ? search_symmetric(16, 32, group, total, stored)
                                    : signed_scales(group, stored));

    int scale[16];
    for (int g = 0; g < 16; g++) scale[g] = stored[g] - 32;
    recode_signed(code, x, half_to_float(b->d), scale, 4);
    pack_q3_k(b, code, stored);
}

static void q3_k_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_q3_k *b = dst;
    for (int64_t i = 0; i < n / QK; i++)
        q3_k_block(&b[i], src + i * QK, importance ? importance + i * QK : NULL);
}

static void pack_q6_k(block_q6_k *b, const uint8_t code[QK])
{
    memset(b->low, 0, sizeof b->low);
    memset(b->high, 0, sizeof b->high);
    for (int e = 0; e < QK; e++) {
        const int h = e / 128, k = e % 128 / 32, p = e % 32;
        b->low[64 * h + 32 * (k % 2) + p] |= (uint8_t)((code[e] & 15) << k / 2 * 4);
        b->high[32 * h + p] |= (uint8_t)((code[e] >> 4) << 2 * k);
    }
}

static void q6_k_block(block_q6_k *b, const float *x, const float *importance)
{
    uint8_t code[QK];
    float group[16];
    int scale[16];

    for (int g = 0; g < 16; g++)
        group[g] = search_symmetric(16, 32, x + g * 16, importance ? importance + g * 16 : NULL,
                                    code + g * 16);
    const float z = signed_max(group, 16);
    if (fabsf(z) < 1e-15f) {
        memset(b, 0, sizeof *b);
        return;
    }
    const float is = -128.0f / z;
    b->d = float_to_half(1.0f / is);
    for (int g = 0; g < 16; g++) {
        scale[g] = level_of(is * group[g], -128, 127);
        b->scales[g] = (int8_t)scale[g];
    }
    recode_signed(code, x, half_to_float(b->d), scale, 32);
    pack_q6_k(b, code);
}

static void q6_k_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    block_q6_k *b = dst;
    for (int64_t i = 0; i < n / QK; i++)
        q6_k_block(&b[i], src + i * QK, importance ? importance + i * QK : NULL);
}

/* ---- Q8_K: activations ------------------------------------------------------- */

static void q8_k_to_float(float *dst, const void *src, int64_t n)
{
    const block_q8_k *b = src;
    for (int64_t i = 0; i < n; i++) dst[i] = b[i / QK].d * (float)b[i / QK].codes[i % QK];
}

/* The element of greatest magnitude becomes -127, so d is negative when that
 * element is positive. */
static void q8_k_encode(void *dst, const float *src, const float *importance, int64_t n)
{
    (void)importance;
    block_q8_k *b = dst;
    for (int64_t i = 0; i < n / QK; i++) {
        const float *x = src + i * QK;
        const float is = quotient(-127.0f, signed_max(x, QK));
        memset(b[i].sums, 0, sizeof b[i].sums);
        for (int e = 0; e < QK; e++) {
            b[i].codes[e] = (int8_t)level_of(is * x[e], -127, 127);
            b[i].sums[e / 16] = (int16_t)(b[i].sums[e / 16] + b[i].codes[e]);
        }
        b[i].d = inverse(is);
    }
}

FROM_FLOAT_WITHOUT_IMPORTANCE(q2_k)
FROM_FLOAT_WITHOUT_IMPORTANCE(q3_k)
FROM_FLOAT_WITHOUT_IMPORTANCE(q4_k)
FROM_FLOAT_WITHOUT_IMPORTANCE(q5_k)
FROM_FLOAT_WITHOUT_IMPORTANCE(q6_k)
FROM_FLOAT_WITHOUT_IMPORTANCE(q8_k)

const quant_info quant_q2_k = { "Q2_K", QK, sizeof(block_q2_k), QUANT_Q8_K,
                                q2_k_to_float, q2_k_from_float, q2_k_encode, q2_k_dot };
const quant_info quant_q3_k = { "Q3_K", QK, sizeof(block_q3_k), QUANT_Q8_K,
                                q3_k_to_float, q3_k_from_float, q3_k_encode, q3_k_dot };
const quant_info quant_q4_k = { "Q4_K", QK, sizeof(block_q4_k), QUANT_Q8_K,
                                q4_k_to_float, q4_k_from_float, q4_k_encode, q4_k_dot };
const quant_info quant_q5_k = { "Q5_K", QK, sizeof(block_q5_k), QUANT_Q8_K,
                                q5_k_to_float, q5_k_from_float, q5_k_encode, q5_k_dot };
const quant_info quant_q6_k = { "Q6_K", QK, sizeof(block_q6_k), QUANT_Q8_K,
                                q6_k_to_float, q6_k_from_float, q6_k_encode, q6_k_dot };
const quant_info quant_q8_k = { "Q8_K", QK, sizeof(block_q8_k), QUANT_Q8_K,
                                q8_k_to_float, q8_k_from_float, q8_k_encode, NULL };
