/* Model files with seeded random weights. */
#include "factory/synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <json-c/json.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/hash.h"
#include "factory/inspect.h"
#include "factory/synth_blocks.h"
#include "factory/token_table.h"
#include "gguf/gguf.h"
#include "quant/float_formats.h"
#include "runner.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

/* ---- blocks ------------------------------------------------------------ */

static const quant_type direct[] = { QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q2_K, QUANT_Q4_K,
                                     QUANT_IQ2_XXS, QUANT_MXFP4 };
static const quant_type stocked[] = { QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1, QUANT_Q3_K, QUANT_Q5_K,
                                      QUANT_Q6_K, QUANT_IQ1_S, QUANT_IQ2_XS, QUANT_IQ2_S, QUANT_IQ3_XXS,
                                      QUANT_IQ3_S, QUANT_IQ4_NL, QUANT_IQ4_XS, QUANT_NVFP4 };

/* Decoded numbers have the wanted deviation and no mean. */
static void expect_deviation(quant_type type, float want)
{
    enum { N = 256 * 512 };
    ds4_error err;
    block_maker m;
    random_stream r;
    const quant_info *q = quant_get(type);
    uint8_t *blocks = malloc((size_t)N / (size_t)q->block_len * (size_t)q->block_bytes);
    float *x = malloc(N * sizeof *x);
    random_seed(&r, test_seed());
    EXPECT_OK(block_maker_init(&m, type, 0, want, 3, &err), err);
    block_maker_fill(&m, blocks, (uint64_t)(N / q->block_len), &r);
    q->to_float(x, blocks, N);

    double sum = 0, squares = 0;
    for (int i = 0; i < N; i++) { sum += x[i]; squares += (double)x[i] * x[i]; }
    const double mean = sum / N, deviation = sqrt(squares / N - mean * mean);
    if (!(fabs(deviation / want - 1) < 0.1) || !(fabs(mean) < 0.02 * want))
        test_fail(__FILE__, __LINE__, "%s: deviation %g, mean %g, want %g, 0", q->name, deviation, mean, (double)want);
    block_maker_free(&m);
    free(blocks);
    free(x);
}

TEST(every_type_decodes_to_the_wanted_deviation)
{
    /* 1/sqrt of rows of 64, 2048, 4096 and 16384; and a small branch gain. */
    static const float wants[] = { 0.125f, 0.0220971f, 0.015625f, 0.0078125f, 0.00078125f };
    for (size_t w = 0; w < countof(wants); w++)
        for (size_t i = 0; i < countof(direct); i++) expect_deviation(direct[i], wants[w]);
    for (size_t i = 0; i < countof(stocked); i++) expect_deviation(stocked[i], 0.015625f);
}

TEST(no_deviation_is_zero_in_every_type)
{
    for (size_t i = 0; i < countof(direct); i++) {
        ds4_error err;
        block_maker m;
        random_stream r;
        uint8_t block[1024];
        float x[256] = { 0 };
        const quant_info *q = quant_get(direct[i]);
        random_seed(&r, 1);
        EXPECT_OK(block_maker_init(&m, direct[i], 0, 0, 1, &err), err);
        block_maker_fill(&m, block, 1, &r);
        q->to_float(x, block, q->block_len);
        for (int k = 0; k < q->block_len; k++)
            if (fabsf(x[k]) > 1e-30f) {
                test_fail(__FILE__, __LINE__, "%s: [%d] is %g", q->name, k, (double)x[k]);
                break;
            }
        block_maker_free(&m);
    }
}

TEST(the_normal_numbers_are_normal_enough)
{
    enum { N = 1 << 18 };
    random_stream r;
    double m1 = 0, m2 = 0, m4 = 0;
    random_seed(&r, test_seed());
    for (int i = 0; i < N; i++) {
        const double x = synth_normal(&r);
        m1 += x;
        m2 += x * x;
        m4 += x * x * x * x;
    }
    EXPECT(fabs(m1 / N) < 0.01);
    EXPECT(fabs(m2 / N - 1) < 0.01);
    EXPECT(fabs(m4 / N - 2.7) < 0.05);      /* 3 - 6/5/4: a sum of four */
}

