/* What a server makes of requests, and where it listens. */
#include "http_rig.h"

#include <sys/stat.h>
#include <sys/un.h>

/* ---- requests and answers -------------------------------------------------------------- */

TEST(requests_are_answered_one_after_the_other)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "GET /a?b HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "HTTP/1.1 200 OK\r\nDate: "));
    EXPECT(hears(&c, " GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=2\r\nContent-Length: 11\r\n"
                     "Content-Type: text/plain\r\n\r\nGET /a?b []"));
    for (const char *p = "POST /b HTTP/1.1\r\nContent-Length: 3\r\n" H "abc"; *p; p++) {
        say_bytes(&c, p, 1);
        uv_run(&t.loop, UV_RUN_NOWAIT);
    }
    EXPECT(hears(&c, "\r\n\r\nPOST /b [abc]"));
    EXPECT_INT(http_server_connections(t.server), 1);
    EXPECT_INT(http_server_exchanges(t.server), 0);
    hang_up(&c);
    stop();
}

TEST(bytes_of_following_requests_are_kept)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "POST /hold HTTP/1.1\r\nContent-Length: 1\r\n" H "1GET /2 HTTP/1.1\r\n" H
            "GET /hold HTTP/1.1\r\n" H "GET /4 H");
    REQUIRE(comes_to(&t.n_held, 1));
    EXPECT_INT(http_server_exchanges(t.server), 1);
    answer_held("first");
    EXPECT(hears(&c, "\r\n\r\nfirst"));
    EXPECT(hears(&c, "\r\n\r\nGET /2 []"));
    REQUIRE(comes_to(&t.n_held, 1));
    say(&c, "TTP/1.1\r\n" H);
    run_loop(10);
    answer_held("third");
    EXPECT(hears(&c, "\r\n\r\nthird"));
    EXPECT(hears(&c, "\r\n\r\nGET /4 []"));
    hang_up(&c);
    stop();
}

/* The answer is given between two reads of the loop's one turn. */
TEST(kept_bytes_come_before_what_is_read_later)
{
    if (!start(short_limits())) return;
    client a = connect_client(), b = connect_client();
    say(&a, "GET /hold HTTP/1.1\r\n" H "GET /kept HT");
    REQUIRE(comes_to(&t.n_held, 1));
    run_loop(5);
    say(&b, "GET /release HTTP/1.1\r\n" H);
    say(&a, "TP/1.1\r\n" H);
    EXPECT(hears(&a, "\r\n\r\nreleased"));
    EXPECT(hears(&a, "\r\n\r\nGET /kept []"));
    hang_up(&a);
    hang_up(&b);
    stop();
}

TEST(many_requests_at_once_lose_nothing)
{
    enum { N = 5000 };
    if (!start(short_limits())) return;
    client c = connect_client();
    bytes all;
    bytes_init(&all, SIZE_MAX);
    bytes_text(&all, "GET /hold HTTP/1.1\r\n" H);
    for (int i = 0; i < N; i++) bytes_printf(&all, "GET /%d HTTP/1.1\r\n" H, i);
    const char *at = all.data;
    size_t left = all.len;
    bool answered = false;
    int heard = 0;
    const uint64_t end = now_ms() + 4 * PATIENCE_MS;
    while (heard < N && now_ms() < end) {
        const ssize_t sent = left ? send(c.fd, at, left, MSG_NOSIGNAL) : 0;
        if (sent > 0) at += sent, left -= (size_t)sent;
        run_loop(1);
        if (!answered && t.n_held) {
            run_loop(100);
            answer_held("held");
            answered = true;
        }
        char want[32];
        listen_once(&c);
        const char *p = c.got.data, *found;
        while (snprintf(want, sizeof want, "\r\n\r\nGET /%d []", heard), (found = strstr(p, want)) && heard < N) {
            p = found + strlen(want);
            heard++;
        }
        const size_t used = (size_t)(p - c.got.data);
        memmove(c.got.data, p, c.got.len - used + 1);
        c.got.len -= used;
    }
    EXPECT_INT(heard, N);
    bytes_free(&all);
    hang_up(&c);
    stop();
}

