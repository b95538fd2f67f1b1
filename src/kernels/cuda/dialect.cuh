/* dialect: what a kernel file may use, for nvcc and for the lane runner.
 *
 * A .cu file includes this first, is compiled by nvcc for devices and by the host's
 * C++ compiler against tests/gpu_host/lanes.h, which gives the same names a meaning
 * on the CPU. CUDA's own names are used where both can have them (threadIdx,
 * __syncthreads, __shfl_xor_sync, __dp4a); what needs inline assembly or differs is
 * wrapped here. House rules, which the runner enforces:
 *
 *   - a kernel is KERNEL(name, args, threads) and takes one plain struct, `a`;
 *   - block-local arrays go through SHARED and SHARED_DYNAMIC;
 *   - all 32 lanes of a warp take part in every warp operation (FULL_MASK);
 *   - all threads of a block reach every __syncthreads.
 *
 * Layouts of matrix fragments are those of the PTX manual, "Matrix Fragments for
 * mma"; g = lane / 4, i = lane % 4. */
#ifndef KERNELS_CUDA_DIALECT_CUH
#define KERNELS_CUDA_DIALECT_CUH

#include <stdint.h>

#include "kernels/cuda/device_types.h"

#define FULL_MASK 0xffffffffu
enum { WARP = 32 };

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#define FORMULA __device__ __forceinline__
#define CONSTANT_TABLE __device__ const

/* extern "C" so that the driver finds the kernel by its name; at most `threads` threads a block. */
#define KERNEL(name, args, threads)                                           \
    extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ args a)
/* The same with registers for so many blocks side by side on a multiprocessor, and no fewer than fit. */
#define KERNEL_RESIDENT(name, args, threads, blocks)                          \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ args a)

#define SHARED(type, name, n) __shared__ type name[n]
/* The launch's dynamic shared memory, 16-byte aligned; once in a kernel. */
#define SHARED_DYNAMIC(type, name)                                            \
    extern __shared__ uint4 dynamic_shared_memory[];                          \
    type *const name = reinterpret_cast<type *>(dynamic_shared_memory)

/* Waits for the kernel before this one in its stream where it was launched early; lets the next
 * one begin its prologue. Nothing may be read or written before launch_wait, but for weights, which no
 * kernel of a step writes; experts change places. All kernels call it: a kernel is over after the one before it, so
 * whoever waits for the latest waits for all. What the kernel before may have written is not read by __ldg or
 * load_once, which take memory for unchanged while a kernel runs. */
DEVICE void launch_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DEVICE void launch_next(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/* Weights are read once: past L1, in the longest pieces that memory gives. 16 bytes, aligned. */
DEVICE uint4 load_once(const void *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

/* Global to shared memory, 16 bytes, both aligned; done after async_wait. */
DEVICE void async_copy16(void *shared, const void *global)
{
    const unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(global) : "memory");
}
/* The same of 8 bytes, through L1. */
DEVICE void async_copy8(void *shared, const void *global)
{
    const unsigned to = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" :: "r"(to), "l"(global) : "memory");
}
DEVICE void async_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most n of this thread's groups are under way. */
template <int n> DEVICE void async_wait(void) { asm volatile("cp.async.wait_group %0;" :: "n"(n) : "memory"); }

DEVICE float half_bits_to_float(uint16_t h)
{
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
DEVICE uint16_t float_to_half_bits(float f)          /* to nearest even */
{
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}
DEVICE uint32_t float_to_tf32(float f)               /* to nearest, ties away; 10 bits of mantissa stay */
{
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(f));
    return r;
}

/* Sine and cosine of x times pi, without a slow way for large x. */
DEVICE void sine_cosine_of_pi(double x, double *s, double *c) { sincospi(x, s, c); }

/* d[16][8] += a[16][32] * b[32][8], int8. a: (g,4i..) (g+8,4i..) (g,16+4i..) (g+8,16+4i..); b: (4i..,g)
 * (16+4i..,g); d: (g,2i) (g,2i+1) (g+8,2i) (g+8,2i+1). */
DEVICE void mma_s8_k32(int32_t d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* The same with 16 columns of a: a: (g,4i..) (g+8,4i..); b: (4i..,g). */
DEVICE void mma_s8_k16(int32_t d[4], const uint32_t a[2], const uint32_t b[1])
{
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(b[0]));
}
/* Pairs of binary16, sums in float. a: (g,2i..) (g+8,2i..) (g,8+2i..) (g+8,8+2i..); b: (2i..,g) (8+2i..,g). */
DEVICE void mma_f16_k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Pairs of bfloat16; layouts of mma_f16_k16. */
DEVICE void mma_bf16_k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* Floats of which the unit sees the upper 19 bits. a: (g,i) (g+8,i) (g,4+i) (g+8,4+i); b: (i,g) (4+i,g). */
DEVICE void mma_tf32_k8(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8x8 matrices of 16-bit numbers from shared memory: lane l names row l%8 of matrix l/8, 16 bytes and
 * aligned; d[m] is numbers (g,2i) (g,2i+1) of matrix m, turned: (2i,g) (2i+1,g). */
DEVICE void load_matrices(uint32_t d[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
DEVICE void load_matrices_turned(uint32_t d[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}

/* What lies at a device address. The only way from one to a pointer. */
template <class T> DEVICE T *gpu_at(gpu_ptr p, uint64_t offset = 0) { return reinterpret_cast<T *>(p + offset); }

#else
#include "lanes.h"
#endif

/* A function of a struct that needs no object. */
#define DEVICE_MEMBER static __device__ __forceinline__

/* ---- the same on both sides ------------------------------------------------------- */

DEVICE float as_float(uint32_t u)
{
    union { uint32_t u; float f; } v;
    v.u = u;
    return v.f;
}
DEVICE uint32_t as_bits(float f)
{
    union { float f; uint32_t u; } v;
    v.f = f;
    return v.u;
}

DEVICE int lane_id(void) { return (int)(threadIdx.x % WARP); }
DEVICE int warp_id(void) { return (int)(threadIdx.x / WARP); }

/* Over the lanes of a warp; every lane gets the result, in one order of additions. */
template <class T> DEVICE T warp_sum(T v)
{
    for (int m = WARP / 2; m > 0; m /= 2) v += __shfl_xor_sync(FULL_MASK, v, m);
    return v;
}
DEVICE float warp_max(float v)
{
    for (int m = WARP / 2; m > 0; m /= 2) v = fmaxf(v, __shfl_xor_sync(FULL_MASK, v, m));
    return v;
}

/* Over the threads of a block (blockDim.x, at most 1024); every thread gets the result.
 * `room` is shared memory for 32 values that nobody else uses between two barriers. */
template <class T> DEVICE T block_sum(T v, T *room)
{
    const int warps = (int)(blockDim.x + WARP - 1) / WARP;
    v = warp_sum(v);
    __syncthreads();
    if (lane_id() == 0) room[warp_id()] = v;
    __syncthreads();
    return warp_sum(lane_id() < warps ? room[lane_id()] : T(0));
}
DEVICE float block_max(float v, float *room)
{
    const int warps = (int)(blockDim.x + WARP - 1) / WARP;
    v = warp_max(v);
    __syncthreads();
    if (lane_id() == 0) room[warp_id()] = v;
    __syncthreads();
    return warp_max(lane_id() < warps ? room[lane_id()] : room[0]);
}

#include "kernels/shared/formulas.h"

#endif
