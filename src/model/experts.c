#include "model/experts.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/direct_file.h"
#include "base/status.h"

enum {
    N_PARTS   = 3,              /* gate, up, down                                         */
    N_READERS = 8,              /* reads under way: flash answers many as fast as one     */
    HALF_LIFE = 64,             /* steps after which a use counts half                    */
    MOST_AT_ONCE = 64           /* missing experts that are asked for together            */
};

static const char *const part_names[N_PARTS] = { "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps" };

/* One matrix of every expert of a layer: expert e begins e * bytes further. */
typedef struct {
    int      file;
    uint64_t offset;
    size_t   bytes;             /* of one expert */
} part;

typedef struct {
    part part[N_PARTS];
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
    size_t       room[N_PARTS], slot_bytes;
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

    pthread_t    reader[N_READERS];
    int          n_readers;
};

/* ---- the file ------------------------------------------------------------------- */

static const gguf_tensor *find_part(const gguf *g, int layer, int p)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, part_names[p]);
    return gguf_find_tensor(g, name);
}

/* Rooms are as long as the largest matrix of any layer, so that a slot takes any expert. */
static bool measure_rooms(const model_config *c, const gguf *g, size_t room[N_PARTS], expert_sizes *out)
{
    memset(room, 0, N_PARTS * sizeof *room);
    *out = (expert_sizes){ .n = c->n_layer * c->n_expert };
    for (int l = 0; l < c->n_layer; l++)
        for (int p = 0; p < N_PARTS; p++) {
            const gguf_tensor *t = find_part(g, l, p);
            if (!t || t->bytes % (uint64_t)c->n_expert) return false;
            const size_t one = (size_t)(t->bytes / (uint64_t)c->n_expert), n = direct_room(one);
            if (n > room[p]) room[p] = n;
            out->tensor_bytes += t->bytes;
            out->token_bytes += (uint64_t)c->n_expert_used * one;
        }
    for (int p = 0; p < N_PARTS; p++) out->slot_bytes += room[p];
    return true;
}

expert_sizes experts_measure(const model_config *c, const gguf *g)
{
    size_t room[N_PARTS];
    expert_sizes sizes;
    return measure_rooms(c, g, room, &sizes) ? sizes : (expert_sizes){ 0 };
}

int experts_fewest(const model_config *c) { return c->n_expert_used; }

static void find_parts(expert_store *s, const gguf *g)
{
    for (int l = 0; l < s->c->n_layer; l++)
        for (int p = 0; p < N_PARTS; p++) {
            const gguf_tensor *t = find_part(g, l, p);
            s->parts[l].part[p] = (part){ t->shard, t->offset, (size_t)(t->bytes / (uint64_t)s->c->n_expert) };
        }
}

static uint8_t *room_of(const expert_store *s, int at, int p)
{
    size_t before = 0;
    for (int i = 0; i < p; i++) before += s->room[i];
    return s->memory->host + (size_t)at * s->slot_bytes + before;
}

static uint64_t offset_of(const part *p, int expert) { return p->offset + (uint64_t)expert * p->bytes; }

static const uint8_t *data_of(const expert_store *s, int at, int p)
{
    const slot *k = &s->slot[at];
    return room_of(s, at, p) + direct_lead(offset_of(&s->parts[k->layer].part[p], k->expert));
}

/* ---- slots: everything below holds the lock -------------------------------------- */

static int32_t *place_of(const expert_store *s, int layer, int expert)
{
    return &s->slot_of[layer * s->c->n_expert + expert];
}

static double *heat_of(const expert_store *s, int layer, int expert)
{
    return &s->heat[layer * s->c->n_expert + expert];
}

/* After every change of a slot: may it go, and how soon? */
static void rate(expert_store *s, int at)
{
    const slot *k = &s->slot[at];
    if (k->state == EMPTY) s->key[at] = -INFINITY;
    else if (k->state != READY || k->held || k->ahead) s->key[at] = INFINITY;
    else s->key[at] = *heat_of(s, k->layer, k->expert);
}

static void set_ahead(expert_store *s, int at, bool ahead)
{
    s->n_ahead += ahead - s->slot[at].ahead;
    s->slot[at].ahead = ahead;
    rate(s, at);
}

static void push(expert_store *s, queue_of_slots *q, int at)
{
    s->slot[at].next = -1;
    *(q->last < 0 ? &q->first : &s->slot[q->last].next) = at;
    q->last = at;
}

