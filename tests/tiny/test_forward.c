/* The forward pass below the engine: what a step may commit. */
#include "runner.h"

#include <stdlib.h>
#include <string.h>

#include "model/forward.h"
#include "tiny/model.h"

#define CONTEXT 256

typedef struct {
    gguf          *file;
    model_config   config;
    backend       *b;
    model_weights  weights;
    kv_pool       *pool;
    forward       *pass;
} parts;

static bool open_parts(parts *p, bool packed)
{
    ds4_error err;
    memset(p, 0, sizeof *p);
    const forward_options fo = { .max_rows = 64, .max_tokens = CONTEXT, .rounding = true };
    const kv_options ko = { .max_sessions = 2, .max_tokens = CONTEXT, .max_step = 64, .packed = packed };
    ds4_status st = gguf_open(&p->file, tiny_model("q8_0"), NULL, &err);
    if (!st) st = config_read(&p->config, p->file, &err);
    const backend_options bo = { .name = "cpu", .n_threads = 1, .isa_mask = ~0u,
                                 .limits = forward_limits(&p->config, &fo) };
    if (!st) st = backend_open(&p->b, &bo, &err);
    if (!st) st = weights_open(&p->weights, &p->config, p->file, p->b, NULL, &err);
    if (!st) st = kv_pool_open(&p->pool, &p->config, &ko, p->b, &err);
    if (!st) st = forward_open(&p->pass, &p->config, &p->weights, p->b, &fo, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s", err.message);
    return !st;
}

static void close_parts(parts *p)
{
    forward_close(p->pass);
    kv_pool_close(p->pool);
    if (p->weights.backend) weights_close(&p->weights);
    if (p->b) p->b->close(p->b);
    gguf_close(p->file);
}

/* A step of n tokens of which `commit` stay, none for a step that is given up;
 * logits of the last one. */
static void step(parts *p, kv *k, const int32_t *tokens, int n, int commit, float *logits)
{
    int32_t pos[64], segment_of[64] = { 0 };
    const int32_t last = n - 1;
    ds4_error err;
    for (int i = 0; i < n; i++) pos[i] = k->length + i;
    const segment s = { .kv = &k->memory, .n = n, .pos = k->length };
    const batch_rows rows = { .n = n, .pos = pos, .token = tokens, .segment_of = segment_of, .segment = &s,
                              .n_segments = 1 };
    EXPECT_OK(kv_begin(k, n, &err), err);
    EXPECT_OK(forward_run(p->pass, &rows, &last, 1, logits, &err), err);
    if (commit > 0) kv_commit(k, commit);
}

TEST(a_short_step_may_be_committed_in_part)
{
    parts p;
    if (!open_parts(&p, true)) {
        close_parts(&p);
        return;
    }
    const size_t V = (size_t)p.config.n_vocab;
    float *want = malloc(V * sizeof *want), *got = malloc(V * sizeof *got);
    int32_t good[200], wrong[64];
    for (int i = 0; i < 200; i++) good[i] = 3 + (i * 37) % 250;
    for (int i = 0; i < 64; i++) wrong[i] = 5 + i;
    static const int starts[] = { 6, 127 }, sizes[] = { 3, 9, KV_STATE_SLACK };
    for (size_t s = 0; s < 2; s++)
        for (size_t z = 0; z < 3; z++)
            for (int commit = 0; commit <= sizes[z]; commit += 1 + sizes[z] / 5) {
                const int start = starts[s], n = sizes[z];
                ds4_error err;
                kv *a, *b;
                EXPECT_OK(kv_open(&a, p.pool, CONTEXT, &err), err);
                EXPECT_OK(kv_open(&b, p.pool, CONTEXT, &err), err);
                for (int i = 0; i < start; i += 62) {
                    const int count = start - i < 62 ? start - i : 62;
                    step(&p, a, good + i, count, count, want);
                    step(&p, b, good + i, count, count, got);
                }
                int32_t draft[KV_STATE_SLACK];
                memcpy(draft, wrong, sizeof draft);
                memcpy(draft, good + start, (size_t)commit * sizeof *draft);
                step(&p, b, draft, n, commit, got);
                for (int i = 0; i < commit; i++) step(&p, a, good + start + i, 1, 1, want);
                for (int i = 0; i < 9; i++) {
                    step(&p, a, good + start + commit + i, 1, 1, want);
                    step(&p, b, good + start + commit + i, 1, 1, got);
                }
                if (memcmp(want, got, V * sizeof *want))
                    test_fail(__FILE__, __LINE__, "from %d: %d of %d tokens committed", start, commit, n);
                kv_close(a);
                kv_close(b);
            }
    free(want);
    free(got);
    close_parts(&p);
}

TEST(an_uncommitted_long_step_leaves_no_trace)
{
    parts p;
    if (!open_parts(&p, false)) {
        close_parts(&p);
        return;
    }
    const size_t V = (size_t)p.config.n_vocab;
    float *want = malloc(V * sizeof *want), *got = malloc(V * sizeof *got);
    int32_t good[200], wrong[64];
    for (int i = 0; i < 200; i++) good[i] = 3 + (i * 41) % 250;
    for (int i = 0; i < 64; i++) wrong[i] = 5 + i;
    ds4_error err;
    kv *a, *b;
    EXPECT_OK(kv_open(&a, p.pool, CONTEXT, &err), err);
    EXPECT_OK(kv_open(&b, p.pool, CONTEXT, &err), err);
    for (int i = 0; i < 3; i++) {
        step(&p, a, good + 50 * i, 50, 50, want);
        step(&p, b, wrong, 64 - i, 0, got);         /* cancelled */
        step(&p, b, good + 50 * i, 50, 50, got);
        EXPECT(!memcmp(want, got, V * sizeof *want));
    }
    kv_close(a);
    kv_close(b);
    free(want);
    free(got);
    close_parts(&p);
}

/* On a device rows of scores are as many as 32 MiB hold, 16 to 512, never more than a step has; what the backend is
 * told and what the plan counts are the same rows. */
TEST(a_device_keeps_the_scores_of_more_rows)
{
    static const struct { int rows, tokens, want; } at[] = {
        { 4096, 8192, 512 }, { 4096, 80 * 1024, 409 }, { 4096, 1 << 20, 31 }, { 4096, 1 << 24, 16 }, { 64, 8192, 64 },
        { 4, 8192, 4 } };
    parts p;
    if (!open_parts(&p, true)) return close_parts(&p);
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        const forward_options near = { .max_rows = at[i].rows, .max_tokens = at[i].tokens, .rounding = true };
        forward_options far = near;
        far.on_device = true;
        const int few = forward_limits(&p.config, &near).score_rows, more = forward_limits(&p.config, &far).score_rows;
        EXPECT_INT(few, at[i].rows < 16 ? at[i].rows : 16);
        EXPECT_INT(more, at[i].want);
        const uint64_t each = 4u * (uint64_t)(at[i].tokens / 4 + 1);
        const uint64_t grown = forward_bytes(&p.config, &far) - forward_bytes(&p.config, &near);
        EXPECT(grown + 64 > (uint64_t)(more - few) * each && grown < (uint64_t)(more - few) * each + 64);
    }
    close_parts(&p);
}
