/* session: one timeline, its rewind points, and feeding it. */
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

static void count_sessions(ds4_engine *e, int change)
{
    e->n_sessions += change;
    pthread_mutex_lock(&e->metrics_lock);
    e->metrics.sessions = e->n_sessions;
    pthread_mutex_unlock(&e->metrics_lock);
}

ds4_status ds4_session_open(ds4_session **out, ds4_engine *e, int max_tokens, ds4_error *err)
{
    *out = NULL;
    if (e->lost) return ds4_fail(err, DS4_EDEVICE, "the device was lost; the engine must be opened again");
    if (e->n_sessions == engine_sessions(&e->o))
        return ds4_fail(err, DS4_EFULL, "%d sessions are open; this engine was opened for no more", e->n_sessions);
    ds4_session *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for a session");
    s->engine = e;
    s->logits_row = -1;
    count_sessions(e, +1);

    ds4_status st = kv_open(&s->kv, e->pool, max_tokens, err);
    if (!st) {
        s->tokens = malloc((size_t)max_tokens * sizeof *s->tokens);
        s->logits = malloc((size_t)e->config.n_vocab * sizeof *s->logits);
        s->points = calloc((size_t)e->o.rewind_points + 1, sizeof *s->points);
        if (!s->tokens || !s->logits || !s->points)
            st = ds4_fail(err, DS4_EMEMORY, "no memory for a session of %d tokens", max_tokens);
    }
    if (st) {
        ds4_session_close(s);
        return st;
    }
    *out = s;
    return DS4_OK;
}

/* Drops the points from number `first` on. */
static void drop_points(ds4_session *s, int first)
{
    while (s->n_points > first) free(s->points[--s->n_points].state);
}

void ds4_session_close(ds4_session *s)
{
    if (!s) return;
    drop_points(s, 0);
    session_drop_logits(s);
    kv_close(s->kv);
    free(s->tokens);
    free(s->logits);
    free(s->points);
    count_sessions(s->engine, -1);
    free(s);
}

void ds4_session_reset(ds4_session *s)
{
    drop_points(s, 0);
    kv_clear(s->kv);
    session_drop_logits(s);
    s->pinned = 0;
}

int              ds4_session_length(const ds4_session *s)   { return s->kv->length; }
int              ds4_session_capacity(const ds4_session *s) { return s->kv->capacity; }
const ds4_token *ds4_session_tokens(const ds4_session *s)   { return s->tokens; }

uint64_t ds4_session_kv_bytes(const ds4_session *s)
{
    uint64_t n = kv_bytes_used(s->kv);
    for (int i = 0; i < s->n_points; i++) n += s->points[i].state_bytes;
    return n;
}

void session_advance(ds4_session *s, const ds4_token *t, int n)
{
    memcpy(s->tokens + s->kv->length, t, (size_t)n * sizeof *t);
    kv_commit(s->kv, n);
    session_drop_logits(s);
}

/* ---- logits ----------------------------------------------------------------------------- */

void session_drop_logits(ds4_session *s)
{
    if (s->logits_row >= 0 && s->engine->kept[s->logits_row] == s) s->engine->kept[s->logits_row] = NULL;
    s->has_logits = false;
    s->logits_row = -1;
}

void session_take_logits(ds4_session *s, const void *logits)
{
    session_drop_logits(s);
    memcpy(s->logits, logits, (size_t)s->engine->config.n_vocab * sizeof *s->logits);
    s->has_logits = true;
}

void session_keep_logits(ds4_session *s, int row)
{
    session_drop_logits(s);
    s->has_logits = true;
    s->logits_row = row;
    s->engine->kept[row] = s;
    forward_top *t = &s->top_store;
    *t = forward_tops(s->engine->forward)[row];
    int n = 0;
    while (n < FORWARD_TOP && t->id[n] >= 0 && !isnan(t->value[n])) n++;
    s->top = (ds4_top_logits){ .token = t->id, .logit = t->value, .n = n, .sum = t->norm[1] };
}

ds4_status session_fetch_logits(ds4_session *s, ds4_error *err)
{
    if (s->logits_row < 0) return DS4_OK;
    const ds4_status st = engine_note(s->engine, forward_logits(s->engine->forward, s->logits_row, s->logits, err));
    session_drop_logits(s);
    s->has_logits = !st;
    return st;
}

const float *ds4_session_logits(const ds4_session *constant)
{
    ds4_session *s = (ds4_session *)constant;       /* where they lie is nobody's business */
    if (session_fetch_logits(s, NULL)) return NULL;
    return s->has_logits ? s->logits : NULL;
}

ds4_status ds4_session_sample(ds4_session *s, ds4_sampler *sampler, bool best, ds4_token *out, ds4_error *err)
{
    *out = -1;
    if (!s->has_logits) return ds4_fail(err, DS4_EARG, "the session has no logits: its last step did not ask for them");
    if (s->logits_row >= 0 && ds4_sample_top(sampler, &s->top, best, out)) return DS4_OK;
    const ds4_status st = session_fetch_logits(s, err);
    if (!st) *out = best ? ds4_sample_best(sampler, s->logits) : ds4_sample(sampler, s->logits);
    return st;
}

