/* planes: how the blocks of each type are cut up on the device.
 *
 * X(type, elements, bytes, n planes, first0, len0, first1, len1, ...): plane p holds len
 * bytes of a block from byte `first` on. Every byte of a block is in one plane. Codes
 * come first. The one table of it: the upload cuts by it, kernels find their bytes by it. */
#ifndef KERNELS_CUDA_PLANES_H
#define KERNELS_CUDA_PLANES_H

#include <stdint.h>

enum { PLANES_MAX = 5, PLANE_ALIGN = 256 };

#define PLANES_TYPES(X)                                                       \
    X(F32,       1,   4, 1,   0,   4,   0,  0,   0,  0,   0, 0, 0, 0)         \
    X(F16,       1,   2, 1,   0,   2,   0,  0,   0,  0,   0, 0, 0, 0)         \
    X(BF16,      1,   2, 1,   0,   2,   0,  0,   0,  0,   0, 0, 0, 0)         \
    X(Q4_0,     32,  18, 2,   2,  16,   0,  2,   0,  0,   0, 0, 0, 0)         \
    X(Q4_1,     32,  20, 2,   4,  16,   0,  4,   0,  0,   0, 0, 0, 0)         \
    X(Q5_0,     32,  22, 3,   6,  16,   2,  4,   0,  2,   0, 0, 0, 0)         \
    X(Q5_1,     32,  24, 3,   8,  16,   4,  4,   0,  4,   0, 0, 0, 0)         \
    X(Q8_0,     32,  34, 2,   2,  32,   0,  2,   0,  0,   0, 0, 0, 0)         \
    X(IQ4_NL,   32,  18, 2,   2,  16,   0,  2,   0,  0,   0, 0, 0, 0)         \
    X(MXFP4,    32,  17, 2,   1,  16,   0,  1,   0,  0,   0, 0, 0, 0)         \
    X(NVFP4,    64,  36, 2,   4,  32,   0,  4,   0,  0,   0, 0, 0, 0)         \
    X(Q2_K,    256,  84, 3,  16,  64,   0, 16,  80,  4,   0, 0, 0, 0)         \
    X(Q3_K,    256, 110, 4,  32,  64,   0, 32,  96, 12, 108, 2, 0, 0)         \
    X(Q4_K,    256, 144, 1,   0, 144,   0,  0,   0,  0,   0, 0, 0, 0)         \
    X(Q5_K,    256, 176, 1,   0, 176,   0,  0,   0,  0,   0, 0, 0, 0)         \
    X(Q6_K,    256, 210, 4,   0, 128, 128, 64, 192, 16, 208, 2, 0, 0)         \
    X(IQ2_XXS, 256,  66, 2,   2,  64,   0,  2,   0,  0,   0, 0, 0, 0)         \
    X(IQ2_XS,  256,  74, 3,   2,  64,  66,  8,   0,  2,   0, 0, 0, 0)         \
    X(IQ2_S,   256,  82, 3,   2,  64,  66, 16,   0,  2,   0, 0, 0, 0)         \
    X(IQ3_XXS, 256,  98, 3,   2,  64,  66, 32,   0,  2,   0, 0, 0, 0)         \
    X(IQ3_S,   256, 110, 5,   2,  64,  74, 32,  66,  8, 106, 4, 0, 2)         \
    X(IQ1_S,   256,  50, 3,   2,  32,  34, 16,   0,  2,   0, 0, 0, 0)         \
    X(IQ4_XS,  256, 136, 2,   8, 128,   0,  8,   0,  0,   0, 0, 0, 0)

typedef struct {
    int block_len, block_bytes, n;
    struct { int first, len; } plane[PLANES_MAX];
} planes_of_type;

/* NULL for types without planes. Host code; kernels take constants from the list. */
const planes_of_type *planes_of(int type);

/* Bytes of a matrix of `blocks` blocks, and where its plane p begins. */
uint64_t planes_bytes(const planes_of_type *t, int64_t blocks);
uint64_t planes_offset(const planes_of_type *t, int64_t blocks, int p);

#endif
