/* The way of weights onto a card, and experts that have no room there. */
#include "checked.h"

#include <stdlib.h>
#include <string.h>

static const backend_limits limits = { .max_rows = 16, .max_cols = 512, .max_pairs = 96, .max_expert_width = 256, .n_experts = 16,
                                       .max_head_width = 64, .index_top_k = 8, .n_layer = 4 };

static backend *open_with(const fake_options *f, const backend_options *o, ds4_error *err)
{
    gpu_device *d;
    backend *b = NULL;
    EXPECT_OK(fake_device_open(&d, f, err), *err);
    EXPECT_OK(cuda_open_on(&b, d, o, err), *err);
    return b;
}

/* Random bytes as blocks of a type: nothing here looks at numbers. */
static view mapped(backend *b, uint8_t *data, int64_t rows, int cols, quant_type type)
{
    ds4_error err;
    view v = { .rows = rows, .cols = cols, .type = type };
    EXPECT(quant_row_bytes(type, (uint64_t)cols, &v.stride));
    EXPECT_OK(b->buf_map(b, data, (uint64_t)rows * v.stride, &v.buf, &err), err);
    return v;
}

static void random_bytes(uint8_t *to, size_t n, uint64_t seed)
{
    random_stream r;
    random_seed(&r, seed);
    for (size_t i = 0; i < n; i++) to[i] = (uint8_t)random_u64(&r);
}

/* The planes of each matrix lie where planes.h says. */
static void expect_planes(backend *b, view w, const uint8_t *data, int64_t rows_each, bool stack)
{
    const planes_of_type *t = planes_of((int)w.type);
    const cuda_buf *m = (const cuda_buf *)w.buf;
    const int64_t blocks = rows_each * (w.cols / t->block_len);
    gpu_device *d = ((cuda_backend *)b)->device;
    ds4_error err;
    gpu_ptr table[64];
    EXPECT_OK(b->wait(b, &err), err);
    if (stack) EXPECT_OK(d->transfer(d, false, &(gpu_piece){ m->table, table, sizeof *table * (size_t)(w.rows / rows_each) }, 1, &err), err);
    else table[0] = m->at;
    for (int64_t e = 0; e < w.rows / rows_each; e++)
        for (int p = 0; p < t->n; p++) {
            const size_t len = (size_t)t->plane[p].len;
            uint8_t *got = malloc((size_t)blocks * len);
            const gpu_piece piece = { table[e] + planes_offset(t, blocks, p), got, (uint64_t)blocks * len };
            int bad = 0;
            EXPECT_OK(d->transfer(d, false, &piece, 1, &err), err);
            for (int64_t i = 0; i < blocks; i++)
                bad += memcmp(got + (size_t)i * len, data + ((e * blocks + i) * t->block_bytes) + t->plane[p].first, len) != 0;
            EXPECT_INT(bad, 0);
            free(got);
        }
}

TEST(weights_of_every_type_are_cut_into_planes)
{
    const backend_options o = { .name = "cuda", .limits = limits };
    ds4_error err;
    backend *b = open_with(&(fake_options){ .order = LANES_SHUFFLED }, &o, &err);
    for (int type = 0; type < QUANT_COUNT; type++) {
        if (!planes_of(type)) continue;
        const int64_t rows[] = { 1, 67, 3 * 5 };
        for (int i = 0; i < 3; i++) {
            const int cols = i == 1 ? 256 : 512;
            uint64_t stride = 0;
            EXPECT(quant_row_bytes((quant_type)type, (uint64_t)cols, &stride));
            uint8_t *data = malloc((size_t)rows[i] * stride);
            random_bytes(data, (size_t)rows[i] * stride, (uint64_t)(type * 3 + i));
            view w = mapped(b, data, rows[i], cols, (quant_type)type);
            const int64_t each = i == 2 ? 5 : rows[i];
            EXPECT_OK(b->adopt(b, &w, i == 2 ? WEIGHT_EXPERTS : WEIGHT_MATRIX, each, &err), err);
            expect_planes(b, w, data, each, i == 2);
            b->buf_free(b, w.buf);
            free(data);
        }
    }
    b->close(b);
}

TEST(weights_of_many_slices_arrive_whole_while_the_mapping_may_go_away)
{
    enum { ROWS = 50000, COLS = 512 };                  /* 24 MB of Q6_K: staging goes round and round */
    const backend_options o = { .name = "cuda", .limits = limits };
    ds4_error err;
    uint64_t stride = 0;
    backend *b = open_with(&(fake_options){ .seed = 3 }, &o, &err);
    EXPECT(quant_row_bytes(QUANT_Q6_K, COLS, &stride));
    uint8_t *data = malloc(ROWS * stride), *gone = malloc(ROWS * stride);
    random_bytes(data, ROWS * stride, 1);
    memcpy(gone, data, ROWS * stride);
    view w = mapped(b, gone, ROWS, COLS, QUANT_Q6_K), plain = mapped(b, gone, ROWS, COLS, QUANT_Q6_K);
    EXPECT_OK(b->adopt(b, &w, WEIGHT_MATRIX, ROWS, &err), err);
    EXPECT_OK(b->adopt(b, &plain, WEIGHT_ROWS, ROWS, &err), err);
    memset(gone, 0, ROWS * stride);
    expect_planes(b, w, data, ROWS, false);
    uint8_t *got = malloc(ROWS * stride);
    EXPECT_OK(b->download(b, got, plain, &err), err);
    EXPECT(memcmp(got, data, ROWS * stride) == 0);
    free(got);
    free(gone);
    free(data);
    b->close(b);
}

TEST(a_card_that_is_full_is_told_with_figures)
{
    const backend_options o = { .name = "cuda", .limits = limits };
    ds4_error err;
    backend *b = open_with(&(fake_options){ .total_bytes = 40u << 20 }, &o, &err);
    enum { ROWS = 20000, COLS = 1024 };
    uint8_t *data = calloc(ROWS, COLS);
    view w[4];
    ds4_status st = DS4_OK;
    int n = 0;
    for (; n < 4 && !st; n++) {
        w[n] = mapped(b, data, ROWS, COLS, QUANT_Q4_K);
        st = b->adopt(b, &w[n], WEIGHT_MATRIX, ROWS, &err);
    }
    EXPECT_INT(st, DS4_EMEMORY);
    EXPECT(n > 1 && strstr(err.message, "GiB of weights are on the card") != NULL);
    b->close(b);
    free(data);
}
