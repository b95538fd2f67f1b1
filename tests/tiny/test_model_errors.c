/* Files that are well-formed but not a usable model: one sentence that names
 * the key or the tensor, and nothing left behind. */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

#include "ds4.h"
#include "gguf/gguf.h"
#include "tiny/model.h"

/* How the copy differs from the original. */
typedef struct {
    const char *drop_key, *drop_tensor;
    const char *set_key;        /* to the u32 below, or as a string when text is given */
    uint32_t    value;
    const char *text;
    const char *retype;         /* this tensor becomes F16 of the same shape (zeros)   */
    const char *reshape;        /* this tensor loses half of its rows                  */
    const char *poison;         /* every byte of this tensor becomes 0x7f              */
} change;

static const char *copied(const change *c)
{
    static char path[512];
    snprintf(path, sizeof path, "%s", test_scratch("changed.gguf"));
    gguf *g = NULL;
    gguf_writer *w = NULL;
    ds4_error err;
    ds4_status st = gguf_open(&g, tiny_model("q8_0"), NULL, &err);
    if (!st) st = gguf_writer_open(&w, path, true, &err);
    for (int i = 0; i < gguf_n_values(g) && !st; i++) {
        const gguf_value *v = gguf_value_at(g, i);
        if (c->drop_key && slice_is(v->key, c->drop_key)) continue;
        if (c->set_key && slice_is(v->key, c->set_key)) continue;
        gguf_put_value(w, v);
    }
    if (c->set_key && c->text) gguf_put_string(w, c->set_key, c->text, strlen(c->text));
    else if (c->set_key) gguf_put_u32(w, c->set_key, c->value);

    for (int pass = 0; pass < 2 && !st; pass++) {   /* describe, then fill */
        int n = 0;
        for (int i = 0; i < gguf_n_tensors(g) && !st; i++) {
            const gguf_tensor *t = gguf_tensor_at(g, i);
            if (c->drop_tensor && !strcmp(t->name, c->drop_tensor)) continue;
            const bool retype = c->retype && !strcmp(t->name, c->retype);
            const bool reshape = c->reshape && !strcmp(t->name, c->reshape);
            const bool poison = c->poison && !strcmp(t->name, c->poison);
            uint64_t ne[4] = { t->ne[0], t->ne[1], t->ne[2], t->ne[3] }, bytes = t->bytes;
            if (reshape) {
                ne[t->n_dims - 1] /= 2;
                bytes /= 2;
            }
            if (pass == 0) {
                gguf_put_tensor(w, t->name, retype ? QUANT_F16 : t->type, t->n_dims, ne, -1);
                continue;
            }
            if (retype || poison) {
                if (retype) bytes = 2 * ne[0] * ne[1] * ne[2] * ne[3];
                void *data = malloc(bytes);
                memset(data, poison ? 0x7f : 0, bytes);
                st = gguf_writer_data(w, n++, data, bytes, &err);
                free(data);
            } else {
                st = gguf_writer_data(w, n++, t->data, bytes, &err);
            }
        }
        if (pass == 0 && !st) st = gguf_writer_begin_data(w, &err);
    }
    if (!st) st = gguf_writer_commit(w, &err);
    else gguf_writer_abort(w);
    gguf_close(g);
    if (st) test_fail(__FILE__, __LINE__, "copying: %s", err.message);
    return path;
}

static void expect_refused(const change *c, ds4_status want, const char *says)
{
    ds4_engine *e = NULL;
    ds4_error err = { 0 };
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = copied(c);
    o.n_threads = 1;
    o.max_tokens = 256;
    o.max_batch_rows = 16;
    const ds4_status st = ds4_engine_open(&e, &o, &err);
    if (st != want) test_fail(__FILE__, __LINE__, "status %d, want %d (%s): %s", st, want, says, err.message);
    if (!strstr(err.message, says)) test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", err.message, says);
    EXPECT(e == NULL);
    ds4_engine_close(e);
}

TEST(an_unchanged_copy_opens)
{
    ds4_engine *e = NULL;
    ds4_error err;
    ds4_engine_options o = ds4_engine_defaults();
    const change none = { 0 };
    o.model_path = copied(&none);
    o.max_tokens = 256;
    EXPECT_OK(ds4_engine_open(&e, &o, &err), err);
    ds4_engine_close(e);
}

