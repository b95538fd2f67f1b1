/* checkpoint: a session as bytes, the KVC file of docs/formats.md.
 *
 *   "KVC" | version 1 | expert bits | reason | flags | 0 | tokens u32 | hits u32
 *   | context u32 | 0 u32 | created u64 | used u64 | payload bytes u64
 *   | text bytes u32 | text | payload | integrity trailer
 *
 *   payload: "DSV4" and 12 or 13 more u32 (below) | tokens i32[n] | logits f32[V]
 *   | n_comp u32[layers] | n_index u32[layers]
 *   | per layer: ring rows, then (ratio > 0) compressed rows, frontier values,
 *     frontier scores, then (ratio 4) the same three for the indexer
 *
 *   trailer: "KIC" | 1 | block bytes u32 | blocks u32 | CRC32C u32[blocks] of
 *   everything from byte 48 up to here | CRC32C of header bytes 0..12 16..32 40..48
 *
 * Payload version 1 holds rows as f32; version 2 adds their element type as a
 * fourteenth number: f16, or packed as kv_row.h has them. Frontiers are always
 * f32. Little-endian. */
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/status.h"
#include "text/tokenizer.h"

#define HEADER_BYTES    48
#define TRAILER_BLOCK   (1u << 20)
#define FLAG_TOOL_MAP   1
#define FLAG_INTEGRITY  8
#define PAYLOAD_MAGIC   0x34565344u     /* "DSV4" */
#define MAX_TEXT_BYTES  (1u << 30)

typedef enum { ELEMENT_F32 = 0, ELEMENT_F16 = 1, ELEMENT_PACKED = 3 } element_type;

/* Header fields of the payload, in order. */
enum {
    P_MAGIC, P_VERSION, P_CONTEXT, P_CHUNK, P_RING, P_WINDOW, P_COMPRESSED, P_TOKENS,
    P_LAYERS, P_WIDTH, P_INDEX_WIDTH, P_VOCAB, P_LIVE, P_ELEMENT, P_FIELDS
};

static void put_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static void put_u64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }
static uint32_t get_u32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint64_t get_u64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }

/* ---- a stream with block checksums ------------------------------------------------------- */

typedef struct {
    int        fd;
    bool       writing;
    ds4_status st;              /* first failure; later calls do nothing */
    ds4_error *err;
    uint8_t   *buffer;          /* [TRAILER_BLOCK] bytes not yet written, or not yet consumed */
    size_t     fill, at;
    uint64_t   left;            /* reading: bytes that belong to the checked part */
    uint32_t  *crc;             /* owned; of complete blocks */
    size_t     n_crc, cap_crc;
} block_stream;

static void stream_fail(block_stream *s, ds4_status st, const char *text)
{
    if (!s->st) s->st = ds4_fail(s->err, st, "%s", text);
}

static void add_crc(block_stream *s)
{
    if (s->n_crc == s->cap_crc) {
        const size_t cap = s->cap_crc ? 2 * s->cap_crc : 64;
        uint32_t *more = realloc(s->crc, cap * sizeof *more);
        if (!more) {
            stream_fail(s, DS4_EMEMORY, "no memory for checkpoint checksums");
            return;
        }
        s->crc = more;
        s->cap_crc = cap;
    }
    s->crc[s->n_crc++] = crc32c(0, s->buffer, s->fill);
}

static void flush_block(block_stream *s)
{
    if (s->st || s->fill == 0) return;
    add_crc(s);
    if (!s->st) s->st = file_write_all(s->fd, s->buffer, s->fill, "checkpoint", s->err);
    s->fill = 0;
}

static void next_block(block_stream *s)
{
    const size_t n = (size_t)(s->left < TRAILER_BLOCK ? s->left : TRAILER_BLOCK);
    if (n == 0) {
        stream_fail(s, DS4_EFORMAT, "checkpoint: sections are longer than the file says");
        return;
    }
    s->st = file_read_exact(s->fd, s->buffer, n, "checkpoint", s->err);
    if (s->st) return;
    s->left -= n;
    s->fill = n;
    s->at = 0;
    add_crc(s);
}

