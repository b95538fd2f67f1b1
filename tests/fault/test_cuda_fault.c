/* Memory that is not there, on the host and on the card, while the CUDA backend opens, takes weights over,
 * runs steps, records them and lets experts change places: a sentence, nothing left behind, and right
 * numbers wherever it can do without. On the fake device, and on the driver's over the mock. */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/status.h"
#include "fault/alloc.h"
#include "gpu_host/fake_device.h"
#include "gpu_host/mock_cuda.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_driver.h"
#include "kernels/cuda/cuda_internal.h"

enum { E = 8, D = 64, F = 32, USED = 2, STEPS = 12, Q8_0_BYTES = 34, MATRIX = F * D / 32 * Q8_0_BYTES };

static const backend_limits limits = { .max_rows = 4, .max_cols = D, .max_pairs = 4 * USED, .max_expert_width = F, .n_experts = E,
                                       .max_head_width = D, .n_layer = 1, .max_segments = 4, .max_tokens = 64, .block_tokens = 64 };

/* ---- a small model ---------------------------------------------------------------------------- */

typedef enum { NORM, PROJECTION, GATE, UP, DOWN, WEIGHTS } weight_name;
typedef enum { X, H, Y, MID, IDS, SHARES, VIEWS } view_name;

static uint8_t file[WEIGHTS][E * MATRIX];

static const struct { int64_t rows, each; int cols; quant_type type; weight_use use; } weights[WEIGHTS] = {
    [NORM] = { 1, 1, D, QUANT_F32, WEIGHT_ROWS },
    [PROJECTION] = { D, D, D, QUANT_Q8_0, WEIGHT_MATRIX },
    [GATE] = { E * F, F, D, QUANT_Q8_0, WEIGHT_EXPERTS },
    [UP] = { E * F, F, D, QUANT_Q8_0, WEIGHT_EXPERTS },
    [DOWN] = { E * D, D, F, QUANT_Q8_0, WEIGHT_EXPERTS },
};
static const struct { int64_t rows; int cols; quant_type type; } views[VIEWS] = {
    [X] = { 1, D, QUANT_F32 }, [H] = { 1, D, QUANT_F32 }, [Y] = { 2, D, QUANT_F32 }, [MID] = { USED, F, QUANT_F32 },
    [IDS] = { 1, USED, QUANT_I32 }, [SHARES] = { 1, USED, QUANT_F32 },
};

static view view_of(int64_t rows, int cols, quant_type type)
{
    view v = { .rows = rows, .cols = cols, .type = type };
    EXPECT(quant_row_bytes(type, (uint64_t)cols, &v.stride));
    return v;
}

static void make_file(void)
{
    ds4_error err;
    random_stream r;
    float row[D];
    random_seed(&r, 1);
    for (int w = 0; w < WEIGHTS; w++) {
        const view v = view_of(weights[w].rows, weights[w].cols, weights[w].type);
        EXPECT((uint64_t)v.rows * v.stride <= sizeof file[w]);
        for (int64_t i = 0; i < v.rows; i++) {
            for (int j = 0; j < v.cols; j++) row[j] = (float)random_normal(&r);
            EXPECT_OK(quant_encode_row(v.type, file[w] + (uint64_t)i * v.stride, row, NULL, v.cols, &err), err);
        }
    }
}

typedef struct {
    backend *b;
    view     w[WEIGHTS], v[VIEWS];
} model;

static ds4_status adopt(model *m, weight_name i, ds4_error *err)
{
    view w = view_of(weights[i].rows, weights[i].cols, weights[i].type);
    ds4_status st = m->b->buf_map(m->b, file[i], (uint64_t)w.rows * w.stride, &w.buf, err);
    if (st) return st;
    buf *map = w.buf;
    st = m->b->adopt(m->b, &w, weights[i].use, weights[i].each, err);
    m->b->buf_free(m->b, map);
    if (!st) m->w[i] = w;
    return st;
}