TEST(missing_keys_are_named)
{
    static const char *const keys[] = {
        "general.architecture", "deepseek4.block_count", "deepseek4.embedding_length", "deepseek4.vocab_size",
        "deepseek4.attention.head_count", "deepseek4.attention.key_length", "deepseek4.rope.dimension_count",
        "deepseek4.attention.compress_ratios", "deepseek4.expert_count", "deepseek4.swiglu_clamp_exp",
        "deepseek4.hyper_connection.count", "deepseek4.attention.layer_norm_rms_epsilon",
        "deepseek4.expert_weights_norm", "tokenizer.ggml.tokens", "tokenizer.ggml.merges" };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        expect_refused(&(change){ .drop_key = keys[i] }, DS4_EFORMAT, keys[i]);
}

TEST(numbers_that_can_not_be_are_named)
{
    static const struct { const char *key; uint32_t value; ds4_status want; } cases[] = {
        { "deepseek4.block_count", 0, DS4_EFORMAT },
        { "deepseek4.block_count", 4000000000u, DS4_EFORMAT },
        { "deepseek4.embedding_length", 0, DS4_EFORMAT },
        { "deepseek4.attention.head_count_kv", 2, DS4_EUNSUPPORTED },
        { "deepseek4.expert_gating_func", 2, DS4_EUNSUPPORTED },
        { "deepseek4.expert_shared_count", 3, DS4_EUNSUPPORTED },
        { "deepseek4.expert_used_count", 65, DS4_EFORMAT },
        { "deepseek4.hyper_connection.sinkhorn_iterations", 0, DS4_EFORMAT },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refused(&(change){ .set_key = cases[i].key, .value = cases[i].value }, cases[i].want, cases[i].key);
    expect_refused(&(change){ .set_key = "deepseek4.rope.dimension_count", .value = 300 }, DS4_EFORMAT,
                   "exceeds head width");
    expect_refused(&(change){ .set_key = "deepseek4.rope.dimension_count", .value = 63 }, DS4_EFORMAT, "odd");
    expect_refused(&(change){ .set_key = "deepseek4.attention.output_group_count", .value = 3 }, DS4_EFORMAT,
                   "output groups");
    expect_refused(&(change){ .set_key = "general.architecture", .text = "llama" }, DS4_EUNSUPPORTED, "llama");
    expect_refused(&(change){ .set_key = "deepseek4.block_count", .text = "43" }, DS4_EFORMAT, "deepseek4.block_count");
}

TEST(missing_and_misshapen_tensors_are_named)
{
    static const char *const tensors[] = {
        "token_embd.weight", "output.weight", "output_hc_fn.weight", "blk.0.attn_kv.weight",
        "blk.2.indexer.proj.weight", "blk.2.attn_compressor_ape.weight", "blk.0.ffn_gate_tid2eid.weight",
        "blk.4.ffn_down_exps.weight" };
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        expect_refused(&(change){ .drop_tensor = tensors[i] }, DS4_EFORMAT, tensors[i]);
        expect_refused(&(change){ .reshape = tensors[i] }, DS4_EFORMAT, tensors[i]);
    }
    expect_refused(&(change){ .retype = "blk.1.attn_norm.weight" }, DS4_EFORMAT, "blk.1.attn_norm.weight");
    expect_refused(&(change){ .retype = "blk.0.ffn_gate_tid2eid.weight" }, DS4_EFORMAT, "I32");
    expect_refused(&(change){ .retype = "blk.3.ffn_up_exps.weight" }, DS4_EFORMAT, "share one type");
    expect_refused(&(change){ .poison = "blk.1.ffn_gate_tid2eid.weight" }, DS4_EFORMAT, "names expert");
}

TEST(a_model_of_nans_runs_without_harm)
{
    ds4_engine *e = NULL;
    ds4_session *s = NULL;
    ds4_error err;
    ds4_engine_options o = ds4_engine_defaults();
    const change c = { .poison = "blk.2.ffn_gate_inp.weight" };     /* 0x7f7f is a NaN in F16 */
    o.model_path = copied(&c);
    o.max_tokens = 256;
    REQUIRE_OK(ds4_engine_open(&e, &o, &err), err);
    REQUIRE_OK(ds4_session_open(&s, e, 256, &err), err);
    ds4_token t[200];
    for (int i = 0; i < 200; i++) t[i] = 3 + i % 200;
    EXPECT_OK(ds4_session_feed(s, t, 200, NULL, NULL, &err), err);
    ds4_sampler *p;
    const ds4_sampling d = ds4_sampling_defaults();
    ds4_shape shape;
    ds4_engine_shape(e, &shape);
    REQUIRE_OK(ds4_sampler_new(&p, &d, shape.n_vocab, &err), err);
    EXPECT_INT(ds4_sample(p, ds4_session_logits(s)), -1);
    ds4_sampler_free(p);
    ds4_session_close(s);
    ds4_engine_close(e);
}