/* ---- files ------------------------------------------------------------- */

/* Smaller than the preset: every kind of layer, blocks of 256. */
static synth_options small(const char *mix)
{
    synth_options o = synth_defaults();
    o.mix = mix;
    o.shape.n_layer = 5;
    shape_default_ratios(&o.shape);
    o.shape.n_expert = 3;
    o.overwrite = true;
    return o;
}

static char *synth_bytes(synth_options o, size_t *n)
{
    ds4_error err;
    o.out = test_scratch("synth.gguf");
    EXPECT_OK(synth_run(&o, &err), err);
    return test_read(o.out, n);
}

static gguf *synth_open(synth_options o, const char *name)
{
    ds4_error err;
    gguf *g = NULL;
    const gguf_options strict = { .strict = true };
    o.out = test_scratch(name);
    EXPECT_OK(synth_run(&o, &err), err);
    EXPECT_OK(gguf_open(&g, o.out, &strict, &err), err);
    return g;
}

TEST(same_seed_same_bytes_whatever_the_threads)
{
    size_t n1, n2, n3;
    synth_options o = small("q2");
    o.n_threads = 1;
    char *a = synth_bytes(o, &n1);
    o.n_threads = 3;
    char *b = synth_bytes(o, &n2);
    o.seed = 2;
    char *c = synth_bytes(o, &n3);
    EXPECT(n1 == n2 && !memcmp(a, b, n1));
    EXPECT(n1 == n3 && memcmp(a, c, n1));
    free(a);
    free(b);
    free(c);
}

/* The numbers themselves, of all tensors: figures measured on a
 * synthetic file stay comparable only while it stays the same. */
TEST(numbers_are_pinned)
{
    uint64_t h = HASH_BEGIN;
    gguf *g = synth_open(small("q2"), "pinned.gguf");
    REQUIRE(g);
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        h = hash_bytes(h, t->data, t->bytes);
    }
    EXPECT(h == 0xfa49b5217ae32219u);
    gguf_close(g);
}

TEST(float_files_of_one_seed_are_one_model)
{
    gguf *full = synth_open(small("f32"), "f32.gguf"), *half = synth_open(small("f16"), "f16.gguf");
    REQUIRE(full && half);
    for (int i = 0; i < gguf_n_tensors(full); i++) {
        const gguf_tensor *a = gguf_tensor_at(full, i), *b = gguf_tensor_at(half, i);
        if (b->type != QUANT_F16) continue;
        for (uint64_t k = 0; k < a->bytes / 4; k += 97) {
            float v;
            uint16_t h;
            memcpy(&v, a->data + 4 * k, 4);
            memcpy(&h, b->data + 2 * k, 2);
            if (float_to_half(v) != h) {
                test_fail(__FILE__, __LINE__, "%s differs at %llu", a->name, (unsigned long long)k);
                break;
            }
        }
    }
    gguf_close(full);
    gguf_close(half);
}

TEST(experts_differ_and_tables_name_experts)
{
    synth_options o = small("q4");
    gguf *g = synth_open(o, "experts.gguf");
    REQUIRE(g);
    const gguf_tensor *t = gguf_find_tensor(g, "blk.3.ffn_up_exps.weight");
    const uint64_t slab = t->bytes / 3;
    EXPECT(memcmp(t->data, t->data + slab, slab) && memcmp(t->data + slab, t->data + 2 * slab, slab));

    t = gguf_find_tensor(g, "blk.1.ffn_gate_tid2eid.weight");
    REQUIRE(t && t->ne[0] == 2);
    for (uint64_t row = 0; row < t->ne[1]; row++) {
        int32_t id[2];
        memcpy(id, t->data + 8 * row, 8);
        if (id[0] < 0 || id[0] >= 3 || id[1] < 0 || id[1] >= 3 || id[0] == id[1])
            test_fail(__FILE__, __LINE__, "row %llu: %d %d", (unsigned long long)row, id[0], id[1]);
    }
    gguf_close(g);
}

