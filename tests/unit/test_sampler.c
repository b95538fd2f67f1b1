/* ds4_sample: the order of its steps, ties, limits, and its random stream. */
#include "runner.h"

#include <math.h>
#include <string.h>

#include "ds4.h"

static ds4_sampler *sampler(const ds4_sampling *p, int n)
{
    ds4_sampler *s = NULL;
    ds4_error err;
    const ds4_status st = ds4_sampler_new(&s, p, n, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s", err.message);
    return s;
}

/* How often each token comes in n draws. */
static void draw(const ds4_sampling *p, const float *logits, int n_vocab, int n, int *count)
{
    ds4_sampler *s = sampler(p, n_vocab);
    memset(count, 0, (size_t)n_vocab * sizeof *count);
    for (int i = 0; i < n; i++) {
        const ds4_token t = ds4_sample(s, logits);
        if (t < 0 || t >= n_vocab) {
            test_fail(__FILE__, __LINE__, "token %d of %d", t, n_vocab);
            break;
        }
        count[t]++;
    }
    ds4_sampler_free(s);
}

TEST(greedy_takes_the_best_and_the_lowest_of_equals)
{
    const float logits[] = { 1, 5, -3, 5, 4 };
    ds4_sampling p = ds4_sampling_defaults();
    p.temperature = 0;
    ds4_sampler *s = sampler(&p, 5);
    EXPECT_INT(ds4_sample(s, logits), 1);
    ds4_sampler_free(s);
    p.temperature = 2;
    p.top_k = 1;
    s = sampler(&p, 5);
    EXPECT_INT(ds4_sample(s, logits), 1);
    ds4_sampler_free(s);
}

TEST(frequencies_follow_the_softmax)
{
    const float logits[] = { 0.0f, 1.0f, 2.0f };
    ds4_sampling p = ds4_sampling_defaults();
    p.min_p = 0;
    p.temperature = 0.5f;
    p.seed = 7;
    int count[3];
    const int n = 40000;
    draw(&p, logits, 3, n, count);
    const double sum = 1 + exp(2) + exp(4);
    for (int i = 0; i < 3; i++) {
        const double want = exp(2.0 * i) / sum, got = (double)count[i] / n;
        if (fabs(got - want) > 5 * sqrt(want * (1 - want) / n))     /* five standard deviations */
            test_fail(__FILE__, __LINE__, "token %d: %.4f, want %.4f", i, got, want);
    }
}

TEST(top_k_top_p_and_min_p_cut_the_tail)
{
    const float logits[] = { (float)log(0.5), (float)log(0.25), (float)log(0.15), (float)log(0.1) };
    int count[4];
    ds4_sampling p = ds4_sampling_defaults();
    p.min_p = 0;
    p.top_k = 2;
    draw(&p, logits, 4, 2000, count);
    EXPECT(count[0] > 0 && count[1] > 0 && count[2] == 0 && count[3] == 0);
    p.top_k = 0;
    p.top_p = 0.8f;                                 /* 0.5 + 0.25 + 0.15 reaches it */
    draw(&p, logits, 4, 2000, count);
    EXPECT(count[2] > 0 && count[3] == 0);
    p.top_p = 1;
    p.min_p = 0.4f;                                 /* 0.2 and more */
    draw(&p, logits, 4, 2000, count);
    EXPECT(count[1] > 0 && count[2] == 0 && count[3] == 0);
    p.min_p = 0;
    p.top_p = 0.0001f;                              /* the best always stays */
    draw(&p, logits, 4, 100, count);
    EXPECT_INT(count[0], 100);
}

TEST(min_p_acts_after_temperature)
{
    const float logits[] = { 0.0f, -2.0f };         /* weight exp(-2) = 0.135, at temperature 2: 0.37 */
    int count[2];
    ds4_sampling p = ds4_sampling_defaults();
    p.min_p = 0.2f;
    draw(&p, logits, 2, 500, count);
    EXPECT_INT(count[1], 0);
    p.temperature = 2;
    draw(&p, logits, 2, 500, count);
    EXPECT(count[1] > 0);
}

TEST(penalties_count_what_was_accepted)
{
    const float logits[] = { 2.0f, 1.9f, -1.0f };
    ds4_sampling p = ds4_sampling_defaults();
    p.temperature = 0;
    p.frequency_penalty = 0.06f;
    ds4_sampler *s = sampler(&p, 3);
    EXPECT_INT(ds4_sample(s, logits), 0);
    ds4_sampler_accept(s, 0);
    EXPECT_INT(ds4_sample(s, logits), 0);           /* 1.94 */
    ds4_sampler_accept(s, 0);
    EXPECT_INT(ds4_sample(s, logits), 1);           /* 1.88 */
    ds4_sampler_free(s);

    p.frequency_penalty = 0;
    p.presence_penalty = 0.2f;
    s = sampler(&p, 3);
    ds4_sampler_accept(s, 0);
    EXPECT_INT(ds4_sample(s, logits), 1);
    ds4_sampler_accept(s, -1);                      /* ignored */
    ds4_sampler_accept(s, 3);
    ds4_sampler_free(s);

    const float negative[] = { -1.0f, -1.1f };      /* a negative logit is made smaller, not larger */
    p.presence_penalty = 0;
    p.repetition_penalty = 1.2f;
    s = sampler(&p, 2);
    ds4_sampler_accept(s, 0);
    EXPECT_INT(ds4_sample(s, negative), 1);
    ds4_sampler_free(s);
}

static uint32_t mask_words[2];
static const uint32_t *mask_of(void *ctx)
{
    (void)ctx;
    return mask_words;
}

TEST(mask_and_bias_come_first)
{
    float logits[40];
    for (int i = 0; i < 40; i++) logits[i] = (float)i;
    const ds4_logit_bias bias[] = { { 3, 100.0f } };
    ds4_sampling p = ds4_sampling_defaults();
    p.temperature = 0;
    p.mask = mask_of;
    mask_words[0] = 1u << 5;
    mask_words[1] = 1u << 2;                        /* tokens 5 and 34 */
    ds4_sampler *s = sampler(&p, 40);
    EXPECT_INT(ds4_sample(s, logits), 34);
    mask_words[1] = 0;
    EXPECT_INT(ds4_sample(s, logits), 5);
    mask_words[0] = 0;
    EXPECT_INT(ds4_sample(s, logits), -1);
    ds4_sampler_free(s);
    p.mask = NULL;
    p.bias = bias;
    p.n_bias = 1;
    s = sampler(&p, 40);
    EXPECT_INT(ds4_sample(s, logits), 3);
    ds4_sampler_free(s);
}

TEST(equal_seeds_give_equal_draws)
{
    float logits[64];
    for (int i = 0; i < 64; i++) logits[i] = sinf((float)i);
    ds4_sampling p = ds4_sampling_defaults();
    p.seed = 99;
    ds4_sampler *a = sampler(&p, 64), *b = sampler(&p, 64);
    p.seed = 100;
    ds4_sampler *c = sampler(&p, 64);
    int differ = 0;
    for (int i = 0; i < 200; i++) {
        const ds4_token t = ds4_sample(a, logits);
        EXPECT_INT(ds4_sample(b, logits), t);
        differ += ds4_sample(c, logits) != t;
    }
    EXPECT(differ > 100);
    ds4_sampler_free(a);
    ds4_sampler_free(b);
    ds4_sampler_free(c);
}

TEST(numbers_that_are_none_are_never_chosen)
{
    const float some[] = { NAN, 1.0f, NAN, -INFINITY }, none[] = { NAN, NAN }, infinite[] = { 0.0f, INFINITY, 1.0f };
    ds4_sampling p = ds4_sampling_defaults();
    ds4_sampler *s = sampler(&p, 4);
    for (int i = 0; i < 50; i++) EXPECT_INT(ds4_sample(s, some), 1);
    ds4_sampler_free(s);
    s = sampler(&p, 2);
    EXPECT_INT(ds4_sample(s, none), -1);
    ds4_sampler_free(s);
    s = sampler(&p, 3);
    EXPECT_INT(ds4_sample(s, infinite), 1);
    ds4_sampler_free(s);
}

TEST(bad_parameters_are_refused)
{
    ds4_error err;
    ds4_sampler *s;
    const ds4_logit_bias far[] = { { 10, 1.0f } };
    const ds4_sampling d = ds4_sampling_defaults();
    ds4_sampling bad[8] = { d, d, d, d, d, d, d, d };
    bad[0].temperature = -1;
    bad[1].temperature = NAN;
    bad[2].top_p = 0;
    bad[3].top_p = 1.5f;
    bad[4].min_p = 2;
    bad[5].top_k = -1;
    bad[6].repetition_penalty = 0;
    bad[7].bias = far;
    bad[7].n_bias = 1;
    for (int i = 0; i < 8; i++) EXPECT_INT(ds4_sampler_new(&s, &bad[i], 10, &err), DS4_EARG);
}

TEST(logprobs_are_of_the_distribution_before_temperature)
{
    const float logits[] = { 1.0f, 3.0f, 2.0f, NAN, 2.0f };
    const ds4_logit_bias bias[] = { { 0, -INFINITY } };
    ds4_sampling p = ds4_sampling_defaults();
    p.temperature = 5;
    p.top_p = 0.1f;
    p.bias = bias;
    p.n_bias = 1;
    ds4_sampler *s = sampler(&p, 5);
    ds4_logprob top[4];
    float self;
    const double norm = log(exp(3) + 2 * exp(2));
    EXPECT_INT(ds4_sampler_logprobs(s, logits, 2, &self, top, 4), 3);      /* what is impossible is not listed */
    EXPECT(fabs(self - (2 - norm)) < 1e-5);
    EXPECT_INT(top[0].token, 1);
    EXPECT_INT(top[1].token, 2);                                            /* of equals the lower id first */
    EXPECT_INT(top[2].token, 4);
    EXPECT(fabs(top[0].logprob - (3 - norm)) < 1e-5);
    EXPECT_INT(ds4_sampler_logprobs(s, logits, 0, &self, top, 1), 1);
    EXPECT(self == -INFINITY);
    EXPECT_INT(ds4_sampler_logprobs(s, logits, 1, &self, NULL, 0), 0);
    ds4_sampler_free(s);
}

TEST(markup_is_chosen_without_penalties_and_without_a_draw)
{
    const float logits[] = { 1.0f, 1.5f, 0.5f };
    ds4_sampling p = ds4_sampling_defaults();
    p.presence_penalty = 2;
    p.seed = 9;
    ds4_sampler *a = sampler(&p, 3), *b = sampler(&p, 3);
    ds4_sampler_accept(a, 1);
    ds4_sampler_accept(b, 1);
    for (int i = 0; i < 20; i++) {
        EXPECT_INT(ds4_sample_best(a, logits), 1);
        EXPECT_INT(ds4_sample(a, logits), ds4_sample(b, logits));           /* the stream has not moved */
    }
    ds4_sampler_free(a);
    ds4_sampler_free(b);
}
