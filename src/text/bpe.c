#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

#define NO_RANK UINT32_MAX
#define NO_NODE UINT32_MAX

ds4_status bpe_open(bpe *b, const int32_t byte_id[256], size_t n_merges, ds4_error *err)
{
    memcpy(b->byte_id, byte_id, sizeof b->byte_id);
    b->n = 0;
    b->n_slots = 16;
    while (b->n_slots / 2 < n_merges) b->n_slots *= 2;

    size_t n_bytes = 0;
    b->slots = checked_mul_size(b->n_slots, sizeof *b->slots, &n_bytes) ? malloc(n_bytes) : NULL;
    if (!b->slots) return ds4_fail(err, DS4_EMEMORY, "no memory for a table of %zu merges", n_merges);
    for (size_t i = 0; i < b->n_slots; i++) b->slots[i] = (bpe_merge){ .merged = -1 };
    return DS4_OK;
}

void bpe_close(bpe *b)
{
    free(b->slots);
    *b = (bpe){ .slots = NULL };
}

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

/* The entry of a pair, or the empty slot where it would stand. */
static inline bpe_merge *find_slot(const bpe *b, uint64_t pair)
{
    uint64_t h = pair * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    size_t i = (size_t)(h >> 32) & (b->n_slots - 1);
    while (b->slots[i].merged >= 0 && b->slots[i].pair != pair) i = (i + 1) & (b->n_slots - 1);
    return &b->slots[i];
}

void bpe_add(bpe *b, int32_t left, int32_t right, int32_t merged)
{
    const uint64_t pair = pair_of(left, right);
    bpe_merge *m = find_slot(b, pair);
    if (m->merged < 0) *m = (bpe_merge){ pair, (uint32_t)b->n, merged };
    b->n++;
}

/* A pair of neighbours as the encoders keep it. */
typedef struct {
    uint32_t rank;          /* NO_RANK: does not join */
    int32_t  merged;
} joint;

static inline joint joint_of(const bpe *b, int32_t left, int32_t right)
{
    const bpe_merge *m = find_slot(b, pair_of(left, right));
    return m->merged < 0 ? (joint){ NO_RANK, -1 } : (joint){ m->rank, m->merged };
}

/* ---- short pieces: look through all pairs for the best one ---------------- */

static void encode_by_scan(const bpe *b, slice piece, token_list *out)
{
    int32_t symbol[BPE_SCAN_BYTES];
    joint   next[BPE_SCAN_BYTES];           /* next[i]: symbol[i] with symbol[i + 1] */
    int n = (int)piece.len;

    for (int i = 0; i < n; i++) symbol[i] = b->byte_id[(unsigned char)piece.data[i]];
    for (int i = 0; i + 1 < n; i++) next[i] = joint_of(b, symbol[i], symbol[i + 1]);

    while (n > 1) {
        int best = 0;
        for (int i = 1; i + 1 < n; i++) {
            if (next[i].rank < next[best].rank) best = i;
        }
        if (next[best].rank == NO_RANK) break;

        symbol[best] = next[best].merged;
        n--;
        for (int i = best + 1; i < n; i++) {
            symbol[i] = symbol[i + 1];
            next[i - 1] = next[i];
        }
        if (best + 1 < n) next[best] = joint_of(b, symbol[best], symbol[best + 1]);
        if (best > 0) next[best - 1] = joint_of(b, symbol[best - 1], symbol[best]);
    }
    for (int i = 0; i < n; i++) token_list_push(out, symbol[i]);
}

/* ---- long pieces: a linked list and a heap of (rank, position) ------------ */

/* One per byte of the piece; a symbol lives in the node of its first byte. */
typedef struct bpe_node {
    int32_t  symbol;
    uint32_t prev, next;    /* NO_NODE at the ends                            */
    joint    pair;          /* with the symbol after it; NO_RANK once joined  */
} node;

typedef struct {
    uint64_t *at;           /* smallest first: rank << 32 | node */
    size_t    n;
} heap;

