#include "bench/arm.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"
#include "bench/stretch.h"
#include "engine/engine.h"

/* Seconds that no clock adjustment stretches. */
static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- life ---------------------------------------------------------------- */

static ds4_status open_sessions(bench_arm *a, int max_tokens, ds4_error *err)
{
    for (int i = 0; i <= a->n_sessions; i++) {
        const int room = i < a->n_sessions ? max_tokens : min_int(max_tokens, 2 * SENTINEL_TOKENS);
        const ds4_status st = ds4_session_open(&a->session[i], a->engine, room, err);
        if (st) return st;
    }
    return ds4_batch_new(&a->batch, a->engine, err);
}

static ds4_status open_sampler(bench_arm *a, ds4_error *err)
{
    const ds4_logit_bias never = { vocab_special(a->engine->vocab)->eos, -INFINITY };
    ds4_sampling greedy = ds4_sampling_defaults();
    greedy.temperature = 0;
    greedy.bias = &never;
    greedy.n_bias = never.token >= 0;
    return ds4_sampler_new(&a->likeliest, &greedy, a->shape.n_vocab, err);
}

ds4_status arm_open(bench_arm *a, const ds4_engine_options *o, int n_sessions, int max_tokens, ds4_error *err)
{
    ds4_engine_options e = *o;
    *a = (bench_arm){ .n_sessions = n_sessions, .threads = o->n_threads };
    e.max_sessions = n_sessions + 1;
    e.max_tokens = max_int(max_tokens, 2 * SENTINEL_TOKENS);
    e.max_batch_rows = max_int(e.max_batch_rows, n_sessions);
    e.rewind_points = 2;

    a->session = calloc((size_t)n_sessions + 1, sizeof *a->session);
    a->depth = calloc((size_t)n_sessions, sizeof *a->depth);
    a->next = calloc((size_t)n_sessions, sizeof *a->next);
    a->piece = malloc((size_t)e.max_tokens * sizeof *a->piece);
    const uint64_t start = clock_ns();
    ds4_status st = a->session && a->depth && a->next && a->piece
        ? ds4_engine_open(&a->engine, &e, err)
        : ds4_fail(err, DS4_EMEMORY, "no memory for %d sessions", n_sessions);
    a->load_s = (double)(clock_ns() - start) / 1e9;
    if (!st) st = open_sessions(a, e.max_tokens, err);
    if (!st) ds4_engine_shape(a->engine, &a->shape);
    if (!st) st = open_sampler(a, err);
    if (st) {
        arm_close(a);
        return st;
    }
    token_bytes_of_file(&a->bytes, a->engine->file, &a->engine->config);
    const bool packed = kv_is_packed(a->session[0]->kv);
    a->kv_row_bytes = kv_row_bytes(kv_row_format(&a->engine->config, packed, false));
    a->index_row_bytes = kv_row_bytes(kv_row_format(&a->engine->config, packed, true));
    return DS4_OK;
}

void arm_close(bench_arm *a)
{
    ds4_batch_free(a->batch);
    ds4_sampler_free(a->likeliest);
    for (int i = 0; a->session && i <= a->n_sessions; i++) ds4_session_close(a->session[i]);
    ds4_engine_close(a->engine);
    free(a->session);
    free(a->depth);
    free(a->next);
    free(a->piece);
    *a = (bench_arm){ 0 };
}

void arm_set_text(bench_arm *a, const ds4_token *text, int n)
{
    a->text = text;
    a->n_text = n;
}

uint64_t arm_kv_bytes(const bench_arm *a, int n_sessions)
{
    uint64_t n = 0;
    for (int i = 0; i < n_sessions; i++) n += kv_bytes_used(a->session[i]->kv);
    return n;
}

/* ---- text ---------------------------------------------------------------- */

/* Tokens first..first+n-1 of session i's timeline; sessions read different parts. */
static const ds4_token *text_at(bench_arm *a, int i, int first, int n)
{
    const int64_t start = (int64_t)i * (a->n_text / (a->n_sessions + 1) + 1) + first;
    for (int k = 0; k < n; k++) a->piece[k] = a->text[(start + k) % a->n_text];
    return a->piece;
}

/* ---- standing where the cell begins -------------------------------------- */

static bool tell_filled(void *ctx, int done, int total)
{
    bench_arm *a = ctx;
    return !a->on_fill || a->on_fill(a->on_fill_ctx, done, total);
}

/* As far as whole units go; what is left of the depth is computed. */
static ds4_status fill_fast(bench_arm *a, int i, int depth, ds4_error *err)
{
    const int real = stretch_real_tokens(a->engine), length = depth / STRETCH_UNIT * STRETCH_UNIT;
    if (length <= real) return DS4_OK;
    const ds4_status st = ds4_session_feed(a->session[i], text_at(a, i, 0, real), real, tell_filled, a, err);
    return st ? st : stretch_session(a->session[i], length, err);
}

static ds4_status go_to(bench_arm *a, int i, int depth, ds4_error *err)
{
    ds4_session *s = a->session[i];
    if (depth < a->depth[i] || a->depth[i] == 0) {
        ds4_session_reset(s);
        a->depth[i] = 0;
    } else {
        ds4_session_rewind(s, a->depth[i]);
    }
    ds4_status st = DS4_OK;
    if (a->fill_fast && ds4_session_length(s) == 0 && (st = fill_fast(a, i, depth, err))) return st;
    const int at = ds4_session_length(s);
    if (at == depth && at == a->depth[i]) return DS4_OK;
    if (at < depth) st = ds4_session_feed(s, text_at(a, i, at, depth - at), depth - at, tell_filled, a, err);
    if (!st) st = ds4_session_mark(s, err);
    if (!st) a->depth[i] = depth;
    return st;
}

