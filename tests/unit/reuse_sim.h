/* reuse_sim: a session without a model, and a client that talks to it.
 *
 * sim: tokens, rewind points and what a slot remembers, moved as the scheduler moves them. What the "model" samples is
 * spelled with tokens of its own taste.
 * talk: the conversation as it was, from which a client builds its next request with its own habits. */
#ifndef TESTS_REUSE_SIM_H
#define TESTS_REUSE_SIM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"
#include "engine/reuse.h"
#include "runner.h"
#include "text/chat.h"
#include "text/tokenizer.h"

#define SIM_POINTS 16
#define SIM_TURNS  64

static inline slice bytes_slice(const bytes *b) { return (slice){ b->data, b->len }; }

static inline const vocab *sim_vocab(void)
{
    static vocab *v;
    gguf *g = NULL;
    ds4_error err = { .message = "" };
    if (v) return v;
    EXPECT_OK(gguf_open(&g, test_data("../../models/tiny/ds4-tiny.gguf"), NULL, &err), err);
    if (g) EXPECT_OK(vocab_open(&v, g, &err), err);
    gguf_close(g);
    return v;
}

/* ---- texts that live as long as the program's test ---------------------------------------- */

typedef struct {
    char  *texts[4096];
    size_t n;
} text_pool;

static inline slice pool_keep(text_pool *p, const void *data, size_t n)
{
    if (p->n == countof(p->texts)) abort();
    char *copy = malloc(n + 1);
    memcpy(copy, data, n);
    copy[n] = 0;
    p->texts[p->n++] = copy;
    return (slice){ copy, n };
}

static inline void pool_free(text_pool *p)
{
    while (p->n) free(p->texts[--p->n]);
}

/* Words, blanks, newlines, some of it not ASCII. */
static inline slice pool_random(text_pool *p, random_stream *r, size_t n)
{
    static const char *const pieces[] = { "the ", "file", " of", " and ", "int ", "x", " = ", "42", ";\n", "\n\n", "é",
                                          "日本", "  ",
                                          "<", "</", "foo_bar", "(", ")", "{", "}", "\t", "\"", "'", "🙂", ".", ", ", "error: " };
    bytes b;
    bytes_init(&b, SIZE_MAX);
    while (b.len < n) bytes_text(&b, pieces[random_below(r, countof(pieces))]);
    const slice text = pool_keep(p, b.data ? b.data : "", b.len);
    bytes_free(&b);
    return text;
}

/* ---- a session ----------------------------------------------------------------------------- */

typedef struct {
    const vocab *v;
    reuse_slot   slot;
    int          points[SIM_POINTS];
    bool         logits[SIM_POINTS];
    int          n_points;
    bool         strict;
    bytes        sampled[SIM_TURNS];        /* keys of all turns that were sampled             */
    int          n_sampled;
    bytes        heard;                     /* keys of all prompts so far, one behind the other */
} sim;

static inline void sim_open(sim *s)
{
    *s = (sim){ .v = sim_vocab() };
    bytes_init(&s->heard, SIZE_MAX);
    reuse_slot_init(&s->slot);
}

static inline void sim_close(sim *s)
{
    reuse_slot_free(&s->slot);
    for (int i = 0; i < s->n_sampled; i++) bytes_free(&s->sampled[i]);
    bytes_free(&s->heard);
}

static inline int sim_point_at(const sim *s, int want)
{
    int i = s->n_points - 1;
    while (i >= 0 && s->points[i] > want) i--;
    return i;
}

static inline int sim_rewind_point(void *ctx, int want)
{
    const sim *s = ctx;
    if (want >= s->slot.key.n) return s->slot.key.n;
    const int i = sim_point_at(s, want);
    return i < 0 ? 0 : s->points[i];
}

static inline bool sim_has_logits(void *ctx, int n)
{
    const sim *s = ctx;
    const int i = sim_point_at(s, n);
    return i >= 0 && s->points[i] == n && s->logits[i];
}