/* Takes the device. A part of the experts has room on the card, and two more beside them. */
static ds4_status model_open(model *m, gpu_device *d, ds4_error *err)
{
    const backend_options o = { .name = "cuda", .limits = limits, .mirrored = true, .expert_bytes = 20 * MATRIX };
    *m = (model){ 0 };
    ds4_status st = cuda_open_on(&m->b, d, &o, err);
    for (int i = 0; i < WEIGHTS && !st; i++) st = adopt(m, (weight_name)i, err);
    for (int i = 0; i < VIEWS && !st; i++) {
        view v = view_of(views[i].rows, views[i].cols, views[i].type);
        st = m->b->buf_alloc(m->b, (uint64_t)v.rows * v.stride, &v.buf, err);
        if (!st) m->v[i] = v;
    }
    return st;
}

static void model_close(model *m)
{
    if (!m->b) return;
    for (int i = 0; i < VIEWS; i++) m->b->buf_free(m->b, m->v[i].buf);
    for (int i = 0; i < WEIGHTS; i++) m->b->buf_free(m->b, m->w[i].buf);
    m->b->close(m->b);
}

static ds4_status ops_of_step(model *m, ds4_error *err)
{
    backend *b = m->b;
    const view *v = m->v, *w = m->w;
    ds4_status st = b->ops.rms_norm(&b->queue, &(rms_norm_args){ .x = v[X], .y = v[H], .weight = w[NORM], .eps = 1e-6f, .name = "norm" });
    if (!st) st = b->ops.matmul(&b->queue, &(matmul_args){ .w = w[PROJECTION], .x = v[H], .y = view_rows(v[Y], 0, 1), .name = "w" });
    if (!st) st = b->ops.expert_ffn(&b->queue, &(expert_ffn_args){ .x = v[H], .y = view_rows(v[Y], 1, 1), .gate = w[GATE], .up = w[UP],
                                                                  .down = w[DOWN], .ids = v[IDS], .weights = v[SHARES],
                                                                  .mid = v[MID], .n_experts = E, .limit = 7.0f });
    return st ? ds4_fail(err, st, "%s", b->queue.error.message) : DS4_OK;
}

static ds4_status step(model *m, int number, ds4_error *err)
{
    backend *b = m->b;
    const int32_t pos = number, token = 0, of = 0, logits = 0;
    const segment s = { .n = 1, .pos = number };
    const batch_rows rows = { 1, &pos, &token, &of, &s, 1 };
    const step_shape shape = { .rows = &rows, .logits_rows = &logits, .n_logits = 1 };
    bool done, again = true;
    ds4_status st = DS4_OK;
    while (again && !st) {
        ds4_error ending;
        if ((st = b->step_begin(b, &shape, &done, err))) return st;
        if (!done) st = ops_of_step(m, err);
        const ds4_status ended = b->step_end(b, !st, &again, &ending);
        if (!st && ended) st = ds4_fail(err, ended, "%s", ending.message);
    }
    return st;
}

/* Each row of y by itself, from and to rows that do not follow each other. */
static ds4_status run(model *m, float got[2][D], ds4_error *err)
{
    float x[D];
    const int32_t ids[USED] = { E - 2, E - 1 };         /* far from the card at first */
    const float shares[USED] = { 0.75f, 0.5f };
    for (int i = 0; i < D; i++) x[i] = (float)(i % 7) - 3.0f;
    const move_piece in[] = { { m->v[X], x }, { m->v[IDS], (void *)(uintptr_t)ids }, { m->v[SHARES], (void *)(uintptr_t)shares } };
    const move_piece out[] = { { view_rows(m->v[Y], 0, 1), got[0] }, { view_rows(m->v[Y], 1, 1), got[1] } };
    ds4_status st = m->b->move(m->b, true, in, 3, err);
    for (int i = 0; i < STEPS && !st; i++)
        if ((st = step(m, i, err)) == DS4_EMEMORY) st = step(m, i, err);        /* once more is no harm */
    if (!st) st = m->b->wait(m->b, err);
    return st ? st : m->b->move(m->b, false, out, 2, err);
}

