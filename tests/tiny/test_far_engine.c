/* An engine whose backend has memory of its own: where weights and logits lie, what the plan says of it, and which
 * backend "auto" is. */
#include "runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tiny/engines.h"
#include "tiny/far_memory.h"

#define CONTEXT  256
#define N_PROMPT 40

static char said[4][400];       /* lines of the log, by level */

static void on_log(void *ctx, int level, const char *line)
{
    (void)ctx;
    snprintf(said[level], sizeof said[level], "%s", line);
}

static ds4_engine_options options(const char *name)
{
    memset(said, 0, sizeof said);
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model("q2");
    o.backend = name;
    o.n_threads = 2;
    o.max_tokens = CONTEXT;
    o.max_sessions = 4;
    o.max_batch_rows = 96;
    o.log = on_log;
    return o;
}

/* Told to the memory too, which counts rows of logits. */
static int vocabulary_told(const ds4_engine *e) { return far.n_vocab = vocabulary(e); }

static void feed(ds4_session *s, const ds4_token *t, int n)
{
    ds4_error err;
    EXPECT_OK(ds4_session_feed(s, t, n, NULL, NULL, &err), err);
}

static ds4_sampler *sampler(int V, float temperature)
{
    ds4_sampler *s = NULL;
    ds4_error err;
    ds4_sampling p = ds4_sampling_defaults();
    p.temperature = temperature;
    p.seed = 5;
    EXPECT_OK(ds4_sampler_new(&s, &p, V, &err), err);
    return s;
}

/* Twenty tokens of two sessions at once. */
static void write_text(const char *name, float temperature, ds4_token out[2][20])
{
    ds4_error err;
    const ds4_engine_options o = options(name);
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    const int V = vocabulary_told(e);
    ds4_session *s[2] = { open_session(e, CONTEXT), open_session(e, CONTEXT) };
    ds4_sampler *p[2] = { sampler(V, temperature), sampler(V, temperature) };
    ds4_batch *b = NULL;
    ds4_token t[N_PROMPT];
    EXPECT_OK(ds4_batch_new(&b, e, &err), err);
    for (int i = 0; i < 2; i++) {
        random_prompt(t, N_PROMPT, V, (uint64_t)i);
        feed(s[i], t, N_PROMPT);
    }
    for (int k = 0; k < 20; k++) {
        for (int i = 0; i < 2; i++) EXPECT_OK(ds4_session_sample(s[i], p[i], false, &out[i][k], &err), err);
        for (int i = 0; i < 2; i++) EXPECT_OK(ds4_batch_add(b, s[i], &out[i][k], 1, DS4_LOGITS_LAST, &err), err);
        EXPECT_OK(ds4_engine_step(e, b, &err), err);
    }
    ds4_batch_free(b);
    for (int i = 0; i < 2; i++) {
        ds4_sampler_free(p[i]);
        ds4_session_close(s[i]);
    }
    ds4_engine_close(e);
}

TEST(the_text_is_that_of_the_cpu_and_rows_of_logits_seldom_leave_the_device)
{
    for (int warm = 0; warm < 2; warm++) {
        ds4_token here[2][20] = { { 0 } }, there[2][20] = { { 1 } };
        far_reset();
        write_text("cpu", warm ? 0.7f : 0, here);
        EXPECT_INT(far.opened, 0);
        write_text("cuda", warm ? 0.7f : 0, there);
        EXPECT_INT(far.opened, 1);
        EXPECT(!memcmp(here, there, sizeof here));
        EXPECT(far.adopted > 50 && far.expert_adopted > 3);
        /* One session waits while the other is fed, so its row is saved once. */
        if (!warm) EXPECT_INT(far.rows_brought, 1);
    }
}

