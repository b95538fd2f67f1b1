#include "factory/synth_blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "quant/blocks.h"
#include "quant/float_formats.h"

#define STOCK_BLOCKS 1024

float synth_normal(random_stream *r)
{
    const uint64_t u = random_u64(r);
    const int sum = (int)(u & 0xffff) + (int)(u >> 16 & 0xffff) + (int)(u >> 32 & 0xffff) + (int)(u >> 48);
    return (float)(sum - 2 * 65535) * (1.0f / 37837.227f);      /* sqrt(4 (2^32 - 1) / 12) */
}

/* Sixteen scales around d (three quarters to five quarters of it), so that no
 * two neighbouring blocks need look alike; their root mean square is d.
 * offset[k] = d[k] * ratio. */
static void choose_scales(block_maker *m, double d, double ratio)
{
    for (int k = 0; k < 16; k++) {
        const double scale = d * (24 + k) / 32 / 0.994862;
        m->d[k]      = float_to_half((float)scale);
        m->offset[k] = float_to_half((float)(scale * ratio));
    }
}

/* ---- plain floats ------------------------------------------------------ */

static float draw(const block_maker *m, random_stream *r)
{
    return m->mean + m->deviation * synth_normal(r);
}

static void fill_f32(const block_maker *m, float *dst, uint64_t n, random_stream *r)
{
    for (uint64_t i = 0; i < n; i++) dst[i] = draw(m, r);
}

static void fill_f16(const block_maker *m, uint16_t *dst, uint64_t n, random_stream *r)
{
    for (uint64_t i = 0; i < n; i++) dst[i] = float_to_half(draw(m, r));
}

static void fill_bf16(const block_maker *m, uint16_t *dst, uint64_t n, random_stream *r)
{
    for (uint64_t i = 0; i < n; i++) dst[i] = float_to_bf16(draw(m, r));
}

/* ---- blocks ------------------------------------------------------------ */

static void fill_bytes(void *dst, size_t n, random_stream *r)
{
    uint8_t *p = dst;
    for (; n >= 8; n -= 8, p += 8) {
        const uint64_t u = random_u64(r);
        memcpy(p, &u, 8);
    }
}

/* Q8_0: d * code, code a random byte, where -128, which no encoder writes,
 * becomes 0. Mean square of a code: 2 (1 + 4 + ... + 127^2) / 256 = 73.468^2. */
#define Q8_0_DEVIATION 73.468

static void fill_q8_0(const block_maker *m, block_q8_0 *b, uint64_t n, random_stream *r)
{
    for (; n; n--, b++) {
        b->d = m->d[random_u64(r) & 15];
        fill_bytes(b->codes, sizeof b->codes, r);
        for (int i = 0; i < 32; i++) b->codes[i] = b->codes[i] == -128 ? 0 : b->codes[i];
    }
}

/* Q2_K: d*s*code - dmin*o with o = s and dmin = 1.5 d: d*s*(code - 1.5), s in
 * 8..15. Deviation sqrt(1.25) * sqrt(mean s^2 = 137.5) = 13.110. */
#define Q2_K_DEVIATION 13.110

static void fill_q2_k(const block_maker *m, block_q2_k *b, uint64_t n, random_stream *r)
{
    for (; n; n--, b++) {
        const uint64_t u = random_u64(r);
        for (int g = 0; g < 16; g++) b->scales[g] = (uint8_t)((8 | (u >> (3 * g) & 7)) * 0x11);
        b->d    = m->d[u >> 60];
        b->dmin = m->offset[u >> 60];
        fill_bytes(b->codes, sizeof b->codes, r);
    }
}

/* Q4_K: the same with dmin = 7.5 d, s in 32..63: sqrt(21.25) * sqrt(2341.5) = 223.06. */
#define Q4_K_DEVIATION 223.06

static void fill_q4_k(const block_maker *m, block_q4_k *b, uint64_t n, random_stream *r)
{
    for (; n; n--, b++) {
        const uint64_t u = random_u64(r);
        for (int g = 0; g < 4; g++) {
            const unsigned lo = 32 | (u >> (5 * g) & 31), hi = 32 | (u >> (20 + 5 * g) & 31);
            b->scales[g]     = (uint8_t)(lo | hi >> 4 << 6);    /* s of group g, top of s of g+4 */
            b->scales[g + 4] = b->scales[g];                    /* the offsets are the same      */
            b->scales[g + 8] = (uint8_t)((hi & 15) * 0x11);     /* low bits of s and o of g+4    */
        }
        b->d    = m->d[u >> 60];
        b->dmin = m->offset[u >> 60];
        fill_bytes(b->codes, sizeof b->codes, r);
    }
}

/* IQ2_XXS: d * (0.5 + s) / 4 * grid * sign, random grid index and sign index,
 * s in 8..15. The grid's root mean square is 23.1177, that of 0.5 + s is
 * sqrt(149.25): 70.607. */
#define IQ2_XXS_DEVIATION 70.607

static void fill_iq2_xxs(const block_maker *m, block_iq2_xxs *b, uint64_t n, random_stream *r)
{
    for (; n; n--, b++) {
        b->d = m->d[random_u64(r) & 15];
        for (int g = 0; g < 8; g++) {
            const uint64_t u = random_u64(r) | 1ull << 63;      /* the top bit of s */
            memcpy(b->groups + 4 * g, &u, 8);
        }
    }
}

