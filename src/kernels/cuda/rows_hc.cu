/* rows_hc: hyper-connections [4.3, 4.4].
 *
 * A row of streams meets the 24 rows of fn. That is a matrix read for one row of
 * numbers, so it is spread over the card: slices of columns add up their part of all
 * products (hc_sums), then two blocks a row add the slices, one collapses the streams
 * and norms them, the other makes post and comb (hc_mix). */
#include "kernels/cuda/rows.cuh"

#include "kernels/cuda/args_rows.h"
#include "kernels/cuda/codes.cuh"
#include "quant/quant.h"

/* ---- sums ------------------------------------------------------------------------------ */

/* W numbers of fn as floats. */
template <int TYPE> DEVICE float fn_number(uint32_t bits)
{
    return TYPE == QUANT_F16 ? half_bits_to_float((uint16_t)bits) : as_float(bits << 16);
}
template <int TYPE, int W> DEVICE void load_fn(float (&v)[W], gpu_ptr at, int64_t i)
{
    if constexpr (TYPE == QUANT_F32) {
        load_floats<W>(v, gpu_at<const float>(at) + i);
    } else if constexpr (W == 4) {
        const uint2 x = *reinterpret_cast<const uint2 *>(gpu_at<const uint16_t>(at) + i);
        v[0] = fn_number<TYPE>(x.x & 0xffffu), v[1] = fn_number<TYPE>(x.x >> 16);
        v[2] = fn_number<TYPE>(x.y & 0xffffu), v[3] = fn_number<TYPE>(x.y >> 16);
    } else {
        v[0] = fn_number<TYPE>(gpu_at<const uint16_t>(at)[i]);
    }
}

enum { HC_EACH = 3 };           /* rows of fn that a warp has at once */