static inline reuse_session sim_session(sim *s)
{
    return (reuse_session){ sim_rewind_point, sim_has_logits, s, s->strict };
}

/* Gives up the oldest but the first, which is the end of the system part. */
static inline void sim_mark(sim *s, bool logits)
{
    if (s->n_points && s->points[s->n_points - 1] == s->slot.key.n) s->n_points--;
    if (s->n_points == SIM_POINTS) {
        memmove(&s->points[1], &s->points[2], (SIM_POINTS - 2) * sizeof s->points[0]);
        memmove(&s->logits[1], &s->logits[2], (SIM_POINTS - 2) * sizeof s->logits[0]);
        s->n_points--;
    }
    s->points[s->n_points] = s->slot.key.n;
    s->logits[s->n_points++] = logits;
}

/* Tokens of a text in pieces that the tokenizer would not have made. */
static inline void sim_spell(const sim *s, random_stream *r, slice text, bool parse, token_list *out)
{
    ds4_error err;
    while (text.len) {
        size_t n = r && random_below(r, 3) ? 1 + random_below(r, 9) : text.len;
        if (parse) n = text.len;
        n = min_size(n, text.len);
        EXPECT_OK(tokenizer_encode(s->v, (slice){ text.data, n }, parse, out, &err), err);
        text = (slice){ text.data + n, text.len - n };
    }
}

static inline void sim_push(sim *s, int32_t token)
{
    ds4_error err;
    EXPECT_OK(reuse_slot_push(&s->slot, s->v, &token, 1, &err), err);
}

typedef struct {
    reuse_match match;
    int         suffix;
} sim_served;

/* Brings the session to the end of the prompt by the given match. */
static inline sim_served sim_apply(sim *s, const reuse_prompt *p, reuse_match m)
{
    const special_tokens *special = vocab_special(s->v);
    ds4_error err;
    token_list rest;
    token_list_init(&rest, SIZE_MAX);
    while (s->n_points && s->points[s->n_points - 1] > m.keep) s->n_points--;
    EXPECT_OK(reuse_suffix(p, &m, s->v, &rest, &err), err);
    EXPECT_OK(reuse_slot_take(&s->slot, p, &m, s->v, &err), err);
    EXPECT_INT(s->slot.key.n, m.keep);
    for (size_t i = 0, last = rest.n; i < rest.n; i++) {
        for (size_t k = i; last == rest.n && k < rest.n; k++) if (rest.ids[k] == special->assistant) last = k;
        for (size_t k = i; i == 0 && k < rest.n; k++) if (rest.ids[k] == special->assistant) last = k;
        const bool system_ends = s->n_points == 0 && rest.ids[i] == special->user;
        if (i == last || system_ends) sim_mark(s, false);
        sim_push(s, rest.ids[i]);
    }
    sim_mark(s, true);
    const sim_served served = { m, (int)rest.n };
    token_list_free(&rest);
    return served;
}

static inline sim_served sim_serve(sim *s, const reuse_prompt *p)
{
    const reuse_session session = sim_session(s);
    return sim_apply(s, p, reuse_match_slot(p, &s->slot, &session, s->v));
}

/* The bytes of the turn that the session has sampled since `begin` tokens. */
static inline void sim_remember(sim *s, int begin)
{
    bytes *b = &s->sampled[s->n_sampled++ % SIM_TURNS];
    if (s->n_sampled > SIM_TURNS) s->n_sampled = SIM_TURNS;
    const size_t at = prefix_key_end(&s->slot.key, begin);
    bytes_free(b);
    bytes_init(b, SIZE_MAX);
    bytes_append(b, s->slot.key.data.data + at, s->slot.key.data.len - at);
}

