/* batch: the rows of the next step, and the step. */
#include "engine/engine.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"

struct ds4_batch {
    ds4_engine   *engine;
    int           n_rows, n_segments, n_logits;
    int32_t      *pos, *token, *segment_of;     /* [max_batch_rows] */
    int32_t      *logits_row;   /* [max_batch_rows] rows that want logits, ascending   */
    int32_t      *logits_of;    /* [max_batch_rows] place among them, -1: none         */
    segment      *segments;     /* [engine_sessions]                                   */
    ds4_session **sessions;     /* [engine_sessions]                                   */
    float        *logits;       /* [cap_logits][V]                                     */
    int           cap_logits;
    bool          stepped;      /* logits are there                                    */
    bool          kept;         /* on the device, as long as no other pass was run     */
    uint64_t      pass;
    bool          fetched[FORWARD_KEPT];
};

ds4_status ds4_batch_new(ds4_batch **out, ds4_engine *e, ds4_error *err)
{
    *out = NULL;
    ds4_batch *b = calloc(1, sizeof *b);
    const size_t rows = (size_t)e->o.max_batch_rows, sessions = (size_t)engine_sessions(&e->o);
    if (!b) return ds4_fail(err, DS4_EMEMORY, "no memory for a batch");
    b->engine = e;
    b->pos = malloc(rows * sizeof *b->pos);
    b->token = malloc(rows * sizeof *b->token);
    b->segment_of = malloc(rows * sizeof *b->segment_of);
    b->logits_row = malloc(rows * sizeof *b->logits_row);
    b->logits_of = malloc(rows * sizeof *b->logits_of);
    b->segments = malloc(sessions * sizeof *b->segments);
    b->sessions = malloc(sessions * sizeof *b->sessions);
    if (!b->pos || !b->token || !b->segment_of || !b->logits_row || !b->logits_of || !b->segments || !b->sessions) {
        ds4_batch_free(b);
        return ds4_fail(err, DS4_EMEMORY, "no memory for a batch of %d rows", e->o.max_batch_rows);
    }
    *out = b;
    return DS4_OK;
}

void ds4_batch_free(ds4_batch *b)
{
    if (!b) return;
    ds4_batch_clear(b);
    free(b->pos);
    free(b->token);
    free(b->segment_of);
    free(b->logits_row);
    free(b->logits_of);
    free(b->segments);
    free(b->sessions);
    free(b->logits);
    free(b);
}

void ds4_batch_clear(ds4_batch *b)
{
    for (int i = 0; i < b->n_segments && !b->stepped; i++) b->sessions[i]->in_batch = 0;
    b->n_rows = b->n_segments = b->n_logits = 0;
    b->stepped = false;
}

int ds4_batch_rows(const ds4_batch *b) { return b->n_rows; }

static ds4_status room_for_logits(ds4_batch *b, int n, ds4_error *err)
{
    if (n <= b->cap_logits) return DS4_OK;
    const size_t row = (size_t)b->engine->config.n_vocab * sizeof(float);
    float *more = realloc(b->logits, (size_t)n * row);
    if (!more) return ds4_fail(err, DS4_EMEMORY, "no memory for the logits of %d rows", n);
    b->logits = more;
    b->cap_logits = n;
    return DS4_OK;
}

static ds4_status check_add(const ds4_batch *b, const ds4_session *s, const ds4_token *t, int n, ds4_error *err)
{
    const ds4_engine *e = b->engine;
    if (n < 1) return ds4_fail(err, DS4_EARG, "a batch needs at least one token of a session");
    if (s->engine != e) return ds4_fail(err, DS4_EARG, "the session belongs to another engine");
    if (s->in_batch) return ds4_fail(err, DS4_EARG, "the session is in a batch already");
    if (n > e->o.max_batch_rows - b->n_rows)
        return ds4_fail(err, DS4_EFULL, "%d rows do not fit a step of %d that holds %d", n, e->o.max_batch_rows,
                        b->n_rows);
    if (n > s->kv->capacity - s->kv->length)
        return ds4_fail(err, DS4_EFULL, "the context is full: %d of %d tokens are used and %d more were to come",
                        s->kv->length, s->kv->capacity, n);
    for (int i = 0; i < n; i++)
        if (t[i] < 0 || t[i] >= e->config.n_vocab)
            return ds4_fail(err, DS4_EARG, "token id %d is out of range: the model has %d tokens", t[i],
                            e->config.n_vocab);
    return DS4_OK;
}