static void stream_write(block_stream *s, const void *data, size_t n)
{
    const uint8_t *p = data;
    while (n > 0 && !s->st) {
        const size_t take = min_size(n, TRAILER_BLOCK - s->fill);
        memcpy(s->buffer + s->fill, p, take);
        s->fill += take;
        p += take;
        n -= take;
        if (s->fill == TRAILER_BLOCK) flush_block(s);
    }
}

static void stream_read(block_stream *s, void *data, size_t n)
{
    uint8_t *p = data;
    while (n > 0 && !s->st) {
        if (s->at == s->fill) {
            next_block(s);
            continue;
        }
        const size_t take = min_size(n, s->fill - s->at);
        memcpy(p, s->buffer + s->at, take);
        s->at += take;
        p += take;
        n -= take;
    }
}

static ds4_status stream_start(block_stream *s, int fd, bool writing, ds4_error *err)
{
    *s = (block_stream){ .fd = fd, .writing = writing, .err = err, .buffer = malloc(TRAILER_BLOCK) };
    return s->buffer ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "no memory to stream a checkpoint");
}

static void stream_end(block_stream *s)
{
    free(s->buffer);
    free(s->crc);
}

/* ---- shared walk ------------------------------------------------------------------------- */

/* The position that row i of a frontier stands for, -1 when that token has not come.
 * With overlap rows 0..3 are the previous block and 4..7 the current one. */
static int frontier_pos(int ratio, int length, int i)
{
    const int block = length / ratio, kept = config_kept_tokens(ratio);
    const int pos = (block - (kept / ratio - 1)) * ratio + i;
    return pos >= 0 && pos < length ? pos : -1;
}

typedef struct {
    ds4_session *s;
    block_stream io;
    int          length;        /* tokens of the checkpoint */
    element_type element;       /* of rows in the file      */
    uint8_t     *row;           /* as the session stores it */
    uint8_t     *file_row;      /* as in the file           */
    float       *numbers;       /* of a row, or a frontier  */
} transfer;

/* Bytes of one row in a file. */
static size_t file_row_bytes(const model_config *c, element_type e, bool index)
{
    if (e == ELEMENT_PACKED) return (size_t)kv_row_bytes(kv_row_format(c, true, index));
    return (size_t)(index ? c->index_dim : c->head_dim) * (e == ELEMENT_F16 ? 2 : 4);
}

static bool transfer_open(transfer *t)
{
    const model_config *c = &t->s->engine->config;
    const size_t widest = (size_t)max_int(c->head_dim, c->index_dim);
    t->row = malloc(widest * 4 + 16);               /* packing pads the narrowest rows */
    t->file_row = malloc(widest * 4 + 16);
    t->numbers = malloc(2 * widest * sizeof(float));
    if (t->row && t->file_row && t->numbers) return true;
    stream_fail(&t->io, DS4_EMEMORY, "no memory to stream a checkpoint");
    return false;
}

static void transfer_close(transfer *t)
{
    stream_end(&t->io);
    free(t->row);
    free(t->file_row);
    free(t->numbers);
}

/* A session writes its rows as it holds them. */
static void row_to_file(transfer *t, bool index)
{
    stream_write(&t->io, t->row, file_row_bytes(&t->s->engine->config, t->element, index));
}

/* Any element type into the session's own; what was rounded when it was written
 * stays what it was, to the bit. */
static void row_from_file(transfer *t, bool index)
{
    const model_config *c = &t->s->engine->config;
    const kv_row own = kv_row_format(c, kv_is_packed(t->s->kv), index);
    stream_read(&t->io, t->file_row, file_row_bytes(c, t->element, index));
    if (t->io.st) return;
    if (t->element == ELEMENT_F16) quant_get(QUANT_F16)->to_float(t->numbers, t->file_row, own.width);
    else kv_row_unpack(kv_row_format(c, t->element == ELEMENT_PACKED, index), t->numbers, t->file_row);

    for (int i = 0; i < own.width; i++)
        if (!isfinite(t->numbers[i])) {
            stream_fail(&t->io, DS4_EFORMAT, "checkpoint: a row holds something that is not a number");
            return;
        }
    if (kv_is_packed(t->s->kv) && t->element == ELEMENT_PACKED) memcpy(t->row, t->file_row, (size_t)kv_row_bytes(own));
    else kv_row_pack(own, t->row, t->numbers);
}