TEST(more_than_is_kept_ends_the_connection_after_the_answer)
{
    if (!start(short_limits())) return;
    static char more[1 << 20];
    client c = connect_client();
    say(&c, "GET /hold HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 1));
    memset(more, 'x', sizeof more);
    say_bytes(&c, more, sizeof more);
    run_loop(20);
    answer_held("held");
    EXPECT(hears(&c, "Connection: close\r\n"));
    EXPECT(hears(&c, "\r\n\r\nheld"));
    EXPECT(hears_end(&c));
    EXPECT_INT(c.got.len, 0);
    hang_up(&c);
    stop();
}

TEST(the_connection_ends_where_the_client_asks_for_it)
{
    static const char *const requests[] = {
        "GET /x HTTP/1.0\r\n\r\n",
        "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /x HTTP/1.1\r\nConnection: close\r\n" H,
    };
    if (!start(short_limits())) return;
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
        client c = connect_client();
        say(&c, requests[i]);
        EXPECT(hears(&c, "Connection: close\r\nContent-Length: 9\r\n"));
        EXPECT(hears(&c, "\r\n\r\nGET /x []"));
        EXPECT(hears_end(&c));
        hang_up(&c);
    }
    stop();
}

TEST(head_tells_the_length_and_sends_no_body)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "HEAD /x HTTP/1.1\r\n" H "HEAD /stream HTTP/1.1\r\n" H "GET /none HTTP/1.1\r\n" H "GET /y HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "Content-Length: 10\r\nContent-Type: text/plain\r\n\r\nHTTP/1.1 200 OK\r\n"));
    EXPECT(hears(&c, "chunked\r\nContent-Type: text/event-stream\r\n\r\nHTTP/1.1 204 No Content\r\n"));
    EXPECT(hears(&c, "Keep-Alive: timeout=2\r\n\r\nHTTP/1.1 200 OK\r\n"));
    EXPECT(hears(&c, "GET /y []"));
    hang_up(&c);
    stop();
}

TEST(bodies_come_and_go_in_chunks)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "2\r\nab\r\n1;x=y\r\nc\r\n0\r\nA: b\r\n\r\n");
    EXPECT(hears(&c, "\r\n\r\nPOST /x [abc]"));
    say(&c, "GET /stream HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "Transfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
                     "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"));
    say(&c, "GET /x HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "\r\n\r\nGET /x []"));
    hang_up(&c);

    c = connect_client();
    say(&c, "GET /stream HTTP/1.0\r\n\r\n");
    EXPECT(hears(&c, "Connection: close\r\nContent-Type: text/event-stream\r\n\r\nonetwo"));
    EXPECT(hears_end(&c));
    EXPECT_INT(c.got.len, 0);
    hang_up(&c);
    stop();
}

TEST(a_client_that_expects_continue_is_told_to_go_on)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" H);
    EXPECT(hears(&c, "HTTP/1.1 100 Continue\r\n\r\n"));
    say(&c, "ab");
    EXPECT(hears(&c, "\r\n\r\nPOST /x [ab]"));
    say(&c, "POST /x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" H "cd");
    EXPECT(hears(&c, "HTTP/1.1 "));
    EXPECT(strncmp(c.got.data, "200", 3) == 0);     /* it did not wait */
    EXPECT(hears(&c, "\r\n\r\nPOST /x [cd]"));
    say(&c, "POST /deny HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" H);
    EXPECT(hears(&c, "HTTP/1.1 401 Unauthorized\r\n"));
    EXPECT(hears(&c, "\r\n\r\ndenied"));
    EXPECT(hears_end(&c));
    hang_up(&c);
    stop();
}

/* The client is still sending when the answer comes: no reset may overtake it. */
TEST(a_refusal_reaches_a_client_that_uploads)
{
    if (!start(short_limits())) return;
    static char block[4 << 20];
    client c = connect_client();
    say(&c, "POST /deny HTTP/1.1\r\nContent-Length: 4194304\r\n" H);
    say_bytes(&c, block, sizeof block);
    EXPECT(hears(&c, "Connection: close\r\n"));
    EXPECT(hears(&c, "X-Why: no key\r\n\r\ndenied"));
    EXPECT(hears_end(&c));
    hang_up(&c);

    c = connect_client();
    say(&c, "GET /deny HTTP/1.1\r\n" H "GET /x HTTP/1.1\r\n" H);      /* nothing would follow: it may stay */
    EXPECT(hears(&c, "\r\n\r\ndenied"));
    EXPECT(hears(&c, "\r\n\r\nGET /x []"));
    hang_up(&c);
    EXPECT_INT(t.gone, 0);
    stop();
}

/* ---- what is refused --------------------------------------------------------------------- */

