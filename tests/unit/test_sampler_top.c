/* ds4_sample_top: the same token as from the whole row, or none. */
#include "runner.h"

#include <math.h>
#include <stdlib.h>

#include "base/random.h"
#include "ds4.h"

enum { V = 700, LISTED = 64 };

typedef struct {
    float     logits[V];
    ds4_token token[V];
    float     listed[V];
} row;

static const float *sorted_by;

static int by_logit(const void *a, const void *b)
{
    const ds4_token x = *(const ds4_token *)a, y = *(const ds4_token *)b;
    if (sorted_by[x] != sorted_by[y]) return sorted_by[x] < sorted_by[y] ? 1 : -1;
    return x - y;
}

static ds4_top_logits largest(row *r, int n_listed, double error)
{
    int n = 0;
    for (int t = 0; t < V; t++)
        if (!isnan(r->logits[t])) r->token[n++] = t;
    sorted_by = r->logits;
    qsort(r->token, (size_t)n, sizeof *r->token, by_logit);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        r->listed[i] = r->logits[r->token[i]];
        sum += exp((double)r->listed[i] - r->listed[0]);
    }
    return (ds4_top_logits){ .token = r->token, .logit = r->listed, .n = n < n_listed ? n : n_listed,
                             .sum = (float)(sum * (1 + error)) };
}

static void random_row(row *r, random_stream *random)
{
    const double spread = 1 << random_below(random, 4);
    const int kind = (int)random_below(random, 5);
    for (int t = 0; t < V; t++) {
        r->logits[t] = (float)(spread * random_normal(random));
        if (kind == 1) r->logits[t] = rintf(r->logits[t]);          /* many ties */
        if (kind == 2 && random_below(random, 10) == 0) r->logits[t] = -INFINITY;
        if (kind == 3 && random_below(random, 50) == 0) r->logits[t] = NAN;
    }
    if (kind == 4) r->logits[random_below(random, V)] += 20;        /* one stands out */
}

static float one_of(random_stream *random, const float *values, int n)
{
    return values[random_below(random, (uint64_t)n)];
}

static const uint32_t *mask_of(void *ctx) { return ctx; }

typedef struct {
    ds4_logit_bias bias[3];
    uint32_t       mask[V / 32 + 1];
} extras;

static ds4_sampling random_params(random_stream *random, extras *x)
{
    static const float temperatures[] = { 0, 0.3f, 0.7f, 1, 1, 1, 1.5f, 4 }, top_ps[] = { 1, 1, 0.95f, 0.8f, 0.3f };
    static const float min_ps[] = { 0, 0, 0.05f, 0.05f, 0.3f }, repetitions[] = { 1, 1, 1, 1.1f, 0.9f };
    static const float penalties[] = { 0, 0, 0, 0.4f, -0.4f }, biases[] = { -100, -1, 0, 3, -INFINITY };
    static const int top_ks[] = { 0, 0, 0, 1, 20, 63, 64, 65, 300 };
    ds4_sampling p = ds4_sampling_defaults();
    p.temperature = one_of(random, temperatures, 8);
    p.top_p = one_of(random, top_ps, 5);
    p.min_p = one_of(random, min_ps, 5);
    p.top_k = top_ks[random_below(random, 9)];
    p.repetition_penalty = one_of(random, repetitions, 5);
    p.frequency_penalty = one_of(random, penalties, 5);
    p.presence_penalty = one_of(random, penalties, 5);
    p.seed = random_u64(random);
    if (random_below(random, 3) == 0) {
        for (int i = 0; i < 3; i++) {
            const ds4_token t = (ds4_token)random_below(random, V);
            x->bias[i] = (ds4_logit_bias){ t, one_of(random, biases, 5) };
        }
        p.bias = x->bias;
        p.n_bias = 3;
    }
    if (random_below(random, 4) == 0) {
        for (size_t i = 0; i < sizeof x->mask / sizeof *x->mask; i++) x->mask[i] = (uint32_t)random_u64(random);
        p.mask = mask_of;
        p.mask_ctx = x->mask;
    }
    return p;
}

static ds4_sampler *sampler(const ds4_sampling *p)
{
    ds4_sampler *s = NULL;
    ds4_error err;
    EXPECT_OK(ds4_sampler_new(&s, p, V, &err), err);
    return s;
}

