/* From a released checkpoint to a model file. */
#include "factory/convert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "factory/checkpoint.h"
#include "gguf/gguf.h"
#include "make_checkpoint.h"
#include "quant/quant.h"
#include "runner.h"

static ds4_status convert(const char *dir, const char *out, const char *types, ds4_error *err)
{
    convert_options o = convert_defaults();
    o.dir = dir;
    o.out = out;
    o.recipe = types;
    o.overwrite = true;
    o.n_threads = 2;
    return convert_run(&o, err);
}

/* Converts and opens; NULL after a failed expectation. */
static gguf *converted(const char *dir, const char *types)
{
    ds4_error err;
    gguf *g = NULL;
    const char *out = test_scratch("out.gguf");
    EXPECT_OK(convert(dir, out, types, &err), err);
    const gguf_options strict = { .strict = true };
    EXPECT_OK(gguf_open(&g, out, &strict, &err), err);
    return g;
}

static float *decoded(const gguf_tensor *t, uint64_t *n)
{
    *n = t->ne[0] * t->ne[1] * t->ne[2];
    float *x = malloc(*n * sizeof *x);
    quant_get(t->type)->to_float(x, t->data, (int64_t)*n);
    return x;
}

static int64_t int_of(const gguf *g, const char *key)
{
    int64_t v = -1;
    ds4_error err;
    EXPECT_OK(gguf_get_int(g, key, 0, INT64_MAX, &v, &err), err);
    return v;
}

static double float_of(const gguf *g, const char *key)
{
    double v = NAN;
    ds4_error err;
    EXPECT_OK(gguf_get_float(g, key, &v, &err), err);
    return v;
}

/* ---- the golden model -------------------------------------------------- */

/* What a stored tensor holds at i, by the formats' definitions. */
static float stored_value(const stored_tensor *t, uint64_t i)
{
    uint32_t bits = 0;
    float    v;
    if (t->type == STORED_BF16) memcpy((uint8_t *)&bits + 2, t->data + 2 * i, 2);
    else memcpy(&bits, t->data + 4 * i, 4);
    memcpy(&v, &bits, 4);
    return v;
}

/* Values [at, at + n) of t are those of the checkpoint's tensor, bit for bit. */
static void expect_same(const gguf_tensor *t, uint64_t at, const checkpoint *c, const char *name)
{
    const stored_tensor *s = checkpoint_find(c, name);
    uint64_t n = 1;
    if (!s) {
        test_fail(__FILE__, __LINE__, "no %s", name);
        return;
    }
    for (int d = 0; d < s->n_dims; d++) n *= s->dims[d];
    for (uint64_t i = 0; i < n; i++) {
        int64_t id;
        const float want = s->type == STORED_I64 ? 0 : stored_value(s, i);
        const uint8_t *got = t->data + 4 * (at + i);
        if (s->type == STORED_I64) memcpy(&id, s->data + 8 * i, 8);
        if (s->type == STORED_I64 ? *(const int32_t *)(const void *)got != id : memcmp(got, &want, 4) != 0) {
            test_fail(__FILE__, __LINE__, "%s differs from %s at %llu", t->name, name, (unsigned long long)i);
            return;
        }
    }
}

TEST(every_value_of_the_golden_model_arrives_as_f32)
{
    ds4_error err;
    checkpoint *c;
    const char *dir = test_data("golden/tiny-a");
    gguf *g = converted(dir, "f32");
    REQUIRE(g);
    REQUIRE_OK(checkpoint_open(&c, dir, &err), err);

    int used = 0, layer;
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        const tensor_def *d = tensor_def_find(t->name, &layer);
        REQUIRE(d != NULL);
        for (uint64_t e = 0; e < t->ne[2]; e++, used++) {
            char name[TENSOR_NAME_MAX];
            tensor_checkpoint_name(d, layer, (int)e, name);
            expect_same(t, e * t->ne[0] * t->ne[1], c, name);
        }
    }
    EXPECT_INT(used, 359);                          /* all that the file holds */
    EXPECT(checkpoint_at(c, used) == NULL);

    /* Names, written down once more by hand, after the table of the golden README. */
    static const struct { const char *gguf, *checkpoint; uint64_t at; } pairs[] = {
        { "token_embd.weight", "embed.weight", 0 },
        { "output.weight", "head.weight", 0 },
        { "output_hc_scale.weight", "hc_head_scale", 0 },
        { "blk.0.ffn_gate_tid2eid.weight", "layers.0.ffn.gate.tid2eid", 0 },
        { "blk.1.attn_kv_a_norm.weight", "layers.1.attn.kv_norm.weight", 0 },
        { "blk.2.indexer_compressor_gate.weight", "layers.2.attn.indexer.compressor.wgate.weight", 0 },
        { "blk.2.indexer.attn_q_b.weight", "layers.2.attn.indexer.wq_b.weight", 0 },
        { "blk.3.attn_compressor_ape.weight", "layers.3.attn.compressor.ape", 0 },
        { "blk.3.exp_probs_b.bias", "layers.3.ffn.gate.bias", 0 },
        { "blk.4.ffn_gate_exps.weight", "layers.4.ffn.experts.3.w1.weight", 3 * 128 * 64 },
        { "blk.4.ffn_down_exps.weight", "layers.4.ffn.experts.7.w2.weight", 7 * 128 * 64 },
        { "blk.4.ffn_up_exps.weight", "layers.4.ffn.experts.0.w3.weight", 0 },
        { "blk.5.attn_output_a.weight", "layers.5.attn.wo_a.weight", 0 },
        { "blk.6.ffn_up_shexp.weight", "layers.6.ffn.shared_experts.w3.weight", 0 },
    };
    for (size_t i = 0; i < countof(pairs); i++) {
        const gguf_tensor *t = gguf_find_tensor(g, pairs[i].gguf);
        if (t) expect_same(t, pairs[i].at, c, pairs[i].checkpoint);
        else test_fail(__FILE__, __LINE__, "no %s", pairs[i].gguf);
    }
    checkpoint_close(c);
    gguf_close(g);
}