/* R rows of streams at once from `row` on, W columns a lane. The order of a sum's terms depends on the slice alone. */
template <int R, int W, int TYPE> DEVICE void hc_sums_of_rows(const hc_sums_kernel_args &a, int row)
{
    const int begin = (int)blockIdx.x * a.slice, end = min(begin + a.slice, a.streams.cols);
    const int rows = min(R, a.streams.rows - row), warps = (int)blockDim.x / WARP;
    for (int m = HC_EACH * warp_id(); m < a.n_mix; m += HC_EACH * warps) {
        float sum[R][HC_EACH] = {}, squares[R] = {};
        for (int i = begin + W * lane_id(); i < end; i += W * WARP) {
            float w[HC_EACH][W], x[W];
#pragma unroll
            for (int j = 0; j < HC_EACH; j++) load_fn<TYPE, W>(w[j], a.fn, min(m + j, a.n_mix - 1) * a.fn_stride + i);
#pragma unroll
            for (int r = 0; r < R; r++) {
                load_floats<W>(x, row_of(a.streams, row + min(r, rows - 1)) + i);
#pragma unroll
                for (int k = 0; k < W; k++) {
#pragma unroll
                    for (int j = 0; j < HC_EACH; j++) sum[r][j] = fmaf(w[j][k], x[k], sum[r][j]);
                    squares[r] = fmaf(x[k], x[k], squares[r]);
                }
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            float *part = gpu_at<float>(a.part) + (int64_t)(row + r) * (a.n_mix + 1) * a.slices + blockIdx.x;
#pragma unroll
            for (int j = 0; j < HC_EACH; j++) {
                const float total = warp_sum(sum[r][j]);
                if (lane_id() == 0 && r < rows && m + j < a.n_mix) part[(m + j) * a.slices] = total;
            }
            if (m > 0) continue;
            const float total = warp_sum(squares[r]);
            if (lane_id() == 0 && r < rows) part[a.n_mix * a.slices] = total;
        }
    }
}

/* A block goes on with later rows while its slice of fn lies in L1. */
template <int R, int W, int TYPE> DEVICE void hc_sums(const hc_sums_kernel_args &a)
{
    for (int row = (int)blockIdx.y * R; row < a.streams.rows; row += (int)gridDim.y * R)
        hc_sums_of_rows<R, W, TYPE>(a, row);
}

template <int R, int W> DEVICE void hc_sums_of_type(const hc_sums_kernel_args &a)
{
    launch_wait();
    launch_next();
    if (a.fn_type == QUANT_F32) hc_sums<R, W, QUANT_F32>(a);
    else if (a.fn_type == QUANT_F16) hc_sums<R, W, QUANT_F16>(a);
    else hc_sums<R, W, QUANT_BF16>(a);
}

KERNEL(hc_sums_1, hc_sums_kernel_args, 256) { hc_sums_of_type<1, 4>(a); }
KERNEL(hc_sums_8, hc_sums_kernel_args, 256) { hc_sums_of_type<8, 4>(a); }
KERNEL(hc_sums_any, hc_sums_kernel_args, 256) { hc_sums_of_type<1, 1>(a); }

/* ---- control and collapse ---------------------------------------------------------------- */

/* comb: softmax along each row, then alternating normalisation; the last step is a column
 * step [4.3]. S numbers known to the compiler stay in registers; one thread. */
template <int S> DEVICE void sinkhorn_registers(float *comb, int n_iterations, float eps)
{
    float m[S][S];
#pragma unroll
    for (int r = 0; r < S; r++) {
        float top = comb[r * S], sum = 0.0f;
#pragma unroll
        for (int c = 1; c < S; c++) top = fmaxf(top, comb[r * S + c]);
#pragma unroll
        for (int c = 0; c < S; c++) sum += m[r][c] = expf(comb[r * S + c] - top);
#pragma unroll
        for (int c = 0; c < S; c++) m[r][c] = m[r][c] / sum + eps;
    }
    for (int it = 0; it < n_iterations; it++) {
#pragma unroll
        for (int r = 0; r < S; r++) {
            float sum = eps;
#pragma unroll
            for (int c = 0; c < S; c++) sum += m[r][c];
            sum = it > 0 ? __fdividef(1.0f, sum) : 1.0f;
#pragma unroll
            for (int c = 0; c < S; c++) m[r][c] *= sum;
        }
#pragma unroll
        for (int c = 0; c < S; c++) {
            float sum = eps;
#pragma unroll
            for (int r = 0; r < S; r++) sum += m[r][c];
            sum = __fdividef(1.0f, sum);
#pragma unroll
            for (int r = 0; r < S; r++) m[r][c] *= sum;
        }
    }
#pragma unroll
    for (int r = 0; r < S; r++) {
#pragma unroll
        for (int c = 0; c < S; c++) comb[r * S + c] = m[r][c];
    }
}

/* Any S, by the first S lanes of one warp, in shared memory. */
DEVICE void sinkhorn_lanes(float *comb, int S, int n_iterations, float eps)
{
    const int me = lane_id();
    if (me < S) {
        float *row = comb + me * S, top = row[0], sum = 0.0f;
        for (int c = 1; c < S; c++) top = fmaxf(top, row[c]);
        for (int c = 0; c < S; c++) sum += row[c] = expf(row[c] - top);
        for (int c = 0; c < S; c++) row[c] = row[c] / sum + eps;
    }
    for (int it = 0; it < n_iterations; it++) {
        __syncwarp();
        if (me < S && it > 0) {
            float sum = 0.0f;
            for (int c = 0; c < S; c++) sum += comb[me * S + c];
            for (int c = 0; c < S; c++) comb[me * S + c] /= sum + eps;
        }
        __syncwarp();
        if (me < S) {
            float sum = 0.0f;
            for (int r = 0; r < S; r++) sum += comb[r * S + me];
            for (int r = 0; r < S; r++) comb[r * S + me] /= sum + eps;
        }
    }
    __syncwarp();
}

/* The products first..end-1 of a row by its slices, and behind them its sum of squares. */
DEVICE void add_slices(float *mix, const hc_mix_kernel_args &a, int64_t row, int first, int end)
{
    const float *part = gpu_at<const float>(a.part) + row * (a.n_mix + 1) * a.slices;
    for (int j = first + warp_id(); j <= end; j += (int)blockDim.x / WARP) {
        const int m = j < end ? j : a.n_mix;
        float sum = 0.0f;
        for (int s = lane_id(); s < a.slices; s += WARP) sum += part[m * a.slices + s];
        sum = warp_sum(sum);
        if (lane_id() == 0) mix[m] = sum;
    }
    __syncthreads();
}

/* x = sum_s pre[s] * streams[s]; y = norm(x). A thread reads again only what it wrote. */
template <int W> DEVICE void collapse(const hc_mix_kernel_args &a, int64_t row, const float *pre, float *room)
{
    const int D = a.x.cols, step = (int)blockDim.x * W;
    const float *streams = row_of(a.streams, row), *weight = gpu_at<const float>(a.weight);
    float *x = row_to(a.x, row), squares = 0.0f;
    for (int i = (int)threadIdx.x * W; i < D; i += step) {
        float v[W] = {}, stream[W];
#pragma unroll 4
        for (int s = 0; s < a.n_streams; s++) {
            load_floats<W>(stream, streams + (int64_t)s * D + i);
            for (int k = 0; k < W; k++) v[k] = fmaf(pre[s], stream[k], v[k]);
        }
        for (int k = 0; k < W; k++) squares = fmaf(v[k], v[k], squares);
        store_floats<W>(x + i, v);
    }
    if (!a.y.at) return;
    put_normed<W>(row_to(a.y, row), x, weight, norm_scale(block_sum(squares, room), D, a.norm_eps), D);
}

KERNEL_RESIDENT(hc_mix, hc_mix_kernel_args, 1024, 1)
{
    SHARED(float, mix, (2 + HC_MAX_STREAMS) * HC_MAX_STREAMS + 1);
    SHARED(float, pre, HC_MAX_STREAMS);
    SHARED(float, room, WARP);
    const int64_t row = blockIdx.x;
    const int S = a.n_streams, t = (int)threadIdx.x;
    const float *base = gpu_at<const float>(a.base), *scale = gpu_at<const float>(a.scale);
    launch_wait();
    launch_next();

    if (blockIdx.y == 0) {
        add_slices(mix, a, row, 0, S);
        const float norm = norm_scale(mix[a.n_mix], a.streams.cols, a.eps);
        if (t < S) pre[t] = formula_sigmoid(mix[t] * norm * scale[0] + base[t]) + a.hc_eps;
        __syncthreads();
        if (a.wide) collapse<4>(a, row, pre, room);
        else collapse<1>(a, row, pre, room);
        codes_of_row(row_of(a.y, row), (int)row, a.by_32, a.by_256);
        return;
    }
    add_slices(mix, a, row, S, a.n_mix);
    const float norm = norm_scale(mix[a.n_mix], a.streams.cols, a.eps);
    float *comb = mix + 2 * S, *post = row_to(a.post, row), *out = row_to(a.comb, row);
    if (t < S) post[t] = 2.0f * formula_sigmoid(mix[S + t] * norm * scale[1] + base[S + t]);
    if (t < S * S) comb[t] = comb[t] * norm * scale[2] + base[2 * S + t];
    __syncthreads();
    if (warp_id() > 0) return;
    if (S != 4) sinkhorn_lanes(comb, S, a.n_iterations, a.hc_eps);
    else if (t == 0) sinkhorn_registers<4>(comb, a.n_iterations, a.hc_eps);
    __syncwarp();
    for (int i = t; i < S * S; i += WARP) out[i] = comb[i];
}

/* ---- expansion ----------------------------------------------------------------------------- */

/* streams[c] = post[c]*y + sum_a comb[a,c] * streams[a], in place. A thread has its channels of all
 * streams before it writes any. */
template <int W> DEVICE void expand(const hc_expand_kernel_args &a, const float *control)
{
    const int D = a.y.cols, i = (int)(blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (i >= D) return;
    float *streams = row_to(a.streams, blockIdx.y);
    const float *comb = control + HC_MAX_STREAMS;
    float y[W], old[HC_MAX_STREAMS][W];
    load_floats<W>(y, row_of(a.y, blockIdx.y) + i);
#pragma unroll
    for (int s = 0; s < HC_MAX_STREAMS; s++)
        if (s < a.n_streams) load_floats<W>(old[s], streams + (int64_t)s * D + i);
    for (int to = 0; to < a.n_streams; to++) {
        float v[W];
        for (int k = 0; k < W; k++) v[k] = control[to] * y[k];
#pragma unroll
        for (int s = 0; s < HC_MAX_STREAMS; s++)
            if (s < a.n_streams)
                for (int k = 0; k < W; k++) v[k] = fmaf(comb[s * a.n_streams + to], old[s][k], v[k]);
        store_floats<W>(streams + (int64_t)to * D + i, v);
    }
}

KERNEL(hc_expand, hc_expand_kernel_args, 128)
{
    SHARED(float, control, HC_MAX_STREAMS + HC_MAX_STREAMS * HC_MAX_STREAMS);
    const int t = (int)threadIdx.x, S = a.n_streams;
    launch_wait();
    launch_next();
    if (t < S) control[t] = row_of(a.post, blockIdx.y)[t];
    if (t < S * S) control[HC_MAX_STREAMS + t] = row_of(a.comb, blockIdx.y)[t];
    __syncthreads();
    if (a.wide) expand<4>(a, control);
    else expand<1>(a, control);
}

/* ---- both ------------------------------------------------------------------------------------ */

/* A warp has 32 channels of 4 streams, eight lanes each, and meets HC_EACH rows of fn. */
template <int TYPE> DEVICE void expand_and_sum(const hc_both_kernel_args &a)
{
    const hc_expand_kernel_args &e = a.expand;
    const hc_sums_kernel_args &s = a.sums;
    const int S = HC_BOTH_STREAMS, D = e.y.cols, m = HC_EACH * warp_id(), stream = lane_id() / 8;
    const int channel = (int)blockIdx.x * HC_BOTH_CHANNELS + 4 * (lane_id() % 8);
    const int64_t column = (int64_t)stream * D + channel;
    float w[HC_EACH][4];
#pragma unroll
    for (int j = 0; j < HC_EACH; j++) load_fn<TYPE, 4>(w[j], s.fn, min(m + j, s.n_mix - 1) * s.fn_stride + column);
    launch_wait();
    launch_next();

    for (int t = (int)blockIdx.y; t < e.streams.rows; t += (int)gridDim.y) {
        float *streams = row_to(e.streams, t);
        const float *comb = row_of(e.comb, t), post = row_of(e.post, t)[stream];
        float v[4], old[HC_BOTH_STREAMS][4];
        load_floats<4>(v, row_of(e.y, t) + channel);
#pragma unroll
        for (int i = 0; i < S; i++) load_floats<4>(old[i], streams + (int64_t)i * D + channel);
        for (int k = 0; k < 4; k++) v[k] = post * v[k];
#pragma unroll
        for (int i = 0; i < S; i++)
            for (int k = 0; k < 4; k++) v[k] = fmaf(comb[i * S + stream], old[i][k], v[k]);
        __syncthreads();                        /* every warp has read what was there */
        if (m == 0) store_floats<4>(streams + column, v);
        if (m >= s.n_mix) continue;

        float sum[HC_EACH] = {}, squares = 0.0f;
        for (int k = 0; k < 4; k++) {
#pragma unroll
            for (int j = 0; j < HC_EACH; j++) sum[j] = fmaf(w[j][k], v[k], sum[j]);
            squares = fmaf(v[k], v[k], squares);
        }
        float *part = gpu_at<float>(s.part) + (int64_t)t * (s.n_mix + 1) * s.slices + blockIdx.x;
#pragma unroll
        for (int j = 0; j < HC_EACH; j++) {
            const float total = warp_sum(sum[j]);
            if (lane_id() == 0 && m + j < s.n_mix) part[(m + j) * s.slices] = total;
        }
        squares = warp_sum(squares);
        if (lane_id() == 0 && m == 0) part[s.n_mix * s.slices] = squares;
    }
}

KERNEL(hc_expand_sums, hc_both_kernel_args, 256)
{
    if (a.sums.fn_type == QUANT_F32) expand_and_sum<QUANT_F32>(a);
    else if (a.sums.fn_type == QUANT_F16) expand_and_sum<QUANT_F16>(a);
    else expand_and_sum<QUANT_BF16>(a);
}
