#include "golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/status.h"
#include "kernels/backend.h"
#include "model/forward.h"

/* ---- the folder ---------------------------------------------------------------- */

static ds4_status read_file(const char *dir, const char *name, char **data, size_t *n, ds4_error *err)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return file_read_all(path, 64u << 20, data, n, err);
}

ds4_status golden_open(golden *g, const char *dir, ds4_error *err)
{
    char *text = NULL, *data = NULL;
    size_t n;
    memset(g, 0, sizeof *g);
    ds4_status st = read_file(dir, "golden.json", &text, &n, err);
    if (!st && !(g->index = json_tokener_parse(text))) st = ds4_fail(err, DS4_EFORMAT, "%s/golden.json is not JSON", dir);
    free(text);
    if (!st && !(st = read_file(dir, "golden.f32", &data, &n, err))) {
        g->f32 = (float *)(void *)data;
        g->n_f32 = n / sizeof(float);
    }
    if (!st && !read_file(dir, "golden.i32", &data, &n, NULL)) {
        g->i32 = (int32_t *)(void *)data;
        g->n_i32 = n / sizeof(int32_t);
    }
    if (st) golden_close(g);
    return st;
}

void golden_close(golden *g)
{
    if (g->index) json_object_put(g->index);
    free(g->f32);
    free(g->i32);
    memset(g, 0, sizeof *g);
}

json_object *golden_get(json_object *o, const char *key)
{
    json_object *v = NULL;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static bool extent(json_object *tensor, size_t have, size_t *offset, size_t *n)
{
    json_object *shape = golden_get(tensor, "shape");
    *offset = (size_t)json_object_get_int64(golden_get(tensor, "offset"));
    *n = 1;
    for (size_t i = 0; i < json_object_array_length(shape); i++)
        *n *= (size_t)json_object_get_int64(json_object_array_get_idx(shape, i));
    return *offset <= have && *n <= have - *offset;
}

const float *golden_floats(const golden *g, json_object *tensor, size_t *n)
{
    size_t offset;
    return extent(tensor, g->n_f32, &offset, n) ? g->f32 + offset : NULL;
}

const int32_t *golden_ints(const golden *g, json_object *tensor, size_t *n)
{
    size_t offset;
    return extent(tensor, g->n_i32, &offset, n) ? g->i32 + offset : NULL;
}

int golden_list(json_object *array, int32_t *out, int cap)
{
    const int n = (int)json_object_array_length(array);
    for (int i = 0; i < n && i < cap; i++) out[i] = json_object_get_int(json_object_array_get_idx(array, (size_t)i));
    return n < cap ? n : cap;
}

/* ---- the trace ------------------------------------------------------------------- */

#define MAX_T 1024

/* What the tap knows while a run is under way. */
typedef struct {
    const golden   *g;
    json_object    *tensors;
    int32_t         at[64];             /* positions of the trace */
    int             n_at;
    float          *streams;            /* [T][S*D] as they enter the next sublayer */
    int             T, n_streams;
    int             n_rows[2];          /* compressed rows seen of this layer: main, index */
    int             n_scores, n_chosen; /* batch rows seen of this layer */
    golden_verdict *verdict;
} tracer;

static void differ(tracer *t, const char *tensor, double difference, double tolerance)
{
    if (!t->verdict->agrees) return;
    t->verdict->agrees = false;
    t->verdict->difference = difference;
    t->verdict->tolerance = tolerance;
    snprintf(t->verdict->tensor, sizeof t->verdict->tensor, "%s", tensor);
}

static json_object *tensor_named(tracer *t, const char *name)
{
    return golden_get(t->tensors, name);
}

/* n floats against elements first.. of a trace tensor. */
static void compare(tracer *t, const char *name, size_t first, const float *got, size_t n)
{
    json_object *d = tensor_named(t, name);
    size_t have;
    const float *want = d ? golden_floats(t->g, d, &have) : NULL;
    if (!want || first + n > have) return;
    const double tolerance = json_object_get_double(golden_get(d, "tol"));
    double worst = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double diff = fabs((double)got[i] - want[first + i]);
        if (!(diff <= worst)) worst = diff;
    }
    t->verdict->compared++;
    if (!(worst <= tolerance)) differ(t, name, worst, tolerance);
}

/* The trace's positions out of a view with one row per token. */
static void compare_rows(tracer *t, const char *name, view v)
{
    for (int i = 0; i < t->n_at; i++)
        compare(t, name, (size_t)i * (size_t)v.cols, view_f32(v, t->at[i]), (size_t)v.cols);
}

/* Lists are ascending; the -1 that fill them up stand in front in the trace and
 * behind in ours, so both are compared from the first entry that counts. */
