/* sampler: logits to a token.
 *
 * Order: mask and bias, penalties, temperature, top_k, top_p, min_p, draw. */
#include "ds4.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/status.h"

typedef struct {
    ds4_token token;
    float     logit;            /* after bias and penalties; later its weight */
} candidate;

struct ds4_sampler {
    ds4_sampling   params;
    ds4_logit_bias *bias;       /* owned copy               */
    random_stream  random;
    int            n_vocab;
    candidate     *candidates;  /* [n_vocab]                */
    int32_t       *seen;        /* [n_vocab] times accepted */
};

ds4_sampling ds4_sampling_defaults(void)
{
    return (ds4_sampling){ .temperature = 1.0f, .top_p = 1.0f, .min_p = 0.05f, .repetition_penalty = 1.0f };
}

static ds4_status check(const ds4_sampling *p, int n_vocab, ds4_error *err)
{
    if (!(p->temperature >= 0) || !isfinite(p->temperature))
        return ds4_fail(err, DS4_EARG, "temperature %g; it must be 0 or more", p->temperature);
    if (p->top_k < 0) return ds4_fail(err, DS4_EARG, "top_k %d; it must be 0 (off) or more", p->top_k);
    if (!(p->top_p > 0 && p->top_p <= 1))
        return ds4_fail(err, DS4_EARG, "top_p %g; it must be above 0 and at most 1", p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1)) return ds4_fail(err, DS4_EARG, "min_p %g; it must be 0 to 1", p->min_p);
    if (!(p->repetition_penalty > 0) || !isfinite(p->repetition_penalty))
        return ds4_fail(err, DS4_EARG, "repetition_penalty %g; it must be positive", p->repetition_penalty);
    if (!isfinite(p->frequency_penalty) || !isfinite(p->presence_penalty))
        return ds4_fail(err, DS4_EARG, "a penalty is not a finite number");
    for (int i = 0; i < p->n_bias; i++)
        if (p->bias[i].token < 0 || p->bias[i].token >= n_vocab)
            return ds4_fail(err, DS4_EARG, "logit bias for token %d of %d", p->bias[i].token, n_vocab);
    return DS4_OK;
}

ds4_status ds4_sampler_new(ds4_sampler **out, const ds4_sampling *params, int n_vocab, ds4_error *err)
{
    *out = NULL;
    const ds4_status st = check(params, n_vocab, err);
    if (st) return st;
    ds4_sampler *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for a sampler");
    s->params = *params;
    s->n_vocab = n_vocab;
    s->candidates = malloc((size_t)n_vocab * sizeof *s->candidates);
    s->seen = calloc((size_t)n_vocab, sizeof *s->seen);
    s->bias = malloc((size_t)(params->n_bias + 1) * sizeof *s->bias);
    if (!s->candidates || !s->seen || !s->bias) {
        ds4_sampler_free(s);
        return ds4_fail(err, DS4_EMEMORY, "no memory for a sampler over %d tokens", n_vocab);
    }
    if (params->n_bias > 0) memcpy(s->bias, params->bias, (size_t)params->n_bias * sizeof *s->bias);
    random_seed(&s->random, params->seed);
    *out = s;
    return DS4_OK;
}

void ds4_sampler_free(ds4_sampler *s)
{
    if (!s) return;
    free(s->candidates);
    free(s->seen);
    free(s->bias);
    free(s);
}

void ds4_sampler_accept(ds4_sampler *s, ds4_token t)
{
    if (t >= 0 && t < s->n_vocab && s->seen[t] < INT32_MAX) s->seen[t]++;
}

static bool allowed(const uint32_t *mask, ds4_token t) { return !mask || (mask[t / 32] >> (t % 32) & 1); }

static void apply_bias(ds4_sampler *s, int n)
{
    const ds4_sampling *p = &s->params;
    for (int i = 0; i < p->n_bias; i++)
        for (int j = 0; j < n; j++)
            if (s->candidates[j].token == s->bias[i].token) s->candidates[j].logit += s->bias[i].bias;
}

