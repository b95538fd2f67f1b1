/* checkpoint_load: a session read from a KVC file. */
#include "engine/checkpoint.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/status.h"

typedef struct {
    ds4_session *s;
    kvc_stream   io;
    int          length;        /* tokens of the checkpoint */
    kvc_element  element;       /* of rows in the file      */
    uint8_t     *rows;          /* [ROWS_AT_ONCE] as the session stores them, or a frontier's */
    uint8_t     *file_row;      /* as in the file           */
    float       *numbers;       /* of a row                 */
} transfer;

static bool transfer_open(transfer *t)
{
    const model_config *c = &t->s->engine->config;
    t->rows = malloc(ROWS_AT_ONCE * kvc_row_room(c));
    t->file_row = malloc(kvc_row_room(c));
    t->numbers = malloc(kvc_row_room(c));
    if (t->rows && t->file_row && t->numbers) return true;
    kvc_stream_fail(&t->io, DS4_EMEMORY, "no memory to load a checkpoint");
    return false;
}

static void transfer_close(transfer *t)
{
    kvc_stream_end(&t->io);
    free(t->rows);
    free(t->file_row);
    free(t->numbers);
}

/* Any element type into the session's own; what was rounded when it was written
 * stays what it was, to the bit. */
static void row_from_file(transfer *t, bool index, uint8_t *out)
{
    const model_config *c = &t->s->engine->config;
    const kv_row own = kv_row_format(c, kv_is_packed(t->s->kv), index);
    kvc_stream_read(&t->io, t->file_row, kvc_file_row_bytes(c, t->element, index));
    if (t->io.st) return;
    if (t->element == ELEMENT_F16) quant_get(QUANT_F16)->to_float(t->numbers, t->file_row, own.width);
    else kv_row_unpack(kv_row_format(c, t->element == ELEMENT_PACKED, index), t->numbers, t->file_row);

    for (int i = 0; i < own.width; i++)
        if (!isfinite(t->numbers[i])) {
            kvc_stream_fail(&t->io, DS4_EFORMAT, "checkpoint: a row holds something that is not a number");
            return;
        }
    if (kv_is_packed(t->s->kv) && t->element == ELEMENT_PACKED) memcpy(out, t->file_row, (size_t)kv_row_bytes(own));
    else kv_row_pack(own, out, t->numbers);
}

/* The next n rows, at most ROWS_AT_ONCE, into t->rows. */
static void rows_from_file(transfer *t, bool index, int n)
{
    const size_t own = (size_t)kv_row_bytes(kv_row_format(&t->s->engine->config, kv_is_packed(t->s->kv), index));
    for (int i = 0; i < n && !t->io.st; i++) row_from_file(t, index, t->rows + (size_t)i * own);
}

/* What was added to m, unless reading failed. */
static void move_rows(transfer *t, kv_move *m)
{
    if (!t->io.st) t->io.st = kv_move_run(m, t->io.err);
}

static void read_ring(transfer *t, int layer)
{
    kv_move m = { .k = t->s->kv, .writes = true };
    const int first = max_int(0, t->length - t->s->engine->config.n_swa);
    for (int pos = first, n; pos < t->length && !t->io.st; pos += n) {
        n = min_int(t->length - pos, ROWS_AT_ONCE);
        rows_from_file(t, false, n);
        if (t->io.st) return;
        kv_move_ring(&m, layer, pos, n, t->rows);
        move_rows(t, &m);
    }
}

static void read_frontier(transfer *t, int layer, bool index, bool score)
{
    const int ratio = t->s->engine->config.ratio[layer], kept = config_kept_tokens(ratio);
    const size_t size = kvc_frontier_bytes(&t->s->engine->config, layer, index) / 2, row = size / (size_t)kept;
    int first, pos;
    const int n = kvc_frontier_run(ratio, t->length, &first, &pos);
    kv_move m = { .k = t->s->kv, .writes = true };
    kvc_stream_read(&t->io, t->rows, size);
    if (t->io.st) return;
    kv_move_frontier(&m, layer, index, score, pos, n, t->rows + (size_t)first * row);
    move_rows(t, &m);
}

