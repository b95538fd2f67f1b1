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

void request_log_json(const request_record *r, int64_t when, bytes *out)
{
    char time[32];
    stamp(when, time);
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_put_text(&w, "time", time);
    json_put_text(&w, "request_id", r->id);
    json_put_text(&w, "route", r->route);
    json_put_int(&w, "status", r->status);
    json_put_text(&w, "session", r->session[0] ? r->session : NULL);
    if (r->finish) {
        json_put_int(&w, "prompt_tokens", r->usage.prompt_tokens);
        json_put_int(&w, "cached_tokens", r->usage.cached_tokens);
        json_put_text(&w, "cached_from", r->source);
        json_put_int(&w, "generated_tokens", r->usage.completion_tokens);
        json_put_int(&w, "reasoning_tokens", r->usage.reasoning_tokens);
        json_put_int(&w, "tool_calls", r->calls);
        json_put_text(&w, "finish", r->finish);
        json_put_double(&w, "queue_seconds", r->queue_s, 6);
        json_put_double(&w, "prefill_seconds", r->prefill_s, 6);
        json_put_double(&w, "decode_seconds", r->decode_s, 6);
        json_put_double(&w, "tokens_per_second", rate(r), 6);
    }
    json_put_double(&w, "total_seconds", r->total_s, 6);
    json_put_text(&w, "error", r->error);
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
    json_put_text(&w, "time", time);
    json_put_text(&w, "message", line);
    json_object_end(&w);
}