/* The allowed tokens with the bias applied. NaN never becomes one. */
static int gather_biased(ds4_sampler *s, const float *logits)
{
    const ds4_sampling *p = &s->params;
    const uint32_t *mask = p->mask ? p->mask(p->mask_ctx) : NULL;
    int n = 0;

    for (int t = 0; t < s->n_vocab; t++) {
        if (!allowed(mask, t)) continue;
        if (isnan(logits[t])) continue;
        s->candidates[n++] = (candidate){ t, logits[t] };
    }
    apply_bias(s, n);
    return n;
}

static void penalise(ds4_sampler *s, int n)
{
    const ds4_sampling *p = &s->params;
    for (int i = 0; i < n; i++) {
        candidate *c = &s->candidates[i];
        const int seen = s->seen[c->token];
        if (seen == 0) continue;
        c->logit = c->logit > 0 ? c->logit / p->repetition_penalty : c->logit * p->repetition_penalty;
        c->logit -= p->frequency_penalty * (float)seen + p->presence_penalty;
    }
}

static int gather(ds4_sampler *s, const float *logits)
{
    const int n = gather_biased(s, logits);
    penalise(s, n);
    return n;
}

static ds4_token best_of(const candidate *c, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (c[i].logit > c[best].logit) best = i;    /* ids ascend, so ties keep the lowest */
    return n > 0 ? c[best].token : -1;
}

static int by_logit(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
    return x->token < y->token ? -1 : 1;
}

/* Turns the sorted logits into weights exp((l - max) / temperature); returns their sum. */
static double soften(candidate *c, int n, float temperature)
{
    const float top = c[0].logit;
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        c[i].logit = top == c[i].logit ? 1.0f : expf((c[i].logit - top) / temperature);
        sum += c[i].logit;
    }
    return sum;
}

/* How many of the sorted weights top_p and min_p leave; at least one. */
static int truncate_tail(const candidate *c, int n, double sum, float top_p, float min_p)
{
    double reached = 0.0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && c[i].logit < min_p * c[0].logit) return i;
        reached += c[i].logit;
        if (top_p < 1 && reached >= top_p * sum) return i + 1;
    }
    return n;
}

static ds4_token draw(ds4_sampler *s, const candidate *c, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += c[i].logit;
    double left = random_double(&s->random) * sum;
    for (int i = 0; i < n - 1; i++) {
        left -= c[i].logit;
        if (left < 0) return c[i].token;
    }
    return c[n - 1].token;
}

ds4_token ds4_sample(ds4_sampler *s, const float *logits)
{
    const ds4_sampling *p = &s->params;
    int n = gather(s, logits);
    if (n == 0) return -1;
    if (p->temperature == 0 || p->top_k == 1) return best_of(s->candidates, n);

    qsort(s->candidates, (size_t)n, sizeof *s->candidates, by_logit);
    if (p->top_k > 0 && p->top_k < n) n = p->top_k;
    const double sum = soften(s->candidates, n, p->temperature);
    n = truncate_tail(s->candidates, n, sum, p->top_p, p->min_p);
    return draw(s, s->candidates, n);
}

ds4_token ds4_sample_best(ds4_sampler *s, const float *logits)
{
    const int n = gather_biased(s, logits);
    return best_of(s->candidates, n);
}

/* ---- from the largest logits of a row --------------------------------------------------------- *
 * Tokens that are not listed have logits up to the last that is; as long as nothing raises one of
 * them, candidates above that stand where the sorted list of the whole row has them. What the
 * others weigh together is known within bounds, and a token is given only when both ends of the
 * bounds agree on it. */

#define SUM_ERROR   1e-4        /* of ds4_top_logits.sum                     */
#define SLACK       1e-5        /* of weights that are computed another way  */
#define DRAW_SLACK  1e-9        /* of sums in another order                  */