static double deviation_of(const gguf *g, const char *name)
{
    const gguf_tensor *t = gguf_find_tensor(g, name);
    const uint64_t n = t->ne[0] * t->ne[1] * t->ne[2];
    float *x = malloc(n * sizeof *x);
    double sum = 0, squares = 0;
    quant_get(t->type)->to_float(x, t->data, (int64_t)n);
    for (uint64_t i = 0; i < n; i++) { sum += x[i]; squares += (double)x[i] * x[i]; }
    free(x);
    return sqrt(squares / (double)n - sum / (double)n * (sum / (double)n));
}

TEST(weights_look_as_their_kind_says)
{
    synth_options o = small("q2");
    gguf *g = synth_open(o, "look.gguf");
    o.branch_gain = 0.25f;
    gguf *quiet = synth_open(o, "quiet.gguf");
    REQUIRE(g && quiet);
#define RATIO(file, name, want) do { const double r_ = deviation_of(file, name) / (want);                       \
        if (!(r_ > 0.9 && r_ < 1.1)) test_fail(__FILE__, __LINE__, "%s: %g times what it should be", name, r_); } while (0)
    RATIO(g, "token_embd.weight", 1);
    RATIO(g, "output.weight", 1 / 16.);
    RATIO(g, "blk.2.attn_q_b.weight", 1 / 8.);
    RATIO(g, "blk.2.ffn_gate_exps.weight", 1 / 16.);
    RATIO(g, "blk.2.ffn_down_exps.weight", 1 / 16.);
    RATIO(g, "blk.2.attn_norm.weight", 0.1);
    RATIO(g, "blk.3.attn_compressor_ape.weight", 0.5);
    RATIO(quiet, "blk.2.ffn_gate_exps.weight", 1 / 16.);
    RATIO(quiet, "blk.2.ffn_down_exps.weight", 1 / 64.);
    RATIO(quiet, "blk.2.ffn_down_shexp.weight", 1 / 64.);
    RATIO(quiet, "blk.2.attn_output_b.weight", 1 / 32.);
    RATIO(quiet, "blk.2.attn_output_a.weight", 1 / 16.);
#undef RATIO
    gguf_close(g);
    gguf_close(quiet);
}

TEST(aliased_layers_share_data_by_kind)
{
    synth_options o = small("q8_0");
    o.shape.n_layer = 9;
    shape_default_ratios(&o.shape);
    o.alias_layers = true;
    gguf *g = synth_open(o, "aliased.gguf");
    REQUIRE(g);
    EXPECT(gguf_aliased(g));
    static const struct { const char *a, *b; bool same; } pairs[] = {
        { "blk.0.attn_q_a.weight", "blk.1.attn_q_a.weight", true },         /* hashed window    */
        { "blk.2.attn_q_a.weight", "blk.4.attn_q_a.weight", false },        /* hashed or scored */
        { "blk.3.attn_q_a.weight", "blk.7.attn_q_a.weight", true },         /* HCA              */
        { "blk.4.ffn_up_exps.weight", "blk.8.ffn_up_exps.weight", true },   /* CSA              */
        { "blk.3.ffn_up_exps.weight", "blk.4.ffn_up_exps.weight", false },
        { "blk.0.ffn_gate_tid2eid.weight", "blk.1.ffn_gate_tid2eid.weight", true },
    };
    for (size_t i = 0; i < countof(pairs); i++) {
        const gguf_tensor *a = gguf_find_tensor(g, pairs[i].a), *b = gguf_find_tensor(g, pairs[i].b);
        REQUIRE(a && b);
        if ((a->data == b->data) != pairs[i].same) test_fail(__FILE__, __LINE__, "%s and %s", pairs[i].a, pairs[i].b);
    }
    gguf_close(g);
}

TEST(a_layer_is_the_same_in_a_shorter_model)
{
    gguf *five = synth_open(small("q8_0"), "five.gguf");
    synth_options o = small("q8_0");
    o.shape.n_layer = 3;
    shape_default_ratios(&o.shape);
    gguf *three = synth_open(o, "three.gguf");
    REQUIRE(five && three);
    const gguf_tensor *a = gguf_find_tensor(five, "blk.2.attn_kv.weight");
    const gguf_tensor *b = gguf_find_tensor(three, "blk.2.attn_kv.weight");
    EXPECT(a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes));
    gguf_close(five);
    gguf_close(three);
}