/* Ten tokens one after the other, so that streams which part are noticed; returns how many the list decided. */
static int follow(const ds4_sampling *p, random_stream *random, int n_listed)
{
    static row r;
    ds4_sampler *whole = sampler(p), *part = sampler(p);
    int decided = 0;
    for (int i = 0; i < 10; i++) {
        random_row(&r, random);
        const ds4_top_logits top = largest(&r, n_listed, 2e-4 * random_double(random) - 1e-4);
        const bool best = random_below(random, 8) == 0;
        const ds4_token want = best ? ds4_sample_best(whole, r.logits) : ds4_sample(whole, r.logits);
        ds4_token got = -2;
        if (ds4_sample_top(part, &top, best, &got)) decided++;
        else got = best ? ds4_sample_best(part, r.logits) : ds4_sample(part, r.logits);
        if (got != want)
            test_fail(__FILE__, __LINE__, "token %d, want %d: temperature %g top_k %d top_p %g min_p %g "
                      "penalties %g %g %g, %d biases%s", got, want, p->temperature, p->top_k, p->top_p, p->min_p, p->repetition_penalty,
                      p->frequency_penalty, p->presence_penalty, p->n_bias, p->mask ? ", mask" : "");
        ds4_sampler_accept(whole, want);
        ds4_sampler_accept(part, want);
    }
    ds4_sampler_free(whole);
    ds4_sampler_free(part);
    return decided;
}

TEST(whatever_the_parameters_the_largest_logits_give_the_token_of_the_whole_row)
{
    random_stream random;
    extras x;
    random_seed(&random, 11);
    int decided = 0;
    for (int i = 0; i < 1500; i++) {
        const ds4_sampling p = random_params(&random, &x);
        decided += follow(&p, &random, LISTED);
    }
    EXPECT(decided > 5000);                         /* of 15,000 */
}

TEST(a_list_of_all_tokens_decides_everything_that_is_a_number)
{
    random_stream random;
    extras x;
    random_seed(&random, 12);
    for (int i = 0; i < 100; i++) {
        const ds4_sampling p = random_params(&random, &x);
        follow(&p, &random, V);
    }
    static row r;
    for (int t = 0; t < V; t++) r.logits[t] = (float)(t % 90);
    const ds4_top_logits top = largest(&r, V, 0);
    ds4_sampling p = ds4_sampling_defaults();
    p.min_p = 0;
    ds4_sampler *s = sampler(&p);
    ds4_token t;
    for (int i = 0; i < 50; i++) EXPECT(ds4_sample_top(s, &top, false, &t));
    ds4_sampler_free(s);
}

TEST(the_usual_parameters_seldom_need_the_whole_row)
{
    static row r;
    random_stream random;
    random_seed(&random, 13);
    const float top_ps[] = { 1, 0.95f };
    for (int k = 0; k < 2; k++) {
        ds4_sampling p = ds4_sampling_defaults();
        p.top_p = top_ps[k];
        p.min_p = k ? 0 : 0.05f;
        ds4_sampler *s = sampler(&p);
        int decided = 0;
        for (int i = 0; i < 200; i++) {
            for (int t = 0; t < V; t++) r.logits[t] = (float)(6 * random_normal(&random));
            const ds4_top_logits top = largest(&r, LISTED, 0);
            ds4_token t;
            decided += ds4_sample_top(s, &top, false, &t);
        }
        EXPECT(decided >= 190);
        ds4_sampler_free(s);
    }
}

TEST(what_a_bias_could_lift_from_outside_the_list_is_not_decided)
{
    static row r;
    for (int t = 0; t < V; t++) r.logits[t] = (float)-t;
    const ds4_top_logits top = largest(&r, LISTED, 0);
    ds4_logit_bias bias = { V - 1, 2.0f * V };
    ds4_sampling p = ds4_sampling_defaults();
    p.temperature = 0;
    p.bias = &bias;
    p.n_bias = 1;
    ds4_sampler *s = sampler(&p);
    ds4_token t = -7;
    EXPECT(!ds4_sample_top(s, &top, false, &t));
    EXPECT_INT(t, -7);
    EXPECT_INT(ds4_sample(s, r.logits), V - 1);
    ds4_sampler_free(s);

    bias = (ds4_logit_bias){ V - 1, -5 };
    s = sampler(&p);
    EXPECT(ds4_sample_top(s, &top, false, &t));
    EXPECT_INT(t, 0);
    ds4_sampler_free(s);
}

TEST(an_empty_list_decides_nothing)
{
    const ds4_sampling p = ds4_sampling_defaults();
    ds4_sampler *s = sampler(&p);
    ds4_token t;
    EXPECT(!ds4_sample_top(s, &(ds4_top_logits){ 0 }, true, &t));
    ds4_sampler_free(s);
}