/* The model answers p; the texts are what the client gets. */
static inline void sim_answer(sim *s, random_stream *r, const reuse_prompt *p, const answer_turn *turn)
{
    const special_tokens *special = vocab_special(s->v);
    const int n = s->slot.key.n;
    const slice key = prefix_key_bytes(&s->slot.key);
    const bool thinking = prefix_key_find_back(key, key.len, special->think) == key.len - PREFIX_KEY_MARK_BYTES;
    ds4_error err;
    token_list l;
    token_list_init(&l, SIZE_MAX);
    if (thinking) {
        sim_spell(s, r, turn->reasoning, false, &l);
        if (turn->reasoning_closed) token_list_push(&l, special->end_think);
    }
    sim_spell(s, r, turn->text, false, &l);
    sim_spell(s, NULL, turn->block, true, &l);
    for (size_t i = 0; i < l.n; i++) sim_push(s, l.ids[i]);
    token_list_free(&l);
    EXPECT_OK(reuse_slot_finish(&s->slot, p, turn, false, s->v, &err), err);
    sim_mark(s, false);
    sim_remember(s, n - 1);                 /* the think token that the prompt has put there is the turn's first */
}

/* The session is a timeline that the model really has or would have: between assistant turns what the prompt says,
 * as assistant turns what it says, what an earlier prompt said, or what was sampled. */
static inline void sim_expect_timeline(sim *s, const reuse_prompt *p)
{
    const special_tokens *special = vocab_special(s->v);
    slice a = prefix_key_bytes(&p->key), b = prefix_key_bytes(&s->slot.key);
    for (;;) {
        size_t x = prefix_key_find(a, 0, special->assistant), y = prefix_key_find(b, 0, special->assistant);
        if (x < a.len) x += PREFIX_KEY_MARK_BYTES;
        if (y < b.len) y += PREFIX_KEY_MARK_BYTES;
        EXPECT(slice_equal((slice){ a.data, x }, (slice){ b.data, y }));
        a = (slice){ a.data + x, a.len - x };
        b = (slice){ b.data + y, b.len - y };
        if (a.len == 0 || b.len == 0) break;
        x = prefix_key_find(a, 0, special->eos);
        y = prefix_key_find(b, 0, special->eos);
        const slice mine = { a.data, x }, held = { b.data, y };
        bool known = slice_equal(mine, held);
        for (int i = 0; i < s->n_sampled && !known; i++) {
            const slice turn = bytes_slice(&s->sampled[i]);
            /* A newline that only a later request adds stands behind what was kept. */
            const bool longer = held.len == turn.len + 1 && held.data[turn.len] == '\n';
            known = slice_equal((slice){ held.data, held.len - longer }, turn);
        }
        const slice in_prompt = { held.data - PREFIX_KEY_MARK_BYTES, held.len + 2 * PREFIX_KEY_MARK_BYTES };
        if (!known && s->heard.len) known = memmem(s->heard.data, s->heard.len, in_prompt.data, in_prompt.len) != NULL;
        EXPECT(known);
        a = (slice){ a.data + x, a.len - x };
        b = (slice){ b.data + y, b.len - y };
    }
    EXPECT_INT(a.len, 0);
    EXPECT_INT(b.len, 0);
    bytes_append(&s->heard, p->key.data.data, p->key.data.len);
}

/* ---- a conversation ------------------------------------------------------------------------ */

typedef enum { KEEPS_REASONING, DROPS_REASONING, DROPS_OLD_REASONING } reasoning_habit;

typedef struct {
    const char     *name;
    reasoning_habit reasoning;
    bool trims_text, adds_newline;      /* of answers                                         */
    bool results_reversed, system_in_the_middle, rewrites_arguments, no_replay;
    bool no_thinking;
} habits;

typedef struct {
    chat_message m;
    chat_call    calls[4], sent[4];     /* as sampled, and as the client writes them          */
} said;

typedef struct {
    text_pool     pool;
    random_stream r;
    habits        h;
    said          all[256];
    int           n;
    chat_tool     tools[3];
    int           n_tools;
    int           ids;
} talk;

