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
    DEVICE_MEMBER float one(const uint8_t *p)
    {
        return half_bits_to_float(__ldg(reinterpret_cast<const uint16_t *>(p)));
    }
    DEVICE_MEMBER float of(const uint32_t (&v)[4], int i)
    {
        return half_bits_to_float((uint16_t)(v[i / 2] >> 16 * (i % 2)));
    }
};
struct floats_BF16 {
    static constexpr int bytes = 2, n = 8;
    DEVICE_MEMBER float one(const uint8_t *p)
    {
        return as_float((uint32_t)__ldg(reinterpret_cast<const uint16_t *>(p)) << 16);
    }
    DEVICE_MEMBER float of(const uint32_t (&v)[4], int i)
    {
        return as_float(i % 2 ? v[i / 2] & 0xffff0000u : v[i / 2] << 16);
    }
};

/* A unit of 16 bytes; where rows are not aligned so, of one number. */
template <class F, int TOKENS, int ROWS, bool ALIGNED> struct float_product {
    typedef uint4 raw;

    gpu_weight     w;
    gpu_rows       x;
    const uint8_t *at;
    int64_t        ahead[ROWS];
    int            x_row[TOKENS], group_rows;
    const float   *columns;
    float          sum[TOKENS * ROWS];  /* [t][r] */

    __device__ __forceinline__ float_product(const gpu_weight &weight, const gpu_rows &rows, int token,
                                             int rows_of_group)
        : w(weight), x(rows), group_rows(rows_of_group)
    {
#pragma unroll
        for (int t = 0; t < TOKENS; t++) x_row[t] = min(token + t, x.rows - 1);
    }
    __device__ __forceinline__ void aim(int row)
    {
        const int from = min(row, w.rows - 1);
        at = gpu_at<const uint8_t>(w.at, (uint64_t)(w.row0 + from) * (uint64_t)w.cols * F::bytes);
#pragma unroll
        for (int r = 0; r < ROWS; r++) ahead[r] = (int64_t)(min(row + r, w.rows - 1) - from) * w.cols * F::bytes;
    }
    __device__ __forceinline__ void load(raw (&to)[ROWS], int u) const
    {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (ALIGNED) to[r] = load_once(at + ahead[r] + 16 * (int64_t)u);
            else to[r].x = as_bits(F::one(at + ahead[r] + (int64_t)u * F::bytes));
        }
    }
    __device__ __forceinline__ void begin(int row)
    {
        columns = gpu_at<const float>(x.at) + min(row, w.rows - 1) / group_rows * w.cols;
#pragma unroll
        for (int i = 0; i < TOKENS * ROWS; i++) sum[i] = 0.0f;
    }
    __device__ __forceinline__ void add(const raw (&from)[ROWS], int u)
    {
        uint32_t v[ROWS][4];
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            v[r][0] = from[r].x;
            v[r][1] = from[r].y;
            v[r][2] = from[r].z;
            v[r][3] = from[r].w;
        }
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            const float *row = columns + x_row[t] * x.stride;
            if constexpr (!ALIGNED) {
                const float one = row[u];
#pragma unroll
                for (int r = 0; r < ROWS; r++) sum[t * ROWS + r] = fmaf(as_float(v[r][0]), one, sum[t * ROWS + r]);
            } else
#pragma unroll
            for (int four = 0; four < F::n; four += 4) {
                const float4 x4 = *reinterpret_cast<const float4 *>(row + u * F::n + four);
                const float xs[4] = { x4.x, x4.y, x4.z, x4.w };
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int r = 0; r < ROWS; r++)
                        sum[t * ROWS + r] = fmaf(F::of(v[r], four + i), xs[i], sum[t * ROWS + r]);
            }
        }
    }
};

template <class F, int TOKENS, int ROWS, bool ALIGNED> DEVICE void float_tiles(const matmul_args_float &a, float *part)
{
    typedef float_product<F, TOKENS, ROWS, ALIGNED> product_type;
    const matmul_place p = place_of_warp<ROWS>(TOKENS, a.slices);
    const gpu_weight &w = a.w[p.job];
    product_type product(w, a.x, p.token, a.group_rows);
    matmul_tiles<product_type, TOKENS, ROWS>(product, p, ALIGNED ? w.cols / F::n : w.cols, part, a.y[p.job], w.rows);
}

template <class F, int TOKENS, int ROWS> DEVICE void matmul_floats(const matmul_args_float &a, float *part)
{
    if (a.aligned) float_tiles<F, TOKENS, ROWS, true>(a, part);
    else float_tiles<F, TOKENS, ROWS, false>(a, part);
}

#define FLOAT_KERNEL(name, F, TOKENS, ROWS)                                   \
    KERNEL_RESIDENT(name, matmul_args_float, MATMUL_WARPS * WARP, MATMUL_RESIDENT(TOKENS)) \
    {                                                                         \
        SHARED(float, part, MATMUL_WARPS * TOKENS * ROWS);                    \
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
