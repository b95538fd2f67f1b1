#include "kernels/op_cost.h"

#include "base/checked.h"

enum { MOST_EXPERTS = 4096 };

static uint64_t bytes_of(view v)
{
    uint64_t row = 0;
    if (view_present(v)) quant_row_bytes(v.type, (uint64_t)v.cols, &row);
    return row * (uint64_t)v.rows;
}

/* A product of w with T rows. */
static op_cost product(view w, int64_t T)
{
    if (!view_present(w)) return (op_cost){ 0 };
    return (op_cost){ .read_bytes = bytes_of(w), .macs = (uint64_t)w.rows * (uint64_t)w.cols * (uint64_t)T };
}

static op_cost sum(op_cost a, op_cost b)
{
    return (op_cost){ a.read_bytes + b.read_bytes, a.macs + b.macs, a.experts + b.experts };
}

static op_cost weight_only(view w) { return (op_cost){ .read_bytes = bytes_of(w) }; }

/* ---- primitives ------------------------------------------------------------ */

op_cost op_cost_embed_rows(const embed_rows_args *a)
{
    uint64_t row = 0;
    quant_row_bytes(a->table.type, (uint64_t)a->table.cols, &row);
    return (op_cost){ .read_bytes = row * (uint64_t)a->rows->n };
}

op_cost op_cost_rms_norm(const rms_norm_args *a)   { return weight_only(a->weight); }
op_cost op_cost_matmul(const matmul_args *a)       { return product(a->w, a->x.rows); }
op_cost op_cost_swiglu(const swiglu_args *a)       { (void)a; return (op_cost){ 0 }; }
op_cost op_cost_add(const add_args *a)             { (void)a; return (op_cost){ 0 }; }
op_cost op_cost_rope_tail(const rope_tail_args *a) { (void)a; return (op_cost){ 0 }; }
op_cost op_cost_kv_round(const kv_round_args *a)   { (void)a; return (op_cost){ 0 }; }
op_cost op_cost_hc_mix(const hc_mix_args *a)       { return product(a->fn, a->streams.rows); }
op_cost op_cost_hc_expand(const hc_expand_args *a) { (void)a; return (op_cost){ 0 }; }
op_cost op_cost_kv_write(const kv_write_args *a)   { (void)a; return (op_cost){ 0 }; }
op_cost op_cost_compress(const compress_args *a)   { return weight_only(a->ape); }
op_cost op_cost_top_k(const top_k_args *a)         { (void)a; return (op_cost){ 0 }; }
op_cost op_cost_top_logits(const top_logits_args *a) { (void)a; return (op_cost){ 0 }; }

static const kv_layer *memory_of(const batch_rows *rows, int t, int layer)
{
    return &rows->segment[rows->segment_of[t]].kv->layer[layer];
}

op_cost op_cost_index_scores(const index_scores_args *a)
{
    op_cost c = { 0 };
    for (int t = 0; t < (int)a->q.rows; t++) {
        const int at = a->first + t;
        const uint64_t seen = (uint64_t)((a->rows->pos[at] + 1) / a->ratio);
        c.read_bytes += seen * (uint64_t)kv_row_bytes(memory_of(a->rows, at, a->layer)->index_row);
        c.macs += seen * (uint64_t)a->q.cols;
    }
    return c;
}

/* Rows that all tokens of a chunk share are counted once for each. */
op_cost op_cost_attend(const attend_args *a)
{
    op_cost c = { 0 };
    for (int t = 0; t < a->rows->n; t++) {
        const int seen = a->rows->pos[t] + 1, compressed = a->ratio ? seen / a->ratio : 0;
        const int chosen = view_present(a->selected) ? min_int(compressed, a->selected.cols) : compressed;
        const uint64_t rows = (uint64_t)(min_int(seen, a->n_swa) + chosen);
        c.read_bytes += rows * (uint64_t)kv_row_bytes(memory_of(a->rows, t, a->layer)->row);
        c.macs += 2 * rows * (uint64_t)a->q.cols;       /* scores, then the weighted sum */
    }
    return c;
}

op_cost op_cost_router(const router_args *a)
{
    return view_present(a->hash) ? (op_cost){ .read_bytes = (uint64_t)a->rows->n * (uint64_t)a->hash.cols * 4u }
                                 : weight_only(a->bias);
}

static int distinct_experts(view ids, int n_experts)
{
    uint64_t seen[MOST_EXPERTS / 64] = { 0 };
    int n = 0;
    for (int64_t t = 0; t < ids.rows; t++) {
        const int32_t *id = view_i32(ids, t);
        for (int k = 0; k < ids.cols; k++) {
            if (id[k] < 0 || id[k] >= min_int(n_experts, MOST_EXPERTS)) continue;
            uint64_t *word = &seen[id[k] / 64];
            const uint64_t bit = UINT64_C(1) << id[k] % 64;
            n += !(*word & bit);
            *word |= bit;
        }
    }
    return n;
}

op_cost op_cost_expert_ffn(const expert_ffn_args *a)
{
    const uint64_t pairs = (uint64_t)a->ids.rows * (uint64_t)a->ids.cols, E = (uint64_t)a->n_experts;
    const uint64_t numbers = (uint64_t)a->gate.rows * (uint64_t)a->gate.cols + (uint64_t)a->up.rows * (uint64_t)a->up.cols
                           + (uint64_t)a->down.rows * (uint64_t)a->down.cols;
    const uint64_t experts = (uint64_t)distinct_experts(a->ids, a->n_experts);
    return (op_cost){ .read_bytes = (bytes_of(a->gate) + bytes_of(a->up) + bytes_of(a->down)) / E * experts,
                      .macs = numbers / E * pairs, .experts = experts };
}

/* ---- stages ------------------------------------------------------------------ */

op_cost op_cost_hc_pre(const hc_pre_args *a)
{
    return sum(op_cost_hc_mix(&a->mix), op_cost_rms_norm(&a->norm));
}

op_cost op_cost_q_path(const q_path_args *a)
{
    return sum(sum(product(a->q_a, a->x.rows), weight_only(a->q_a_norm)), product(a->q_b, a->x.rows));
}

op_cost op_cost_kv_path(const kv_path_args *a)
{
    return sum(product(a->kv, a->x.rows), weight_only(a->norm));
}

op_cost op_cost_select_rows(const select_rows_args *a)
{
    const index_scores_args scores = { .q = a->q, .rows = a->rows, .layer = a->layer, .ratio = a->ratio };
    return sum(sum(product(a->q_b, a->x.rows), product(a->proj, a->x.rows)), op_cost_index_scores(&scores));
}

/* Each group's rows of a meet only that group's heads, so a is read once and
 * multiplied once. */
op_cost op_cost_attn_out(const attn_out_args *a)
{
    return sum(product(a->a, a->heads.rows), product(a->b, a->heads.rows));
}

op_cost op_cost_shared_ffn(const shared_ffn_args *a)
{
    return sum(sum(product(a->gate, a->x.rows), product(a->up, a->x.rows)), product(a->down, a->x.rows));
}

op_cost op_cost_moe_block(const moe_block_args *a)
{
    return sum(sum(product(a->gate_inp, a->x.rows), op_cost_router(&a->router)),
               sum(op_cost_expert_ffn(&a->experts), op_cost_shared_ffn(&a->shared)));
}

op_cost op_cost_head(const head_args *a)
{
    return sum(sum(op_cost_hc_mix(&a->mix), op_cost_rms_norm(&a->norm)), op_cost_matmul(&a->output));
}