typedef struct {
    int    n;                   /* candidates that are known, best first     */
    bool   all;                 /* there are no others                       */
    double low, high;           /* bounds of what the others weigh           */
    double heaviest;            /* no other weighs more than this            */
} known_best;

static bool is_listed(const ds4_top_logits *top, ds4_token t)
{
    for (int i = 0; i < top->n; i++)
        if (top->token[i] == t) return true;
    return false;
}

/* Whether bias or penalties could raise a token that is not listed. */
static bool raises_others(const ds4_sampler *s, const ds4_top_logits *top, bool best)
{
    const ds4_sampling *p = &s->params;
    for (int i = 0; i < p->n_bias; i++)
        if (!(s->bias[i].bias <= 0) && !is_listed(top, s->bias[i].token)) return true;
    return !best && !(p->repetition_penalty >= 1 && p->frequency_penalty >= 0 && p->presence_penalty >= 0);
}

/* Whether anything may lower or remove one. */
static bool lowers_others(const ds4_sampler *s)
{
    const ds4_sampling *p = &s->params;
    return p->mask || p->n_bias > 0 || p->repetition_penalty != 1 || p->frequency_penalty != 0
        || p->presence_penalty != 0;
}

/* The listed candidates, sorted; true: k->n of them are known to be the best. */
static bool gather_top(ds4_sampler *s, const ds4_top_logits *top, bool best, known_best *k)
{
    const uint32_t *mask = s->params.mask ? s->params.mask(s->params.mask_ctx) : NULL;
    *k = (known_best){ .all = top->n == s->n_vocab };
    if (!k->all && raises_others(s, top, best)) return false;
    int n = 0;
    for (int i = 0; i < top->n; i++)
        if (allowed(mask, top->token[i])) s->candidates[n++] = (candidate){ top->token[i], top->logit[i] };
    apply_bias(s, n);
    if (!best) penalise(s, n);
    for (int i = 0; i < n; i++)
        if (isnan(s->candidates[i].logit)) return false;
    qsort(s->candidates, (size_t)n, sizeof *s->candidates, by_logit);
    while (k->n < n && (k->all || s->candidates[k->n].logit > top->logit[top->n - 1])) k->n++;
    return k->n > 0;
}

/* Bounds of the others' weights, relative to the best candidate's logit. */
static void weigh_others(const ds4_sampler *s, const ds4_top_logits *top, float best, known_best *k)
{
    const double T = s->params.temperature, first = top->logit[0], last = top->logit[top->n - 1];
    const double others = s->n_vocab - k->n, unlisted = s->n_vocab - top->n;
    k->heaviest = (double)expf(((float)last - best) / s->params.temperature) * (1 + SLACK);
    k->low = 0;
    k->high = others * k->heaviest;

    double listed = 0;
    for (int i = 0; i < top->n; i++) listed += exp(top->logit[i] - first);
    const double most = top->sum * (1 + SUM_ERROR) - listed, least = top->sum * (1 - SUM_ERROR) - listed;
    if (!isfinite(most)) return;
    /* Of numbers x up to `edge` whose sum is bounded: sums of x^(1/T). */
    const double edge = exp(last - first), scale = exp((first - best) / T);
    const double up = most > 0 ? most : 0, down = least > 0 ? least : 0;
    if (edge == 0) return;
    const double by_edge = pow(edge, 1 / T - 1), even = pow(unlisted, 1 - 1 / T);
    const double high = scale * (T <= 1 ? by_edge * up : even * pow(up, 1 / T));
    const double low = scale * (T <= 1 ? even * pow(down, 1 / T) : by_edge * down);
    const double between = (top->n - k->n) * k->heaviest;   /* listed, but not above the last */
    if (high + between < k->high) k->high = (high + between) * (1 + SLACK);
    if (!lowers_others(s) && low < k->high) k->low = low * (1 - SLACK);
}

/* Where the sorted weights are cut: 1..k->n when that is known, 0 when no cut is among them, -1 when
 * it depends on the others. */
