/* experts_store: what the files of the expert store share. Private to them.
 *
 * experts.c opens and closes it, experts_slots.c knows which expert lies in which slot and reads
 * them, experts_step.c answers what a step asks for. */
#ifndef MODEL_EXPERTS_STORE_H
#define MODEL_EXPERTS_STORE_H

#include <pthread.h>
#include "base/direct_file.h"
#include "model/experts.h"

enum {
    EXPERT_PARTS   = 3,         /* gate, up, down                                         */
    EXPERT_READERS = 8          /* reads under way: flash answers many as fast as one     */
};

/* One matrix of every expert of a layer: expert e begins e * bytes further. */
typedef struct {
    int      file;
    uint64_t offset;
    size_t   bytes;             /* of one expert */
} part;

typedef struct {
    part part[EXPERT_PARTS];
} layer_parts;

/*            take            all parts read         release, evict
 *   EMPTY --------> READING ----------------> READY ---------------> EMPTY
 *                      |   a part fails
 *                      +---------------> FAILED (while held) or EMPTY
 */
typedef enum { EMPTY, READING, READY, FAILED } slot_state;

typedef struct {
    int32_t    layer, expert;
    slot_state state;
    bool       held;            /* by the group that is acquired                          */
    bool       ahead;           /* read or kept on a guess, and not wanted so far         */
    bool       guessed;         /* this read began on a guess                             */
    bool       fresh;           /* read, and not used since                               */
    bool       failed;          /* a part could not be read                               */
    int8_t     next_part, parts_left;
    int32_t    next;            /* in a queue; -1: last                                   */
} slot;

/* Slots that wait for a reader, in order of arrival. */
typedef struct {
    int32_t first, last;        /* -1: none */
} queue_of_slots;

struct expert_store {
    expert_source source;       /* first */
    const model_config  *c;     /* borrowed */
    const model_weights *w;
    backend     *b;
    direct_file *file;          /* [n_files] */
    int          n_files;
    layer_parts *parts;         /* [n_layer] */
    size_t       room[EXPERT_PARTS], slot_bytes;
    buf         *memory;
    int          n_slots, most_missing, most_ahead;

    /* The engine thread's own. */
    const batch_rows *rows;     /* of the step                                            */
    double       now;           /* steps in half lives                                    */
    int32_t     *group;         /* [n_expert] slots that are held                         */
    bool        *given;         /* [n_expert] of them, by arrived                         */
    int          n_group;
    int32_t     *guess;         /* [n_expert] ids, n_guess of them for guess_layer        */
    int          guess_layer, n_guess;
    float       *weight;        /* [n_expert] of a guess                                  */
    bool        *seen;          /* [n_expert] */

    /* Guarded by lock. */
    pthread_mutex_t lock;
    pthread_cond_t  work, change;
    slot        *slot;          /* [n_slots]                                              */
    double      *key;           /* [n_slots] heat of what may go; INFINITY: must stay     */
    double      *heat;          /* [n_layer*n_expert] log2 of the uses, as if all were now:
                                   the order of two experts does not change with time     */
    int32_t     *slot_of;       /* [n_layer*n_expert] -1: not in memory                   */
    queue_of_slots wanted, ahead;
    int          n_ahead;       /* slots with `ahead` set                                 */
    int          n_reading;     /* reads under way, and                                   */
    int          n_wanted;      /* those of them that the engine waits for                */
    uint64_t     busy_since;
    bool         closing;
    ds4_error    error;         /* of the read that failed last */
    expert_stats stats;

    pthread_t    reader[EXPERT_READERS];
    int          n_readers;
};

static inline int32_t *expert_place(const expert_store *s, int layer, int expert)
{
    return &s->slot_of[layer * s->c->n_expert + expert];
}

static inline double *expert_heat(const expert_store *s, int layer, int expert)
{
    return &s->heat[layer * s->c->n_expert + expert];
}

/* ---- experts_slots.c: all but the reader are called with the lock held --------------- */

/* A slot's matrix p, once it is read. */
const uint8_t *expert_slot_data(const expert_store *s, int at, int p);

/* After every change of a slot: may it go, and how soon? */
void expert_slot_rate(expert_store *s, int at);
void expert_slot_set_ahead(expert_store *s, int at, bool ahead);
void expert_slot_empty(expert_store *s, int at);
/* The coldest slot that may go. For what is wanted for certain also one that was only
 * guessed, first one whose reading has not begun. -1: none. */
int  expert_slot_find(expert_store *s, bool certain);

typedef enum { GUESS, LATER, NOW } urgency;
void expert_slot_read(expert_store *s, int at, int layer, int expert, urgency u);
/* Reads an expert ahead, or keeps one that is there; false: no more room for such. */
bool expert_slot_look_ahead(expert_store *s, int layer, int expert, urgency u);

void expert_queue_push(expert_store *s, queue_of_slots *q, int at);
/* Takes a slot out of a queue; false when it is not in it. */
bool expert_queue_pull(expert_store *s, queue_of_slots *q, int at);

/* The loop of a thread that reads. */
void *expert_reader(void *store);

/* ---- experts_step.c: the calls of expert_source ----------------------------------- */

void       expert_step_announce(expert_source *source, int layer, const int32_t *ids, int n);
ds4_status expert_step_acquire(expert_source *source, int layer, const int32_t *ids, const int32_t *weight, int n,
                               int *taken, ds4_error *err);
ds4_status expert_step_arrived(expert_source *source, int *which, int *n, expert_data *data, ds4_error *err);
void       expert_step_release(expert_source *source);

#endif
