/* The golden vectors (tests/golden) through the CUDA backend, lane by lane, with the CPU's tolerances: logits that
 * another implementation computed in float64, at every position, and what it goes on with. Rounding is off. */
#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ds4.h"
#include "factory/convert.h"
#include "fake_driver.h"
#include "golden/golden.h"

enum { MAX_IDS = 256, ROWS = 144 };

/* ---- a model and its numbers ----------------------------------------------------------------- */

typedef struct {
    golden      g;
    ds4_engine *e;
    int         V;
} rig;

static bool rig_open(rig *r, const char *name, bool exact)
{
    char dir[64], path[512];
    ds4_error err;
    ds4_shape shape;
    *r = (rig){ 0 };
    card = (fake_options){ .seed = 9 };
    snprintf(dir, sizeof dir, "golden/%s", name);
    snprintf(path, sizeof path, "%s", test_scratch("golden.gguf"));
    convert_options c = convert_defaults();
    c.dir = test_data(dir);
    c.out = path;
    c.recipe = "f32";
    c.overwrite = true;
    ds4_status st = convert_run(&c, &err);
    if (!st) st = golden_open(&r->g, test_data(dir), &err);
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = path;
    o.backend = "cuda";
    o.n_threads = 1;
    o.max_tokens = MAX_IDS;
    o.max_batch_rows = ROWS;
    o.no_rounding = true;
    o.exact = exact;
    if (!st) st = ds4_engine_open(&r->e, &o, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s: %s", name, err.message);
    if (!st) ds4_engine_shape(r->e, &shape);
    if (!st) r->V = shape.n_vocab;
    return !st;
}

static void rig_close(rig *r)
{
    ds4_engine_close(r->e);
    golden_close(&r->g);
}

static int argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) if (x[i] > x[best]) best = i;
    return best;
}

/* A sequence, `chunk` tokens a step. */
static void check_sequence(rig *r, json_object *s, int chunk, const char *what)
{
    int32_t ids[MAX_IDS], at[MAX_IDS], best[MAX_IDS];
    const int n = golden_list(golden_get(s, "ids"), ids, MAX_IDS), V = r->V;
    const int n_at = golden_list(golden_get(s, "positions"), at, MAX_IDS);
    const int n_best = golden_list(golden_get(s, "argmax_all_positions"), best, MAX_IDS);
    const double tolerance = 8.0 * json_object_get_double(golden_get(s, "noise_max"));    /* as in test_golden.c */
    size_t have;
    const float *want = golden_floats(&r->g, golden_get(s, "logits"), &have);
    ds4_session *session = NULL;
    ds4_batch *b = NULL;
    ds4_error err;
    REQUIRE(want && have == (size_t)n_at * (size_t)V && n_best == n);
    float *got = calloc((size_t)n * (size_t)V, sizeof *got);
    ds4_status st = ds4_session_open(&session, r->e, MAX_IDS, &err);
    if (!st) st = ds4_batch_new(&b, r->e, &err);
    for (int done = 0; done < n && !st; done += chunk) {
        const int count = chunk < n - done ? chunk : n - done;
        st = ds4_batch_add(b, session, ids + done, count, DS4_LOGITS_ALL, &err);
        if (!st) st = ds4_engine_step(r->e, b, &err);
        for (int j = 0; j < count && !st; j++)
            memcpy(got + (size_t)(done + j) * (size_t)V, ds4_batch_logits(b, j), (size_t)V * sizeof *got);
        ds4_batch_clear(b);
    }
    EXPECT_OK(st, err);
    for (int i = 0; i < n_at; i++)
        EXPECT_NEAR(got + (size_t)at[i] * (size_t)V, want + (size_t)i * (size_t)V, (size_t)V, tolerance,
                    "%s, length %d in chunks of %d, position %d", what, n, chunk, at[i]);
    for (int i = 0; i < n_best; i++) EXPECT_INT(argmax(got + (size_t)i * (size_t)V, V), best[i]);
    ds4_batch_free(b);
    ds4_session_close(session);
    free(got);
}

/* The short sequences, and the one of so many tokens. */
static void check_model(const char *name, bool exact, int longest)
{
    rig r;
    if (rig_open(&r, name, exact)) {
        json_object *sequences = golden_get(r.g.index, "sequences");
        for (size_t i = 0; i < json_object_array_length(sequences); i++) {
            json_object *s = json_object_array_get_idx(sequences, i);
            const int n = json_object_get_int(golden_get(s, "length"));
            if (n > 8 && n != longest) continue;
            check_sequence(&r, s, ROWS, name);
            if (n == 8) check_sequence(&r, s, 1, name);
        }
    }
    rig_close(&r);
}

TEST(logits_are_those_of_the_golden_vectors)
{
    check_model("tiny-a", false, 0);
    check_model("tiny-b", false, 33);
    check_model("tiny-c", false, 129);
}

TEST(with_float_activations_they_are_so_too) { check_model("tiny-c", true, 0); }

TEST(greedy_continuations_are_exact)
{
    rig r;
    if (rig_open(&r, "tiny-a", false)) {
        json_object *list = golden_get(r.g.index, "greedy");
        for (size_t i = 0; i < json_object_array_length(list); i++) {
            json_object *c = json_object_array_get_idx(list, i);
            int32_t prompt[MAX_IDS], want[MAX_IDS];
            const int n = golden_list(golden_get(c, "prompt"), prompt, MAX_IDS);
            const int n_want = golden_list(golden_get(c, "tokens"), want, MAX_IDS);
            if (n != 8) continue;
            ds4_session *s = NULL;
            ds4_error err;
            ds4_status st = ds4_session_open(&s, r.e, MAX_IDS, &err);
            if (!st) st = ds4_session_feed(s, prompt, n, NULL, NULL, &err);
            for (int k = 0; k < n_want && !st; k++) {
                EXPECT_INT(argmax(ds4_session_logits(s), r.V), want[k]);
                st = ds4_session_feed(s, &want[k], 1, NULL, NULL, &err);
            }
            EXPECT_OK(st, err);
            ds4_session_close(s);
        }
    }
    rig_close(&r);
}
