/* dump_logprobs: a greedy continuation with the likeliest tokens of every step,
 * to be compared with official log-probabilities (tests/golden). */
#include <math.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/json_writer.h"
#include "base/status.h"
#include "logits.h"
#include "probe.h"

enum { MAX_TOP = 128 };

typedef struct {
    json_writer  json;
    bytes        out;
    const vocab *vocab;
    int          n_vocab, top_k;
} listing;

/* The k largest, best first, ties by id: insertion into a short sorted list. */
static int top_of(const float *logits, int n, int k, int out[MAX_TOP])
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(logits[i]) || (count == k && !(logits[i] > logits[out[k - 1]]))) continue;
        int at = count < k ? count++ : k - 1;
        for (; at > 0 && logits[i] > logits[out[at - 1]]; at--) out[at] = out[at - 1];
        out[at] = i;
    }
    return count;
}

/* {"id":1117,"text":"16","bytes":[49,54]}; the bytes are what counts, the text
 * has what is not UTF-8 replaced. */
static void write_token(listing *l, int id)
{
    size_t n;
    const char *data = vocab_bytes(l->vocab, id, &n);
    json_object(&l->json);
    json_put_int(&l->json, "id", id);
    json_key(&l->json, "text");
    json_string(&l->json, data, n);
    json_key(&l->json, "bytes");
    json_array(&l->json);
    for (size_t i = 0; i < n; i++) json_int(&l->json, (unsigned char)data[i]);
    json_array_end(&l->json);
    json_object_end(&l->json);
}

static void write_candidate(listing *l, int id, const float *logits, double norm)
{
    json_object(&l->json);
    json_key(&l->json, "token");
    write_token(l, id);
    json_put_double(&l->json, "logit", logits[id], 9);
    json_put_double(&l->json, "logprob", logits[id] - norm, 9);
    json_object_end(&l->json);
}

static ds4_status write_step(void *ctx, int step, ds4_token id, const float *logits, ds4_error *err)
{
    listing *l = ctx;
    int top[MAX_TOP];
    const int n = top_of(logits, l->n_vocab, l->top_k, top);
    const double norm = log_sum_exp(logits, l->n_vocab);
    json_object(&l->json);
    json_put_int(&l->json, "step", step);
    json_key(&l->json, "selected");
    write_token(l, id);
    json_key(&l->json, "top_logprobs");
    json_array(&l->json);
    for (int i = 0; i < n; i++) write_candidate(l, top[i], logits, norm);
    json_array_end(&l->json);
    json_object_end(&l->json);
    return l->out.failed ? ds4_fail(err, DS4_EMEMORY, "no memory for the log-probabilities") : DS4_OK;
}

static void write_head(listing *l, const probe *p)
{
    const size_t prompt_tokens = p->prompts.begin[1];
    json_object(&l->json);
    json_put_text(&l->json, "source", "ds4");
    json_put_int(&l->json, "prompt_tokens", (int64_t)prompt_tokens);
    json_put_int(&l->json, "ctx", p->options->flags.ctx);
    json_put_int(&l->json, "top_k", l->top_k);
    json_key(&l->json, "steps");
    json_array(&l->json);
}

exit_code dump_logprobs_run(probe *p)
{
    ds4_error err = { 0 };
    file_replace f;
    listing l = { .vocab = ds4_engine_vocab(p->model.engine), .n_vocab = p->model.shape.n_vocab,
                  .top_k = min_int(p->options->logprobs_top_k, p->model.shape.n_vocab) };
    ds4_status st = file_replace_open(&f, p->options->dump_logprobs, true, &err);
    if (st) return probe_failed(p, st, &err);

    bytes_init(&l.out, (size_t)4 << 30);
    json_init(&l.json, &l.out);
    write_head(&l, p);
    st = probe_prefill(p, 0, &err);
    if (!st) st = probe_continue(p, p->options->n, write_step, &l, &err);
    json_array_end(&l.json);
    json_object_end(&l.json);
    bytes_char(&l.out, '\n');
    if (!st) st = file_write_all(f.fd, l.out.data, l.out.len, p->options->dump_logprobs, &err);
    bytes_free(&l.out);

    if (st) file_replace_abort(&f);
    else    st = file_replace_commit(&f, &err);
    return probe_failed(p, st, &err);
}
