#include <string.h>

#include "net/sse.h"
#include "runner.h"

/* Events as "name|data;" in one line. */
static void note(void *ctx, slice event, slice data)
{
    bytes *b = ctx;
    bytes_append(b, event.data, event.len);
    bytes_char(b, '|');
    bytes_append(b, data.data, data.len);
    bytes_char(b, ';');
}

static const char *const streams[][2] = {
    { "data: one\n\n", "|one;" },
    { "data:one\ndata: two\n\n", "|one\ntwo;" },
    { "event: ping\ndata: {}\n\n", "ping|{};" },
    { "event: a\nevent: b\ndata: x\n\ndata: y\n\n", "b|x;|y;" },
    { ": a comment\n\ndata: x\n\n", "|x;" },
    { "data: x\r\n\r\ndata: y\r\rdata: z\n\n", "|x;|y;|z;" },
    { "data: a\r\ndata: b\r\n\r\n", "|a\nb;" },
    { "\xEF\xBB\xBF" "data: x\n\n", "|x;" },
    { "data:  two spaces\n\n", "| two spaces;" },
    { "data\n\n", "|;" },
    { "data:\n\n", "|;" },
    { "event: alone\n\ndata: x\n\n", "|x;" },
    { "id: 7\nretry: 10\nunknown: y\ndata: x\n\n", "|x;" },
    { "data: cut", "" },
    { "data: cut\n", "" },
    { "\n\n\ndata: x\n\n\n\n", "|x;" },
    { "data: a:b\n\n", "|a:b;" },
};

TEST(events_are_read_however_they_are_cut)
{
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        const slice in = slice_of(streams[i][0]);
        for (size_t first = 0; first <= in.len; first++) {
            for (size_t second = first; second <= in.len; second++) {
                const size_t ends[] = { 0, first, second, in.len };
                sse_reader r;
                bytes got;
                sse_reader_init(&r, 1000);
                bytes_init(&got, 1000);
                bytes_text(&got, "");
                for (int k = 0; k < 3; k++)
                    EXPECT(sse_reader_push(&r, (slice){ in.data + ends[k], ends[k + 1] - ends[k] }, note, &got));
                EXPECT_TEXT(got.data, streams[i][1]);
                sse_reader_free(&r);
                bytes_free(&got);
            }
        }
    }
}

TEST(what_is_written_reads_the_same)
{
    bytes out, got;
    sse_reader r;
    bytes_init(&out, 1000);
    bytes_init(&got, 1000);
    sse_event(&out, NULL, slice_of("{\"a\":1}"));
    sse_comment(&out, "keep-alive");
    sse_event(&out, "message_stop", slice_of(" x"));
    EXPECT_TEXT(out.data, "data: {\"a\":1}\n\n: keep-alive\n\nevent: message_stop\ndata:  x\n\n");
    sse_reader_init(&r, 100);
    EXPECT(sse_reader_push(&r, (slice){ out.data, out.len }, note, &got));
    EXPECT_TEXT(got.data, "|{\"a\":1};message_stop| x;");
    sse_reader_free(&r);
    bytes_free(&out);
    bytes_free(&got);
}

TEST(an_event_beyond_the_limit_ends_the_stream)
{
    for (int many_lines = 0; many_lines < 2; many_lines++) {
        sse_reader r;
        bytes got;
        sse_reader_init(&r, 64);
        bytes_init(&got, 1000);
        bool good = true;
        for (int i = 0; i < 100 && good; i++)
            good = sse_reader_push(&r, slice_of(many_lines ? "data: x\n" : "x"), note, &got);
        EXPECT(!good);
        EXPECT(!sse_reader_push(&r, slice_of("\n\ndata: x\n\n"), note, &got));
        EXPECT_INT(got.len, 0);
        sse_reader_free(&r);
        bytes_free(&got);
    }
}
