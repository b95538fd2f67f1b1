/* checkpoint: the stream of a KVC file with its checksums, and the sizes of its parts. */
#include "engine/checkpoint.h"

#include <stdlib.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/file.h"
#include "base/status.h"

/* ---- a stream with block checksums ------------------------------------------------------- */

void kvc_stream_fail(kvc_stream *s, ds4_status st, const char *text)
{
    if (!s->st) s->st = ds4_fail(s->err, st, "%s", text);
}

void kvc_stream_sum(kvc_stream *s)
{
    if (s->n_crc == s->cap_crc) {
        const size_t cap = s->cap_crc ? 2 * s->cap_crc : 64;
        uint32_t *more = realloc(s->crc, cap * sizeof *more);
        if (!more) {
            kvc_stream_fail(s, DS4_EMEMORY, "no memory for checkpoint checksums");
            return;
        }
        s->crc = more;
        s->cap_crc = cap;
    }
    s->crc[s->n_crc++] = crc32c(0, s->buffer, s->fill);
}

void kvc_stream_flush(kvc_stream *s)
{
    if (s->st || s->fill == 0) return;
    kvc_stream_sum(s);
    if (!s->st) s->st = file_write_all(s->fd, s->buffer, s->fill, "checkpoint", s->err);
    s->fill = 0;
}

static void next_block(kvc_stream *s)
{
    const size_t n = (size_t)(s->left < TRAILER_BLOCK ? s->left : TRAILER_BLOCK);
    if (n == 0) {
        kvc_stream_fail(s, DS4_EFORMAT, "checkpoint: sections are longer than the file says");
        return;
    }
    s->st = file_read_exact(s->fd, s->buffer, n, "checkpoint", s->err);
    if (s->st) return;
    s->left -= n;
    s->fill = n;
    s->at = 0;
    kvc_stream_sum(s);
}

void kvc_stream_write(kvc_stream *s, const void *data, size_t n)
{
    const uint8_t *p = data;
    while (n > 0 && !s->st) {
        const size_t take = min_size(n, TRAILER_BLOCK - s->fill);
        memcpy(s->buffer + s->fill, p, take);
        s->fill += take;
        p += take;
        n -= take;
        if (s->fill == TRAILER_BLOCK) kvc_stream_flush(s);
    }
}

void kvc_stream_read(kvc_stream *s, void *data, size_t n)
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

ds4_status kvc_stream_start(kvc_stream *s, int fd, ds4_error *err)
{
    *s = (kvc_stream){ .fd = fd, .err = err, .buffer = malloc(TRAILER_BLOCK) };
    return s->buffer ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "no memory to stream a checkpoint");
}

void kvc_stream_end(kvc_stream *s)
{
    free(s->buffer);
    free(s->crc);
}
/* ---- sizes --------------------------------------------------------------------------------- */

/* The position that row i of a frontier stands for, -1 when that token has not come.
 * With overlap rows 0..3 are the previous block and 4..7 the current one. */
static int frontier_pos(int ratio, int length, int i)
{
    const int block = length / ratio, kept = config_kept_tokens(ratio);
    const int pos = (block - (kept / ratio - 1)) * ratio + i;
    return pos >= 0 && pos < length ? pos : -1;
}

int kvc_frontier_run(int ratio, int length, int *i, int *pos)
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

size_t kvc_file_row_bytes(const model_config *c, kvc_element e, bool index)
{
    if (e == ELEMENT_PACKED) return (size_t)kv_row_bytes(kv_row_format(c, true, index));
    return (size_t)(index ? c->index_dim : c->head_dim) * (e == ELEMENT_F16 ? 2 : 4);
}

size_t kvc_row_room(const model_config *c) { return (size_t)max_int(c->head_dim, c->index_dim) * 4 + 16; }

uint32_t kvc_row_count(const model_config *c, int layer, bool index, int length)
{
    const int ratio = c->ratio[layer];
    return ratio == 0 || (index && ratio != 4) ? 0 : (uint32_t)(length / ratio);
}

size_t kvc_frontier_bytes(const model_config *c, int layer, bool index)
{
    const int ratio = c->ratio[layer], width = index ? c->index_dim : c->head_dim;
    if (ratio == 0 || (index && ratio != 4)) return 0;
    return 2u * (size_t)config_kept_tokens(ratio) * (size_t)(config_series(ratio) * width) * sizeof(float);
}

uint64_t kvc_fixed_bytes(const model_config *c, int n, kvc_element element)
{
    const uint64_t fields = element == ELEMENT_F32 ? P_FIELDS - 1 : P_FIELDS, ring = (uint64_t)min_int(n, c->n_swa);
    uint64_t sum = 4 * fields + 4ull * (uint64_t)n + 4ull * (uint64_t)c->n_vocab + 8ull * (uint64_t)c->n_layer;
    for (int l = 0; l < c->n_layer; l++) {
        sum += ring * kvc_file_row_bytes(c, element, false);
        for (int index = 0; index < 2; index++) sum += kvc_frontier_bytes(c, l, index);
    }
    return sum;
}

uint64_t kvc_growing_bytes(const model_config *c, int n, kvc_element element)
{
    uint64_t sum = 0;
    for (int l = 0; l < c->n_layer; l++)
        for (int index = 0; index < 2; index++)
            sum += (uint64_t)kvc_row_count(c, l, index, n) * kvc_file_row_bytes(c, element, index);
    return sum;
}

uint64_t kvc_payload_bytes(const model_config *c, int n, kvc_element element)
{
    return kvc_fixed_bytes(c, n, element) + kvc_growing_bytes(c, n, element);
}

uint64_t kvc_constant_bytes(const ds4_engine *e, int tokens)
{
    const kvc_element element = e->o.kv_type == DS4_KV_PACKED && !e->o.no_rounding ? ELEMENT_PACKED : ELEMENT_F32;
    return kvc_fixed_bytes(&e->config, tokens, element) - 4ull * (uint64_t)tokens;
}

uint32_t kvc_header_crc(const uint8_t *h)
{
    uint32_t crc = crc32c(0, h, 12);
    crc = crc32c(crc, h + 16, 16);
    return crc32c(crc, h + 40, 8);
}
