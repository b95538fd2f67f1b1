/* make_checkpoint: small released checkpoints for tests, whole or broken on purpose.
 *
 * Every tensor of the model is there with random values: vectors and position
 * biases F32, matrices BF16, the table I64. A test changes what it wants to
 * see refused (or decoded) and writes the folder. */
#ifndef TESTS_MAKE_CHECKPOINT_H
#define TESTS_MAKE_CHECKPOINT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/random.h"
#include "factory/tensors.h"
#include "runner.h"

#define MADE_MAX 256

typedef struct {
    char        name[TENSOR_NAME_MAX];
    const char *dtype;
    int         n_dims;
    uint64_t    dims[2];
    uint8_t    *data;           /* owned */
    uint64_t    bytes;
} made_tensor;

typedef struct {
    model_shape   shape;
    made_tensor   items[MADE_MAX];
    int           n;
    random_stream random;
    const char   *config;       /* text of config.json; NULL: from the shape, released names */
    const char   *tokenizer;    /* text of tokenizer.json; NULL: 6 tokens, one merge         */
    uint64_t      cut;          /* bytes missing at the end of the shard                     */
} made_checkpoint;

/* Three layers of three kinds; 160 and 256 so that tiles of 128 are cut and
 * K-quants fit. */
static inline model_shape made_shape(void)
{
    model_shape s;
    shape_preset(&s, "tiny");
    s.n_layer = 3;
    s.n_embd = 256;
    s.n_vocab = 16;
    s.n_head = 2;
    s.head_dim = 64;
    s.n_rot = 32;
    s.q_rank = 160;
    s.out_rank = 16;
    s.index_dim = 32;
    s.n_expert = 2;
    s.expert_dim = 256;
    s.n_hash = 1;
    s.ratio[0] = 0;
    s.ratio[1] = 4;
    s.ratio[2] = 128;
    s.n_ratio = 3;
    return s;
}

static inline made_tensor *made_find(made_checkpoint *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->items[i].name, name)) return &m->items[i];
    test_fail(__FILE__, __LINE__, "no tensor %s to change", name);
    return &m->items[0];
}

/* Adds a tensor whose data the caller fills. */
static inline made_tensor *made_add(made_checkpoint *m, const char *name, const char *dtype, int n_dims,
                                    uint64_t d0, uint64_t d1, uint64_t element_bytes)
{
    made_tensor *t = &m->items[m->n++];
    *t = (made_tensor){ .dtype = dtype, .n_dims = n_dims, .dims = { d0, d1 } };
    snprintf(t->name, sizeof t->name, "%s", name);
    t->bytes = d0 * (n_dims > 1 ? d1 : 1) * element_bytes;
    t->data = calloc(1, t->bytes ? t->bytes : 1);
    return t;
}

static inline void made_drop(made_checkpoint *m, const char *name)
{
    made_tensor *t = made_find(m, name);
    free(t->data);
    *t = m->items[--m->n];
}

/* Multiples of 2^-6 below 4 in magnitude: exact in BF16 and F16. */
static inline float made_value(random_stream *r)
{
    return (float)((int)random_below(r, 255) - 127) / 64.f;
}

static inline void made_fill(made_checkpoint *m, made_tensor *t)
{
    for (uint64_t i = 0; i < t->bytes;) {
        const float v = made_value(&m->random);
        uint32_t bits;
        memcpy(&bits, &v, 4);
        if (!strcmp(t->dtype, "F32")) { memcpy(t->data + i, &bits, 4); i += 4; }
        else if (!strcmp(t->dtype, "BF16")) { t->data[i] = (uint8_t)(bits >> 16); t->data[i + 1] = (uint8_t)(bits >> 24); i += 2; }
        else { t->data[i] = (uint8_t)random_below(&m->random, 2); i += 8; }      /* I64: expert 0 or 1 */
    }
}

static inline void made_layer(made_checkpoint *m, int layer)
{
    const tensor_def *d;
    char name[TENSOR_NAME_MAX];
    for (int i = 0; (d = tensor_def_at(i)); i++) {
        if (layer < 0 ? d->place != IN_MODEL : !tensor_in_layer(d, &m->shape, layer)) continue;
        const uint64_t in = tensor_size_of(d->in, &m->shape, layer), out = tensor_size_of(d->out, &m->shape, layer);
        const bool table = d->class == CLASS_TABLE, vector = d->out == SIZE_NONE;
        const bool f32 = d->class == CLASS_APE || d->class == CLASS_HC || vector;
        for (int e = 0; e < (tensor_is_stack(d) ? m->shape.n_expert : 1); e++) {
            tensor_checkpoint_name(d, layer, e, name);
            made_fill(m, vector ? made_add(m, name, "F32", 1, in, 0, 4)
                                : made_add(m, name, table ? "I64" : f32 ? "F32" : "BF16", 2, out, in,
                                           table ? 8 : f32 ? 4 : 2));
        }
    }
}

