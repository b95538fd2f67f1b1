/* cuda_codes: activations in codes, made once for all the products that read them.
 *
 * The scratch of the family holds a few sets of rows. Which rows a set was made of is
 * remembered, within a step, until they are written; queries and keys, the shared expert and the router's
 * experts read the same normed rows. */
#include "kernels/cuda/cuda_internal.h"

#include "base/checked.h"

static uint64_t padded(uint64_t n) { return round_up(n, PLANE_ALIGN); }

/* Numbers of one set: the rows of any product, the experts' pairs, and a few rows of all heads. */
static uint64_t set_numbers(const backend_limits *l)
{
    const uint64_t rows = (uint64_t)l->max_rows * (uint64_t)l->max_cols;
    const uint64_t pairs = (uint64_t)l->max_pairs * (uint64_t)l->max_expert_width;
    const uint64_t few = (uint64_t)min_int(l->max_rows, CUDA_FEW_ROWS);
    const uint64_t heads = few * (uint64_t)l->n_heads * (uint64_t)l->max_head_width;
    return padded(max_u64(max_u64(rows, pairs), heads));
}

/* Codes, a scale per 32, a sum per 16. */
static uint64_t set_bytes(uint64_t numbers)
{
    return numbers + padded(numbers / 32 * sizeof(float)) + padded(numbers / 16 * sizeof(int16_t));
}

uint64_t cuda_matmul_scratch(const backend_limits *l) { return CUDA_CODES_SETS * set_bytes(set_numbers(l)); }

static gpu_codes set_at(const cuda_backend *b, int i, view x)
{
    const uint64_t numbers = set_numbers(&b->o.limits);
    const gpu_ptr at = b->scratch[CUDA_FAMILY_MATMUL] + (uint64_t)i * set_bytes(numbers);
    return (gpu_codes){ .codes = at, .scale = at + numbers, .sum = at + numbers + padded(numbers / 32 * sizeof(float)),
                        .rows = (int32_t)x.rows, .cols = x.cols };
}

static void forget_set(cuda_codes_set *s) { s->at = 0; }

void cuda_codes_keep(cuda_backend *b, bool on)
{
    b->codes.on = on;
    b->codes.next = 0;                  /* a step of a shape takes the same sets every time */
    for (int i = 0; i < CUDA_CODES_SETS; i++) forget_set(&b->codes.set[i]);
}

void cuda_codes_forget(cuda_backend *b, gpu_ptr at, uint64_t bytes)
{
    for (int i = 0; i < CUDA_CODES_SETS; i++) {
        cuda_codes_set *s = &b->codes.set[i];
        const int64_t numbers = (s->rows - 1) * s->stride + s->cols;
        const uint64_t end = s->at + (uint64_t)numbers * sizeof(float);
        if (s->at && at < end && s->at < at + bytes) forget_set(s);
    }
}

/* The set that is made next, for rows like x. */
static ds4_status take_set(queue *dev, view x, bool super, int *set, gpu_codes *out)
{
    cuda_backend *b = cuda_of(dev);
    const int len = super ? 256 : 32;
    if (x.cols % len || (uint64_t)x.rows * (uint64_t)x.cols > set_numbers(&b->o.limits))
        return queue_fail(dev, DS4_EARG, "%s: a product of %lld rows of %d; the backend was opened for %d of %d",
                          b->base.name, (long long)x.rows, x.cols, b->o.limits.max_rows, b->o.limits.max_cols);
    *set = b->codes.next;
    b->codes.next = (*set + 1) % CUDA_CODES_SETS;
    forget_set(&b->codes.set[*set]);
    *out = set_at(b, *set, x);
    cuda_writes_at(b, out->codes, set_bytes(set_numbers(&b->o.limits)));
    return DS4_OK;
}

static bool is_super(quant_type weight) { return quant_get(weight)->dot_type == QUANT_Q8_K; }

static ds4_status make(queue *dev, int kernel, const codes_args *k, int len)
{
    const int blocks = k->q.cols / len;
    return cuda_launch(dev, kernel, cuda_grid(k->q.rows, (blocks + CODES_WARPS - 1) / CODES_WARPS, 1),
                       CODES_WARPS * 32, 0, k, sizeof *k);
}

ds4_status cuda_codes_of(queue *dev, view x, quant_type weight, gpu_codes *out)
{
    cuda_backend *b = cuda_of(dev);
    const bool super = is_super(weight);
    const gpu_rows rows = cuda_rows(x);
    const cuda_codes_set want = { rows.at, rows.stride, rows.rows, rows.cols, super };
    for (int i = 0; i < CUDA_CODES_SETS; i++) {
        const cuda_codes_set *s = &b->codes.set[i];
        if (s->at != want.at || s->stride != want.stride || s->rows != want.rows) continue;
        if (s->cols != want.cols || s->super != super) continue;
        *out = set_at(b, i, x);
        cuda_reads_at(b, out->codes, set_bytes(set_numbers(&b->o.limits)));
        return DS4_OK;
    }
    int set;
    ds4_status st = take_set(dev, x, super, &set, out);
    if (st) return st;
    cuda_reads(b, x);
    const codes_args k = { .x = rows, .q = *out };
    st = make(dev, super ? CUDA_codes_by_256 : CUDA_codes_by_32, &k, super ? 256 : 32);
    if (!st) cuda_op_made(b, out->codes, set_bytes(set_numbers(&b->o.limits)));
    if (!st && b->codes.on) b->codes.set[set] = want;
    return st;
}

ds4_status cuda_codes_beside(queue *dev, view x, const quant_type *weights, int n, gpu_codes out[2])
{
    cuda_backend *b = cuda_of(dev);
    const gpu_rows rows = cuda_rows(x);
    out[0] = out[1] = (gpu_codes){ 0 };
    if (!b->codes.on || b->o.exact) return DS4_OK;
    for (int i = 0; i < n; i++) {
        const bool super = is_super(weights[i]);
        if (quant_get(weights[i])->dot_type == QUANT_F32 || out[super].codes || x.cols % (super ? 256 : 32)) continue;
        int set;
        const ds4_status st = take_set(dev, x, super, &set, &out[super]);
        if (st) return st;
        b->codes.set[set] = (cuda_codes_set){ rows.at, rows.stride, rows.rows, rows.cols, super };
    }
    return DS4_OK;
}

ds4_status cuda_codes_of_swiglu(queue *dev, view gate, view up, float limit, quant_type weight, gpu_codes *out)
{
    const bool super = is_super(weight);
    int set;
    const ds4_status st = take_set(dev, gate, super, &set, out);
    if (st) return st;
    const codes_args k = { .x = cuda_rows(gate), .up = cuda_rows(up), .q = *out, .limit = limit };
    return make(dev, super ? CUDA_swiglu_codes_by_256 : CUDA_swiglu_codes_by_32, &k, super ? 256 : 32);
}