TEST(what_is_no_request_gets_its_status_and_the_connection_ends)
{
    static const struct { const char *in; int status; const char *path; } bad[] = {
        { "GET / HTTP/1.1\r\n\r\n", 400, "/" },
        { "POST /v1/messages HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n" H "xx", 400, "/v1/messages" },
        { "POST /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n" H, 400, "/a" },
        { "GET /a HTTP/1.1\r\nX: y\r\n z\r\n" H, 400, "/a" },
        { "GET /a HTTP/1.1\r\nX : y\r\n" H, 400, "/a" },
        { "GET /a HTTP/1.1\r\nX: y\n", 400, "/a" },
        { "GET /a HTTP/1.1\r\nX: a\rb", 400, "/a" },
        { "nonsense\r\n\r\n", 400, "" },
        { "\x16\x03\x01\x02", 0, "" },
        { "GET /a HTTP/2.0\r\n" H, 505, "" },
        { "POST /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" H, 501, "/a" },
        { "POST /a HTTP/1.1\r\nExpect: tea\r\nContent-Length: 1\r\n" H, 417, "/a" },
        { "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "zz\r\n", 400, "/a" },
        { "POST /a HTTP/1.1\r\nContent-Length: 67108865\r\n" H, 413, "/a" },
        { "POST /a HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n" H, 413, "/a" },
    };
    if (!start(short_limits())) return;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char line[32], body[64];
        client c = connect_client();
        say_bytes(&c, bad[i].in, strlen(bad[i].in) + (bad[i].status == 0));     /* 0: with the NUL behind it */
        const int status = bad[i].status ? bad[i].status : 400;
        snprintf(line, sizeof line, "HTTP/1.1 %d ", status);
        snprintf(body, sizeof body, "X-Own: yes\r\n\r\n%d %s ", status, bad[i].path);
        if (!hears(&c, line) || !hears(&c, "Connection: close\r\n") || !hears(&c, body) || !hears_end(&c))
            test_fail(__FILE__, __LINE__, "input %zu: want %d %s", i, status, bad[i].path);
        hang_up(&c);
    }
    EXPECT_INT(t.gone, 1);          /* the broken chunk: its head was fine, so the handler knew of it */
    stop();
}

