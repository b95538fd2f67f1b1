/* safetensors: one file of named arrays, mapped read-only.
 *
 *   u64 n | n bytes of JSON | data
 *   {"name": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [begin, end]},
 *    ..., "__metadata__": {...}}             offsets count from the start of data
 *
 * The header is hostile until proven: sizes, products and offsets are checked
 * against the file, names and ranges may not repeat, and the ranges must cover
 * the data exactly. After opening every array is safe to touch (unaligned).
 * Immutable once open, so any thread may read it. */
#ifndef FACTORY_SAFETENSORS_H
#define FACTORY_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/file.h"
#include "ds4_status.h"

typedef enum {
    STORED_F64, STORED_F32, STORED_F16, STORED_BF16, STORED_F8_E4M3, STORED_F8_E5M2, STORED_F8_E8M0,
    STORED_I64, STORED_I32, STORED_I16, STORED_I8, STORED_U64, STORED_U32, STORED_U16, STORED_U8,
    STORED_BOOL, STORED_COUNT
} stored_type;

const char *stored_type_name(stored_type t);        /* "F8_E4M3" */

#define STORED_MAX_DIMS 8

typedef struct {
    const char    *name;            /* owned by the file's object            */
    const char    *path;            /* of the file, for messages             */
    stored_type    type;
    int            n_dims;          /* 0 for a scalar                        */
    uint64_t       dims[STORED_MAX_DIMS];   /* slowest first, as written     */
    const uint8_t *data;            /* into the mapping, not aligned         */
    uint64_t       bytes;
    bool           mapped;          /* from a file, not from a caller's memory */
} stored_tensor;

typedef struct {
    file_map       map;             /* closed with the object                */
    char          *path;
    char          *names;           /* of all tensors, each with its NUL     */
    stored_tensor *items;           /* [n] sorted by name                    */
    int            n;
} safetensors;

ds4_status safetensors_open(safetensors *s, const char *path, ds4_error *err);
/* The same over bytes that outlive the object (tests, fuzzing). */
ds4_status safetensors_open_memory(safetensors *s, const void *data, size_t n, const char *name, ds4_error *err);
void       safetensors_close(safetensors *s);       /* zeroed and half-built ones too */

/* "[2048, 4096]" for messages. */
void stored_shape_text(const stored_tensor *t, char *out, size_t size);

/* Lets the system drop the pages under bytes [first, first + n) that have been
 * read; they come back from the file when they are read again. */
void stored_release(const stored_tensor *t, uint64_t first, uint64_t n);

#endif
