#include "net/sse.h"
#include "runner.h"

TEST(events_and_comments_end_with_an_empty_line)
{
    bytes out;
    bytes_init(&out, 1000);
    sse_event(&out, NULL, slice_of("{\"a\":1}"));
    sse_comment(&out, "keep-alive");
    sse_event(&out, "message_stop", slice_of(" x"));
    EXPECT_TEXT(out.data, "data: {\"a\":1}\n\n: keep-alive\n\nevent: message_stop\ndata:  x\n\n");
    bytes_free(&out);
}
