#include "kernels/results.h"

/* Says where the op is and calls the visitor for one result. */
#define AT(l, n)       (v->layer = (l), v->name = (n))
#define RESULT(field)  v->fn(v->ctx, #field, a->field, NULL)

void results_embed_rows(const embed_rows_args *a, result_visit *v)
{
    AT(-1, "");
    RESULT(streams);
}

void results_rms_norm(const rms_norm_args *a, result_visit *v)
{
    AT(a->layer, a->name);
    RESULT(y);
}

void results_matmul(const matmul_args *a, result_visit *v)
{
    AT(a->layer, a->name);
    RESULT(y);
}

void results_swiglu(const swiglu_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(y);
}

void results_add(const add_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(y);
}

void results_rope_tail(const rope_tail_args *a, result_visit *v)
{
    AT(a->layer, a->inverse ? "inverse" : "");
    RESULT(x);
}

void results_kv_round(const kv_round_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(x);
}

void results_hc_mix(const hc_mix_args *a, result_visit *v)
{
    AT(a->layer, a->name);
    RESULT(x);
    if (a->head) return;
    RESULT(post);
    RESULT(comb);
}

void results_hc_expand(const hc_expand_args *a, result_visit *v)
{
    AT(a->layer, a->name);
    RESULT(streams);
}

static void ring_rows_of(const batch_rows *rows, int layer, result_visit *v)
{
    for (int t = 0; t < rows->n; t++) {
        const kv_layer *l = &rows->segment[rows->segment_of[t]].kv->layer[layer];
        v->fn(v->ctx, "ring", view_rows(l->ring, rows->pos[t] % l->ring.rows, 1), &l->row);
    }
}

void results_kv_write(const kv_write_args *a, result_visit *v)
{
    AT(a->layer, "");
    ring_rows_of(a->rows, a->layer, v);
}

void results_compress(const compress_args *a, result_visit *v)
{
    AT(a->layer, a->index ? "index" : "main");
    RESULT(score);
    for (int i = 0; i < a->rows->n_segments; i++) {
        const segment *s = &a->rows->segment[i];
        const kv_layer *l = &s->kv->layer[a->layer];
        const compressor_state *state = a->index ? &l->index : &l->main;
        const view pool = a->index ? l->index_pool : l->pool;
        const kv_row *stored = a->index ? &l->index_row : &l->row;

        for (int b = s->pos / a->ratio; b < (s->pos + s->n) / a->ratio; b++)
            v->fn(v->ctx, "row", view_rows(pool, (int64_t)l->blocks[b / l->block_rows] * l->block_rows +
                                                     b % l->block_rows, 1), stored);
        v->fn(v->ctx, "value", state->value[s->kv->ahead], NULL);
        v->fn(v->ctx, "score", state->score[s->kv->ahead], NULL);
    }
}

void results_index_scores(const index_scores_args *a, result_visit *v)
{
    AT(a->layer, "");
    for (int i = 0; i < (int)a->scores.rows; i++) {
        const int visible = (a->rows->pos[a->first + i] + 1) / a->ratio;
        v->fn(v->ctx, "scores", view_cols(view_rows(a->scores, i, 1), 0, visible), NULL);
    }
}

void results_top_k(const top_k_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(selected);
}

void results_attend(const attend_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(heads);
}

void results_router(const router_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(ids);
    RESULT(weights);
}

void results_expert_ffn(const expert_ffn_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(y);
}

void results_top_logits(const top_logits_args *a, result_visit *v)
{
    AT(-1, "");
    RESULT(ids);
    RESULT(values);
    RESULT(norm);
}

void results_hc_pre(const hc_pre_args *a, result_visit *v)
{
    AT(a->mix.layer, a->mix.name);
    v->fn(v->ctx, "x", a->mix.x, NULL);
    v->fn(v->ctx, "post", a->mix.post, NULL);
    v->fn(v->ctx, "comb", a->mix.comb, NULL);
    v->fn(v->ctx, "normed", a->norm.y, NULL);
}

void results_q_path(const q_path_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(latent);
    RESULT(q);
}

void results_kv_path(const kv_path_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(row);
    ring_rows_of(a->rows, a->layer, v);
}

void results_select_rows(const select_rows_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(q);
    RESULT(selected);
}

void results_attn_out(const attn_out_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(heads);
    RESULT(y);
}

void results_shared_ffn(const shared_ffn_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(y);
}

void results_moe_block(const moe_block_args *a, result_visit *v)
{
    AT(a->layer, "");
    RESULT(y);
}

void results_head(const head_args *a, result_visit *v)
{
    AT(-1, "");
    v->fn(v->ctx, "logits", a->output.y, NULL);
}
