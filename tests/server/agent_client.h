/* agent_client: what coding agents send back. Given the server's answer, builds the next request as that client does,
 * from the shapes of tests/data/agent-shapes.
 *
 * Claude Code: blocks with thinking and signature, a cache marker that moves, results in the order in which its
 *     tools finished, system messages in the middle, a billing line that changes. Codex: items with encrypted
 *     reasoning. opencode: reasoning_content, arguments parsed and written again as JavaScript does (keys that look
 *     like integers first), content "". Pi: content as parts or null. generic: neither reasoning nor blanks at the
 *     ends of texts. */
#ifndef TESTS_SERVER_AGENT_CLIENT_H
#define TESTS_SERVER_AGENT_CLIENT_H

#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "base/bytes.h"
#include "runner.h"
#include "text/json_tree.h"

typedef enum { AGENT_CLAUDE_CODE, AGENT_CODEX, AGENT_OPENCODE, AGENT_PI, AGENT_GENERIC, AGENT_KINDS } agent_kind;

typedef struct {
    const char *name, *shape, *path;
    api_dialect dialect;
    bool        returns_reasoning;
} agent_habits;

static const agent_habits agents[AGENT_KINDS] = {
    [AGENT_CLAUDE_CODE] = { "Claude Code", "claude-code.json", "/v1/messages", API_MESSAGES, true },
    [AGENT_CODEX]       = { "Codex", "codex.json", "/v1/responses", API_RESPONSES, true },
    [AGENT_OPENCODE]    = { "opencode", "opencode.json", "/v1/chat/completions", API_CHAT, true },
    [AGENT_PI]          = { "Pi", "pi.json", "/v1/chat/completions", API_CHAT, true },
    [AGENT_GENERIC]     = { "generic", "generic.json", "/v1/chat/completions", API_CHAT, false },
};

typedef struct {
    agent_kind kind;
    char      *head;            /* the shape                                           */
    bytes      history;         /* JSON values with commas between                     */
    size_t     last;            /* where the last one begins                           */
    size_t     fresh;           /* bytes of text that the server has not seen          */
    int        n_requests, n_results;
    size_t     system_bytes;
} agent;

static inline void agent_open(agent *a, agent_kind kind, size_t system_bytes)
{
    char name[64];
    size_t n;
    snprintf(name, sizeof name, "agent-shapes/%s", agents[kind].shape);
    *a = (agent){ .kind = kind, .head = test_read(test_data(name), &n), .system_bytes = system_bytes };
    bytes_init(&a->history, SIZE_MAX);
}

static inline void agent_close(agent *a)
{
    free(a->head);
    bytes_free(&a->history);
}

/* ---- writing ----------------------------------------------------------------------------- */

static inline void agent_item(agent *a)
{
    if (a->history.len) bytes_char(&a->history, ',');
    a->last = a->history.len;
}

static inline slice agent_trimmed(slice s)
{
    while (s.len && strchr(" \n", s.data[0])) s = (slice){ s.data + 1, s.len - 1 };
    while (s.len && strchr(" \n", s.data[s.len - 1])) s.len--;
    return s;
}

