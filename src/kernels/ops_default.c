/* ops_default: the eight stages, composed from primitives. These are the
 * definitions; a backend that replaces one is judged by it. */
#include "kernels/ops.h"

#include "base/checked.h"
#include "kernels/expert_source.h"

/* Runs one op and leaves the stage when it fails. */
#define RUN(op, ...)                                                          \
    do {                                                                      \
        const ds4_status st_ = dev->ops->op(dev, &(__VA_ARGS__));             \
        if (st_) return st_;                                                  \
    } while (0)

static ds4_status hc_pre(queue *dev, const hc_pre_args *a)
{
    RUN(hc_mix, a->mix);
    RUN(rms_norm, a->norm);
    return DS4_OK;
}

static ds4_status q_path(queue *dev, const q_path_args *a)
{
    const int width = a->q.cols / a->n_heads;
    const view heads = view_split(a->q, width);

    RUN(matmul, (matmul_args){ .w = a->q_a, .x = a->x, .y = a->latent,
                               .layer = a->layer, .name = "attn_q_a" });
    RUN(rms_norm, (rms_norm_args){ .x = a->latent, .y = a->latent, .weight = a->q_a_norm,
                                   .eps = a->eps, .layer = a->layer, .name = "attn_q_a_norm" });
    RUN(matmul, (matmul_args){ .w = a->q_b, .x = a->latent, .y = a->q,
                               .layer = a->layer, .name = "attn_q_b" });
    RUN(rms_norm, (rms_norm_args){ .x = heads, .y = heads, .eps = a->eps,
                                   .layer = a->layer, .name = "head_norm" });
    RUN(rope_tail, (rope_tail_args){ .x = a->q, .n_heads = a->n_heads, .rope = a->rope,
                                     .rows = a->rows, .layer = a->layer });
    return DS4_OK;
}

static ds4_status kv_path(queue *dev, const kv_path_args *a)
{
    RUN(matmul, (matmul_args){ .w = a->kv, .x = a->x, .y = a->row,
                               .layer = a->layer, .name = "attn_kv" });
    RUN(rms_norm, (rms_norm_args){ .x = a->row, .y = a->row, .weight = a->norm,
                                   .eps = a->eps, .layer = a->layer, .name = "attn_kv_a_norm" });
    RUN(rope_tail, (rope_tail_args){ .x = a->row, .n_heads = 1, .rope = a->rope,
                                     .rows = a->rows, .layer = a->layer });
    RUN(kv_round, (kv_round_args){ .x = a->row, .n_round = a->n_round, .kind = a->kind,
                                   .layer = a->layer });
    RUN(kv_write, (kv_write_args){ .x = a->row, .rows = a->rows, .layer = a->layer });
    return DS4_OK;
}

/* Scores are as wide as the longest session, so they are taken a tile at a time. */
static ds4_status select_rows(queue *dev, const select_rows_args *a)
{
    const int T = a->rows->n;
    const view heads = view_split(a->q, a->q.cols / a->n_heads);

    RUN(matmul, (matmul_args){ .w = a->q_b, .x = a->latent, .y = a->q,
                               .layer = a->layer, .name = "indexer.attn_q_b" });
    RUN(rope_tail, (rope_tail_args){ .x = a->q, .n_heads = a->n_heads, .rope = a->rope,
                                     .rows = a->rows, .layer = a->layer });
    RUN(kv_round, (kv_round_args){ .x = heads, .kind = a->kind, .layer = a->layer });
    RUN(matmul, (matmul_args){ .w = a->proj, .x = a->x, .y = a->weights,
                               .layer = a->layer, .name = "indexer.proj" });

    for (int first = 0; first < T; first += (int)a->scores.rows) {
        const int n = min_int((int)a->scores.rows, T - first);
        const view scores = view_rows(a->scores, 0, n);
        RUN(index_scores, (index_scores_args){
                .q = view_rows(a->q, first, n), .weights = view_rows(a->weights, first, n),
                .scores = scores, .rows = a->rows, .first = first,
                .n_heads = a->n_heads, .scale = a->scale, .layer = a->layer, .ratio = a->ratio });
        RUN(top_k, (top_k_args){ .scores = scores, .selected = view_rows(a->selected, first, n),
                                 .rows = a->rows, .first = first, .ratio = a->ratio,
                                 .layer = a->layer });
    }
    return DS4_OK;
}

/* Group g reads its heads laid end to end and owns rows g*rank.. of output_a. */
static ds4_status attn_out(queue *dev, const attn_out_args *a)
{
    const int in = a->heads.cols / a->n_groups;
    const int rank = a->low.cols / a->n_groups;

    RUN(rope_tail, (rope_tail_args){ .x = a->heads, .n_heads = a->n_heads, .rope = a->rope,
                                     .inverse = true, .rows = a->rows, .layer = a->layer });
    for (int g = 0; g < a->n_groups; g++)
        RUN(matmul, (matmul_args){ .w = view_rows(a->a, (int64_t)g * rank, rank),
                                   .x = view_cols(a->heads, g * in, in),
                                   .y = view_cols(a->low, g * rank, rank),
                                   .layer = a->layer, .name = "attn_output_a" });
    RUN(matmul, (matmul_args){ .w = a->b, .x = a->low, .y = a->y,
                               .layer = a->layer, .name = "attn_output_b" });
    return DS4_OK;
}

static ds4_status shared_ffn(queue *dev, const shared_ffn_args *a)
{
    RUN(matmul, (matmul_args){ .w = a->gate, .x = a->x, .y = a->gate_out,
                               .layer = a->layer, .name = "ffn_gate_shexp" });
    RUN(matmul, (matmul_args){ .w = a->up, .x = a->x, .y = a->up_out,
                               .layer = a->layer, .name = "ffn_up_shexp" });
    RUN(swiglu, (swiglu_args){ .gate = a->gate_out, .up = a->up_out, .y = a->gate_out,
                               .limit = a->limit, .layer = a->layer });
    RUN(matmul, (matmul_args){ .w = a->down, .x = a->gate_out, .y = a->y,
                               .layer = a->layer, .name = "ffn_down_shexp" });
    return DS4_OK;
}

static ds4_status moe_block(queue *dev, const moe_block_args *a)
{
    RUN(matmul, (matmul_args){ .w = a->gate_inp, .x = a->x, .y = a->router.logits,
                               .layer = a->layer, .name = "ffn_gate_inp" });
    RUN(router, a->router);
    if (a->experts.source)                          /* reads run while the shared expert is computed */
        a->experts.source->announce(a->experts.source, a->layer, view_i32(a->router.ids, 0),
                                    (int)a->router.ids.rows * a->router.ids.cols);
    RUN(shared_ffn, a->shared);
    RUN(expert_ffn, a->experts);
    RUN(add, (add_args){ .a = a->experts.y, .b = a->shared.y, .y = a->y, .layer = a->layer });
    return DS4_OK;
}

static ds4_status head(queue *dev, const head_args *a)
{
    RUN(hc_mix, a->mix);
    RUN(rms_norm, a->norm);
    RUN(matmul, a->output);
    return DS4_OK;
}

void ops_default_stages(ops *o)
{
    o->hc_pre = hc_pre;
    o->q_path = q_path;
    o->kv_path = kv_path;
    o->select_rows = select_rows;
    o->attn_out = attn_out;
    o->shared_ffn = shared_ffn;
    o->moe_block = moe_block;
    o->head = head;
}
