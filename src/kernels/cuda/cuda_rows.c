/* cuda_rows: launches of the ops that treat each row on its own. */
#include "kernels/cuda/cuda_internal.h"

uint64_t cuda_rows_scratch(const backend_limits *l)
{
    (void)l;
    return 0;
}

/* Threads for a row of n numbers: enough to keep several loads under way, whole warps. */
static unsigned threads_of(int n) { return n >= 4096 ? 1024u : n >= 512 ? 256u : 64u; }

static ds4_status rms_norm(queue *dev, const rms_norm_args *a)
{
    cuda_backend *b = cuda_of(dev);
    const rms_norm_kernel_args k = { cuda_rows(a->x), cuda_rows(a->y), cuda_rows(a->weight).at, a->eps };
    cuda_op(b);
    cuda_reads(b, a->x);
    cuda_writes(b, a->y);
    return cuda_done(dev, CUDA_LAUNCH(dev, rms_norm, cuda_grid(a->x.rows, 1, 1), threads_of(a->x.cols), 0, k));
}

void cuda_rows_ops(ops *o) { o->rms_norm = rms_norm; }
