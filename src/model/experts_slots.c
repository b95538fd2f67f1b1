/* experts_slots: which expert lies in which slot, and the threads that read them. */
#include "model/experts_store.h"

#include <math.h>

#include "base/clock.h"

static uint8_t *room_of(const expert_store *s, int at, int p)
{
    size_t before = 0;
    for (int i = 0; i < p; i++) before += s->room[i];
    return s->memory->host + (size_t)at * s->slot_bytes + before;
}

static uint64_t offset_of(const part *p, int expert) { return p->offset + (uint64_t)expert * p->bytes; }

const uint8_t *expert_slot_data(const expert_store *s, int at, int p)
{
    const slot *k = &s->slot[at];
    return room_of(s, at, p) + direct_lead(offset_of(&s->parts[k->layer].part[p], k->expert));
}

void expert_slot_rate(expert_store *s, int at)
{
    const slot *k = &s->slot[at];
    if (k->state == EMPTY) s->key[at] = -INFINITY;
    else if (k->state != READY || k->held || k->ahead) s->key[at] = INFINITY;
    else s->key[at] = *expert_heat(s, k->layer, k->expert);
}

void expert_slot_set_ahead(expert_store *s, int at, bool ahead)
{
    s->n_ahead += ahead - s->slot[at].ahead;
    s->slot[at].ahead = ahead;
    expert_slot_rate(s, at);
}

void expert_queue_push(expert_store *s, queue_of_slots *q, int at)
{
    s->slot[at].next = -1;
    *(q->last < 0 ? &q->first : &s->slot[q->last].next) = at;
    q->last = at;
}

bool expert_queue_pull(expert_store *s, queue_of_slots *q, int at)
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

void expert_slot_empty(expert_store *s, int at)
{
    slot *k = &s->slot[at];
    expert_slot_set_ahead(s, at, false);
    *expert_place(s, k->layer, k->expert) = -1;
    k->state = EMPTY;
    expert_slot_rate(s, at);
}

int expert_slot_find(expert_store *s, bool certain)
{
    int best = 0;
    for (int i = 1; i < s->n_slots; i++)
        if (s->key[i] < s->key[best]) best = i;
    if (s->key[best] < INFINITY) return best;
    if (!certain) return -1;

    for (int i = s->ahead.first; i >= 0; i = s->slot[i].next)
        if (s->slot[i].next_part == 0) {
            expert_queue_pull(s, &s->ahead, i);
            return i;
        }
    for (int i = 0; i < s->n_slots; i++)
        if (s->slot[i].state == READY && s->slot[i].ahead && !s->slot[i].held) return i;
    return -1;
}

void expert_slot_read(expert_store *s, int at, int layer, int expert, urgency u)
{
    const bool now = u == NOW;
    slot *k = &s->slot[at];
    if (k->state != EMPTY) expert_slot_empty(s, at);
    *k = (slot){ .layer = layer, .expert = expert, .state = READING, .held = now, .guessed = u == GUESS,
                 .fresh = true, .parts_left = EXPERT_PARTS };
    *expert_place(s, layer, expert) = at;
    expert_slot_set_ahead(s, at, !now);
    expert_queue_push(s, now ? &s->wanted : &s->ahead, at);
    pthread_cond_broadcast(&s->work);
}

bool expert_slot_look_ahead(expert_store *s, int layer, int expert, urgency u)
{
    if (s->n_ahead >= s->most_ahead) return false;
    const int there = *expert_place(s, layer, expert);
    if (there >= 0) {
        if (!s->slot[there].held) expert_slot_set_ahead(s, there, true);
        return true;
    }
    const int at = expert_slot_find(s, false);
    if (at < 0) return false;
    expert_slot_read(s, at, layer, expert, u);
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
    if (k->next_part == EXPERT_PARTS) expert_queue_pull(s, q, at);
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
    if (k->failed && !k->held) expert_slot_empty(s, at);        /* who wants it later will see for himself */
    else expert_slot_rate(s, at);
    pthread_cond_broadcast(&s->change);
}

void *expert_reader(void *store)
{
    expert_store *s = store;
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
