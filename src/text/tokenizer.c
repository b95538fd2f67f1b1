#include "text/tokenizer.h"

#include "base/status.h"
#include "text/added.h"
#include "text/bpe.h"
#include "text/split.h"

/* Text without added tokens. */
static ds4_status encode_plain(const vocab *v, bpe_work *work, slice text, token_list *out, ds4_error *err)
{
    ds4_status st = DS4_OK;
    splitter s = split_begin(text);
    slice piece;
    while (!st && split_next(&s, &piece)) {
        const int32_t id = vocab_whole(v, piece);
        if (id >= 0) token_list_push(out, id);
        else st = bpe_encode(vocab_bpe(v), work, piece, out, err);
    }
    return st;
}

ds4_status tokenizer_encode(const vocab *v, slice text, bool parse_added, token_list *out, ds4_error *err)
{
    ds4_status st = DS4_OK;
    bpe_work work = { .nodes = NULL };
    size_t done = 0;
    while (!st && done < text.len) {
        size_t pos = done, len = 0;
        const int32_t id = parse_added ? added_find(vocab_added(v), text, &pos, &len) : -1;
        if (id < 0) pos = text.len;

        st = encode_plain(v, &work, (slice){ text.data + done, pos - done }, out, err);
        if (id >= 0) token_list_push(out, id);
        done = pos + len;
    }
    bpe_work_free(&work);

    if (!st && out->failed) st = ds4_fail(err, DS4_EMEMORY, "no memory for %zu tokens", out->wanted);
    if (!st && out->wanted > out->n) {
        st = ds4_fail(err, DS4_EFULL, "the text has %zu tokens, and %zu are the most allowed",
                      out->wanted, out->max);
    }
    return st;
}

ds4_status tokenizer_decode(const vocab *v, const int32_t *ids, size_t n, bool show_control,
                            bytes *out, ds4_error *err)
{
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *data = vocab_bytes(v, ids[i], &len);
        if (!data) {
            return ds4_fail(err, DS4_EARG, "token %d is outside the vocabulary of %d",
                            (int)ids[i], (int)vocab_size(v));
        }
        if (!show_control && vocab_hidden(v, ids[i])) continue;
        if (len > out->max - out->len) {
            return ds4_fail(err, DS4_EFULL, "the text of %zu tokens does not fit %zu bytes", n, out->max);
        }
        if (!bytes_append(out, data, len)) {
            return ds4_fail(err, DS4_EMEMORY, "no memory for the text of %zu tokens", n);
        }
    }
    return DS4_OK;
}
