#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "api/api_common.h"
#include "base/checked.h"
#include "base/utf8.h"

/* vsnprintf may have cut a character in two. */
static void trim_to_characters(char *text, size_t cap, size_t wanted)
{
    if (wanted < cap) return;
    const size_t n = cap - 1;
    text[n - (size_t)utf8_pending(text, n)] = 0;
}

bool api_refuse(api_error *e, int status, const char *type, const char *code, const char *param, const char *fmt, ...)
{
    if (!e) return false;
    va_list ap;
    *e = (api_error){ .status = status, .type = type, .code = code };
    if (param) {
        const int n = snprintf(e->param, sizeof e->param, "%s", param);
        trim_to_characters(e->param, sizeof e->param, n < 0 ? 0 : (size_t)n);
    }
    va_start(ap, fmt);
    const int n = vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    trim_to_characters(e->message, sizeof e->message, n < 0 ? 0 : (size_t)n);
    return false;
}

bool api_refuse_field(api_error *e, const char *sentence)
{
    const char *colon = strchr(sentence, ':'), *blank = strchr(sentence, ' ');
    char param[128] = "";
    if (colon && (!blank || colon < blank)) {
        memcpy(param, sentence, min_size((size_t)(colon - sentence), sizeof param - 1));
    }
    return api_refuse(e, 400, "invalid_request_error", NULL, param, "%s", sentence);
}

bool api_refuse_too_long(api_error *e, api_dialect d, int n_prompt, int n_ctx)
{
    if (d == API_MESSAGES) {
        api_refuse(e, 400, "invalid_request_error", "context_length_exceeded", NULL,
                   "prompt is too long: %d tokens > %d maximum", n_prompt, n_ctx);
    } else {
        api_refuse(e, 400, "invalid_request_error", "context_length_exceeded",
                   d == API_RESPONSES ? "input" : d == API_COMPLETIONS ? "prompt" : "messages",
                   "This model's maximum context length is %d tokens. However, your messages resulted in %d tokens. "
                   "Please reduce the length of the messages.", n_ctx, n_prompt);
    }
    if (e) {
        e->n_prompt_tokens = n_prompt;
        e->n_ctx = n_ctx;
    }
    return false;
}

bool api_refuse_queue_full(api_error *e, api_dialect d, int retry_s)
{
    api_refuse(e, d == API_MESSAGES ? 529 : 429, "rate_limit_error", "queue_full", NULL,
               "Too many requests are waiting; try again in %d s.", retry_s);
    if (e) e->retry_after = retry_s;
    return false;
}

bool api_refuse_unavailable(api_error *e, bool loading)
{
    if (loading) api_refuse(e, 503, "server_error", "loading", NULL, "The model is still being loaded; try again.");
    else api_refuse(e, 503, "server_error", "shutting_down", NULL, "The server is shutting down.");
    if (e) e->retry_after = 2;
    return false;
}

bool api_refuse_lost(api_error *e, int retry_s, const char *message)
{
    api_refuse(e, 503, "server_error", "device_lost", NULL, "%s", message);
    if (e) e->retry_after = retry_s;
    return false;
}

bool api_refuse_failed(api_error *e, const char *message)
{
    return api_refuse(e, 500, "server_error", NULL, NULL, "%s", message);
}

/* What Anthropic's API calls an error of this status. */
static const char *anthropic_type(int status)
{
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 529: return "overloaded_error";
    default:  return status >= 500 ? "api_error" : "invalid_request_error";
    }
}

static void text_or_null(json_writer *w, const char *key, const char *text)
{
    json_put_text(w, key, text && *text ? text : NULL);
}

void api_write_error(json_writer *w, const api_error *e)
{
    json_object(w);
    json_key(w, "error");
    json_object(w);
    json_put_text(w, "message", e->message);
    json_put_text(w, "type", e->type);
    text_or_null(w, "param", e->param);
    text_or_null(w, "code", e->code);
    if (e->n_prompt_tokens > 0) {
        json_put_int(w, "n_prompt_tokens", e->n_prompt_tokens);
        json_put_int(w, "n_ctx", e->n_ctx);
    }
    json_object_end(w);
    json_object_end(w);
}

static void write_anthropic_error(json_writer *w, const api_error *e, const char *request_id)
{
    json_object(w);
    json_put_text(w, "type", "error");
    json_key(w, "error");
    json_object(w);
    json_put_text(w, "type", anthropic_type(e->status));
    json_put_text(w, "message", e->message);
    json_object_end(w);
    text_or_null(w, "request_id", request_id);
    json_object_end(w);
}

void api_error_body(api_dialect d, const api_error *e, const char *request_id, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    if (d == API_MESSAGES) write_anthropic_error(&w, e, request_id);
    else api_write_error(&w, e);
}