static int cut_known(const candidate *c, const known_best *k, double sum, float top_p, float min_p)
{
    const double high = k->all ? sum : (sum + k->high) * (1 + DRAW_SLACK);
    const double low = k->all ? sum : (sum + k->low) * (1 - DRAW_SLACK);
    double reached = 0.0;
    for (int i = 0; i < k->n; i++) {
        if (i > 0 && c[i].logit < min_p * c[0].logit) return i;
        reached += c[i].logit;
        if (top_p < 1 && reached >= top_p * high) return i + 1;
        if (top_p < 1 && reached >= top_p * low) return -1;
    }
    return k->all || k->heaviest < (double)min_p * c[0].logit ? k->n : 0;
}

/* A draw among weights of which only the first are known, where it falls on one of these in any case. */
static bool draw_known(ds4_sampler *s, const known_best *k, double sum, ds4_token *out)
{
    const ds4_sampling *p = &s->params;
    random_stream random = s->random;
    const double at = random_double(&random), low = p->top_p < 1 || p->min_p > 0 ? sum : sum + k->low;
    double before = 0.0;
    for (int i = 0; i < k->n; i++) {
        const double behind = before + s->candidates[i].logit;
        if (at * low >= before * (1 + DRAW_SLACK) && at * (sum + k->high) < behind * (1 - DRAW_SLACK)) {
            s->random = random;
            *out = s->candidates[i].token;
            return true;
        }
        before = behind;
    }
    return false;
}

bool ds4_sample_top(ds4_sampler *s, const ds4_top_logits *top, bool best, ds4_token *out)
{
    const ds4_sampling *p = &s->params;
    known_best k;
    if (top->n <= 0 || !gather_top(s, top, best, &k)) return false;
    if (best || p->temperature == 0 || p->top_k == 1) {
        *out = s->candidates[0].token;
        return true;
    }
    const float highest = s->candidates[0].logit;
    const bool fewer = p->top_k > 0 && p->top_k <= k.n;
    if (fewer) {
        k.n = p->top_k;
        k.all = true;
    }
    const double sum = soften(s->candidates, k.n, p->temperature);
    if (!k.all) {
        weigh_others(s, top, highest, &k);
        if (p->top_k > 0) {
            k.low = 0;
            k.high = fmin(k.high, (p->top_k - k.n) * k.heaviest);
        }
    }
    const int n = cut_known(s->candidates, &k, sum, p->top_p, p->min_p);
    if (n < 0) return false;
    if (n == 0) return draw_known(s, &k, sum, out);
    *out = draw(s, s->candidates, n);
    return true;
}

/* Keeps the n best of what it is shown, best first. */
static int keep_best(ds4_logprob *top, int have, int n, candidate c)
{
    if (n == 0 || c.logit == -INFINITY) return have;
    if (have == n && c.logit <= top[n - 1].logprob) return have;
    int at = have < n ? have : n - 1;
    for (; at > 0 && top[at - 1].logprob < c.logit; at--) top[at] = top[at - 1];
    top[at] = (ds4_logprob){ c.token, c.logit };
    return have < n ? have + 1 : n;
}

int ds4_sampler_logprobs(ds4_sampler *s, const float *logits, ds4_token chosen, float *self, ds4_logprob *top, int n)
{
    const int all = gather(s, logits);
    float best = -INFINITY, own = -INFINITY;
    int have = 0;
    for (int i = 0; i < all; i++) {
        const candidate c = s->candidates[i];
        if (c.logit > best) best = c.logit;
        if (c.token == chosen) own = c.logit;
        have = keep_best(top, have, n, c);
    }
    double sum = 0.0;
    for (int i = 0; i < all; i++) sum += exp((double)s->candidates[i].logit - best);
    const float norm = best + (float)log(sum);
    *self = own - norm;
    for (int i = 0; i < have; i++) top[i].logprob -= norm;
    return have;
}
