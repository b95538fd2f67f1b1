/* api_settle: what follows from all fields of a request together. */
#include "api/api_common.h"

#include "api/scrub.h"
#include "base/checked.h"

/* ---- model ---------------------------------------------------------------------------------- */

static bool is_served(const api_config *c, slice name)
{
    if (slice_is(name, c->model)) return true;
    for (int i = 0; i < c->n_aliases; i++) {
        if (slice_is(name, c->aliases[i])) return true;
    }
    return false;
}

/* What a model's name asks for. */
typedef enum { NAME_UNKNOWN, NAME_PLAIN, NAME_THINK, NAME_NO_THINKING, NAME_MAX } name_kind;

static name_kind kind_of_name(const api_config *c, slice name)
{
    static const struct { const char *suffix; name_kind kind; } suffixes[] = {
        { "-nothink", NAME_NO_THINKING }, { "-think", NAME_THINK }, { "-max", NAME_MAX },
    };
    if (is_served(c, name)) return NAME_PLAIN;
    if (slice_is(name, "deepseek-chat")) return NAME_NO_THINKING;
    if (slice_is(name, "deepseek-reasoner")) return NAME_THINK;
    for (size_t i = 0; i < countof(suffixes); i++) {
        const size_t n = strlen(suffixes[i].suffix);
        if (name.len > n && slice_is((slice){ name.data + name.len - n, n }, suffixes[i].suffix)
            && is_served(c, (slice){ name.data, name.len - n })) {
            return suffixes[i].kind;
        }
    }
    return NAME_UNKNOWN;
}

bool api_unknown_model(const api_config *c, slice name, api_error *e)
{
    if (!c->strict_model || kind_of_name(c, name) != NAME_UNKNOWN) return false;
    api_refuse(e, 404, "invalid_request_error", "model_not_found", "model",
               "The model \"%.*s\" does not exist; this server has \"%s\".",
               api_shown(name, 100), name.data, c->model);
    return true;
}

bool api_model(api_reader *rd)
{
    const api_value body = api_body(), servers = api_field(rd, &body, "mcp_servers");
    if (!api_get_string(rd, &body, "model", &rd->r->model)) return false;
    if (api_unknown_model(rd->config, rd->r->model, rd->error)) return false;
    if (api_first(rd, &servers).node) return api_wrong(rd, &servers, "this server does not call MCP servers");
    return true;
}

/* ---- thinking ------------------------------------------------------------------------------- */

bool api_effort(api_reader *rd, const api_value *v, api_wish *w)
{
    if (!api_given(rd, v)) return true;
    if (api_kind(rd, v) != JSON_TREE_STRING && api_kind(rd, v) != JSON_TREE_NUMBER) {
        return api_wrong(rd, v, "a string is expected");
    }
    const slice level = api_raw(rd, v);
    if (slice_is(level, "none") || slice_is(level, "off")) {
        w->effort_none = true;
        return true;
    }
    return chat_effort_parse(level, &w->effort)
        || api_wrong(rd, v, "none, off, minimal, low, medium, high, xhigh, max, ultra or a number is expected");
}

bool api_thinking(api_reader *rd, const api_value *v, api_wish *w)
{
    const json_tree_kind kind = api_kind(rd, v);
    slice type = slice_of("enabled");
    int64_t budget = 0;
    if (kind == JSON_TREE_NULL) return true;
    if (kind == JSON_TREE_TRUE || kind == JSON_TREE_FALSE) {
        w->think = kind == JSON_TREE_TRUE ? THINK_YES : THINK_NO;
        return true;
    }
    if (kind != JSON_TREE_OBJECT) return api_wrong(rd, v, "an object with a type, or true or false is expected");
    if (!api_get_string(rd, v, "type", &type)) return false;
    if (!slice_is(type, "enabled") && !slice_is(type, "disabled") && !slice_is(type, "adaptive")) {
        const api_value at = api_field(rd, v, "type");
        return api_wrong(rd, &at, "enabled, disabled or adaptive is expected");
    }
    if (!api_get_int(rd, v, "budget_tokens", 0, INT32_MAX, &budget)) return false;
    if (budget > 0) rd->r->think_budget = (int)budget;
    w->think = slice_is(type, "disabled") ? THINK_NO : THINK_YES;
    return true;
}

