#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "net/http_parser.h"
#include "runner.h"

enum { MAX_HEADERS = 8 };

/* What a request came to, in one line: "METHOD path?query 1.1 length close | name=value | body", "more", or
 * a status. The input comes in pieces that end at a and b, each time in memory of its exact size. */
static void read_request(slice in, size_t a, size_t b, char *out, size_t size)
{
    const size_t ends[] = { a, b, in.len };
    http_scan scan = { 0 };
    http_fault fault = { 0, "" };
    http_parse p = HTTP_MORE;
    char *copy = NULL;
    size_t end = 0;
    for (int i = 0; i < 3 && p == HTTP_MORE; i++) {
        free(copy);
        end = ends[i];
        copy = malloc(end ? end : 1);
        if (end) memcpy(copy, in.data, end);
        p = http_head_scan(&scan, (slice){ copy, end }, &fault);
    }
    http_header headers[MAX_HEADERS];
    http_head h = { .length = 0 };
    if (p == HTTP_DONE)
        p = http_head_parse(&h, headers, MAX_HEADERS, (slice){ copy + scan.begin, scan.at - scan.begin }, &fault);
    if (p == HTTP_MORE) snprintf(out, size, "more");
    if (p == HTTP_WRONG) snprintf(out, size, "%d", fault.status);
    if (p == HTTP_DONE) {
        const http_request *r = &h.request;
        int n = snprintf(out, size, "%.*s %.*s?%.*s %s %s%llu%s%s", (int)r->method.len, r->method.data,
                         (int)r->path.len, r->path.data, (int)r->query.len, r->query.data, r->http10 ? "1.0" : "1.1",
                         h.chunked ? "chunked " : "", (unsigned long long)h.length, h.close ? " close" : "",
                         h.expects_continue ? " expects" : "");
        for (int i = 0; i < r->n_headers; i++) {
            const slice name = r->headers[i].name, value = r->headers[i].value;
            n += snprintf(out + n, size - (size_t)n, " | %.*s=%.*s", (int)name.len, name.data, (int)value.len,
                          value.data);
        }
        snprintf(out + n, size - (size_t)n, " | %.*s", (int)(in.len - scan.at), in.data + scan.at);
    }
    free(copy);
}

#define H "Host: h\r\n"
#define GET "GET / HTTP/1.1\r\n"
#define POST "POST / HTTP/1.1\r\n" H