TEST(half_formats_hold_the_golden_model_exactly)
{
    gguf *full = converted(test_data("golden/tiny-a"), "f32");
    gguf *half = converted(test_data("golden/tiny-a"), "f16");
    REQUIRE(full && half);
    for (int i = 0; i < gguf_n_tensors(full); i++) {
        const gguf_tensor *a = gguf_tensor_at(full, i), *b = gguf_tensor_at(half, i);
        EXPECT_INT(b->type, a->type == QUANT_I32 ? QUANT_I32 : a->n_dims == 1 ? QUANT_F32 : QUANT_F16);
        if (a->type == QUANT_I32) continue;
        uint64_t n;
        float *x = decoded(a, &n), *y = decoded(b, &n);
        if (memcmp(x, y, n * sizeof *x)) test_fail(__FILE__, __LINE__, "%s differs", a->name);
        free(x);
        free(y);
    }
    gguf_close(full);
    gguf_close(half);
}

TEST(keys_of_the_golden_model)
{
    ds4_error err;
    slice text;
    const gguf_value *v;
    int64_t n;
    gguf *g = converted(test_data("golden/tiny-a"), "bf16");
    REQUIRE(g);
    EXPECT(slice_is(gguf_value_at(g, 0)->key, "general.architecture"));
    EXPECT_OK(gguf_get_string(g, "general.architecture", &text, &err), err);
    EXPECT(slice_is(text, "deepseek4"));
    EXPECT_OK(gguf_get_string(g, "general.name", &text, &err), err);
    EXPECT(slice_is(text, "tiny-a"));
    EXPECT_INT(int_of(g, "general.file_type"), 32);
    EXPECT_INT(int_of(g, "deepseek4.block_count"), 7);
    EXPECT_INT(gguf_find(g, "deepseek4.block_count")->kind, GGUF_U32);
    EXPECT_INT(int_of(g, "deepseek4.attention.output_group_count"), 2);
    EXPECT_INT(int_of(g, "deepseek4.attention.indexer.top_k"), 8);
    EXPECT_INT(int_of(g, "deepseek4.rope.scaling.original_context_length"), 256);
    EXPECT_INT(int_of(g, "deepseek4.expert_gating_func"), 4);
    EXPECT(float_of(g, "deepseek4.attention.compress_rope_freq_base") == 160000);
    EXPECT(gguf_find(g, "general.sampling.temp") == NULL);
    EXPECT(gguf_find(g, "deepseek4.swiglu_clamp_shexp") == NULL);

    REQUIRE_OK(gguf_get_array(g, "deepseek4.attention.compress_ratios", &v, &err), err);
    EXPECT_INT(v->element, GGUF_I32);
    EXPECT_INT(v->count, 7);
    EXPECT(gguf_array_int(v, 5, &n) && n == 128);
    REQUIRE_OK(gguf_get_array(g, "tokenizer.ggml.token_type", &v, &err), err);
    EXPECT(gguf_array_int(v, 0, &n) && n == 3);     /* bos: special            */
    EXPECT(gguf_array_int(v, 504, &n) && n == 4);   /* <think>: added, visible */
    EXPECT(gguf_array_int(v, 300, &n) && n == 1);
    REQUIRE_OK(gguf_get_array(g, "tokenizer.ggml.merges", &v, &err), err);
    EXPECT_INT(v->count, 245);
    EXPECT_INT(int_of(g, "tokenizer.ggml.padding_token_id"), 2);
    gguf_close(g);
}

/* ---- types ------------------------------------------------------------- */

static quant_type type_in(const gguf *g, const char *name)
{
    const gguf_tensor *t = gguf_find_tensor(g, name);
    return t ? t->type : QUANT_COUNT;
}