/* Takes a slot out of a queue; false when it is not in it. */
static bool pull(expert_store *s, queue_of_slots *q, int at)
{
    int before = -1;
    for (int i = q->first; i >= 0; before = i, i = s->slot[i].next) {
        if (i != at) continue;
        *(before < 0 ? &q->first : &s->slot[before].next) = s->slot[at].next;
        if (q->last == at) q->last = before;
        return true;
    }
    return false;
}

static void empty(expert_store *s, int at)
{
    slot *k = &s->slot[at];
    set_ahead(s, at, false);
    *place_of(s, k->layer, k->expert) = -1;
    k->state = EMPTY;
    rate(s, at);
}

/* The coldest slot that may go. For what is wanted for certain also one that was only
 * guessed, first one whose reading has not begun. -1: none. */
static int find_room(expert_store *s, bool certain)
{
    int best = 0;
    for (int i = 1; i < s->n_slots; i++)
        if (s->key[i] < s->key[best]) best = i;
    if (s->key[best] < INFINITY) return best;
    if (!certain) return -1;

    for (int i = s->ahead.first; i >= 0; i = s->slot[i].next)
        if (s->slot[i].next_part == 0) {
            pull(s, &s->ahead, i);
            return i;
        }
    for (int i = 0; i < s->n_slots; i++)
        if (s->slot[i].state == READY && s->slot[i].ahead && !s->slot[i].held) return i;
    return -1;
}

typedef enum { GUESS, LATER, NOW } urgency;

static void begin_read(expert_store *s, int at, int layer, int expert, urgency u)
{
    const bool now = u == NOW;
    slot *k = &s->slot[at];
    if (k->state != EMPTY) empty(s, at);
    *k = (slot){ .layer = layer, .expert = expert, .state = READING, .held = now, .guessed = u == GUESS,
                 .fresh = true, .parts_left = N_PARTS };
    *place_of(s, layer, expert) = at;
    set_ahead(s, at, !now);
    push(s, now ? &s->wanted : &s->ahead, at);
    pthread_cond_broadcast(&s->work);
}

/* Reads an expert ahead, or keeps one that is there; false: no more room for such. */
static bool look_ahead(expert_store *s, int layer, int expert, urgency u)
{
    if (s->n_ahead >= s->most_ahead) return false;
    const int there = *place_of(s, layer, expert);
    if (there >= 0) {
        if (!s->slot[there].held) set_ahead(s, there, true);
        return true;
    }
    const int at = find_room(s, false);
    if (at < 0) return false;
    begin_read(s, at, layer, expert, u);
    return true;
}

/* ---- readers --------------------------------------------------------------------- */

/* The next matrix to read: what is wanted first, and a guess only while nothing wanted
 * is under way, so that guesses use time in which the disk would be idle. */
static int next_read(expert_store *s, int *p)
{
    queue_of_slots *q = s->wanted.first >= 0 ? &s->wanted : &s->ahead;
    const int at = q->first;
    if (at < 0) return -1;
    slot *k = &s->slot[at];
    if (k->guessed && s->n_wanted > 0) return -1;
    if (k->guessed && k->next_part == 0) s->stats.ahead++;
    *p = k->next_part++;
    if (k->next_part == N_PARTS) pull(s, q, at);
    return at;
}

static void finish_read(expert_store *s, int at, size_t bytes, const ds4_error *failure)
{
    slot *k = &s->slot[at];
    if (failure) {
        k->failed = true;
        s->error = *failure;
    } else {
        s->stats.bytes_read += bytes;
    }
    if (--k->parts_left > 0) return;
    k->state = k->failed ? FAILED : READY;
    if (k->failed && !k->held) empty(s, at);        /* who wants it later will see for himself */
    else rate(s, at);
    pthread_cond_broadcast(&s->change);
}

