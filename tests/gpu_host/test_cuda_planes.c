/* Planes: how blocks are cut, and that kernels read the numbers that were stored. */
#include "checked.h"

#include <stdlib.h>

#include "kernels/cuda/planes.h"

static const backend_limits limits = { .max_rows = 512, .max_cols = 1024, .max_pairs = 16, .max_expert_width = 512,
                                       .n_experts = 8, .max_head_width = 64, .index_top_k = 8 };

TEST(every_byte_of_a_block_lies_in_exactly_one_plane)
{
    int types = 0;
    for (int type = 0; type < QUANT_COUNT; type++) {
        const planes_of_type *t = planes_of(type);
        if (!t) continue;
        types++;
        EXPECT_INT(t->block_len, quant_get((uint32_t)type)->block_len);
        EXPECT_INT(t->block_bytes, quant_get((uint32_t)type)->block_bytes);
        int held[256] = { 0 };
        for (int p = 0; p < t->n; p++)
            for (int i = 0; i < t->plane[p].len; i++) held[t->plane[p].first + i]++;
        for (int i = 0; i < t->block_bytes; i++)
            if (held[i] != 1) test_fail(__FILE__, __LINE__, "%s: byte %d is in %d planes",
                                        quant_get((uint32_t)type)->name, i, held[i]);
        EXPECT_INT(planes_bytes(t, 3) % PLANE_ALIGN, 0);
    }
    EXPECT_INT(types, 23);
}

/* Every type that can be multiplied in blocks. */
static bool next_block_type(int *type)
{
    while (++*type < QUANT_COUNT)
        if (planes_of(*type) && planes_of(*type)->block_len > 1) return true;
    return false;
}

/* Blocks of random bytes: every code, index and scale occurs. Floats that scale are kept finite. */
static uint8_t *random_blocks(int type, int64_t n, random_stream *r)
{
    const planes_of_type *t = planes_of(type);
    uint8_t *data = malloc((size_t)n * (size_t)t->block_bytes);
    for (int64_t i = 0; i < n * t->block_bytes; i++) data[i] = (uint8_t)random_u64(r);
    float *all = malloc((size_t)t->block_len * sizeof *all);
    for (int64_t i = 0; i < n; i++) {
        uint8_t *block = data + i * t->block_bytes;
        for (bool fits = false; !fits;) {
            quant_get((uint32_t)type)->to_float(all, block, t->block_len);
            fits = true;
            for (int e = 0; e < t->block_len; e++) fits = fits && all[e] - all[e] == 0.0f;
            if (!fits) for (int k = 0; k < t->block_bytes; k++) block[k] = (uint8_t)random_u64(r);
        }
    }
    free(all);
    return data;
}

/* Float products with the rows of an identity are the weights themselves. */
TEST(unpacked_weights_of_every_type_are_the_stored_numbers)
{
    random_stream r;
    random_seed(&r, test_seed());
    backend *b = checked_open(&limits, true, LANES_FORWARD);
    for (int type = -1; next_block_type(&type);) {
        enum { ROWS = 3, COLS = 512 };
        ds4_error err;
        const int len = planes_of(type)->block_len;
        uint8_t *data = random_blocks(type, (int64_t)ROWS * COLS / len, &r);
        view w = { .rows = ROWS, .cols = COLS, .type = (quant_type)type,
                   .stride = (uint64_t)(COLS / len * planes_of(type)->block_bytes) };
        EXPECT_OK(b->buf_map(b, data, ROWS * w.stride, &w.buf, &err), err);
        buf *map = w.buf;
        EXPECT_OK(b->adopt(b, &w, WEIGHT_MATRIX, ROWS, &err), err);
        b->buf_free(b, map);
        const view x = checked_view(b, COLS, COLS, QUANT_F32), y = checked_view(b, COLS, ROWS, QUANT_F32);
        float *unit = calloc((size_t)COLS * COLS, sizeof *unit), want[COLS];
        for (int i = 0; i < COLS; i++) unit[i * COLS + i] = 1.0f;
        EXPECT_OK(b->upload(b, x, unit, &err), err);
        CHECKED(b, matmul, .w = w, .x = x, .y = y, .name = quant_get((uint32_t)type)->name);
        for (int row = 0; row < ROWS; row++) {
            quant_get((uint32_t)type)->to_float(want, data + (uint64_t)row * w.stride, COLS);
            for (int i = 0; i < COLS; i++) {
                const float got = view_f32(y, i)[row];
                if (got == want[i] || (got - want[i]) * (got - want[i]) <= 1e-10f * want[i] * want[i]) continue;
                test_fail(__FILE__, __LINE__, "%s: weight %d of row %d is %.9g, want %.9g",
                          quant_get((uint32_t)type)->name,
                          i, row, (double)got, (double)want[i]);
                i = COLS;
            }
        }
        checked_free(b, x);
        checked_free(b, y);
        checked_free(b, w);
        free(unit);
        free(data);
    }
    b->close(b);
}