static void move_frontier(transfer *t, int layer, bool index, bool score, int width)
{
    kv *k = t->s->kv;
    const int ratio = k->memory.layer[layer].ratio, cols = config_series(ratio) * width;
    for (int i = 0; i < config_kept_tokens(ratio) && !t->io.st; i++) {
        const int pos = frontier_pos(ratio, t->length, i);
        if (!t->io.writing) {
            stream_read(&t->io, t->numbers, (size_t)cols * sizeof(float));
            if (pos >= 0 && !t->io.st) kv_write_frontier(k, layer, index, score, pos, t->numbers);
            continue;
        }
        if (pos >= 0) kv_read_frontier(k, layer, index, score, pos, t->numbers);
        else for (int j = 0; j < cols; j++) t->numbers[j] = score ? -INFINITY : 0.0f;
        stream_write(&t->io, t->numbers, (size_t)cols * sizeof(float));
    }
}

static void move_compressed(transfer *t, int layer, bool index, int width)
{
    kv *k = t->s->kv;
    const int n = t->length / k->memory.layer[layer].ratio;
    for (int r = 0; r < n && !t->io.st; r++) {
        if (t->io.writing) {
            kv_read_compressed(k, layer, index, r, t->row);
            row_to_file(t, index);
        } else {
            row_from_file(t, index);
            if (!t->io.st) kv_write_compressed(k, layer, index, r, t->row);
        }
    }
    move_frontier(t, layer, index, false, width);
    move_frontier(t, layer, index, true, width);
}

static void move_layers(transfer *t)
{
    const model_config *c = &t->s->engine->config;
    kv *k = t->s->kv;
    for (int l = 0; l < c->n_layer && !t->io.st; l++) {
        for (int pos = max_int(0, t->length - c->n_swa); pos < t->length && !t->io.st; pos++) {
            if (t->io.writing) {
                kv_read_ring(k, l, pos, t->row);
                row_to_file(t, false);
            } else {
                row_from_file(t, false);
                if (!t->io.st) kv_write_ring(k, l, pos, t->row);
            }
        }
        if (c->ratio[l] > 0) move_compressed(t, l, false, c->head_dim);
        if (c->ratio[l] == 4) move_compressed(t, l, true, c->index_dim);
    }
}

/* Bytes of the payload for n tokens. */
static uint64_t payload_bytes(const model_config *c, int n, element_type element)
{
    const uint64_t row = file_row_bytes(c, element, false), index_row = file_row_bytes(c, element, true);
    const uint64_t fields = element == ELEMENT_F32 ? P_FIELDS - 1 : P_FIELDS;
    uint64_t sum = 4 * fields + 4ull * (uint64_t)n + 4ull * (uint64_t)c->n_vocab + 8ull * (uint64_t)c->n_layer;
    for (int l = 0; l < c->n_layer; l++) {
        const int ratio = c->ratio[l];
        sum += (uint64_t)min_int(n, c->n_swa) * row;
        if (ratio == 0) continue;
        const uint64_t widths = (uint64_t)(c->head_dim + (ratio == 4 ? c->index_dim : 0));
        sum += (uint64_t)(n / ratio) * (row + (ratio == 4 ? index_row : 0));
        sum += 2ull * (uint64_t)config_kept_tokens(ratio) * (uint64_t)config_series(ratio) * widths * 4u;
    }
    return sum;
}

static uint32_t header_crc(const uint8_t *h)
{
    uint32_t crc = crc32c(0, h, 12);
    crc = crc32c(crc, h + 16, 16);
    return crc32c(crc, h + 40, 8);
}

/* ---- save ---------------------------------------------------------------------------------- */

