/* checkpoint_save: a session written as a KVC file. */
#include "engine/checkpoint.h"

#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "text/tokenizer.h"

#define MAX_TEXT_BYTES (1u << 30)

/* Everything but the rows that only grow stands in `part`, in the order of the file: text, payload head, and per
 * layer ring rows and frontiers; then the tool map. */
struct kvc {
    const ds4_session *s;       /* borrowed, for its growing rows */
    int                length;
    kvc_element        element;
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
            const uint32_t n = kvc_row_count(c, l, index, k->length);
            put(k, &n, sizeof n);
        }
}

static void put_frontier(kvc *k, kv_move *m, int layer, bool index, bool score)
{
    const int ratio = k->s->engine->config.ratio[layer], kept = config_kept_tokens(ratio);
    const size_t row = kvc_frontier_bytes(&k->s->engine->config, layer, index) / 2 / (size_t)kept;
    int first, pos;
    const int n = kvc_frontier_run(ratio, k->length, &first, &pos);
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
    k->at += (size_t)n * kvc_file_row_bytes(c, k->element, false);
    for (int index = 0; index < 2; index++)
        for (int score = 0; score < 2 && kvc_frontier_bytes(c, layer, index) > 0; score++)
            put_frontier(k, m, layer, index, score);
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
    put_u64(h + 40, kvc_payload_bytes(&e->config, k->length, k->element));
}

static ds4_status fill(kvc *k, const kvc_about *a, slice text, ds4_error *err)
{
    const model_config *c = &k->s->engine->config;
    if (text.len > MAX_TEXT_BYTES || a->tool_map.len > MAX_MAP_BYTES)
        return ds4_fail(err, DS4_EFULL, "a checkpoint's text of %zu and tool map of %zu bytes are too long", text.len,
                        a->tool_map.len);
    k->map_bytes = a->tool_map.len;
    k->part_bytes = 4 + text.len + (size_t)kvc_fixed_bytes(c, k->length, k->element) + k->map_bytes;
    k->part = malloc(k->part_bytes);
    if (!k->part)
        return ds4_fail(err, DS4_EMEMORY, "no memory to save %d tokens: %zu bytes are copied", k->length,
                        k->part_bytes);

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
    const uint64_t checked = c->part_bytes + kvc_growing_bytes(&c->s->engine->config, c->length, c->element);
    return HEADER_BYTES + checked + kvc_trailer_bytes(checked);
}

static void write_rows(kvc_stream *io, const kvc *k, int layer, bool index, uint8_t *rows)
{
    const model_config *c = &k->s->engine->config;
    const int n = (int)kvc_row_count(c, layer, index, k->length);
    kv_move m = { .k = k->s->kv };
    for (int r = 0, count; r < n && !io->st; r += count) {
        count = min_int(n - r, ROWS_AT_ONCE);
        kv_move_compressed(&m, layer, index, r, count, rows);
        io->st = kv_move_run(&m, io->err);
        kvc_stream_write(io, rows, (size_t)count * kvc_file_row_bytes(c, k->element, index));
    }
}

static void write_layers(kvc_stream *io, const kvc *k, uint8_t *rows)
{
    const model_config *c = &k->s->engine->config;
    const uint8_t *at = k->part + k->head_bytes;
    for (int l = 0; l < c->n_layer && !io->st; l++) {
        const size_t ring = (size_t)min_int(k->length, c->n_swa) * kvc_file_row_bytes(c, k->element, false);
        kvc_stream_write(io, at, ring);
        at += ring;
        for (int index = 0; index < 2; index++) {
            write_rows(io, k, l, index, rows);
            kvc_stream_write(io, at, kvc_frontier_bytes(c, l, index));
            at += kvc_frontier_bytes(c, l, index);
        }
    }
    kvc_stream_write(io, at, k->map_bytes);
}

static void write_trailer(kvc_stream *s, const uint8_t *header)
{
    uint8_t head[12] = { 'K', 'I', 'C', 1 };
    kvc_stream_flush(s);
    put_u32(head + 4, TRAILER_BLOCK);
    put_u32(head + 8, (uint32_t)s->n_crc);
    const uint32_t crc = kvc_header_crc(header);
    if (!s->st) s->st = file_write_all(s->fd, head, sizeof head, "checkpoint", s->err);
    if (!s->st && s->n_crc > 0) s->st = file_write_all(s->fd, s->crc, s->n_crc * sizeof *s->crc, "checkpoint", s->err);
    if (!s->st) s->st = file_write_all(s->fd, &crc, sizeof crc, "checkpoint", s->err);
}

ds4_status kvc_write(const kvc *k, int fd, ds4_error *err)
{
    kvc_stream io;
    ds4_status st = kvc_stream_start(&io, fd, err);
    if (st) return st;
    uint8_t *rows = malloc(ROWS_AT_ONCE * kvc_row_room(&k->s->engine->config));
    if (!rows) kvc_stream_fail(&io, DS4_EMEMORY, "no memory to write a checkpoint");
    if (!io.st) io.st = file_write_all(fd, k->header, sizeof k->header, "checkpoint", err);
    kvc_stream_write(&io, k->part, k->head_bytes);
    if (!io.st) write_layers(&io, k, rows);
    if (!io.st) write_trailer(&io, k->header);
    st = io.st;
    free(rows);
    kvc_stream_end(&io);
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
