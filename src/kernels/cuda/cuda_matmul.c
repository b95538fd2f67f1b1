/* cuda_matmul: matrix products with a few rows, and where those with more begin. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

/* ---- kernels by type and rows of x ---------------------------------------------------- */

enum { SIZES = 5 };             /* made for 1, 2, 4, 8 and 16 rows of x */

#define BY_FIVE(X, type)                                                      \
    [QUANT_##type] = { CUDA_matmul_##type##_1, CUDA_matmul_##type##_2, CUDA_matmul_##type##_4, \
                       CUDA_matmul_##type##_8, CUDA_matmul_##type##_16 },
#define BY_TWO(X, type)                                                       \
    [QUANT_##type] = { CUDA_matmul_##type##_1, CUDA_matmul_##type##_4, CUDA_matmul_##type##_4, \
                       CUDA_matmul_##type##_4, CUDA_matmul_##type##_4 },
static const int kernels[QUANT_COUNT][SIZES] = {
    MATMUL_TUNED(BY_FIVE, ) MATMUL_FLOATS(BY_FIVE, ) MATMUL_GENERAL(BY_TWO, )
};

#define EXACT(X, type) [QUANT_##type] = CUDA_matmul_exact_##type,
static const int exact_kernels[QUANT_COUNT] = { MATMUL_TUNED(EXACT, ) MATMUL_GENERAL(EXACT, ) };

#define TUNED(X, name) type == QUANT_##name ||
static bool is_tuned(quant_type type) { return MATMUL_TUNED(TUNED, ) MATMUL_FLOATS(TUNED, ) false; }

static bool is_float(quant_type type) { return quant_get(type)->dot_type == QUANT_F32; }

/* Which kernel, how many rows of x and of the weight a warp of it takes, blocks on a multiprocessor. */
typedef struct { int kernel, tokens, rows, resident; } choice;

/* As matmul_*.cu make them: what registers allow. */
static int warp_rows(quant_type type, int tokens)
{
    if (type == QUANT_Q8_0) return 4;
    return tokens == 16 && type != QUANT_IQ2_XXS ? 1 : 2;
}

static choice kernel_for(quant_type type, int64_t n)
{
    const int size = n > 8 ? 4 : n > 4 ? 3 : n > 2 ? 2 : n > 1 ? 1 : 0;
    const int tokens = is_tuned(type) ? 1 << size : size ? 4 : 1;
    return (choice){ kernels[type][size], tokens, warp_rows(type, tokens),
                     MATMUL_RESIDENT(is_tuned(type) ? tokens : 4) };
}

/* Columns that a warp takes in one turn. */
static int turn_columns(quant_type type)
{
    switch ((int)type) {
    case QUANT_Q8_0: return 32 * 16;
    case QUANT_Q2_K: case QUANT_IQ2_XXS: return 32 * 64;
    case QUANT_F32: return 32 * 4;
    case QUANT_F16: case QUANT_BF16: return 32 * 8;
    default: return 32 * 32;
    }
}

/* Warps that share a row: until there are 16 for every multiprocessor, or each has one turn. A matter of
 * the matrix alone, since it decides the order of sums. */
static int slices_for(const cuda_backend *b, view w)
{
    const int64_t warps = 16 * (int64_t)b->device->info.n_sm;
    int slices = 1;
    while (slices < MATMUL_WARPS && w.rows / 2 * slices < warps && turn_columns(w.type) * slices < w.cols) slices *= 2;
    return slices;
}

/* As many blocks as a GPU's registers have room for at once, or tiles. */
static cuda_dim grid_for(const cuda_backend *b, choice c, int64_t rows, int slices, int64_t x_rows, int jobs)
{
    const int each = MATMUL_WARPS / slices * c.rows, room = b->device->info.n_sm * c.resident;
    const int64_t tiles = (rows + each - 1) / each;
    return cuda_grid(tiles < room ? tiles : room, (x_rows + c.tokens - 1) / c.tokens, jobs);
}

/* ---- one launch ------------------------------------------------------------------------- */

/* Up to MATMUL_JOBS weights of one shape but for their rows, with up to CUDA_FEW_ROWS rows of x. */
typedef struct {
    view w[MATMUL_JOBS], y[MATMUL_JOBS];
    int  n, group_rows;
} jobs;

static int64_t most_rows(const jobs *j)
{
    return j->n > 1 && j->w[1].rows > j->w[0].rows ? j->w[1].rows : j->w[0].rows;
}

static ds4_status launch_codes(queue *dev, const jobs *j, const gpu_codes *x)
{
    const choice c = kernel_for(j->w[0].type, x->rows);
    matmul_args_codes k = { .x = *x, .group_rows = j->group_rows, .slices = slices_for(cuda_of(dev), j->w[0]) };
    for (int i = 0; i < j->n; i++) {
        k.w[i] = cuda_weight(j->w[i]);
        k.y[i] = cuda_rows(j->y[i]);
    }
    return cuda_launch(dev, c.kernel, grid_for(cuda_of(dev), c, most_rows(j), k.slices, x->rows, j->n),
                       MATMUL_WARPS * 32, 0, &k, sizeof k);
}

static ds4_status launch_floats(queue *dev, const jobs *j, view x)
{
    const choice c = kernel_for(j->w[0].type, x.rows);
    const uint64_t row = (uint64_t)j->w[0].cols * (uint64_t)quant_get(j->w[0].type)->block_bytes;
    const gpu_rows rows = cuda_rows(x);
    const bool aligned = row % 16 == 0 && rows.at % 16 == 0 && rows.stride % 4 == 0 && j->w[0].cols % 4 == 0;
    matmul_args_float k = { .x = rows, .group_rows = j->group_rows, .slices = slices_for(cuda_of(dev), j->w[0]),
                            .aligned = aligned };
    for (int i = 0; i < j->n; i++) {
        k.w[i] = cuda_weight(j->w[i]);
        k.y[i] = cuda_rows(j->y[i]);
    }
    return cuda_launch(dev, c.kernel, grid_for(cuda_of(dev), c, most_rows(j), k.slices, x.rows, j->n),
                       MATMUL_WARPS * 32, 0, &k, sizeof k);
}

static ds4_status launch_exact(queue *dev, const jobs *j, view x)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < j->n && !st; i++) {
        const matmul_exact_args k = { cuda_weight(j->w[i]), cuda_rows(x), cuda_rows(j->y[i]), j->group_rows };
        const cuda_dim grid = cuda_grid((j->w[i].rows + MATMUL_WARPS - 1) / MATMUL_WARPS, x.rows, 1);
        st = cuda_launch(dev, exact_kernels[j->w[i].type], grid,
                         MATMUL_WARPS * 32, 0, &k, sizeof k);
    }
    return st;
}

