#include "api/api_common.h"

#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/scrub.h"
#include "base/checked.h"

/* ---- lists that grow ------------------------------------------------------------------------ */

void api_hint(api_reader *rd, slice hint)
{
    api_request *r = rd->r;
    if (!hint.len) return;
    slice *hints = api_grow(rd->memory, (slice *)r->hints, r->n_hints, &rd->cap_hints, sizeof hint);
    if (!hints) return;
    hints[r->n_hints++] = api_copy(rd->memory, hint);
    r->hints = hints;
}

void api_warn(api_reader *rd, const char *fmt, ...)
{
    api_request *r = rd->r;
    char text[200];
    va_list ap;
    if (r->n_warnings == 8) return;             /* for a log line, not for a client to fill */
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    slice *warnings = api_grow(rd->memory, (slice *)r->warnings, r->n_warnings, &rd->cap_warnings, sizeof *warnings);
    if (!warnings) return;
    warnings[r->n_warnings++] = api_copy(rd->memory, slice_of(text));
    r->warnings = warnings;
}

/* ---- content -------------------------------------------------------------------------------- */

slice api_join(api_reader *rd, const slice *parts, int n, const char *between)
{
    const size_t gap = strlen(between);
    size_t total = 0;
    if (n == 0) return (slice){ "", 0 };
    if (n == 1) return parts[0];
    for (int i = 0; i < n; i++) total += parts[i].len + (i ? gap : 0);
    char *text = api_take(rd->memory, total + 1, 1);
    if (!text) return (slice){ "", 0 };
    char *at = text;
    for (int i = 0; i < n; i++) {
        if (i) at = mempcpy(at, between, gap);
        if (parts[i].len) at = mempcpy(at, parts[i].data, parts[i].len);
    }
    return (slice){ text, total };
}

static slice unsupported(api_reader *rd, slice type)
{
    const int n = api_shown(type, 64);
    api_warn(rd, "a part of type %.*s is not supported", n, type.data);
    const slice parts[3] = { slice_of("[Unsupported "), { type.data, (size_t)n }, slice_of("]") };
    return api_join(rd, parts, 3, "");
}

bool api_part(api_reader *rd, const api_value *part, slice *text)
{
    static const char *const text_types[] = { "text", "input_text", "output_text", "refusal" };
    slice type = slice_of("text");
    if (api_is_string(rd, part)) {
        *text = api_raw(rd, part);
        return true;
    }
    if (!api_is_object(rd, part)) return api_wrong(rd, part, "a string or an object with a type is expected");
    if (!api_get_string(rd, part, "type", &type)) return false;
    for (size_t i = 0; i < countof(text_types); i++) {
        if (!slice_is(type, text_types[i])) continue;
        const api_value v = api_field(rd, part, slice_is(type, "refusal") ? "refusal" : "text");
        return api_need_string(rd, &v, text);
    }
    if (rd->config->reject_media) {
        const api_value v = api_field(rd, part, "type");
        return api_wrong(rd, &v, "this server reads text only");
    }
    *text = unsupported(rd, type);
    return true;
}

bool api_content(api_reader *rd, const api_value *v, slice *text)
{
    if (api_is_string(rd, v)) {
        *text = api_raw(rd, v);
        return true;
    }
    if (!v->node) return api_wrong(rd, v, "this field is required");
    if (!api_is_array(rd, v)) return api_wrong(rd, v, "a string or an array of parts is expected");
    const int n = api_count(rd, v);
    slice *parts = api_take(rd->memory, (size_t)n, sizeof *parts);
    if (!parts) return true;                    /* api_parse answers for the memory */
    int i = 0;
    for (api_value part = api_first(rd, v); part.node; part = api_after(rd, part)) {
        if (!api_part(rd, &part, &parts[i++])) return false;
    }
    *text = api_join(rd, parts, n, "\n\n");
    return true;
}

/* ---- sampling ------------------------------------------------------------------------------- */

static bool read_float(api_reader *rd, const char *name, double min, double max, float *out)
{
    const api_value body = api_body();
    double v = *out;
    if (!api_get_number(rd, &body, name, min, max, &v)) return false;
    *out = (float)v;
    return true;
}

