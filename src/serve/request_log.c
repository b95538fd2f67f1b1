#include "serve/request_log.h"

#include <time.h>

#include "base/json_writer.h"

static double rate(const request_record *r)
{
    return r->decode_s > 0 ? r->usage.completion_tokens / r->decode_s : 0;
}

/* "2026-01-31T12:00:00Z" */
static void stamp(int64_t when, char out[32])
{
    const time_t t = (time_t)when;
    struct tm tm;
    out[0] = 0;
    if (gmtime_r(&t, &tm)) strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* One line whatever a client has put into its path or its fields. */
static void quoted(bytes *out, const char *key, const char *text)
{
    bytes_text(out, key);
    bytes_char(out, '"');
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7f) bytes_printf(out, "\\x%02x", c);
        else if (c == '"' || c == '\\') bytes_printf(out, "\\%c", c);
        else bytes_char(out, (char)c);
    }
    bytes_char(out, '"');
}

void request_log_text(const request_record *r, int64_t when, bytes *out)
{
    char time[32];
    stamp(when, time);
    bytes_printf(out, "%s id=%s path=%s status=%d", time, r->id, r->route, r->status);
    if (r->session[0]) bytes_printf(out, " session=%s", r->session);
    if (r->finish) {
        bytes_printf(out, " prompt=%d cached=%d(%s) generated=%d reasoning=%d calls=%d finish=%s",
                     r->usage.prompt_tokens, r->usage.cached_tokens, r->source, r->usage.completion_tokens,
                     r->usage.reasoning_tokens, r->calls, r->finish);
        bytes_printf(out, " queue=%.3fs prefill=%.3fs decode=%.3fs speed=%.2ft/s", r->queue_s, r->prefill_s,
                     r->decode_s, rate(r));
    }
    bytes_printf(out, " total=%.3fs", r->total_s);
    if (r->error) quoted(out, " error=", r->error);
}

static void number(json_writer *w, const char *key, int64_t v)
{
    json_key(w, key);
    json_int(w, v);
}

static void seconds(json_writer *w, const char *key, double v)
{
    json_key(w, key);
    json_double(w, v, 6);
}

static void words(json_writer *w, const char *key, const char *v)
{
    json_key(w, key);
    if (v) json_text(w, v);
    else json_null(w);
}

void request_log_json(const request_record *r, int64_t when, bytes *out)
{
    char time[32];
    stamp(when, time);
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    words(&w, "time", time);
    words(&w, "request_id", r->id);
    words(&w, "route", r->route);
    number(&w, "status", r->status);
    words(&w, "session", r->session[0] ? r->session : NULL);
    if (r->finish) {
        number(&w, "prompt_tokens", r->usage.prompt_tokens);
        number(&w, "cached_tokens", r->usage.cached_tokens);
        words(&w, "cached_from", r->source);
        number(&w, "generated_tokens", r->usage.completion_tokens);
        number(&w, "reasoning_tokens", r->usage.reasoning_tokens);
        number(&w, "tool_calls", r->calls);
        words(&w, "finish", r->finish);
        seconds(&w, "queue_seconds", r->queue_s);
        seconds(&w, "prefill_seconds", r->prefill_s);
        seconds(&w, "decode_seconds", r->decode_s);
        seconds(&w, "tokens_per_second", rate(r));
    }
    seconds(&w, "total_seconds", r->total_s);
    words(&w, "error", r->error);
    json_object_end(&w);
}

void request_log_note(const char *line, bool json, int64_t when, bytes *out)
{
    char time[32];
    stamp(when, time);
    if (!json) {
        bytes_printf(out, "%s %s", time, line);
        return;
    }
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    words(&w, "time", time);
    words(&w, "message", line);
    json_object_end(&w);
}