TEST(logits_that_nobody_asked_for_are_there_when_somebody_does)
{
    far_reset();
    ds4_error err;
    const ds4_engine_options o = options("cuda");
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    const int V = vocabulary_told(e);
    ds4_session *a = open_session(e, CONTEXT), *b = open_session(e, CONTEXT), *twin = open_session(e, CONTEXT);
    ds4_token t[N_PROMPT];
    float *want = malloc((size_t)V * sizeof *want);
    random_prompt(t, N_PROMPT, V, 9);
    feed(twin, t, N_PROMPT);
    const float *first = ds4_session_logits(twin);
    EXPECT(first && far.rows_brought == 1);
    if (first) memcpy(want, first, (size_t)V * sizeof *want);
    EXPECT(ds4_session_logits(twin) == first && far.rows_brought == 1);

    feed(a, t, N_PROMPT);
    feed(b, t, 3);                                  /* writes over a's row */
    EXPECT_INT(far.rows_brought, 2);
    const float *later = ds4_session_logits(a);
    EXPECT(later && !memcmp(later, want, (size_t)V * sizeof *want));

    EXPECT_OK(ds4_session_mark(b, &err), err);      /* a point keeps its row */
    feed(b, t + 3, 5);
    EXPECT_INT(ds4_session_rewind(b, 3), 3);
    EXPECT(ds4_session_has_logits(b, 3) && ds4_session_logits(b));

    feed(a, t, 2);
    ds4_session_close(a);                           /* its row is nobody's now */
    const int before = far.rows_brought;
    feed(b, t, 1);
    EXPECT_INT(far.rows_brought, before);
    ds4_session_reset(b);
    EXPECT(!ds4_session_logits(b));
    feed(twin, t, 1);
    EXPECT_INT(far.rows_brought, before);
    ds4_session_close(b);
    ds4_session_close(twin);
    ds4_engine_close(e);
    EXPECT_INT(far.freed >= far.adopted, 1);
    free(want);
}

TEST(rows_of_a_batch_come_one_by_one_until_the_next_step)
{
    far_reset();
    ds4_error err;
    const ds4_engine_options o = options("cuda");
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    const int V = vocabulary_told(e);
    ds4_session *s = open_session(e, CONTEXT), *other = open_session(e, CONTEXT);
    ds4_batch *b = NULL;
    ds4_token t[80];
    random_prompt(t, 80, V, 3);
    EXPECT_OK(ds4_batch_new(&b, e, &err), err);
    EXPECT_OK(ds4_batch_add(b, s, t, 10, DS4_LOGITS_ALL, &err), err);
    EXPECT_OK(ds4_engine_step(e, b, &err), err);
    EXPECT(ds4_batch_logits(b, 4) && ds4_batch_logits(b, 4) && ds4_batch_logits(b, 9));
    EXPECT_INT(far.rows_brought, 2);
    feed(other, t, 4);
    EXPECT(ds4_batch_logits(b, 4) && !ds4_batch_logits(b, 5));

    far.rows_brought = 0;                           /* more rows than stay: all come */
    EXPECT_OK(ds4_batch_add(b, other, t, 80, DS4_LOGITS_ALL, &err), err);
    EXPECT_OK(ds4_engine_step(e, b, &err), err);
    EXPECT_INT(far.rows_brought, 80);
    for (int i = 0; i < 80; i++) EXPECT(ds4_batch_logits(b, i) != NULL);
    ds4_batch_free(b);
    ds4_session_close(s);
    ds4_session_close(other);
    ds4_engine_close(e);
}

TEST(a_lost_device_fails_the_step_and_leaves_every_session_where_it_stood)
{
    far_reset();
    ds4_error err;
    const ds4_engine_options o = options("cuda");
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_session *s = open_session(e, CONTEXT);
    ds4_token t[N_PROMPT], chosen;
    random_prompt(t, N_PROMPT, vocabulary_told(e), 1);
    feed(s, t, N_PROMPT);
    far.fail_step = 1;
    EXPECT_INT(ds4_session_feed(s, t, 5, NULL, NULL, &err), DS4_EDEVICE);
    EXPECT(strstr(err.message, "stopped answering") != NULL);
    EXPECT_INT(ds4_session_length(s), N_PROMPT);
    EXPECT(ds4_session_logits(s) == NULL);
    ds4_sampler *p = sampler(vocabulary_told(e), 1);
    EXPECT(ds4_session_sample(s, p, false, &chosen, &err) != DS4_OK && chosen == -1);
    ds4_sampler_free(p);
    ds4_session_close(s);
    ds4_engine_close(e);
}