/* MXFP4: 2^(e - 127) * code, code one of +-{0 .5 1 1.5 2 3 4 6}, mean square
 * 8.5625. A power of two can not meet a deviation, two of them can: a share p
 * of the blocks has e + 1, where 1 + 3 p = (deviation / 2^(e-127))^2 / 8.5625. */
static void choose_exponents(block_maker *m)
{
    int    e = 0;
    double want = (double)m->deviation / sqrt(8.5625);
    while (want >= 2 && e < 127) { want /= 2; e++; }
    while (want < 1 && e > -127) { want *= 2; e--; }
    m->exponent = e + 127;
    m->upper    = want > 1 ? (uint32_t)(65536 * (want * want - 1) / 3) : 0;
}

static void fill_mxfp4(const block_maker *m, block_mxfp4 *b, uint64_t n, random_stream *r)
{
    for (; n; n--, b++) {
        b->e = (uint8_t)(m->exponent + ((random_u64(r) & 0xffff) < m->upper));
        fill_bytes(b->codes, sizeof b->codes, r);
    }
}

/* ---- types without a formula ------------------------------------------- */

static void encode(const quant_info *q, void *dst, const float *x, const float *ones, int64_t n)
{
    if (q->from_float) q->from_float(dst, x, n);
    else q->from_float_weighted(dst, x, ones, n);
}

/* Encodes normal numbers. Coarse types shrink what they encode, so a second
 * round starts from numbers that much larger. */
static ds4_status make_stock(block_maker *m, const quant_info *q, uint64_t seed, ds4_error *err)
{
    const int64_t n = (int64_t)STOCK_BLOCKS * q->block_len;
    random_stream r;
    if ((!q->from_float && !q->from_float_weighted) || !q->to_float)
        return ds4_fail(err, DS4_EUNSUPPORTED, "there is no encoder for %s", q->name);
    float *x = malloc((size_t)n * sizeof *x), *y = malloc((size_t)n * sizeof *y);
    m->stock = malloc((size_t)STOCK_BLOCKS * (size_t)q->block_bytes);
    const bool ok = x && y && m->stock;

    float gain = m->deviation;
    for (int round = 0; round < 2 && ok; round++) {
        double sum = 0;
        random_seed(&r, seed);
        for (int64_t i = 0; i < n; i++) x[i] = gain * synth_normal(&r);
        for (int64_t i = 0; i < n; i++) y[i] = 1;
        for (int64_t i = 0; i < n; i += q->block_len)
            encode(q, m->stock + i / q->block_len * q->block_bytes, x + i, y, q->block_len);
        q->to_float(y, m->stock, n);
        for (int64_t i = 0; i < n; i++) sum += (double)y[i] * y[i];
        if (sum > 0) gain *= (float)(m->deviation / sqrt(sum / (double)n));
    }
    free(x);
    free(y);
    return ok ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "no memory to make %s blocks", q->name);
}

static void fill_stock(const block_maker *m, uint8_t *dst, uint64_t n, random_stream *r)
{
    const size_t size = (size_t)m->block_bytes;
    for (; n; n--, dst += size)
        memcpy(dst, m->stock + (random_u64(r) >> 32) % STOCK_BLOCKS * size, size);
}

/* ---- all types --------------------------------------------------------- */

ds4_status block_maker_init(block_maker *m, quant_type type, float mean, float deviation, uint64_t seed,
                            ds4_error *err)
{
    const quant_info *q = quant_get(type);
    if (!q) return ds4_fail(err, DS4_EUNSUPPORTED, "there is no type %d", (int)type);
    *m = (block_maker){ .type = type, .block_bytes = q->block_bytes, .mean = mean, .deviation = deviation };
    switch (type) {
    case QUANT_F32: case QUANT_F16: case QUANT_BF16:           break;
    case QUANT_Q8_0:    choose_scales(m, deviation / Q8_0_DEVIATION, 0);    break;
    case QUANT_Q2_K:    choose_scales(m, deviation / Q2_K_DEVIATION, 1.5);  break;
    case QUANT_Q4_K:    choose_scales(m, deviation / Q4_K_DEVIATION, 7.5);  break;
    case QUANT_IQ2_XXS: choose_scales(m, deviation / IQ2_XXS_DEVIATION, 0); break;
    case QUANT_MXFP4:   choose_exponents(m);                                break;
    default:
        return make_stock(m, q, seed, err);
    }
    return DS4_OK;
}

void block_maker_free(block_maker *m)
{
    free(m->stock);
    m->stock = NULL;
}

void block_maker_fill(const block_maker *m, void *dst, uint64_t n_blocks, random_stream *r)
{
    switch (m->type) {
    case QUANT_F32:     fill_f32(m, dst, n_blocks, r);     break;
    case QUANT_F16:     fill_f16(m, dst, n_blocks, r);     break;
    case QUANT_BF16:    fill_bf16(m, dst, n_blocks, r);    break;
    case QUANT_Q8_0:    fill_q8_0(m, dst, n_blocks, r);    break;
    case QUANT_Q2_K:    fill_q2_k(m, dst, n_blocks, r);    break;
    case QUANT_Q4_K:    fill_q4_k(m, dst, n_blocks, r);    break;
    case QUANT_IQ2_XXS: fill_iq2_xxs(m, dst, n_blocks, r); break;
    case QUANT_MXFP4:   fill_mxfp4(m, dst, n_blocks, r);   break;
    default:            fill_stock(m, dst, n_blocks, r);   break;
    }
}