static inline void talk_open(talk *t, uint64_t seed, habits h, size_t system_bytes)
{
    *t = (talk){ .h = h, .n_tools = 3 };
    random_seed(&t->r, seed);
    t->tools[0] = (chat_tool){ .name = slice_of("read"), .has_description = true,
                               .description = slice_of("Reads a file."),
        .parameters = slice_of("{\"type\":\"object\",\"properties\":{\"path\":{\"type\":\"string\"},\"lines\":{\"type\":\"integer\"}}}") };
    t->tools[1] = (chat_tool){ .name = slice_of("bash"), .has_description = true,
                               .description = slice_of("Runs a command."),
        .parameters = slice_of("{\"type\":\"object\",\"properties\":{\"command\":{\"type\":\"string\"}},\"required\":[\"command\"]}") };
    t->tools[2] = (chat_tool){ .name = slice_of("note"), .parameters = slice_of("{}") };
    t->all[t->n++].m = (chat_message){ .role = CHAT_SYSTEM, .text = pool_random(&t->pool, &t->r, system_bytes) };
}

static inline void talk_close(talk *t) { pool_free(&t->pool); }

static inline void talk_say(talk *t, chat_role role, slice text)
{
    t->all[t->n++] = (said){ .m = { .role = role, .text = text } };
}

/* A turn with n calls (0: text alone), as the model would make it up. */
static inline answer_turn talk_turn(talk *t, int n_calls)
{
    said *s = &t->all[t->n++];
    bytes block;
    bytes_init(&block, SIZE_MAX);
    *s = (said){ .m = { .role = CHAT_ASSISTANT, .n_calls = n_calls } };
    s->m.reasoning = pool_random(&t->pool, &t->r, random_below(&t->r, 5) ? random_below(&t->r, 300) : 0);
    const bool silent = n_calls && random_below(&t->r, 2);
    s->m.text = silent ? (slice){ "", 0 } : pool_random(&t->pool, &t->r, 1 + random_below(&t->r, 120));
    if (n_calls) bytes_text(&block, random_below(&t->r, 2) ? "\n\n<｜DSML｜tool_calls>\n" : "\n<｜DSML｜tool_calls>\n");
    for (int i = 0; i < n_calls; i++) {
        char id[32], lines[16], text[1024];
        snprintf(id, sizeof id, "call_%d", t->ids++);
        snprintf(lines, sizeof lines, "%d", (int)random_below(&t->r, 1000));
        const int path = (int)random_below(&t->r, 1000);
        /* the model's own order: lines before path, and blanks of its own */
        bytes_printf(&block, "<｜DSML｜invoke name=\"read\">\n<｜DSML｜parameter name=\"lines\" string=\"false\"> %s</｜DSML｜parameter>\n"
                     "<｜DSML｜parameter name=\"path\" string=\"true\">src/file%d.c</｜DSML｜parameter>\n</｜DSML｜invoke>\n", lines, path);
        const int n = snprintf(text, sizeof text, "{\"lines\":%s,\"path\":\"src/file%d.c\"}", lines, path);
        char *again = text + n + 1;
        const int m = n + 1 + snprintf(again, sizeof text - (size_t)n - 1,
                                       "{\"path\": \"src/file%d.c\", \"lines\": %s}", path, lines);
        s->calls[i] = (chat_call){ pool_keep(&t->pool, id, strlen(id)), slice_of("read"),
                                   pool_keep(&t->pool, text, (size_t)n) };
        s->sent[i] = s->calls[i];
        if (t->h.rewrites_arguments) s->sent[i].arguments = pool_keep(&t->pool, text + n + 1, (size_t)(m - n - 1));
    }
    if (n_calls) bytes_text(&block, "</｜DSML｜tool_calls>");
    const slice kept = pool_keep(&t->pool, block.data ? block.data : "", block.len);
    bytes_free(&block);
    return (answer_turn){ .reasoning = t->h.no_thinking ? (slice){ "", 0 } : s->m.reasoning, .text = s->m.text,
                          .block = kept, .reasoning_closed = true, .calls = s->calls, .n_calls = n_calls };
}