static gpu_codes some_codes(gpu_codes q, int64_t first, int64_t n)
{
    const uint64_t at = (uint64_t)first * (uint64_t)q.cols;
    return (gpu_codes){ q.codes + at, q.scale + at / 32 * sizeof(float), q.sum + at / 16 * sizeof(int16_t), (int32_t)n,
                        q.cols };
}

/* CUDA_FEW_ROWS at a time. */
static ds4_status run(queue *dev, const jobs *all, view x)
{
    const cuda_backend *b = cuda_of(dev);
    const quant_type type = all->w[0].type;
    const bool floats = is_float(type), exact = b->o.exact && !floats;
    gpu_codes q = { 0 };
    ds4_status st = floats || exact ? DS4_OK : cuda_codes_of(dev, x, type, &q);
    for (int64_t t = 0; t < x.rows && !st; t += CUDA_FEW_ROWS) {
        const int64_t n = x.rows - t < CUDA_FEW_ROWS ? x.rows - t : CUDA_FEW_ROWS;
        jobs j = *all;
        for (int i = 0; i < j.n; i++) j.y[i] = view_rows(j.y[i], t, n);
        const gpu_codes some = some_codes(q, t, n);
        st = floats ? launch_floats(dev, &j, view_rows(x, t, n))
           : exact ? launch_exact(dev, &j, view_rows(x, t, n))
           : launch_codes(dev, &j, &some);
    }
    return st;
}

