/* checkpoint: a session as bytes, the KVC file of docs/formats.md: what saving and loading share.
 * Private to checkpoint*.c.
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
#ifndef ENGINE_CHECKPOINT_H
#define ENGINE_CHECKPOINT_H

#include <string.h>

#include "engine/engine.h"
#include "engine/kvc.h"

#define HEADER_BYTES    48
#define TRAILER_BLOCK   KVC_TRAILER_BLOCK
#define PAYLOAD_MAGIC   0x34565344u     /* "DSV4" */
#define ROWS_AT_ONCE    512             /* between the session and a buffer; no frontier is longer */
#define MAX_MAP_BYTES   (1u << 28)

typedef enum { ELEMENT_F32 = 0, ELEMENT_F16 = 1, ELEMENT_PACKED = 3 } kvc_element;

/* Header fields of the payload, in order. */
enum {
    P_MAGIC, P_VERSION, P_CONTEXT, P_CHUNK, P_RING, P_WINDOW, P_COMPRESSED, P_TOKENS,
    P_LAYERS, P_WIDTH, P_INDEX_WIDTH, P_VOCAB, P_LIVE, P_ELEMENT, P_FIELDS
};

static inline void put_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void put_u64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }
static inline uint32_t get_u32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t get_u64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }

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
} kvc_stream;

ds4_status kvc_stream_start(kvc_stream *s, int fd, ds4_error *err);
void       kvc_stream_end(kvc_stream *s);        /* frees; writes nothing */
void       kvc_stream_fail(kvc_stream *s, ds4_status st, const char *text);
void       kvc_stream_write(kvc_stream *s, const void *data, size_t n);
void       kvc_stream_flush(kvc_stream *s);        /* writes what is left   */
void       kvc_stream_read(kvc_stream *s, void *data, size_t n);
/* Keeps the checksum of what stands in the buffer. */
void       kvc_stream_sum(kvc_stream *s);

/* ---- sizes --------------------------------------------------------------------------------- */

/* Of a compressor's kept tokens those that there are: kept token *i and the next n-1 at positions pos and on. */
int      kvc_frontier_run(int ratio, int length, int *i, int *pos);
/* Bytes of one row in a file. */
size_t   kvc_file_row_bytes(const model_config *c, kvc_element e, bool index);
/* Room for one row: packing pads the narrowest ones. */
size_t   kvc_row_room(const model_config *c);
/* Compressed rows of a layer, or of its indexer. */
uint32_t kvc_row_count(const model_config *c, int layer, bool index, int length);
/* Values and scores of a layer's compressor, or of its indexer's. */
size_t   kvc_frontier_bytes(const model_config *c, int layer, bool index);
/* Of the payload for n tokens, the compressed rows, all else, and the whole. */
uint64_t kvc_growing_bytes(const model_config *c, int n, kvc_element element);
uint64_t kvc_fixed_bytes(const model_config *c, int n, kvc_element element);
uint64_t kvc_payload_bytes(const model_config *c, int n, kvc_element element);
uint32_t kvc_header_crc(const uint8_t *h);

#endif
