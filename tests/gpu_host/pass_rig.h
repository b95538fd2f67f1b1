/* pass_rig: a model's forward pass on the CPU, on the fake device, or on the latter with every op judged, and
 * steps through it; for the tests of whole passes. */
#ifndef TESTS_GPU_HOST_PASS_RIG_H
#define TESTS_GPU_HOST_PASS_RIG_H

#include "runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "factory/synth.h"
#include "fake_device.h"
#include "kernels/cuda/cuda_driver.h"
#include "kernels/cuda/cuda_internal.h"
#include "mock_cuda.h"
#include "model/forward.h"

enum { CONTEXT = 192, SESSIONS = 16, CROWD = 24, MOST = 144 };

/* ---- a model that lanes can run -------------------------------------------------------------------- */

/* Every kind of layer, narrow; the selection begins at 16 tokens. "bundled": the model that comes along. */
static inline const char *narrow_model(const char *mix)
{
    static char path[512];
    if (!strcmp(mix, "bundled")) return test_data("../../models/tiny/ds4-tiny.gguf");
    char name[64];
    ds4_error err;
    snprintf(name, sizeof name, "narrow-%s.gguf", mix);
    snprintf(path, sizeof path, "%s", test_scratch(name));
    FILE *f = fopen(path, "rb");
    if (f) {
        fclose(f);
        return path;
    }
    synth_options o = synth_defaults();
    o.mix = mix;
    o.out = path;
    o.n_threads = 1;
    o.shape.n_layer = 5;
    if (strcmp(mix, "q2")) {
        o.shape.n_embd = o.shape.expert_dim = o.shape.head_dim = 64;
        o.shape.n_rot = 32;
        o.shape.q_rank = 32;
        o.shape.index_dim = 32;
    }
    shape_default_ratios(&o.shape);
    if (!synth_run(&o, &err)) return path;
    test_fail(__FILE__, __LINE__, "making %s: %s", path, err.message);
    return NULL;
}

typedef struct {
    gguf         *file;
    model_config  config;
    backend      *b;
    cuda_backend *cuda;         /* the same, or within it; NULL on the CPU */
    model_weights weights;
    kv_pool      *pool;
    forward      *pass;
    int           stop_after;   /* layers; 0: never */
    int           asked;
    size_t        V;
    int           opening;      /* kernels that ran until the model was open */
} parts;

/* Of the parts that are opened next: float activations; without the trained rounding of rows of K; card memory for
 * routed experts, 0 for all of them; the driver's device over the mock, with one stream after another. */
static bool exact_products, unrounded, by_driver;
static uint64_t expert_memory;

static inline bool stop(void *ctx)
{
    parts *p = ctx;
    return p->stop_after && ++p->asked > p->stop_after;
}

/* Counts the launches of the device that was opened last. */
static struct {
    ds4_status (*launch)(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err);
    int n;
} counted;

static inline ds4_status count_launch(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err)
{
    counted.n++;
    return counted.launch(d, stream, l, err);
}

/* fake NULL: the CPU. */
static inline bool open_parts(parts *p, const char *mix, const char *kind, const fake_options *fake)
{
    ds4_error err;
    gpu_device *d;
    memset(p, 0, sizeof *p);
    const forward_options fo = { .max_rows = MOST, .max_tokens = CONTEXT, .max_sessions = CROWD, .rounding = !unrounded,
                                 .on_device = fake != NULL, .stop = stop, .stop_ctx = p };
    const kv_options ko = { .max_sessions = CROWD, .max_tokens = CONTEXT, .max_step = MOST, .packed = !unrounded };
    const char *path = narrow_model(mix);
    if (!path) return false;
    ds4_status st = gguf_open(&p->file, path, NULL, &err);
    if (!st) st = config_read(&p->config, p->file, &err);
    const backend_options bo = { .name = kind, .n_threads = 1, .isa_mask = ~0u, .limits = forward_limits(&p->config, &fo),
                                 .mirrored = !strcmp(kind, "check:cuda"), .exact = exact_products,
                                 .expert_bytes = expert_memory };
    if (!st && !fake) st = backend_open(&p->b, &bo, &err);
    const cuda_api api = mock_cuda();
    if (!st && fake) st = by_driver ? driver_open(&d, &api, &mock_images, 0, &err) : fake_device_open(&d, fake, &err);
    if (!st && fake) {
        counted.launch = d->launch;
        counted.n = 0;
        d->launch = count_launch;
        st = cuda_open_on(&p->b, d, &bo, &err);
    }
    if (!st && fake) p->cuda = (cuda_backend *)p->b;
    if (!st && bo.mirrored) st = backend_check_open(&p->b, p->b, &bo, &err);
    if (!st) st = weights_open(&p->weights, &p->config, p->file, p->b, NULL, &err);
    if (!st) st = kv_pool_open(&p->pool, &p->config, &ko, p->b, &err);
    if (!st) st = forward_open(&p->pass, &p->config, &p->weights, p->b, &fo, &err);
    p->V = (size_t)p->config.n_vocab;
    p->opening = counted.n;
    if (st) test_fail(__FILE__, __LINE__, "%s", err.message);
    return !st;
}

