/* The whole engine on the fake device: the text of the CPU, and what it does when the device fails. */
#include "runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_driver.h"
#include "tiny/engines.h"
#include "tiny/far_memory.h"

#define CONTEXT 64

/* ---- a device that refuses every 40th launch in a recording ------------------------------------ */

static struct {
    bool recording;
    int  launches, refused;
    ds4_status (*begin)(gpu_device *d, ds4_error *err);
    void       (*abandon)(gpu_device *d);
    ds4_status (*launch)(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err);
} picky;

static ds4_status picky_begin(gpu_device *d, ds4_error *err)
{
    picky.recording = true;
    return picky.begin(d, err);
}

static void picky_abandon(gpu_device *d)
{
    picky.recording = false;
    picky.abandon(d);
}

static ds4_status picky_launch(gpu_device *d, int stream, const gpu_launch *l, ds4_error *err)
{
    if (!picky.recording || ++picky.launches % 40 != 0) return picky.launch(d, stream, l, err);
    picky.refused++;
    return ds4_fail(err, DS4_EDEVICE, "a launch is refused");
}

static void make_picky(gpu_device *d)
{
    picky.begin = d->graph_begin, d->graph_begin = picky_begin;
    picky.abandon = d->graph_abandon, d->graph_abandon = picky_abandon;
    picky.launch = d->launch, d->launch = picky_launch;
}

/* ---- an engine ------------------------------------------------------------------------------- */

static ds4_engine_options options(const char *name)
{
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model("q2");
    o.backend = name;
    o.n_threads = 1;
    o.max_tokens = CONTEXT;
    o.max_sessions = 2;
    o.max_batch_rows = 24;
    o.rewind_points = 2;
    return o;
}

static ds4_engine *engine(const char *name)
{
    ds4_engine_options o = options(name);
    /* Codes of activations that round the other way are no mistake, but more than check: allows for a few numbers. */
    o.exact = strcmp(name, "check:cuda") == 0;
    return open_engine(&o);
}

enum { N_PROMPT = 4, N_TEXT = 2 };

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
    if (st && !(st == DS4_EDEVICE && card.fail_launch)) test_fail(__FILE__, __LINE__, "%s", err.message);
    ds4_sampler_free(p);
    return n;
}

static void close_both(ds4_engine *e, ds4_session *s)
{
    ds4_session_close(s);
    ds4_engine_close(e);
}

/* On a card like a Hopper one, and on one like GB10: newer, smaller, in the host's memory. */
TEST(the_text_is_that_of_the_cpu)
{
    static const fake_options cards[] = {
        { .seed = 1 }, { .seed = 2, .arch = 121, .n_sm = 3, .shared_bytes = 99 * 1024, .unified = true } };
    ds4_token want[N_TEXT] = { 0 };
    ds4_engine *e = engine("cpu");
    if (!e) return;
    ds4_session *s = open_session(e, CONTEXT);
    EXPECT_INT(text_of(e, s, want), N_TEXT);
    close_both(e, s);
    for (size_t c = 0; c < sizeof cards / sizeof *cards; c++) {
        ds4_token got[N_TEXT] = { 1 };
        card = cards[c];
        if (!(e = engine("cuda"))) return;
        s = open_session(e, CONTEXT);
        EXPECT_INT(text_of(e, s, got), N_TEXT);
        for (int i = 0; i < N_TEXT; i++) EXPECT_INT(got[i], want[i]);
        close_both(e, s);
    }
}

static void hear(void *ctx, int level, const char *line)
{
    *(int *)ctx += level <= 1 && strstr(line, "can not be recorded: ") && strstr(line, "a launch is refused");
}

