/* cuda_matmul: matrix products. */
#include "kernels/cuda/cuda_internal.h"

#define EXACT_OF_TYPE(X, type) [QUANT_##type] = CUDA_matmul_exact_##type,
static const int exact_kernels[QUANT_COUNT] = { MATMUL_BLOCK_TYPES(EXACT_OF_TYPE, ) };

uint64_t cuda_matmul_scratch(const backend_limits *l)
{
    (void)l;
    return 0;
}

static ds4_status exact_products(queue *dev, view w, view x, view y)
{
    const matmul_exact_args k = { cuda_weight(w), cuda_rows(x), cuda_rows(y), (int32_t)w.rows };
    enum { WARPS = 8 };
    return cuda_launch(dev, exact_kernels[w.type], cuda_grid((w.rows + WARPS - 1) / WARPS, x.rows, 1), WARPS * 32, 0, &k, sizeof k);
}

ds4_status cuda_products(queue *dev, view w, view x, view y)
{
    return exact_products(dev, w, x, y);
}

static ds4_status matmul(queue *dev, const matmul_args *a)
{
    cuda_backend *b = cuda_of(dev);
    cuda_op(b);
    cuda_reads(b, a->x);
    cuda_writes(b, a->y);
    return cuda_done(dev, cuda_products(dev, a->w, a->x, a->y));
}

void cuda_matmul_ops(ops *o) { o->matmul = matmul; }