TEST(impossible_wishes_are_refused)
{
    ds4_error err = { 0 };
    synth_options o = small("q8_0");
    o.out = test_scratch("refused.gguf");
    o.mix = "q7";
    EXPECT_INT(synth_run(&o, &err), DS4_EARG);
    o = small("q8_0");
    o.out = test_scratch("refused.gguf");
    o.shape.n_vocab = 271;
    EXPECT_INT(synth_run(&o, &err), DS4_EARG);
    EXPECT(strstr(err.message, "272") != NULL);
    o.shape.n_vocab = 512;
    o.branch_gain = -1;
    EXPECT_INT(synth_run(&o, &err), DS4_EARG);
    o.branch_gain = 1;
    o.shape.n_group = 3;
    EXPECT_INT(synth_run(&o, &err), DS4_EFORMAT);
    EXPECT(access(o.out, F_OK) != 0);
}

/* ---- the released shape ------------------------------------------------ */

static uint64_t planned_bytes(const tensor_plan *p, tensor_class class)
{
    uint64_t sum = 0;
    for (int i = 0; i < p->n; i++)
        if (p->items[i].def->class == class) sum += p->items[i].bytes;
    return sum;
}

TEST(the_released_shape_has_the_published_sizes)
{
    ds4_error err;
    tensor_plan p;
    synth_options o = synth_defaults();
    REQUIRE(shape_preset(&o.shape, "flash"));
    o.mix = "q2";
    REQUIRE_OK(synth_plan(&p, &o, &err), err);
    EXPECT_INT(p.n, 1328);
    EXPECT_INT(planned_bytes(&p, CLASS_EMBEDDING), 1059061760);
    EXPECT_INT(planned_bytes(&p, CLASS_OUTPUT), 562626560);
    EXPECT_INT(planned_bytes(&p, CLASS_ATTENTION), 4886495232);
    EXPECT_INT(planned_bytes(&p, CLASS_SHARED), 1149763584);
    EXPECT_INT(planned_bytes(&p, CLASS_GATE_UP), 47613739008);
    EXPECT_INT(planned_bytes(&p, CLASS_DOWN), 30299652096);
    EXPECT_INT(planned_bytes(&p, CLASS_ROUTER), 90177536);
    EXPECT_INT(planned_bytes(&p, CLASS_TABLE), 9308160);
    EXPECT_INT(p.data_bytes / 10000000, 8671);      /* 86.71 GB */
    tensor_plan_free(&p);

    o.mix = "q4";
    REQUIRE_OK(synth_plan(&p, &o, &err), err);
    EXPECT_INT(planned_bytes(&p, CLASS_GATE_UP), 103884521472);
    EXPECT_INT(p.data_bytes / 10000000, 16462);     /* 164.63 GB */
    tensor_plan_free(&p);
}

TEST(the_released_shape_with_aliases_is_below_ten_gigabytes)
{
    ds4_error err;
    tensor_plan p;
    synth_options o = synth_defaults();
    REQUIRE(shape_preset(&o.shape, "flash"));
    o.mix = "q2";
    o.alias_layers = true;
    REQUIRE_OK(synth_plan(&p, &o, &err), err);
    EXPECT_INT(p.n, 1328);
    EXPECT(p.data_bytes < 10000000000);
    EXPECT(p.n_weights / 10000000 == 28433);        /* 284.33e9 */
    tensor_plan_free(&p);
}

/* ---- the vocabulary ---------------------------------------------------- */

