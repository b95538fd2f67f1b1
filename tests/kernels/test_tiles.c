/* Tiles of every instruction set: the bits of the definition for types with
 * integer sums, the bits of the rung's own dot for float types, whatever the
 * shape of the tile. Command for NEON: test_cpu_kernels.c. */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"
#include "kernels/boxes.h"
#include "kernels/cpu/cpu_kernels.h"
#include "quant/blocks.h"
#include "quant/float_formats.h"

/* Rungs with tiles of their own. */
static const uint32_t rungs[] = { 0, ISA_AVX2, ISA_AVX2 | ISA_AVX512, ISA_AVX2 | ISA_AVX512 | ISA_AVX512_VBMI,
                                  ISA_NEON, ISA_NEON | ISA_NEON_I8MM };

static const int widths[] = { 256, 512, 1024, 4096 };
static const int heights[] = { 1, 2, 15, 16, 17, 33, 64 };
static const int batches[] = { 1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 64 };

enum { GUARD = 8, MOST = 64 };  /* floats behind the results that stay as they were; activations */

/* ---- a product under test ------------------------------------------------------- */

/* Rows of weights that end where their box does, and activations, each in its own. */
typedef struct {
    uint32_t    isa;
    cpu_kernels ref, fast;
    quant_type  type, act;
    int         n, rows, batch;
    uint64_t    stride;
    box         w, x[MOST];
    random_stream r;
} product;

static uint64_t row_bytes(quant_type type, int n)
{
    uint64_t bytes = 0;
    if (!quant_row_bytes(type, (uint64_t)n, &bytes)) abort();
    return bytes;
}

static void product_open(product *p, uint32_t isa, quant_type type, int n, int rows, int batch, size_t slack)
{
    *p = (product){ .isa = isa, .type = type, .act = quant_get(type)->dot_type, .n = n, .rows = rows,
                    .batch = batch, .stride = row_bytes(type, n) };
    cpu_kernels_init(&p->ref, 0);
    cpu_kernels_init(&p->fast, isa);
    p->w = box_new(p->stride * (uint64_t)rows, slack);
    for (int c = 0; c < batch; c++) p->x[c] = box_new(activation_bytes(p->act, n), 60 - slack);
    random_seed(&p->r, test_seed() * 7919u + (uint64_t)n * 64u + (uint64_t)type);
}

static void product_close(product *p)
{
    box_free(&p->w);
    for (int c = 0; c < p->batch; c++) box_free(&p->x[c]);
}

/* The tile is what the judge's dots are; returns the number of results that are 0. */
static int check_product(const product *p, const char *what)
{
    const cpu_kernels *judge = p->act == QUANT_F32 ? &p->fast : &p->ref;
    const uint64_t y_stride = (uint64_t)p->rows + GUARD;
    const uint8_t *x[MOST];
    box y = box_new(sizeof(float) * y_stride * (uint64_t)p->batch, 0);
    uint8_t *scratch = aligned_alloc(64, TILE_SCRATCH);
    float guard;
    int zeros = 0;

    if (!scratch) abort();
    memset(&guard, POISON, sizeof guard);
    for (int c = 0; c < p->batch; c++) x[c] = p->x[c].data;
    const tile_args a = { .w = p->w.data, .w_stride = p->stride, .rows = p->rows, .n = p->n, .x = x, .batch = p->batch,
                          .y = (float *)(void *)y.data, .y_stride = y_stride, .scratch = scratch };
    p->fast.tile[p->type](&p->fast, &a);

    for (int i = 0; i < (int)y_stride * p->batch; i++) {
        const int c = i / (int)y_stride, r = i % (int)y_stride;
        const float want = r < p->rows ? judge->dot[p->type](a.w + (uint64_t)r * p->stride, x[c], p->n) : guard;
        zeros += r < p->rows && want == 0.0f;
        if (!memcmp(&want, &a.y[i], sizeof want)) continue;
        test_fail(__FILE__, __LINE__, "%s %s n %d rows %d batch %d, %s: y[%d][%d] is %.9g, not %.9g",
                  cpu_isa_name(p->isa), quant_get(p->type)->name, p->n, p->rows, p->batch, what, c, r,
                  (double)a.y[i], (double)want);
        break;
    }
    box_free(&y);
    free(scratch);
    return zeros;
}

/* Every rung of this machine, every type with a tile. */
typedef void visit_fn(uint32_t isa, quant_type type);

static void for_each_tile(visit_fn *visit)
{
    for (size_t k = 0; k < countof(rungs); k++) {
        cpu_kernels fast;
        if ((rungs[k] & cpu_isa_present()) != rungs[k]) continue;
        cpu_kernels_init(&fast, rungs[k]);
        for (int t = 0; t < QUANT_COUNT; t++) if (fast.tile[t]) visit(rungs[k], (quant_type)t);
    }
}

/* ---- weights ---------------------------------------------------------------------- */

/* Any bits whose values are numbers of usable size: encoded rows would never have some
 * of the codes. */