TEST(recipes_give_the_published_types)
{
    made_checkpoint m;
    const char *dir = test_scratch("recipes");
    made_init(&m);
    made_write(&m, dir);
    made_free(&m);

    static const struct { const char *recipe; quant_type gate_up, down; } cases[] = {
        { "q2", QUANT_IQ2_XXS, QUANT_Q2_K }, { "q4", QUANT_Q4_K, QUANT_Q4_K }, { "q8_0", QUANT_Q8_0, QUANT_Q8_0 },
    };
    for (size_t i = 0; i < countof(cases); i++) {
        gguf *g = converted(dir, cases[i].recipe);
        REQUIRE(g);
        EXPECT_INT(type_in(g, "token_embd.weight"), QUANT_F16);
        EXPECT_INT(type_in(g, "output.weight"), QUANT_Q8_0);
        EXPECT_INT(type_in(g, "output_hc_fn.weight"), QUANT_F16);
        EXPECT_INT(type_in(g, "blk.1.attn_q_b.weight"), QUANT_Q8_0);
        EXPECT_INT(type_in(g, "blk.1.attn_kv.weight"), QUANT_Q8_0);
        EXPECT_INT(type_in(g, "blk.1.ffn_down_shexp.weight"), QUANT_Q8_0);
        EXPECT_INT(type_in(g, "blk.1.ffn_gate_inp.weight"), QUANT_F16);
        EXPECT_INT(type_in(g, "blk.1.attn_compressor_ape.weight"), QUANT_F16);
        EXPECT_INT(type_in(g, "blk.1.indexer.proj.weight"), QUANT_F16);
        EXPECT_INT(type_in(g, "blk.1.attn_sinks.weight"), QUANT_F32);
        EXPECT_INT(type_in(g, "blk.1.exp_probs_b.bias"), QUANT_F32);
        EXPECT_INT(type_in(g, "blk.0.ffn_gate_tid2eid.weight"), QUANT_I32);
        EXPECT_INT(type_in(g, "blk.2.ffn_gate_exps.weight"), cases[i].gate_up);
        EXPECT_INT(type_in(g, "blk.2.ffn_up_exps.weight"), cases[i].gate_up);
        EXPECT_INT(type_in(g, "blk.2.ffn_down_exps.weight"), cases[i].down);
        gguf_close(g);
    }
}

/* How far the decoded experts are from the values, relative to their size. */
static double relative_error(const gguf *g, const gguf *exact, const char *name)
{
    uint64_t n;
    double off = 0, all = 0;
    float *got = decoded(gguf_find_tensor(g, name), &n), *want = decoded(gguf_find_tensor(exact, name), &n);
    for (uint64_t i = 0; i < n; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        all += (double)want[i] * want[i];
    }
    free(got);
    free(want);
    return sqrt(off / all);
}

TEST(quantised_experts_stay_near_their_values)
{
    made_checkpoint m;
    const char *dir = test_scratch("near");
    made_init(&m);
    made_write(&m, dir);
    made_free(&m);
    gguf *exact = converted(dir, "f32"), *q2 = converted(dir, "q2"), *q4 = converted(dir, "q4");
    REQUIRE(exact && q2 && q4);
    /* Uniform values; the figures of the encoders' own tests for normal ones are .43, .34, .09. */
    EXPECT(relative_error(q2, exact, "blk.1.ffn_gate_exps.weight") < 0.50);
    EXPECT(relative_error(q2, exact, "blk.1.ffn_down_exps.weight") < 0.36);
    EXPECT(relative_error(q4, exact, "blk.1.ffn_up_exps.weight") < 0.09);
    EXPECT(relative_error(q4, exact, "blk.1.attn_q_a.weight") < 0.01);
    gguf_close(exact);
    gguf_close(q2);
    gguf_close(q4);
}

TEST(the_other_layout_has_f32_where_other_engines_want_it)
{
    ds4_error err;
    gguf *g;
    convert_options o = convert_defaults();
    o.dir = test_data("golden/tiny-a");
    o.out = test_scratch("llamacpp.gguf");
    o.layout = LAYOUT_LLAMACPP;
    REQUIRE_OK(convert_run(&o, &err), err);
    REQUIRE_OK(gguf_open(&g, o.out, NULL, &err), err);
    EXPECT_INT(type_in(g, "blk.2.hc_attn_fn.weight"), QUANT_F32);
    EXPECT_INT(type_in(g, "blk.2.ffn_gate_inp.weight"), QUANT_F32);
    EXPECT_INT(type_in(g, "blk.2.attn_compressor_ape.weight"), QUANT_F32);
    EXPECT_INT(type_in(g, "token_embd.weight"), QUANT_Q8_0);
    EXPECT(gguf_find(g, "deepseek4.swiglu_clamp_shexp") != NULL);
    gguf_close(g);
}

TEST(a_row_that_fills_no_block_falls_back)
{
    gguf *g = converted(test_data("golden/tiny-a"), "q4");      /* rows of 128 and 64 */
    REQUIRE(g);
    EXPECT_INT(type_in(g, "blk.3.ffn_gate_exps.weight"), QUANT_Q8_0);
    EXPECT_INT(type_in(g, "blk.3.ffn_down_exps.weight"), QUANT_Q8_0);
    gguf_close(g);
}

