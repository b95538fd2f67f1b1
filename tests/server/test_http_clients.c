/* Clients that are slow, vanish, do not read, are many, or send anything. */
#include "http_rig.h"

#include <sys/resource.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/random.h"

/* ---- time ---------------------------------------------------------------------------- */

TEST(slow_heads_and_bodies_are_cut_off)
{
    http_limits l = short_limits();
    l.idle_timeout_ms = 400;
    if (!start(l)) return;
    client head = connect_client(), body = connect_client(), idle = connect_client(), used = connect_client();
    client stalled = connect_client();
    static char good_start[5000];
    say(&used, "GET / HTTP/1.1\r\n" H);
    EXPECT(hears(&used, "GET / []"));
    const uint64_t begin = now_ms();
    say(&head, "GET /slow HTTP/1.1\r\nHo");
    say(&body, "POST /slow HTTP/1.1\r\nContent-Length: 100\r\n" H "abc");
    memset(good_start, 'b', sizeof good_start);
    say(&stalled, "POST /stalled HTTP/1.1\r\nContent-Length: 9000\r\n" H);
    say_bytes(&stalled, good_start, sizeof good_start);
    run_loop(100);
    say(&head, "s");                                    /* a byte now and then is no progress */
    say(&body, "d");
    EXPECT(hears(&head, "HTTP/1.1 408 "));
    EXPECT(hears(&head, "408 /slow"));
    EXPECT(hears(&body, "HTTP/1.1 408 "));
    EXPECT(now_ms() - begin >= 190);
    EXPECT(now_ms() - begin < 3000);
    EXPECT_INT(t.gone, 1);
    EXPECT(hears(&stalled, "HTTP/1.1 408 "));
    EXPECT(hears_end(&idle));                           /* without a word */
    EXPECT(hears_end(&used));
    EXPECT(now_ms() - begin >= 350);
    EXPECT_INT(idle.taken, 0);
    client *all[] = { &head, &body, &stalled, &idle, &used };
    for (int i = 0; i < 5; i++) hang_up(all[i]);
    stop();
}

TEST(a_body_that_makes_progress_may_take_its_time)
{
    if (!start(short_limits())) return;
    static char block[1100];
    client c = connect_client();
    memset(block, 'b', sizeof block);
    say(&c, "POST /x HTTP/1.1\r\nContent-Length: 5500\r\n" H);
    for (int i = 0; i < 5; i++) {
        say_bytes(&c, block, sizeof block);
        run_loop(120);
    }
    EXPECT(hears(&c, "HTTP/1.1 200 "));
    hang_up(&c);
    stop();
}

TEST(a_client_that_lingers_is_cut_off)
{
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "GET /x HTTP/1.0\r\n\r\n");
    EXPECT(hears_end(&c));
    EXPECT_INT(http_server_connections(t.server), 1);
    const uint64_t end = now_ms() + PATIENCE_MS;        /* write_timeout_ms in all, whatever it still sends */
    while (http_server_connections(t.server) && now_ms() < end) {
        say(&c, "x");
        run_loop(10);
    }
    EXPECT_INT(http_server_connections(t.server), 0);
    hang_up(&c);
    stop();
}

/* ---- clients that vanish ----------------------------------------------------------- */

typedef enum { CLOSE, HALF, RESET } way;

static void vanish(client *c, way how)
{
    const struct linger now = { 1, 0 };
    if (how == HALF) {
        shutdown(c->fd, SHUT_WR);
        return;
    }
    if (how == RESET) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(c->fd);
    c->fd = -1;
}

