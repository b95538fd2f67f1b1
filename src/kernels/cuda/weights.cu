/* weights: blocks into planes, and experts to another place. */
#include "kernels/cuda/dialect.cuh"

#include "kernels/cuda/args_weights.h"

/* Blocks come in with 16-byte loads, whatever their length, and go out plane by plane. The bus to the
 * host is a hundred times slower than the byte-wise way between. */
KERNEL(cut_planes, cut_planes_args, CUT_THREADS)
{
    SHARED(uint4, room, CUT_BLOCKS * CUT_MOST_BYTES / 16);
    launch_wait();
    const int64_t first = (int64_t)blockIdx.x * CUT_BLOCKS, left = a.blocks - first;
    const int n = left < CUT_BLOCKS ? (int)left : (int)CUT_BLOCKS, bytes = n * a.block_bytes;
    const uint8_t *from = gpu_at<const uint8_t>(a.from) + first * a.block_bytes;
    uint8_t *blocks = reinterpret_cast<uint8_t *>(room);

    for (int i = (int)threadIdx.x; i < bytes / 16; i += (int)blockDim.x) room[i] = load_once(from + 16 * i);
    for (int i = bytes / 16 * 16 + (int)threadIdx.x; i < bytes; i += (int)blockDim.x) blocks[i] = from[i];
    __syncthreads();

    for (int p = 0; p < a.planes; p++) {
        const unsigned len = (unsigned)a.len[p], begin = (unsigned)a.first[p], total = (unsigned)n * len;
        uint8_t *to = gpu_at<uint8_t>(a.to[p]) + first * len;
        for (unsigned i = 4 * threadIdx.x; i < total; i += 4 * blockDim.x) {
            uint32_t word = 0;
            for (unsigned j = i; j < i + 4 && j < total; j++)
                word |= (uint32_t)blocks[j / len * (unsigned)a.block_bytes + begin + j % len] << 8 * (j - i);
            if (i + 4 <= total) *reinterpret_cast<uint32_t *>(to + i) = word;
            else for (unsigned j = i; j < total; j++) to[j] = (uint8_t)(word >> 8 * (j - i));
        }
    }
}

KERNEL(move_experts, move_experts_args, WARP)
{
    launch_wait();
    if ((int)threadIdx.x < a.n) *gpu_at<gpu_ptr>(a.entry[threadIdx.x]) = a.value[threadIdx.x];
}