static void *reader_loop(void *arg)
{
    expert_store *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->closing) {
        int p;
        const int at = next_read(s, &p);
        if (at < 0) {
            pthread_cond_wait(&s->work, &s->lock);
            continue;
        }
        const part *from = &s->parts[s->slot[at].layer].part[p];
        const int expert = s->slot[at].expert;
        const bool wanted = s->slot[at].held;
        s->n_wanted += wanted;
        if (s->n_reading++ == 0) s->busy_since = clock_ns();
        pthread_mutex_unlock(&s->lock);

        ds4_error err;
        const ds4_status st = direct_read(&s->file[from->file], offset_of(from, expert), from->bytes,
                                          room_of(s, at, p), &err);
        pthread_mutex_lock(&s->lock);
        if (--s->n_reading == 0) s->stats.busy_ns += clock_ns() - s->busy_since;
        s->n_wanted -= wanted;
        if (s->n_wanted == 0) pthread_cond_broadcast(&s->work);
        finish_read(s, at, from->bytes, st ? &err : NULL);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the step -------------------------------------------------------------------- */

static void warm(expert_store *s, int layer, int expert, double uses)
{
    double *h = heat_of(s, layer, expert);
    *h = s->now + log2(exp2(*h - s->now) + uses);
}

/* What was read ahead and is not wanted loses its protection; what has not begun is not read. */
static void drop_guess(expert_store *s, int at)
{
    if (s->slot[at].state == READING && s->slot[at].next_part == 0 && pull(s, &s->ahead, at)) empty(s, at);
    else set_ahead(s, at, false);
}

static void drop_guesses(expert_store *s, int layer)
{
    for (int i = 0; i < s->n_slots; i++)
        if (s->slot[i].ahead && s->slot[i].layer <= layer) drop_guess(s, i);
}

/* What a layer that is routed by token will want of the step's rows. */
static void look_ahead_by_token(expert_store *s, int layer)
{
    const view table = s->w->layer[layer].hash;
    const int k = s->c->n_expert_used;
    memset(s->seen, 0, (size_t)s->c->n_expert * sizeof *s->seen);
    for (int t = 0; t < s->rows->n; t++)
        for (int i = 0; i < k; i++) s->seen[view_i32(table, s->rows->token[t])[i]] = true;
    for (int e = 0; e < s->c->n_expert; e++)
        if (s->seen[e] && !look_ahead(s, layer, e, LATER)) return;
}

void experts_begin_step(expert_store *s, const batch_rows *rows)
{
    pthread_mutex_lock(&s->lock);
    s->rows = rows;
    s->now += 1.0 / HALF_LIFE;
    s->n_guess = 0;
    drop_guesses(s, s->c->n_layer);                 /* of a step that ended early */
    for (int l = 0; l < s->c->n_hash_layers; l++) look_ahead_by_token(s, l);
    pthread_mutex_unlock(&s->lock);
}

void experts_guess(expert_store *s, int layer, const int32_t *ids, const float *weights, int n)
{
    memset(s->seen, 0, (size_t)s->c->n_expert * sizeof *s->seen);
    s->guess_layer = layer;
    s->n_guess = 0;
    for (int i = 0; i < n; i++) {
        if (!s->seen[ids[i]]) {
            s->seen[ids[i]] = true;
            s->weight[ids[i]] = 0;
            s->guess[s->n_guess++] = ids[i];
        }
        s->weight[ids[i]] += weights[i];
    }
    for (int i = 1; i < s->n_guess; i++)            /* few, or nearly all of a long prompt's */
        for (int j = i; j > 0 && s->weight[s->guess[j]] > s->weight[s->guess[j - 1]]; j--) {
            const int32_t t = s->guess[j];
            s->guess[j] = s->guess[j - 1];
            s->guess[j - 1] = t;
        }
}

/* Holds the expert that the op wants next; false: there is no room for it now. */
static bool hold(expert_store *s, int layer, int expert, int *missing)
{
    int at = *place_of(s, layer, expert);
    const bool there = at >= 0 && s->slot[at].state == READY, kept = at >= 0 && !s->slot[at].fresh;
    if (at < 0) {
        if (*missing >= s->most_missing || (at = find_room(s, true)) < 0) return false;
        begin_read(s, at, layer, expert, NOW);
    } else {
        slot *k = &s->slot[at];
        k->held = true;
        if (k->guessed && k->next_part > 0) s->stats.ahead_used++;
        k->guessed = false;
        set_ahead(s, at, false);
        if (pull(s, &s->ahead, at)) push(s, &s->wanted, at);
    }
    *missing += !there;
    *(kept ? &s->stats.hits : &s->stats.misses) += 1;
    s->slot[at].fresh = false;
    s->given[s->n_group] = false;
    s->group[s->n_group++] = at;
    return true;
}

/* The op has all it wants of this layer: readers may turn to what comes next. */
static void look_further(expert_store *s, int layer)
{
    drop_guesses(s, layer);
    if (layer + 1 < s->c->n_hash_layers) look_ahead_by_token(s, layer + 1);
    if (s->guess_layer <= layer) return;
    for (int i = 0; i < s->n_guess && look_ahead(s, s->guess_layer, s->guess[i], GUESS); i++) continue;
}

static void wait_for_change(expert_store *s)
{
    const uint64_t since = clock_ns();
    pthread_cond_wait(&s->change, &s->lock);
    s->stats.wait_ns += clock_ns() - since;
}

static void announce(expert_source *source, int layer, const int32_t *ids, int n)
{
    expert_store *s = (expert_store *)source;
    memset(s->seen, 0, (size_t)s->c->n_expert * sizeof *s->seen);
    for (int i = 0; i < n; i++) s->seen[ids[i]] = true;

    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->n_slots; i++) {          /* guesses turn true or void */
        slot *k = &s->slot[i];
        if (!k->ahead || k->layer != layer) continue;
        if (!s->seen[k->expert]) drop_guess(s, i);
        else if (k->next_part == 0) k->guessed = false;
    }
    for (int e = 0; e < s->c->n_expert; e++)
        if (s->seen[e] && !look_ahead(s, layer, e, LATER)) break;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
}

