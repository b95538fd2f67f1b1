/* Hostile vocabularies: each line of the input is one more token ("1abc": type, then
 * text) or merge ("m" and its text) beside those of the tiny vocabulary. What opens must
 * encode and give the text back. */
#include "text/tokenizer.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void take_line(text_source *s, const char *line, size_t n)
{
    if (n == 0) return;
    const slice rest = text_copy(line + 1, n - 1);
    if (line[0] == 'm') text_take_merge(s, rest);
    else text_take_token(s, rest, line[0] - '0');
}

static void check_round_trip(const vocab *v, slice text)
{
    token_list ids;
    bytes back;
    token_list_init(&ids, SIZE_MAX);
    bytes_init(&back, SIZE_MAX);
    if (tokenizer_encode(v, text, true, &ids, NULL)) abort();
    if (tokenizer_decode(v, ids.ids, ids.n, true, &back, NULL)) abort();
    if (!slice_equal(text, (slice){ back.data, back.len })) abort();
    bytes_free(&back);
    token_list_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    text_source s = text_tiny_source();
    vocab *v;
    for (size_t i = 0, start = 0; i <= size; i++) {
        if (i < size && text[i] != '\n') continue;
        take_line(&s, text + start, i - start);
        start = i + 1;
    }
    if (!text_source_open(&v, &s, NULL)) check_round_trip(v, (slice){ text, size });
    else if (v) abort();
    vocab_close(v);
    text_source_free(&s);
    return 0;
}
