/* checkpoint: a released model's folder as one set of named tensors.
 *
 * Opens model.safetensors, or the shards that model.safetensors.index.json
 * names; a name may occur once over all shards and must be where the index
 * says. Immutable once open, so any thread may read it; pages are read on use. */
#ifndef FACTORY_CHECKPOINT_H
#define FACTORY_CHECKPOINT_H

#include <stdint.h>
#include "ds4_status.h"
#include "factory/safetensors.h"

typedef struct checkpoint checkpoint;

ds4_status checkpoint_open(checkpoint **out, const char *dir, ds4_error *err);
void       checkpoint_close(checkpoint *c);         /* NULL is fine */

/* Counting from 0 in order of names; NULL after the last. */
const stored_tensor *checkpoint_at(const checkpoint *c, int i);
const stored_tensor *checkpoint_find(const checkpoint *c, const char *name);    /* NULL: none */

/* dir/name (caller frees); NULL: no memory. */
char *checkpoint_path(const char *dir, const char *name);

#endif
