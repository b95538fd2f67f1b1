/* cpu_kernels: the inner loops of the CPU backend, one table for all
 * instruction sets.
 *
 * cpu_kernels_init fills the table with the scalar definitions (ref.c) and lets
 * every allowed instruction set that this machine has replace what it does
 * better. Pointers never overlap; n is a whole number of blocks of the type;
 * nothing needs alignment beyond its element's. Any thread.
 *
 * All rungs agree to the bit on quantise, axpy and the half conversions (finite
 * inputs), and on the integers inside a dot product, whatever the codes. They
 * may differ in the order of float additions: dots, and sum_squares in double. */
#ifndef KERNELS_CPU_KERNELS_H
#define KERNELS_CPU_KERNELS_H

#include <stdbool.h>
#include <stdint.h>
#include "quant/quant.h"

enum {
    ISA_AVX2     = 1 << 0,      /* AVX2, FMA, F16C                        */
    ISA_AVX512   = 1 << 1,      /* AVX-512 F BW VL DQ VNNI                */
    ISA_NEON     = 1 << 2       /* ARMv8.2 with dot product               */
};

/* sum_i w[i]*x[i]; x is stored as quant_get(type)->dot_type. */
typedef float dot_fn(const void *restrict w, const void *restrict x, int n);

typedef struct {
    dot_fn *dot[QUANT_COUNT];                   /* NULL: the type holds no weights          */
    /* Activations: F32 to Q8_0, Q8_1 or Q8_K; NULL for other types. */
    void  (*quantise[QUANT_COUNT])(void *restrict dst, const float *restrict src, int n);

    float (*dot_f32)(const float *restrict a, const float *restrict b, int n);
    float (*dot_f16)(const uint16_t *restrict a, const float *restrict b, int n);
    double (*sum_squares)(const float *restrict x, int n);
    void  (*axpy_f32)(float *restrict y, float a, const float *restrict x, int n);      /* y += a*x */
    void  (*axpy_f16)(float *restrict y, float a, const uint16_t *restrict x, int n);
    void  (*f16_to_f32)(float *restrict y, const uint16_t *restrict x, int n);
    void  (*f32_to_f16)(uint16_t *restrict y, const float *restrict x, int n);          /* ties to even */
} cpu_kernels;

/* isa_allowed 0 gives the definitions. */
void        cpu_kernels_init(cpu_kernels *k, uint32_t isa_allowed);
uint32_t    cpu_isa_present(void);              /* of this machine */
const char *cpu_isa_name(uint32_t isa);         /* of the strongest in the set: "ref" "avx2" ... */

/* The rungs, each in a file compiled for its instruction set. */
void cpu_kernels_ref(cpu_kernels *k);
void cpu_kernels_avx2(cpu_kernels *k);
void cpu_kernels_avx512(cpu_kernels *k);
void cpu_kernels_neon(cpu_kernels *k);

#endif
