/* scheduler_ticket: a request on its way, and the events that go back.
 *
 * Events are made on the engine thread, staged, and handed over together once per step: the reader's
 * lock is taken once, and nobody sees an answer finished before its calls can be replayed. */
#include "engine/scheduler_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/status.h"

/* ---- lists of events ---------------------------------------------------------------------- */

static void list_push(event_list *l, event *e)
{
    e->next = NULL;
    if (l->last) l->last->next = e;
    else l->first = e;
    l->last = e;
    l->size += e->size;
}

static event *list_pop(event_list *l)
{
    event *e = l->first;
    if (!e) return NULL;
    l->first = e->next;
    if (!l->first) l->last = NULL;
    l->size -= e->size;
    return e;
}

static void list_free(event_list *l)
{
    for (event *e; (e = list_pop(l));) free(e);
}

static void list_move(event_list *to, event_list *from)
{
    for (event *e; (e = list_pop(from));) list_push(to, e);
}

static slice put_bytes(char **at, slice from)
{
    const slice to = { *at, from.len };
    if (from.len) memcpy(*at, from.data, from.len);
    *at += from.len;
    return to;
}

/* One block: the struct, tokens, their tops, bytes. */
static event *event_copy(const sched_event *e)
{
    const answer_event *a = &e->answer;
    size_t tops = 0;
    for (int i = 0; i < a->n_tokens; i++) tops += (size_t)a->tokens[i].n_top;
    const size_t size = sizeof(event) + (size_t)a->n_tokens * sizeof(answer_token) + tops * sizeof(answer_logprob)
                      + a->bytes.len + a->id.len + a->name.len + a->stop.len;
    event *copy = malloc(size);
    if (!copy) return NULL;
    *copy = (event){ .e = *e, .size = size };

    answer_token *tokens = (answer_token *)(copy + 1);
    answer_logprob *top = (answer_logprob *)(tokens + a->n_tokens);
    for (int i = 0; i < a->n_tokens; i++) {
        tokens[i] = a->tokens[i];
        tokens[i].top = top;
        if (tokens[i].n_top) memcpy(top, a->tokens[i].top, (size_t)tokens[i].n_top * sizeof *top);
        top += tokens[i].n_top;
    }
    char *at = (char *)top;
    copy->e.answer.tokens = tokens;
    copy->e.answer.bytes = put_bytes(&at, a->bytes);
    copy->e.answer.id = put_bytes(&at, a->id);
    copy->e.answer.name = put_bytes(&at, a->name);
    copy->e.answer.stop = put_bytes(&at, a->stop);
    return copy;
}

/* ---- engine thread ------------------------------------------------------------------------ */

void ticket_stage(sched_ticket *t, const sched_event *e)
{
    event *copy = event_copy(e);
    if (copy && e->kind == SCHED_ECHO) copy->size = sizeof *copy;   /* as long as the prompt: says nothing of the reader */
    if (copy) list_push(&t->staged, copy);
    else t->lost_events = true;
}

bool ticket_cancelled(sched_ticket *t)
{
    pthread_mutex_lock(&t->s->lock);
    const bool yes = t->cancelled;
    pthread_mutex_unlock(&t->s->lock);
    return yes || t->lost_events;
}

static bool is_progress(const event *e) { return e && e->e.kind == SCHED_PREFILL; }

void ticket_publish(sched_ticket *t, bool last)
{
    scheduler *s = t->s;
    if (!t->staged.first && !last) return;

    /* wake_lock spans the whole, so that the ticket is not released between its last event and its wake. */
    pthread_mutex_lock(&s->wake_lock);
    pthread_mutex_lock(&s->lock);
    if (t->released || (!last && t->events.size + t->staged.size > SCHED_EVENT_BYTES)) {
        if (!t->released && !t->cancelled)
            log_line(&s->o.log, LOG_WARNING, "id=%s cancelled: nobody reads its answer", t->id);
        t->cancelled = true;
        list_free(&t->staged);
    }
    /* Progress that nobody has read yet gives way to newer progress. */
    const bool only_progress = is_progress(t->events.last) && t->events.first == t->events.last;
    if (only_progress && is_progress(t->staged.first)) list_free(&t->events);
    list_move(&t->events, &t->staged);
    t->ended = last;
    const bool gone = last && t->released;
    pthread_mutex_unlock(&s->lock);
    if (t->wake) t->wake(t->wake_ctx);
    pthread_mutex_unlock(&s->wake_lock);
    if (gone) ticket_free(t);
}

/* ---- logprobs ----------------------------------------------------------------------------- */

