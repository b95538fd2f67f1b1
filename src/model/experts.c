#include "model/experts_store.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

enum { MOST_AT_ONCE = 64 };     /* missing experts that are asked for together */

static const char *const part_names[EXPERT_PARTS] = { "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps" };

/* ---- the file ------------------------------------------------------------------- */

static const gguf_tensor *find_part(const gguf *g, int layer, int p)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, part_names[p]);
    return gguf_find_tensor(g, name);
}

/* Rooms are as long as the largest matrix of any layer, so that a slot takes any expert. */
static bool measure_rooms(const model_config *c, const gguf *g, size_t room[EXPERT_PARTS], expert_sizes *out)
{
    memset(room, 0, EXPERT_PARTS * sizeof *room);
    *out = (expert_sizes){ .n = c->n_layer * c->n_expert };
    for (int l = 0; l < c->n_layer; l++)
        for (int p = 0; p < EXPERT_PARTS; p++) {
            const gguf_tensor *t = find_part(g, l, p);
            if (!t || t->bytes % (uint64_t)c->n_expert) return false;
            const size_t one = (size_t)(t->bytes / (uint64_t)c->n_expert), n = direct_room(one);
            if (n > room[p]) room[p] = n;
            out->tensor_bytes += t->bytes;
            out->token_bytes += (uint64_t)c->n_expert_used * one;
        }
    for (int p = 0; p < EXPERT_PARTS; p++) out->slot_bytes += room[p];
    return true;
}

expert_sizes experts_measure(const model_config *c, const gguf *g)
{
    size_t room[EXPERT_PARTS];
    expert_sizes sizes;
    return measure_rooms(c, g, room, &sizes) ? sizes : (expert_sizes){ 0 };
}

int experts_fewest(const model_config *c) { return c->n_expert_used; }

static void find_parts(expert_store *s, const gguf *g)
{
    for (int l = 0; l < s->c->n_layer; l++)
        for (int p = 0; p < EXPERT_PARTS; p++) {
            const gguf_tensor *t = find_part(g, l, p);
            s->parts[l].part[p] = (part){ t->shard, t->offset, (size_t)(t->bytes / (uint64_t)s->c->n_expert) };
        }
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
    if (!s->parts || !s->heat || !s->group || !s->given || !s->guess || !s->weight || !s->seen || !s->slot || !s->key ||
        !s->slot_of)
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
    while (s->n_readers < EXPERT_READERS && !pthread_create(&s->reader[s->n_readers], NULL, expert_reader, s))
        s->n_readers++;
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
    size_t room[EXPERT_PARTS];
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
    s->source = (expert_source){ expert_step_announce, expert_step_acquire, expert_step_arrived, expert_step_release };
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
