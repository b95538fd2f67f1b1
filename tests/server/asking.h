/* asking: a client of a scheduler in one process, for tests: renders a conversation, submits it, reads the events. */
#ifndef TESTS_SERVER_ASKING_H
#define TESTS_SERVER_ASKING_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/scheduler.h"
#include "runner.h"
#include "text/chat.h"

/* What answers. */
typedef struct {
    scheduler   *s;
    const vocab *v;
} asked;

/* ---- a client ------------------------------------------------------------------------------ */

#define MAX_CALLS 4

typedef struct {
    sched_ticket   *t;
    pthread_mutex_t lock;
    pthread_cond_t  bell;
    int             rings;
    bytes           text[8], reasoning;         /* text by choice */
    bytes           args[MAX_CALLS];
    char            id[MAX_CALLS][64], name[MAX_CALLS][64];
    int             n_calls, n_finished, n_tokens, n_echo;
    float           first_logprob, last_echo;
    answer_finish   finish;
    answer_usage    usage;
    sched_kind      end;
    ds4_error       error;
    bool            admitted, begun;
} client;

static inline void ring(void *ctx)
{
    client *c = ctx;
    pthread_mutex_lock(&c->lock);
    c->rings++;
    pthread_cond_signal(&c->bell);
    pthread_mutex_unlock(&c->lock);
}

static inline void client_open(client *c)
{
    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->bell, NULL);
    for (int i = 0; i < 8; i++) bytes_init(&c->text[i], 1 << 20);
    for (int i = 0; i < MAX_CALLS; i++) bytes_init(&c->args[i], 1 << 20);
    bytes_init(&c->reasoning, 1 << 20);
    c->end = SCHED_NOTHING;
}

static inline void client_close(client *c)
{
    sched_release(c->t);
    c->t = NULL;
    for (int i = 0; i < 8; i++) bytes_free(&c->text[i]);
    for (int i = 0; i < MAX_CALLS; i++) bytes_free(&c->args[i]);
    bytes_free(&c->reasoning);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->bell);
}

static inline void client_take(client *c, const sched_event *e)
{
    const answer_event *a = &e->answer;
    switch (e->kind) {
    case SCHED_ADMITTED: c->admitted = true; c->usage = e->usage; return;
    case SCHED_ECHO: c->n_echo = a->n_tokens; c->last_echo = a->tokens[a->n_tokens - 1].self.logprob; return;
    case SCHED_DONE:
    case SCHED_FAILED: c->end = e->kind; c->usage = e->usage; c->error = e->error; return;
    case SCHED_ANSWER: break;
    default: return;
    }
    if (a->kind == ANSWER_TEXT || a->kind == ANSWER_REASONING) {
        if (a->n_tokens && c->n_tokens == 0) c->first_logprob = a->tokens[0].self.logprob;
        c->n_tokens += a->n_tokens;
    }
    c->begun = true;
    switch (a->kind) {
    case ANSWER_REASONING: bytes_append(&c->reasoning, a->bytes.data, a->bytes.len); break;
    case ANSWER_TEXT: bytes_append(&c->text[a->choice], a->bytes.data, a->bytes.len); break;
    case ANSWER_CALL_BEGIN:
        if (c->n_calls == MAX_CALLS) break;
        snprintf(c->id[c->n_calls], 64, "%.*s", (int)a->id.len, a->id.data);
        snprintf(c->name[c->n_calls++], 64, "%.*s", (int)a->name.len, a->name.data);
        break;
    case ANSWER_CALL_ARGS: bytes_append(&c->args[a->call], a->bytes.data, a->bytes.len); break;
    case ANSWER_CALL_END: break;
    case ANSWER_FINISH: c->finish = a->finish; c->n_finished++; break;
    }
}

/* Everything that is there; true: the last event came. */
static inline bool client_poll(client *c)
{
    sched_event e;
    while (sched_next(c->t, &e) != SCHED_NOTHING) client_take(c, &e);
    return c->end != SCHED_NOTHING;
}

/* Until the last event; half a minute without any fails the test. */
static inline bool client_wait(client *c)
{
    while (!client_poll(c)) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 30;
        pthread_mutex_lock(&c->lock);
        while (c->rings == 0)
            if (pthread_cond_timedwait(&c->bell, &c->lock, &until)) break;
        const bool rang = c->rings > 0;
        c->rings = 0;
        pthread_mutex_unlock(&c->lock);
        if (rang) continue;
        test_fail(__FILE__, __LINE__, "no event for half a minute");
        return false;
    }
    return true;
}

