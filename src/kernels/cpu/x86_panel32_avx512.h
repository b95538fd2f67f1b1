/* x86_panel32_avx512: tiles of many activations for types with blocks of 32 or less.
 *
 * Blocks of 32 rows are unpacked once into a panel, four codes of sixteen rows to a
 * vector, and stay in the first-level cache while all activations pass, four at a
 * time. A type gives the function that unpacks; everything after it is common. */
#ifndef KERNELS_CPU_X86_PANEL32_AVX512_H
#define KERNELS_CPU_X86_PANEL32_AVX512_H

#include "kernels/cpu/x86_avx512.h"

enum { PANEL_ROWS = 32, PANEL_COLS = 512, PANEL_BATCH = 64, PANEL_EXTRA = 48 * 1024 };

/* How the blocks of a panel meet an activation. */
typedef enum {
    PANEL_SYMMETRIC,        /* 32 codes with d, Q8_0                                    */
    PANEL_AFFINE,           /* 32 codes with d and m, Q8_1                              */
    PANEL_SIXTEENS          /* 16 codes with d, half a block of Q8_0                    */
} panel_kind;

/* Some columns of 32 rows. Step k of a block: codes 4k .. 4k+3 of rows 0..15, then of
 * rows 16..31; eight steps to a block of 32. */
typedef struct {
    uint8_t codes[PANEL_COLS * PANEL_ROWS];                             /* [block][step][2][16][4] */
    float   d[PANEL_COLS / 16][2][16], m[PANEL_COLS / 16][2][16];       /* [block]                 */
    float   y[PANEL_BATCH][2][16];
    union {
        int32_t start[PANEL_EXTRA];                     /* [n_blocks][batch] -offset * sum a     */
        float   s[PANEL_EXTRA];                         /* [n_blocks][batch] of Q8_1 where affine */
    } extra;
} panel32;

_Static_assert(sizeof(panel32) <= TILE_SCRATCH, "the panel fits the scratch");

typedef struct {
    /* Fills half g of the panel with n blocks (as stored) of sixteen rows from w on. `far`:
     * asks memory for the columns behind them. */
    void     (*unpack)(panel32 *p, const uint8_t *w, size_t stride, int g, int n, bool far);
    panel_kind kind;
    int        len, bytes;  /* of a block as it is stored                                     */
    int        offset;      /* unsigned code - value                                          */
} panel32_type;

/* rows >= 16 */
void panel32_tile(const panel32_type *t, const tile_args *a);

#endif
