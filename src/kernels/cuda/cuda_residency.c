/* cuda_residency: places of experts in parts, and their changes between steps. */
#include "kernels/cuda/cuda_residency.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

/* Steps between two looks at the counters. What was used so long ago counts a quarter less each time. */
enum { COUNT_STEPS = 8 };
#define HEAT_DECAY 0.75f

/* ---- open and close ------------------------------------------------------------------------- */

static size_t n_counters(const cuda_backend *b) { return (size_t)b->residency->counted * (size_t)b->o.limits.n_experts; }

ds4_status cuda_residency_open(cuda_backend *b, ds4_error *err)
{
    cuda_residency *r = b->residency = calloc(1, sizeof *r);
    if (!r) return ds4_fail(err, DS4_EMEMORY, "%s: no memory to keep account of experts", b->base.name);
    r->partial = b->o.expert_bytes > 0 && !b->device->info.unified;
    r->left = b->o.expert_bytes;
    r->counted = r->partial ? b->o.limits.n_layer : 0;
    const size_t n = n_counters(b), bytes = n * sizeof(uint32_t);
    if (n == 0) return DS4_OK;

    r->uses_before = calloc(n, sizeof *r->uses_before);
    r->heat = calloc(n, sizeof *r->heat);
    if (!r->uses_before || !r->heat)
        return ds4_fail(err, DS4_EMEMORY, "%s: no memory to count uses of experts", b->base.name);
    gpu_device *d = b->device;
    ds4_status st = d->alloc(d, GPU_LOCAL, bytes, &r->uses, NULL, err);
    if (!st) st = d->alloc(d, GPU_PINNED, bytes, &r->uses_pinned, (void **)(uintptr_t)&r->uses_host, err);
    return st ? st : d->fill(d, GPU_MAIN, r->uses, 0, bytes, err);
}

static void drop_stacks(cuda_backend *b)
{
    cuda_residency *r = b->residency;
    for (int i = 0; i < r->n_regions; i++) b->device->free(b->device, r->region[i].kind, r->region[i].at);
    for (int i = 0; i < r->n_stacks; i++) free(r->stack[i].place);
    memset(r->exchange, 0, sizeof r->exchange);
    r->n_regions = r->n_stacks = 0;
    r->spares = r->closing = false;
    r->spare_bytes = 0;
    r->left = b->o.expert_bytes;
}

void cuda_residency_release(cuda_backend *b)
{
    cuda_residency *r = b->residency;
    r->closing = true;          /* an exchange under way is over: its copies have been waited for */
    if (--r->live == 0) drop_stacks(b);
}

void cuda_residency_close(cuda_backend *b)
{
    cuda_residency *r = b->residency;
    if (!r) return;
    drop_stacks(b);
    upload_end(b, NULL);
    if (r->uses) b->device->free(b->device, GPU_LOCAL, r->uses);
    if (r->uses_pinned) b->device->free(b->device, GPU_PINNED, r->uses_pinned);
    free(r->stack);
    free(r->region);
    free(r->uses_before);
    free(r->heat);
    free(r);
}

/* ---- places ----------------------------------------------------------------------------------- */

static ds4_status take_region(cuda_backend *b, gpu_memory kind, uint64_t bytes, expert_place *out, ds4_error *err)
{
    cuda_residency *r = b->residency;
    if (r->n_regions == r->regions_cap) {
        const int cap = max_int(2 * r->regions_cap, 16);
        expert_region *more = realloc(r->region, (size_t)cap * sizeof *more);
        if (!more) return ds4_fail(err, DS4_EMEMORY, "%s: no memory to keep account of experts", b->base.name);
        r->region = more;
        r->regions_cap = cap;
    }
    *out = (expert_place){ 0 };
    const ds4_status st = b->device->alloc(b->device, kind, bytes, &out->at,
                                           kind == GPU_PINNED ? (void **)&out->host : NULL, err);
    if (st) return st;
    r->region[r->n_regions++] = (expert_region){ kind, out->at };
    return DS4_OK;
}