static void compare_ints(tracer *t, const char *name, int row, const int32_t *got, int cols)
{
    json_object *d = tensor_named(t, name);
    size_t have;
    const int32_t *want = d ? golden_ints(t->g, d, &have) : NULL;
    for (int i = 0; want && i < t->n_at; i++) {
        if (t->at[i] != row) continue;
        t->verdict->compared++;
        const int32_t *w = want + i * cols;
        int skip = 0;
        while (skip < cols && w[skip] < 0) skip++;
        for (int c = 0; c < cols; c++) {
            const int32_t expected = c + skip < cols ? w[c + skip] : -1;
            if (got[c] != expected) differ(t, name, fabs((double)got[c] - expected), 0.0);
        }
    }
}

static void compare_streams(tracer *t, const char *name, int D)
{
    const size_t cols = (size_t)t->n_streams * (size_t)D;
    for (int i = 0; i < t->n_at; i++) compare(t, name, (size_t)i * cols, t->streams + (size_t)t->at[i] * cols, cols);
}

static void keep_streams(tracer *t, view v)
{
    for (int row = 0; row < t->T; row++)
        memcpy(t->streams + (size_t)row * (size_t)v.cols, view_f32(v, row), (size_t)v.cols * sizeof(float));
}

/* Scores come a batch row at a time, visible entries only. */
static void compare_scores(tracer *t, const char *name, view v)
{
    const int row = t->n_scores++;
    json_object *d = tensor_named(t, name);
    if (!d) return;
    const size_t cols = (size_t)json_object_get_int64(json_object_array_get_idx(golden_get(d, "shape"), 1));
    for (int i = 0; i < t->n_at; i++)
        if (t->at[i] == row) compare(t, name, (size_t)i * cols, view_f32(v, 0), (size_t)v.cols);
}

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* Results whose op and name alone tell the trace tensor; one row per token. */
static const struct { const char *op, *name, *result, *tensor; } plain[] = {
    { "hc_mix",   "attn",          "post",    "attn_post"      },
    { "hc_mix",   "attn",          "comb",    "attn_comb"      },
    { "hc_mix",   "attn",          "x",       "attn_in"        },
    { "rms_norm", "attn",          "y",       "attn_normed"    },
    { "rms_norm", "attn_q_a_norm", "y",       "q_lora"         },
    { "q_path",   "",              "q",       "q"              },
    { "kv_path",  "",              "row",     "kv"             },
    { "select_rows", "",           "q",       "index_q"        },
    { "attend",   "",              "heads",   "heads"          },
    { "attn_out", "",              "y",       "attn_out"       },
    { "hc_mix",   "ffn",           "post",    "ffn_post"       },
    { "hc_mix",   "ffn",           "comb",    "ffn_comb"       },
    { "hc_mix",   "ffn",           "x",       "ffn_in"         },
    { "rms_norm", "ffn",           "y",       "ffn_normed"     },
    { "matmul",   "ffn_gate_inp",  "y",       "router_logits"  },
    { "router",   "",              "weights", "expert_weights" },
    { "shared_ffn", "",            "y",       "shared_out"     },
    { "moe_block", "",             "y",       "ffn_out"        },
};

/* Results of the head: its rows are the trace's positions already. */
static void tap_head(tracer *t, const char *op, const char *name, view v)
{
    const char *tensor = is(op, "hc_mix") ? "head_in"
                       : is(op, "rms_norm") ? "final_normed"
                       : is(op, "matmul") && is(name, "output") ? "logits" : NULL;
    if (tensor) compare(t, tensor, 0, view_f32(v, 0), (size_t)v.rows * (size_t)v.cols);
}

static void tap(void *ctx, const char *op, const char *name, int layer, const char *result, view v)
{
    tracer *t = ctx;
    char tensor[48];

    if (is(op, "embed_rows")) {
        keep_streams(t, v);
        for (int i = 0; i < t->n_at; i++)
            compare(t, "embed", (size_t)i * (size_t)(v.cols / t->n_streams), view_f32(v, t->at[i]),
                    (size_t)(v.cols / t->n_streams));
        return;
    }
    if (layer < 0) {
        tap_head(t, op, name, v);
        return;
    }
    if (is(op, "hc_mix") && is(result, "x")) {      /* the first result of a sublayer */
        snprintf(tensor, sizeof tensor, "L%d/%s_streams_in", layer, name);
        compare_streams(t, tensor, v.cols);
        if (is(name, "attn")) t->n_rows[0] = t->n_rows[1] = t->n_scores = t->n_chosen = 0;
    }
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        if (is(op, plain[i].op) && is(name, plain[i].name) && is(result, plain[i].result)) {
            snprintf(tensor, sizeof tensor, "L%d/%s", layer, plain[i].tensor);
            compare_rows(t, tensor, v);
            return;
        }
    if (is(op, "compress") && is(result, "row")) {
        const int index = is(name, "index");
        snprintf(tensor, sizeof tensor, "L%d/%s", layer, index ? "index_k" : "kv_comp");
        compare(t, tensor, (size_t)t->n_rows[index]++ * (size_t)v.cols, view_f32(v, 0), (size_t)v.cols);
    } else if (is(op, "index_scores")) {
        snprintf(tensor, sizeof tensor, "L%d/index_scores", layer);
        compare_scores(t, tensor, v);
    } else if (is(op, "top_k")) {
        snprintf(tensor, sizeof tensor, "L%d/index_rows", layer);
        for (int64_t r = 0; r < v.rows; r++) compare_ints(t, tensor, t->n_chosen++, view_i32(v, r), v.cols);
    } else if (is(op, "router") && is(result, "ids")) {
        snprintf(tensor, sizeof tensor, "L%d/expert_ids", layer);
        for (int64_t r = 0; r < v.rows; r++) compare_ints(t, tensor, (int)r, view_i32(v, r), v.cols);
    } else if (is(op, "hc_expand")) {
        keep_streams(t, v);
        if (!is(name, "ffn")) return;
        snprintf(tensor, sizeof tensor, "L%d/streams_out", layer);
        compare_streams(t, tensor, v.cols / t->n_streams);
    }
}

