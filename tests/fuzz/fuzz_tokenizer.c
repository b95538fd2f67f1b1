/* Any bytes, as text: what is encoded decodes to itself, pieces tile the text, and the
 * stream gives token by token what is decoded at once. */
#include "text/split.h"
#include "text/stream.h"
#include "text/tokenizer.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_pieces(slice text)
{
    splitter s = split_begin(text);
    slice piece;
    size_t end = 0;
    while (split_next(&s, &piece)) {
        require(piece.len > 0 && piece.data == text.data + end);
        end += piece.len;
    }
    require(end == text.len);
}

static void check_stream(const vocab *v, const token_list *ids, slice text)
{
    const slice stops[] = { slice_of("\n\n"), slice_of("</") };
    stream_options options = { .show_control = true, .raw = true };
    stream *s;
    bytes raw, out;
    bytes_init(&raw, SIZE_MAX);
    bytes_init(&out, SIZE_MAX);
    require(!stream_open(&s, v, &options, NULL));
    for (size_t i = 0; i < ids->n; i++) require(!stream_push(s, ids->ids[i], &raw, NULL));
    require(!stream_flush(s, &raw, NULL));
    require(slice_equal(text, (slice){ raw.data, raw.len }));
    stream_close(s);

    options = (stream_options){ .stops = stops, .n_stops = 2 };
    require(!stream_open(&s, v, &options, NULL));
    for (size_t i = 0; i < ids->n; i++) {
        const size_t before = out.len;
        require(!stream_push(s, ids->ids[i], &out, NULL));
        if (out.len > before) require(utf8_valid(out.data + before, out.len - before));
    }
    stream_close(s);
    bytes_free(&raw);
    bytes_free(&out);
}

static void check_text(const vocab *v, slice text, bool parse_added)
{
    token_list ids;
    bytes back;
    token_list_init(&ids, SIZE_MAX);
    bytes_init(&back, SIZE_MAX);
    require(!tokenizer_encode(v, text, parse_added, &ids, NULL));
    require(ids.n == ids.wanted && ids.n <= text.len);
    require(!tokenizer_decode(v, ids.ids, ids.n, true, &back, NULL));
    require(slice_equal(text, (slice){ back.data, back.len }));
    check_stream(v, &ids, text);
    bytes_free(&back);
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static vocab *v;                    /* opened once, left to the end of the process */
    if (!v) {
        text_source s = text_tiny_source();
        require(!text_source_open(&v, &s, NULL));
        text_source_free(&s);
    }
    const slice text = { (const char *)data, size };
    check_pieces(text);
    check_text(v, text, false);
    check_text(v, text, true);
    return 0;
}