/* ---- rewind points -------------------------------------------------------------------- */

/* Gives up the point whose neighbours are closest to each other, sparing the
 * pinned one and the newest three while there are others. */
static void give_up_a_point(ds4_session *s)
{
    int worst = 0, least = INT32_MAX;
    const int candidates = max_int(1, s->n_points - 3);
    for (int i = 0; i < candidates; i++) {
        if (s->points[i].length == s->pinned) {
            if (candidates == 1 && s->n_points > 1) worst = 1;
            continue;
        }
        const int before = i > 0 ? s->points[i - 1].length : 0;
        const int after = i + 1 < s->n_points ? s->points[i + 1].length : s->kv->length;
        if (after - before < least) {
            least = after - before;
            worst = i;
        }
    }
    free(s->points[worst].state);
    memmove(&s->points[worst], &s->points[worst + 1], (size_t)(s->n_points - worst - 1) * sizeof *s->points);
    s->n_points--;
}

ds4_status ds4_session_mark(ds4_session *s, ds4_error *err)
{
    const int length = s->kv->length;
    if (s->engine->o.rewind_points == 0) return ds4_fail(err, DS4_EFULL, "this engine keeps no rewind points");
    if (length == 0) return DS4_OK;                 /* rewinding to 0 needs no point */
    if (s->n_points > 0 && s->points[s->n_points - 1].length == length) drop_points(s, s->n_points - 1);
    ds4_status st = session_fetch_logits(s, err);
    if (st) return st;

    const uint64_t state = kv_point_bytes(s->kv, length), logits = (uint64_t)s->engine->config.n_vocab * sizeof(float);
    rewind_point p = { .length = length, .has_logits = s->has_logits, .state_bytes = state + logits };
    p.state = malloc(p.state_bytes);
    if (!p.state) return ds4_fail(err, DS4_EMEMORY, "no memory for a rewind point of %llu bytes",
                                  (unsigned long long)p.state_bytes);
    st = kv_point_take(s->kv, p.state, err);
    if (st) {
        free(p.state);
        return st;
    }
    if (p.has_logits) memcpy(p.state + state, s->logits, logits);

    if (s->n_points == s->engine->o.rewind_points) give_up_a_point(s);
    s->points[s->n_points++] = p;
    return DS4_OK;
}

/* The last point at or before want, -1: none. */
static int point_at(const ds4_session *s, int want)
{
    int i = s->n_points - 1;
    while (i >= 0 && s->points[i].length > want) i--;
    return i;
}

int ds4_session_rewind_point(const ds4_session *s, int want)
{
    if (want >= s->kv->length) return s->kv->length;
    const int i = point_at(s, want);
    return i < 0 ? 0 : s->points[i].length;
}

void ds4_session_pin(ds4_session *s, int length) { s->pinned = length; }

bool ds4_session_has_logits(const ds4_session *s, int length)
{
    if (length == s->kv->length) return s->has_logits;
    const int i = point_at(s, length);
    return i >= 0 && s->points[i].length == length && s->points[i].has_logits;
}

int ds4_session_rewind(ds4_session *s, int want)
{
    if (want >= s->kv->length) return s->kv->length;
    const int i = point_at(s, want);
    if (i < 0) {
        ds4_session_reset(s);
        return 0;
    }
    const rewind_point *p = &s->points[i];
    const uint64_t logits = (uint64_t)s->engine->config.n_vocab * sizeof(float);
    if (kv_point_restore(s->kv, p->length, p->state, NULL)) {       /* the device is lost; so is what it held */
        ds4_session_reset(s);
        return 0;
    }
    session_drop_logits(s);
    if (p->has_logits) session_take_logits(s, p->state + (p->state_bytes - logits));
    drop_points(s, i + 1);
    return p->length;
}

/* ---- feeding ------------------------------------------------------------------------------ */

ds4_status ds4_session_feed(ds4_session *s, const ds4_token *t, int n,
                            bool (*on_chunk)(void *ctx, int done, int total), void *ctx, ds4_error *err)
{
    ds4_engine *e = s->engine;
    if (n > s->kv->capacity - s->kv->length)
        return ds4_fail(err, DS4_EFULL, "%d tokens do not fit: %d of %d are used", n, s->kv->length, s->kv->capacity);
    for (int done = 0; done < n;) {
        const int count = min_int(n - done, e->o.max_batch_rows);
        const bool last = done + count == n;
        ds4_batch_clear(e->feed);
        ds4_status st = ds4_batch_add(e->feed, s, t + done, count, last ? DS4_LOGITS_LAST : DS4_LOGITS_NONE, err);
        if (!st) st = ds4_engine_step(e, e->feed, err);
        ds4_batch_clear(e->feed);
        if (st) return st;
        done += count;
        if (on_chunk && !on_chunk(ctx, done, n) && !last)
            return ds4_fail(err, DS4_ECANCELLED, "stopped after %d of %d tokens", done, n);
    }
    return DS4_OK;
}