static void read_compressed(transfer *t, int layer, bool index)
{
    const int n = (int)kvc_row_count(&t->s->engine->config, layer, index, t->length);
    kv_move m = { .k = t->s->kv, .writes = true };
    for (int r = 0, count; r < n && !t->io.st; r += count) {
        count = min_int(n - r, ROWS_AT_ONCE);
        rows_from_file(t, index, count);
        if (t->io.st) return;
        kv_move_compressed(&m, layer, index, r, count, t->rows);
        move_rows(t, &m);
    }
    if (kvc_frontier_bytes(&t->s->engine->config, layer, index) == 0) return;
    read_frontier(t, layer, index, false);
    read_frontier(t, layer, index, true);
}

static void read_layers(transfer *t)
{
    const model_config *c = &t->s->engine->config;
    for (int l = 0; l < c->n_layer && !t->io.st; l++) {
        read_ring(t, l);
        read_compressed(t, l, false);
        read_compressed(t, l, true);
    }
}

static ds4_status bad(ds4_error *err, const char *what, unsigned long long got, unsigned long long want)
{
    return ds4_fail(err, DS4_EFORMAT, "checkpoint: %s is %llu, this model and session have %llu", what, got, want);
}

static ds4_status check_head(const ds4_session *s, const uint8_t *header, const uint32_t *p, ds4_error *err)
{
    const model_config *c = &s->engine->config;
    const uint32_t n = get_u32(header + 8);
    if (p[P_MAGIC] != PAYLOAD_MAGIC) return ds4_fail(err, DS4_EFORMAT, "checkpoint: the payload is not a session");
    if (p[P_LAYERS] != (uint32_t)c->n_layer) return bad(err, "the number of layers", p[P_LAYERS], (unsigned)c->n_layer);
    if (p[P_WIDTH] != (uint32_t)c->head_dim) return bad(err, "the row width", p[P_WIDTH], (unsigned)c->head_dim);
    if (p[P_INDEX_WIDTH] != (uint32_t)c->index_dim)
        return bad(err, "the indexer width", p[P_INDEX_WIDTH], (unsigned)c->index_dim);
    if (p[P_VOCAB] != (uint32_t)c->n_vocab) return bad(err, "the vocabulary", p[P_VOCAB], (unsigned)c->n_vocab);
    if (p[P_WINDOW] != (uint32_t)c->n_swa) return bad(err, "the window", p[P_WINDOW], (unsigned)c->n_swa);
    if (p[P_TOKENS] != n) return bad(err, "the payload's token count", p[P_TOKENS], n);
    if (n > (uint32_t)s->kv->capacity)
        return ds4_fail(err, DS4_EFULL,
                        "the checkpoint holds %u tokens, the session has room for %d; a larger --ctx takes it", n,
                        s->kv->capacity);
    if (p[P_LIVE] != (uint32_t)min_int((int)n, c->n_swa))
        return bad(err, "the number of live rows", p[P_LIVE], (unsigned)min_int((int)n, c->n_swa));
    if (p[P_ELEMENT] > ELEMENT_F16 && p[P_ELEMENT] != ELEMENT_PACKED)
        return ds4_fail(err, DS4_EUNSUPPORTED, "checkpoint: rows of element type %u are not supported", p[P_ELEMENT]);
    const unsigned long long want = kvc_payload_bytes(c, (int)n, (kvc_element)p[P_ELEMENT]);
    if (get_u64(header + 40) != want) return bad(err, "the payload size", get_u64(header + 40), want);
    return DS4_OK;
}

