/* check: a backend that runs another one and the scalar definitions side by
 * side, and names the first op whose results differ.
 *
 * For each op: keep what it will overwrite, run the definition, keep its
 * results, put the old bytes back, run the backend under test, compare. The
 * run goes on with the tested backend's results, so an error is named where it
 * is made and not where it ends up. Device memory needs a mirror in the host's. */
#include "kernels/backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "kernels/results.h"
#include "kernels/wrap.h"

/* Reordered float sums and activations rounded to the other side of a tie; both
 * are far below it, and the common mistakes far above. Relative to the result's
 * root mean square. */
#define CHECK_TOLERANCE 5e-3

typedef struct {
    const char *result;
    view        v;
    kv_row      stored;         /* F32 of the view's width for plain elements */
    uint8_t    *before, *want;  /* owned, dense rows                          */
    float      *numbers;        /* owned, [2][stored.width]                   */
    uint64_t    row_bytes;
} kept_result;

typedef struct {
    wrapper      w;
    backend     *ref;           /* owned */
    kept_result *kept;          /* of the op that runs now */
    int          n_kept, cap_kept;
    bool         no_memory;
} check_backend;

static void copy_out(uint8_t *to, view v, uint64_t row_bytes)
{
    for (int64_t r = 0; r < v.rows; r++) memcpy(to + (uint64_t)r * row_bytes, view_at(v, r), row_bytes);
}

static void copy_in(view v, const uint8_t *from, uint64_t row_bytes)
{
    for (int64_t r = 0; r < v.rows; r++) memcpy(view_at(v, r), from + (uint64_t)r * row_bytes, row_bytes);
}

static void keep_result(void *ctx, const char *result, view v, const kv_row *stored)
{
    check_backend *c = ctx;
    if (c->n_kept == c->cap_kept) {
        const int cap = c->cap_kept ? 2 * c->cap_kept : 16;
        kept_result *more = realloc(c->kept, (size_t)cap * sizeof *more);
        if (!more) {
            c->no_memory = true;
            return;
        }
        c->kept = more;
        c->cap_kept = cap;
    }
    kept_result *k = &c->kept[c->n_kept];
    *k = (kept_result){ .result = result, .v = v, .row_bytes = view_row_bytes(v),
                        .stored = stored ? *stored : (kv_row){ KV_ROW_F32, v.cols, 0 } };
    const uint64_t n = k->row_bytes * (uint64_t)v.rows;
    k->before = malloc(n ? n : 1);
    k->want = malloc(n ? n : 1);
    k->numbers = malloc((size_t)(k->stored.width ? k->stored.width : 1) * 2 * sizeof *k->numbers);
    c->n_kept++;
    if (!k->before || !k->want || !k->numbers) c->no_memory = true;
    else copy_out(k->before, v, k->row_bytes);
}

static void drop_results(check_backend *c)
{
    for (int i = 0; i < c->n_kept; i++) {
        free(c->kept[i].before);
        free(c->kept[i].want);
        free(c->kept[i].numbers);
    }
    c->n_kept = 0;
    c->no_memory = false;
}

/* Chosen rows and expert ids must be equal. */
static ds4_status compare_integers(queue *dev, const char *op, const result_visit *at, const kept_result *k)
{
    for (int64_t r = 0; r < k->v.rows; r++) {
        const int32_t *got = view_i32(k->v, r);
        const int32_t *want = (const int32_t *)(const void *)(k->want + (uint64_t)r * k->row_bytes);
        for (int c = 0; c < k->v.cols; c++)
            if (got[c] != want[c])
                return queue_fail(dev, DS4_EDEVICE, "check: %s %s layer %d: %s[%lld][%d] is %d, the definition gives %d",
                                  op, at->name, at->layer, k->result, (long long)r, c, got[c], want[c]);
    }
    return DS4_OK;
}

/* Numbers near a tie round to either of two codes, so a packed row may be a step
 * of its format away. */
