/* listener: a socket that clients may connect to, TCP or a unix socket of mode 0600.
 *
 * Loop thread only. A call that fails has closed what it began; a handle that it has initialised is closing
 * then, and `on_closed` (as for uv_close) tells when its memory may go. */
#ifndef NET_LISTENER_H
#define NET_LISTENER_H

#include <uv.h>
#include "ds4_status.h"

typedef union {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t    tcp;
    uv_pipe_t   pipe;
} listener;

/* host is an address or a name; port 0 takes any free one, *bound gets it. */
ds4_status listener_open_tcp(listener *l, uv_loop_t *loop, const char *host, int port, int *bound,
                             uv_connection_cb on_connection, uv_close_cb on_closed, ds4_error *err);
/* The file goes when the listener is closed. */
ds4_status listener_open_unix(listener *l, uv_loop_t *loop, const char *path,
                              uv_connection_cb on_connection, uv_close_cb on_closed, ds4_error *err);

#endif