TEST(a_device_that_refuses_recordings_gives_the_same_text_and_is_told_once)
{
    ds4_token want[N_TEXT] = { 0 }, got[N_TEXT] = { 1 };
    int told = 0;
    for (int refuses = 0; refuses < 2; refuses++) {
        card = (fake_options){ .seed = 1 };
        altered = refuses ? make_picky : NULL;
        ds4_engine_options o = options(refuses ? "cuda" : "cpu");
        o.log = hear;
        o.log_ctx = &told;
        ds4_engine *e = open_engine(&o);
        altered = NULL;
        if (!e) return;
        ds4_session *s = open_session(e, CONTEXT);
        EXPECT_INT(text_of(e, s, refuses ? got : want), N_TEXT);
        EXPECT(!ds4_engine_lost(e));
        EXPECT_INT(told, refuses);
        close_both(e, s);
    }
    EXPECT_INT(picky.refused, 2);
    for (int i = 0; i < N_TEXT; i++) EXPECT_INT(got[i], want[i]);
}

/* The logits behind a prompt of 20 tokens; NULL: none. */
static float *logits_behind(const char *name, int *V)
{
    ds4_token t[20];
    ds4_error err;
    ds4_shape shape;
    ds4_engine *e = engine(name);
    if (!e) return NULL;
    ds4_session *s = open_session(e, CONTEXT);
    for (int i = 0; i < 20; i++) t[i] = 11 * i % 200;
    EXPECT_OK(ds4_session_feed(s, t, 20, NULL, NULL, &err), err);
    ds4_engine_shape(e, &shape);
    *V = shape.n_vocab;
    const float *row = ds4_session_logits(s);
    float *copy = malloc((size_t)*V * sizeof *copy);
    if (row) memcpy(copy, row, (size_t)*V * sizeof *copy);
    EXPECT(row != NULL);
    close_both(e, s);
    return copy;
}

TEST(logits_behind_a_prompt_are_close_to_those_of_the_cpu)
{
    int V = 0;
    card = (fake_options){ .seed = 7 };
    float *want = logits_behind("cpu", &V), *got = logits_behind("cuda", &V);
    double off = 0, all = 0;
    for (int i = 0; i < V && want && got; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        all += (double)want[i] * want[i];
    }
    if (!(all > 0 && off < 0.05 * 0.05 * all))
        test_fail(__FILE__, __LINE__, "the difference is %.3f of the logits", sqrt(off / all));
    free(want);
    free(got);
}

/* A prompt of more rows than the kernels for few take, two sessions in a step, and a way back. */
TEST(every_op_of_a_run_is_what_its_definition_says)
{
    ds4_error err;
    ds4_batch *b = NULL;
    ds4_token t[17];
    card = (fake_options){ .seed = 6 };
    ds4_engine *e = engine("check:cuda");
    if (!e) return;
    ds4_session *first = open_session(e, CONTEXT), *second = open_session(e, CONTEXT);
    for (int i = 0; i < 17; i++) t[i] = 7 * i % 200;
    EXPECT_OK(ds4_batch_new(&b, e, &err), err);
    EXPECT_OK(ds4_batch_add(b, first, t, 1, DS4_LOGITS_LAST, &err), err);
    EXPECT_OK(ds4_batch_add(b, second, t, 17, DS4_LOGITS_LAST, &err), err);
    EXPECT_OK(ds4_engine_step(e, b, &err), err);
    EXPECT_OK(ds4_session_mark(second, &err), err);
    EXPECT_OK(ds4_batch_add(b, first, t, 1, DS4_LOGITS_LAST, &err), err);
    EXPECT_OK(ds4_batch_add(b, second, t, 1, DS4_LOGITS_LAST, &err), err);
    EXPECT_OK(ds4_engine_step(e, b, &err), err);
    EXPECT_INT(ds4_session_rewind(second, 17), 17);
    EXPECT_OK(ds4_session_feed(second, t, 1, NULL, NULL, &err), err);
    ds4_batch_free(b);
    ds4_session_close(first);
    close_both(e, second);
}