/* Greedy, from a session of its own. */
static void continue_text(ds4_engine *e, ds4_token out[8])
{
    ds4_error err;
    ds4_token t[N_PROMPT];
    ds4_session *s = open_session(e, CONTEXT);
    ds4_sampler *p = sampler(vocabulary_told(e), 0);
    random_prompt(t, N_PROMPT, vocabulary_told(e), 2);
    feed(s, t, N_PROMPT);
    for (int i = 0; i < 8; i++) {
        EXPECT_OK(ds4_session_sample(s, p, false, &out[i], &err), err);
        feed(s, &out[i], 1);
    }
    ds4_sampler_free(p);
    ds4_session_close(s);
}

TEST(an_engine_that_lost_its_device_is_opened_again_and_computes_the_same)
{
    far_reset();
    ds4_error err;
    const ds4_engine_options o = options("cuda");
    ds4_engine *e = open_engine(&o);
    if (!e) return;
    ds4_token before[8] = { 0 }, after[8] = { 1 }, t = 1;
    continue_text(e, before);
    const int adopted = far.adopted;

    ds4_session *s = open_session(e, CONTEXT);
    far.fail_step = 1;
    far.fail_opens = 1;
    EXPECT(!ds4_engine_lost(e));
    EXPECT_INT(ds4_session_feed(s, &t, 1, NULL, NULL, &err), DS4_EDEVICE);
    EXPECT(ds4_engine_lost(e));
    EXPECT_INT(ds4_session_feed(s, &t, 1, NULL, NULL, &err), DS4_EDEVICE);
    EXPECT_INT(ds4_engine_reopen(e, &err), DS4_EARG);           /* a session is open */
    ds4_session_close(s);
    EXPECT_INT(ds4_engine_reopen(e, &err), DS4_EDEVICE);
    EXPECT(ds4_engine_lost(e) && strstr(err.message, "does not come back"));
    EXPECT_INT(ds4_session_open(&s, e, CONTEXT, &err), DS4_EDEVICE);
    EXPECT_OK(ds4_engine_reopen(e, &err), err);
    EXPECT(!ds4_engine_lost(e));
    EXPECT_INT(far.adopted, 2 * adopted);
    continue_text(e, after);
    EXPECT(!memcmp(before, after, sizeof before));

    far.fail_opens = 1;
    EXPECT_INT(ds4_engine_reopen(e, &err), DS4_EDEVICE);
    ds4_engine_close(e);                            /* without a device */
}

TEST(a_device_that_is_lost_soon_after_it_was_opened_is_treated_with_care_from_then_on)
{
    for (int soon = 0; soon < 2; soon++) {
        far_reset();
        ds4_error err;
        const ds4_engine_options o = options("cuda");
        ds4_engine *e = open_engine(&o);
        if (!e) return;
        ds4_session *s = open_session(e, CONTEXT);
        const ds4_token t = 1;
        for (int i = 0; i < (soon ? 99 : 100); i++) feed(s, &t, 1);
        far.fail_step = 1;
        EXPECT_INT(ds4_session_feed(s, &t, 1, NULL, NULL, &err), DS4_EDEVICE);
        EXPECT(!far.careful);
        ds4_session_close(s);
        for (int twice = 0; twice < 2; twice++) {               /* the second time nothing was lost */
            EXPECT_OK(ds4_engine_reopen(e, &err), err);
            EXPECT_INT(far.careful, soon);
        }
        EXPECT_INT(strstr(said[1], "lost after 99 steps: from now on it is given one operation after another") != NULL,
                   soon);
        ds4_engine_close(e);
    }
}

/* ---- the plan ------------------------------------------------------------------------- */

static ds4_plan plan(const ds4_engine_options *o)
{
    ds4_plan p;
    ds4_error err;
    EXPECT_OK(ds4_engine_plan(o, &p, &err), err);
    return p;
}