/* The first that says something decides the mode. */
static bool thinks(const api_config *c, const api_wish *w, name_kind name)
{
    if (w->think != THINK_UNSAID) return w->think == THINK_YES;
    if (w->effort_none) return false;
    if (name == NAME_NO_THINKING) return false;
    if (name == NAME_THINK || name == NAME_MAX) return true;
    if (w->structured) return false;
    return c->mode != 2;
}

static void settle_thinking(api_reader *rd, const api_wish *w)
{
    const api_config *c = rd->config;
    chat_request *chat = &rd->r->chat;
    const name_kind name = kind_of_name(c, rd->r->model);
    chat->no_thinking = !thinks(c, w, name);
    chat->effort = w->effort != EFFORT_UNSET          ? w->effort
                 : name == NAME_MAX || c->mode == 1   ? EFFORT_MAX
                                                      : EFFORT_UNSET;
    chat->profile = c->profile;
    chat->ctx = c->ctx;
    chat->think_max_min_ctx = c->think_max_min_ctx;
}

/* ---- settling ------------------------------------------------------------------------------- */

/* The hosted API ignores these of a client whose request thinks. */
static void settle_sampling(api_reader *rd)
{
    const api_config *c = rd->config;
    api_request *r = rd->r;
    if (!c->official_sampling || r->chat.no_thinking) return;
    r->temperature = c->temperature;
    r->top_p = c->top_p;
    r->top_k = c->top_k;
    r->repetition_penalty = 1;
    r->frequency_penalty = r->presence_penalty = 0;
}

static void settle_results(api_reader *rd)
{
    const chat_request *chat = &rd->r->chat;
    int first = chat->n_messages, n = 0;
    while (first > 0 && chat->messages[first - 1].role != CHAT_ASSISTANT) first--;
    slice *ids = api_take(rd->memory, (size_t)(chat->n_messages - first), sizeof *ids);
    if (!ids) return;
    for (int i = first; i < chat->n_messages; i++) {
        if (chat->messages[i].role == CHAT_TOOL) ids[n++] = chat->messages[i].call_id;
    }
    rd->r->result_ids = ids;
    rd->r->n_results = n;
}

static void scrub_system_text(api_reader *rd)
{
    const chat_request *chat = &rd->r->chat;
    chat_message *messages = (chat_message *)chat->messages;    /* ours, until the request is handed out */
    if (!rd->config->scrubs) return;
    for (int i = 0; i < chat->n_messages; i++) {
        bytes out;
        if (messages[i].role != CHAT_SYSTEM && messages[i].role != CHAT_DEVELOPER) break;
        bytes_init(&out, SIZE_MAX);
        if (scrub_apply(rd->config->scrubs, messages[i].text, &out)) {
            messages[i].text = api_copy(rd->memory, (slice){ out.data, out.len });
        }
        bytes_free(&out);
    }
}

/* A short question without tools beside a conversation, as far as one can tell from here. */
static bool is_side(const api_request *r, const api_wish *w)
{
    const bool small = r->max_tokens_given && r->max_tokens <= 1024;
    return r->chat.n_tools == 0 && r->chat.n_messages <= 4 && (small || w->structured);
}

bool api_settle(api_reader *rd, const api_wish *w)
{
    if (!api_settle_tools(rd)) return false;
    settle_thinking(rd, w);
    settle_sampling(rd);
    settle_results(rd);
    scrub_system_text(rd);
    rd->r->side = is_side(rd->r, w);
    return true;
}