/* A session is saved, goes on, comes back to a point; what was saved goes on elsewhere, on the CPU as well. */
TEST(a_saved_session_goes_on_anywhere)
{
    enum { N = 22 };
    ds4_error err;
    ds4_token t[N];
    ds4_shape shape;
    card = (fake_options){ .seed = 8 };
    ds4_engine *e = engine("cuda");
    FILE *file = tmpfile();
    if (!e || !file) return;
    ds4_engine_shape(e, &shape);
    const size_t bytes = (size_t)shape.n_vocab * sizeof(float);
    float *want = malloc(2 * bytes), *next = want + shape.n_vocab;
    ds4_session *s = open_session(e, CONTEXT), *other = open_session(e, CONTEXT);
    for (int i = 0; i < N; i++) t[i] = 13 * i % 200;
    EXPECT_OK(ds4_session_feed(s, t, N - 2, NULL, NULL, &err), err);
    memcpy(want, ds4_session_logits(s), bytes);
    EXPECT_OK(ds4_session_mark(s, &err), err);
    EXPECT_OK(ds4_session_save(s, fileno(file), 0, &err), err);
    EXPECT_OK(ds4_session_feed(s, t + N - 2, 1, NULL, NULL, &err), err);
    memcpy(next, ds4_session_logits(s), bytes);
    EXPECT_OK(ds4_session_feed(s, t + N - 1, 1, NULL, NULL, &err), err);

    EXPECT_INT(ds4_session_rewind(s, N - 2), N - 2);
    EXPECT(!memcmp(ds4_session_logits(s), want, bytes));
    EXPECT_INT(lseek(fileno(file), 0, SEEK_SET), 0);
    EXPECT_OK(ds4_session_load(other, fileno(file), &err), err);
    EXPECT_INT(ds4_session_length(other), N - 2);
    EXPECT(!memcmp(ds4_session_logits(other), want, bytes));
    ds4_session *both[] = { s, other };
    for (int i = 0; i < 2; i++) {
        EXPECT_OK(ds4_session_feed(both[i], t + N - 2, 1, NULL, NULL, &err), err);
        EXPECT(!memcmp(ds4_session_logits(both[i]), next, bytes));
    }
    ds4_session_close(other);
    close_both(e, s);

    if ((e = engine("cpu"))) {
        s = open_session(e, CONTEXT);
        EXPECT_INT(lseek(fileno(file), 0, SEEK_SET), 0);
        EXPECT_OK(ds4_session_load(s, fileno(file), &err), err);
        EXPECT_OK(ds4_session_feed(s, t + N - 2, 1, NULL, NULL, &err), err);
        double off = 0, all = 0;
        for (int i = 0; i < shape.n_vocab; i++) {
            const double d = (double)ds4_session_logits(s)[i] - next[i];
            off += d * d;
            all += (double)next[i] * next[i];
        }
        if (!(off < 0.05 * 0.05 * all)) test_fail(__FILE__, __LINE__, "the difference is %.3f of the logits", sqrt(off / all));
        close_both(e, s);
    }
    fclose(file);
    free(want);
}

TEST(a_device_that_fails_in_a_step_ends_with_a_sentence_and_comes_back)
{
    ds4_error err;
    ds4_token want[N_TEXT] = { 0 }, got[N_TEXT] = { 1 };
    card = (fake_options){ .seed = 2 };
    ds4_engine *e = engine("cpu");
    if (!e) return;
    ds4_session *s = open_session(e, CONTEXT);
    EXPECT_INT(text_of(e, s, want), N_TEXT);
    close_both(e, s);

    /* Kernels also run while weights go up: the first number that lets the engine open fails in a step. */
    ds4_engine_options o = options("cuda");
    e = NULL;
    for (card.fail_launch = 100; !e && card.fail_launch < 5000; card.fail_launch += 400) {
        cards_opened = 0;
        const ds4_status st = ds4_engine_open(&e, &o, &err);
        if (st) EXPECT_INT(st, DS4_EDEVICE);
    }
    if (!e) return;
    s = open_session(e, CONTEXT);
    EXPECT(text_of(e, s, got) < N_TEXT);
    EXPECT(ds4_engine_lost(e));
    EXPECT(ds4_session_logits(s) == NULL || ds4_session_length(s) > 0);
    ds4_session_close(s);
    card.fail_launch = 1;
    EXPECT_INT(ds4_engine_reopen(e, &err), DS4_EDEVICE);
    card.fail_launch = 0;
    EXPECT_INT(ds4_engine_reopen(e, &err), DS4_OK);
    EXPECT_INT(cards_opened, 3);
    s = open_session(e, CONTEXT);
    EXPECT_INT(text_of(e, s, got), N_TEXT);
    EXPECT(!memcmp(got, want, sizeof want));
    close_both(e, s);
}