static void read_tokens_and_logits(transfer *t)
{
    ds4_session *s = t->s;
    const model_config *c = &s->engine->config;
    kvc_stream_read(&t->io, s->tokens, (size_t)t->length * sizeof *s->tokens);
    session_drop_logits(s);
    kvc_stream_read(&t->io, s->logits, (size_t)c->n_vocab * sizeof *s->logits);
    if (t->io.st) return;
    for (int i = 0; i < t->length; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= c->n_vocab)
            kvc_stream_fail(&t->io, DS4_EFORMAT, "checkpoint: a token id is out of range");
    int n_nan = 0;
    for (int i = 0; i < c->n_vocab; i++) n_nan += isnan(s->logits[i]) != 0;
    if (n_nan != 0 && n_nan != c->n_vocab) kvc_stream_fail(&t->io, DS4_EFORMAT, "checkpoint: logits are not numbers");
    s->has_logits = n_nan == 0;
}

static void check_row_counts(transfer *t)
{
    const model_config *c = &t->s->engine->config;
    for (int index = 0; index < 2; index++)
        for (int l = 0; l < c->n_layer && !t->io.st; l++) {
            const uint32_t want = kvc_row_count(c, l, index, t->length);
            uint32_t n = 0;
            kvc_stream_read(&t->io, &n, sizeof n);
            if (!t->io.st && n != want)
                kvc_stream_fail(&t->io, DS4_EFORMAT, "checkpoint: row counts do not follow from the token count");
        }
}

static void check_trailer(kvc_stream *s, const uint8_t *header)
{
    uint8_t head[12];
    uint32_t crc;
    if (s->left > 0 || s->at != s->fill)
        kvc_stream_fail(s, DS4_EFORMAT, "checkpoint: sections are shorter than the file says");
    if (!s->st) s->st = file_read_exact(s->fd, head, sizeof head, "checkpoint", s->err);
    if (!s->st && (memcmp(head, "KIC\1", 4) || get_u32(head + 4) != TRAILER_BLOCK || get_u32(head + 8) != s->n_crc))
        kvc_stream_fail(s, DS4_EFORMAT, "checkpoint: the integrity trailer is damaged");
    for (size_t i = 0; i < s->n_crc && !s->st; i++) {
        s->st = file_read_exact(s->fd, &crc, sizeof crc, "checkpoint", s->err);
        if (!s->st && crc != s->crc[i])
            kvc_stream_fail(s, DS4_EFORMAT, "checkpoint: a checksum does not match; the file is damaged");
    }
    if (!s->st) s->st = file_read_exact(s->fd, &crc, sizeof crc, "checkpoint", s->err);
    if (!s->st && crc != kvc_header_crc(header))
        kvc_stream_fail(s, DS4_EFORMAT, "checkpoint: the header's checksum does not match");
}

static ds4_status read_header(int fd, uint8_t *header, ds4_error *err)
{
    const ds4_status st = file_read_exact(fd, header, HEADER_BYTES, "checkpoint", err);
    if (st) return st;
    if (memcmp(header, "KVC", 3))
        return ds4_fail(err, DS4_EFORMAT, "this is not a session checkpoint (it does not begin with KVC)");
    if (header[3] != 1)
        return ds4_fail(err, DS4_EUNSUPPORTED, "checkpoint version %d; this program reads version 1", header[3]);
    return DS4_OK;
}

static void skip_text(kvc_stream *s, uint32_t n)
{
    char piece[4096];
    while (n > 0 && !s->st) {
        const size_t take = min_size(n, sizeof piece);
        kvc_stream_read(s, piece, take);
        n -= (uint32_t)take;
    }
}

/* Bytes of the tool map that follows the payload. The header does not tell: what the file has beyond the rest. */
static ds4_status map_bytes_of(int fd, const uint8_t *header, uint64_t text_and_payload, uint64_t *out, ds4_error *err)
{
    struct stat f;
    *out = 0;
    if (!(header[6] & KVC_TOOL_MAP)) return DS4_OK;
    const off_t at = lseek(fd, 0, SEEK_CUR);        /* behind header and text length */
    if (at < 0 || fstat(fd, &f) || !S_ISREG(f.st_mode))
        return ds4_fail(err, DS4_EUNSUPPORTED, "a checkpoint with a tool map can only be read from a regular file");
    if (f.st_size < at) return ds4_fail(err, DS4_EIO, "checkpoint: the file became shorter while it was read");
    const uint64_t rest = (uint64_t)(f.st_size - at) + 4;
    const uint64_t checked = header[6] & KVC_INTEGRITY ? kvc_checked_bytes(rest) : rest;
    if (checked <= text_and_payload || checked - text_and_payload > MAX_MAP_BYTES)
        return ds4_fail(err, DS4_EFORMAT, "checkpoint: the tool map's size is absurd");
    *out = checked - text_and_payload;
    return DS4_OK;
}