static inline void close_parts(parts *p)
{
    forward_close(p->pass);
    kv_pool_close(p->pool);
    if (p->weights.backend) weights_close(&p->weights);
    if (p->b) p->b->close(p->b);
    gguf_close(p->file);
}

static inline kv *session(parts *p)
{
    kv *k = NULL;
    ds4_error err;
    EXPECT_OK(kv_open(&k, p->pool, CONTEXT, &err), err);
    return k;
}

/* ---- steps ------------------------------------------------------------------------------------------- */

/* A step of n sessions, each of its own n_tokens[i] tokens; logits of each one's last, one row a session. */
static inline ds4_status step(parts *p, kv **k, const int32_t *const *tokens, const int *n_tokens, int n, float *logits,
                              ds4_error *err)
{
    int32_t pos[MOST], token[MOST], segment_of[MOST], last[CROWD] = { 0 };
    segment segments[CROWD];
    int T = 0;
    for (int i = 0; i < n; i++) {
        EXPECT_OK(kv_begin(k[i], n_tokens[i], err), *err);
        segments[i] = (segment){ .kv = &k[i]->memory, .first = T, .n = n_tokens[i], .pos = k[i]->length };
        for (int j = 0; j < n_tokens[i]; j++, T++) {
            pos[T] = k[i]->length + j;
            token[T] = tokens[i][j];
            segment_of[T] = i;
        }
        last[i] = T - 1;
    }
    const batch_rows rows = { .n = T, .pos = pos, .token = token, .segment_of = segment_of, .segment = segments,
                              .n_segments = n };
    const ds4_status st = forward_run(p->pass, &rows, last, n, logits, err);
    for (int i = 0; i < n && !st; i++) kv_commit(k[i], n_tokens[i]);
    return st;
}

static inline void feed(parts *p, kv *k, const int32_t *tokens, int n, float *logits)
{
    ds4_error err;
    EXPECT_OK(step(p, &k, &tokens, &n, 1, logits, &err), err);
}

static inline const int32_t *text(int which)
{
    static int32_t t[CROWD][CONTEXT];
    for (int i = 0; i < CONTEXT; i++) t[which][i] = 3 + (i * (37 + 4 * which) + 11 * which) % 250;
    return t[which];
}

static inline double rms(const float *x, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sqrt(sum / (double)n);
}

/* The largest difference, relative to b's root mean square. */
static inline double distance(const float *a, const float *b, size_t n)
{
    double most = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (isnan(a[i])) return INFINITY;
        most = fmax(most, fabs((double)a[i] - b[i]));
    }
    return most / rms(b, n);
}

static inline int greedy(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int)best;
}

/* The bundled model goes on greedily for n tokens: the same ones as on the CPU, and logits within the tolerance of it,
 * but for one in 16 tokens behind the first four, of which an expert may be chosen by a hair. */
static inline void answer_as_the_cpu(int n, double tolerance)
{
    parts cpu, gpu = { 0 };
    if (open_parts(&cpu, "bundled", "cpu", NULL) && open_parts(&gpu, "bundled", "cuda", &(fake_options){ .seed = 3 })) {
        float *want = malloc(cpu.V * sizeof *want), *got = malloc(cpu.V * sizeof *got);
        kv *a = session(&cpu), *b = session(&gpu);
        feed(&cpu, a, text(0), 6, want);
        feed(&gpu, b, text(0), 6, got);
        int apart = 0;
        for (int i = 0; i < n; i++) {
            const int32_t next = greedy(want, cpu.V);
            const double off = distance(got, want, cpu.V);
            EXPECT_INT(greedy(got, cpu.V), next);
            if (!(off < tolerance) && (i < 4 || ++apart > n / 16))
                test_fail(__FILE__, __LINE__, "after %d tokens logits are off by %g", 6 + i, off);
            feed(&cpu, a, &next, 1, want);
            feed(&gpu, b, &next, 1, got);
        }
        kv_close(a);
        kv_close(b);
        free(want);
        free(got);
    }
    close_parts(&cpu);
    close_parts(&gpu);
}

#endif
