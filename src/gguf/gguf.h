/* gguf: reading model files by mapping, writing them in one pass.
 *
 * Every offset, count and product is checked before it is believed; after
 * gguf_open a tensor's data is safe to touch. Split files are opened as one,
 * whichever shard is named; keys are those of the first shard. Knows names,
 * types and bytes, and no meaning. A reader is immutable once open, so any
 * thread may use it; a writer belongs to one thread. */
#ifndef GGUF_GGUF_H
#define GGUF_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/slice.h"
#include "ds4_status.h"
#include "quant/quant.h"

typedef struct gguf gguf;

typedef enum {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32,
    GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64
} gguf_kind;

/* A value inside the mapping; good until gguf_close. Strings under general. and
 * tokenizer. are valid UTF-8 as soon as the file is open. */
typedef struct {
    slice          key;
    gguf_kind      kind;
    gguf_kind      element;     /* GGUF_ARRAY: kind of its elements, never an array */
    uint64_t       count;       /* GGUF_ARRAY: elements; else 1                     */
    const uint8_t *data;        /* payload, unaligned; a string begins with its u64 length */
    uint64_t       bytes;       /* payload bytes                                    */
} gguf_value;

typedef struct {
    const char    *name;        /* NUL-terminated, owned by the reader      */
    quant_type     type;
    int            n_dims;      /* 1..4                                     */
    uint64_t       ne[4];       /* ne[0] is the row; missing dimensions 1   */
    const uint8_t *data;        /* into the mapping, aligned as the file says (32) */
    uint64_t       bytes;
    uint64_t       offset;      /* from the start of its file               */
    int            shard;       /* 0 for a file that is not split           */
} gguf_tensor;

typedef struct {
    bool strict;                /* refuse gaps and disorder instead of warning */
    void (*warn)(void *ctx, const char *line);  /* may be NULL */
    void *warn_ctx;
} gguf_options;

/* options may be NULL. DS4_ENOTFOUND names the file or shard that is missing,
 * DS4_EFORMAT the byte and the field; DS4_EUNSUPPORTED: version 1, big-endian. */
ds4_status gguf_open(gguf **out, const char *path, const gguf_options *options, ds4_error *err);
/* Reads a file held in memory (tests, fuzzing). The bytes must outlive the reader. */
ds4_status gguf_open_memory(gguf **out, const void *data, size_t n, const gguf_options *options, ds4_error *err);
void       gguf_close(gguf *g);

int                 gguf_n_tensors(const gguf *g);
const gguf_tensor  *gguf_tensor_at(const gguf *g, int i);              /* file order     */
const gguf_tensor  *gguf_find_tensor(const gguf *g, const char *name); /* NULL: none     */
int                 gguf_n_values(const gguf *g);
const gguf_value   *gguf_value_at(const gguf *g, int i);
const gguf_value   *gguf_find(const gguf *g, const char *key);         /* NULL: none     */

int                 gguf_n_shards(const gguf *g);
const char         *gguf_shard_path(const gguf *g, int shard);
uint64_t            gguf_file_bytes(const gguf *g);    /* all shards                     */
uint64_t            gguf_tensor_bytes(const gguf *g);  /* each shared byte counted once  */
bool                gguf_aliased(const gguf *g);       /* tensors share data on purpose  */
/* The mapping of a shard, for residency hints. */
const uint8_t      *gguf_mapping(const gguf *g, int shard, uint64_t *bytes);
/* Of the file that is mapped, for reading beside the mapping; -1 for a file in memory. */
int                 gguf_descriptor(const gguf *g, int shard);

/* Typed reading. A missing key is DS4_ENOTFOUND; a key of the wrong kind or out
 * of range is DS4_EFORMAT with a sentence that names key, kind and expectation.
 * Integers are read from any integer kind, floats from any number. Floats must
 * be finite. A string's slice points into the mapping and is valid UTF-8. */
ds4_status gguf_get_int(const gguf *g, const char *key, int64_t lo, int64_t hi, int64_t *out, ds4_error *err);
ds4_status gguf_get_float(const gguf *g, const char *key, double *out, ds4_error *err);
ds4_status gguf_get_bool(const gguf *g, const char *key, bool *out, ds4_error *err);
ds4_status gguf_get_string(const gguf *g, const char *key, slice *out, ds4_error *err);

/* Arrays: v->count elements, at most 2^24, read one by one; false: past the end,
 * or not of the kind (integers or floats are liberal as above). */
ds4_status gguf_get_array(const gguf *g, const char *key, const gguf_value **out, ds4_error *err);
bool       gguf_array_int(const gguf_value *v, uint64_t i, int64_t *out);
bool       gguf_array_float(const gguf_value *v, uint64_t i, double *out);
/* Strings have no index: walk them with a cursor that starts at 0. False: no
 * more, no string array, or an element that is not valid UTF-8. */
bool       gguf_array_string(const gguf_value *v, uint64_t *cursor, slice *out);

/* ---- writing ---------------------------------------------------------- */

/* Order of use: open, every key, every tensor's description, then begin_data,
 * then the data of each tensor in the order described, then commit. The file
 * appears under its name only when complete (base/file.h). */
typedef struct gguf_writer gguf_writer;

ds4_status gguf_writer_open(gguf_writer **out, const char *path, bool overwrite, ds4_error *err);
void       gguf_writer_abort(gguf_writer *w);      /* NULL-safe; removes what was written */

/* An error in any of these is kept and returned by gguf_writer_begin_data:
 * DS4_EARG for bad or repeated names and impossible shapes. Put
 * general.architecture first, readers expect it there. general.alignment sets
 * the alignment of the data. */
void gguf_put_u32(gguf_writer *w, const char *key, uint32_t v);
void gguf_put_u64(gguf_writer *w, const char *key, uint64_t v);
void gguf_put_i32(gguf_writer *w, const char *key, int32_t v);
void gguf_put_u16(gguf_writer *w, const char *key, uint16_t v);
void gguf_put_f32(gguf_writer *w, const char *key, float v);
void gguf_put_bool(gguf_writer *w, const char *key, bool v);
void gguf_put_string(gguf_writer *w, const char *key, const char *data, size_t n);
void gguf_put_i32_array(gguf_writer *w, const char *key, const int32_t *v, uint64_t n);
void gguf_put_f32_array(gguf_writer *w, const char *key, const float *v, uint64_t n);
void gguf_put_string_array(gguf_writer *w, const char *key, const slice *v, uint64_t n);
void gguf_put_value(gguf_writer *w, const gguf_value *v);      /* verbatim copy from a reader */

/* Describes the next tensor. alias_of >= 0: it shares the data of that earlier
 * tensor (same type and shape) and gets no data of its own; the file is then
 * marked with the key ds4.aliased_tensors = true, without which a reader
 * refuses shared bytes. Returns the tensor's number. */
int gguf_put_tensor(gguf_writer *w, const char *name, quant_type type, int n_dims,
                    const uint64_t *ne, int alias_of);

ds4_status gguf_writer_begin_data(gguf_writer *w, ds4_error *err);
/* The next bytes of tensor i; tensors in order, each complete before the next.
 * After an error only gguf_writer_abort is left. */
ds4_status gguf_writer_data(gguf_writer *w, int i, const void *data, size_t n, ds4_error *err);
ds4_status gguf_writer_commit(gguf_writer *w, ds4_error *err);      /* frees w in any case */

#endif