static void fill_weights(product *p)
{
    const quant_info *q = quant_get(p->type);
    for (uint64_t at = 0; at < p->w.n; at += (uint64_t)q->block_bytes) {
        uint8_t *block = p->w.data + at;
        float value[QK];
        bool usable = false;
        while (!usable) {
            for (int i = 0; i < q->block_bytes; i++) block[i] = (uint8_t)random_u64(&p->r);
            q->to_float(value, block, q->block_len);
            usable = true;
            for (int i = 0; i < q->block_len; i++) usable &= value[i] > -1e4f && value[i] < 1e4f;
        }
    }
}

/* Where a type's blocks keep binary16 scales; -1: none there. */
static const struct { quant_type type; int d, m; } scales_at[] = {
    { QUANT_Q4_0, 0, -1 },   { QUANT_Q4_1, 0, 2 },      { QUANT_Q5_0, 0, -1 },   { QUANT_Q5_1, 0, 2 },
    { QUANT_Q8_0, 0, -1 },   { QUANT_Q2_K, 80, 82 },    { QUANT_Q3_K, 108, -1 }, { QUANT_Q4_K, 0, 2 },
    { QUANT_Q5_K, 0, 2 },    { QUANT_Q6_K, 208, -1 },   { QUANT_IQ1_S, 0, -1 },  { QUANT_IQ2_XXS, 0, -1 },
    { QUANT_IQ2_XS, 0, -1 }, { QUANT_IQ2_S, 0, -1 },    { QUANT_IQ3_XXS, 0, -1 },{ QUANT_IQ3_S, 0, -1 },
    { QUANT_IQ4_NL, 0, -1 }, { QUANT_IQ4_XS, 0, -1 },
};

/* Block scales of one, so that bytes chosen for their codes do not become NaN. */
static void put_unit_scales(product *p)
{
    const uint16_t one = 0x3c00;
    for (uint64_t at = 0; at < p->w.n; at += (uint64_t)quant_get(p->type)->block_bytes) {
        uint8_t *block = p->w.data + at;
        for (size_t i = 0; i < countof(scales_at); i++) {
            if (scales_at[i].type != p->type) continue;
            memcpy(block + scales_at[i].d, &one, sizeof one);
            if (scales_at[i].m >= 0) memcpy(block + scales_at[i].m, &one, sizeof one);
        }
        if (p->type == QUANT_MXFP4) block[0] = 128;
        if (p->type == QUANT_NVFP4) memset(block, 0x40, 4);
    }
}

/* ---- activations --------------------------------------------------------------------- */

static void fill_activations(product *p)
{
    float *source = malloc(sizeof *source * (size_t)p->n);
    if (!source) abort();
    for (int c = 0; c < p->batch; c++) {
        for (int i = 0; i < p->n; i++) source[i] = (float)random_normal(&p->r) * (i % 97 == 3 ? 9.0f : 1.0f);
        if (p->act == QUANT_F32) memcpy(p->x[c].data, source, sizeof *source * (size_t)p->n);
        else p->ref.quantise[p->act](p->x[c].data, source, p->n);
    }
    free(source);
}

/* Activation c from its codes, all with the scale d. */
static void put_codes(product *p, int c, const int8_t *codes, float d)
{
    const int len = quant_get(p->act)->block_len;
    for (int i = 0; i < p->n / len; i++, codes += len) {
        int16_t sums[16] = { 0 };
        int sum = 0;
        for (int e = 0; e < len; e++) {
            sums[e / 16] = (int16_t)(sums[e / 16] + codes[e]);
            sum += codes[e];
        }
        if (p->act == QUANT_Q8_0) {
            block_q8_0 *b = (block_q8_0 *)(void *)p->x[c].data + i;
            b->d = float_to_half(d);
            memcpy(b->codes, codes, sizeof b->codes);
        } else if (p->act == QUANT_Q8_1) {
            block_q8_1 *b = (block_q8_1 *)(void *)p->x[c].data + i;
            b->d = float_to_half(d);
            b->s = float_to_half(d * (float)sum);
            memcpy(b->codes, codes, sizeof b->codes);
        } else {
            block_q8_k *b = (block_q8_k *)(void *)p->x[c].data + i;
            b->d = d;
            memcpy(b->codes, codes, sizeof b->codes);
            memcpy(b->sums, sums, sizeof b->sums);
        }
    }
    if (p->act != QUANT_Q8_K) activation_fill_planes(p->x[c].data, p->act, p->n);
}

/* ---- the tests -------------------------------------------------------------------------- */

static void check_shapes(uint32_t isa, quant_type type)
{
    for (size_t shape = 0; shape < 3 * countof(batches); shape++) {
        product p;
        product_open(&p, isa, type, widths[shape % countof(widths)], heights[(shape * 5 + type) % countof(heights)],
                     batches[shape % countof(batches)], 0);
        fill_weights(&p);
        fill_activations(&p);
        check_product(&p, "random bits");
        product_close(&p);
    }
}

TEST(tiles_are_the_definition_to_the_bit) { for_each_tile(check_shapes); }

