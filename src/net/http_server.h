/* http_server: HTTP/1.1 requests in, responses out, on one libuv loop.
 *
 * Owns listeners, connections, parsing, limits and timers. Knows no JSON and
 * no routes: a handler gets whole requests and answers them, at once or piece by piece.
 * Strict about what could be read in two ways (conflicting lengths, obs-fold, bare CR,
 * spaces before a colon): 400 and the connection ends. One request of a connection is
 * in the handler's hands at a time; bytes of the next one wait in the connection.
 *
 * All functions and callbacks run on the loop's thread. Output is pulled: a stream's buffer has a
 * limit, a write that would pass it is refused, and on_drained tells when there is room.
 * A client that vanishes (reset, FIN, half-close) or does not read for write_timeout ends
 * its exchange with on_gone, within 100 ms and whatever the exchange is waiting for.
 * No callback comes from within a call of this module, except from http_server_close.
 * The program ignores SIGPIPE: writing to a socket that has closed raises it. */
#ifndef NET_HTTP_SERVER_H
#define NET_HTTP_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <uv.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"
#include "net/http_parser.h"        /* http_request and its headers */

typedef struct http_server   http_server;
typedef struct http_exchange http_exchange;     /* one request and its response */

typedef struct {
    size_t max_head_bytes;      /* 64 KiB: 431           */
    int    max_headers;         /* 200: 431              */
    size_t max_body_bytes;      /* 64 MiB: 413           */
    size_t max_bodies_bytes;    /* of all requests together, 512 MiB: 503; at least one body fits */
    size_t max_output_bytes;    /* that wait for a stream's client: 8 MiB */
    int    head_timeout_ms;     /* 10 s since its first byte: 408 */
    int    body_slack_ms;       /* 10 s without 1 KiB of progress: 408 */
    int    idle_timeout_ms;     /* 75 s without a request: closed */
    int    write_timeout_ms;    /* 30 s without a byte taken: closed */
    int    max_connections;     /* 4,096; beyond it new ones wait in the listen queue */
} http_limits;
http_limits http_limits_defaults(void);

typedef struct {
    void *ctx;
    /* Headers are complete, the body is not read yet. Answering here (http_respond) refuses the
     * request without reading its body. May be NULL. */
    void (*on_headers)(void *ctx, http_exchange *x);
    /* The request is complete and was not answered in on_headers. */
    void (*on_request)(void *ctx, http_exchange *x);
    /* The exchange ends before its response was complete; x is gone after this returns. Not called
     * after http_respond or http_stream_end, nor for an exchange that the handler has not seen yet. */
    void (*on_gone)(void *ctx, http_exchange *x);
    /* A refused http_stream_write may be tried again. */
    void (*on_drained)(void *ctx, http_exchange *x);
    /* The body of an answer that the server itself gives (400, 408, 413, 417, 431, 501, 503, 505), and its
     * headers beside the usual ones; r holds what was understood so far (path.len 0: nothing of use). When
     * on_headers saw the exchange, on_gone follows. NULL: the body is `why`. */
    void (*on_error)(void *ctx, const http_request *r, int status, const char *why, bytes *headers, bytes *body);
} http_handler;

/* limits and *h are copied. */
ds4_status http_server_open(http_server **out, uv_loop_t *loop, const http_limits *limits, const http_handler *h,
                            ds4_error *err);
/* port 0: any free; *bound gets it. DS4_EIO names the address ("127.0.0.1:8000 is in use"). */
ds4_status http_server_listen(http_server *s, const char *host, int port, int *bound, ds4_error *err);
/* A stale socket file is replaced, one somebody listens on is DS4_EIO. Mode 0600; removed when listening stops. */
ds4_status http_server_listen_unix(http_server *s, const char *path, ds4_error *err);
/* Connections that are open stay so until their next answer, which says Connection: close. */
void       http_server_stop_listening(http_server *s);
int        http_server_connections(const http_server *s);
/* In the handler's hands or being written; one whose body still comes counts when on_headers saw it. */
int        http_server_exchanges(const http_server *s);
/* Drops all connections (on_gone for open exchanges) and frees s once the loop has closed its handles;
 * run the loop until then. */
void       http_server_close(http_server *s);

const http_request *http_exchange_request(const http_exchange *x);
void  http_exchange_set_user(http_exchange *x, void *user);
void *http_exchange_user(const http_exchange *x);

/* The whole answer; copied where it can not be sent at once. `headers` are complete lines "Name: value\r\n" beside
 * Content-Length, Date and Connection. For HEAD the body is left out and its length told; 204 has none.
 * x is gone afterwards. */
void http_respond(http_exchange *x, int status, slice headers, slice body);

/* An answer in pieces: chunked, or until the connection closes for HTTP/1.0. For HEAD the pieces go nowhere. */
void http_stream_begin(http_exchange *x, int status, slice headers);
/* One chunk, all of it or (false) nothing: the buffer is full, and on_drained comes when half of it is free (or
 * on_gone). A chunk that is larger than the whole buffer is taken when nothing else waits. */
bool http_stream_write(http_exchange *x, slice data);
void http_stream_end(http_exchange *x);         /* x is gone afterwards; what is buffered is still sent */

#endif
