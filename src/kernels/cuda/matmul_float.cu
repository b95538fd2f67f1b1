/* matmul_float: products with F32, F16 and BF16, which meet the activations as they are. */
#include "kernels/cuda/matmul.cuh"

/* Eight weights at a time, or four: 16 bytes. */
struct floats_F32 {
    static constexpr int bytes = 4, n = 4;
    DEVICE_MEMBER float one(const uint8_t *p) { return __ldg(reinterpret_cast<const float *>(p)); }
    DEVICE_MEMBER float of(const uint32_t (&v)[4], int i) { return as_float(v[i]); }
};
struct floats_F16 {
    static constexpr int bytes = 2, n = 8;
    DEVICE_MEMBER float one(const uint8_t *p) { return half_bits_to_float(__ldg(reinterpret_cast<const uint16_t *>(p))); }
    DEVICE_MEMBER float of(const uint32_t (&v)[4], int i) { return half_bits_to_float((uint16_t)(v[i / 2] >> 16 * (i % 2))); }
};
struct floats_BF16 {
    static constexpr int bytes = 2, n = 8;
    DEVICE_MEMBER float one(const uint8_t *p) { return as_float((uint32_t)__ldg(reinterpret_cast<const uint16_t *>(p)) << 16); }
    DEVICE_MEMBER float of(const uint32_t (&v)[4], int i) { return as_float(i % 2 ? v[i / 2] & 0xffff0000u : v[i / 2] << 16); }
};

/* In units of 16 bytes; whatever is not aligned so is read one by one. */
template <class F, int TOKENS, int ROWS> DEVICE void matmul_floats(const matmul_args_float &a, float *part)
{
    const matmul_place p = place_of_warp<TOKENS, ROWS>(a.slices);
    const gpu_weight &w = a.w[p.job];
    const uint8_t *at[ROWS];
    int x_row[TOKENS];
    float sum[TOKENS * ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        at[r] = gpu_at<const uint8_t>(w.at, (uint64_t)(w.row0 + min(p.row + r, w.rows - 1)) * (uint64_t)w.cols * F::bytes);
#pragma unroll
    for (int t = 0; t < TOKENS; t++) x_row[t] = min(p.token + t, a.x.rows - 1);
#pragma unroll
    for (int i = 0; i < TOKENS * ROWS; i++) sum[i] = 0.0f;

    const float *x = gpu_at<const float>(a.x.at) + min(p.row, w.rows - 1) / a.group_rows * w.cols;
    const int step = WARP * p.slices, first = p.slice * WARP + lane_id();
    if (a.aligned) {
        const int units = w.cols / F::n;
        uint4 now[ROWS], next[ROWS];
        if (first < units) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) next[r] = load_once(at[r] + 16 * first);
        }
        for (int u = first; u < units; u += step) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) now[r] = next[r];
            if (u + step < units) {
#pragma unroll
                for (int r = 0; r < ROWS; r++) next[r] = load_once(at[r] + 16 * (u + step));
            }
            uint32_t v[ROWS][4];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                v[r][0] = now[r].x;
                v[r][1] = now[r].y;
                v[r][2] = now[r].z;
                v[r][3] = now[r].w;
            }
#pragma unroll
            for (int t = 0; t < TOKENS; t++)
#pragma unroll
                for (int four = 0; four < F::n; four += 4) {
                    const float4 x4 = *reinterpret_cast<const float4 *>(x + x_row[t] * a.x.stride + u * F::n + four);
                    const float xs[4] = { x4.x, x4.y, x4.z, x4.w };
#pragma unroll
                    for (int i = 0; i < 4; i++)
#pragma unroll
                        for (int r = 0; r < ROWS; r++)
                            sum[t * ROWS + r] = fmaf(F::of(v[r], four + i), xs[i], sum[t * ROWS + r]);
                }
        }
    } else {
        for (int i = first; i < w.cols; i += step)
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float v = F::one(at[r] + (int64_t)i * F::bytes);
#pragma unroll
                for (int t = 0; t < TOKENS; t++) sum[t * ROWS + r] = fmaf(v, x[x_row[t] * a.x.stride + i], sum[t * ROWS + r]);
            }
    }
    launch_next();
    store_sums<TOKENS, ROWS>(p, sum, part, a.y[p.job], w.rows);
}

#define FLOAT_KERNEL(name, F, TOKENS, ROWS)                                   \
    KERNEL(name, matmul_args_float, MATMUL_WARPS * WARP)                      \
    {                                                                         \
        SHARED(float, part, MATMUL_WARPS * TOKENS * ROWS);                    \
        launch_wait();                                                        \
        matmul_floats<F, TOKENS, ROWS>(a, part);                              \
    }
#define FLOAT_KERNELS(type)                                                   \
    FLOAT_KERNEL(matmul_##type##_1, floats_##type, 1, 2)                      \
    FLOAT_KERNEL(matmul_##type##_2, floats_##type, 2, 2)                      \
    FLOAT_KERNEL(matmul_##type##_4, floats_##type, 4, 2)                      \
    FLOAT_KERNEL(matmul_##type##_8, floats_##type, 8, 2)                      \
    FLOAT_KERNEL(matmul_##type##_16, floats_##type, 16, 1)

FLOAT_KERNELS(F32)
FLOAT_KERNELS(F16)
FLOAT_KERNELS(BF16)