/* A few blocks: less than what kernels take at once. */
static void check_narrow(uint32_t isa, quant_type type)
{
    const int len = quant_get(type)->block_len;
    for (int blocks = 1; blocks <= 11; blocks++)
        for (int batch = 1; batch <= 6; batch += 5) {
            product p;
            product_open(&p, isa, type, blocks * len, 17, batch, 0);
            fill_weights(&p);
            fill_activations(&p);
            check_product(&p, "narrow");
            product_close(&p);
        }
}

TEST(tiles_of_any_number_of_blocks_are_the_definition) { for_each_tile(check_narrow); }

/* Rows of one byte against activations of one code: where 16-bit sums would saturate
 * and where a negated -128 would overflow. */
static void check_extremes(uint32_t isa, quant_type type)
{
    static const uint8_t bytes[] = { 0x00, 0xff, 0x80, 0x7f, 0x88, 0x77, 0x0f, 0xf0, 0xaa, 0x55 };
    static const int codes[] = { -128, -127, 127, 1, 0 };
    if (quant_get(type)->dot_type == QUANT_F32) return;
    for (size_t i = 0; i <= countof(codes); i++) {          /* one code at a time, then all */
        const bool all = i == countof(codes);
        product p;
        product_open(&p, isa, type, 512, 20, all ? 5 : 1, 0);
        for (int r = 0; r < p.rows; r++)
            memset(p.w.data + (uint64_t)r * p.stride, bytes[r % (int)countof(bytes)], p.stride);
        put_unit_scales(&p);
        for (int c = 0; c < p.batch; c++) {
            int8_t x[512];
            memset(x, codes[all ? (size_t)c : i], sizeof x);
            put_codes(&p, c, x, 1.0f);
        }
        check_product(&p, "rows of one byte");
        product_close(&p);
    }
}

TEST(tiles_of_extreme_codes_are_the_definition) { for_each_tile(check_extremes); }

/* Each sign mix of the ends of the byte range, so that no lane is special; then any
 * codes, with scales of either sign. */
static void check_mixed_ends(uint32_t isa, quant_type type)
{
    static const int8_t ends[] = { -128, 127, -127, 0 };
    if (quant_get(type)->dot_type == QUANT_F32) return;
    for (int round = 0; round < 16; round++) {
        product p;
        product_open(&p, isa, type, 256, 17, round % 2 ? 5 : 1, 0);
        random_seed(&p.r, test_seed() * 31u + (uint64_t)round * 64u + (uint64_t)type);
        for (size_t i = 0; i < p.w.n; i++) p.w.data[i] = (uint8_t)ends[random_below(&p.r, 4)];
        put_unit_scales(&p);
        if (round >= 8) fill_weights(&p);
        for (int c = 0; c < p.batch; c++) {
            int8_t x[256];
            for (int e = 0; e < 256; e++)
                x[e] = round < 8 ? ends[random_below(&p.r, 2)] : (int8_t)((int)random_below(&p.r, 256) - 128);
            put_codes(&p, c, x, round < 8 ? 1.0f : (float)random_normal(&p.r));
        }
        check_product(&p, round < 8 ? "ends of the byte range" : "any codes");
        product_close(&p);
    }
}

TEST(tiles_of_mixed_ends_of_the_byte_range_are_the_definition) { for_each_tile(check_mixed_ends); }

/* Halved scales 2^-128 and 2^-127 are below the normal range of a float. The
 * activation's 2^15 brings the product back up, so nothing is lost to flushing. */
static void check_subnormal(uint32_t isa, quant_type type)
{
    if (type != QUANT_MXFP4) return;
    for (int batch = 1; batch <= 5; batch += 4) {
        product p;
        product_open(&p, isa, type, 64, 17, batch, 0);
        fill_weights(&p);
        for (int i = 0; i < 2 * p.rows; i++) p.w.data[17 * i] = (uint8_t)(i / 2 % 4);
        for (int c = 0; c < batch; c++) {
            int8_t x[64];
            for (int e = 0; e < 64; e++) x[e] = (int8_t)(1 + random_below(&p.r, 126));
            put_codes(&p, c, x, 0x1p15f);
        }
        EXPECT(check_product(&p, "subnormal scales") < p.rows * batch / 4);
        product_close(&p);
    }
}

TEST(tiles_count_subnormal_mxfp4_scales) { for_each_tile(check_subnormal); }

/* Results are a function of the bytes, not of where they lie; and with no slack behind
 * the last row, or the activations, nothing beyond them is read. */
static void check_addresses(uint32_t isa, quant_type type)
{
    for (int batch = 1; batch <= 5; batch += 4)
        for (size_t slack = 0; slack <= 60; slack += 12) {
            product p;
            product_open(&p, isa, type, 512, 17, batch, slack);
            fill_weights(&p);
            fill_activations(&p);
            check_product(&p, "at another address");
            product_close(&p);
        }
}

TEST(tiles_do_not_depend_on_addresses) { for_each_tile(check_addresses); }