TEST(limits_of_heads_and_bodies_hold)
{
    http_limits l = short_limits();
    l.max_head_bytes = 1000;
    l.max_headers = 5;
    l.max_body_bytes = 100;
    l.max_bodies_bytes = 150;
    if (!start(l)) return;
    char giant[1200];
    memset(giant, 'a', sizeof giant);
    client c = connect_client();
    say(&c, "GET /p HTTP/1.1\r\nX: ");
    say_bytes(&c, giant, sizeof giant);
    EXPECT(hears(&c, "431 /p"));
    EXPECT(hears_end(&c));
    hang_up(&c);

    c = connect_client();
    say_bytes(&c, giant, sizeof giant);
    EXPECT(hears(&c, "431 "));
    hang_up(&c);

    c = connect_client();
    say(&c, "GET /p HTTP/1.1\r\na:1\r\na:1\r\na:1\r\na:1\r\n" H
            "GET /p HTTP/1.1\r\na:1\r\na:1\r\na:1\r\na:1\r\na:1\r\n" H);
    EXPECT(hears(&c, "GET /p []"));
    EXPECT(hears(&c, "431 /p"));
    hang_up(&c);

    c = connect_client();
    say(&c, "POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "60\r\n");
    say_bytes(&c, giant, 0x60);
    say(&c, "\r\n4\r\naaaa\r\n0\r\n\r\n");
    EXPECT(hears(&c, "HTTP/1.1 200 "));
    say(&c, "POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "60\r\n");
    say_bytes(&c, giant, 0x60);
    say(&c, "\r\n5\r\naaaaa\r\n0\r\n\r\n");
    EXPECT(hears(&c, "HTTP/1.1 413 "));
    hang_up(&c);

    client held = connect_client();
    c = connect_client();
    say(&held, "POST /hold HTTP/1.1\r\nContent-Length: 100\r\n" H);
    say_bytes(&held, giant, 100);
    REQUIRE(comes_to(&t.n_held, 1));
    say(&c, "POST /p HTTP/1.1\r\nContent-Length: 51\r\n" H);
    say_bytes(&c, giant, 51);
    EXPECT(hears(&c, "503 /p"));
    hang_up(&c);
    answer_held("");
    c = connect_client();
    say(&c, "POST /p HTTP/1.1\r\nContent-Length: 51\r\n" H);
    say_bytes(&c, giant, 51);
    EXPECT(hears(&c, "HTTP/1.1 200 "));
    hang_up(&held);
    hang_up(&c);
    stop();
}

/* ---- listening, stopping ------------------------------------------------------------------------- */

TEST(a_port_that_is_taken_is_named)
{
    if (!start(short_limits())) return;
    ds4_error err;
    char want[64];
    int other = 0;
    EXPECT(http_server_listen(t.server, "127.0.0.1", t.port, NULL, &err) == DS4_EIO);
    snprintf(want, sizeof want, "127.0.0.1:%d is in use", t.port);
    EXPECT_TEXT(err.message, want);
    EXPECT(http_server_listen(t.server, "127.0.0.1", 65536, NULL, &err) == DS4_EARG);
    EXPECT_OK(http_server_listen(t.server, "localhost", 0, &other, &err), err);
    EXPECT(other > 0 && other != t.port);
    stop();
}

static client connect_unix(const char *path)
{
    client c = { .fd = socket(AF_UNIX, SOCK_STREAM, 0) };
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    bytes_init(&c.got, 1 << 20);
    bytes_text(&c.got, "");
    EXPECT(connect(c.fd, (const struct sockaddr *)&a, sizeof a) == 0);
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    return c;
}

TEST(a_unix_socket_is_private_and_replaces_a_stale_one)
{
    if (!start(short_limits())) return;
    ds4_error err;
    struct stat s;
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    const char *path = test_scratch("ds4.sock");
    REQUIRE(strlen(path) < sizeof a.sun_path);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    const int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(bind(stale, (const struct sockaddr *)&a, sizeof a) == 0);
    close(stale);

    EXPECT_OK(http_server_listen_unix(t.server, path, &err), err);
    EXPECT(stat(path, &s) == 0 && (s.st_mode & 0777) == 0600);
    client c = connect_unix(path);
    say(&c, "GET /x HTTP/1.1\r\n" H);
    EXPECT(hears(&c, "GET /x []"));
    EXPECT(http_server_listen_unix(t.server, path, &err) == DS4_EIO);
    EXPECT(strstr(err.message, "is in use"));
    hang_up(&c);
    http_server_stop_listening(t.server);
    run_loop(1);
    EXPECT(stat(path, &s) != 0);

    FILE *f = fopen(path, "w");
    REQUIRE(f);
    fclose(f);
    EXPECT(http_server_listen_unix(t.server, path, &err) == DS4_EIO);
    EXPECT(strstr(err.message, "is not a socket"));
    EXPECT(stat(path, &s) == 0);
    unlink(path);

    char endless[300];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = 0;
    EXPECT(http_server_listen_unix(t.server, endless, &err) == DS4_EARG);
    stop();
}

TEST(after_listening_stops_each_connection_gets_one_more_answer)
{
    if (!start(short_limits())) return;
    client idle = connect_client(), held = connect_client();
    say(&idle, "GET / HTTP/1.1\r\n" H);
    say(&held, "GET /hold HTTP/1.1\r\n" H);
    EXPECT(hears(&idle, "GET / []"));
    REQUIRE(comes_to(&t.n_held, 1));
    http_server_stop_listening(t.server);
    run_loop(5);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)t.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    EXPECT(connect(fd, (const struct sockaddr *)&a, sizeof a) != 0);
    close(fd);
    say(&idle, "GET /again HTTP/1.1\r\n" H);
    EXPECT(hears(&idle, "Connection: close\r\n"));
    EXPECT(hears(&idle, "GET /again []"));
    EXPECT(hears_end(&idle));
    EXPECT_INT(http_server_exchanges(t.server), 1);
    answer_held("late");
    EXPECT(hears(&held, "\r\n\r\nlate"));
    EXPECT(hears_end(&held));
    EXPECT_INT(http_server_exchanges(t.server), 0);
    hang_up(&idle);
    hang_up(&held);
    stop();
}

TEST(closing_the_server_ends_every_exchange)
{
    if (!start(short_limits())) return;
    static const char *const requests[] = {
        "GET /hold HTTP/1.1\r\n" H, "GET /tick HTTP/1.1\r\n" H, "GET /flood?100000000 HTTP/1.1\r\n" H,
        "POST /x HTTP/1.1\r\nContent-Length: 9\r\n" H, "GET /", "",
    };
    enum { N = sizeof requests / sizeof *requests };
    client c[N];
    for (int i = 0; i < N; i++) {
        c[i] = connect_client();
        say(&c[i], requests[i]);
    }
    REQUIRE(comes_to(&t.n_held, 3));
    run_loop(20);
    stop();
    EXPECT_INT(t.gone, 4);
    for (int i = 0; i < N; i++) hang_up(&c[i]);
}