static ds4_status acquire(expert_source *source, int layer, const int32_t *ids, const int32_t *weight, int n,
                          int *taken, ds4_error *err)
{
    (void)err;
    expert_store *s = (expert_store *)source;
    int missing = 0;
    pthread_mutex_lock(&s->lock);
    s->n_group = 0;
    for (;;) {
        while (s->n_group < n && hold(s, layer, ids[s->n_group], &missing)) continue;
        if (s->n_group > 0) break;
        wait_for_change(s);                         /* every slot is being read on a guess */
    }
    for (int i = 0; i < s->n_group; i++) warm(s, layer, ids[i], (double)weight[i] / s->rows->n);
    if (s->n_group == n) look_further(s, layer);
    else for (int i = s->n_group; i < n && look_ahead(s, layer, ids[i], LATER); i++) continue;
    *taken = s->n_group;
    pthread_mutex_unlock(&s->lock);
    return DS4_OK;
}

static ds4_status collect(expert_store *s, int *which, int *n, expert_data *data, ds4_error *err)
{
    *n = 0;
    for (int i = 0; i < s->n_group; i++) {
        const slot *k = &s->slot[s->group[i]];
        if (s->given[i] || k->state == READING) continue;
        if (k->state == FAILED) {
            *err = s->error;
            return s->error.status;
        }
        const int at = s->group[i];
        s->given[i] = true;
        data[i] = (expert_data){ data_of(s, at, 0), data_of(s, at, 1), data_of(s, at, 2) };
        which[(*n)++] = i;
    }
    return DS4_OK;
}

static ds4_status arrived(expert_source *source, int *which, int *n, expert_data *data, ds4_error *err)
{
    expert_store *s = (expert_store *)source;
    pthread_mutex_lock(&s->lock);
    ds4_status st;
    while (!(st = collect(s, which, n, data, err)) && *n == 0) wait_for_change(s);
    pthread_mutex_unlock(&s->lock);
    return st;
}

static void release(expert_source *source)
{
    expert_store *s = (expert_store *)source;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->n_group; i++) {
        const int at = s->group[i];
        s->slot[at].held = false;
        if (s->slot[at].state == FAILED) empty(s, at);
        else rate(s, at);
    }
    s->n_group = 0;
    pthread_mutex_unlock(&s->lock);
}

/* ---- open, close ------------------------------------------------------------------ */

static ds4_status open_files(expert_store *s, const gguf *g, ds4_error *err)
{
    const int n = gguf_n_shards(g);
    s->file = calloc((size_t)n, sizeof *s->file);
    if (!s->file) return ds4_fail(err, DS4_EMEMORY, "no memory for %d file records", n);
    for (; s->n_files < n; s->n_files++) {
        const ds4_status st = direct_file_open(&s->file[s->n_files], gguf_descriptor(g, s->n_files),
                                               gguf_shard_path(g, s->n_files), err);
        if (st) return st;
    }
    return DS4_OK;
}