/* Of a new stack's experts, so many have room on the card. The first stack of a layer decides for
 * all three, as if each of the others were one and a half times its size; those take fewer if
 * that does not do. The first of all keeps room for the spare places. */
static int experts_on_card(cuda_residency *r, int n, uint64_t each)
{
    const uint64_t layer_each = 4 * each, spares = RESIDENCY_EXCHANGES * layer_each;
    if (r->n_stacks == 0 && r->left >= 2 * spares) {
        r->spare_bytes = spares;
        r->left -= spares;
    }
    if (r->n_stacks % 3 == 0)
        r->with_card = (int)(r->left / layer_each < (uint64_t)n ? r->left / layer_each : (uint64_t)n);
    const uint64_t room = r->left / each;
    const int on_card = min_int(r->with_card, room < (uint64_t)n ? (int)room : n);
    r->left -= (uint64_t)on_card * each;
    return on_card;
}

ds4_status residency_add(cuda_backend *b, int n, uint64_t each, expert_stack **out, ds4_error *err)
{
    cuda_residency *r = b->residency;
    if (r->n_stacks == r->stacks_cap) {
        const int cap = max_int(2 * r->stacks_cap, 16);
        expert_stack *more = realloc(r->stack, (size_t)cap * sizeof *more);
        if (!more) return ds4_fail(err, DS4_EMEMORY, "%s: no memory to keep account of experts", b->base.name);
        r->stack = more;
        r->stacks_cap = cap;
    }
    const int on_card = experts_on_card(r, n, each);
    const uint64_t with_host = (uint64_t)(n - on_card) * each;
    expert_stack s = { .place = calloc((size_t)n, sizeof *s.place), .each = each, .n = n };
    expert_place card = { 0 }, host = { 0 };
    ds4_error why;
    ds4_status st = DS4_OK;
    if (!s.place) st = ds4_fail(err, DS4_EMEMORY, "%s: no memory to keep account of experts", b->base.name);
    if (!st && on_card) st = take_region(b, GPU_LOCAL, (uint64_t)on_card * each, &card, err);
    if (!st && with_host && take_region(b, GPU_PINNED, with_host, &host, &why))
        st = ds4_fail(err, DS4_EMEMORY,
                      "%s: %.2f GiB of experts are to stay in host memory, which the system does not give: %s; "
                      "a larger limit of locked memory or more memory helps", b->base.name, in_gib(with_host),
                      why.message);
    if (st) {
        free(s.place);
        return st;
    }
    for (int e = 0; e < n; e++) {
        const uint64_t off = (uint64_t)(e < on_card ? e : e - on_card) * each;
        s.place[e] = e < on_card ? (expert_place){ card.at + off, NULL }
                                 : (expert_place){ host.at + off, host.host + off };
    }
    r->stack[r->n_stacks++] = s;
    r->live++;
    *out = &r->stack[r->n_stacks - 1];
    return DS4_OK;
}

/* ---- counters ------------------------------------------------------------------------------------ */

gpu_ptr cuda_residency_uses(cuda_backend *b, view gate)
{
    const int layer = (cuda_buf_of(gate)->stack - 1) / 3;
    if (!cuda_buf_of(gate)->stack || layer >= b->residency->counted) return 0;
    return b->residency->uses + (uint64_t)layer * (uint64_t)b->o.limits.n_experts * sizeof(uint32_t);
}

backend_expert_counts cuda_residency_counts(const backend *b) { return ((const cuda_backend *)b)->residency->counts; }

/* Layers that have counters and all three stacks. */
static int layers_of(const cuda_residency *r) { return min_int(r->counted, r->n_stacks / 3); }

static expert_place *places_of(cuda_residency *r, int layer, int which) { return r->stack[3 * layer + which].place; }