void ticket_note_token(sched_ticket *t, answer_section in, int32_t token, float logprob, const ds4_logprob *top, int n)
{
    if (in == SECTION_TOOLS || vocab_hidden(t->s->v, token)) return;
    if (t->n_pending == t->cap_pending) {
        const int cap = t->cap_pending ? 2 * t->cap_pending : 16;
        pending_token *more = realloc(t->pending, (size_t)cap * sizeof *more);
        if (!more) {
            t->lost_events = true;
            return;
        }
        t->pending = more;
        t->cap_pending = cap;
    }
    pending_token *p = &t->pending[t->n_pending];
    *p = (pending_token){ .self = { token, logprob }, .in = in, .n_top = n };
    for (int i = 0; i < n; i++) p->top[i] = (answer_logprob){ top[i].token, top[i].logprob };
    vocab_bytes(t->s->v, token, &p->bytes);
    t->n_pending++;
}

static void drop_pending(sched_ticket *t, int n)
{
    memmove(t->pending, t->pending + n, (size_t)(t->n_pending - n) * sizeof *t->pending);
    t->n_pending -= n;
}

/* Tokens whose bytes are out now. Held text comes later, and with it its tokens; what was markup never does and goes
 * when the section has changed. */
static int complete_tokens(sched_ticket *t, answer_section in, size_t n_bytes)
{
    int other = 0;
    while (other < t->n_pending && t->pending[other].in != in) other++;
    if (other > 0) {
        drop_pending(t, other);
        t->given = 0;
    }
    t->given += n_bytes;
    int n = 0;
    for (; n < min_int(t->n_pending, SCHED_EVENT_TOKENS); n++) {
        const pending_token *p = &t->pending[n];
        if (p->in != in || p->bytes > t->given) break;
        t->given -= p->bytes;
    }
    return n;
}

static void on_answer(void *ctx, const answer_event *e)
{
    sched_ticket *t = ctx;
    sched_event out = { .kind = SCHED_ANSWER, .answer = *e, .usage = t->usage };
    if (e->kind == ANSWER_CALL_BEGIN) {
        t->calls++;
        t->n_pending = 0;
        t->given = 0;
    }
    if (e->kind == ANSWER_CALL_END) t->calls_ended++;
    if (e->kind == ANSWER_FINISH) t->finish = e->finish;

    answer_token tokens[SCHED_EVENT_TOKENS];
    int n = 0;
    if (t->logprobs && (e->kind == ANSWER_TEXT || e->kind == ANSWER_REASONING)) {
        n = complete_tokens(t, e->kind == ANSWER_TEXT ? SECTION_TEXT : SECTION_REASONING, e->bytes.len);
        for (int i = 0; i < n; i++) {
            const pending_token *p = &t->pending[i];
            tokens[i] = (answer_token){ .self = p->self, .top = p->top, .n_top = p->n_top };
        }
        out.answer.tokens = tokens;
        out.answer.n_tokens = n;
    }
    ticket_stage(t, &out);
    if (n) drop_pending(t, n);
}

/* ---- logprobs of a prompt ----------------------------------------------------------------- */

void ticket_note_echo(sched_ticket *t, int i, const float *logits)
{
    const size_t n = t->prompt.tokens.n, tops = (size_t)t->top_logprobs;
    if (!t->echo) {
        t->echo = calloc(n, sizeof *t->echo + tops * sizeof(answer_logprob));
        const ds4_sampling plain = ds4_sampling_defaults();     /* no setting of the answer touches a prompt */
        if (!t->echo || ds4_sampler_new(&t->sampler, &plain, t->s->n_vocab, NULL)) {
            t->lost_events = true;
            return;
        }
    }
    if (!t->sampler) return;
    ds4_logprob top[SCHED_TOP_LOGPROBS];
    answer_token *e = &t->echo[i];
    answer_logprob *own = (answer_logprob *)(t->echo + n) + (size_t)i * tops;
    e->self.token = t->prompt.tokens.ids[i];
    e->n_top = ds4_sampler_logprobs(t->sampler, logits, e->self.token, &e->self.logprob, top, t->top_logprobs);
    for (int j = 0; j < e->n_top; j++) own[j] = (answer_logprob){ top[j].token, top[j].logprob };
    e->top = own;
}

void ticket_stage_echo(sched_ticket *t)
{
    ds4_sampler_free(t->sampler);
    t->sampler = NULL;
    if (!t->prompt_logprobs) return;
    answer_token alone = { .self = { t->prompt.tokens.ids[0], NAN } };
    if (t->echo) t->echo[0] = alone;
    const sched_event e = { .kind = SCHED_ECHO, .answer = { .tokens = t->echo ? t->echo : &alone,
                                                            .n_tokens = t->echo ? (int)t->prompt.tokens.n : 1 } };
    ticket_stage(t, &e);
    free(t->echo);
    t->echo = NULL;
}

