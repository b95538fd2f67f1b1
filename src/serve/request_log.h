/* request_log: the one line that tells what a request was (docs/server.md, Log). Never any text of it. */
#ifndef SERVE_REQUEST_LOG_H
#define SERVE_REQUEST_LOG_H

#include <stdbool.h>
#include <stdint.h>
#include "base/bytes.h"
#include "text/answer_event.h"

typedef struct {
    const char  *id, *route, *session;  /* session: hex of its first hint; "" none */
    const char  *source;                /* of the cached tokens: "live-id", "disk", ... */
    int          status;
    answer_usage usage;
    int          calls;
    const char  *finish;                /* "stop", "length", "cancelled-prefill", ...; NULL: nothing was generated */
    double       queue_s, prefill_s, decode_s, total_s;
    const char  *error;                 /* NULL: none */
} request_record;

/* `when`: Unix seconds. Without a newline. */
void request_log_text(const request_record *r, int64_t when, bytes *out);
void request_log_json(const request_record *r, int64_t when, bytes *out);

/* Any other line of the log, such as a decision of the cache, in the same forms. */
void request_log_note(const char *line, bool json, int64_t when, bytes *out);

#endif