/* The bytes that a read of this expert moves over the bus. */
static uint64_t bus_bytes_of(cuda_residency *r, int layer, int e)
{
    uint64_t n = 0;
    for (int i = 0; i < 3; i++) n += places_of(r, layer, i)[e].host ? r->stack[3 * layer + i].each : 0;
    return n;
}

static void look_at_uses(cuda_backend *b)
{
    cuda_residency *r = b->residency;
    for (int l = 0; l < layers_of(r); l++)
        for (int e = 0; e < r->stack[3 * l].n; e++) {
            const size_t i = (size_t)l * (size_t)b->o.limits.n_experts + (size_t)e;
            const uint32_t n = r->uses_host[i] - r->uses_before[i];
            const uint64_t bytes = bus_bytes_of(r, l, e);
            r->uses_before[i] = r->uses_host[i];
            r->heat[i] = HEAT_DECAY * r->heat[i] + (float)n;
            if (bytes) r->counts.misses += n;
            else r->counts.hits += n;
            r->counts.bus_bytes += bytes * n;
        }
}

/* ---- exchanges ------------------------------------------------------------------------------------ */

static bool in_exchange(const cuda_residency *r, int layer, int e)
{
    for (int i = 0; i < RESIDENCY_EXCHANGES; i++) {
        const expert_exchange *x = &r->exchange[i];
        if (x->phase && ((x->hot_layer == layer && x->hot == e) || (x->cold_layer == layer && x->cold == e))) return true;
    }
    return false;
}

/* Spare places fit layers whose experts are as large as the first layer's. */
static bool exchanges(const cuda_residency *r, int layer)
{
    for (int i = 0; i < 3; i++)
        if (r->stack[3 * layer + i].each != r->stack[i].each || r->stack[3 * layer + i].n != r->stack[3 * layer].n)
            return false;
    return true;
}

/* The hottest expert with the host and the coldest on the card, if it pays. */
static bool choose(cuda_backend *b, expert_exchange *x)
{
    cuda_residency *r = b->residency;
    float hottest = 0.0f, coldest = 0.0f;
    bool  hot = false, cold = false;
    for (int l = 0; l < layers_of(r); l++) {
        if (!exchanges(r, l)) continue;
        const float *heat = r->heat + (size_t)l * (size_t)b->o.limits.n_experts;
        for (int e = 0; e < r->stack[3 * l].n; e++) {
            const uint64_t bytes = bus_bytes_of(r, l, e);
            const bool all = bytes == r->stack[0].each + r->stack[1].each + r->stack[2].each;
            if (in_exchange(r, l, e) || (bytes && !all)) continue;
            if (all && (!hot || heat[e] > hottest)) {
                hot = true;
                hottest = heat[e];
                x->hot_layer = l;
                x->hot = e;
            } else if (!all && (!cold || heat[e] < coldest)) {
                cold = true;
                coldest = heat[e];
                x->cold_layer = l;
                x->cold = e;
            }
        }
    }
    return hot && cold && hottest > 1.5f * coldest + 1.0f;
}

/* Where they find no memory, experts stay where they are; what was taken is freed with the stacks. */
static ds4_status take_spares(cuda_backend *b, ds4_error *err)
{
    cuda_residency *r = b->residency;
    ds4_status st = DS4_OK;
    for (int i = 0; i < RESIDENCY_EXCHANGES && !st; i++)
        for (int m = 0; m < 3 && !st; m++)
            st = take_region(b, GPU_LOCAL, r->stack[m].each, &r->exchange[i].spare[m], err);
    r->spares = st == DS4_OK;
    if (st) r->spare_bytes = 0;
    return st == DS4_EMEMORY ? DS4_OK : st;
}

static void moved(move_experts_args *moves, cuda_residency *r, int layer, int which, int e, expert_place to)
{
    const expert_stack *s = &r->stack[3 * layer + which];
    moves->entry[moves->n] = s->table + (uint64_t)e * sizeof(gpu_ptr);
    moves->value[moves->n++] = to.at;
    s->place[e] = to;
}