TEST(a_client_that_vanishes_is_noticed_in_every_state)
{
    static char more[600 << 10];                        /* following requests, more than is kept */
    static const struct { const char *in; bool more, held; } states[] = {
        { "POST /x HTTP/1.1\r\nContent-Length: 5\r\n" H "ab", false, false },
        { "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "5\r\nab", false, false },
        { "POST /hold HTTP/1.1\r\nContent-Length: 2\r\n" H "ab", false, true },
        { "GET /hold HTTP/1.1\r\n" H, true, true },
        { "GET /hold HTTP/1.0\r\n\r\n", false, true },
        { "GET /tick HTTP/1.1\r\n" H, false, true },
        { "GET /tick HTTP/1.1\r\n" H, true, true },
        { "GET /flood?100000000 HTTP/1.1\r\n" H, false, true },
        { "GET /flood?100000000 HTTP/1.1\r\n" H, true, true },
    };
    http_limits l = short_limits();
    l.head_timeout_ms = l.body_slack_ms = l.idle_timeout_ms = l.write_timeout_ms = 60 * 1000;
    if (!start(l)) return;
    memset(more, 'x', sizeof more);
    int gone = 0, late = 0;
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        for (way how = CLOSE; how <= RESET; how++) {
            client c = connect_client();
            const int before = t.headers;
            say(&c, states[i].in);
            EXPECT(comes_to(states[i].held ? &t.n_held : &t.headers, states[i].held ? 1 : before + 1));
            if (states[i].more) say_bytes(&c, more, sizeof more);
            run_loop(30);
            const uint64_t begin = now_ms();
            vanish(&c, how);
            EXPECT(comes_to(&t.gone, ++gone));
            late += t.gone_at - begin > 100;
            EXPECT_INT(http_server_exchanges(t.server), 0);
            hang_up(&c);
            gone = t.gone;
        }
    }
    EXPECT(late < 3);       /* one or two: the machine was busy with something else */
    /* Nothing of theirs is left, and nobody is told of what the handler never saw. */
    client c = connect_client();
    say(&c, "GET /x HT");
    run_loop(10);
    vanish(&c, CLOSE);
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (http_server_connections(t.server) && now_ms() < end) run_loop(1);
    EXPECT_INT(http_server_connections(t.server), 0);
    EXPECT_INT(t.gone, gone);
    hang_up(&c);
    stop();
}