TEST(threads_do_not_change_a_byte)
{
    ds4_error err;
    made_checkpoint m;
    const char *dir = test_scratch("threads"), *out = test_scratch("t.gguf");
    char *file[2];
    size_t n[2];
    made_init(&m);
    made_write(&m, dir);
    made_free(&m);
    for (int i = 0; i < 2; i++) {
        convert_options o = convert_defaults();
        o.dir = dir;
        o.out = out;
        o.recipe = "q2";
        o.overwrite = true;
        o.n_threads = 1 + 2 * i;
        REQUIRE_OK(convert_run(&o, &err), err);
        file[i] = test_read(out, &n[i]);
        REQUIRE(file[i]);
    }
    EXPECT(n[0] == n[1] && !memcmp(file[0], file[1], n[0]));
    free(file[0]);
    free(file[1]);
}

/* ---- FP8 and FP4 ------------------------------------------------------- */

static double e4m3(unsigned c)
{
    const int e = c >> 3 & 15, f = c & 7;
    const double v = e ? ldexp(8 + f, e - 10) : ldexp(f, -9);
    return c & 128 ? -v : v;
}

static const double e2m1[16] = { 0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6 };

/* Every code but NaN, scales around 1 and one subnormal. */
static void make_fp8(made_checkpoint *m, const char *name, const char *scale, bool f32_scale)
{
    const made_tensor old = *made_find(m, name);
    const uint64_t rows = old.dims[0], cols = old.dims[1];
    const uint64_t tr = (rows + 127) / 128, tc = (cols + 127) / 128;
    made_drop(m, name);
    made_tensor *t = made_add(m, name, "F8_E4M3", 2, rows, cols, 1);
    for (uint64_t i = 0; i < t->bytes; i++) t->data[i] = (uint8_t)(i % 127 + (i / 127 % 2) * 128);
    t = made_add(m, scale, f32_scale ? "F32" : "F8_E8M0", 2, tr, tc, f32_scale ? 4 : 1);
    for (uint64_t i = 0; i < tr * tc; i++) {
        const float v = 0.375f * (float)(i + 1);
        if (f32_scale) memcpy(t->data + 4 * i, &v, 4);
        else t->data[i] = (uint8_t)(i == 1 ? 0 : 120 + i);
    }
}

static void make_fp4(made_checkpoint *m, const char *name, const char *scale)
{
    const made_tensor old = *made_find(m, name);
    made_drop(m, name);
    made_tensor *t = made_add(m, name, "I8", 2, old.dims[0], old.dims[1] / 2, 1);
    for (uint64_t i = 0; i < t->bytes; i++) t->data[i] = (uint8_t)(i * 37 + i / 11);
    t = made_add(m, scale, "F8_E8M0", 2, old.dims[0], old.dims[1] / 32, 1);
    for (uint64_t i = 0; i < t->bytes; i++) t->data[i] = (uint8_t)(110 + i % 20);
}

TEST(fp8_tiles_become_their_exact_values)
{
    made_checkpoint m;
    const char *dir = test_scratch("fp8");
    made_init(&m);
    make_fp8(&m, "layers.1.attn.wq_a.weight", "layers.1.attn.wq_a.scale", false);
    make_fp8(&m, "layers.0.attn.wq_a.weight", "layers.0.attn.wq_a.weight_scale_inv", true);
    made_write(&m, dir);
    gguf *g = converted(dir, "f32");
    REQUIRE(g);
    for (int l = 0; l < 2; l++) {
        uint64_t n;
        char name[64];
        snprintf(name, sizeof name, "blk.%d.attn_q_a.weight", l);
        float *x = decoded(gguf_find_tensor(g, name), &n);
        for (uint64_t i = 0; i < n; i++) {
            const uint64_t tile = i / 256 / 128 * 2 + i % 256 / 128;       /* 160 x 256: 2 x 2 tiles */
            const double scale = l == 0 ? 0.375 * (double)(tile + 1) : ldexp(1, (int)(tile == 1 ? 0 : 120 + tile) - 127);
            const float want = (float)(e4m3((unsigned)(i % 127 + (i / 127 % 2) * 128)) * scale);
            if (memcmp(&x[i], &want, 4)) {
                test_fail(__FILE__, __LINE__, "%s [%llu] is %g, want %g", name, (unsigned long long)i, (double)x[i],
                          (double)want);
                break;
            }
        }
        free(x);
    }
    gguf_close(g);
    made_free(&m);
}

static void expect_fp4(const gguf *g, const char *types)
{
    uint64_t n;
    const gguf_tensor *t = gguf_find_tensor(g, "blk.2.ffn_down_exps.weight");
    float *x = decoded(t, &n);
    for (uint64_t i = 0; i < n / 2; i++) {                  /* expert 1 of 2 */
        const uint64_t pair = i / 2;
        const unsigned byte = (uint8_t)(pair * 37 + pair / 11);
        const unsigned code = i % 2 ? byte >> 4 : byte & 15;
        const float want = (float)ldexp(e2m1[code], (int)(110 + i / 32 % 20) - 127);
        if (x[n / 2 + i] != want) {
            test_fail(__FILE__, __LINE__, "%s: [%llu] is %g, want %g", types, (unsigned long long)i,
                      (double)x[n / 2 + i], (double)want);
            break;
        }
    }
    free(x);
}