TEST(auto_is_the_device_when_there_is_one)
{
    ds4_error err;
    const struct { ds4_status no_device; int level; } without[] = {
        { DS4_EUNSUPPORTED, 3 }, { DS4_ENOTFOUND, 2 }, { DS4_EDEVICE, 1 } };
    far_reset();
    ds4_engine_options o = options("auto");
    ds4_engine_close(open_engine(&o));
    EXPECT_INT(far.opened, 1);
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        far_reset();
        o = options("auto");
        far.no_device = without[i].no_device;
        ds4_engine *e = open_engine(&o);
        ds4_shape shape;
        ds4_engine_shape(e, &shape);
        EXPECT(!strncmp(shape.backend, "cpu", 3));
        EXPECT(strstr(said[without[i].level], "no far device") != NULL);
        ds4_engine_close(e);
        o = options("cuda");
        EXPECT_INT(ds4_engine_open(&e, &o, &err), without[i].no_device);
    }
    far_reset();
    o = options("auto");
    o.expert_cache = 1 << 20;                       /* the CPU's */
    EXPECT_INT(plan(&o).device[0], 0);
    o = options("cuda");
    o.expert_cache = 1 << 20;
    ds4_engine *e;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EARG);
    o = options("cuda");
    o.huge_pages = true;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EARG);
}

TEST(experts_that_do_not_fit_stay_in_host_memory_and_that_is_told)
{
    far_reset();
    ds4_engine_options o = options("cuda");
    const ds4_plan whole = plan(&o);
    EXPECT_TEXT(whole.device, "Far");
    EXPECT(whole.host_expert_bytes == 0 && whole.bus_token_bytes == 0 && whole.device_expert_bytes > 0);
    EXPECT(whole.max_tokens_that_fit > CONTEXT);

    far.available = far.total = far_card_for(whole.device_bytes - whole.device_expert_bytes / 2);
    const ds4_plan half = plan(&o);
    EXPECT(half.host_expert_bytes > 0 && half.device_expert_bytes > 0 && half.bus_token_bytes > 0);
    EXPECT(half.device_bytes <= far.available && half.total_bytes > half.host_expert_bytes);
    ds4_engine_close(open_engine(&o));
    EXPECT_INT(far.expert_bytes, half.device_expert_bytes);
    EXPECT(strstr(said[1], "of the routed experts fit on Far") && strstr(said[1], "GB"));

    ds4_error err;                                  /* and there is memory for them */
    o.memory_limit = half.host_expert_bytes / 2;
    ds4_engine *e;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EMEMORY);
    EXPECT(strstr(err.message, "host memory") && !strstr(err.message, "a context of"));
    EXPECT_INT(plan(&o).max_tokens_that_fit, 0);

    o.max_tokens = 3000;                            /* a shorter context would leave the experts room */
    o.memory_limit = 0;
    far.available = far.total = far_card_for(whole.device_bytes);
    const ds4_plan longer = plan(&o);
    EXPECT(longer.host_expert_bytes > 0);
    o.memory_limit = longer.total_bytes - longer.host_expert_bytes / 2;
    const ds4_plan refused = plan(&o);
    EXPECT_INT(refused.no_room.status, DS4_EMEMORY);
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EMEMORY);
    EXPECT_TEXT(err.message, refused.no_room.message);
    EXPECT(strstr(err.message, "leaves them room") && refused.max_tokens_that_fit > CONTEXT);
    o.max_tokens = refused.max_tokens_that_fit;
    EXPECT_INT(plan(&o).no_room.status, DS4_OK);
    o.max_tokens++;
    EXPECT_INT(plan(&o).no_room.status, DS4_EMEMORY);
}

