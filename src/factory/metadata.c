#include "factory/metadata.h"

#include <math.h>
#include <string.h>

#define KEY(name) "deepseek4." name

static void put_text(gguf_writer *w, const char *key, const char *text)
{
    gguf_put_string(w, key, text, strlen(text));
}

static void put_general(gguf_writer *w, const file_metadata *m)
{
    put_text(w, "general.architecture", "deepseek4");
    put_text(w, "general.name", m->name);
    gguf_put_u32(w, "general.file_type", m->recipe->file_type);
    gguf_put_u32(w, "general.quantization_version", 2);
    if (!isnan(m->temperature)) gguf_put_f32(w, "general.sampling.temp", m->temperature);
    if (!isnan(m->top_p)) gguf_put_f32(w, "general.sampling.top_p", m->top_p);
}

typedef struct {
    const char *key;
    int         value;
} int_pair;

static void put_sizes(gguf_writer *w, const model_shape *s)
{
    const int_pair pairs[] = {
        { KEY("block_count"),                      s->n_layer },
        { KEY("context_length"),                   s->n_ctx },
        { KEY("embedding_length"),                 s->n_embd },
        { KEY("vocab_size"),                       s->n_vocab },
        { KEY("attention.head_count"),             s->n_head },
        { KEY("attention.head_count_kv"),          1 },
        { KEY("attention.key_length"),             s->head_dim },
        { KEY("attention.value_length"),           s->head_dim },
        { KEY("attention.q_lora_rank"),            s->q_rank },
        { KEY("attention.output_lora_rank"),       s->out_rank },
        { KEY("attention.output_group_count"),     s->n_group },
        { KEY("attention.sliding_window"),         s->window },
        { KEY("attention.indexer.head_count"),     s->n_index_head },
        { KEY("attention.indexer.key_length"),     s->index_dim },
        { KEY("attention.indexer.top_k"),          s->index_top_k },
        { KEY("rope.dimension_count"),             s->n_rot },
        { KEY("expert_count"),                     s->n_expert },
        { KEY("expert_used_count"),                s->n_used },
        { KEY("expert_shared_count"),              s->n_shared },
        { KEY("expert_feed_forward_length"),       s->expert_dim },
        { KEY("expert_gating_func"),               4 },     /* square root of softplus */
        { KEY("hash_layer_count"),                 s->n_hash },
        { KEY("hyper_connection.count"),           s->n_stream },
        { KEY("hyper_connection.sinkhorn_iterations"), s->sinkhorn_steps },
        { KEY("nextn_predict_layers"),             s->n_nextn },
        { KEY("rope.scaling.original_context_length"), s->rope_context },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        gguf_put_u32(w, pairs[i].key, (uint32_t)pairs[i].value);
}

static void put_constants(gguf_writer *w, const model_shape *s)
{
    gguf_put_f32(w, KEY("attention.layer_norm_rms_epsilon"), s->norm_eps);
    gguf_put_f32(w, KEY("attention.compress_rope_freq_base"), s->compress_rope_base);
    gguf_put_f32(w, KEY("rope.freq_base"), s->rope_base);
    put_text(w, KEY("rope.scaling.type"), "yarn");
    gguf_put_f32(w, KEY("rope.scaling.factor"), s->rope_factor);
    gguf_put_f32(w, KEY("rope.scaling.yarn_beta_fast"), s->rope_beta_fast);
    gguf_put_f32(w, KEY("rope.scaling.yarn_beta_slow"), s->rope_beta_slow);
    gguf_put_f32(w, KEY("expert_weights_scale"), s->expert_scale);
    gguf_put_bool(w, KEY("expert_weights_norm"), true);
    gguf_put_f32(w, KEY("hyper_connection.epsilon"), s->hc_eps);
}

static void put_layers(gguf_writer *w, const model_shape *s, file_layout layout)
{
    float limit[SHAPE_MAX_LAYERS];
    for (int l = 0; l < s->n_layer; l++) limit[l] = s->swiglu_limit;

    /* The array keeps its entries for drafter layers; readers take the first block_count. */
    gguf_put_i32_array(w, KEY("attention.compress_ratios"), s->ratio, (uint64_t)s->n_ratio);
    gguf_put_f32_array(w, KEY("swiglu_clamp_exp"), limit, (uint64_t)s->n_layer);
    if (layout == LAYOUT_LLAMACPP)
        gguf_put_f32_array(w, KEY("swiglu_clamp_shexp"), limit, (uint64_t)s->n_layer);
}

static void put_tokens(gguf_writer *w, const token_table *t)
{
    put_text(w, "tokenizer.ggml.model", "gpt2");
    put_text(w, "tokenizer.ggml.pre", "joyai-llm");
    gguf_put_string_array(w, "tokenizer.ggml.tokens", t->tokens, (uint64_t)t->n_tokens);
    gguf_put_i32_array(w, "tokenizer.ggml.token_type", t->types, (uint64_t)t->n_tokens);
    gguf_put_string_array(w, "tokenizer.ggml.merges", t->merges, (uint64_t)t->n_merges);
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)t->bos);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)t->eos);
    gguf_put_u32(w, "tokenizer.ggml.padding_token_id", (uint32_t)t->pad);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);    /* the chat layer writes it */
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
    if (t->chat_template.data)
        gguf_put_string(w, "tokenizer.chat_template", t->chat_template.data, t->chat_template.len);
}

void metadata_put(gguf_writer *w, const file_metadata *m)
{
    put_general(w, m);
    put_sizes(w, m->shape);
    put_constants(w, m->shape);
    put_layers(w, m->shape, m->recipe->layout);
    put_tokens(w, m->tokens);
}

void metadata_put_tensors(gguf_writer *w, const tensor_plan *p)
{
    for (int i = 0; i < p->n; i++) {
        const planned_tensor *t = &p->items[i];
        gguf_put_tensor(w, t->name, t->type, t->n_dims, t->ne, t->alias_of);
    }
}