/* The n-th allocation finds no memory: DS4_OK, or what opening the engine or a session behind it said. */
static ds4_status open_with(int n, bool *engine_opened)
{
    ds4_error err = { 0 };
    ds4_engine *e = NULL;
    ds4_session *s = NULL;
    const ds4_engine_options o = options("cuda");
    card = (fake_options){ .seed = 3, .fail_alloc = n };
    ds4_status st = ds4_engine_open(&e, &o, &err);
    *engine_opened = !st;
    if (!st) st = ds4_session_open(&s, e, CONTEXT, &err);
    if (st) EXPECT(err.message[0] != 0);
    close_both(e, s);
    return st;
}

TEST(an_allocation_that_fails_is_an_error_wherever_it_is)
{
    enum { STRIDE = 40 };
    bool engine_opened = false;
    int n = 1;
    for (; n < 5000 && !engine_opened; n += STRIDE) {
        const ds4_status st = open_with(n, &engine_opened);
        if (!engine_opened) EXPECT_INT(st, DS4_EMEMORY);
    }
    EXPECT(engine_opened);
    bool session_failed = false;
    for (int k = n - 2 * STRIDE; k <= n + STRIDE && !session_failed; k++)
        session_failed = k > 0 && open_with(k, &engine_opened) == DS4_EMEMORY && engine_opened;
    EXPECT(session_failed);
}

TEST(a_card_with_room_for_some_experts_gives_the_same_text)
{
    ds4_token want[N_TEXT] = { 0 }, got[N_TEXT] = { 1 };
    ds4_plan p;
    ds4_error err;
    card = (fake_options){ .seed = 4 };
    ds4_engine *e = engine("cpu");
    if (!e) return;
    ds4_session *s = open_session(e, CONTEXT);
    EXPECT_INT(text_of(e, s, want), N_TEXT);
    close_both(e, s);

    const ds4_engine_options o = options("cuda");
    EXPECT_OK(ds4_engine_plan(&o, &p, &err), err);
    card.total_bytes = far_card_for(p.device_bytes - p.device_expert_bytes / 2);
    EXPECT_OK(ds4_engine_plan(&o, &p, &err), err);
    EXPECT(p.host_expert_bytes > 0 && p.device_expert_bytes > 0);
    if (!(e = engine("cuda"))) return;
    s = open_session(e, CONTEXT);
    EXPECT_INT(text_of(e, s, got), N_TEXT);
    EXPECT(!memcmp(got, want, sizeof want));
    ds4_metrics m;                      /* told from counters that are a few steps old */
    for (int i = 0; i < 7; i++) EXPECT_OK(ds4_session_feed(s, want, 1, NULL, NULL, &err), err);
    ds4_engine_metrics(e, &m);
    EXPECT(m.card_experts.hits > 0 && m.card_experts.misses > 0);
    EXPECT(m.card_experts.bus_bytes > m.card_experts.misses);
    close_both(e, s);

    e = NULL;                           /* and so does one that was lost in the middle of a text */
    for (card.fail_launch = 450; !e && card.fail_launch < 5000; card.fail_launch += 150) {
        const ds4_status st = ds4_engine_open(&e, &o, &err);
        if (st) EXPECT_INT(st, DS4_EDEVICE);
    }
    if (!e) return;
    s = open_session(e, CONTEXT);
    EXPECT(text_of(e, s, got) < N_TEXT);
    ds4_session_close(s);
    card.fail_launch = 0;
    EXPECT_OK(ds4_engine_reopen(e, &err), err);
    s = open_session(e, CONTEXT);
    EXPECT_INT(text_of(e, s, got), N_TEXT);
    EXPECT(!memcmp(got, want, sizeof want));
    close_both(e, s);
    card.total_bytes = 0;
}

TEST(a_card_that_is_not_there_is_an_error)
{
    ds4_error err;
    ds4_engine *e = NULL;
    ds4_engine_options o = options("cuda");
    o.device = 1;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_ENOTFOUND);
    EXPECT(strstr(err.message, "no card 1") != NULL);
    o.device = -1;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EARG);
}
