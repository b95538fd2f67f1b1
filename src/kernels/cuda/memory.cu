/* memory: reads it and does nothing else, to know how fast that is. */
#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/args_memory.h"

/* Four loads of 16 bytes are under way in every thread: with 2048 threads 128 KB on a multiprocessor, several times
 * what the latency of memory needs. */
KERNEL(read_memory, read_memory_args, READ_THREADS)
{
    launch_wait();
    enum { AHEAD = 4 };
    const uint8_t *from = gpu_at<const uint8_t>(a.from);
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t sum = 0;
#pragma unroll 1
    for (; i + (AHEAD - 1) * step < a.n; i += AHEAD * step) {
        uint4 v[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++) v[j] = load_once(from + 16 * (i + j * step));
#pragma unroll
        for (int j = 0; j < AHEAD; j++) sum |= v[j].x | v[j].y | v[j].z | v[j].w;
    }
#pragma unroll 1
    for (; i < a.n; i += step) {
        const uint4 v = load_once(from + 16 * i);
        sum |= v.x | v.y | v.z | v.w;
    }
    if (sum) *gpu_at<uint32_t>(a.sum) = sum;
}