/* The token that decoding begins with: what the logits say, at the very start BOS. */
static void choose_first(bench_arm *a, int i)
{
    if (ds4_session_sample(a->session[i], a->likeliest, false, &a->next[i], NULL) || a->next[i] < 0)
        a->next[i] = vocab_special(a->engine->vocab)->bos;
}

/* ---- running ------------------------------------------------------------- */

static ds4_status decode_step(bench_arm *a, ds4_session **session, ds4_token *next, int n, ds4_error *err)
{
    ds4_status st = DS4_OK;
    ds4_batch_clear(a->batch);
    for (int i = 0; i < n && !st; i++) st = ds4_batch_add(a->batch, session[i], &next[i], 1, DS4_LOGITS_LAST, err);
    if (!st) st = ds4_engine_step(a->engine, a->batch, err);
    for (int i = 0; i < n && !st; i++) {
        st = ds4_session_sample(session[i], a->likeliest, false, &next[i], err);
        if (!st && next[i] < 0) st = ds4_fail(err, DS4_EDEVICE, "the model's logits are not numbers");
    }
    ds4_batch_clear(a->batch);
    return st;
}

static ds4_status run_prompts(bench_arm *a, const bench_cell *c, arm_sample *out, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < c->sessions && !st; i++) {
        const ds4_token *t = text_at(a, i, c->depth, c->prompt);
        const double start = now_s();
        st = ds4_session_feed(a->session[i], t, c->prompt, NULL, NULL, err);
        out->prompt_s += now_s() - start;
    }
    return st;
}

static ds4_status run_decode(bench_arm *a, const bench_cell *c, arm_sample *out, double *gaps, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < c->sessions; i++) choose_first(a, i);
    for (int k = 0; k < c->gen && !st; k++) {
        const double start = now_s();
        st = decode_step(a, a->session, a->next, c->sessions, err);
        const double gap = now_s() - start;
        out->gen_s += gap;
        if (k == 0) out->first_s = gap;
        if (gaps) gaps[k] = gap;
    }
    return st;
}

static uint64_t computed_tokens(const ds4_metrics *m) { return m->prefill_tokens + m->decode_tokens; }

static ds4_expert_metrics experts_between(const ds4_expert_metrics *a, const ds4_expert_metrics *b)
{
    return (ds4_expert_metrics){
        .slots = b->slots, .experts = b->experts, .hits = b->hits - a->hits, .misses = b->misses - a->misses,
        .bytes_read = b->bytes_read - a->bytes_read, .ahead = b->ahead - a->ahead,
        .ahead_used = b->ahead_used - a->ahead_used, .wait_ns = b->wait_ns - a->wait_ns,
        .busy_ns = b->busy_ns - a->busy_ns,
    };
}

bool arm_device(const bench_arm *a, backend_device *out)
{
    backend *b = a->engine->backend;
    *out = (backend_device){ 0 };
    return b->device_now && !b->device_now(b, out, NULL);
}

ds4_status arm_run(bench_arm *a, const bench_cell *c, arm_sample *out, double *gaps, ds4_error *err)
{
    ds4_status st = DS4_OK;
    *out = (arm_sample){ .prompt_tokens = c->prompt * c->sessions, .gen_tokens = c->gen * c->sessions };
    for (int i = 0; i < c->sessions && !st; i++) st = go_to(a, i, c->depth, err);
    if (st) return st;

    host_usage before, after;
    backend_device device;
    host_usage_read(&before);
    ds4_metrics engine_before, engine_after;
    ds4_engine_metrics(a->engine, &engine_before);
    if (c->prompt) st = run_prompts(a, c, out, err);
    if (!st && c->gen) st = run_decode(a, c, out, gaps, err);
    host_usage_read(&after);

    ds4_engine_metrics(a->engine, &engine_after);
    out->experts = experts_between(&engine_before.experts, &engine_after.experts);
    out->cached = computed_tokens(&engine_after) - computed_tokens(&engine_before)
               != (uint64_t)(out->prompt_tokens + out->gen_tokens);
    out->major_faults = after.major_faults - before.major_faults;
    out->swapped_in = after.swapped_in - before.swapped_in;
    out->rss = after.rss;
    if (arm_device(a, &device)) out->device_used = device.total - device.available;
    out->others = host_usage_others(&before, &after);
    return st;
}

ds4_status arm_walk(bench_arm *a, int from, int to, int gen, arm_sample *out, ds4_error *err)
{
    const bench_cell c = { .prompt = to - from, .gen = gen, .depth = from, .sessions = 1 };
    *out = (arm_sample){ .prompt_tokens = c.prompt, .gen_tokens = gen, .others = -1 };
    if (from == 0) ds4_session_reset(a->session[0]);
    ds4_status st = run_prompts(a, &c, out, err);
    if (!st) st = ds4_session_mark(a->session[0], err);
    if (st) return st;
    a->depth[0] = to;
    st = run_decode(a, &c, out, NULL, err);
    ds4_session_rewind(a->session[0], to);
    return st;
}

ds4_status arm_sentinel(bench_arm *a, double *rate, ds4_error *err)
{
    ds4_session *s = a->session[a->n_sessions];
    ds4_token token = vocab_special(a->engine->vocab)->bos;
    ds4_session_reset(s);
    ds4_status st = decode_step(a, &s, &token, 1, err);         /* warms up */
    const double start = now_s();
    for (int i = 0; i < SENTINEL_TOKENS && !st; i++) st = decode_step(a, &s, &token, 1, err);
    *rate = SENTINEL_TOKENS / (now_s() - start);
    return st;
}
