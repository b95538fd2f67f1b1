/* cpu_kernels: the inner loops of the CPU backend, one table for all
 * instruction sets.
 *
 * cpu_kernels_init fills the table with the scalar definitions (ref.c) and lets
 * every allowed instruction set that this machine has replace what it does
 * better. Pointers never overlap; n is a whole number of blocks of the type;
 * nothing needs alignment beyond its element's. Any thread.
 *
 * All rungs agree to the bit on quantise and axpy (finite inputs), and on tiles of
 * types with integer sums, whatever the codes. They may differ in the order of float
 * additions: dots and tiles of float rows, and sum_squares in double. */
#ifndef KERNELS_CPU_KERNELS_H
#define KERNELS_CPU_KERNELS_H

#include <stdbool.h>
#include <stdint.h>
#include "kernels/cpu/attn_kernels.h"
#include "quant/quant.h"

struct cpu_kernels;

enum {
    ISA_AVX2        = 1 << 0,   /* AVX2, FMA, F16C                          */
    ISA_AVX512      = 1 << 1,   /* AVX-512 F BW VL DQ VNNI                  */
    ISA_NEON        = 1 << 2,   /* ARMv8.2 with dot product                 */
    ISA_AVX512_VBMI = 1 << 3,   /* ISA_AVX512 and VBMI, GFNI                */
    ISA_NEON_I8MM   = 1 << 4    /* ISA_NEON and products of 8-bit matrices  */
};

/* sum_i w[i]*x[i]; x is stored as quant_get(type)->dot_type. */
typedef float dot_fn(const void *restrict w, const void *restrict x, int n);

/* ---- activation rows ---- *
 * x as a matrix product reads it: the floats themselves, or what quantise makes
 * of them. A Q8_0 or Q8_1 row is followed by the same numbers as three planes,
 * each at a multiple of 64 bytes from the row's start: int8 codes [n], float
 * scales [n/32], int32 sums of the codes of a block [n/32]. A Q8_K row has all
 * of it in its blocks. */
uint64_t activation_bytes(quant_type type, int n);      /* a multiple of 64 */

typedef struct {
    const int8_t  *codes;
    const float   *d;
    const int32_t *sums;
} activation_planes;

activation_planes activation_planes_of(const uint8_t *row, quant_type type, int n);
/* From the row's blocks: the definition of what quantise leaves there. */
void activation_fill_planes(uint8_t *row, quant_type type, int n);

/* ---- tiles ---- *
 * y[c*y_stride + r] = w_r . x_c: some rows of weights with some activations. Each
 * y is one sum over all columns whose order does not depend on rows, batch or
 * scratch, so that cutting a product differently changes no bit. For types with
 * integer sums it is quant_get(type)->dot, to the bit; for float types it is the
 * rung's own dot, to the bit. */
#define TILE_SCRATCH (256 * 1024)

typedef struct {
    const uint8_t        *w;        /* first row                                     */
    uint64_t              w_stride; /* bytes                                         */
    int                   rows, n;  /* any number of rows; columns                   */
    const uint8_t *const *x;        /* [batch] activation rows                       */
    int                   batch;
    float                *y;
    uint64_t              y_stride; /* floats                                        */
    uint8_t              *scratch;  /* [TILE_SCRATCH], 64-byte aligned, this thread's */
} tile_args;

typedef void tile_fn(const struct cpu_kernels *k, const tile_args *a);

typedef struct cpu_kernels {
    tile_fn *tile[QUANT_COUNT];                 /* NULL: the type holds no weights          */
    dot_fn *dot[QUANT_COUNT];                   /* the same for one row and one activation  */
    /* A whole activation row, planes included: F32 to Q8_0, Q8_1 or Q8_K; NULL for other types. */
    void  (*quantise[QUANT_COUNT])(void *restrict dst, const float *restrict src, int n);

    float (*dot_f32)(const float *restrict a, const float *restrict b, int n);
    double (*sum_squares)(const float *restrict x, int n);
    void  (*axpy_f32)(float *restrict y, float a, const float *restrict x, int n);      /* y += a*x */

    attn_kernels attn;
} cpu_kernels;

/* isa_allowed 0 gives the definitions. */
void        cpu_kernels_init(cpu_kernels *k, uint32_t isa_allowed);
uint32_t    cpu_isa_present(void);              /* of this machine */
const char *cpu_isa_name(uint32_t isa);         /* of the strongest in the set: "ref" "avx2" ... */

/* The rungs, each in a file compiled for its instruction set. */
void cpu_kernels_ref(cpu_kernels *k);
void cpu_kernels_avx2(cpu_kernels *k);
void cpu_kernels_avx512(cpu_kernels *k);
void cpu_kernels_avx512vbmi(cpu_kernels *k);
void cpu_kernels_neon(cpu_kernels *k);
void cpu_kernels_neon_i8mm(cpu_kernels *k);

#endif
