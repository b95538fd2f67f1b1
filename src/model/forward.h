/* forward: the pass from token ids to logits, for prefill and decode, one
 * session or many, any backend [docs/model.md 1].
 *
 * Owns the workspace of a step, taken from the backend at open. Engine thread. */
#ifndef MODEL_FORWARD_H
#define MODEL_FORWARD_H

#include "model/config.h"
#include "model/experts.h"
#include "model/kv.h"
#include "model/weights.h"

typedef struct forward forward;

typedef struct {
    int  max_rows;              /* T of the largest step              */
    int  max_tokens;            /* of one session                     */
    int  max_sessions;          /* in one step; 0: one                */
    bool rounding;              /* the trained FP8/FP4 steps [4.12]   */
    bool on_device;             /* launches cost more than memory: more rows' indexer scores at once */
    bool (*stop)(void *ctx);    /* asked between layers; true: DS4_ECANCELLED; may be NULL */
    void *stop_ctx;
    expert_store *experts;      /* routed experts that are not all in memory; NULL: they are mapped */
} forward_options;

ds4_status forward_open(forward **out, const model_config *c, const model_weights *w, backend *b,
                        const forward_options *o, ds4_error *err);
void       forward_close(forward *f);

uint64_t       forward_bytes(const model_config *c, const forward_options *o);  /* of the workspace */
backend_limits forward_limits(const model_config *c, const forward_options *o);

enum {
    FORWARD_KEPT = 64,          /* rows of logits that stay where they were computed   */
    FORWARD_TOP = 256           /* largest logits of each of them that the host is told */
};

/* What a sampler needs of a row, as top_logits of kernels/ops.h leaves it. */
typedef struct {
    int32_t id[FORWARD_TOP];
    float   value[FORWARD_TOP], norm[2];
} forward_top;

/* Runs all rows. logits_rows lists, ascending, the n_logits rows whose logits are
 * wanted; they are written to host memory, [n_logits][V]. The rows' sessions must
 * have been begun (kv_begin); nothing is committed here.
 *
 * logits NULL, for at most FORWARD_KEPT rows of a backend with memory of its own: they stay there
 * until the next run, forward_tops tells what is in them and forward_logits brings one. */
ds4_status forward_run(forward *f, const batch_rows *rows, const int32_t *logits_rows, int n_logits,
                       float *logits, ds4_error *err);
const forward_top *forward_tops(const forward *f);                              /* [n_logits] */
ds4_status forward_logits(forward *f, int i, float *out, ds4_error *err);       /* [V] */

#endif