/* Copies of the step before are over: tables may name where they went. */
static void advance(cuda_residency *r, move_experts_args *moves)
{
    for (int i = 0; i < RESIDENCY_EXCHANGES; i++) {
        expert_exchange *x = &r->exchange[i];
        for (int m = 0; m < 3 && x->phase == EXCHANGE_HOT_COMES; m++) {
            x->left[m] = places_of(r, x->hot_layer, m)[x->hot];
            moved(moves, r, x->hot_layer, m, x->hot, x->spare[m]);
        }
        for (int m = 0; m < 3 && x->phase == EXCHANGE_COLD_GOES; m++) {
            x->spare[m] = places_of(r, x->cold_layer, m)[x->cold];
            moved(moves, r, x->cold_layer, m, x->cold, x->left[m]);
        }
        r->counts.exchanges += x->phase == EXCHANGE_COLD_GOES;
        x->phase = x->phase == EXCHANGE_HOT_COMES ? EXCHANGE_COLD_GOES : EXCHANGE_NONE;
    }
}

static ds4_status copy_expert(cuda_backend *b, const expert_exchange *x, ds4_error *err)
{
    cuda_residency *r = b->residency;
    gpu_device *d = b->device;
    ds4_status st = DS4_OK;
    for (int m = 0; m < 3 && !st; m++) {
        const uint64_t n = r->stack[m].each;
        if (x->phase == EXCHANGE_HOT_COMES)
            st = d->to_device(d, GPU_COPY, x->spare[m].at, places_of(r, x->hot_layer, m)[x->hot].host, n, err);
        else
            st = d->to_host(d, GPU_COPY, x->left[m].host, places_of(r, x->cold_layer, m)[x->cold].at, n, err);
    }
    return st;
}

/* The next copies, after everything that was submitted so far: until then steps read the places that
 * are written now. */
static ds4_status copy_experts(cuda_backend *b, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < RESIDENCY_EXCHANGES && !st; i++) {
        expert_exchange *x = &b->residency->exchange[i];
        if (x->phase == EXCHANGE_NONE && choose(b, x)) x->phase = EXCHANGE_HOT_COMES;
        if (x->phase) st = copy_expert(b, x, err);
    }
    return st;
}

ds4_status cuda_residency_step(cuda_backend *b, ds4_error *err)
{
    cuda_residency *r = b->residency;
    gpu_device *d = b->device;
    ds4_status st = upload_end(b, err);
    if (st || !r->partial || r->closing || layers_of(r) == 0) return st;

    move_experts_args moves = { .n = 0 };
    st = d->sync(d, GPU_COPY, err);                     /* what the step before last began: long over */
    if (st) return st;
    if (r->uses_come) look_at_uses(b);
    r->uses_come = false;
    if (!r->spares && r->spare_bytes >= RESIDENCY_EXCHANGES * (r->stack[0].each + r->stack[1].each + r->stack[2].each))
        st = take_spares(b, err);
    advance(r, &moves);
    const gpu_launch l = { CUDA_move_experts, { 1, 1, 1 }, 32, 0, &moves, sizeof moves };
    if (!st && moves.n) st = d->launch(d, GPU_MAIN, &l, err);
    if (!st && r->steps++ % COUNT_STEPS == 0) {
        st = d->to_host(d, GPU_MAIN, (void *)(uintptr_t)r->uses_host, r->uses, n_counters(b) * sizeof(uint32_t), err);
        r->uses_come = !st;
    }
    if (!st) st = d->record(d, GPU_MAIN, CUDA_EVENT_RESIDENCY, err);
    if (!st) st = d->wait(d, GPU_COPY, CUDA_EVENT_RESIDENCY, err);
    return st || !r->spares ? st : copy_experts(b, err);
}