TEST(an_answer_that_is_complete_still_reaches_a_client_that_sends_no_more)
{
    http_limits l = short_limits();
    l.idle_timeout_ms = 60 * 1000;
    if (!start(l)) return;
    client c = connect_client();
    say(&c, "GET /hold HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 1));
    static char body[6 << 20];
    memset(body, 'b', sizeof body);
    http_exchange *x = t.held[0];
    let_go(x);
    http_respond(x, 200, slice_of(""), (slice){ body, sizeof body });
    EXPECT_INT(http_server_exchanges(t.server), 1);
    vanish(&c, HALF);
    run_loop(20);
    const uint64_t begin = now_ms();
    EXPECT(hears_end(&c));
    EXPECT(c.taken > sizeof body);
    EXPECT(now_ms() - begin < 4000);                    /* idle_timeout_ms has nothing to do with it */
    EXPECT_INT(t.gone, 0);
    hang_up(&c);
    stop();
}

/* ---- output ---------------------------------------------------------------------------- */

TEST(a_stream_is_held_back_and_loses_nothing)
{
    enum { N = 20000000 };
    if (!start(short_limits())) return;
    client c = connect_client();
    say(&c, "GET /flood?20000000 HTTP/1.0\r\n\r\n");
    EXPECT(hears_end(&c));
    const char *body = strstr(c.got.data, "\r\n\r\n");
    REQUIRE(body);
    EXPECT_INT(c.taken - (size_t)(body + 4 - c.got.data), N);
    EXPECT(t.refused > 0);
    EXPECT_INT(t.gone, 0);
    hang_up(&c);
    stop();
}

TEST(a_client_that_does_not_read_is_cut_off_and_delays_nobody)
{
    if (!start(short_limits())) return;
    client deaf = connect_client(), reader = connect_client();
    uv_timer_start(&t.ticker, on_tick, 5, 5);
    say(&deaf, "GET /flood?1000000000 HTTP/1.1\r\n" H);
    say(&reader, "GET /tick HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 2));
    const uint64_t begin = now_ms();
    uint64_t last = begin, gap = 0;
    size_t taken = reader.taken;
    while (!t.gone && now_ms() < begin + PATIENCE_MS) {
        run_loop(1);
        listen_once(&reader);
        if (reader.taken == taken) continue;
        taken = reader.taken;
        gap = now_ms() - last > gap ? now_ms() - last : gap;
        last = now_ms();
    }
    EXPECT_INT(t.gone, 1);
    EXPECT(now_ms() - begin >= 290);
    EXPECT(gap < 1000);
    EXPECT(!reader.eof);
    EXPECT_INT(t.n_held, 1);
    hang_up(&deaf);
    hang_up(&reader);
    stop();
}

TEST(a_client_that_reads_slowly_gets_all)
{
    if (!start(short_limits())) return;
    static char body[8 << 20], buf[256 << 10];
    client c = connect_client();
    say(&c, "GET /hold HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 1));
    http_exchange *x = t.held[0];
    let_go(x);
    memset(body, 'b', sizeof body);
    http_respond(x, 200, slice_of(""), (slice){ body, sizeof body });
    const uint64_t begin = now_ms(), end = begin + 2 * PATIENCE_MS;
    while (c.taken <= sizeof body && !c.eof && !c.reset && now_ms() < end) {
        const ssize_t n = recv(c.fd, buf, sizeof buf, 0);
        if (n > 0) c.taken += (size_t)n;
        c.eof = n == 0;
        c.reset = n < 0 && errno != EAGAIN;
        run_loop(now_ms() - begin < 1000 ? 60 : 1);
    }
    EXPECT(c.taken > sizeof body);
    EXPECT(now_ms() - begin > 900);                     /* three times write_timeout_ms */
    hang_up(&c);
    stop();
}

TEST(a_handler_may_leave_out_what_it_does_not_need)
{
    http_handler h = whole_handler;
    h.on_headers = NULL;
    h.on_error = NULL;
    if (!start_with(short_limits(), h)) return;
    client c = connect_client();
    say(&c, "GET /x\r\n\r\n");
    EXPECT(hears(&c, "\r\n\r\nthe request line does not end with a version such as HTTP/1.1"));
    hang_up(&c);
    c = connect_client();
    say(&c, "POST /x HTTP/1.1\r\nContent-Length: 2\r\n" H "a");
    run_loop(10);
    hang_up(&c);
    c = connect_client();
    say(&c, "GET /hold HTTP/1.1\r\n" H);
    REQUIRE(comes_to(&t.n_held, 1));
    hang_up(&c);
    EXPECT(comes_to(&t.gone, 1));
    EXPECT_INT(t.n_held, 0);
    run_loop(10);
    EXPECT_INT(t.gone, 1);                              /* of the half request nobody knew */
    stop();
}

TEST(a_piece_larger_than_the_buffer_is_taken_when_nothing_waits)
{
    http_limits l = short_limits();
    l.max_output_bytes = 1000;
    if (!start(l)) return;
    static char piece[8 << 20];
    client c = connect_client();
    say(&c, "GET /tick HTTP/1.0\r\n\r\n");
    REQUIRE(comes_to(&t.n_held, 1));
    memset(piece, 'p', sizeof piece);
    EXPECT(http_stream_write(t.held[0], (slice){ piece, sizeof piece }));
    EXPECT(!http_stream_write(t.held[0], slice_of("x")));
    EXPECT(hears(&c, "\r\n\r\n"));
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (c.taken < sizeof piece && now_ms() < end) {
        run_loop(1);
        listen_once(&c);
    }
    EXPECT(c.taken > sizeof piece);
    hang_up(&c);
    stop();
}

/* ---- many ---------------------------------------------------------------------------------- */

/* 0: it cannot be told. */
static size_t heap_bytes(void)
{
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    return mallinfo2().uordblks;
#else
    return 0;
#endif
}

TEST(idle_connections_are_small)
{
    enum { N = 500 };
    if (!start(short_limits())) return;
    static client c[N];
    client first = connect_client();
    say(&first, "GET / HTTP/1.1\r\n" H);
    EXPECT(hears(&first, "GET / []"));
    const size_t before = heap_bytes();
    for (int i = 0; i < N; i++) {
        c[i] = connect_client();
        say(&c[i], "POST / HTTP/1.1\r\nContent-Length: 2\r\n" H "ab");
        EXPECT(hears(&c[i], "POST / [ab]"));
        bytes_free(&c[i].got);
    }
    EXPECT_INT(http_server_connections(t.server), N + 1);
    const size_t each = (heap_bytes() - before) / N;
    if (each) printf("one idle connection: %zu bytes\n", each);
    EXPECT(each < 1024);
    for (int i = 0; i < N; i++) hang_up(&c[i]);
    hang_up(&first);
    stop();
}

TEST(two_hundred_streams_at_once_all_get_their_pieces)
{
    enum { N = 200 };
    if (!start(short_limits())) return;
    static client c[N];
    for (int i = 0; i < N; i++) {
        c[i] = connect_client();
        say(&c[i], "GET /tick HTTP/1.1\r\n" H);
    }
    REQUIRE(comes_to(&t.n_held, N));
    uv_timer_start(&t.ticker, on_tick, 5, 5);
    int heard = 0;
    for (int i = 0; i < N; i++) heard += hears(&c[i], "data: 20\n\n");
    EXPECT_INT(heard, N);
    for (int i = 0; i < N; i += 2) vanish(&c[i], i % 4 ? RESET : CLOSE);
    EXPECT(comes_to(&t.gone, N / 2));
    heard = 0;
    for (int i = 1; i < N; i += 2) heard += hears(&c[i], "data: 60\n\n");
    EXPECT_INT(heard, N / 2);
    for (int i = 0; i < N; i++) hang_up(&c[i]);
    stop();
}

/* The client's ends are in this process too, so twice as many files must be allowed. */
TEST(two_thousand_idle_and_two_hundred_streaming_connections_stay_small_and_prompt)
{
    enum { IDLE_ONES = 2000, READ = 180, DEAF = 20, ALL = IDLE_ONES + READ + DEAF, SECONDS = 2 };
    struct rlimit files;
    REQUIRE(getrlimit(RLIMIT_NOFILE, &files) == 0);
    if (files.rlim_cur < 2 * ALL + 100) {
        files.rlim_cur = 2 * ALL + 100;
        if (setrlimit(RLIMIT_NOFILE, &files)) {
            test_skip("this needs %d open files", 2 * ALL + 100);
            return;
        }
    }
    http_limits l = short_limits();
    l.head_timeout_ms = l.body_slack_ms = l.idle_timeout_ms = l.write_timeout_ms = 60 * 1000;
    if (!start(l)) return;
    static client c[ALL];
    const size_t before = heap_bytes();
    for (int i = 0; i < ALL; i++) {
        c[i] = connect_client();
        say(&c[i], i < IDLE_ONES         ? "GET / HTTP/1.1\r\n" H
                   : i < IDLE_ONES + READ ? "GET /tick HTTP/1.1\r\n" H
                                         : "GET /flood?1000000000 HTTP/1.1\r\n" H);
        if (i < IDLE_ONES) EXPECT(hears(&c[i], "GET / []"));
        bytes_free(&c[i].got);
    }
    EXPECT(comes_to(&t.n_held, READ + DEAF));
    uv_timer_start(&t.ticker, on_tick, 10, 10);

    uint64_t last[ALL] = { 0 }, gap = 0;
    const uint64_t begin = now_ms();
    size_t most = 0;
    while (now_ms() < begin + SECONDS * 1000) {
        run_loop(1);
        most = heap_bytes() > most ? heap_bytes() : most;
        for (int i = IDLE_ONES; i < IDLE_ONES + READ; i++) {
            char drop[4096];
            if (recv(c[i].fd, drop, sizeof drop, 0) <= 0) continue;
            const uint64_t now = now_ms();
            if (last[i] && now - last[i] > gap) gap = now - last[i];
            last[i] = now;
        }
    }
    for (int i = IDLE_ONES; i < IDLE_ONES + READ; i++) EXPECT(last[i] > begin + SECONDS * 1000 - 500);
    EXPECT_INT(http_server_connections(t.server), ALL);
    EXPECT_INT(t.gone, 0);
    EXPECT(gap < 1000);
    EXPECT(most - before < ALL * 2000 + DEAF * 3 * l.max_output_bytes);
    printf("%d connections: %zu bytes of heap, largest gap of a stream that is read every 10 ms: %d ms\n", ALL,
           most - before, (int)gap);
    for (int i = 0; i < ALL; i++) hang_up(&c[i]);
    stop();
}

TEST(connections_beyond_the_most_wait_their_turn)
{
    http_limits l = short_limits();
    l.max_connections = 2;
    l.head_timeout_ms = l.body_slack_ms = l.idle_timeout_ms = l.write_timeout_ms = 60 * 1000;
    if (!start(l)) return;
    client a = connect_client(), b = connect_client(), c = connect_client(), d = connect_client();
    client *all[] = { &a, &b, &c, &d };
    for (int i = 0; i < 4; i++) say(all[i], "GET / HTTP/1.1\r\n" H);
    EXPECT(hears(&a, "GET / []"));
    EXPECT(hears(&b, "GET / []"));
    run_loop(50);
    listen_once(&c);
    EXPECT_INT(c.taken, 0);
    EXPECT_INT(http_server_connections(t.server), 2);
    const uint64_t begin = now_ms();
    hang_up(&a);
    EXPECT(hears(&c, "GET / []"));
    EXPECT(now_ms() - begin < 500);                     /* at once, not at the timer's next look */
    hang_up(&b);
    EXPECT(hears(&d, "GET / []"));
    hang_up(&c);
    hang_up(&d);
    stop();
}

/* ---- anything ------------------------------------------------------------------------------ */

/* What a random client says next: good requests, bad ones, pieces of either, noise. */
static void say_anything(client *c, random_stream *r)
{
    static const char *const pieces[] = {
        "GET / HTTP/1.1\r\n" H, "GET /hold HTTP/1.1\r\n" H, "GET /tick HTTP/1.1\r\n" H, "HEAD /stream HTTP/1.1\r\n" H,
        "GET /stream HTTP/1.0\r\n\r\n", "GET /flood?3000000 HTTP/1.1\r\n" H, "GET /deny HTTP/1.1\r\n" H,
        "POST /deny HTTP/1.1\r\nContent-Length: 100000\r\n" H, "POST /a HTTP/1.1\r\nContent-Length: 3\r\n" H "abc",
        "POST /hold HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" H "3\r\nabc\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3\r\n" H, "abc", "3\r\nabc\r\n", "0\r\n\r\n",
        "\r\n",
        "POST /a HTTP/1.1\r\nContent-Length: 900000\r\n" H, "GET /a HTTP/1.1\r\nConnection: close\r\n" H, "GET /", "zz",
        "POST /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n" H, "X: y\n", "Host : h\r\n",
    };
    static char noise[9000];
    if (random_below(r, 20) == 0) {
        for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)random_u64(r);
        send(c->fd, noise, sizeof noise, MSG_NOSIGNAL);
        return;
    }
    const char *piece = pieces[random_below(r, sizeof pieces / sizeof *pieces)];
    const size_t n = strlen(piece);
    send(c->fd, piece, random_below(r, 4) ? n : (size_t)random_below(r, n + 1), MSG_NOSIGNAL);
}

TEST(random_clients_leave_nothing_behind)
{
    enum { AT_ONCE = 40, TURNS = 10000 };
    http_limits l = short_limits();
    l.head_timeout_ms = l.body_slack_ms = l.write_timeout_ms = 80;
    l.max_body_bytes = 200000;
    l.max_bodies_bytes = 400000;
    if (!start(l)) return;
    random_stream r;
    random_seed(&r, test_seed());
    static client c[AT_ONCE];
    memset(c, 0, sizeof c);
    for (int turn = 0; turn < TURNS; turn++) {
        const int i = (int)random_below(&r, AT_ONCE);
        if (!c[i].got.data) c[i] = connect_client();
        switch (random_below(&r, 8)) {
        case 0:
            vanish(&c[i], (way)random_below(&r, 3));
            hang_up(&c[i]);
            break;
        case 1:
            c[i].got.len = c[i].got.max;            /* what it hears is of no interest */
            listen_once(&c[i]);
            break;
        case 2:
            if (t.n_held && !http_exchange_user(t.held[0])) answer_held("random");
            break;
        case 3:
            on_tick(&t.ticker);
            break;
        default:
            say_anything(&c[i], &r);
        }
        uv_run(&t.loop, UV_RUN_NOWAIT);
    }
    for (int i = 0; i < AT_ONCE; i++)
        if (c[i].got.data) hang_up(&c[i]);
    const uint64_t end = now_ms() + PATIENCE_MS;
    while (http_server_connections(t.server) && now_ms() < end) run_loop(1);
    EXPECT_INT(http_server_connections(t.server), 0);
    EXPECT_INT(http_server_exchanges(t.server), 0);
    EXPECT_INT(t.n_held, 0);

    /* All room for bodies has come back. */
    client two[2] = { connect_client(), connect_client() };
    static char body[200000];
    memset(body, 'b', sizeof body);
    for (int i = 0; i < 2; i++) {
        say(&two[i], "POST /hold HTTP/1.1\r\nContent-Length: 200000\r\n" H);
        say_bytes(&two[i], body, sizeof body);
    }
    EXPECT(comes_to(&t.n_held, 2));
    hang_up(&two[0]);
    hang_up(&two[1]);
    stop();
}