static inline void agent_user(agent *a, const char *text)
{
    bytes *h = &a->history;
    agent_item(a);
    switch (a->kind) {
    case AGENT_CODEX:
        bytes_text(h, "{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":");
        break;
    case AGENT_CLAUDE_CODE:
    case AGENT_PI: bytes_text(h, "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":"); break;
    default: bytes_text(h, "{\"role\":\"user\",\"content\":");
    }
    json_tree_write_string(slice_of(text), h);
    bytes_text(h, a->kind == AGENT_OPENCODE || a->kind == AGENT_GENERIC ? "}" : "}]}");
    a->fresh += strlen(text) + 4;
}

static inline void agent_fill(const agent *a, const char *from, bytes *out)
{
    const char *at;
    while ((at = strchr(from, '@'))) {
        bytes_append(out, from, (size_t)(at - from));
        if (!strncmp(at, "@SYSTEM@", 8)) {
            for (size_t n = 0; n < a->system_bytes; n += 32) bytes_printf(out, "Rule %06zu: do as you are told. ", n);
            from = at + 8;
        } else if (!strncmp(at, "@HISTORY@", 9)) {
            /* Claude Code marks the last block of its last message. */
            const size_t n = a->history.len;
            const bool marks = a->kind == AGENT_CLAUDE_CODE && n > 3 && !strncmp(a->history.data + n - 3, "}]}", 3);
            bytes_append(out, a->history.data, n - (marks ? 3 : 0));
            if (marks) bytes_text(out, ",\"cache_control\":{\"type\":\"ephemeral\"}}]}");
            from = at + 9;
        } else {
            bytes_printf(out, "%x", 0xd55 + 19 * a->n_requests);
            from = at + 3;
        }
    }
    bytes_text(out, from);
}

static inline void agent_body(agent *a, bytes *out)
{
    a->n_requests++;
    agent_fill(a, a->head, out);
}

/* ---- reading an answer ------------------------------------------------------------------- */

static inline slice agent_text(const json_tree *t, uint32_t node, const char *key)
{
    const uint32_t m = node ? json_tree_find(t, node, key) : 0;
    return m && t->nodes[m].kind == JSON_TREE_STRING ? t->nodes[m].text : (slice){ "", 0 };
}

/* JSON.stringify(JSON.parse(x)) of an object: members that look like integers come first. */
static inline void agent_stringify(const json_tree *t, uint32_t object, bytes *out)
{
    bool any = false;
    bytes_char(out, '{');
    for (int integers = 1; integers >= 0; integers--) {
        for (uint32_t c = t->nodes[object].first; c; c = t->nodes[c].next) {
            const slice key = t->nodes[c].key;
            if ((key.len && key.data[0] >= '0' && key.data[0] <= '9') != integers) continue;
            if (any) bytes_char(out, ',');
            json_tree_write_string(key, out);
            bytes_char(out, ':');
            json_tree_write_compact(t, c, out);
            any = true;
        }
    }
    bytes_char(out, '}');
}

static inline void agent_rewritten(slice arguments, bytes *out)
{
    json_tree t;
    ds4_error err;
    EXPECT_OK(json_tree_parse(&t, arguments, &err), err);
    if (t.n) agent_stringify(&t, 1, out);
    json_tree_free(&t);
}

/* What a tool gives. */
static inline void agent_result(agent *a, int call, bytes *out)
{
    for (int i = 0; i < 5; i++) bytes_printf(out, "%d: int line_%d = %d;\n", i, call, a->n_results * 7 + i);
    a->n_results++;
    a->fresh += out->len + 30;
}

typedef struct { slice id; } agent_call;

/* -- Claude Code -- */

static inline int agent_take_messages(agent *a, const json_tree *t)
{
    bytes *h = &a->history;
    agent_call calls[8];
    int n = 0;
    const uint32_t content = json_tree_find(t, 1, "content");
    agent_item(a);
    bytes_text(h, "{\"role\":\"assistant\",\"content\":[");
    for (uint32_t c = t->nodes[content].first, any = 0; c; c = t->nodes[c].next, any = 1) {
        if (any) bytes_char(h, ',');
        if (slice_is(agent_text(t, c, "type"), "tool_use")) {
            calls[n++].id = agent_text(t, c, "id");
            bytes_text(h, "{\"type\":\"tool_use\",\"id\":");
            json_tree_write_string(agent_text(t, c, "id"), h);
            bytes_text(h, ",\"name\":");
            json_tree_write_string(agent_text(t, c, "name"), h);
            bytes_text(h, ",\"input\":");
            agent_stringify(t, json_tree_find(t, c, "input"), h);
            bytes_char(h, '}');
        } else {
            json_tree_write_compact(t, c, h);
        }
    }
    bytes_text(h, "]}");
    if (n == 0) return 0;

    agent_item(a);
    bytes_text(h, "{\"role\":\"user\",\"content\":[");
    for (int i = n - 1; i >= 0; i--) {                      /* the last call was the fastest */
        bytes text;
        bytes_init(&text, SIZE_MAX);
        agent_result(a, i, &text);
        bytes_text(h, "{\"tool_use_id\":");
        json_tree_write_string(calls[i].id, h);
        bytes_text(h, ",\"type\":\"tool_result\",\"content\":");
        json_tree_write_string((slice){ text.data, text.len }, h);
        bytes_text(h, i ? "}," : "}]}");
        bytes_free(&text);
    }
    if (a->n_requests % 3 == 0) {
        const char *reminder = "Agents that are there now: one, two.";
        agent_item(a);
        bytes_printf(h, "{\"role\":\"system\",\"content\":\"%s\"}", reminder);
        a->fresh += strlen(reminder) + 50;
    }
    return n;
}

/* -- Codex -- */

static inline int agent_take_responses(agent *a, const json_tree *t)
{
    bytes *h = &a->history;
    agent_call calls[8];
    int n = 0;
    const uint32_t output = json_tree_find(t, 1, "output");
    for (uint32_t c = t->nodes[output].first; c; c = t->nodes[c].next) {
        const slice type = agent_text(t, c, "type");
        agent_item(a);
        if (slice_is(type, "reasoning")) {
            bytes_text(h, "{\"type\":\"reasoning\",\"summary\":");
            json_tree_write_compact(t, json_tree_find(t, c, "summary"), h);
            bytes_text(h, ",\"encrypted_content\":");
            json_tree_write_string(agent_text(t, c, "encrypted_content"), h);
        } else if (slice_is(type, "function_call")) {
            calls[n++].id = agent_text(t, c, "call_id");
            bytes_text(h, "{\"type\":\"function_call\",\"name\":");
            json_tree_write_string(agent_text(t, c, "name"), h);
            bytes_text(h, ",\"arguments\":");
            json_tree_write_string(agent_text(t, c, "arguments"), h);
            bytes_text(h, ",\"call_id\":");
            json_tree_write_string(agent_text(t, c, "call_id"), h);
        } else {
            const uint32_t parts = json_tree_find(t, c, "content");
            bytes_text(h,
                       "{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":");
            json_tree_write_string(agent_text(t, parts ? t->nodes[parts].first : 0, "text"), h);
            bytes_text(h, "}]");
        }
        bytes_char(h, '}');
    }
    for (int i = 0; i < n; i++) {
        bytes text;
        bytes_init(&text, SIZE_MAX);
        agent_result(a, i, &text);
        agent_item(a);
        bytes_text(h, "{\"type\":\"function_call_output\",\"call_id\":");
        json_tree_write_string(calls[i].id, h);
        bytes_text(h, ",\"output\":");
        json_tree_write_string((slice){ text.data, text.len }, h);
        bytes_char(h, '}');
        bytes_free(&text);
    }
    return n;
}

/* -- chat -- */

static inline void agent_chat_content(const agent *a, slice text, bool calls, bytes *h)
{
    if (a->kind == AGENT_GENERIC) text = agent_trimmed(text);
    bytes_text(h, "{\"role\":\"assistant\",\"content\":");
    if (a->kind == AGENT_PI && text.len) {
        bytes_text(h, "[{\"type\":\"text\",\"text\":");
        json_tree_write_string(text, h);
        bytes_text(h, "}]");
    } else if (text.len == 0 && calls && a->kind != AGENT_OPENCODE) {
        bytes_text(h, "null");
    } else {
        json_tree_write_string(text, h);
    }
}

static inline int agent_take_chat(agent *a, const json_tree *t)
{
    bytes *h = &a->history;
    agent_call calls[8];
    int n = 0;
    const uint32_t choices = json_tree_find(t, 1, "choices"), message = json_tree_find(t, t->nodes[choices].first, "message");
    const uint32_t list = json_tree_find(t, message, "tool_calls");
    agent_item(a);
    agent_chat_content(a, agent_text(t, message, "content"), list != 0, h);
    const slice reasoning = agent_text(t, message, "reasoning_content");
    if (agents[a->kind].returns_reasoning && reasoning.len) {
        bytes_text(h, ",\"reasoning_content\":");
        json_tree_write_string(reasoning, h);
    }
    if (list) bytes_text(h, ",\"tool_calls\":[");
    for (uint32_t c = list ? t->nodes[list].first : 0; c; c = t->nodes[c].next) {
        const uint32_t function = json_tree_find(t, c, "function");
        bytes arguments;
        bytes_init(&arguments, SIZE_MAX);
        const slice sent = agent_text(t, function, "arguments");
        if (a->kind == AGENT_GENERIC) bytes_append(&arguments, sent.data, sent.len);
        else agent_rewritten(sent, &arguments);
        if (n) bytes_char(h, ',');
        calls[n++].id = agent_text(t, c, "id");
        bytes_text(h, "{\"id\":");
        json_tree_write_string(agent_text(t, c, "id"), h);
        bytes_text(h, ",\"type\":\"function\",\"function\":{\"name\":");
        json_tree_write_string(agent_text(t, function, "name"), h);
        bytes_text(h, ",\"arguments\":");
        json_tree_write_string((slice){ arguments.data, arguments.len }, h);
        bytes_text(h, "}}");
        bytes_free(&arguments);
    }
    bytes_text(h, list ? "]}" : "}");
    for (int i = 0; i < n; i++) {
        bytes text;
        bytes_init(&text, SIZE_MAX);
        agent_result(a, i, &text);
        agent_item(a);
        bytes_text(h, "{\"role\":\"tool\",\"tool_call_id\":");
        json_tree_write_string(calls[i].id, h);
        bytes_text(h, ",\"content\":");
        json_tree_write_string((slice){ text.data, text.len }, h);
        bytes_char(h, '}');
        bytes_free(&text);
    }
    return n;
}

/* The answer and the results of its calls enter the history; the number of calls. */
static inline int agent_take(agent *a, slice body)
{
    json_tree t;
    ds4_error err = { .message = "" };
    int n = 0;
    a->fresh = 0;
    const ds4_status st = json_tree_parse(&t, body, &err);
    EXPECT_OK(st, err);
    if (st) return 0;
    switch (agents[a->kind].dialect) {
    case API_MESSAGES:  n = agent_take_messages(a, &t); break;
    case API_RESPONSES: n = agent_take_responses(a, &t); break;
    default:            n = agent_take_chat(a, &t); break;
    }
    json_tree_free(&t);
    return n;
}

#endif