static void heap_push(heap *h, uint64_t key)
{
    size_t i = h->n++;
    while (i > 0 && h->at[(i - 1) / 2] > key) {
        h->at[i] = h->at[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h->at[i] = key;
}

static uint64_t heap_pop(heap *h)
{
    const uint64_t top = h->at[0], key = h->at[--h->n];
    size_t i = 0;
    for (size_t child = 1; child < h->n; child = 2 * i + 1) {
        if (child + 1 < h->n && h->at[child + 1] < h->at[child]) child++;
        if (h->at[child] >= key) break;
        h->at[i] = h->at[child];
        i = child;
    }
    h->at[i] = key;
    return top;
}

/* Looks the pair that begins at node i up anew and queues it. */
static void queue_pair(const bpe *b, node *nodes, uint32_t i, heap *h)
{
    node *left = &nodes[i];
    left->pair = left->next == NO_NODE ? (joint){ NO_RANK, -1 }
                                       : joint_of(b, left->symbol, nodes[left->next].symbol);
    if (left->pair.rank != NO_RANK) heap_push(h, (uint64_t)left->pair.rank << 32 | i);
}

/* Node i takes the symbol after it in. */
static void join(node *nodes, uint32_t i)
{
    node *left = &nodes[i], *right = &nodes[left->next];
    left->symbol = left->pair.merged;
    left->next = right->next;
    if (right->next != NO_NODE) nodes[right->next].prev = i;
    right->pair.rank = NO_RANK;
}

static void encode_by_heap(const bpe *b, bpe_work *w, slice piece, token_list *out)
{
    const uint32_t n = (uint32_t)piece.len;
    node *nodes = w->nodes;
    heap h = { w->heap, 0 };

    for (uint32_t i = 0; i < n; i++) {
        nodes[i].symbol = b->byte_id[(unsigned char)piece.data[i]];
        nodes[i].prev = i > 0 ? i - 1 : NO_NODE;
        nodes[i].next = i + 1 < n ? i + 1 : NO_NODE;
    }
    for (uint32_t i = 0; i < n; i++) queue_pair(b, nodes, i, &h);

    while (h.n > 0) {
        const uint64_t key = heap_pop(&h);
        const uint32_t i = (uint32_t)key;
        /* A rank names one pair, so an entry is stale exactly when ranks differ. */
        if (nodes[i].pair.rank != key >> 32) continue;
        join(nodes, i);
        queue_pair(b, nodes, i, &h);
        if (nodes[i].prev != NO_NODE) queue_pair(b, nodes, nodes[i].prev, &h);
    }
    for (uint32_t i = 0; i != NO_NODE; i = nodes[i].next) token_list_push(out, nodes[i].symbol);
}

void bpe_work_free(bpe_work *w)
{
    free(w->nodes);
    free(w->heap);
    *w = (bpe_work){ .nodes = NULL };
}

/* The heap begins with at most n - 1 pairs; each join takes one out and puts at most
 * two in, and there are at most n - 1 joins: 2n entries at any time. */
static ds4_status work_reserve(bpe_work *w, size_t n, ds4_error *err)
{
    size_t node_bytes = 0, heap_bytes = 0;
    if (n <= w->cap) return DS4_OK;

    bpe_work_free(w);
    if (checked_mul_size(n, sizeof *w->nodes, &node_bytes)) w->nodes = malloc(node_bytes);
    if (checked_mul_size(n, 2 * sizeof *w->heap, &heap_bytes)) w->heap = malloc(heap_bytes);
    if (!w->nodes || !w->heap) {
        bpe_work_free(w);
        return ds4_fail(err, DS4_EMEMORY, "no memory to tokenize a word of %zu bytes", n);
    }
    w->cap = n;
    return DS4_OK;
}

ds4_status bpe_encode(const bpe *b, bpe_work *w, slice piece, token_list *out, ds4_error *err)
{
    if (piece.len <= BPE_SCAN_BYTES) {
        encode_by_scan(b, piece, out);
        return DS4_OK;
    }
    if (piece.len >= NO_NODE) {
        return ds4_fail(err, DS4_EARG, "a word of %zu bytes is too long to tokenize", piece.len);
    }

    const ds4_status st = work_reserve(w, piece.len, err);
    if (st) return st;
    encode_by_heap(b, w, piece, out);
    return DS4_OK;
}