static void write_payload_head(transfer *t)
{
    const ds4_session *s = t->s;
    const ds4_engine *e = s->engine;
    const model_config *c = &e->config;
    const bool narrow = t->element != ELEMENT_F32;
    const uint32_t head[P_FIELDS] = {
        [P_MAGIC] = PAYLOAD_MAGIC, [P_VERSION] = narrow ? 2 : 1, [P_CONTEXT] = (uint32_t)s->kv->capacity,
        [P_CHUNK] = (uint32_t)e->o.max_batch_rows, [P_RING] = (uint32_t)s->kv->memory.layer[0].ring.rows,
        [P_WINDOW] = (uint32_t)c->n_swa, [P_COMPRESSED] = (uint32_t)(s->kv->capacity / 4),
        [P_TOKENS] = (uint32_t)t->length, [P_LAYERS] = (uint32_t)c->n_layer, [P_WIDTH] = (uint32_t)c->head_dim,
        [P_INDEX_WIDTH] = (uint32_t)c->index_dim, [P_VOCAB] = (uint32_t)c->n_vocab,
        [P_LIVE] = (uint32_t)min_int(t->length, c->n_swa), [P_ELEMENT] = t->element };
    stream_write(&t->io, head, (narrow ? P_FIELDS : P_FIELDS - 1) * sizeof head[0]);
    stream_write(&t->io, s->tokens, (size_t)t->length * sizeof *s->tokens);

    const float none = NAN;                         /* a session without logits says so */
    if (s->has_logits) stream_write(&t->io, s->logits, (size_t)c->n_vocab * sizeof(float));
    else for (int i = 0; i < c->n_vocab; i++) stream_write(&t->io, &none, sizeof none);

    for (int index = 0; index < 2; index++)
        for (int l = 0; l < c->n_layer; l++) {
            const int ratio = c->ratio[l];
            const uint32_t n = ratio == 0 || (index && ratio != 4) ? 0 : (uint32_t)(t->length / ratio);
            stream_write(&t->io, &n, sizeof n);
        }
}

static void write_trailer(block_stream *s, const uint8_t *header)
{
    uint8_t head[12] = { 'K', 'I', 'C', 1 };
    flush_block(s);
    put_u32(head + 4, TRAILER_BLOCK);
    put_u32(head + 8, (uint32_t)s->n_crc);
    const uint32_t crc = header_crc(header);
    if (!s->st) s->st = file_write_all(s->fd, head, sizeof head, "checkpoint", s->err);
    if (!s->st && s->n_crc > 0) s->st = file_write_all(s->fd, s->crc, s->n_crc * sizeof *s->crc, "checkpoint", s->err);
    if (!s->st) s->st = file_write_all(s->fd, &crc, sizeof crc, "checkpoint", s->err);
}

ds4_status ds4_session_save(const ds4_session *session, int fd, int reason, ds4_error *err)
{
    ds4_session *s = (ds4_session *)session;        /* only read here; transfer serves both ways */
    const ds4_engine *e = s->engine;
    transfer t = { .s = s, .length = s->kv->length,
                   .element = kv_is_packed(s->kv) ? ELEMENT_PACKED : ELEMENT_F32 };
    bytes text;
    bytes_init(&text, MAX_TEXT_BYTES);
    ds4_status st = tokenizer_decode(e->vocab, s->tokens, (size_t)t.length, true, &text, err);
    if (!st) st = stream_start(&t.io, fd, true, err);
    if (st) {
        bytes_free(&text);
        return st;
    }

    const uint64_t now = clock_unix_seconds();
    uint8_t header[HEADER_BYTES] = { 'K', 'V', 'C', 1, (uint8_t)e->shape.expert_bits, (uint8_t)reason, FLAG_INTEGRITY };
    put_u32(header + 8, (uint32_t)t.length);
    put_u32(header + 16, (uint32_t)s->kv->capacity);
    put_u64(header + 24, now);
    put_u64(header + 32, now);
    put_u64(header + 40, payload_bytes(&e->config, t.length, t.element));

    t.io.st = file_write_all(fd, header, sizeof header, "checkpoint", err);
    const uint32_t text_bytes = (uint32_t)text.len;
    stream_write(&t.io, &text_bytes, sizeof text_bytes);
    stream_write(&t.io, text.data, text.len);
    if (transfer_open(&t)) {
        write_payload_head(&t);
        move_layers(&t);
        write_trailer(&t.io, header);
    }
    st = t.io.st;
    transfer_close(&t);
    bytes_free(&text);
    return st;
}