/* ---- products ----------------------------------------------------------------------------- */

ds4_status cuda_products(queue *dev, view w, view x, view y)
{
    assert(w.cols == x.cols && w.rows == y.cols && x.rows == y.rows);
    if (x.rows > CUDA_FEW_ROWS && !cuda_of(dev)->o.exact) return cuda_prefill_products(dev, w, x, y);
    const jobs j = { .w = { w }, .y = { y }, .n = 1, .group_rows = (int)w.rows };
    return run(dev, &j, x);
}

ds4_status cuda_products_pair(queue *dev, const view w[2], view x, const view y[2])
{
    const jobs j = { .w = { w[0], w[1] }, .y = { y[0], y[1] }, .n = 2,
                     .group_rows = max_int((int)w[0].rows, (int)w[1].rows) };
    if (x.rows <= CUDA_FEW_ROWS && w[0].type == w[1].type && w[0].cols == w[1].cols) return run(dev, &j, x);
    const ds4_status st = cuda_products(dev, w[0], x, y[0]);
    return st ? st : cuda_products(dev, w[1], x, y[1]);
}

ds4_status cuda_products_grouped(queue *dev, view w, int group_rows, view x, view y)
{
    enum { WARP_ROWS = 4 };     /* that a warp takes at most: all of one group */
    const int64_t groups = w.rows / group_rows;
    assert(w.rows % group_rows == 0 && x.cols == groups * w.cols && y.cols == w.rows && x.rows == y.rows);
    const jobs j = { .w = { w }, .y = { y }, .n = 1, .group_rows = group_rows };
    if (x.rows <= CUDA_FEW_ROWS && group_rows % WARP_ROWS == 0) return run(dev, &j, x);
    ds4_status st = DS4_OK;
    for (int g = 0; g < groups && !st; g++)
        st = cuda_products(dev, view_rows(w, (int64_t)g * group_rows, group_rows), view_cols(x, g * w.cols, w.cols),
                           view_cols(y, g * group_rows, group_rows));
    return st;
}

/* ---- ops ------------------------------------------------------------------------------------ */

static ds4_status matmul(queue *dev, const matmul_args *a)
{
    cuda_backend *b = cuda_of(dev);
    cuda_op(b);
    cuda_reads(b, a->x);
    cuda_writes(b, a->y);
    return cuda_done(dev, cuda_products(dev, a->w, a->x, a->y));
}

/* y = down(swiglu(gate x, up x)): gate and up in one launch, the codes that down reads right from them. */
static ds4_status shared_ffn(queue *dev, const shared_ffn_args *a)
{
    cuda_backend *b = cuda_of(dev);
    if (a->x.rows > CUDA_FEW_ROWS || b->o.exact || is_float(a->down.type)) {
        ops composed;
        ops_default_stages(&composed);
        return composed.shared_ffn(dev, a);
    }
    cuda_op(b);
    cuda_reads(b, a->x);
    cuda_writes(b, a->gate_out);
    cuda_writes(b, a->up_out);
    cuda_writes(b, a->y);
    ds4_status st = cuda_products_pair(dev, (view[]){ a->gate, a->up }, a->x, (view[]){ a->gate_out, a->up_out });
    gpu_codes mid;
    if (!st) st = cuda_codes_of_swiglu(dev, a->gate_out, a->up_out, a->limit, a->down.type, &mid);
    const jobs down = { .w = { a->down }, .y = { a->y }, .n = 1, .group_rows = (int)a->down.rows };
    return cuda_done(dev, st ? st : launch_codes(dev, &down, &mid));
}

void cuda_matmul_ops(ops *o)
{
    o->matmul = matmul;
    o->shared_ffn = shared_ffn;
}
