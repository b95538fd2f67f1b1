/* metadata: the keys of a model file, in a stable order.
 *
 * Everything that makes files writes its keys here, so that a converted and a
 * synthetic model are described alike (docs/formats.md lists the keys). */
#ifndef FACTORY_METADATA_H
#define FACTORY_METADATA_H

#include "factory/shape.h"
#include "factory/tensors.h"
#include "factory/token_table.h"
#include "gguf/gguf.h"

typedef struct {
    const model_shape *shape;
    const recipe      *recipe;
    const token_table *tokens;
    const char        *name;
    float              temperature, top_p;      /* NAN: not written */
} file_metadata;

/* Errors are kept by the writer until gguf_writer_begin_data. */
void metadata_put(gguf_writer *w, const file_metadata *m);

/* Describes the plan's tensors, in order. */
void metadata_put_tensors(gguf_writer *w, const tensor_plan *p);

#endif