static ds4_status take_memory(expert_store *s, ds4_error *err)
{
    const size_t L = (size_t)s->c->n_layer, E = (size_t)s->c->n_expert, n = (size_t)s->n_slots;
    s->parts = calloc(L, sizeof *s->parts);
    s->heat = malloc(L * E * sizeof *s->heat);
    s->group = malloc(E * sizeof *s->group);
    s->given = malloc(E * sizeof *s->given);
    s->guess = malloc(E * sizeof *s->guess);
    s->weight = malloc(E * sizeof *s->weight);
    s->seen = malloc(E * sizeof *s->seen);
    s->slot = calloc(n, sizeof *s->slot);
    s->key = malloc(n * sizeof *s->key);
    s->slot_of = malloc(L * E * sizeof *s->slot_of);
    if (!s->parts || !s->heat || !s->group || !s->given || !s->guess || !s->weight || !s->seen || !s->slot || !s->key || !s->slot_of)
        return ds4_fail(err, DS4_EMEMORY, "no memory for the list of %d experts", s->n_slots);
    for (size_t i = 0; i < L * E; i++) {
        s->heat[i] = -INFINITY;
        s->slot_of[i] = -1;
    }
    for (size_t i = 0; i < n; i++) s->key[i] = -INFINITY;
    return s->b->buf_alloc(s->b, (uint64_t)s->n_slots * s->slot_bytes, &s->memory, err);
}

static ds4_status start_readers(expert_store *s, ds4_error *err)
{
    while (s->n_readers < N_READERS && !pthread_create(&s->reader[s->n_readers], NULL, reader_loop, s)) s->n_readers++;
    if (s->n_readers > 0) return DS4_OK;            /* fewer are slower, and enough */
    return ds4_fail(err, DS4_EMEMORY, "the system gives no thread to read experts with");
}

static ds4_status open_parts(expert_store *s, const gguf *g, ds4_error *err)
{
    ds4_status st;
    if ((st = take_memory(s, err))) return st;
    if (!s->memory->host)
        return ds4_fail(err, DS4_EUNSUPPORTED, "%s: experts can not be read into this backend's memory", s->b->name);
    direct_expect(s->memory->host, (size_t)s->memory->bytes);
    find_parts(s, g);
    if ((st = open_files(s, g, err))) return st;
    return start_readers(s, err);
}

ds4_status experts_open(expert_store **out, const model_config *c, const model_weights *w, const gguf *g,
                        backend *b, uint64_t budget, ds4_error *err)
{
    *out = NULL;
    expert_sizes sizes;
    size_t room[N_PARTS];
    const double mib = 1024.0 * 1024.0;
    if (!measure_rooms(c, g, room, &sizes))
        return ds4_fail(err, DS4_EFORMAT, "the experts of the file are not of equal size");
    const uint64_t fit = budget / sizes.slot_bytes;
    if (fit < (uint64_t)experts_fewest(c))
        return ds4_fail(err, DS4_EARG, "%.1f MiB hold %d experts of %.2f MiB; one token needs %d of a layer at once: "
                        "give at least %.1f MiB", (double)budget / mib, (int)fit, (double)sizes.slot_bytes / mib,
                        experts_fewest(c), (double)experts_fewest(c) * (double)sizes.slot_bytes / mib);

    expert_store *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for the expert cache");
    s->source = (expert_source){ announce, acquire, arrived, release };
    s->c = c;
    s->w = w;
    s->b = b;
    s->slot_bytes = (size_t)sizes.slot_bytes;
    memcpy(s->room, room, sizeof room);
    s->n_slots = fit < (uint64_t)sizes.n ? (int)fit : sizes.n;
    s->most_missing = min_int(MOST_AT_ONCE, max_int(experts_fewest(c), s->n_slots / 8));
    s->most_ahead = min_int(MOST_AT_ONCE, max_int(1, s->n_slots / 8));
    s->guess_layer = -1;
    s->wanted = s->ahead = (queue_of_slots){ -1, -1 };
    s->stats = (expert_stats){ .slots = (uint64_t)s->n_slots, .experts = (uint64_t)sizes.n };
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->change, NULL);

    const ds4_status st = open_parts(s, g, err);
    if (st) {
        experts_close(s);
        return st;
    }
    *out = s;
    return DS4_OK;
}

void experts_close(expert_store *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->n_readers; i++) pthread_join(s->reader[i], NULL);
    for (int i = 0; i < s->n_files; i++) direct_file_close(&s->file[i]);
    if (s->memory) s->b->buf_free(s->b, s->memory);
    pthread_cond_destroy(&s->change);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s->file);
    free(s->parts);
    free(s->heat);
    free(s->group);
    free(s->given);
    free(s->guess);
    free(s->weight);
    free(s->seen);
    free(s->slot);
    free(s->key);
    free(s->slot_of);
    free(s);
}

expert_source *experts_source(expert_store *s) { return &s->source; }

void experts_stats(const expert_store *s, expert_stats *out)
{
    pthread_mutex_t *lock = (pthread_mutex_t *)&s->lock;
    pthread_mutex_lock(lock);
    *out = s->stats;
    pthread_mutex_unlock(lock);
}
