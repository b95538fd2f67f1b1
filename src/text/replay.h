/* replay: tool calls as the model spelled them, found again by call id.
 *
 * The model's own bytes of a tool block are seldom the canonical ones. When a client
 * sends the turn back, its call ids lead to the bytes that were sampled, so that the
 * new prompt continues what the KV holds (docs/answers.md, Replay). Ids are
 * 128 random bits, so knowing one proves having seen the turn.
 *
 * Owns records, least recently used first to go, bounded in ids and bytes. Any thread:
 * one lock inside. A record that was found is held until it is released. */
#ifndef TEXT_REPLAY_H
#define TEXT_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"

typedef struct replay_memory replay_memory;

/* One assistant turn with calls. Immutable. */
typedef struct {
    slice        block;                 /* separator and DSML block as sampled                   */
    bool         reasoning_closed;      /* </think> was sampled or forced before it              */
    const slice *ids;                   /* [n_calls] in call order                               */
    const slice *names, *arguments;     /* [n_calls] as the client got them                      */
    int          n_calls;
} replay_record;

ds4_status replay_open(replay_memory **out, int max_ids, size_t max_bytes, ds4_error *err);
void       replay_close(replay_memory *m);

/* Copies; the ids of one record share it. A known id is replaced. DS4_EARG: no ids
 * or no block; DS4_EFULL: larger than the whole memory. */
ds4_status replay_add(replay_memory *m, const replay_record *r, ds4_error *err);

/* NULL: unknown. Release with replay_release. */
const replay_record *replay_find(replay_memory *m, slice id);
void                 replay_release(replay_memory *m, const replay_record *r);
size_t               replay_ids(replay_memory *m);

/* The section of a checkpoint (docs/formats.md 2.3): the records whose block occurs in `text`, oldest
 * first. Nothing is appended when there are none. Little-endian:
 *
 *   "KTM" | version u8 = 2 | entries u32
 *   an entry per id, those of a record in call order:
 *     id length u32 | block length u32 | flags u8 (bit 0: reasoning closed; not in version 1) | id | block */
ds4_status replay_section_write(replay_memory *m, slice text, bytes *out, ds4_error *err);
/* Adds the section's records that are not known (versions 1 and 2). Names and arguments are read from the
 * block again, without the schemas that were offered then. Hostile bytes are DS4_EFORMAT and add nothing. */
ds4_status replay_section_read(replay_memory *m, slice section, ds4_error *err);

#endif