/* One memory for both: what the host keeps counts, no expert is elsewhere, and the file's pages make room. */
TEST(a_device_in_the_memory_of_the_host_has_room_for_all_or_none)
{
    far_reset();
    ds4_engine_options o = options("cuda");
    const ds4_plan apart = plan(&o);
    far.unified = true;
    const ds4_plan shared = plan(&o);
    EXPECT(shared.device_unified && shared.host_expert_bytes == 0);
    EXPECT_INT(shared.device_bytes, apart.device_bytes + apart.total_bytes);
    far.available = far.total = far_card_for(shared.device_bytes);
    EXPECT_INT(plan(&o).no_room.status, DS4_OK);
    ds4_engine *e = open_engine(&o);
    ds4_session *s = NULL;
    ds4_error err;
    const ds4_token one = 5;
    EXPECT_OK(ds4_session_open(&s, e, CONTEXT, &err), err);
    EXPECT_OK(ds4_session_feed(s, &one, 1, NULL, NULL, &err), err);
    ds4_session_close(s);
    ds4_engine_close(e);
    far.available = far.total = far.available - 4096;
    EXPECT_INT(plan(&o).no_room.status, DS4_EMEMORY);
}

TEST(a_card_that_is_too_small_or_taken_by_others_is_a_sentence_with_figures)
{
    ds4_error err;
    ds4_engine *e;
    far_reset();
    ds4_engine_options o = options("cuda");
    o.max_tokens = 1 << 20;
    o.max_sessions = 16;
    far.available = 200 << 20;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EMEMORY);
    EXPECT(strstr(err.message, "the largest context that fits is") && strstr(err.message, "other processes hold"));
    const int fits = plan(&o).max_tokens_that_fit;
    EXPECT(fits > 0 && fits < 1 << 20);
    o.max_tokens = fits;
    ds4_error none;
    EXPECT_OK(ds4_engine_open(&e, &o, &none), none);
    ds4_engine_close(e);

    o = options("cuda");
    far.total = far.available = 1 << 20;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EMEMORY);
    EXPECT(strstr(err.message, "--backend cpu") && !strstr(err.message, "other processes"));
    far.unified = true;
    EXPECT_INT(ds4_engine_open(&e, &o, &err), DS4_EMEMORY);
    EXPECT(strstr(err.message, "shares the memory of the host") != NULL);
    o = options("auto");                            /* and auto goes on without it */
    e = open_engine(&o);
    EXPECT(e && strstr(said[1], "the CPU computes"));
    ds4_shape shape;
    ds4_engine_shape(e, &shape);
    EXPECT(said[1] && strstr(said[1], shape.why_cpu) && strstr(shape.why_cpu, "shares the memory of the host"));
    ds4_engine_close(e);
    EXPECT_TEXT(plan(&o).why_cpu, shape.why_cpu);
    o = options("cpu");
    EXPECT_TEXT(plan(&o).why_cpu, "");
}

TEST(auto_within_a_wrapper_takes_the_device_too)
{
    far_reset();
    ds4_engine_options o = options("time:auto");
    ds4_engine *e = open_engine(&o);
    ds4_shape shape;
    ds4_engine_shape(e, &shape);
    EXPECT(strstr(shape.backend, "far") != NULL);
    EXPECT_TEXT(shape.why_cpu, "");
    ds4_engine_close(e);
    far.no_device = DS4_ENOTFOUND;
    e = open_engine(&o);
    ds4_engine_shape(e, &shape);
    EXPECT(strstr(shape.backend, "cpu") != NULL);
    EXPECT_TEXT(shape.why_cpu, "the CPU computes: no far device");
    ds4_engine_close(e);
}

TEST(rows_of_a_step_are_as_many_as_the_card_has_room_for)
{
    far_reset();
    ds4_engine_options o = options("cuda");
    o.max_tokens = 1 << 16;
    o.max_batch_rows = 0;
    ds4_engine *e = open_engine(&o);
    ds4_shape shape;
    ds4_engine_shape(e, &shape);
    EXPECT_INT(shape.max_batch_rows, 4096);
    ds4_engine_close(e);
    o.max_batch_rows = 256;
    far.total = far.available = far_card_for(plan(&o).device_bytes + (4 << 20));
    o.max_batch_rows = 0;
    e = open_engine(&o);
    ds4_engine_shape(e, &shape);
    EXPECT(shape.max_batch_rows >= 256 && shape.max_batch_rows < 4096);
    ds4_engine_close(e);
}