/* ---- load ---------------------------------------------------------------------------------- */

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
    if (p[P_INDEX_WIDTH] != (uint32_t)c->index_dim) return bad(err, "the indexer width", p[P_INDEX_WIDTH], (unsigned)c->index_dim);
    if (p[P_VOCAB] != (uint32_t)c->n_vocab) return bad(err, "the vocabulary", p[P_VOCAB], (unsigned)c->n_vocab);
    if (p[P_WINDOW] != (uint32_t)c->n_swa) return bad(err, "the window", p[P_WINDOW], (unsigned)c->n_swa);
    if (p[P_TOKENS] != n) return bad(err, "the payload's token count", p[P_TOKENS], n);
    if (n > (uint32_t)s->kv->capacity)
        return ds4_fail(err, DS4_EFULL, "the checkpoint holds %u tokens, the session has room for %d; a larger --ctx takes it", n, s->kv->capacity);
    if (p[P_LIVE] != (uint32_t)min_int((int)n, c->n_swa)) return bad(err, "the number of live rows", p[P_LIVE], (unsigned)min_int((int)n, c->n_swa));
    if (p[P_ELEMENT] > ELEMENT_F16 && p[P_ELEMENT] != ELEMENT_PACKED) return ds4_fail(err, DS4_EUNSUPPORTED, "checkpoint: rows of element type %u are not supported", p[P_ELEMENT]);
    const unsigned long long want = payload_bytes(c, (int)n, (element_type)p[P_ELEMENT]);
    if (get_u64(header + 40) != want) return bad(err, "the payload size", get_u64(header + 40), want);
    return DS4_OK;
}

static void read_tokens_and_logits(transfer *t)
{
    ds4_session *s = t->s;
    const model_config *c = &s->engine->config;
    stream_read(&t->io, s->tokens, (size_t)t->length * sizeof *s->tokens);
    stream_read(&t->io, s->logits, (size_t)c->n_vocab * sizeof *s->logits);
    if (t->io.st) return;
    for (int i = 0; i < t->length; i++)
        if (s->tokens[i] < 0 || s->tokens[i] >= c->n_vocab) stream_fail(&t->io, DS4_EFORMAT, "checkpoint: a token id is out of range");
    int n_nan = 0;
    for (int i = 0; i < c->n_vocab; i++) n_nan += isnan(s->logits[i]) != 0;
    if (n_nan != 0 && n_nan != c->n_vocab) stream_fail(&t->io, DS4_EFORMAT, "checkpoint: logits are not numbers");
    s->has_logits = n_nan == 0;
}

static void check_row_counts(transfer *t)
{
    const model_config *c = &t->s->engine->config;
    for (int index = 0; index < 2; index++)
        for (int l = 0; l < c->n_layer && !t->io.st; l++) {
            const int ratio = c->ratio[l];
            const uint32_t want = ratio == 0 || (index && ratio != 4) ? 0 : (uint32_t)(t->length / ratio);
            uint32_t n = 0;
            stream_read(&t->io, &n, sizeof n);
            if (!t->io.st && n != want) stream_fail(&t->io, DS4_EFORMAT, "checkpoint: row counts do not follow from the token count");
        }
}

