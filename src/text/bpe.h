/* bpe: byte-pair merges within one piece of text.
 *
 * A piece starts as one symbol per byte. Among neighbouring pairs that are in the
 * merge list the one with the lowest rank is joined, the leftmost on ties, until no
 * pair is left (Sennrich et al. 2016, over bytes). Symbols are token ids, so a pair is
 * two numbers and no text is compared. Immutable once filled; any thread may encode. */
#ifndef TEXT_BPE_H
#define TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/slice.h"
#include "ds4_status.h"
#include "text/token_list.h"

/* Longer pieces take the heap: O(n log n) however long, where the scan is O(n^2). */
#define BPE_SCAN_BYTES 32

typedef struct {
    uint64_t pair;          /* left id << 32 | right id              */
    uint32_t rank;
    int32_t  merged;        /* id of the joined symbol; -1: no entry */
} bpe_merge;

typedef struct bpe {
    int32_t    byte_id[256];
    bpe_merge *slots;       /* open addressing, at most half full    */
    size_t     n_slots;     /* a power of two                        */
    size_t     n;
} bpe;

/* Room for n_merges. */
ds4_status bpe_open(bpe *b, const int32_t byte_id[256], size_t n_merges, ds4_error *err);
void       bpe_close(bpe *b);               /* closes a zeroed one too */

/* The next merge in rank order; a pair that is already known keeps its rank. */
void       bpe_add(bpe *b, int32_t left, int32_t right, int32_t merged);

/* Working memory for long pieces, grown as needed; a plain value, starts zeroed. */
typedef struct {
    struct bpe_node *nodes;
    uint64_t        *heap;
    size_t           cap;   /* bytes of the longest piece it holds   */
} bpe_work;

void bpe_work_free(bpe_work *w);

/* Appends the tokens of a piece. DS4_EMEMORY, or DS4_EARG for a piece of 4 GiB. That
 * out was full is the caller's to see (out->wanted). */
ds4_status bpe_encode(const bpe *b, bpe_work *w, slice piece, token_list *out, ds4_error *err);

#endif