static void read_map(transfer *t, uint64_t n, bytes *out)
{
    char piece[4096];
    while (n > 0 && !t->io.st) {
        const size_t take = (size_t)min_u64(n, sizeof piece);
        kvc_stream_read(&t->io, piece, take);
        if (out && !t->io.st && !bytes_append(out, piece, take))
            kvc_stream_fail(&t->io, DS4_EMEMORY, "no memory for a checkpoint's tool map");
        n -= take;
    }
}

static ds4_status load(ds4_session *s, int fd, bytes *tool_map, ds4_error *err)
{
    uint8_t header[HEADER_BYTES], text[4];
    uint32_t head[P_FIELDS] = { 0 };
    transfer t = { .s = s };
    ds4_status st = read_header(fd, header, err);
    if (!st) st = file_read_exact(fd, text, sizeof text, "checkpoint", err);
    if (!st) st = kvc_stream_start(&t.io, fd, err);
    if (st) return st;

    /* The checked part begins with the text's length, which was needed to know its end. */
    uint64_t total = 0, map_bytes = 0;
    if (!checked_add_u64(4ull + get_u32(text), get_u64(header + 40), &total))
        kvc_stream_fail(&t.io, DS4_EFORMAT, "checkpoint: the payload size is absurd");
    if (!t.io.st) t.io.st = map_bytes_of(fd, header, total, &map_bytes, err);
    if (!t.io.st && !checked_add_u64(total, map_bytes, &total))
        kvc_stream_fail(&t.io, DS4_EFORMAT, "checkpoint: the payload size is absurd");
    if (!t.io.st) {
        memcpy(t.io.buffer, text, 4);
        const size_t first = (size_t)(total < TRAILER_BLOCK ? total : TRAILER_BLOCK);
        t.io.st = file_read_exact(fd, t.io.buffer + 4, first - 4, "checkpoint", err);
        t.io.fill = first;
        t.io.at = 4;
        t.io.left = total - first;
        if (!t.io.st) kvc_stream_sum(&t.io);
    }
    skip_text(&t.io, get_u32(text));
    kvc_stream_read(&t.io, head, (P_FIELDS - 1) * sizeof head[0]);
    if (!t.io.st && head[P_VERSION] == 2) kvc_stream_read(&t.io, &head[P_ELEMENT], sizeof head[0]);
    else if (!t.io.st && head[P_VERSION] != 1)
        kvc_stream_fail(&t.io, DS4_EUNSUPPORTED, "checkpoint: unknown payload version");
    if (!t.io.st) t.io.st = check_head(s, header, head, err);

    if (!t.io.st && transfer_open(&t)) {
        t.length = (int)head[P_TOKENS];
        t.element = (kvc_element)head[P_ELEMENT];
        t.io.st = kv_grow(s->kv, t.length, err);
        read_tokens_and_logits(&t);
        check_row_counts(&t);
        read_layers(&t);
        read_map(&t, map_bytes, tool_map);
        if (header[6] & KVC_INTEGRITY) check_trailer(&t.io, header);
    }
    st = t.io.st;
    transfer_close(&t);
    return st;
}

ds4_status kvc_load(ds4_session *s, int fd, bytes *tool_map, ds4_error *err)
{
    const size_t had = tool_map ? tool_map->len : 0;
    ds4_session_reset(s);
    const ds4_status st = load(s, fd, tool_map, err);
    if (!st) return DS4_OK;
    ds4_session_reset(s);
    if (tool_map) tool_map->len = had;              /* it was not verified */
    return st;
}

ds4_status ds4_session_load(ds4_session *s, int fd, ds4_error *err) { return kvc_load(s, fd, NULL, err); }
