/* tensors: which tensors a model has, under which names, of which shape and type.
 *
 * One table serves everything that makes or describes files: a row gives class,
 * GGUF name, checkpoint name and shape as symbols of model_shape; a recipe gives
 * a quant type to each class. A plan is the table written out for one model.
 * Knows no files. Immutable tables; a plan belongs to its maker. */
#ifndef FACTORY_TENSORS_H
#define FACTORY_TENSORS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/log.h"
#include "ds4_status.h"
#include "factory/shape.h"
#include "quant/quant.h"

/* Tensors of a class share their type in every recipe. */
typedef enum {
    CLASS_EMBEDDING, CLASS_OUTPUT, CLASS_ATTENTION, CLASS_SHARED, CLASS_GATE_UP, CLASS_DOWN,
    CLASS_ROUTER, CLASS_HC, CLASS_COMPRESSOR, CLASS_INDEXER,
    CLASS_APE,                  /* position biases of the compressors              */
    CLASS_VECTOR,               /* one-dimensional: norms, sinks, biases: always F32 */
    CLASS_TABLE,                /* token to experts: always I32                    */
    CLASS_COUNT
} tensor_class;

const char *tensor_class_name(tensor_class c);      /* "routed gate+up" */

/* Layers that have the tensor. */
typedef enum {
    IN_MODEL,                   /* once, outside of the layers */
    IN_EVERY, IN_COMPRESSED /* ratio > 0 */, IN_INDEXED /* ratio 4 */, IN_HASHED, IN_SCORED
} tensor_place;

/* What the numbers look like, for files made of random ones (synth.c). */
typedef enum {
    LOOK_MATRIX,                /* normal, deviation 1/sqrt(row)          */
    LOOK_BRANCH,                /* the same times the branch gain: a residual branch's last matrix */
    LOOK_EMBEDDING,             /* normal                                 */
    LOOK_GAIN,                  /* 1 + 0.1 normal: norms, HC scales       */
    LOOK_OFFSET,                /* 0.5 normal: sinks, position bias, HC bases */
    LOOK_BIAS,                  /* 0.3 normal: the router's bias          */
    LOOK_EXPERT_IDS
} tensor_look;

/* Sizes a tensor can have, as symbols. */
typedef enum {
    SIZE_NONE, SIZE_1, SIZE_3, SIZE_EMBD, SIZE_VOCAB,
    SIZE_HC,                    /* streams * width                        */
    SIZE_HC_MIX,                /* (2 + streams) * streams                */
    SIZE_STREAMS, SIZE_Q_RANK,
    SIZE_HEADS_WIDE,            /* heads * head width                     */
    SIZE_HEADS, SIZE_HEAD_DIM,
    SIZE_GROUP_IN,              /* heads * head width / groups            */
    SIZE_GROUPS_OUT,            /* groups * output rank                   */
    SIZE_EXPERTS, SIZE_USED, SIZE_EXPERT_DIM, SIZE_SHARED_DIM,
    SIZE_RATIO,
    SIZE_ROW,                   /* compressor columns: head width, doubled at ratio 4 */
    SIZE_INDEX_WIDE,            /* indexer heads * width                  */
    SIZE_INDEX_HEADS, SIZE_INDEX_DIM,
    SIZE_INDEX_ROW              /* indexer compressor columns: width, doubled */
} tensor_size;

typedef struct {
    tensor_class  class;
    tensor_place  place;
    tensor_look   look;
    const char   *gguf;         /* after "blk.N."                                   */
    const char   *checkpoint;   /* after "layers.N."; one %d stands for the expert  */
    tensor_size   in, out;      /* row length, rows; out SIZE_NONE: a vector        */
} tensor_def;

/* NULL after the last row. */
const tensor_def *tensor_def_at(int i);
/* The row that a GGUF name belongs to; NULL for a stranger's tensor. *layer is -1 outside of layers. */
const tensor_def *tensor_def_find(const char *gguf_name, int *layer);

bool     tensor_in_layer(const tensor_def *d, const model_shape *s, int layer);
uint64_t tensor_size_of(tensor_size size, const model_shape *s, int layer);
/* Expert stacks have one checkpoint tensor per expert. */
bool     tensor_is_stack(const tensor_def *d);

#define TENSOR_NAME_MAX 96
void tensor_checkpoint_name(const tensor_def *d, int layer, int expert, char out[TENSOR_NAME_MAX]);

/* ---- recipes ----------------------------------------------------------- */

typedef enum {
    LAYOUT_DS4,                 /* small matrices F16 as in the published files    */
    LAYOUT_LLAMACPP             /* HC, router and position biases F32, the rest by the recipe */
} file_layout;

typedef struct {
    char        name[16];
    file_layout layout;
    quant_type  type[CLASS_COUNT];
    uint32_t    file_type;      /* general.file_type */
} recipe;

/* "q2", "q4": the published mixes. "f32", "f16", "bf16": every matrix. "q8_0":
 * large matrices. Any other quant type: the published layout with its routed
 * experts of that type. DS4_EARG: no such name. */
ds4_status recipe_make(recipe *r, const char *name, file_layout layout, ds4_error *err);

/* ---- plan -------------------------------------------------------------- */

typedef struct {
    const tensor_def *def;
    int        layer;           /* -1 outside of layers                        */
    quant_type type;
    int        n_dims;
    uint64_t   ne[3];           /* row, rows, experts; 1 where missing         */
    uint64_t   bytes;
    int        alias_of;        /* an earlier tensor with the same data, or -1 */
    char       name[TENSOR_NAME_MAX];
} planned_tensor;

typedef struct {
    planned_tensor *items;      /* [n] in file order, owned */
    int             n, cap;
    uint64_t        n_weights;  /* numbers of the model, aliases counted */
    uint64_t        data_bytes; /* tensor data of the file, aliases not counted */
} tensor_plan;

/* Where a row does not fill blocks of its recipe's type the next one that fits
 * is taken (Q8_0, then F16), with a line to notes. alias_layers: layers of one
 * kind (ratio, hashed) share the first one's data. s must be checked. */
ds4_status tensor_plan_make(tensor_plan *p, const model_shape *s, const recipe *r, bool alias_layers,
                            const log_sink *notes, ds4_error *err);
void       tensor_plan_free(tensor_plan *p);

#endif
