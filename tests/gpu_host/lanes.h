/* lanes: a GPU's threads on the CPU, for tests.
 *
 * Runs a kernel's blocks one after another. Each thread of a block is a fibre; at a warp
 * operation it leaves its value in a slot and waits for the other 31 lanes, at
 * __syncthreads for the block. Lanes run in one of several orders, and block-local
 * memory begins as garbage, so that a missing barrier shows. What CUDA leaves undefined
 * (lanes of a warp at different operations, a thread that ends while others wait, shared
 * memory beyond the launch's) ends the process with the kernel's name.
 *
 * Included by dialect.cuh in place of CUDA's own headers. */
#ifndef TESTS_GPU_HOST_LANES_H
#define TESTS_GPU_HOST_LANES_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "lane_runner.h"

#define DEVICE static inline
#define FORMULA static inline
#define CONSTANT_TABLE static const
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __host__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))

#define KERNEL(name, args, threads)                                           \
    static void name##_lane(const args &a);                                   \
    extern "C" void name(const void *p)                                       \
    {                                                                         \
        lane_block_limit(threads, #name);                                     \
        name##_lane(*static_cast<const args *>(p));                           \
    }                                                                         \
    static void name##_lane(const args &a)
#define KERNEL_RESIDENT(name, args, threads, blocks) KERNEL(name, args, threads)

#define SHARED(type, name, n)                                                 \
    static char name##_site;                                                  \
    type *const name = static_cast<type *>(lane_shared(&name##_site, sizeof(type) * (size_t)(n), alignof(type)))
#define SHARED_DYNAMIC(type, name) type *const name = static_cast<type *>(lane_shared_dynamic())

struct lane_index { unsigned x, y, z; };
struct uint2 { unsigned x, y; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
struct int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return { x, y, z, w }; }
static inline float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }
static inline float2 make_float2(float x, float y) { return { x, y }; }
static inline int2 make_int2(int x, int y) { return { x, y }; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return { x, y }; }

/* What the running lane is; written by the runner alone. */
struct lane_place { lane_index thread, block, dim, grid; };
extern thread_local lane_place lane_now;
#define threadIdx lane_now.thread
#define blockIdx  lane_now.block
#define blockDim  lane_now.dim
#define gridDim   lane_now.grid

[[noreturn]] void lane_fail(const char *why);
[[noreturn]] void lane_misaligned(void);
void  lane_block_limit(unsigned threads, const char *kernel);
void *lane_shared(const void *site, size_t bytes, size_t align);
void *lane_shared_dynamic(void);
void  lane_barrier(void);
enum { LANE_SLOT = 32, LANE_MADE = 512 };
/* Gives `bytes` (at most LANE_SLOT) to the warp and waits for all lanes; slot l of the result, LANE_SLOT bytes
 * apart, is lane l's, good until the lane waits again. what: the operation, for messages. orders: what a
 * lane wrote before it the others see behind it; of CUDA's operations __syncwarp alone promises that. */
const uint8_t *lane_exchange(const char *what, const void *value, size_t bytes, bool orders = false);
/* The same where all lanes want parts of one result (at most LANE_MADE bytes): `make` writes it, once for the warp. */
const void *lane_exchange_once(const char *what, const void *value, size_t bytes,
                               void (*make)(const uint8_t *slots, void *made), size_t made_bytes);
static inline int lane_of_warp(void) { return static_cast<int>(lane_now.thread.x % 32); }

/* What lies at a device address; 0 stays nothing. */
template <class T> static inline T *gpu_at(uint64_t p, uint64_t offset = 0)
{
    if (p && !(p & LANE_ADDRESS)) lane_fail("gpu_at of something that is no device address");
    return reinterpret_cast<T *>((p & ~LANE_ADDRESS) + offset);
}

static inline void __syncthreads(void) { lane_barrier(); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { (void)mask; lane_exchange("syncwarp", "", 1, true); }
static inline void __threadfence_block(void) {}

template <class T> static inline T lane_slot(const uint8_t *slots, int lane)
{
    T v;
    memcpy(&v, slots + LANE_SLOT * lane, sizeof v);
    return v;
}
template <class T> static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32)
{
    (void)mask;
    const int lane = lane_of_warp();
    return lane_slot<T>(lane_exchange("shfl", &v, sizeof v), lane / width * width + (from & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T v, int m, int width = 32)
{
    (void)mask, (void)width;
    return lane_slot<T>(lane_exchange("shfl_xor", &v, sizeof v), lane_of_warp() ^ m);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned n, int width = 32)
{
    (void)mask;
    const int lane = lane_of_warp();
    const uint8_t *s = lane_exchange("shfl_up", &v, sizeof v);
    return lane % width >= (int)n ? lane_slot<T>(s, lane - (int)n) : v;
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned n, int width = 32)
{
    (void)mask;
    const int lane = lane_of_warp();
    const uint8_t *s = lane_exchange("shfl_down", &v, sizeof v);
    return lane % width + (int)n < width ? lane_slot<T>(s, lane + (int)n) : v;
}
static inline unsigned __ballot_sync(unsigned mask, int v)
{
    (void)mask;
    const uint8_t *s = lane_exchange("ballot", &v, sizeof v);
    unsigned r = 0;
    for (int l = 0; l < 32; l++) r |= (lane_slot<int>(s, l) ? 1u : 0u) << l;
    return r;
}
static inline int __any_sync(unsigned mask, int v) { return __ballot_sync(mask, v) != 0; }
static inline int __all_sync(unsigned mask, int v) { return __ballot_sync(mask, v) == 0xffffffffu; }

/* One lane runs at a time; atomic all the same for those who watch over races. */
template <class T, class F> static inline T lane_atomic(T *p, F change)
{
    T old, next;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do next = change(old); while (!__atomic_compare_exchange(p, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class T> static inline T atomicAdd(T *p, T v) { return lane_atomic(p, [=](T old) { return (T)(old + v); }); }
template <class T> static inline T atomicMax(T *p, T v) { return lane_atomic(p, [=](T old) { return v > old ? v : old; }); }
template <class T> static inline T atomicMin(T *p, T v) { return lane_atomic(p, [=](T old) { return v < old ? v : old; }); }
template <class T> static inline T atomicOr(T *p, T v) { return lane_atomic(p, [=](T old) { return (T)(old | v); }); }
template <class T> static inline T atomicExch(T *p, T v) { return lane_atomic(p, [=](T) { return v; }); }

static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> (8 * i)) * (int)(int8_t)(b >> (8 * i));
    return c;
}
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s)
{
    const uint64_t both = (uint64_t)y << 32 | x;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned b = (unsigned)(both >> (8 * (s >> (4 * i) & 7u)) & 0xff);
        if (s >> (4 * i) & 8u) b = b & 0x80 ? 0xff : 0;
        r |= b << (8 * i);
    }
    return r;
}
template <class T> static inline T __ldg(const T *p) { return *p; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline float __fdividef(float a, float b) { return a / b; }

static inline void launch_wait(void) {}
static inline void launch_next(void) {}
static inline uint4 load_once(const void *p)
{
    if (reinterpret_cast<uintptr_t>(p) % 16) lane_misaligned();
    return *static_cast<const uint4 *>(p);
}
void async_copy16(void *shared, const void *global);
void async_copy8(void *shared, const void *global);
void async_commit(void);
void lane_async_wait(int n);
template <int n> static inline void async_wait(void) { lane_async_wait(n); }

float    half_bits_to_float(uint16_t h);
uint16_t float_to_half_bits(float f);
static inline uint32_t float_to_tf32(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7f800000u) != 0x7f800000u) u += 0x1000u;
    return u & 0xffffe000u;
}

static inline void sine_cosine_of_pi(double x, double *s, double *c)
{
    const double angle = fmod(x, 2.0) * 3.14159265358979323846;
    *s = sin(angle);
    *c = cos(angle);
}

/* Stand-ins of the matrix unit, by the layouts told in dialect.cuh. */
void mma_s8_k32(int32_t d[4], const uint32_t a[4], const uint32_t b[2]);
void mma_s8_k16(int32_t d[4], const uint32_t a[2], const uint32_t b[1]);
void mma_f16_k16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void mma_bf16_k16(float d[4], const uint32_t a[4], const uint32_t b[2]);
void mma_tf32_k8(float d[4], const uint32_t a[4], const uint32_t b[2]);
void load_matrices(uint32_t d[4], const void *row);
void load_matrices_turned(uint32_t d[4], const void *row);

#endif