static void check_trailer(block_stream *s, const uint8_t *header)
{
    uint8_t head[12];
    uint32_t crc;
    if (s->left > 0 || s->at != s->fill) stream_fail(s, DS4_EFORMAT, "checkpoint: sections are shorter than the file says");
    if (!s->st) s->st = file_read_exact(s->fd, head, sizeof head, "checkpoint", s->err);
    if (!s->st && (memcmp(head, "KIC\1", 4) || get_u32(head + 4) != TRAILER_BLOCK || get_u32(head + 8) != s->n_crc))
        stream_fail(s, DS4_EFORMAT, "checkpoint: the integrity trailer is damaged");
    for (size_t i = 0; i < s->n_crc && !s->st; i++) {
        s->st = file_read_exact(s->fd, &crc, sizeof crc, "checkpoint", s->err);
        if (!s->st && crc != s->crc[i]) stream_fail(s, DS4_EFORMAT, "checkpoint: a checksum does not match; the file is damaged");
    }
    if (!s->st) s->st = file_read_exact(s->fd, &crc, sizeof crc, "checkpoint", s->err);
    if (!s->st && crc != header_crc(header)) stream_fail(s, DS4_EFORMAT, "checkpoint: the header's checksum does not match");
}

static ds4_status read_header(int fd, uint8_t *header, ds4_error *err)
{
    const ds4_status st = file_read_exact(fd, header, HEADER_BYTES, "checkpoint", err);
    if (st) return st;
    if (memcmp(header, "KVC", 3)) return ds4_fail(err, DS4_EFORMAT, "this is not a session checkpoint (it does not begin with KVC)");
    if (header[3] != 1) return ds4_fail(err, DS4_EUNSUPPORTED, "checkpoint version %d; this program reads version 1", header[3]);
    if (header[6] & FLAG_TOOL_MAP) return ds4_fail(err, DS4_EUNSUPPORTED, "the checkpoint carries a tool map, which this program does not read");
    return DS4_OK;
}

static void skip_text(block_stream *s, uint32_t n)
{
    char piece[4096];
    while (n > 0 && !s->st) {
        const size_t take = min_size(n, sizeof piece);
        stream_read(s, piece, take);
        n -= (uint32_t)take;
    }
}

static ds4_status load(ds4_session *s, int fd, ds4_error *err)
{
    uint8_t header[HEADER_BYTES], text[4];
    uint32_t head[P_FIELDS] = { 0 };
    transfer t = { .s = s };
    ds4_status st = read_header(fd, header, err);
    if (!st) st = file_read_exact(fd, text, sizeof text, "checkpoint", err);
    if (!st) st = stream_start(&t.io, fd, false, err);
    if (st) return st;

    /* The checked part begins with the text's length, which was needed to know its end. */
    uint64_t total = 0;
    if (!checked_add_u64(4ull + get_u32(text), get_u64(header + 40), &total)) stream_fail(&t.io, DS4_EFORMAT, "checkpoint: the payload size is absurd");
    if (!t.io.st) {
        memcpy(t.io.buffer, text, 4);
        const size_t first = (size_t)(total < TRAILER_BLOCK ? total : TRAILER_BLOCK);
        t.io.st = file_read_exact(fd, t.io.buffer + 4, first - 4, "checkpoint", err);
        t.io.fill = first;
        t.io.at = 4;
        t.io.left = total - first;
        if (!t.io.st) add_crc(&t.io);
    }
    skip_text(&t.io, get_u32(text));
    stream_read(&t.io, head, (P_FIELDS - 1) * sizeof head[0]);
    if (!t.io.st && head[P_VERSION] == 2) stream_read(&t.io, &head[P_ELEMENT], sizeof head[0]);
    else if (!t.io.st && head[P_VERSION] != 1) stream_fail(&t.io, DS4_EUNSUPPORTED, "checkpoint: unknown payload version");
    if (!t.io.st) t.io.st = check_head(s, header, head, err);

    if (!t.io.st && transfer_open(&t)) {
        t.length = (int)head[P_TOKENS];
        t.element = (element_type)head[P_ELEMENT];
        t.io.st = kv_grow(s->kv, t.length, err);
        read_tokens_and_logits(&t);
        check_row_counts(&t);
        move_layers(&t);
        if (header[6] & FLAG_INTEGRITY) check_trailer(&t.io, header);
    }
    st = t.io.st;
    transfer_close(&t);
    return st;
}

ds4_status ds4_session_load(ds4_session *s, int fd, ds4_error *err)
{
    ds4_session_reset(s);
    const ds4_status st = load(s, fd, err);
    if (st) ds4_session_reset(s);
    return st;
}
