/* api_case: a server for the tests of dialects, and conversations as lines of text. JSON is written with ' for ". */
#ifndef TESTS_UNIT_API_CASE_H
#define TESTS_UNIT_API_CASE_H

#include <string.h>

#include "api/api.h"
#include "runner.h"

static inline void count_up(void *ctx, uint8_t *out, size_t n)
{
    uint8_t *next = ctx;
    for (size_t i = 0; i < n; i++) out[i] = (*next)++;
}

/* Random bytes count from 0 again. */
static inline api_config config(void)
{
    static uint8_t counter;
    counter = 0;
    return (api_config){ .model = "deepseek-v4-flash", .ctx = 100000, .vocab_size = 1536, .default_tokens = 393216,
                         .temperature = 1, .top_p = 1, .random = count_up, .random_ctx = &counter };
}

static inline void replace(char *text, char from, char to)
{
    for (; text && *text; text++) {
        if (*text == from) *text = to;
    }
}

/* JSON with its quotes, in a buffer that the next call reuses. */
static inline slice quoted(const char *text)
{
    static char buffer[4096];
    strncpy(buffer, text, sizeof buffer - 1);
    replace(buffer, '\'', '"');
    return slice_of(buffer);
}

/* Equal but for the kind of quotes. */
static inline void expect_same(const char *what, const char *got, const char *want)
{
    bytes a, b;
    bytes_init(&a, 1u << 16);
    bytes_init(&b, 1u << 16);
    bytes_text(&a, got ? got : "");
    bytes_text(&b, want);
    replace(a.data, '"', '\'');
    replace(b.data, '"', '\'');
    test_expect_text(__FILE__, __LINE__, what, a.data, b.data);
    bytes_free(&a);
    bytes_free(&b);
}

/* Lines: role|text|think reasoning|of call id|id name arguments. */
static inline void describe(const api_request *r, bytes *out)
{
    static const char *const roles[] = { "system", "developer", "user", "assistant", "tool", "reminder" };
    for (int i = 0; i < r->chat.n_messages; i++) {
        const chat_message *m = &r->chat.messages[i];
        bytes_printf(out, "%s|%.*s", roles[m->role], (int)m->text.len, m->text.data);
        if (m->reasoning.len) bytes_printf(out, "|think %.*s", (int)m->reasoning.len, m->reasoning.data);
        if (m->call_id.len) bytes_printf(out, "|of %.*s", (int)m->call_id.len, m->call_id.data);
        for (int k = 0; k < m->n_calls; k++) {
            const chat_call *c = &m->calls[k];
            bytes_printf(out, "|%.*s %.*s%.*s", (int)c->id.len, c->id.data, (int)c->name.len, c->name.data,
                         (int)c->arguments.len, c->arguments.data);
        }
        bytes_char(out, '\n');
    }
    for (int i = 0; i < r->n_orphans; i++) {
        bytes_printf(out, "orphan %.*s\n", (int)r->orphans[i].len, r->orphans[i].data);
    }
}

/* The conversation of a body, or "STATUS PARAM: MESSAGE". */
static inline void expect_parsed(api_dialect d, const api_config *c, bytes *body, const char *want)
{
    api_request *r = NULL;
    api_error e = { .message = "" };
    bytes got;
    bytes_init(&got, 1u << 16);
    replace(body->data, '\'', '"');
    if (api_parse(&r, d, (slice){ body->data, body->len }, c, &e)) describe(r, &got);
    else bytes_printf(&got, "%d %s: %s", e.status, e.param, e.message);
    expect_same(body->data, got.data, want);
    api_request_free(r);
    bytes_free(&got);
}

#endif
