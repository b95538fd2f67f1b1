/* What every answer carries, and the plain ones. */
#include "serve/server.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"

enum { HEADER_BYTES = 80 * 1024 };      /* CORS echoes what a client asked for */

void server_new_id(char out[REQUEST_ID_BYTES])
{
    uint8_t random[12] = { 0 };
    uv_random(NULL, NULL, random, sizeof random, 0, NULL);
    memcpy(out, "req_", 4);
    for (size_t i = 0; i < sizeof random; i++) snprintf(out + 4 + 2 * i, 3, "%02x", random[i]);
}

api_dialect server_dialect(const route *r, const http_request *h)
{
    if (r->has_dialect) return r->dialect;
    return http_header_of(h, "anthropic-version").data ? API_MESSAGES : API_CHAT;
}

void server_headers(const server *s, const http_request *h, api_dialect d, const char *id, const char *content_type,
                    bytes *out)
{
    if (content_type) bytes_printf(out, "Content-Type: %s\r\n", content_type);
    bytes_printf(out, "X-Request-Id: %s\r\n", id);
    if (d == API_MESSAGES) bytes_printf(out, "request-id: %s\r\n", id);
    access_cors_headers(&s->access, http_header_of(h, "access-control-request-headers"), out);
}

static void respond(server *s, http_exchange *x, const route *r, int status, bytes *headers, slice body)
{
    http_metrics_count(&s->http_metrics, r, status);
    http_respond(x, status, (slice){ headers->data, headers->len }, body);
    bytes_free(headers);
}

void server_respond(server *s, http_exchange *x, const route *r, const char *id, int status, const char *content_type,
                    const char *more,
                    slice body)
{
    const http_request *h = http_exchange_request(x);
    bytes headers;
    bytes_init(&headers, HEADER_BYTES);
    server_headers(s, h, server_dialect(r, h), id, content_type, &headers);
    bytes_text(&headers, more);
    respond(s, x, r, status, &headers, body);
}

void server_refuse(server *s, http_exchange *x, const route *r, const char *id, const api_error *e)
{
    const http_request *h = http_exchange_request(x);
    const api_dialect d = server_dialect(r, h);
    bytes headers, body;
    bytes_init(&headers, HEADER_BYTES);
    bytes_init(&body, HEADER_BYTES);
    server_headers(s, h, d, id, "application/json", &headers);
    if (e->retry_after > 0) bytes_printf(&headers, "Retry-After: %d\r\n", e->retry_after);
    if (e->status == 401) bytes_text(&headers, "WWW-Authenticate: Bearer\r\n");
    if (e->status == 405) route_allow_header(r, &headers);
    api_error_body(d, e, id, &body);
    respond(s, x, r, e->status, &headers, (slice){ body.data, body.len });
    bytes_free(&body);
    server_log(s, &(request_record){ .id = id, .route = r->label, .session = "", .status = e->status,
                                     .error = e->message });
}

void server_log(server *s, const request_record *r)
{
    if (!s->o.request_line) return;
    bytes line;
    bytes_init(&line, 4096);
    if (s->o.log_json) request_log_json(r, (int64_t)clock_unix_seconds(), &line);
    else request_log_text(r, (int64_t)clock_unix_seconds(), &line);
    if (line.data) s->o.request_line(s->o.request_line_ctx, line.data);
    bytes_free(&line);
}
