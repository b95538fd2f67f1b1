/* shard: one GGUF file, checked. Private to src/gguf. */
#ifndef GGUF_SHARD_H
#define GGUF_SHARD_H

#include "base/file.h"
#include "gguf/gguf.h"

enum {
    GGUF_MAX_KEYS      = 65536,
    GGUF_MAX_TENSORS   = 1000000,
    GGUF_MAX_KEY_BYTES = 65535,
    GGUF_MAX_NAME      = 63,            /* bytes of a tensor's name                  */
    GGUF_MAX_STRING    = 64 << 20,      /* bytes                                     */
    GGUF_MAX_ELEMENTS  = 1 << 24,       /* of an array of strings, or that is used   */
    GGUF_MAX_SHARDS    = 999,
    GGUF_ALIGNMENT     = 32,            /* where the file does not say               */
    GGUF_MIN_ALIGNMENT = 8,
    GGUF_MAX_ALIGNMENT = 65536
};

#define GGUF_ALIASED_KEY "ds4.aliased_tensors"

typedef struct {
    file_map       map;             /* closed for a file in memory                   */
    char          *path;            /* owned                                         */
    char           label[96];       /* the path or its end, for messages             */
    const uint8_t *data;
    uint64_t       size;

    gguf_value    *values;          /* owned                                         */
    int            n_values;
    gguf_tensor   *tensors;         /* owned; data set by shard_place                */
    int            n_tensors;
    char          *names;           /* owned; [n_tensors][GGUF_MAX_NAME + 1]         */
    uint32_t       alignment;
    uint64_t       data_start;      /* from the start of the file                    */
    uint64_t       tensor_bytes;    /* each shared byte counted once                 */
    bool           aliased;         /* tensors that share their bytes were met       */
} shard;

ds4_status shard_set_path(shard *s, const char *path, ds4_error *err);
void       shard_close(shard *s);   /* also a zeroed or half-built one */

/* Header, keys and tensor descriptions of data[0..size). */
ds4_status shard_parse(shard *s, ds4_error *err);

/* The data section: alignment, range, overlap, order. */
ds4_status shard_place(shard *s, bool aliases_allowed, const gguf_options *options, ds4_error *err);

const gguf_value *shard_find(const shard *s, const char *key);      /* NULL: none */

/* ---- values ----------------------------------------------------------- */

/* Bytes of a number or bool; 0 for strings and arrays. */
int         gguf_kind_bytes(gguf_kind kind);
const char *gguf_kind_name(gguf_kind kind);
bool        gguf_value_int(const gguf_value *v, int64_t *out);  /* any integer kind that fits */

static inline uint32_t gguf_load_u32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t gguf_load_u64(const uint8_t *p)
{
    return gguf_load_u32(p) | (uint64_t)gguf_load_u32(p + 4) << 32;
}

/* What a key may be, and a tensor's name: for reader and writer. */
bool gguf_key_valid(slice key);
bool gguf_name_valid(slice name);

/* Bytes of a tensor; false with the reason when its shape is not possible. */
bool gguf_shape_bytes(quant_type type, int n_dims, const uint64_t *ne, uint64_t *bytes,
                      const char **why);

#endif
