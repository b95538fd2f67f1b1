#include "checked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The lanes, each order with another order of streams; or the first card, where lanes have one order. */
static gpu_device *device_of(lane_order order)
{
    ds4_error err;
    gpu_device *d = NULL;
    const char *wanted = getenv("DS4_TEST_DEVICE");
    if (!wanted || strcmp(wanted, "cuda") != 0) {
        EXPECT_OK(fake_device_open(&d, &(fake_options){ .order = order, .seed = (uint64_t)order }, &err), err);
        return d;
    }
    if (gpu_driver_open(&d, 0, &err)) {
        printf("FAIL DS4_TEST_DEVICE=cuda: %s\n", err.message);
        exit(1);
    }
    static bool told;
    if (!told) printf("on %s, sm_%d\n", d->info.name, d->info.arch);
    told = true;
    return d;
}

backend *checked_open(const backend_limits *limits, bool exact, lane_order order)
{
    return checked_open_on(device_of(order), limits, exact);
}

backend *checked_open_on(gpu_device *d, const backend_limits *limits, bool exact)
{
    ds4_error err;
    backend *cuda = NULL, *b = NULL;
    const backend_options o = { .name = "check:cuda", .n_threads = 1, .exact = exact, .limits = *limits,
                                .mirrored = true };
    EXPECT_OK(cuda_open_on(&cuda, d, &o, &err), err);
    EXPECT_OK(backend_check_open(&b, cuda, &o, &err), err);
    return b;
}

view checked_view(backend *b, int64_t rows, int cols, quant_type type)
{
    ds4_error err;
    const uint64_t stride = (uint64_t)cols * (uint64_t)quant_get(type)->block_bytes;
    view v = { .rows = rows, .cols = cols, .type = type, .stride = stride };
    const ds4_status st = b->buf_alloc(b, (uint64_t)rows * stride, &v.buf, &err);
    EXPECT_OK(st, err);
    return v;
}

static float uniform(random_stream *r, float scale) { return scale * (float)(2.0 * random_double(r) - 1.0); }

view checked_random(backend *b, int64_t rows, int cols, float scale, uint64_t seed)
{
    ds4_error err;
    const view v = checked_view(b, rows, cols, QUANT_F32);
    float *x = malloc((size_t)rows * (size_t)cols * sizeof *x);
    random_stream r;
    random_seed(&r, seed);
    for (int64_t i = 0; i < rows * cols; i++) x[i] = uniform(&r, scale);
    EXPECT_OK(b->upload(b, v, x, &err), err);
    free(x);
    return v;
}

/* Memory that weights came from; a list, so that none of it counts as lost. */
typedef struct mapping {
    struct mapping *next;
    uint64_t        pad;
    uint8_t         data[];
} mapping;

static uint8_t *new_mapping(uint64_t bytes)
{
    static mapping *all;
    mapping *m = malloc(sizeof *m + bytes);
    m->next = all;
    all = m;
    return m->data;
}

/* n numbers in -1..1 as blocks of a type. */
static void encode(quant_type type, uint8_t *out, int n, random_stream *r)
{
    ds4_error err;
    float *x = malloc((size_t)n * sizeof *x), *importance = malloc((size_t)n * sizeof *importance);
    for (int i = 0; i < n; i++) {
        x[i] = uniform(r, 1.0f);
        importance[i] = 1.0f;
    }
    EXPECT_OK(quant_encode_row(type, out, x, importance, n, &err), err);
    free(x);
    free(importance);
}

/* Encoders search long, so a weight in blocks has a few that were encoded, each at places of its own. */
static void fill_weight(quant_type type, uint8_t *data, uint64_t bytes, random_stream *r)
{
    enum { DISTINCT = 101 };
    const quant_info *q = quant_get(type);
    const uint64_t each = (uint64_t)q->block_bytes, n = bytes / each;
    if (q->block_len == 1 || n <= DISTINCT) {
        encode(type, data, (int)n * q->block_len, r);
        return;
    }
    uint8_t *some = malloc(DISTINCT * each);
    encode(type, some, DISTINCT * q->block_len, r);
    for (uint64_t i = 0; i < n; i++) memcpy(data + i * each, some + random_below(r, DISTINCT) * each, each);
    free(some);
}

view checked_weight(backend *b, int64_t rows, int cols, quant_type type, weight_use use, int64_t rows_each, uint64_t seed)
{
    ds4_error err;
    uint64_t stride = 0;
    EXPECT(quant_row_bytes(type, (uint64_t)cols, &stride));
    uint8_t *data = new_mapping((uint64_t)rows * stride);
    random_stream r;
    random_seed(&r, seed);
    fill_weight(type, data, (uint64_t)rows * stride, &r);
    view v = { .rows = rows, .cols = cols, .type = type, .stride = stride };
    EXPECT_OK(b->buf_map(b, data, (uint64_t)rows * stride, &v.buf, &err), err);
    buf *map = v.buf;
    EXPECT_OK(b->adopt(b, &v, use, rows_each, &err), err);
    b->buf_free(b, map);
    return v;
}

void checked_free(backend *b, view v) { b->buf_free(b, v.buf); }