/* The results of the last turn's calls; returns their bytes. */
static inline size_t talk_results(talk *t, size_t each)
{
    const said *s = &t->all[t->n - 1];
    size_t n = 0;
    for (int i = 0; i < s->m.n_calls; i++) {
        const int k = t->h.results_reversed ? s->m.n_calls - 1 - i : i;
        talk_say(t, CHAT_TOOL, pool_random(&t->pool, &t->r, random_below(&t->r, 2 * each)));
        t->all[t->n - 1].m.call_id = s->calls[k].id;
        n += t->all[t->n - 1].m.text.len + 40;
    }
    return n;
}

static inline slice trimmed(slice s)
{
    while (s.len && strchr(" \n\t\r", s.data[0])) s = (slice){ s.data + 1, s.len - 1 };
    while (s.len && strchr(" \n\t\r", s.data[s.len - 1])) s.len--;
    return s;
}

/* The client's request. Answered ids are those behind the last assistant turn, in call order. */
static inline void talk_request(talk *t, replay_memory *replay, reuse_prompt *p)
{
    chat_message out[256];
    chat_prompt rendered;
    token_list tokens;
    ds4_error err = { .message = "" };
    int last_user = 0, last_answer = -1;
    for (int i = 0; i < t->n; i++) {
        if (t->all[i].m.role == CHAT_USER) last_user = i;
        if (t->all[i].m.role == CHAT_ASSISTANT) last_answer = i;
        out[i] = t->all[i].m;
        if (out[i].role != CHAT_ASSISTANT) continue;
        out[i].calls = t->all[i].sent;
        if (t->h.trims_text) out[i].text = trimmed(out[i].text);
        if (t->h.adds_newline && out[i].text.len) {
            char with[4096];
            const int n = snprintf(with, sizeof with, "%.*s\n", (int)out[i].text.len, out[i].text.data);
            out[i].text = pool_keep(&t->pool, with, (size_t)n);
        }
    }
    for (int i = 0; i < t->n; i++) {
        const bool old = t->h.reasoning == DROPS_OLD_REASONING && i < last_user;
        if (t->h.reasoning == DROPS_REASONING || old) out[i].reasoning = (slice){ "", 0 };
    }
    chat_request request = chat_request_defaults();
    request.messages = out;
    request.n_messages = t->n;
    request.tools = t->tools;
    request.n_tools = t->n_tools;
    request.no_thinking = t->h.no_thinking;
    request.replay = t->h.no_replay ? NULL : replay;

    chat_prompt_init(&rendered, sim_vocab(), SIZE_MAX);
    token_list_init(&tokens, SIZE_MAX);
    EXPECT_OK(chat_render(&rendered, &request, &err), err);
    EXPECT_OK(chat_tokens(&rendered, &tokens, &err), err);
    EXPECT_OK(reuse_prompt_open(p, sim_vocab(), &tokens, &err), err);
    p->ambiguous = rendered.ambiguous;
    chat_prompt_free(&rendered);

    const said *asked = last_answer < 0 ? NULL : &t->all[last_answer];
    p->result_ids = calloc(8, sizeof *p->result_ids);
    for (int c = 0; asked && c < asked->m.n_calls; c++) {
        for (int i = last_answer + 1; i < t->n; i++) {
            if (t->all[i].m.role != CHAT_TOOL || !slice_equal(t->all[i].m.call_id, asked->calls[c].id)) continue;
            const slice id = asked->calls[c].id;
            p->result_ids[p->n_results++] = (slice){ strndup(id.data, id.len), id.len };
        }
    }
}

#endif