TEST(fp4_experts_become_their_exact_values_also_as_mxfp4)
{
    made_checkpoint m;
    const char *dir = test_scratch("fp4");
    made_init(&m);
    make_fp4(&m, "layers.2.ffn.experts.1.w2.weight", "layers.2.ffn.experts.1.w2.scale");
    made_write(&m, dir);
    made_free(&m);
    gguf *g = converted(dir, "f32"), *mx = converted(dir, "mxfp4");
    REQUIRE(g && mx);
    expect_fp4(g, "f32");
    EXPECT_INT(type_in(mx, "blk.2.ffn_down_exps.weight"), QUANT_MXFP4);
    expect_fp4(mx, "mxfp4");

    /* Repacked, not encoded again: the scale bytes are the checkpoint's. */
    const gguf_tensor *t = gguf_find_tensor(mx, "blk.2.ffn_down_exps.weight");
    for (uint64_t i = 0; i < 256 * 256 / 32; i++)
        if (t->data[t->bytes / 2 + 17 * i] != 110 + i % 20) {
            test_fail(__FILE__, __LINE__, "scale %llu is %d", (unsigned long long)i, t->data[t->bytes / 2 + 17 * i]);
            break;
        }
    gguf_close(g);
    gguf_close(mx);
}

/* ---- what is refused --------------------------------------------------- */

static void drop_one(made_checkpoint *m)    { made_drop(m, "layers.1.ffn.experts.1.w3.weight"); }
static void wrong_shape(made_checkpoint *m) { made_tensor *t = made_find(m, "layers.0.attn.wkv.weight"); t->dims[0] /= 2; t->dims[1] *= 2; }
static void wrong_dtype(made_checkpoint *m) { made_find(m, "layers.0.hc_attn_fn")->dtype = "I32"; }
static void cut_shard(made_checkpoint *m)   { m->cut = 1; }
static void bad_expert(made_checkpoint *m)  { made_find(m, "layers.0.ffn.gate.tid2eid")->data[8 * 5] = 2; }
static void negative_expert(made_checkpoint *m) { memset(made_find(m, "layers.0.ffn.gate.tid2eid")->data, 0xff, 8); }
static void float_table(made_checkpoint *m) { made_find(m, "layers.0.ffn.gate.tid2eid")->dtype = "F64"; }

static void nan_value(made_checkpoint *m)
{
    made_tensor *t = made_find(m, "head.weight");
    t->data[2 * 256 * 3 + 10] = 0xc0;
    t->data[2 * 256 * 3 + 11] = 0x7f;
}

static void fp8_nan(made_checkpoint *m)
{
    make_fp8(m, "layers.1.attn.wq_a.weight", "layers.1.attn.wq_a.scale", false);
    made_find(m, "layers.1.attn.wq_a.weight")->data[256] = 0x7f;
}

static void fp8_scale_nan(made_checkpoint *m)
{
    make_fp8(m, "layers.1.attn.wq_a.weight", "layers.1.attn.wq_a.scale", false);
    made_find(m, "layers.1.attn.wq_a.scale")->data[0] = 255;
}

static void fp8_unscaled(made_checkpoint *m)
{
    make_fp8(m, "layers.1.attn.wq_a.weight", "layers.1.attn.wq_a.scale", false);
    made_drop(m, "layers.1.attn.wq_a.scale");
}

static void fp8_scale_shape(made_checkpoint *m)
{
    make_fp8(m, "layers.1.attn.wq_a.weight", "layers.1.attn.wq_a.scale", false);
    made_tensor *t = made_find(m, "layers.1.attn.wq_a.scale");
    t->dims[0] = 1;
    t->bytes = 2;
}

static void fp4_scale_nan(made_checkpoint *m)
{
    make_fp4(m, "layers.2.ffn.experts.1.w2.weight", "layers.2.ffn.experts.1.w2.scale");
    made_find(m, "layers.2.ffn.experts.1.w2.scale")->data[3] = 255;
}

static void fp4_scale_type(made_checkpoint *m)
{
    make_fp4(m, "layers.2.ffn.experts.1.w2.weight", "layers.2.ffn.experts.1.w2.scale");
    made_find(m, "layers.2.ffn.experts.1.w2.scale")->dtype = "U8";
}

static void too_large_for_half(made_checkpoint *m)
{
    made_tensor *t = made_find(m, "embed.weight");
    t->data[0] = 0x80;                  /* 2^17 */
    t->data[1] = 0x48;
}

