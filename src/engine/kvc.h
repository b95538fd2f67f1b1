/* kvc: sessions as KVC files (docs/formats.md 2), for those who keep many.
 *
 * Saving has two steps. `take` copies what the next step changes: ring, frontiers, tokens, logits. `write` adds
 * the rows that only grow and may run on another thread while the session is stepped, but not while it is
 * reset, rewound, loaded into or closed. Knows one open file; names and folders belong to kvstore.
 * Reading and taking: engine thread. write, read_header, tool_map, touch: any thread. */
#ifndef ENGINE_KVC_H
#define ENGINE_KVC_H

#include "base/bytes.h"
#include "base/slice.h"
#include "ds4.h"

#define KVC_TOOL_MAP         1  /* flags of a file                  */
#define KVC_VISIBLE          2  /* the text is a visible transcript */
#define KVC_VISIBLE_THINKING 4
#define KVC_INTEGRITY        8

typedef struct kvc kvc;

typedef struct {
    int     reason;             /* 0..6                                       */
    uint8_t flags;              /* KVC_VISIBLE or KVC_VISIBLE_THINKING, or 0  */
    slice   text;               /* data NULL: the tokens' own                 */
    slice   tool_map;           /* a KTM section; empty: none                 */
} kvc_about;

ds4_status kvc_take(kvc **out, const ds4_session *s, const kvc_about *a, ds4_error *err);
uint64_t   kvc_bytes(const kvc *c);     /* that write will write */
ds4_status kvc_write(const kvc *c, int fd, ds4_error *err);
void       kvc_free(kvc *c);            /* NULL is fine          */

/* As ds4_session_load; the file's tool map, if it has one, is appended to `tool_map` (may be NULL). */
ds4_status kvc_load(ds4_session *s, int fd, bytes *tool_map, ds4_error *err);

typedef struct {
    uint8_t  expert_bits, reason, flags;
    uint32_t tokens, hits, context, text_bytes;
    uint64_t created, used;     /* Unix seconds */
    uint64_t payload_bytes, file_bytes;
} kvc_header;

/* The fields in front of a whole regular file, wherever it stands. DS4_EFORMAT: no checkpoint, or its sizes do
 * not add up to the file's. */
ds4_status kvc_read_header(int fd, kvc_header *out, ds4_error *err);
/* Writes the changed statistics (hits, used) in place. */
ds4_status kvc_touch(int fd, const kvc_header *h, ds4_error *err);
/* Appends the tool map alone; reads and verifies only the end of the file. Nothing is appended when there is none. */
ds4_status kvc_tool_map(int fd, bytes *out, ds4_error *err);

/* The integrity trailer of `checked` bytes; and the bytes in front of it, where `rest` is those and the trailer. */
#define KVC_TRAILER_BLOCK (1u << 20)
uint64_t   kvc_trailer_bytes(uint64_t checked);
uint64_t   kvc_checked_bytes(uint64_t rest);    /* 0: no trailer fits */

/* Of a file of so many tokens, the bytes that do not grow with them: ring, frontiers, logits. */
uint64_t   kvc_constant_bytes(const ds4_engine *e, int tokens);

/* What made the rows: weights, roundings, row format. Equal ids: one engine's files are good for the other. */
#define KVC_ID_BYTES 16
ds4_status kvc_engine_id(const ds4_engine *e, uint8_t out[KVC_ID_BYTES], ds4_error *err);

#endif