ds4_status ds4_batch_add(ds4_batch *b, ds4_session *s, const ds4_token *t, int n, ds4_logits logits, ds4_error *err)
{
    if (b->stepped) ds4_batch_clear(b);
    ds4_status st = check_add(b, s, t, n, err);
    if (st) return st;
    const int wanted = logits == DS4_LOGITS_ALL ? n : logits == DS4_LOGITS_LAST ? 1 : 0;
    if ((st = room_for_logits(b, b->n_logits + wanted, err))) return st;

    const int first = b->n_rows, index = b->n_segments++;
    b->segments[index] = (segment){ .kv = &s->kv->memory, .first = first, .n = n, .pos = s->kv->length };
    b->sessions[index] = s;
    s->in_batch = n;
    for (int i = 0; i < n; i++) {
        b->pos[first + i] = s->kv->length + i;
        b->token[first + i] = t[i];
        b->segment_of[first + i] = index;
        b->logits_of[first + i] = -1;
        if (i < n - wanted) continue;
        b->logits_of[first + i] = b->n_logits;
        b->logits_row[b->n_logits++] = first + i;
    }
    b->n_rows += n;
    return DS4_OK;
}

static void count_step(ds4_engine *e, const ds4_batch *b, uint64_t ns)
{
    uint64_t decode = 0, prefill = 0;
    for (int i = 0; i < b->n_segments; i++) {
        if (b->segments[i].n == 1) decode++;
        else prefill += (uint64_t)b->segments[i].n;
    }
    const backend_expert_counts n = e->backend->expert_counts ? e->backend->expert_counts(e->backend)
                                                              : (backend_expert_counts){ 0 };
    pthread_mutex_lock(&e->metrics_lock);
    e->metrics.card_experts = (ds4_card_expert_metrics){ n.hits, n.misses, n.bus_bytes, n.exchanges };
    e->metrics.steps++;
    e->metrics.decode_tokens += decode;
    e->metrics.prefill_tokens += prefill;
    *(prefill ? &e->metrics.prefill_ns : &e->metrics.decode_ns) += ns;
    pthread_mutex_unlock(&e->metrics_lock);
}

/* Logits that nobody asked for yet come to the host before the pass that writes over them. Sessions of the batch get
 * new ones, or keep the old ones if the pass does not come to its end. */
static ds4_status save_logits(ds4_engine *e, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < FORWARD_KEPT && !st; i++)
        if (e->kept[i] && !e->kept[i]->in_batch) st = session_fetch_logits(e->kept[i], err);
    return st;
}

static void give_logits(ds4_batch *b, int i)
{
    const segment *g = &b->segments[i];
    const int at = b->logits_of[g->first + g->n - 1];
    if (at < 0) return;
    if (b->kept) session_keep_logits(b->sessions[i], at);
    else session_take_logits(b->sessions[i], b->logits + (size_t)at * (size_t)b->engine->config.n_vocab);
}

ds4_status ds4_engine_step(ds4_engine *e, ds4_batch *b, ds4_error *err)
{
    if (b->n_rows == 0) return ds4_fail(err, DS4_EARG, "the batch is empty");
    if (e->lost) return ds4_fail(err, DS4_EDEVICE, "the device was lost; the engine must be opened again");
    if (b->stepped) return ds4_fail(err, DS4_EARG, "the batch was run already; clear it first");
    const uint64_t start = clock_ns();
    ds4_status st = DS4_OK;
    for (int i = 0; i < b->n_segments && !st; i++) st = kv_begin(b->sessions[i]->kv, b->segments[i].n, err);

    const batch_rows rows = { .n = b->n_rows, .pos = b->pos, .token = b->token, .segment_of = b->segment_of,
                              .segment = b->segments, .n_segments = b->n_segments };
    b->kept = e->keeps_logits && b->n_logits <= FORWARD_KEPT;
    if (!st && e->keeps_logits) st = save_logits(e, err);
    if (!st) st = forward_run(e->forward, &rows, b->logits_row, b->n_logits, b->kept ? NULL : b->logits, err);
    if (st) return engine_note(e, st);

    for (int i = 0; i < b->n_segments; i++) {
        session_advance(b->sessions[i], b->token + b->segments[i].first, b->segments[i].n);
        b->sessions[i]->in_batch = 0;
    }
    for (int i = 0; i < b->n_segments; i++) give_logits(b, i);
    b->stepped = true;
    b->pass = ++e->n_passes;
    memset(b->fetched, 0, sizeof b->fetched);
    count_step(e, b, clock_ns() - start);
    return DS4_OK;
}

const float *ds4_batch_logits(const ds4_batch *constant, int i)
{
    ds4_batch *b = (ds4_batch *)constant;           /* where they lie is nobody's business */
    if (!b->stepped || i < 0 || i >= b->n_rows || b->logits_of[i] < 0) return NULL;
    const int at = b->logits_of[i];
    float *row = b->logits + (size_t)at * (size_t)b->engine->config.n_vocab;
    if (b->kept && !b->fetched[at]) {
        if (b->pass != b->engine->n_passes || forward_logits(b->engine->forward, at, row, NULL)) return NULL;
        b->fetched[at] = true;
    }
    return row;
}