/* ---- on a device ------------------------------------------------------------------------------- */

static struct {
    ds4_status (*open)(gpu_device **out, ds4_error *err);
    float      want[2][D];
    uint64_t   exchanges;
    int        recordings;
} on;

static fake_options card;

static ds4_status open_fake(gpu_device **out, ds4_error *err) { return fake_device_open(out, &card, err); }

static ds4_status open_driver(gpu_device **out, ds4_error *err)
{
    const cuda_api api = mock_cuda();
    return driver_open(out, &api, &mock_images, 0, err);
}

static ds4_status all_of_it(float got[2][D], ds4_error *err)
{
    model m = { 0 };
    gpu_device *d;
    ds4_status st = on.open(&d, err);
    if (st) return st;
    if (!(st = model_open(&m, d, err))) st = run(&m, got, err);
    if (!st) {
        on.exchanges = cuda_residency_counts(m.b).exchanges;
        on.recordings = cuda_step_recordings((cuda_backend *)m.b);
    }
    model_close(&m);
    return st;
}

/* With nothing in the way. */
static void start(ds4_status (*open)(gpu_device **out, ds4_error *err))
{
    ds4_error err;
    make_file();
    card = (fake_options){ .seed = 5 };
    mock_reset();
    on.open = open;
    EXPECT_OK(all_of_it(on.want, &err), err);
    EXPECT_INT(on.recordings, 1);
    EXPECT(on.exchanges > 0);
}

static ds4_status body(void *ctx, ds4_error *err)
{
    float got[2][D];
    (void)ctx;
    const ds4_status st = all_of_it(got, err);
    if (!st) EXPECT(memcmp(got, on.want, sizeof got) == 0);
    EXPECT_INT(mock_alive(), 0);
    return st;
}

TEST(every_allocation_of_the_cuda_backend_may_fail)
{
    start(open_fake);
    fault_each(body, NULL);
}

TEST(every_allocation_of_the_driver_s_device_may_fail)
{
    start(open_driver);
    fault_each(body, NULL);
}

/* With EMEMORY and a sentence, or right without. */
static void expect_told(const char *what, int n)
{
    ds4_error err = { 0 };
    const ds4_status st = body(NULL, &err);
    if (st && (st != DS4_EMEMORY || !err.message[0]))
        test_fail(__FILE__, __LINE__, "%s %d fails: status %d \"%s\"", what, n, st, err.message);
}

TEST(every_allocation_of_the_card_may_fail)
{
    enum { MOST = 200 };
    start(open_fake);
    int done_without = 0, n = 1;
    for (bool exchanging = true; n < MOST; n++) {
        card.fail_alloc = n;
        on.recordings = 0;
        on.exchanges = 0;
        expect_told("allocation", n);
        if (!on.recordings) continue;           /* ended with a sentence */
        if (exchanging && on.exchanges == 0) done_without++;
        else break;                             /* met no failure        */
    }
    EXPECT(n > 20 && n < MOST);
    EXPECT_INT(done_without, 6);                /* the places that exchanges need */
}

TEST(every_call_for_memory_to_the_driver_may_fail)
{
    static const char *const calls[] = { "cuMemAlloc_v2", "cuMemHostAlloc", "cuMemHostGetDevicePointer_v2",
                                         "cuGraphInstantiateWithFlags", "cuModuleLoadData", "cuStreamCreate", "cuEventCreate" };
    enum { CALLS = sizeof calls / sizeof *calls };
    int times[CALLS];
    start(open_driver);
    for (int i = 0; i < CALLS; i++) times[i] = mock_calls(calls[i]);
    for (int i = 0; i < CALLS; i++) {
        EXPECT(times[i] > 0);
        for (int n = 1; n <= times[i]; n += 1 + n / 20) {
            mock_reset();
            mock_fail(calls[i], n, CU_OUT_OF_MEMORY, false);
            expect_told(calls[i], n);
        }
    }
}
