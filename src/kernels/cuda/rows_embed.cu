/* rows_embed: rows of the embedding [4.1].
 *
 * The table is as in the file, since single rows are read. Rows of blocks are cut into
 * planes first, so that what unpacks matrices unpacks them too. */
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/unpack.cuh"

#include "kernels/cuda/args_rows.h"

/* Tables of float types; grid: parts of a row, rows. */
KERNEL(embed_floats, embed_kernel_args, 256)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    launch_wait();
    launch_next();
    if (i >= a.cols) return;
    const gpu_ptr row = a.table + (uint64_t)gpu_at<const int32_t>(a.token)[blockIdx.y] * (uint64_t)a.row_bytes;
    const float v = a.type == QUANT_F32 ? gpu_at<const float>(row)[i]
                  : a.type == QUANT_F16 ? half_bits_to_float(gpu_at<const uint16_t>(row)[i])
                                        : as_float((uint32_t)gpu_at<const uint16_t>(row)[i] << 16);
    float *to = row_to(a.streams, blockIdx.y);
    for (int s = 0; s < a.n_streams; s++) to[(int64_t)s * a.cols + i] = v;
}

KERNEL(embed_cut, embed_cut_kernel_args, 256)
{
    launch_wait();
    launch_next();
    const int64_t token = gpu_at<const int32_t>(a.token)[blockIdx.x];
    const uint8_t *row = gpu_at<const uint8_t>(a.table, (uint64_t)(token * a.row_bytes));
    for (int p = 0; p < a.planes; p++) {
        const int n = a.blocks * a.len[p];
        uint8_t *to = gpu_at<uint8_t>(a.plane[p]) + (int64_t)blockIdx.x * n;
        for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
            to[i] = row[(int64_t)(i / a.len[p]) * a.block_bytes + a.first[p] + i % a.len[p]];
    }
}

/* A thread 32 numbers; grid: parts of a row, rows. */
template <class W> DEVICE void embed_blocks(const embed_kernel_args &a)
{
    const int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    launch_wait();
    launch_next();
    if (32 * i >= a.cols) return;
    const uint64_t each = (uint64_t)(a.cols / plane_table<W::type>::block_len);
    const weights32 w = W::load(planes_from<W::type>(a.cut, gridDim.y * each, blockIdx.y * each), i / W::subs,
                                i % W::subs, W::grid());
    float *to = row_to(a.streams, blockIdx.y) + 32 * i;
#pragma unroll
    for (int e = 0; e < 32; e++) {
        const float v = weights_scale(w, e / 16) * code_of(w, e) + weights_min(w, e / 16);
#pragma unroll 1
        for (int s = 0; s < a.n_streams; s++) to[(int64_t)s * a.cols + e] = v;
    }
}

#define EMBED_KERNEL(X, type) KERNEL(embed_##type, embed_kernel_args, 64) { embed_blocks<weight_##type>(a); }
EMBED_TYPES(EMBED_KERNEL, )