/* ---- opening ------------------------------------------------------------------------------ */

static void call_id_bytes(void *ctx, uint8_t out[16])
{
    (void)ctx;
    if (getentropy(out, 16)) memset(out, 0, 16);        /* fails for more than 256 bytes only */
}

/* What is forced where a call is required. */
static ds4_status opening_of(sched_ticket *t, const sched_request *r, ds4_error *err)
{
    chat_prompt p;
    chat_prompt_init(&p, t->s->v, 4096);
    chat_prompt_protocol(&p, "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"");
    if (r->choice == CHOOSE_NAMED) {
        chat_prompt_text(&p, r->forced_tool);
        chat_prompt_text(&p, slice_of("\">\n"));
    }
    ds4_status st = chat_prompt_status(&p, err);
    if (!st) st = chat_tokens(&p, &t->opening, err);
    chat_prompt_free(&p);
    return st;
}

/* The client's bias, and for tool_choice none the marker that opens calls. */
static ds4_status copy_sampling(sched_ticket *t, const sched_request *r, ds4_error *err)
{
    t->sampling = r->sampling;
    t->bias = malloc((size_t)(r->sampling.n_bias + 1) * sizeof *t->bias);
    if (!t->bias) return ds4_fail(err, DS4_EMEMORY, "no memory for a request");
    if (r->sampling.n_bias) memcpy(t->bias, r->sampling.bias, (size_t)r->sampling.n_bias * sizeof *t->bias);
    if (r->choice == CHOOSE_NONE && !r->raw)
        t->bias[t->sampling.n_bias++] = (ds4_logit_bias){ t->s->special->dsml, -INFINITY };
    t->sampling.bias = t->bias;

    ds4_sampler *check;
    const ds4_status st = ds4_sampler_new(&check, &t->sampling, t->s->n_vocab, err);
    ds4_sampler_free(check);
    return st;
}

static ds4_status open_answers(sched_ticket *t, const sched_request *r, ds4_error *err)
{
    t->answers = calloc((size_t)t->n, sizeof *t->answers);
    if (!t->answers) return ds4_fail(err, DS4_EMEMORY, "no memory for a request");
    t->n_answers = t->n;
    answer_options o = {
        .start = r->start, .tools = r->tools, .n_tools = r->choice == CHOOSE_NONE ? 0 : r->n_tools, .raw = r->raw,
        .stops = r->stops, .n_stops = r->n_stops, .include_stop = r->include_stop, .unclosed = r->unclosed, .ids = r->ids,
        .random = call_id_bytes, .event = on_answer, .event_ctx = t };
    for (int i = 0; i < t->n; i++) {
        o.choice = r->first_choice + i;
        const ds4_status st = answer_open(&t->answers[i], t->s->v, &o, err);
        if (st) return st;
    }
    return DS4_OK;
}

ds4_status ticket_open(sched_ticket **out, scheduler *s, const sched_request *r, ds4_error *err)
{
    *out = NULL;
    sched_ticket *t = calloc(1, sizeof *t);
    if (!t) {
        reuse_prompt_close(r->prompt);
        *r->prompt = (reuse_prompt){ 0 };
        return ds4_fail(err, DS4_EMEMORY, "no memory for a request");
    }
    t->s = s;
    t->prompt = *r->prompt;
    *r->prompt = (reuse_prompt){ 0 };
    size_t n = 0;
    while (r->id && r->id[n] && n + 1 < sizeof t->id) n++;
    if (n) memcpy(t->id, r->id, n);
    t->one_call = r->one_call;
    t->raw = r->raw;
    t->logprobs = r->logprobs;
    t->prompt_logprobs = r->prompt_logprobs;
    t->top_logprobs = max_int(0, min_int(r->top_logprobs, SCHED_TOP_LOGPROBS));
    t->side = r->side;
    t->n = max_int(1, r->n);
    bytes_init(&t->text, (size_t)1 << 30);
    t->max_tokens = r->max_tokens;
    t->think_budget = r->think_budget;
    t->wake = r->wake;
    t->wake_ctx = r->wake_ctx;
    t->uncached = -1;
    t->arrived_ns = sched_now(s);
    t->usage.prompt_tokens = (int)t->prompt.tokens.n;
    token_list_init(&t->opening, 1024);

    ds4_status st = DS4_OK;
    if (t->prompt.tokens.n == 0) st = ds4_fail(err, DS4_EARG, "the prompt is empty");
    else if (t->prompt.tokens.n >= (size_t)s->capacity)
        st = ds4_fail(err, DS4_EARG, "the prompt has %zu tokens; %d is the most", t->prompt.tokens.n, s->capacity - 1);
    if (!st && (r->choice == CHOOSE_REQUIRED || r->choice == CHOOSE_NAMED) && !r->raw) st = opening_of(t, r, err);
    if (!st) st = copy_sampling(t, r, err);
    if (!st) st = open_answers(t, r, err);
    if (st) {
        ticket_free(t);
        return st;
    }
    *out = t;
    return DS4_OK;
}

void ticket_free(sched_ticket *t)
{
    if (!t) return;
    list_free(&t->events);
    list_free(&t->staged);
    free(t->current);
    for (int i = 0; i < t->n_answers; i++) answer_close(t->answers[i]);
    free(t->answers);
    ds4_sampler_free(t->sampler);
    token_list_free(&t->opening);
    reuse_prompt_close(&t->prompt);
    free(t->bias);
    free(t->pending);
    free(t->prompt_tokens);
    bytes_free(&t->text);
    free(t->echo);
    free(t);
}

/* ---- the reader's side -------------------------------------------------------------------- */

sched_kind sched_next(sched_ticket *t, sched_event *out)
{
    *out = (sched_event){ .kind = SCHED_NOTHING };
    pthread_mutex_lock(&t->s->lock);
    event *e = list_pop(&t->events);
    const bool lost = !e && t->ended && !t->told_end;
    if (lost || (e && (e->e.kind == SCHED_DONE || e->e.kind == SCHED_FAILED))) t->told_end = true;
    pthread_mutex_unlock(&t->s->lock);
    if (lost) {                                     /* there was no memory for the last event */
        out->kind = SCHED_FAILED;
        out->usage = t->usage;
        ds4_fail(&out->error, DS4_EMEMORY, "no memory for the answer's events");
        return SCHED_FAILED;
    }
    if (!e) return SCHED_NOTHING;
    free(t->current);
    t->current = e;
    *out = e->e;
    return out->kind;
}

void ticket_leave_queue(sched_ticket *t)
{
    scheduler *s = t->s;
    sched_ticket *before = NULL, *at = s->first;
    while (at != t) {
        before = at;
        at = at->next;
    }
    if (before) before->next = t->next;
    else s->first = t->next;
    if (s->last == t) s->last = before;
    t->next = NULL;
    t->queued = false;
    s->waiting--;
    if (s->o.metrics) counter_set(&s->o.metrics->waiting, (uint64_t)s->waiting);
}

/* A waiting request ends at once; true: it was one. The lock is held. */
static bool cancel_waiting(sched_ticket *t)
{
    if (!t->queued) return false;
    scheduler *s = t->s;
    ticket_leave_queue(t);
    t->ended = true;
    if (s->o.metrics) {
        counter_add(&s->o.metrics->cancelled[PHASE_QUEUE], 1);
        counter_add(&s->o.metrics->ended[ENDED_ABORT], 1);
    }
    sched_event e = { .kind = SCHED_FAILED, .usage = t->usage };
    ds4_fail(&e.error, DS4_ECANCELLED, "the request was cancelled");
    event *copy = event_copy(&e);
    if (copy) list_push(&t->events, copy);
    return true;
}

/* Nobody else waits for the step at work. The lock is held. */
static void abandon_step(const sched_ticket *t)
{
    if (t->s->alone == t && t->s->o.abandon) atomic_store(t->s->o.abandon, true);
}

void sched_cancel(sched_ticket *t)
{
    scheduler *s = t->s;
    pthread_mutex_lock(&s->lock);
    t->cancelled = true;
    abandon_step(t);
    const bool waited = cancel_waiting(t);
    pthread_mutex_unlock(&s->lock);
    if (waited) log_line(&s->o.log, LOG_INFO, "id=%s cancelled phase=queue", t->id);
}

void sched_release(sched_ticket *t)
{
    if (!t) return;
    scheduler *s = t->s;
    pthread_mutex_lock(&s->wake_lock);
    pthread_mutex_lock(&s->lock);
    t->wake = NULL;
    t->released = t->cancelled = true;
    abandon_step(t);
    if (cancel_waiting(t)) log_line(&s->o.log, LOG_INFO, "id=%s cancelled phase=queue", t->id);
    const bool over = t->ended;
    pthread_mutex_unlock(&s->lock);
    pthread_mutex_unlock(&s->wake_lock);
    if (over) ticket_free(t);
}