static void no_merges(made_checkpoint *m)     { m->tokenizer = "{\"model\":{\"type\":\"Unigram\",\"vocab\":{}}}"; }
static void bad_merge(made_checkpoint *m)     { m->tokenizer = "{\"model\":{\"vocab\":{\"a\":2},\"merges\":[\"ab\"]}}"; }
static void token_range(made_checkpoint *m)   { m->tokenizer = "{\"model\":{\"vocab\":{\"a\":16},\"merges\":[]}}"; }
static void token_twice(made_checkpoint *m)   { m->tokenizer = "{\"model\":{\"vocab\":{\"a\":2,\"b\":2},\"merges\":[]}}"; }
static void no_layers(made_checkpoint *m)     { m->config = "{\"hidden_size\":256}"; }
static void broken_config(made_checkpoint *m) { m->config = "{\"hidden_size\":256"; }
static void other_router(made_checkpoint *m)  { m->config = "{\"scoring_func\":\"softmax\"}"; }
static void other_heads(made_checkpoint *m)   { m->config = "{\"num_key_value_heads\":2}"; }
static void negative_size(made_checkpoint *m) { m->config = "{\"num_hidden_layers\":-3}"; }
static void list_size(made_checkpoint *m)     { m->config = "{\"num_hidden_layers\":[3]}"; }
static void more_layers(made_checkpoint *m)   { m->shape.n_layer = 5; }
static void huge_experts(made_checkpoint *m)  { m->shape.n_expert = 2000000000; }
static void odd_groups(made_checkpoint *m)    { m->shape.n_group = 3; }

static const struct {
    void      (*change)(made_checkpoint *m);
    ds4_status  status;
    const char *parts[3];
} refusals[] = {
    { drop_one,           DS4_EFORMAT, { "layers.1.ffn.experts.1.w3.weight", "missing" } },
    { wrong_shape,        DS4_EFORMAT, { "layers.0.attn.wkv.weight", "[32, 512]", "[64, 256]" } },
    { wrong_dtype,        DS4_EFORMAT, { "layers.0.hc_attn_fn", "dtype I32", "model.safetensors" } },
    { cut_shard,          DS4_EFORMAT, { "model.safetensors", "truncated" } },
    { bad_expert,         DS4_EFORMAT, { "layers.0.ffn.gate.tid2eid", "entry 2 of row 2", "2 experts" } },
    { negative_expert,    DS4_EFORMAT, { "layers.0.ffn.gate.tid2eid", "entry -1" } },
    { float_table,        DS4_EFORMAT, { "layers.0.ffn.gate.tid2eid", "I64 or I32" } },
    { nan_value,          DS4_EFORMAT, { "head.weight", "row 3, column 5" } },
    { fp8_nan,            DS4_EFORMAT, { "layers.1.attn.wq_a.weight", "row 1, column 0" } },
    { fp8_scale_nan,      DS4_EFORMAT, { "layers.1.attn.wq_a.weight", "scale" } },
    { fp8_unscaled,       DS4_EFORMAT, { "layers.1.attn.wq_a.weight", "without a scale" } },
    { fp8_scale_shape,    DS4_EFORMAT, { "layers.1.attn.wq_a.scale", "[1, 2]", "[2, 2]" } },
    { fp4_scale_nan,      DS4_EFORMAT, { "layers.2.ffn.experts.1.w2.weight", "row 0, column 96" } },
    { fp4_scale_type,     DS4_EFORMAT, { "layers.2.ffn.experts.1.w2.scale", "F8_E8M0" } },
    { too_large_for_half, DS4_EFORMAT, { "embed.weight", "F16" } },
    { no_merges,          DS4_EUNSUPPORTED, { "tokenizer.json", "BPE" } },
    { bad_merge,          DS4_EFORMAT, { "tokenizer.json", "merge 0" } },
    { token_range,        DS4_EFORMAT, { "tokenizer.json", "id 16" } },
    { token_twice,        DS4_EFORMAT, { "tokenizer.json", "share id 2" } },
    { no_layers,          DS4_EFORMAT, { "config.json", "no num_hidden_layers" } },
    { broken_config,      DS4_EFORMAT, { "config.json", "too early" } },
    { other_router,       DS4_EUNSUPPORTED, { "config.json", "scoring_func" } },
    { other_heads,        DS4_EUNSUPPORTED, { "config.json", "num_key_value_heads" } },
    { negative_size,      DS4_EFORMAT, { "config.json", "num_hidden_layers" } },
    { list_size,          DS4_EFORMAT, { "config.json", "num_hidden_layers" } },
    { more_layers,        DS4_EFORMAT, { "config.json", "4 compress_ratios for 5 layers" } },
    { huge_experts,       DS4_EFORMAT, { "config.json", "number of experts is 2000000000" } },
    { odd_groups,         DS4_EFORMAT, { "config.json", "output groups" } },
};

TEST(broken_checkpoints_are_refused_by_name_and_leave_no_file)
{
    for (size_t i = 0; i < countof(refusals); i++) {
        ds4_error err = { 0 };
        made_checkpoint m;
        const char *dir = test_scratch("broken"), *out = test_scratch("broken.gguf");
        made_init(&m);
        refusals[i].change(&m);
        made_write(&m, dir);
        made_free(&m);
        const ds4_status st = convert(dir, out, "q8_0", &err);
        if (st != refusals[i].status)
            test_fail(__FILE__, __LINE__, "case %zu: status %d, want %d: %s", i, st, refusals[i].status, err.message);
        for (int p = 0; p < 3 && refusals[i].parts[p]; p++)
            if (!strstr(err.message, refusals[i].parts[p]))
                test_fail(__FILE__, __LINE__, "case %zu: \"%s\" does not tell \"%s\"", i, err.message,
                          refusals[i].parts[p]);
        EXPECT(access(out, F_OK) != 0);
    }
}

