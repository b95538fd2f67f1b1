/* The whole engine on the fake device: the text of the CPU, and what it does when the device fails. */
#include "runner.h"

#include <string.h>

#include "base/random.h"
#include "base/status.h"
#include "ds4.h"
#include "fake_device.h"
#include "tiny/model.h"

#define CONTEXT 64

/* ---- the driver, which stands before the library's ------------------------------------------ */

static fake_options card;       /* as it is opened next */
static int opened;

ds4_status gpu_driver_open(gpu_device **out, int index, ds4_error *err)
{
    *out = NULL;
    if (index > 0) return ds4_fail(err, DS4_ENOTFOUND, "there is no card %d", index);
    opened++;
    return fake_device_open(out, &card, err);
}

ds4_status gpu_driver_probe(gpu_info *out, int index, uint64_t *available, ds4_error *err)
{
    gpu_device *d;
    uint64_t total;
    ds4_status st = gpu_driver_open(&d, index, err);
    if (st) return st;
    opened--;
    *out = d->info;
    if (available) st = d->memory(d, available, &total, err);
    d->close(d);
    return st;
}

/* ---- an engine ------------------------------------------------------------------------------- */

static ds4_engine *engine(const char *name, ds4_status want)
{
    ds4_error err;
    ds4_engine *e = NULL;
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model("q2");
    o.backend = name;
    o.n_threads = 1;
    o.max_tokens = CONTEXT;
    o.max_sessions = 2;
    o.max_batch_rows = 16;
    o.rewind_points = 2;
    const ds4_status st = o.model_path ? ds4_engine_open(&e, &o, &err) : DS4_EIO;
    if (st != want) test_fail(__FILE__, __LINE__, "opening %s: %d, want %d: %s", name, st, want, st ? err.message : "");
    return e;
}

static ds4_session *session(ds4_engine *e)
{
    ds4_session *s = NULL;
    ds4_error err;
    EXPECT_OK(ds4_session_open(&s, e, CONTEXT, &err), err);
    return s;
}

enum { N_PROMPT = 9, N_TEXT = 3 };

/* Greedy behind a prompt; returns how far it came. */
static int text_of(ds4_engine *e, ds4_session *s, ds4_token out[N_TEXT])
{
    ds4_shape shape;
    ds4_error err;
    ds4_sampler *p = NULL;
    ds4_token t[N_PROMPT];
    random_stream r;
    random_seed(&r, 4);
    ds4_engine_shape(e, &shape);
    for (int i = 0; i < N_PROMPT; i++) t[i] = (ds4_token)random_below(&r, (uint64_t)shape.n_vocab);
    ds4_sampling greedy = ds4_sampling_defaults();
    greedy.temperature = 0;
    EXPECT_OK(ds4_sampler_new(&p, &greedy, shape.n_vocab, &err), err);
    ds4_status st = ds4_session_feed(s, t, N_PROMPT, NULL, NULL, &err);
    int n = 0;
    while (!st && n < N_TEXT) {
        st = ds4_session_sample(s, p, false, &out[n], &err);
        if (!st) st = ds4_session_feed(s, &out[n++], 1, NULL, NULL, &err);
    }
    if (st && st != DS4_EDEVICE) test_fail(__FILE__, __LINE__, "%s", err.message);
    ds4_sampler_free(p);
    return n;
}

static void close_both(ds4_engine *e, ds4_session *s)
{
    ds4_session_close(s);
    ds4_engine_close(e);
}

TEST(the_text_is_that_of_the_cpu)
{
    ds4_token want[N_TEXT] = { 0 }, got[N_TEXT] = { 1 };
    card = (fake_options){ .seed = 1 };
    ds4_engine *e = engine("cpu", DS4_OK);
    if (!e) return;
    ds4_session *s = session(e);
    EXPECT_INT(text_of(e, s, want), N_TEXT);
    close_both(e, s);
    if (!(e = engine("cuda", DS4_OK))) return;
    s = session(e);
    EXPECT_INT(text_of(e, s, got), N_TEXT);
    for (int i = 0; i < N_TEXT; i++) EXPECT_INT(got[i], want[i]);
    close_both(e, s);
}
