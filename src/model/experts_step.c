/* experts_step: what a step asks of the expert store, and what it is likely to ask next. */
#include "model/experts_store.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"

enum { HALF_LIFE = 64 };        /* steps after which a use counts half */

static void warm(expert_store *s, int layer, int expert, double uses)
{
    double *h = expert_heat(s, layer, expert);
    *h = s->now + log2(exp2(*h - s->now) + uses);
}

/* What was read ahead and is not wanted loses its protection; what has not begun is not read. */
static void drop_guess(expert_store *s, int at)
{
    const slot *k = &s->slot[at];
    if (k->state == READING && k->next_part == 0 && expert_queue_pull(s, &s->ahead, at)) expert_slot_empty(s, at);
    else expert_slot_set_ahead(s, at, false);
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
        if (s->seen[e] && !expert_slot_look_ahead(s, layer, e, LATER)) return;
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
    int at = *expert_place(s, layer, expert);
    const bool there = at >= 0 && s->slot[at].state == READY, kept = at >= 0 && !s->slot[at].fresh;
    if (at < 0) {
        if (*missing >= s->most_missing || (at = expert_slot_find(s, true)) < 0) return false;
        expert_slot_read(s, at, layer, expert, NOW);
    } else {
        slot *k = &s->slot[at];
        k->held = true;
        if (k->guessed && k->next_part > 0) s->stats.ahead_used++;
        k->guessed = false;
        expert_slot_set_ahead(s, at, false);
        if (expert_queue_pull(s, &s->ahead, at)) expert_queue_push(s, &s->wanted, at);
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
    for (int i = 0; i < s->n_guess && expert_slot_look_ahead(s, s->guess_layer, s->guess[i], GUESS); i++) continue;
}

static void wait_for_change(expert_store *s)
{
    const uint64_t since = clock_ns();
    pthread_cond_wait(&s->change, &s->lock);
    s->stats.wait_ns += clock_ns() - since;
}

void expert_step_announce(expert_source *source, int layer, const int32_t *ids, int n)
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
        if (s->seen[e] && !expert_slot_look_ahead(s, layer, e, LATER)) break;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
}

ds4_status expert_step_acquire(expert_source *source, int layer, const int32_t *ids, const int32_t *weight, int n,
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
    else for (int i = s->n_group; i < n && expert_slot_look_ahead(s, layer, ids[i], LATER); i++) continue;
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
        data[i] = (expert_data){ expert_slot_data(s, at, 0), expert_slot_data(s, at, 1), expert_slot_data(s, at, 2) };
        which[(*n)++] = i;
    }
    return DS4_OK;
}

ds4_status expert_step_arrived(expert_source *source, int *which, int *n, expert_data *data, ds4_error *err)
{
    expert_store *s = (expert_store *)source;
    pthread_mutex_lock(&s->lock);
    ds4_status st;
    while (!(st = collect(s, which, n, data, err)) && *n == 0) wait_for_change(s);
    pthread_mutex_unlock(&s->lock);
    return st;
}

void expert_step_release(expert_source *source)
{
    expert_store *s = (expert_store *)source;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < s->n_group; i++) {
        const int at = s->group[i];
        s->slot[at].held = false;
        if (s->slot[at].state == FAILED) expert_slot_empty(s, at);
        else expert_slot_rate(s, at);
    }
    s->n_group = 0;
    pthread_mutex_unlock(&s->lock);
}