TEST(a_repack_refuses_nan_scales_too)
{
    ds4_error err = { 0 };
    made_checkpoint m;
    const char *dir = test_scratch("nan-scale");
    made_init(&m);
    fp4_scale_nan(&m);
    made_write(&m, dir);
    made_free(&m);
    EXPECT_INT(convert(dir, test_scratch("nan-scale.gguf"), "mxfp4", &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "layers.2.ffn.experts.1.w2.scale holds a NaN at row 0, group 3") != NULL);
}

TEST(an_existing_file_stays_unless_told)
{
    ds4_error err = { 0 };
    convert_options o = convert_defaults();
    o.dir = test_data("golden/tiny-a");
    o.out = test_scratch("kept.gguf");
    made_text(test_scratch("."), "kept.gguf", "keep");
    EXPECT_INT(convert_run(&o, &err), DS4_EARG);
    EXPECT(strstr(err.message, "kept.gguf") != NULL);
    size_t n;
    char *text = test_read(o.out, &n);
    EXPECT(n == 4);
    free(text);
    o.overwrite = true;
    EXPECT_OK(convert_run(&o, &err), err);
}

static bool stop_at_once(void *ctx, const char *tensor, uint64_t done, uint64_t total)
{
    *(uint64_t *)ctx = total;
    return done > total || !tensor;
}

TEST(a_cancelled_conversion_leaves_nothing)
{
    ds4_error err = { 0 };
    uint64_t total = 0;
    convert_options o = convert_defaults();
    o.dir = test_data("golden/tiny-a");
    o.out = test_scratch("cancelled.gguf");
    o.progress = stop_at_once;
    o.progress_ctx = &total;
    EXPECT_INT(convert_run(&o, &err), DS4_ECANCELLED);
    EXPECT(total > 0);
    EXPECT(access(o.out, F_OK) != 0);
}

TEST(unknown_recipes_and_missing_folders_are_refused)
{
    ds4_error err = { 0 };
    EXPECT_INT(convert(test_data("golden/tiny-a"), test_scratch("x.gguf"), "q9", &err), DS4_EARG);
    EXPECT(strstr(err.message, "q9") != NULL);
    EXPECT_INT(convert(test_scratch("nowhere"), test_scratch("x.gguf"), "f32", &err), DS4_ENOTFOUND);
    EXPECT(strstr(err.message, "config.json") != NULL);
}

/* ---- other spellings --------------------------------------------------- */

TEST(the_inference_programs_key_names_are_read)
{
    made_checkpoint m;
    const gguf_value *v;
    slice text;
    ds4_error err;
    const char *dir = test_scratch("other-names");
    made_init(&m);
    m.config = "{\"n_layers\":3,\"dim\":256,\"vocab_size\":16,\"n_heads\":2,\"head_dim\":64,\"rope_head_dim\":32,"
               "\"q_lora_rank\":160,\"o_lora_rank\":16,\"o_groups\":2,\"window_size\":16,\"index_n_heads\":2,"
               "\"index_head_dim\":32,\"index_topk\":3,\"n_routed_experts\":2,\"n_activated_experts\":2,"
               "\"moe_inter_dim\":256,\"n_hash_layers\":1,\"n_mtp_layers\":1,\"score_func\":\"sqrtsoftplus\","
               "\"route_scale\":2.5,\"norm_eps\":1e-5,\"original_seq_len\":2048,\"rope_factor\":4,"
               "\"compress_ratios\":[0,4,128,0]}";
    made_write(&m, dir);
    made_free(&m);
    made_text(dir, "tokenizer_config.json", "{\"bos_token\":\"<bos>\",\"eos_token\":{\"content\":\"<eos>\"},"
              "\"chat_template\":\"{{ x }}\"}");
    made_text(dir, "generation_config.json", "{\"temperature\":0.75,\"top_p\":0.5}");
    gguf *g = converted(dir, "f32");
    REQUIRE(g);
    EXPECT_INT(int_of(g, "deepseek4.attention.sliding_window"), 16);
    EXPECT_INT(int_of(g, "deepseek4.nextn_predict_layers"), 1);
    EXPECT_INT(int_of(g, "deepseek4.rope.scaling.original_context_length"), 2048);
    EXPECT(float_of(g, "deepseek4.expert_weights_scale") == 2.5);
    EXPECT(float_of(g, "deepseek4.rope.scaling.factor") == 4);
    EXPECT(float_of(g, "general.sampling.temp") == 0.75);
    EXPECT(float_of(g, "general.sampling.top_p") == 0.5);
    EXPECT_INT(int_of(g, "tokenizer.ggml.eos_token_id"), 1);
    EXPECT_OK(gguf_get_string(g, "tokenizer.chat_template", &text, &err), err);
    EXPECT(slice_is(text, "{{ x }}"));
    REQUIRE_OK(gguf_get_array(g, "deepseek4.attention.compress_ratios", &v, &err), err);
    EXPECT_INT(v->count, 4);                        /* the drafter's entry stays */
    gguf_close(g);
}

