/* Tiles of every instruction set: the bits of the definition for types with
 * integer sums, the bits of the rung's own dot for float types, whatever the
 * shape of the tile. Command for NEON: test_cpu_kernels.c. */
#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"
#include "kernels/cpu/cpu_kernels.h"
#include "quant/float_formats.h"

/* Rungs with tiles of their own. */
static const uint32_t rungs[] = { 0, ISA_AVX2, ISA_AVX2 | ISA_AVX512, ISA_AVX2 | ISA_AVX512 | ISA_AVX512_VBMI };

static const int widths[] = { 256, 512, 1024, 4096 };
static const int heights[] = { 1, 2, 15, 16, 17, 33, 64 };
static const int batches[] = { 1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 64 };

enum { GUARD = 8 };             /* floats around the results that stay as they were */

static uint8_t *take(size_t bytes)
{
    uint8_t *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) abort();
    return p;
}

/* Any bits whose values are numbers of usable size: encoded rows would never have some
 * of the codes. */
static void fill_weights(random_stream *r, uint8_t *w, quant_type type, int n)
{
    const quant_info *q = quant_get(type);
    float *value = (float *)take(sizeof(float) * (size_t)n);
    for (int b = 0; b < n / q->block_len; b++) {
        uint8_t *block = w + (size_t)b * (size_t)q->block_bytes;
        bool usable = false;
        while (!usable) {
            for (int i = 0; i < q->block_bytes; i++) block[i] = (uint8_t)random_u64(r);
            q->to_float(value, block, q->block_len);
            usable = true;
            for (int i = 0; i < q->block_len; i++) usable &= value[i] > -1e4f && value[i] < 1e4f;
        }
    }
    free(value);
}

static void fill_floats(random_stream *r, float *x, int n)
{
    for (int i = 0; i < n; i++) x[i] = (float)random_normal(r) * (i % 97 == 3 ? 9.0f : 1.0f);
}

typedef struct {
    const cpu_kernels *fast, *ref;
    quant_type         type;
    int                n, rows, batch;
    random_stream      r;
} tile_case;

static void check_tile(tile_case *c, uint32_t isa)
{
    const quant_info *q = quant_get(c->type);
    const quant_type act = q->dot_type;
    uint64_t w_bytes, x_bytes;
    if (!quant_row_bytes(c->type, (uint64_t)c->n, &w_bytes)) abort();
    x_bytes = activation_bytes(act, c->n);

    const uint64_t y_stride = (uint64_t)c->rows + GUARD;
    uint8_t *w = take(w_bytes * (uint64_t)c->rows), *x = take(x_bytes * (uint64_t)c->batch);
    uint8_t *scratch = take(TILE_SCRATCH);
    float *source = (float *)take(sizeof(float) * (size_t)c->n);
    float *got = (float *)take(sizeof(float) * y_stride * (uint64_t)c->batch);
    const uint8_t *row[64];

    for (int i = 0; i < c->rows; i++) fill_weights(&c->r, w + (uint64_t)i * w_bytes, c->type, c->n);
    for (int i = 0; i < c->batch; i++) {
        uint8_t *at = x + (uint64_t)(c->batch - 1 - i) * x_bytes;      /* not in the order of memory */
        fill_floats(&c->r, source, c->n);
        if (act == QUANT_F32) memcpy(at, source, sizeof(float) * (size_t)c->n);
        else c->ref->quantise[act](at, source, c->n);
        row[i] = at;
    }
    for (uint64_t i = 0; i < y_stride * (uint64_t)c->batch; i++) got[i] = 12345.0f;

    c->fast->tile[c->type](c->fast, &(tile_args){ .w = w, .w_stride = w_bytes, .rows = c->rows, .n = c->n, .x = row,
                                                  .batch = c->batch, .y = got, .y_stride = y_stride, .scratch = scratch });
    const cpu_kernels *judge = act == QUANT_F32 ? c->fast : c->ref;
    int wrong = 0;
    for (int b = 0; b < c->batch && !wrong; b++)
        for (int i = 0; i < (int)y_stride && !wrong; i++) {
            const float want = i < c->rows ? judge->dot[c->type](w + (uint64_t)i * w_bytes, row[b], c->n) : 12345.0f;
            const float have = got[(uint64_t)b * y_stride + (uint64_t)i];
            if (!memcmp(&want, &have, sizeof want)) continue;
            char what[160];
            snprintf(what, sizeof what, "%s %s n %d rows %d batch %d: y[%d][%d] is %.9g, not %.9g", cpu_isa_name(isa),
                     q->name, c->n, c->rows, c->batch, b, i, (double)have, (double)want);
            EXPECT_TEXT(what, "");
            wrong = 1;
        }
    free(w);
    free(x);
    free(scratch);
    free(source);
    free(got);
}

TEST(tiles_are_the_definition_to_the_bit)
{
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    for (size_t k = 0; k < countof(rungs); k++) {
        if ((rungs[k] & cpu_isa_present()) != rungs[k]) continue;
        cpu_kernels_init(&fast, rungs[k]);
        for (int type = 0; type < QUANT_COUNT; type++) {
            if (!fast.tile[type]) continue;
            for (size_t shape = 0; shape < 3 * countof(batches); shape++) {
                tile_case c = { .fast = &fast, .ref = &ref, .type = (quant_type)type,
                                .n = widths[shape % countof(widths)],
                                .rows = heights[(shape * 5 + (size_t)type) % countof(heights)],
                                .batch = batches[shape % countof(batches)] };
                random_seed(&c.r, test_seed() * 7919u + shape * 64u + (size_t)type);
                check_tile(&c, rungs[k]);
            }
        }
    }
}