static inline void made_init_as(made_checkpoint *m, const model_shape *shape)
{
    *m = (made_checkpoint){ .shape = *shape };
    random_seed(&m->random, 7);
    for (int l = -1; l < m->shape.n_layer; l++) made_layer(m, l);
}

static inline void made_init(made_checkpoint *m)
{
    const model_shape shape = made_shape();
    made_init_as(m, &shape);
}

static inline void made_free(made_checkpoint *m)
{
    for (int i = 0; i < m->n; i++) free(m->items[i].data);
    m->n = 0;
}

/* ---- writing ----------------------------------------------------------- */

static inline void made_put(const char *dir, const char *name, const void *data, size_t n)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n) test_fail(__FILE__, __LINE__, "can not write %s", path);
    if (f) fclose(f);
}

static inline void made_text(const char *dir, const char *name, const char *text)
{
    made_put(dir, name, text, strlen(text));
}

/* The shard of items [first, end). */
static inline void made_shard(const made_checkpoint *m, const char *dir, const char *name, int first, int end)
{
    bytes file;
    uint64_t at = 0;
    bytes_init(&file, (size_t)1 << 30);
    bytes_append(&file, "\0\0\0\0\0\0\0", 8);
    for (int i = first; i < end; i++) {
        const made_tensor *t = &m->items[i];
        bytes_printf(&file, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", i == first ? "{" : ",", t->name, t->dtype,
                     (unsigned long long)t->dims[0]);
        if (t->n_dims > 1) bytes_printf(&file, ",%llu", (unsigned long long)t->dims[1]);
        bytes_printf(&file, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                     (unsigned long long)(at + t->bytes));
        at += t->bytes;
    }
    bytes_text(&file, "}");
    const uint64_t header = file.len - 8;
    memcpy(file.data, &header, 8);
    for (int i = first; i < end; i++) bytes_append(&file, m->items[i].data, m->items[i].bytes);
    made_put(dir, name, file.data, file.len - m->cut);
    bytes_free(&file);
}

static inline void made_config(const made_checkpoint *m, const char *dir)
{
    const model_shape *s = &m->shape;
    char text[2048];
    snprintf(text, sizeof text,
             "{\"num_hidden_layers\":%d,\"hidden_size\":%d,\"vocab_size\":%d,\"num_attention_heads\":%d,\"head_dim\":%d,"
             "\"qk_rope_head_dim\":%d,\"q_lora_rank\":%d,\"o_lora_rank\":%d,\"o_groups\":%d,\"sliding_window\":%d,"
             "\"index_n_heads\":%d,\"index_head_dim\":%d,\"index_topk\":%d,\"n_routed_experts\":%d,"
             "\"num_experts_per_tok\":%d,\"moe_intermediate_size\":%d,\"num_hash_layers\":%d,\"bos_token_id\":0,"
             "\"eos_token_id\":1,\"swiglu_limit\":7.5,\"compress_ratios\":[%d,%d,%d,0],\"rope_scaling\":{\"type\":\"yarn\","
             "\"factor\":8,\"original_max_position_embeddings\":1024,\"beta_fast\":32,\"beta_slow\":1}}",
             s->n_layer, s->n_embd, s->n_vocab, s->n_head, s->head_dim, s->n_rot, s->q_rank, s->out_rank, s->n_group,
             s->window, s->n_index_head, s->index_dim, s->index_top_k, s->n_expert, s->n_used, s->expert_dim, s->n_hash,
             s->ratio[0], s->ratio[1], s->ratio[2]);
    made_text(dir, "config.json", m->config ? m->config : text);
}

/* Writes the folder (made if it is not there) with one shard. */
static inline void made_write(const made_checkpoint *m, const char *dir)
{
    const char *tokenizer = m->tokenizer ? m->tokenizer :
        "{\"added_tokens\":[{\"id\":0,\"content\":\"<bos>\",\"special\":true},{\"id\":1,\"content\":\"<eos>\",\"special\":true},"
        "{\"id\":5,\"content\":\"<think>\",\"special\":false}],"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2,\"b\":3,\"ab\":4},\"merges\":[\"a b\"]}}";
    mkdir(dir, 0700);
    made_config(m, dir);
    made_text(dir, "tokenizer.json", tokenizer);
    made_shard(m, dir, "model.safetensors", 0, m->n);
}

#endif
