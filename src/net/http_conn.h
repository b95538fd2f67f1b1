/* http_conn: what the parts of the HTTP server share: a connection, its exchange, the server.
 *
 * http_input.c takes bytes and makes exchanges of them, http_output.c writes responses,
 * http_server.c lets connections come and go, and keeps their time. */
#ifndef NET_HTTP_CONN_H
#define NET_HTTP_CONN_H

#include <time.h>
#include "net/http_server.h"

/* A connection's life, in phases:
 *
 *   IDLE -> HEAD -> BODY -> BUSY -> FLUSH -> IDLE ...      one request after the other
 *                     any of them -> FLUSH -> LINGER       the last answer of the connection
 *                                        any -> CLOSED     the handle is closing
 *
 * IDLE    nothing of a request is here
 * HEAD    its first bytes are, in c->in
 * BODY    the head is parsed (c->x exists), the body comes
 * BUSY    the handler has the request
 * FLUSH   the response is complete (c->x is gone), output waits for the client
 * LINGER  all is sent, also the FIN; what the client still sends is dropped, so that no reset
 *         overtakes the answer on its way */
typedef enum { IDLE, HEAD, BODY, BUSY, FLUSH, LINGER, CLOSED } phase;

enum {
    HTTP_READ_BYTES = 64 << 10, /* of the loop's buffer, which all connections share */
    HTTP_LINGER_MS  = 2000      /* without a byte                                    */
};

typedef struct conn conn;

struct http_exchange {
    conn        *c;
    void        *user;
    http_head    head;
    bytes        body;
    uint64_t     missing;       /* bytes of a body of known length */
    http_chunked chunks;
    size_t       mark;          /* body bytes when the progress was last looked at */
    bool         seen;          /* by the handler, so on_gone is due  */
    bool         refused;       /* a write, so on_drained is due      */
    http_header  headers[];     /* then the bytes of the head         */
};

/* What could not be sent at once: `flying` belongs to libuv until it is written, `waiting` is next. */
typedef struct {
    uv_write_t req;
    bytes      flying, waiting;
    size_t     left;            /* unsent, when last looked at */
    uint64_t   deadline;        /* for the next byte           */
} output;

struct conn {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t    tcp;
        uv_pipe_t   pipe;
    };
    http_server   *server;
    conn          *prev, *next;
    http_exchange *x;
    output        *out;         /* NULL: nothing waits */
    bytes          in;          /* the head so far                */
    bytes          kept;        /* what came behind a request that is not answered yet */
    http_scan      scan;
    uint64_t       deadline;    /* of IDLE, HEAD, BODY, LINGER    */
    uint64_t       last;        /* of LINGER, whatever comes      */
    uint8_t        phase;
    bool           taking;      /* take() is running: it goes on by itself */
    bool           close;       /* after the response; what comes meanwhile is dropped */
    bool           eof;         /* the client sends no more       */
    bool           soon;        /* is on the idle handle's list   */
    bool           doomed;
};

struct http_server {
    uv_loop_t   *loop;
    http_limits  limits;
    http_handler handler;
    struct port *ports;
    conn        *conns;         /* closing ones too, until they are closed */
    int          n_conns;       /* without those    */
    int          n_handles;     /* libuv's          */
    bool         stopping, closing;
    size_t       body_bytes;    /* of all exchanges, and what is kept of following requests */
    int          period_ms;     /* of the timer; 0: it rests */
    uv_timer_t   timer;
    uv_idle_t    idle;          /* for what must not happen within a caller's call */
    time_t       date_at;
    char         date[32];
    char         buffer[HTTP_READ_BYTES];
};

static inline uint64_t conn_in_ms(const conn *c, int ms)
{
    return uv_now(c->server->loop) + (uint64_t)ms;
}

/* ---- http_server.c ---------------------------------------------------------------- */

void conn_drop(conn *c);
/* When the caller's call is over: drops c, or goes on with what it has kept. */
void conn_drop_soon(conn *c);
void conn_do_soon(conn *c);
void conn_end_exchange(conn *c);        /* the response is complete or never will be */
void conn_forget_kept(conn *c);

/* ---- http_input.c ----------------------------------------------------------------- */

void conn_on_alloc(uv_handle_t *h, size_t wanted, uv_buf_t *buf);
void conn_on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf);
/* The following request, once the answer before it is sent. */
void conn_go_on(conn *c);

/* ---- http_output.c ---------------------------------------------------------------- */

/* Sends what the socket takes now and keeps the rest. A socket's error shows later. */
void conn_send(conn *c, const slice *parts, int n);
/* The server's own answer to what is no request. */
void conn_refuse(conn *c, http_fault f);
void conn_free_output(conn *c);

#endif