/* ---- requests ------------------------------------------------------------------------------ */

typedef struct {
    const char *role, *text, *reasoning;
    const char *call, *args, *id;       /* a call of the assistant, or the id a tool answers */
} line;
#define SYSTEM(t)       { .role = "system", .text = t }
#define USER(t)         { .role = "user", .text = t }
#define ASSISTANT(t)    { .role = "assistant", .text = t }
#define RESULT(i, t)    { .role = "tool", .id = i, .text = t }

#define SCHEMA "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"}}}"

static const chat_tool weather = { .name = { "weather", 7 }, .parameters = { SCHEMA, sizeof SCHEMA - 1 } };

typedef struct {
    bool    think, tools;
    uint64_t hint;
} render_options;

static inline bool render(const asked *r, const line *lines, int n, const render_options *o, reuse_prompt *out,
                          chat_start *start)
{
    chat_message m[64];
    chat_call calls[64];
    for (int i = 0; i < n; i++) {
        const line *l = &lines[i];
        m[i] = (chat_message){ .role = !strcmp(l->role, "system") ? CHAT_SYSTEM : !strcmp(l->role, "user") ? CHAT_USER
                             : !strcmp(l->role, "tool") ? CHAT_TOOL : CHAT_ASSISTANT,
                             .text = slice_of(l->text ? l->text : "") };
        if (l->reasoning) m[i].reasoning = slice_of(l->reasoning);
        if (m[i].role == CHAT_TOOL) m[i].call_id = slice_of(l->id);
        if (!l->call) continue;
        calls[i] = (chat_call){ .id = slice_of(l->id), .name = slice_of(l->call), .arguments = slice_of(l->args) };
        m[i].calls = &calls[i];
        m[i].n_calls = 1;
    }
    chat_request c = chat_request_defaults();
    c.messages = m;
    c.n_messages = n;
    c.no_thinking = !o->think;
    c.tools = &weather;
    c.n_tools = o->tools;
    c.ctx = 8192;
    ds4_error err;
    chat_prompt p;
    token_list tokens;
    chat_prompt_init(&p, r->v, 1 << 24);
    token_list_init(&tokens, 1 << 24);
    ds4_status st = chat_render(&p, &c, &err);
    if (!st) st = chat_tokens(&p, &tokens, &err);
    *start = p.start;
    const bool ambiguous = p.ambiguous;
    chat_prompt_free(&p);
    if (!st) st = reuse_prompt_open(out, r->v, &tokens, &err);
    token_list_free(&tokens);
    if (st) {
        test_fail(__FILE__, __LINE__, "rendering: %s", err.message);
        return false;
    }
    out->ambiguous = ambiguous;
    out->tools_hash = o->tools ? 77 : 0;
    if (o->hint) {
        out->hints[0] = o->hint;
        out->n_hints = 1;
    }
    const line *last = &lines[n - 1];
    if (!strcmp(last->role, "tool")) {
        out->result_ids = malloc(sizeof *out->result_ids);
        out->result_ids[0] = (slice){ strdup(last->id), strlen(last->id) };
        out->n_results = 1;
    }
    return true;
}

static inline sched_request request(reuse_prompt *p, chat_start start)
{
    sched_request q = { .id = "req_test", .prompt = p, .start = start, .sampling = ds4_sampling_defaults(), .n = 1,
                        .max_tokens = 400 };
    q.sampling.temperature = 0;
    return q;
}

static inline ds4_status submit(const asked *r, client *c, sched_request *q)
{
    ds4_error err;
    int retry;
    q->wake = ring;
    q->wake_ctx = c;
    return sched_submit(r->s, q, &c->t, &retry, &err);
}

static inline bool submit_lines(const asked *r, client *c, const line *lines, int n, const render_options *o,
                                sched_request *change)
{
    reuse_prompt p;
    chat_start start;
    client_open(c);
    if (!render(r, lines, n, o, &p, &start)) return false;
    sched_request q = request(&p, start);
    if (change) {
        q = *change;
        q.prompt = &p;
        q.start = start;
    }
    if (o->tools) {
        q.tools = &weather;
        q.n_tools = 1;
    }
    const ds4_status st = submit(r, c, &q);
    if (st) test_fail(__FILE__, __LINE__, "submit: status %d", st);
    return !st;
}

/* Asks and reads to the end. */
static inline bool ask(const asked *r, client *c, const line *lines, int n, const render_options *o)
{
    return submit_lines(r, c, lines, n, o, NULL) && client_wait(c);
}

#endif
