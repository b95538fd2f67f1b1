/* Any bytes, as requests on one connection: cut anywhere they come to the same, heads, bodies and faults. */
#include <stdint.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "net/http_parser.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_HEADERS = 32 };

static void note(bytes *log, slice s)
{
    bytes_append(log, s.data, s.len);
    bytes_char(log, '|');
}

/* The head of in, found in steps of `step` bytes; its length, or 0 where there is none. */
static size_t read_head(slice in, size_t step, http_head *h, http_header *headers, bytes *log)
{
    http_scan scan = { 0 };
    http_fault fault = { 0, NULL };
    http_parse p = HTTP_MORE;
    for (size_t n = 0; n < in.len && p == HTTP_MORE;) {
        n = step < in.len - n ? n + step : in.len;
        p = http_head_scan(&scan, (slice){ in.data, n }, &fault);
    }
    if (p == HTTP_DONE)
        p = http_head_parse(h, headers, MAX_HEADERS, (slice){ in.data + scan.begin, scan.at - scan.begin }, &fault);
    if (p == HTTP_DONE && (h->request.n_headers != scan.lines - 1 || scan.at > in.len)) abort();
    bytes_printf(log, "%d %d\n", (int)p, fault.status);
    if (p != HTTP_DONE) return 0;
    note(log, h->request.method);
    note(log, h->request.path);
    note(log, h->request.query);
    for (int i = 0; i < h->request.n_headers; i++) {
        note(log, h->request.headers[i].name);
        note(log, h->request.headers[i].value);
    }
    return scan.at;
}

/* The chunked body at the front of in; the bytes it took, or 0 where it does not end. */
static size_t read_chunks(slice in, size_t step, bytes *log)
{
    http_chunked c = { 0 };
    http_fault fault = { 0, NULL };
    http_parse p = HTTP_MORE;
    size_t at = 0;
    while (at < in.len && p == HTTP_MORE) {
        const size_t n = step < in.len - at ? step : in.len - at;
        slice piece = { in.data + at, n }, run;
        do {
            p = http_chunked_next(&c, &piece, &run, &fault);
            if (p != HTTP_WRONG) bytes_append(log, run.data, run.len);
        } while (p == HTTP_MORE && run.len);
        if (p == HTTP_MORE && piece.len) abort();
        at += n - piece.len;
    }
    bytes_printf(log, "chunks %d %d\n", (int)p, fault.status);
    return p == HTTP_DONE ? at : 0;
}

static void read_all(slice in, size_t step, bytes *log)
{
    bytes_init(log, SIZE_MAX);
    while (in.len) {
        http_head h;
        http_header headers[MAX_HEADERS];
        size_t used = read_head(in, step, &h, headers, log);
        if (!used) return;
        in.data += used;
        in.len -= used;
        if (h.chunked) {
            used = read_chunks(in, step, log);
            if (!used) return;
        } else {
            if (h.length > in.len) return;
            used = (size_t)h.length;
        }
        in.data += used;
        in.len -= used;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const slice in = { (const char *)data, size };
    const size_t steps[] = { 1, 3 };
    bytes whole;
    read_all(in, size + 1, &whole);
    for (size_t i = 0; i < 2; i++) {
        bytes pieces;
        read_all(in, steps[i], &pieces);
        if (!slice_equal((slice){ whole.data, whole.len }, (slice){ pieces.data, pieces.len })) abort();
        bytes_free(&pieces);
    }
    bytes_free(&whole);

    /* A head without an end is asked for its path. */
    http_header few[2];
    http_head h;
    http_fault fault;
    http_head_parse(&h, few, 2, in, &fault);
    return 0;
}