static const struct { const char *in, *want; } heads[] = {
    /* plain */
    { GET H "\r\n", "GET /? 1.1 0 | Host=h | " },
    { GET H "\r\nGET /next", "GET /? 1.1 0 | Host=h | GET /next" },
    { "\r\n\r\n" GET H "\r\n", "GET /? 1.1 0 | Host=h | " },
    { "POST /v1/messages?beta=true HTTP/1.1\r\nhost:\th:1 \r\nContent-Length:  5\t\r\n\r\nhello",
      "POST /v1/messages?beta=true 1.1 5 | host=h:1 | Content-Length=5 | hello" },
    { POST "Transfer-Encoding: Chunked\r\n\r\n", "POST /? 1.1 chunked 0 | Host=h | Transfer-Encoding=Chunked | " },
    { "GET / HTTP/1.0\r\n\r\n", "GET /? 1.0 0 close | " },
    { GET H "Connection: Keep-Alive, CLOSE\r\n\r\n", "GET /? 1.1 0 close | Host=h | Connection=Keep-Alive, CLOSE | " },
    { GET H "Connection: closed\r\n\r\n", "GET /? 1.1 0 | Host=h | Connection=closed | " },
    { POST "Expect: 100-Continue\r\n\r\n", "POST /? 1.1 0 expects | Host=h | Expect=100-Continue | " },
    { "GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n", "GET /? 1.0 0 close | Expect=100-continue | " },
    { "OPTIONS * HTTP/1.1\r\n" H "\r\n", "OPTIONS *? 1.1 0 | Host=h | " },
    { "GET / HTTP/1.7\r\n" H "\r\n", "GET /? 1.1 0 | Host=h | " },
    { GET "Host:\r\n\r\n", "GET /? 1.1 0 | Host= | " },
    { GET H "X: a\tb \xE9\r\nY:\r\n\r\n", "GET /? 1.1 0 | Host=h | X=a\tb \xE9 | Y= | " },
    { "GET /a?b?c HTTP/1.1\r\n" H "\r\n", "GET /a?b?c 1.1 0 | Host=h | " },
    { POST "Content-Length: 99999999999999999999999\r\n\r\n",
      "POST /? 1.1 18446744073709551615 | Host=h | Content-Length=99999999999999999999999 | " },
    /* not all here */
    { "", "more" },
    { "\r\n\r", "more" },
    { "GET / HTTP/1.1", "more" },
    { GET H, "more" },
    { GET H "\r", "more" },
    /* the target */
    { "GET http://H:80/a?b HTTP/1.1\r\nHost: h:80\r\n\r\n", "GET /a?b 1.1 0 | Host=h:80 | " },
    { "GET https://h HTTP/1.1\r\n" H "\r\n", "GET /? 1.1 0 | Host=h | " },
    { "GET HTTP://h?q HTTP/1.1\r\n" H "\r\n", "GET /?q 1.1 0 | Host=h | " },
    { "GET http://evil/ HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET http:///a HTTP/1.1\r\nHost:\r\n\r\n", "400" },
    { "GET http://u@h/ HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET * HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET a HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET /a#b HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET /\xC3\xA9 HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET /\x7F HTTP/1.1\r\n" H "\r\n", "400" },
    { "CONNECT h:80 HTTP/1.1\r\n" H "\r\n", "501" },
    /* the request line */
    { "GET  / HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET /  HTTP/1.1\r\n" H "\r\n", "400" },
    { " GET / HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET /\tHTTP/1.1\r\n" H "\r\n", "400" },
    { "GET / HTTP/1.1 \r\n" H "\r\n", "400" },
    { "GET /\r\n\r\n", "400" },
    { "GET\r\n\r\n", "400" },
    { "G@T / HTTP/1.1\r\n" H "\r\n", "400" },
    { "GET / http/1.1\r\n" H "\r\n", "400" },
    { "GET / HTTP/11\r\n" H "\r\n", "400" },
    { "GET / HTTP/1.10\r\n" H "\r\n", "400" },
    { "GET / HTTP/2.0\r\n" H "\r\n", "505" },
    { "PRI * HTTP/2.0\r\n\r\n", "505" },
    { "GET / HTTP/0.9\r\n\r\n", "505" },
    /* what two readers could see in two ways */
    { "GET / HTTP/1.1\n" H "\r\n", "400" },
    { GET "Host: h\n\r\n", "400" },
    { GET H "\n", "400" },
    { GET "X: a\rb\r\n" H "\r\n", "400" },
    { GET H "\rX", "400" },
    { "\rGET", "400" },
    { "\n" GET, "400" },
    { GET H "X: a\r\n b\r\n\r\n", "400" },
    { GET " X: a\r\n" H "\r\n", "400" },
    { GET "Host : h\r\n\r\n", "400" },
    { GET "Host\t: h\r\n\r\n", "400" },
    { GET H ": empty\r\n\r\n", "400" },
    { GET H "no colon\r\n\r\n", "400" },
    { GET H "X: a\x01" "b\r\n\r\n", "400" },
    { GET H "X\x80: a\r\n\r\n", "400" },
    { GET "\r\n", "400" },
    { GET H H "\r\n", "400" },
    { GET "Host: a, b\r\n\r\n", "400" },
    { GET "Host: a b\r\n\r\n", "400" },
    { POST "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "400" },
    { POST "Content-Length: 1\r\ncontent-length: 1\r\n\r\n", "400" },
    { POST "Content-Length: 1, 1\r\n\r\n", "400" },
    { POST "Content-Length: +1\r\n\r\n", "400" },
    { POST "Content-Length: -1\r\n\r\n", "400" },
    { POST "Content-Length: 0x1\r\n\r\n", "400" },
    { POST "Content-Length: 1 1\r\n\r\n", "400" },
    { POST "Content-Length:\r\n\r\n", "400" },
    { POST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "400" },
    { POST "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "400" },
    { POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "400" },
    { POST "Transfer-Encoding: gzip, chunked\r\n\r\n", "501" },
    { POST "Transfer-Encoding: identity\r\n\r\n", "501" },
    { POST "Transfer-Encoding: chunked, chunked\r\n\r\n", "501" },
    { POST "Transfer-Encoding: \x0B" "chunked\r\n\r\n", "400" },
    { "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "400" },
    { POST "Expect: tea\r\n\r\n", "417" },
    /* limits: MAX_HEADERS are allowed */
    { GET H "a:1\r\na:2\r\na:3\r\na:4\r\na:5\r\na:6\r\na:7\r\n\r\n",
      "GET /? 1.1 0 | Host=h | a=1 | a=2 | a=3 | a=4 | a=5 | a=6 | a=7 | " },
    { GET H "a:1\r\na:2\r\na:3\r\na:4\r\na:5\r\na:6\r\na:7\r\na:8\r\n\r\n", "431" },
};

TEST(a_head_reads_the_same_however_it_is_cut)
{
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        const slice in = slice_of(heads[i].in);
        for (size_t a = 0; a <= in.len; a++) {
            char got[1024];
            read_request(in, a, in.len, got, sizeof got);
            if (strcmp(got, heads[i].want) != 0)
                test_fail(__FILE__, __LINE__, "head %zu, cut at %zu: %s, want %s", i, a, got, heads[i].want);
            read_request(in, a / 2, a, got, sizeof got);
            if (strcmp(got, heads[i].want) != 0)
                test_fail(__FILE__, __LINE__, "head %zu, cut at %zu and %zu: %s, want %s", i, a / 2, a, got,
                          heads[i].want);
        }
    }
}

TEST(a_nul_byte_is_wrong_anywhere_in_a_head)
{
    const slice whole = slice_of(GET H "X: abc\r\n\r\n");
    for (size_t i = 0; i < whole.len; i++) {
        char in[128], got[1024];
        memcpy(in, whole.data, whole.len);
        in[i] = 0;
        read_request((slice){ in, whole.len }, 0, 0, got, sizeof got);
        EXPECT_TEXT(got, "400");
    }
}

TEST(a_head_without_an_end_still_tells_its_path)
{
    http_header headers[2];
    http_head h;
    http_fault fault;
    const slice in = slice_of("POST /v1/messages?x HTTP/1.1\r\nHost: h\r\nX: 1\r\nY: 2\r\nZ");
    EXPECT(http_head_parse(&h, headers, 2, in, &fault) == HTTP_WRONG);
    EXPECT(slice_is(h.request.path, "/v1/messages"));
    EXPECT_INT(h.request.n_headers, 2);
    EXPECT(slice_is(http_header_of(&h.request, "x"), "1"));
    EXPECT(!http_header_of(&h.request, "y").data);
    EXPECT(http_head_parse(&h, headers, 2, slice_of("POST /v1"), &fault) == HTTP_WRONG);
    EXPECT_INT(h.request.path.len, 0);
}

/* ---- chunked bodies ---------------------------------------------------------- */

/* "body|rest", "body..." while the end is missing, or a status. */
static void read_chunks(slice in, size_t a, size_t b, char *out, size_t size)
{
    const size_t ends[] = { 0, a, b, in.len };
    http_chunked c = { 0 };
    http_fault fault = { 0, "" };
    http_parse p = HTTP_MORE;
    bytes body;
    size_t rest = 0;
    bytes_init(&body, 4096);
    bytes_text(&body, "");
    for (int i = 0; i < 3 && p == HTTP_MORE; i++) {
        const size_t n = ends[i + 1] - ends[i];
        char *copy = malloc(n ? n : 1);
        if (n) memcpy(copy, in.data + ends[i], n);
        slice piece = { copy, n }, run;
        do {
            p = http_chunked_next(&c, &piece, &run, &fault);
            if (p != HTTP_WRONG) bytes_append(&body, run.data, run.len);
        } while (p == HTTP_MORE && run.len);
        if (p == HTTP_MORE) EXPECT_INT(piece.len, 0);
        rest = in.len - ends[i + 1] + piece.len;
        free(copy);
    }
    if (p == HTTP_WRONG) snprintf(out, size, "%d", fault.status);
    if (p == HTTP_MORE) snprintf(out, size, "%s...", body.data);
    if (p == HTTP_DONE) snprintf(out, size, "%s|%.*s", body.data, (int)rest, in.data + in.len - rest);
    bytes_free(&body);
}

static const struct { const char *in, *want; } chunks[] = {
    { "5\r\nhello\r\n0\r\n\r\n", "hello|" },
    { "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET /", "hello world|GET /" },
    { "0\r\n\r\n", "|" },
    { "00\r\n\r\n", "|" },
    { "A\r\n0123456789\r\n00a\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789|" },
    { "1;a=b;c=\"d;e\"\r\nx\r\n0;last\r\n\r\n", "x|" },
    { "1 ;a\r\nx\r\n0\t;b\r\n\r\n", "x|" },
    { "1\r\nx\r\n0\r\nTrailer: a\r\nOther:\r\n\r\nnext", "x|next" },
    { "2\r\n\r\n\r\n0\r\n\r\n", "\r\n|" },
    { "", "..." },
    { "5\r\nhel", "hel..." },
    { "1\r\nx\r\n0\r\n", "x..." },
    { "\r\n", "400" },
    { ";a\r\n", "400" },
    { "x\r\n", "400" },
    { "-1\r\n", "400" },
    { "0x1\r\nx\r\n0\r\n\r\n", "400" },
    { " 1\r\nx\r\n0\r\n\r\n", "400" },
    { "1 \r\nx\r\n0\r\n\r\n", "400" },
    { "1 1\r\nx\r\n0\r\n\r\n", "400" },
    { "1\nx\r\n0\r\n\r\n", "400" },
    { "1\rx", "400" },
    { "1;a\nx\r\n0\r\n\r\n", "400" },
    { "1;a\rb", "400" },
    { "1\r\nxy\r\n0\r\n\r\n", "400" },
    { "1\r\nx\n0\r\n\r\n", "400" },
    { "1\r\nx0\r\n\r\n", "400" },
    { "0\r\n\n", "400" },
    { "0\r\nA: b\n\r\n", "400" },
    { "0\r\n folded\r\n\r\n", "400" },
    { "0\r\nA : b\r\n\r\n", "400" },
    { "0\r\nA\r\n\r\n", "400" },
    { "0\r\n: b\r\n\r\n", "400" },
    { "0000000000000001\r\nx\r\n0\r\n\r\n", "400" },
    { "FFFFFFFFFFFFFFFF\r\nx", "400" },
    { "fffffffffffffff\r\nx", "x..." },
};

TEST(a_chunked_body_reads_the_same_however_it_is_cut)
{
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        const slice in = slice_of(chunks[i].in);
        for (size_t a = 0; a <= in.len; a++) {
            for (size_t b = a; b <= in.len; b++) {
                char got[256];
                read_chunks(in, a, b, got, sizeof got);
                if (strcmp(got, chunks[i].want) != 0)
                    test_fail(__FILE__, __LINE__, "chunks %zu, cut at %zu and %zu: %s, want %s", i, a, b, got,
                              chunks[i].want);
            }
        }
    }
}

TEST(extensions_and_trailers_have_an_end)
{
    static const struct { const char *begin, *more; int status; } endless[] = {
        { "1;", "e", 400 }, { "1", "   ", 400 }, { "0\r\n", "A: b\r\n", 431 }, { "0\r\nA:", "b", 431 },
    };
    for (size_t i = 0; i < sizeof endless / sizeof *endless; i++) {
        http_chunked c = { 0 };
        http_fault fault = { 0, "" };
        slice run, in = slice_of(endless[i].begin);
        http_parse p = http_chunked_next(&c, &in, &run, &fault);
        int turns = 0;
        for (; p == HTTP_MORE && turns < 100000; turns++) {
            in = slice_of(endless[i].more);
            p = http_chunked_next(&c, &in, &run, &fault);
        }
        EXPECT(p == HTTP_WRONG && turns < 10000);
        EXPECT_INT(fault.status, endless[i].status);
    }
}