/* Everything a pass needs, opened and closed together. */
typedef struct {
    model_config   config;
    backend       *b;
    model_weights  weights;
    kv_pool       *pool;
    kv            *memory;
    forward       *pass;
} harness;

static void harness_close(harness *h)
{
    forward_close(h->pass);
    kv_close(h->memory);
    kv_pool_close(h->pool);
    if (h->weights.backend) weights_close(&h->weights);
    if (h->b) h->b->close(h->b);
}

static ds4_status harness_open(harness *h, const gguf *model, int T, uint32_t isa_mask, tracer *t, ds4_error *err)
{
    memset(h, 0, sizeof *h);
    ds4_status st = config_read(&h->config, model, err);
    if (st) return st;
    const forward_options fo = { .max_rows = T, .max_tokens = T, .rounding = false };
    const backend_options bo = { .name = "cpu", .n_threads = 2, .isa_mask = isa_mask,
                                 .limits = forward_limits(&h->config, &fo) };
    const kv_options ko = { .max_sessions = 1, .max_tokens = T, .max_step = T };
    backend *inner;
    if ((st = backend_open(&inner, &bo, err))) return st;
    if ((st = backend_trace_open(&h->b, inner, tap, t, err))) return st;
    if ((st = weights_open(&h->weights, &h->config, model, h->b, NULL, err))) return st;
    if ((st = kv_pool_open(&h->pool, &h->config, &ko, h->b, err))) return st;
    if ((st = kv_open(&h->memory, h->pool, T, err))) return st;
    return forward_open(&h->pass, &h->config, &h->weights, h->b, &fo, err);
}

static ds4_status run_traced(harness *h, tracer *t, const int32_t *ids, ds4_error *err)
{
    int32_t pos[MAX_T], segment_of[MAX_T] = { 0 };
    for (int i = 0; i < t->T; i++) pos[i] = i;
    const segment s = { .kv = &h->memory->memory, .n = t->T };
    const batch_rows rows = { .n = t->T, .pos = pos, .token = ids, .segment_of = segment_of, .segment = &s,
                              .n_segments = 1 };
    float *logits = malloc((size_t)t->n_at * (size_t)h->config.n_vocab * sizeof *logits);
    t->n_streams = h->config.n_streams;
    t->streams = malloc((size_t)t->T * (size_t)(h->config.n_streams * h->config.n_embd) * sizeof(float));
    ds4_status st = logits && t->streams ? kv_begin(h->memory, t->T, err) : ds4_fail(err, DS4_EMEMORY, "no memory to trace");
    if (!st) st = forward_run(h->pass, &rows, t->at, t->n_at, logits, err);
    free(logits);
    free(t->streams);
    return st;
}

ds4_status golden_trace(const golden *g, const gguf *model, uint32_t isa_mask, golden_verdict *out, ds4_error *err)
{
    json_object *trace = golden_get(g->index, "trace");
    if (!trace) return ds4_fail(err, DS4_EARG, "these golden vectors hold no trace");
    *out = (golden_verdict){ .agrees = true };
    tracer t = { .g = g, .tensors = golden_get(trace, "tensors"), .verdict = out,
                 .T = json_object_get_int(golden_get(trace, "length")) };
    t.n_at = golden_list(golden_get(trace, "positions"), t.at, 64);

    int32_t ids[MAX_T];
    int n = 0;
    json_object *sequences = golden_get(g->index, "sequences");
    for (size_t i = 0; i < json_object_array_length(sequences); i++) {
        json_object *s = json_object_array_get_idx(sequences, i);
        if (json_object_get_int(golden_get(s, "length")) == t.T) n = golden_list(golden_get(s, "ids"), ids, MAX_T);
    }
    if (t.T < 1 || t.T > MAX_T || n != t.T)
        return ds4_fail(err, DS4_EFORMAT, "the trace's sequence of %d tokens is not there", t.T);

    harness h;
    ds4_status st = harness_open(&h, model, t.T, isa_mask, &t, err);
    if (!st) st = run_traced(&h, &t, ids, err);
    harness_close(&h);
    return st;
}
