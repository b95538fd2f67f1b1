/* experts: routed experts of a model that is larger than memory.
 *
 * Holds some of them in slots, each with the three matrices of one expert, and reads
 * the others from the file when a step asks for them, past the page cache and by a few
 * threads of its own. What is kept is what was used often, with decay, so that recent
 * use counts more; a step hands out the same amount of use whether it decodes one row
 * or prefills thousands, so a prompt streams through without pushing out what decoding
 * needs. Results never depend on what is in memory.
 *
 * Owns slots, threads and descriptors. Engine thread, except experts_stats. */
#ifndef MODEL_EXPERTS_H
#define MODEL_EXPERTS_H

#include "gguf/gguf.h"
#include "kernels/backend.h"
#include "kernels/expert_source.h"
#include "model/config.h"
#include "model/weights.h"

typedef struct expert_store expert_store;

/* What the file says of its routed experts; all 0 when the tensors are not as the
 * shape asks for, which weights_open explains. */
typedef struct {
    uint64_t tensor_bytes;      /* of all routed experts, as often as layers name them  */
    uint64_t slot_bytes;        /* memory of one expert in the store                    */
    uint64_t token_bytes;       /* read for one token when nothing is in memory         */
    int      n;                 /* experts of all layers                                */
} expert_sizes;
expert_sizes experts_measure(const model_config *c, const gguf *g);

/* Fewest slots that a store works with: the experts of one token in one layer. */
int experts_fewest(const model_config *c);

/* budget: bytes of memory for slots. DS4_EARG when they are too few. The gguf, the
 * backend and the hash tables of w must outlive the store. */
ds4_status experts_open(expert_store **out, const model_config *c, const model_weights *w, const gguf *g,
                        backend *b, uint64_t budget, ds4_error *err);
void       experts_close(expert_store *s);      /* NULL is fine */

expert_source *experts_source(expert_store *s);

/* A step over these rows begins: what layers routed by token need is read at once. */
void experts_begin_step(expert_store *s, const batch_rows *rows);

/* A guess at what rows of the step will want of a later layer: n ids as often as rows name
 * them, with the weight they would have. The weightiest are read first, and only while
 * nothing is read that is wanted for certain. */
void experts_guess(expert_store *s, int layer, const int32_t *ids, const float *weights, int n);

typedef struct {
    uint64_t slots, experts;    /* held at once; of the whole model                     */
    uint64_t hits, misses;      /* wanted by a layer of a step: kept, or read for it    */
    uint64_t bytes_read;
    uint64_t ahead, ahead_used; /* reads begun on a guess; those that were wanted then  */
    uint64_t wait_ns;           /* the engine stood still for reads                     */
    uint64_t busy_ns;           /* at least one read was under way                      */
} expert_stats;
void experts_stats(const expert_store *s, expert_stats *out);       /* any thread */

#endif
