#include "net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/status.h"

enum { BACKLOG = 511 };

/* ---- TCP --------------------------------------------------------------------- */

static ds4_status resolve(struct sockaddr_storage *out, const char *host, int port, ds4_error *err)
{
    if (uv_ip4_addr(host, port, (struct sockaddr_in *)out) == 0) return DS4_OK;
    if (uv_ip6_addr(host, port, (struct sockaddr_in6 *)out) == 0) return DS4_OK;

    char service[16];
    struct addrinfo *found = NULL;
    const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
    snprintf(service, sizeof service, "%d", port);
    const int e = getaddrinfo(host, service, &hints, &found);
    if (e) return ds4_fail(err, DS4_EIO, "%s is no address of this machine: %s", host, gai_strerror(e));
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return DS4_OK;
}

static int port_of(const uv_tcp_t *tcp)
{
    struct sockaddr_storage a;
    int n = sizeof a;
    if (uv_tcp_getsockname(tcp, (struct sockaddr *)&a, &n)) return 0;
    if (a.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    return ntohs(((struct sockaddr_in *)&a)->sin_port);
}

static ds4_status open_tcp(listener *l, const char *host, int port, int *bound, uv_connection_cb on_connection,
                           ds4_error *err)
{
    ds4_status st;
    struct sockaddr_storage a;
    if (port < 0 || port > 65535) return ds4_fail(err, DS4_EARG, "%d is no port: ports are 1 to 65535", port);
    if ((st = resolve(&a, host, port, err))) return st;

    int e = uv_tcp_bind(&l->tcp, (const struct sockaddr *)&a, 0);
    if (!e) e = uv_listen(&l->stream, BACKLOG, on_connection);
    const char *left = strchr(host, ':') ? "[" : "", *right = *left ? "]" : "";
    if (e == UV_EADDRINUSE) return ds4_fail(err, DS4_EIO, "%s%s%s:%d is in use", left, host, right, port);
    if (e) return ds4_fail(err, DS4_EIO, "cannot listen on %s%s%s:%d: %s", left, host, right, port, uv_strerror(e));
    if (bound) *bound = port_of(&l->tcp);
    return DS4_OK;
}

ds4_status listener_open_tcp(listener *l, uv_loop_t *loop, const char *host, int port, int *bound,
                             uv_connection_cb on_connection, uv_close_cb on_closed, ds4_error *err)
{
    uv_tcp_init(loop, &l->tcp);
    const ds4_status st = open_tcp(l, host, port, bound, on_connection, err);
    if (st) uv_close(&l->handle, on_closed);
    return st;
}

/* ---- unix socket ---------------------------------------------------------------- */

/* Removes the socket file of a process that is gone: one that refuses a connection. */
static ds4_status remove_stale(const char *path, ds4_error *err)
{
    struct stat s;
    if (lstat(path, &s)) return errno == ENOENT ? DS4_OK : ds4_fail(err, DS4_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISSOCK(s.st_mode)) return ds4_fail(err, DS4_EIO, "%s exists and is not a socket", path);

    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0) return ds4_fail(err, DS4_EIO, "%s: %s", path, strerror(errno));
    fcntl(fd, F_SETFL, O_NONBLOCK);         /* a full listen queue is in use as well */
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    memcpy(a.sun_path, path, strlen(path) + 1);
    const bool refused = connect(fd, (struct sockaddr *)&a, sizeof a) && errno == ECONNREFUSED;
    close(fd);
    if (!refused) return ds4_fail(err, DS4_EIO, "%s is in use", path);
    if (unlink(path) && errno != ENOENT) return ds4_fail(err, DS4_EIO, "%s: %s", path, strerror(errno));
    return DS4_OK;
}

static ds4_status open_unix(listener *l, const char *path, uv_connection_cb on_connection, ds4_error *err)
{
    ds4_status st;
    const struct sockaddr_un limit;
    if (!*path || strlen(path) >= sizeof limit.sun_path)
        return ds4_fail(err, DS4_EARG, "a socket's path has 1 to %zu bytes, not %zu", sizeof limit.sun_path - 1,
                        strlen(path));
    if ((st = remove_stale(path, err))) return st;

    /* Nobody can connect before uv_listen, so the file is never open to others. */
    int e = uv_pipe_bind(&l->pipe, path);
    if (!e && chmod(path, 0600)) e = -errno;
    if (!e) e = uv_listen(&l->stream, BACKLOG, on_connection);
    return e ? ds4_fail(err, DS4_EIO, "cannot listen on %s: %s", path, uv_strerror(e)) : DS4_OK;
}

ds4_status listener_open_unix(listener *l, uv_loop_t *loop, const char *path,
                              uv_connection_cb on_connection, uv_close_cb on_closed, ds4_error *err)
{
    uv_pipe_init(loop, &l->pipe, 0);
    const ds4_status st = open_unix(l, path, on_connection, err);
    if (st) uv_close(&l->handle, on_closed);
    return st;
}
