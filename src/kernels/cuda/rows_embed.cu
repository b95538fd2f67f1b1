/* rows_embed: rows of the embedding [4.1]. */
#include "kernels/cuda/rows.cuh"

#include "kernels/cuda/args_rows.h"
#include "quant/quant.h"

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