/* Above 0: a top_p of 0 would leave nothing, a repetition penalty of 0 divides by it. */
static bool read_positive(api_reader *rd, const char *name, double max, float *out)
{
    const api_value body = api_body(), v = api_field(rd, &body, name);
    if (!read_float(rd, name, 0, max, out)) return false;
    return *out > 0 || api_wrong(rd, &v, "a number above 0 is expected");
}

static bool digits_value(slice token, uint64_t *out)
{
    uint64_t v = 0;
    for (size_t i = 0; i < token.len; i++) {
        const unsigned digit = (unsigned)(token.data[i] - '0');
        if (digit > 9 || v > (UINT64_MAX - digit) / 10) return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

/* All of int64 and uint64: clients draw seeds from either. */
static bool read_seed(api_reader *rd)
{
    const api_value body = api_body(), v = api_field(rd, &body, "seed");
    if (!api_given(rd, &v)) return true;
    if (api_kind(rd, &v) != JSON_TREE_NUMBER || !digits_value(api_raw(rd, &v), &rd->r->seed)) {
        int64_t seed;
        if (!api_to_int(rd, &v, INT64_MIN, INT64_MAX, &seed)) return false;
        rd->r->seed = (uint64_t)seed;
    }
    rd->r->has_seed = true;
    return true;
}

static bool read_token_id(slice key, int vocab_size, int32_t *out)
{
    int32_t id = 0;
    if (key.len < 1 || key.len > 8) return false;
    for (size_t i = 0; i < key.len; i++) {
        if (key.data[i] < '0' || key.data[i] > '9') return false;
        id = id * 10 + (key.data[i] - '0');
    }
    *out = id;
    return id < vocab_size;
}

static bool read_bias(api_reader *rd)
{
    const api_value body = api_body(), v = api_field(rd, &body, "logit_bias");
    if (!api_given(rd, &v)) return true;
    if (!api_need_object(rd, &v)) return false;
    const int n = api_count(rd, &v);
    if (n > rd->config->vocab_size) return api_wrong(rd, &v, "there are only %d tokens", rd->config->vocab_size);
    api_bias *bias = api_take(rd->memory, (size_t)n, sizeof *bias);
    if (!bias) return true;
    int i = 0;
    for (api_value m = api_first(rd, &v); m.node; m = api_after(rd, m), i++) {
        double strength;
        if (!read_token_id(api_key(rd, &m), rd->config->vocab_size, &bias[i].token)) {
            return api_wrong(rd, &m, "the key is no token id below %d", rd->config->vocab_size);
        }
        if (!api_to_number(rd, &m, -100, 100, &strength)) return false;
        bias[i].bias = (float)strength;
    }
    rd->r->bias = bias;
    rd->r->n_bias = n;
    return true;
}

bool api_sampling(api_reader *rd, bool penalties)
{
    const api_value body = api_body();
    api_request *r = rd->r;
    int64_t top_k = r->top_k;
    if (!read_float(rd, "temperature", 0, 2, &r->temperature) || !read_positive(rd, "top_p", 1, &r->top_p)
        || !read_float(rd, "min_p", 0, 1, &r->min_p) || !read_seed(rd)
        || !api_get_int(rd, &body, "top_k", -1, INT32_MAX, &top_k)) {
        return false;
    }
    r->top_k = top_k < 0 ? 0 : (int)top_k;
    if (!penalties) return true;
    return read_float(rd, "presence_penalty", -2, 2, &r->presence_penalty)
        && read_float(rd, "frequency_penalty", -2, 2, &r->frequency_penalty)
        && read_positive(rd, "repetition_penalty", FLT_MAX, &r->repetition_penalty)
        && read_bias(rd);
}

bool api_stops(api_reader *rd, const char *field)
{
    const api_value body = api_body(), v = api_field(rd, &body, field);
    api_request *r = rd->r;
    if (!api_given(rd, &v)) return true;
    if (!api_is_string(rd, &v) && !api_is_array(rd, &v)) {
        return api_wrong(rd, &v, "a string or an array of strings is expected");
    }
    const int n = api_is_array(rd, &v) ? api_count(rd, &v) : 1;
    if (n > API_MAX_STOPS) return api_wrong(rd, &v, "at most %d strings are possible", API_MAX_STOPS);
    slice *stops = api_take(rd->memory, (size_t)n, sizeof *stops);
    if (!stops) return true;
    r->stops = stops;
    if (api_is_string(rd, &v)) {
        stops[0] = api_raw(rd, &v);
        r->n_stops = stops[0].len > 0;
        return true;
    }
    for (api_value s = api_first(rd, &v); s.node; s = api_after(rd, s)) {
        if (!api_need_string(rd, &s, &stops[r->n_stops])) return false;
        r->n_stops += stops[r->n_stops].len > 0;
    }
    return true;
}

bool api_max_tokens(api_reader *rd, const char *const *fields, int min)
{
    const api_value body = api_body();
    api_request *r = rd->r;
    for (; *fields; fields++) {
        const api_value v = api_field(rd, &body, *fields);
        int64_t n;
        if (!api_given(rd, &v)) continue;
        if (!api_to_int(rd, &v, min, INT64_C(1) << 53, &n)) return false;
        r->max_tokens = n > INT32_MAX ? INT32_MAX : (int)n;
        r->max_tokens_given = true;
        return true;
    }
    return true;
}

/* ---- model ---------------------------------------------------------------------------------- */

static bool is_served(const api_config *c, slice name)
{
    if (slice_is(name, c->model)) return true;
    for (int i = 0; i < c->n_aliases; i++) {
        if (slice_is(name, c->aliases[i])) return true;
    }
    return false;
}

/* What a model's name asks for: rule 3 of prompt.md 6. */
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

/* ---- tools ---------------------------------------------------------------------------------- */

static bool name_allowed(slice name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:/-";
    if (name.len < 1 || name.len > 128) return false;
    for (size_t i = 0; i < name.len; i++) {
        if (!memchr(allowed, name.data[i], sizeof allowed - 1)) return false;
    }
    return true;
}

bool api_add_tool(api_reader *rd, const api_value *at, slice name, slice description, bool has_description,
                  slice parameters)
{
    if (!name_allowed(name)) {
        const api_value v = api_field(rd, at, "name");
        return api_wrong(rd, &v, "1 to 128 characters of A-Z a-z 0-9 _ . : / - are expected");
    }
    if (rd->n_tools == API_MAX_TOOLS) {
        return api_wrong(rd, at, "at most %d tools are possible", API_MAX_TOOLS);
    }
    chat_tool *tools = api_grow(rd->memory, rd->tools, rd->n_tools, &rd->cap_tools, sizeof *tools);
    if (!tools) return true;
    tools[rd->n_tools++] = (chat_tool){ name, has_description, description, parameters };
    rd->tools = tools;
    return true;
}

bool api_no_strict(api_reader *rd, const api_value *tool)
{
    const api_value strict = api_field(rd, tool, "strict");
    bool wanted = false;
    if (!api_get_bool(rd, tool, "strict", &wanted)) return false;
    if (!wanted) return true;
    api_wrong(rd, &strict, "arguments can not be held to a schema by this version; leave strict out or false");
    if (rd->error) rd->error->code = "unsupported_schema";
    return false;
}

bool api_add_function(api_reader *rd, const api_value *function, const char *schema_field)
{
    const api_value name_at = api_field(rd, function, "name"), schema = api_field(rd, function, schema_field);
    const api_value description_at = api_field(rd, function, "description");
    slice name, description = { "", 0 }, parameters = { "", 0 };
    if (!api_need_string(rd, &name_at, &name) || !api_no_strict(rd, function)) return false;
    if (!api_get_string(rd, function, "description", &description)) return false;
    if (api_given(rd, &schema)) {
        if (!api_need_object(rd, &schema)) return false;
        parameters = api_json(rd, &schema);
    }
    return api_add_tool(rd, function, name, description, api_given(rd, &description_at), parameters);
}

static const chat_tool *find_tool(const api_reader *rd, slice name)
{
    for (int i = 0; i < rd->n_tools; i++) {
        if (slice_equal(rd->tools[i].name, name)) return &rd->tools[i];
    }
    return NULL;
}

bool api_choose_tool(api_reader *rd, const api_value *at, slice name)
{
    if (!find_tool(rd, name)) {
        return api_wrong(rd, at, "no tool is named \"%.*s\"", api_shown(name, 128), name.data);
    }
    rd->r->choice = API_TOOLS_NAMED;
    rd->r->chosen_tool = name;
    return true;
}

bool api_allow_tools(api_reader *rd, const api_value *at, const slice *names, int n)
{
    chat_tool *callable = api_take(rd->memory, (size_t)n, sizeof *callable);
    if (n == 0) return api_wrong(rd, at, "at least one tool is expected");
    if (!callable) return true;
    for (int i = 0; i < n; i++) {
        const chat_tool *tool = find_tool(rd, names[i]);
        if (!tool) {
            return api_wrong(rd, at, "no tool is named \"%.*s\"", api_shown(names[i], 128), names[i].data);
        }
        callable[i] = *tool;
    }
    rd->r->callable = callable;
    rd->r->n_callable = n;
    return n > 1 || rd->r->choice != API_TOOLS_REQUIRED || api_choose_tool(rd, at, names[0]);
}

static int by_name(const void *pa, const void *pb)
{
    const slice *a = pa, *b = pb;
    const size_t n = min_size(a->len, b->len);
    const int order = n ? memcmp(a->data, b->data, n) : 0;
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static bool names_differ(api_reader *rd)
{
    slice names[API_MAX_TOOLS];
    for (int i = 0; i < rd->n_tools; i++) names[i] = rd->tools[i].name;
    qsort(names, (size_t)rd->n_tools, sizeof *names, by_name);
    for (int i = 1; i < rd->n_tools; i++) {
        if (!slice_equal(names[i - 1], names[i])) continue;
        return api_refuse(rd->error, 400, "invalid_request_error", NULL, "tools",
                          "tools: two of them are named \"%.*s\"", (int)names[i].len, names[i].data);
    }
    return true;
}

static bool settle_tools(api_reader *rd)
{
    api_request *r = rd->r;
    if (!names_differ(rd)) return false;
    r->chat.tools = rd->tools;
    r->chat.n_tools = rd->n_tools;
    if (!r->callable) {
        r->callable = rd->tools;
        r->n_callable = rd->n_tools;
    }
    if (r->choice == API_TOOLS_REQUIRED && r->n_callable == 0) {
        return api_refuse(rd->error, 400, "invalid_request_error", NULL, "tool_choice",
                          "tool_choice: a call is required, but the request offers no tools");
    }
    return true;
}

/* ---- structured output ---------------------------------------------------------------------- */

bool api_no_structured(api_reader *rd, const api_value *v)
{
    if (!api_given(rd, v)) return true;
    api_wrong(rd, v, "answers can not be held to a schema by this version; ask for plain text and check the answer");
    if (rd->error) rd->error->code = "unsupported_schema";
    return false;
}

bool api_format(api_reader *rd, const api_value *format)
{
    slice type;
    if (!api_given(rd, format)) return true;
    if (!api_need_object(rd, format)) return false;
    const api_value type_at = api_field(rd, format, "type"), inner = api_field(rd, format, "json_schema");
    const api_value schema = api_field(rd, api_given(rd, &inner) ? &inner : format, "schema");
    if (!api_need_string(rd, &type_at, &type)) return false;
    if (slice_is(type, "text")) return true;
    if (slice_is(type, "json_object")) return api_no_structured(rd, format);
    if (!slice_is(type, "json_schema")) return api_wrong(rd, &type_at, "text, json_object or json_schema is expected");
    return api_need_object(rd, &schema) && api_no_structured(rd, &schema);
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

/* Rules 1 to 5 of prompt.md 6: the first that says something decides the mode. */
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
    if (!settle_tools(rd)) return false;
    settle_thinking(rd, w);
    settle_sampling(rd);
    settle_results(rd);
    scrub_system_text(rd);
    rd->r->side = is_side(rd->r, w);
    return true;
}