/* The engine's own reader takes it, and every token is rebuilt from its bytes. */
static void expect_vocabulary(int n, int user, int dsml)
{
    ds4_error err;
    token_table t;
    vocab *v = NULL;
    REQUIRE_OK(token_table_synth(&t, n, &err), err);
    const vocab_source source = { t.tokens, t.types, (size_t)t.n_tokens, t.merges, (size_t)t.n_merges };
    EXPECT_OK(vocab_from_arrays(&v, &source, &err), err);
    token_table_free(&t);
    REQUIRE(v);
    EXPECT_INT(vocab_special(v)->bos, 0);
    EXPECT_INT(vocab_special(v)->user, user);
    EXPECT_INT(vocab_special(v)->dsml, dsml);

    int wrong = 0;
    for (int id = 0; id < n; id++) {
        token_list got;
        size_t len;
        if (vocab_type(v, id) != TOKEN_NORMAL) continue;
        const char *text = vocab_bytes(v, id, &len);
        token_list_init(&got, 64);
        EXPECT_OK(tokenizer_encode(v, (slice){ text, len }, false, &got, &err), err);
        if ((got.n != 1 || got.ids[0] != id) && wrong++ < 5)
            test_fail(__FILE__, __LINE__, "token %d of %d (%.*s) comes back as %zu tokens", id, n, (int)len, text, got.n);
        token_list_free(&got);
    }
    vocab_close(v);
}

TEST(synthetic_vocabularies_are_consistent)
{
    expect_vocabulary(272, 266, 270);
    expect_vocabulary(512, 506, 510);
    expect_vocabulary(5000, 4994, 4998);
    expect_vocabulary(129280, 128803, 128825);
}

/* ---- inspect ----------------------------------------------------------- */

TEST(inspect_tells_keys_classes_and_tensors)
{
    bytes text;
    gguf *g = synth_open(small("q2"), "inspect.gguf");
    REQUIRE(g);
    bytes_init(&text, 1 << 24);
    inspect_text(g, &text);
    EXPECT(!text.failed);
    EXPECT(strstr(text.data, "deepseek4.block_count                            5\n") != NULL);
    EXPECT(strstr(text.data, "routed gate+up           IQ2_XXS        10") != NULL);
    EXPECT(strstr(text.data, "blk.4.ffn_down_exps.weight               Q2_K     [256, 256, 3]") != NULL);
    EXPECT(strstr(text.data, "[5 i32] 0, 0, 4, 128, 4\n") != NULL);

    bytes_clear(&text);
    inspect_json(g, &text);
    json_object *root = json_tokener_parse(text.data), *value;
    REQUIRE(root != NULL);
    EXPECT(json_object_object_get_ex(root, "tensors", &value) &&
           (int)json_object_array_length(value) == gguf_n_tensors(g));
    EXPECT(json_object_object_get_ex(root, "metadata", &value) &&
           json_object_object_get_ex(value, "deepseek4.expert_count", &value) && json_object_get_int(value) == 3);
    EXPECT(json_object_object_get_ex(root, "bytes", &value) &&
           (uint64_t)json_object_get_int64(value) == gguf_file_bytes(g));
    json_object_put(root);
    bytes_free(&text);
    gguf_close(g);
}

TEST(inspect_shows_no_control_characters)
{
    ds4_error err;
    gguf_writer *w;
    gguf *g;
    bytes text;
    const uint64_t ne = 1;
    const float one = 1;
    const char *path = test_scratch("hostile.gguf");
    REQUIRE_OK(gguf_writer_open(&w, path, true, &err), err);
    gguf_put_string(w, "general.name", "a\x1b[31m\nb", 8);
    gguf_put_u64(w, "big", UINT64_MAX);
    gguf_put_tensor(w, "stranger", QUANT_F32, 1, &ne, -1);
    REQUIRE_OK(gguf_writer_begin_data(w, &err), err);
    REQUIRE_OK(gguf_writer_data(w, 0, &one, 4, &err), err);
    REQUIRE_OK(gguf_writer_commit(w, &err), err);
    REQUIRE_OK(gguf_open(&g, path, NULL, &err), err);
    bytes_init(&text, 1 << 20);
    inspect_text(g, &text);
    EXPECT(strchr(text.data, '\x1b') == NULL);
    EXPECT(strstr(text.data, "\"a?[31m\\nb\"") != NULL);
    EXPECT(strstr(text.data, "other") != NULL);
    bytes_free(&text);
    gguf_close(g);
}
