/* checkpoint: a session as bytes, the KVC file of docs/formats.md.
 *
 *   "KVC" | version 1 | expert bits | reason | flags | 0 | tokens u32 | hits u32
 *   | context u32 | 0 u32 | created u64 | used u64 | payload bytes u64
 *   | text bytes u32 | text | payload | tool map, if flag 1 | integrity trailer
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
#include "engine/kvc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/status.h"
#include "engine/engine.h"
#include "text/tokenizer.h"

#define HEADER_BYTES    48
#define TRAILER_BLOCK   KVC_TRAILER_BLOCK
#define PAYLOAD_MAGIC   0x34565344u     /* "DSV4" */
#define ROWS_AT_ONCE    512             /* between the session and a buffer; no frontier is longer */
#define MAX_TEXT_BYTES  (1u << 30)
#define MAX_MAP_BYTES   (1u << 28)

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

static ds4_status stream_start(block_stream *s, int fd, ds4_error *err)
{
    *s = (block_stream){ .fd = fd, .err = err, .buffer = malloc(TRAILER_BLOCK) };
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

/* Bytes of one row in a file. */
static size_t file_row_bytes(const model_config *c, element_type e, bool index)
{
    if (e == ELEMENT_PACKED) return (size_t)kv_row_bytes(kv_row_format(c, true, index));
    return (size_t)(index ? c->index_dim : c->head_dim) * (e == ELEMENT_F16 ? 2 : 4);
}

/* Room for one row: packing pads the narrowest ones. */
static size_t row_buffer_bytes(const model_config *c) { return (size_t)max_int(c->head_dim, c->index_dim) * 4 + 16; }

/* Compressed rows of a layer, or of its indexer. */
static uint32_t row_count(const model_config *c, int layer, bool index, int length)
{
    const int ratio = c->ratio[layer];
    return ratio == 0 || (index && ratio != 4) ? 0 : (uint32_t)(length / ratio);
}

/* Values and scores of a layer's compressor, or of its indexer's. */
static size_t frontier_bytes(const model_config *c, int layer, bool index)
{
    const int ratio = c->ratio[layer], width = index ? c->index_dim : c->head_dim;
    if (ratio == 0 || (index && ratio != 4)) return 0;
    return 2u * (size_t)config_kept_tokens(ratio) * (size_t)(config_series(ratio) * width) * sizeof(float);
}

/* Of the payload for n tokens, the compressed rows. */
static uint64_t growing_bytes(const model_config *c, int n, element_type element)
{
    uint64_t sum = 0;
    for (int l = 0; l < c->n_layer; l++)
        for (int index = 0; index < 2; index++) sum += (uint64_t)row_count(c, l, index, n) * file_row_bytes(c, element, index);
    return sum;
}

/* Bytes of the payload for n tokens. */
static uint64_t payload_bytes(const model_config *c, int n, element_type element)
{
    const uint64_t fields = element == ELEMENT_F32 ? P_FIELDS - 1 : P_FIELDS, ring = (uint64_t)min_int(n, c->n_swa);
    uint64_t sum = 4 * fields + 4ull * (uint64_t)n + 4ull * (uint64_t)c->n_vocab + 8ull * (uint64_t)c->n_layer;
    for (int l = 0; l < c->n_layer; l++)
        sum += ring * file_row_bytes(c, element, false) + frontier_bytes(c, l, false) + frontier_bytes(c, l, true);
    return sum + growing_bytes(c, n, element);
}

uint64_t kvc_constant_bytes(const ds4_engine *e, int tokens)
{
    const element_type element = e->o.kv_type == DS4_KV_PACKED && !e->o.no_rounding ? ELEMENT_PACKED : ELEMENT_F32;
    return payload_bytes(&e->config, tokens, element) - growing_bytes(&e->config, tokens, element) - 4ull * (uint64_t)tokens;
}

static uint32_t header_crc(const uint8_t *h)
{
    uint32_t crc = crc32c(0, h, 12);
    crc = crc32c(crc, h + 16, 16);
    return crc32c(crc, h + 40, 8);
}

/* ---- save ---------------------------------------------------------------------------------- */

/* Everything but the rows that only grow stands in `part`, in the order of the file: text, payload head, and per
 * layer ring rows and frontiers; then the tool map. */
struct kvc {
    const ds4_session *s;       /* borrowed, for its growing rows */
    int                length;
    element_type       element;
    uint8_t            header[HEADER_BYTES];
    size_t             head_bytes, map_bytes;   /* of `part` up to the first layer; of the tool map */
    uint8_t           *part;
    size_t             part_bytes;
    uint8_t           *at;      /* while it is filled */
};

static void put(kvc *c, const void *data, size_t n)
{
    if (n > 0) memcpy(c->at, data, n);
    c->at += n;
}

static void put_head(kvc *k)
{
    const ds4_session *s = k->s;
    const ds4_engine *e = s->engine;
    const model_config *c = &e->config;
    const bool narrow = k->element != ELEMENT_F32;
    const uint32_t head[P_FIELDS] = {
        [P_MAGIC] = PAYLOAD_MAGIC, [P_VERSION] = narrow ? 2 : 1, [P_CONTEXT] = (uint32_t)s->kv->capacity,
        [P_CHUNK] = (uint32_t)e->o.max_batch_rows, [P_RING] = (uint32_t)s->kv->memory.layer[0].ring.rows,
        [P_WINDOW] = (uint32_t)c->n_swa, [P_COMPRESSED] = (uint32_t)(s->kv->capacity / 4),
        [P_TOKENS] = (uint32_t)k->length, [P_LAYERS] = (uint32_t)c->n_layer, [P_WIDTH] = (uint32_t)c->head_dim,
        [P_INDEX_WIDTH] = (uint32_t)c->index_dim, [P_VOCAB] = (uint32_t)c->n_vocab,
        [P_LIVE] = (uint32_t)min_int(k->length, c->n_swa), [P_ELEMENT] = k->element };
    put(k, head, (narrow ? P_FIELDS : P_FIELDS - 1) * sizeof head[0]);
    put(k, s->tokens, (size_t)k->length * sizeof *s->tokens);

    const float none = NAN;                         /* a session without logits says so */
    const float *logits = ds4_session_logits(s);
    if (logits) put(k, logits, (size_t)c->n_vocab * sizeof(float));
    else for (int i = 0; i < c->n_vocab; i++) put(k, &none, sizeof none);

    for (int index = 0; index < 2; index++)
        for (int l = 0; l < c->n_layer; l++) {
            const uint32_t n = row_count(c, l, index, k->length);
            put(k, &n, sizeof n);
        }
}

/* Of a compressor's kept tokens those that there are: kept token *i and the next n-1 at positions pos and on. */
static int frontier_run(int ratio, int length, int *i, int *pos)
{
    const int kept = config_kept_tokens(ratio);
    int n = 0;
    *i = *pos = 0;
    for (int j = 0; j < kept; j++) {
        const int at = frontier_pos(ratio, length, j);
        if (at < 0) continue;
        if (n++ == 0) *i = j, *pos = at;
    }
    return n;
}

static void put_frontier(kvc *k, kv_move *m, int layer, bool index, bool score)
{
    const int ratio = k->s->engine->config.ratio[layer], kept = config_kept_tokens(ratio);
    const size_t row = frontier_bytes(&k->s->engine->config, layer, index) / 2 / (size_t)kept;
    int first, pos;
    const int n = frontier_run(ratio, k->length, &first, &pos);
    const float none = score ? -INFINITY : 0.0f;
    kv_move_frontier(m, layer, index, score, pos, n, k->at + (size_t)first * row);
    for (int i = 0; i < kept; i++, k->at += row)
        for (size_t j = 0; j < row && (i < first || i >= first + n); j += 4) memcpy(k->at + j, &none, sizeof none);
}

static void put_layer(kvc *k, kv_move *m, int layer)
{
    const model_config *c = &k->s->engine->config;
    const int n = min_int(k->length, c->n_swa);
    kv_move_ring(m, layer, k->length - n, n, k->at);
    k->at += (size_t)n * file_row_bytes(c, k->element, false);
    for (int index = 0; index < 2; index++)
        for (int score = 0; score < 2 && frontier_bytes(c, layer, index) > 0; score++) put_frontier(k, m, layer, index, score);
}

static void fill_header(kvc *k, const kvc_about *a)
{
    const ds4_engine *e = k->s->engine;
    const uint64_t now = clock_unix_seconds();
    uint8_t *h = k->header;
    memcpy(h, "KVC\1", 4);
    h[4] = (uint8_t)e->shape.expert_bits;
    h[5] = (uint8_t)a->reason;
    h[6] = (uint8_t)(KVC_INTEGRITY | a->flags | (k->map_bytes ? KVC_TOOL_MAP : 0));
    put_u32(h + 8, (uint32_t)k->length);
    put_u32(h + 16, (uint32_t)k->s->kv->capacity);
    put_u64(h + 24, now);
    put_u64(h + 32, now);
    put_u64(h + 40, payload_bytes(&e->config, k->length, k->element));
}

static ds4_status fill(kvc *k, const kvc_about *a, slice text, ds4_error *err)
{
    const model_config *c = &k->s->engine->config;
    if (text.len > MAX_TEXT_BYTES || a->tool_map.len > MAX_MAP_BYTES)
        return ds4_fail(err, DS4_EFULL, "a checkpoint's text of %zu and tool map of %zu bytes are too long", text.len, a->tool_map.len);
    k->map_bytes = a->tool_map.len;
    k->part_bytes = 4 + text.len + (size_t)(payload_bytes(c, k->length, k->element) - growing_bytes(c, k->length, k->element)) + k->map_bytes;
    k->part = malloc(k->part_bytes);
    if (!k->part) return ds4_fail(err, DS4_EMEMORY, "no memory to save %d tokens: %zu bytes are copied", k->length, k->part_bytes);

    const uint32_t text_bytes = (uint32_t)text.len;
    k->at = k->part;
    fill_header(k, a);
    put(k, &text_bytes, sizeof text_bytes);
    put(k, text.data, text.len);
    put_head(k);
    k->head_bytes = (size_t)(k->at - k->part);
    kv_move m = { .k = k->s->kv };
    for (int l = 0; l < c->n_layer; l++) put_layer(k, &m, l);
    put(k, a->tool_map.data, a->tool_map.len);
    return kv_move_run(&m, err);
}

ds4_status kvc_take(kvc **out, const ds4_session *s, const kvc_about *a, ds4_error *err)
{
    *out = NULL;
    kvc *k = calloc(1, sizeof *k);
    if (!k) return ds4_fail(err, DS4_EMEMORY, "no memory to save a session");
    k->s = s;
    k->length = s->kv->length;
    k->element = kv_is_packed(s->kv) ? ELEMENT_PACKED : ELEMENT_F32;

    bytes own;
    bytes_init(&own, MAX_TEXT_BYTES);
    ds4_status st = DS4_OK;
    if (!a->text.data) st = tokenizer_decode(s->engine->vocab, s->tokens, (size_t)k->length, true, &own, err);
    if (!st) st = fill(k, a, a->text.data ? a->text : (slice){ own.data, own.len }, err);
    bytes_free(&own);
    if (st) kvc_free(k);
    else *out = k;
    return st;
}

void kvc_free(kvc *c)
{
    if (!c) return;
    free(c->part);
    free(c);
}

uint64_t kvc_bytes(const kvc *c)
{
    const uint64_t checked = c->part_bytes + growing_bytes(&c->s->engine->config, c->length, c->element);
    return HEADER_BYTES + checked + kvc_trailer_bytes(checked);
}

static void write_rows(block_stream *io, const kvc *k, int layer, bool index, uint8_t *rows)
{
    const model_config *c = &k->s->engine->config;
    const int n = (int)row_count(c, layer, index, k->length);
    kv_move m = { .k = k->s->kv };
    for (int r = 0, count; r < n && !io->st; r += count) {
        count = min_int(n - r, ROWS_AT_ONCE);
        kv_move_compressed(&m, layer, index, r, count, rows);
        io->st = kv_move_run(&m, io->err);
        stream_write(io, rows, (size_t)count * file_row_bytes(c, k->element, index));
    }
}

static void write_layers(block_stream *io, const kvc *k, uint8_t *rows)
{
    const model_config *c = &k->s->engine->config;
    const uint8_t *at = k->part + k->head_bytes;
    for (int l = 0; l < c->n_layer && !io->st; l++) {
        const size_t ring = (size_t)min_int(k->length, c->n_swa) * file_row_bytes(c, k->element, false);
        stream_write(io, at, ring);
        at += ring;
        for (int index = 0; index < 2; index++) {
            write_rows(io, k, l, index, rows);
            stream_write(io, at, frontier_bytes(c, l, index));
            at += frontier_bytes(c, l, index);
        }
    }
    stream_write(io, at, k->map_bytes);
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

ds4_status kvc_write(const kvc *k, int fd, ds4_error *err)
{
    block_stream io;
    ds4_status st = stream_start(&io, fd, err);
    if (st) return st;
    uint8_t *rows = malloc(ROWS_AT_ONCE * row_buffer_bytes(&k->s->engine->config));
    if (!rows) stream_fail(&io, DS4_EMEMORY, "no memory to write a checkpoint");
    if (!io.st) io.st = file_write_all(fd, k->header, sizeof k->header, "checkpoint", err);
    stream_write(&io, k->part, k->head_bytes);
    if (!io.st) write_layers(&io, k, rows);
    if (!io.st) write_trailer(&io, k->header);
    st = io.st;
    free(rows);
    stream_end(&io);
    return st;
}

ds4_status ds4_session_save(const ds4_session *s, int fd, int reason, ds4_error *err)
{
    kvc *k = NULL;
    const kvc_about a = { .reason = reason };
    ds4_status st = kvc_take(&k, s, &a, err);
    if (!st) st = kvc_write(k, fd, err);
    kvc_free(k);
    return st;
}

/* ---- load ---------------------------------------------------------------------------------- */

typedef struct {
    ds4_session *s;
    block_stream io;
    int          length;        /* tokens of the checkpoint */
    element_type element;       /* of rows in the file      */
    uint8_t     *rows;          /* [ROWS_AT_ONCE] as the session stores them, or a frontier's */
    uint8_t     *file_row;      /* as in the file           */
    float       *numbers;       /* of a row                 */
} transfer;

static bool transfer_open(transfer *t)
{
    const model_config *c = &t->s->engine->config;
    t->rows = malloc(ROWS_AT_ONCE * row_buffer_bytes(c));
    t->file_row = malloc(row_buffer_bytes(c));
    t->numbers = malloc(row_buffer_bytes(c));
    if (t->rows && t->file_row && t->numbers) return true;
    stream_fail(&t->io, DS4_EMEMORY, "no memory to load a checkpoint");
    return false;
}

static void transfer_close(transfer *t)
{
    stream_end(&t->io);
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
    stream_read(&t->io, t->file_row, file_row_bytes(c, t->element, index));
    if (t->io.st) return;
    if (t->element == ELEMENT_F16) quant_get(QUANT_F16)->to_float(t->numbers, t->file_row, own.width);
    else kv_row_unpack(kv_row_format(c, t->element == ELEMENT_PACKED, index), t->numbers, t->file_row);

    for (int i = 0; i < own.width; i++)
        if (!isfinite(t->numbers[i])) {
            stream_fail(&t->io, DS4_EFORMAT, "checkpoint: a row holds something that is not a number");
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
    const size_t size = frontier_bytes(&t->s->engine->config, layer, index) / 2, row = size / (size_t)kept;
    int first, pos;
    const int n = frontier_run(ratio, t->length, &first, &pos);
    kv_move m = { .k = t->s->kv, .writes = true };
    stream_read(&t->io, t->rows, size);
    if (t->io.st) return;
    kv_move_frontier(&m, layer, index, score, pos, n, t->rows + (size_t)first * row);
    move_rows(t, &m);
}

static void read_compressed(transfer *t, int layer, bool index)
{
    const int n = (int)row_count(&t->s->engine->config, layer, index, t->length);
    kv_move m = { .k = t->s->kv, .writes = true };
    for (int r = 0, count; r < n && !t->io.st; r += count) {
        count = min_int(n - r, ROWS_AT_ONCE);
        rows_from_file(t, index, count);
        if (t->io.st) return;
        kv_move_compressed(&m, layer, index, r, count, t->rows);
        move_rows(t, &m);
    }
    if (frontier_bytes(&t->s->engine->config, layer, index) == 0) return;
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
    session_drop_logits(s);
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
            const uint32_t want = row_count(c, l, index, t->length);
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
        stream_read(&t->io, piece, take);
        if (out && !t->io.st && !bytes_append(out, piece, take)) stream_fail(&t->io, DS4_EMEMORY, "no memory for a checkpoint's tool map");
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
    if (!st) st = stream_start(&t.io, fd, err);
    if (st) return st;

    /* The checked part begins with the text's length, which was needed to know its end. */
    uint64_t total = 0, map_bytes = 0;
    if (!checked_add_u64(4ull + get_u32(text), get_u64(header + 40), &total)) stream_fail(&t.io, DS4_EFORMAT, "checkpoint: the payload size is absurd");
    if (!t.io.st) t.io.st = map_bytes_of(fd, header, total, &map_bytes, err);
    if (!t.io.st && !checked_add_u64(total, map_bytes, &total)) stream_fail(&t.io, DS4_EFORMAT, "checkpoint: the payload size is absurd");
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