TEST(tokens_are_padded_typed_and_merged)
{
    made_checkpoint m;
    const gguf_value *v;
    ds4_error err;
    int64_t type;
    uint64_t cursor = 0;
    slice text;
    const char *dir = test_scratch("tokens");
    made_init(&m);
    m.tokenizer = "{\"added_tokens\":[{\"id\":0,\"content\":\"<bos>\",\"special\":true},"
                  "{\"id\":1,\"content\":\"<eos>\",\"special\":true},{\"id\":15,\"content\":\"<x>\",\"special\":false}],"
                  "\"model\":{\"vocab\":{\"<bos>\":0,\"\\u0120\":2,\"b\":3,\"\\u0120b\":4},\"merges\":[[\"\\u0120\",\"b\"]]}}";
    made_write(&m, dir);
    made_free(&m);
    gguf *g = converted(dir, "f32");
    REQUIRE(g);
    REQUIRE_OK(gguf_get_array(g, "tokenizer.ggml.tokens", &v, &err), err);
    EXPECT_INT(v->count, 16);
    static const char *const want[16] = { "<bos>", "<eos>", "\xc4\xa0", "b", "\xc4\xa0" "b", "[PAD5]", [14] = "[PAD14]",
                                          "<x>" };
    for (int i = 0; i < 16; i++) {
        REQUIRE(gguf_array_string(v, &cursor, &text));
        if (want[i] && !slice_is(text, want[i]))
            test_fail(__FILE__, __LINE__, "token %d is %.*s", i, (int)text.len, text.data);
    }
    REQUIRE_OK(gguf_get_array(g, "tokenizer.ggml.token_type", &v, &err), err);
    EXPECT(gguf_array_int(v, 0, &type) && type == 3);
    EXPECT(gguf_array_int(v, 4, &type) && type == 1);
    EXPECT(gguf_array_int(v, 5, &type) && type == 5);
    EXPECT(gguf_array_int(v, 15, &type) && type == 4);
    REQUIRE_OK(gguf_get_array(g, "tokenizer.ggml.merges", &v, &err), err);
    cursor = 0;
    EXPECT(gguf_array_string(v, &cursor, &text) && slice_is(text, "\xc4\xa0 b"));
    EXPECT_INT(int_of(g, "tokenizer.ggml.padding_token_id"), 1);    /* none named: eos */
    gguf_close(g);
}

/* Lines that the conversion says. */
static void keep_line(void *ctx, int level, const char *line)
{
    (void)level;
    bytes_printf(ctx, "%s\n", line);
}

TEST(shards_convert_like_one_file_and_the_drafter_is_left_out)
{
    ds4_error err;
    made_checkpoint m;
    bytes said;
    const char *dir = test_scratch("one"), *other = test_scratch("many");
    made_init(&m);
    made_write(&m, dir);

    made_add(&m, "mtp.0.norm.weight", "F32", 1, 4, 0, 4);
    made_add(&m, "layers.0.stranger", "F32", 1, 4, 0, 4);
    made_write(&m, other);
    char index[64 * MADE_MAX];
    size_t at = (size_t)snprintf(index, sizeof index, "{\"weight_map\":");
    for (int i = 0; i < m.n; i++)
        at += (size_t)snprintf(index + at, sizeof index - at, "%c\"%s\":\"%s.safetensors\"", i ? ',' : '{',
                               m.items[i].name, i < m.n / 2 ? "a" : "b");
    snprintf(index + at, sizeof index - at, "}}");
    made_text(other, "model.safetensors.index.json", index);
    made_shard(&m, other, "a.safetensors", 0, m.n / 2);
    made_shard(&m, other, "b.safetensors", m.n / 2, m.n);
    char path[4096];
    snprintf(path, sizeof path, "%s/model.safetensors", other);
    EXPECT(remove(path) == 0);
    made_free(&m);

    bytes_init(&said, 10000);
    convert_options o = convert_defaults();
    const char *outs[2] = { test_scratch("one.gguf"), test_scratch("many.gguf") };
    o.dir = dir;
    o.out = outs[0];
    REQUIRE_OK(convert_run(&o, &err), err);
    o.dir = other;
    o.out = outs[1];
    o.log = (log_sink){ keep_line, &said };
    REQUIRE_OK(convert_run(&o, &err), err);
    EXPECT(strstr(said.data, "1 tensors of the drafter") != NULL);
    EXPECT(strstr(said.data, "such as layers.0.stranger") != NULL);
    EXPECT(strstr(said.data, "no hc_mult, taking 4") != NULL);
    bytes_free(&said);

    gguf *g[2];
    for (int i = 0; i < 2; i++) REQUIRE_OK(gguf_open(&g[i], outs[i], NULL, &err), err);
    for (int i = 0; i < gguf_n_tensors(g[0]); i++) {
        const gguf_tensor *a = gguf_tensor_at(g[0], i), *b = gguf_tensor_at(g[1], i);
        EXPECT_TEXT(b->name, a->name);
        EXPECT(a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes));
    }
    gguf_close(g[0]);
    gguf_close(g[1]);
}
