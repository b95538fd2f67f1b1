/* cuda_residency: which routed experts lie on the card, and the way of weights there.
 *
 * With backend_options.expert_bytes, experts that have no room on the card stay in pinned host memory, cut
 * into planes alike, and kernels read them there through the same tables of addresses. Adopted stacks
 * come as gate, up, down of one layer after another; the matrices of an expert move together.
 *
 * Between steps, experts that are used often change places with experts on the card that are not: copies
 * run beside a step into places that no table names, and tables change between steps, so a step sees
 * whole experts only. Results do not depend on it. Engine thread only. Private to cuda_weights.c,
 * cuda_residency.c and who shows the counters. */
#ifndef KERNELS_CUDA_RESIDENCY_H
#define KERNELS_CUDA_RESIDENCY_H

#include "kernels/cuda/cuda_internal.h"

typedef struct {
    gpu_ptr  at;
    uint8_t *host;              /* where the host may write it; NULL: on the card */
} expert_place;

/* One adopted stack in parts. */
typedef struct {
    gpu_ptr       table;        /* on the card, of the weight's record */
    expert_place *place;        /* [n] owned */
    uint64_t      each;         /* bytes of one expert's matrix */
    int           n;
} expert_stack;

typedef struct {
    gpu_memory kind;
    gpu_ptr    at;
} expert_region;

enum { UPLOAD_SLICES = 4, RESIDENCY_EXCHANGES = 2 };

/* Staging of uploads: the host fills one slice while the card works on the others. */
typedef struct {
    gpu_ptr  pinned, card;
    uint8_t *host;
    int      next;
    uint64_t bytes;             /* uploaded so far, for sentences */
} upload_staging;

/* A hot expert on its way to the card in place of a cold one. Numbers of layers are those of stacks / 3. */
typedef enum { EXCHANGE_NONE, EXCHANGE_HOT_COMES, EXCHANGE_COLD_GOES } exchange_phase;
typedef struct {
    exchange_phase phase;
    int            hot_layer, hot, cold_layer, cold;
    expert_place   spare[3];    /* on the card; no table names it         */
    expert_place   left[3];     /* HOT_COMES, COLD_GOES: the hot one's old place */
} expert_exchange;

struct cuda_residency {
    upload_staging staging;
    bool           partial;     /* some experts may stay with the host */
    bool           closing;     /* stacks are being freed: nothing moves any more */
    uint64_t       left;        /* bytes on the card not yet given */
    int            with_card;   /* experts of this layer on the card */
    expert_stack  *stack;       /* [n_stacks] */
    int            n_stacks, stacks_cap, live;
    expert_region *region;      /* owned memory */
    int            n_regions, regions_cap;
    bool           spares;      /* exchanges have their spare places */
    uint64_t       spare_bytes; /* kept for them */
    expert_exchange exchange[RESIDENCY_EXCHANGES];
    gpu_ptr        uses, uses_pinned;   /* uint32 [counted][n_experts] */
    const uint32_t *uses_host;
    uint32_t      *uses_before;
    float         *heat;        /* [counted][n_experts], uses with decay */
    int            counted;     /* layers with counters */
    bool           uses_come;   /* a copy of the counters is on its way */
    unsigned       steps;
    backend_expert_counts counts;
};

/* How many of a new stack's n experts go to the card, and their memory. */
ds4_status residency_add(cuda_backend *b, int n, uint64_t each, expert_stack **out, ds4_error *err);
/* Waits for what is on its way and frees the staging memory. */
ds4_status upload_end(cuda_backend *b, ds4_error *err);

#endif
