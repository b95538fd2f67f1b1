/* experts_exact: the routed experts with float activations, any type: the judge of the others,
 * and what runs where float activations were asked for or weights are floats. */
#include "kernels/cuda/experts_ffn.cuh"

/* sum of w[i] x[i] over the columns of this lane */
template <class W> DEVICE float blocks_product(gpu_ptr at, int64_t rows, int cols, int row, const float *x)
{
    const uint64_t each = (uint64_t)(cols / plane_table<W::type>::block_len);
    const planes p = planes_from<W::type>(at, (uint64_t)rows * each, (uint64_t)row * each);
    float sum = 0.0f;
    for (int i = lane_id(); i < cols / 32; i += WARP) {
        const weights32 w = W::load(p, i / W::subs, i % W::subs, W::grid());
        for (int e = 0; e < 32; e++)
            sum = fmaf(fmaf(weights_scale(w, e / 16), code_of(w, e), weights_min(w, e / 16)), x[32 * i + e], sum);
    }
    return sum;
}

DEVICE float number_of(int type, gpu_ptr at, int64_t i)
{
    if (type == QUANT_F32) return gpu_at<const float>(at)[i];
    const uint16_t h = gpu_at<const uint16_t>(at)[i];
    return type == QUANT_F16 ? half_bits_to_float(h) : as_float((uint32_t)h << 16);
}

DEVICE float floats_product(int type, gpu_ptr at, int cols, int row, const float *x)
{
    float sum = 0.0f;
    for (int i = lane_id(); i < cols; i += WARP) sum = fmaf(number_of(type, at, (int64_t)row * cols + i), x[i], sum);
    return sum;
}

/* Every lane gets row . x */
DEVICE float row_product(const gpu_experts &e, gpu_ptr at, int row, const float *x)
{
    float sum = 0.0f;
    switch (e.type) {
#define CASE(X, type) case QUANT_##type: sum = blocks_product<weight_##type>(at, e.rows, e.cols, row, x); break;
    EXPERTS_BLOCK_TYPES(CASE, )
    default: sum = floats_product(e.type, at, e.cols, row, x);
    }
    return warp_sum(sum);
}

KERNEL(experts_up_exact, experts_up_args, EXPERTS_WARPS * WARP)
{
    launch_wait();
    expert_turn e;
    if (!expert_turn_of(a, &e)) return;
    for (int row = e.row + warp_id(); row < e.row_end; row += EXPERTS_WARPS)
        for (int i = 0; i < e.n; i++) {
            const int t = e.pair[i] / a.groups.used;
            const float *x = gpu_at<const float>(a.x.at) + t * a.x.stride;
            const float gate = row_product(a.gate, e.gate, row, x), up = row_product(a.up, e.up, row, x);
            if (lane_id() == 0) store_mid(a, t, e.pair[i], row, gate, up);
        }
}

KERNEL(experts_down_exact, experts_down_args, EXPERTS_DOWN_ROWS * WARP)
{
    launch_wait();
    const int t = (int)blockIdx.x, row = (int)blockIdx.y * EXPERTS_DOWN_ROWS + warp_id();
    if (row >= a.down.rows) return;
    const int32_t *ids = gpu_at<const int32_t>(a.ids.at) + t * a.ids.stride;
    float sum = 0.0f;
    for (int slot = 0; slot < a.ids.cols; slot++)
        sum += row_product(a.down, gpu_at<const gpu_ptr>(a.down.table)[ids[slot]], row,
                           gpu_at<const float>(a.mid.at) + (t * a.ids.cols + slot) * a.mid.stride);
    if (lane_id() != 0) return;
    if (a.add.at) sum += gpu_at<const float>(a.add.at)[t * a.add.stride + row];
    gpu_at<float>(a.y.at)[t * a.y.stride + row] = sum;
}