static ds4_status compare(queue *dev, const char *op, const result_visit *at, const kept_result *k)
{
    if (k->v.type == QUANT_I32) return compare_integers(dev, op, at, k);
    const int cols = k->stored.width;
    float *got = k->numbers, *want = k->numbers + cols;
    double sum = 0.0;

    for (int64_t r = 0; r < k->v.rows; r++) {
        kv_row_unpack(k->stored, want, k->want + (uint64_t)r * k->row_bytes);
        for (int c = 0; c < cols; c++)
            if (isfinite(want[c])) sum += (double)want[c] * want[c];
    }
    const int64_t n = k->v.rows * cols;
    const double tolerance = CHECK_TOLERANCE * sqrt(sum / (double)(n ? n : 1));

    for (int64_t r = 0; r < k->v.rows; r++) {
        const uint8_t *got_row = view_at(k->v, r), *want_row = k->want + (uint64_t)r * k->row_bytes;
        kv_row_unpack(k->stored, got, got_row);
        kv_row_unpack(k->stored, want, want_row);
        for (int c = 0; c < cols; c++) {
            const double off = fabs((double)got[c] - want[c]);
            if (got[c] == want[c] || off <= tolerance || (isnan(got[c]) && isnan(want[c]))) continue;
            if (off <= tolerance + fmaxf(kv_row_step(k->stored, got_row, c), kv_row_step(k->stored, want_row, c)))
                continue;
            return queue_fail(dev, DS4_EDEVICE,
                              "check: %s %s layer %d: %s[%lld][%d] is %.8g, the definition gives %.8g (tolerance %.2g)",
                              op, at->name, at->layer, k->result, (long long)r, c, (double)got[c], (double)want[c],
                              tolerance);
        }
    }
    return DS4_OK;
}

/* What the backend under test computed, where the host can look at it. */
static ds4_status fetch(queue *dev, check_backend *c, view v)
{
    ds4_error err;
    const ds4_status st = c->w.base.mirror ? c->w.base.mirror(&c->w.base, v, &err) : DS4_OK;
    return st ? queue_fail(dev, st, "%s", err.message) : DS4_OK;
}

#define CHECK_PRIMITIVE(op)                                                   \
    static ds4_status check_##op(queue *dev, const op##_args *a)              \
    {                                                                         \
        check_backend *c = (check_backend *)dev->backend;                     \
        result_visit at = { .fn = keep_result, .ctx = c };                    \
        results_##op(a, &at);                                                 \
        ds4_status st = c->no_memory                                          \
            ? queue_fail(dev, DS4_EMEMORY, "check: no memory to keep the results of %s", #op) \
            : c->ref->ops.op(&c->ref->queue, a);                              \
        for (int i = 0; i < c->n_kept && !st; i++) {                          \
            copy_out(c->kept[i].want, c->kept[i].v, c->kept[i].row_bytes);    \
            copy_in(c->kept[i].v, c->kept[i].before, c->kept[i].row_bytes);   \
        }                                                                     \
        if (!st) st = wrap_status(dev, c->w.inner->ops.op(&c->w.inner->queue, a)); \
        for (int i = 0; i < c->n_kept && !st; i++) st = fetch(dev, c, c->kept[i].v); \
        for (int i = 0; i < c->n_kept && !st; i++) st = compare(dev, #op, &at, &c->kept[i]); \
        drop_results(c);                                                      \
        return st;                                                            \
    }
OPS_PRIMITIVES(CHECK_PRIMITIVE)

/* A replaced stage is compared as a whole with its definition on the reference;
 * a default one is entered, so that its primitives are compared. */
#define CHECK_STAGE(op)                                                       \
    static ds4_status check_stage_##op(queue *dev, const op##_args *a)        \
    {                                                                         \
        check_backend *c = (check_backend *)dev->backend;                     \
        return c->w.inner->ops.op == c->w.defaults.op ? c->w.defaults.op(dev, a) : check_##op(dev, a); \
    }
OPS_STAGES(CHECK_PRIMITIVE)
OPS_STAGES(CHECK_STAGE)

static void check_close(backend *b)
{
    if (!b) return;
    check_backend *c = (check_backend *)b;
    drop_results(c);
    free(c->kept);
    c->w.inner->close(c->w.inner);
    if (c->ref) c->ref->close(c->ref);
    free(c);
}

ds4_status backend_check_open(backend **out, backend *inner, const backend_options *o, ds4_error *err)
{
    *out = NULL;
    check_backend *c = calloc(1, sizeof *c);
    if (!c) {
        inner->close(inner);
        return ds4_fail(err, DS4_EMEMORY, "check: no memory for the backend");
    }
    wrap_init(&c->w, inner, "check");

    backend_options ref = *o;
    ref.isa_mask = 0;
    const ds4_status st = backend_cpu_open(&c->ref, &ref, err);
    if (st) {
        check_close(&c->w.base);
        return st;
    }
#define CHECK_SET(op)       c->w.base.ops.op = check_##op;
#define CHECK_SET_STAGE(op) c->w.base.ops.op = check_stage_##op;
    OPS_PRIMITIVES(CHECK_SET)
    OPS_STAGES(CHECK_SET_STAGE)
    c->w.base.close = check_close;
    *out = &c->w.base;
    return DS4_OK;
}
