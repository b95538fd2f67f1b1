/* Twenty tool turns of each client, in its own request shapes: parsed, rendered and scheduled as the server does,
 * over an engine whose answers are scripted and tell the state of the session they come from. */
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "agent_client.h"
#include "base/checked.h"
#include "engine/scheduler.h"
#include "fake_engine.h"
#include "serve/prepare.h"

enum { TURNS = 20, STEADY = 3, SYSTEM_BYTES = 36000, CONTEXT = 65536, SPARE = 300 };

/* ---- a server's inside --------------------------------------------------------------------- */

typedef struct {
    ds4_engine     *e;
    scheduler      *s;
    replay_memory  *replay;
    kvstore        *store;
    server_metrics  metrics;
    sched_options   o;
    api_config      api;
    uint8_t         counter;
    const char     *folder;             /* of checkpoints; NULL: none */
    pthread_mutex_t lock;
    pthread_cond_t  bell;
    bool            rang;
} inside;

static void count(void *ctx, uint8_t *out, size_t n)
{
    inside *in = ctx;
    for (size_t i = 0; i < n; i++) out[i] = in->counter++;
}

static void print_line(void *ctx, int level, const char *line)
{
    (void)ctx;
    if (getenv("DS4_TEST_LOG")) fprintf(stderr, "%d %s\n", level, line);
}

/* A call as this model spells it: not as the template would. */
static void script_call(bytes *out, int turn, int call)
{
    bytes_printf(out, "<｜DSML｜invoke name=\"Read\">\n<｜DSML｜parameter name=\"path\" string=\"true\">src/file_%d_%d.c</｜DSML｜parameter>\n"
                 "<｜DSML｜parameter name=\"10\" string=\"false\">{\"b\":1,  \"a\": [1.50, %d]}</｜DSML｜parameter>\n</｜DSML｜invoke>\n", turn, call, turn);
}

static void script(ds4_engine *e)
{
    for (int turn = 1; turn <= TURNS; turn++) {
        bytes b;
        bytes_init(&b, SIZE_MAX);
        bytes_printf(&b, "\nThis is turn %d; the file must be read.\n</think>", turn);
        if (turn % 3) bytes_printf(&b, "Step %d at $STATE.%s", turn, turn % 2 ? "\n" : "");
        if (turn % 5) {
            bytes_text(&b, turn % 4 ? "\n\n<｜DSML｜tool_calls>\n" : "\n<｜DSML｜tool_calls>\n");
            for (int call = 0; call <= turn % 3; call++) script_call(&b, turn, call);
            bytes_text(&b, "</｜DSML｜tool_calls>");
        } else {
            bytes_printf(&b, "Done with part %d.", turn);
        }
        fake_rule(e, "", turn, b.data);
        bytes_free(&b);
    }
}

static ds4_status open_scheduler(inside *in, ds4_error *err)
{
    ds4_status st = DS4_OK;
    if (in->folder) {
        const kvstore_options ko = { .dir = in->folder, .budget_bytes = 1u << 30, .metrics = &in->metrics,
                                     .log = in->o.log };
        st = kvstore_open(&in->store, &ko, in->e, err);
        in->o.store = in->store;
    }
    if (!st) st = replay_open(&in->replay, 1000, 1 << 22, err);
    in->o.replay = in->replay;
    return st ? st : sched_open(&in->s, in->e, &in->o, err);
}

static void close_scheduler(inside *in)
{
    sched_drain(in->s, fake_now_ns());
    sched_close(in->s);
    kvstore_close(in->store);
    replay_close(in->replay);
    in->s = NULL;
    in->store = NULL;
    in->replay = NULL;
}

static bool inside_open(inside *in, const char *folder)
{
    ds4_error err = { .message = "" };
    *in = (inside){ .folder = folder };
    pthread_mutex_init(&in->lock, NULL);
    pthread_cond_init(&in->bell, NULL);
    ds4_engine_options eo = ds4_engine_defaults();
    eo.model_path = test_data("../../models/tiny/ds4-tiny.gguf");
    eo.max_tokens = CONTEXT;
    eo.rewind_points = 16;
    server_metrics_init(&in->metrics);
    ds4_status st = ds4_engine_open(&in->e, &eo, &err);
    in->o = sched_defaults();
    in->o.n_slots = 1;
    in->o.metrics = &in->metrics;
    in->o.log.line = print_line;
    in->o.now_ns = fake_now_ns;
    if (!st) st = open_scheduler(in, &err);
    EXPECT_OK(st, err);
    if (st) return false;
    const vocab *v = ds4_engine_vocab(in->e);
    in->api = (api_config){ .model = "ds4", .ctx = CONTEXT, .vocab_size = vocab_size(v), .vocab = v,
                            .default_tokens = 4096, .temperature = 1, .top_p = 1, .random = count, .random_ctx = in };
    script(in->e);
    return true;
}

static void inside_close(inside *in)
{
    close_scheduler(in);
    ds4_engine_close(in->e);
    pthread_mutex_destroy(&in->lock);
    pthread_cond_destroy(&in->bell);
}

/* As after the end of the process: the folder stays, memory does not. */
static bool restart(inside *in)
{
    ds4_error err = { .message = "" };
    close_scheduler(in);
    const ds4_status st = open_scheduler(in, &err);
    EXPECT_OK(st, err);
    return !st;
}

/* Sessions go, and nothing else. */
static bool forget_sessions(inside *in)
{
    ds4_error err = { .message = "" };
    sched_drain(in->s, fake_now_ns());
    sched_close(in->s);
    in->s = NULL;
    const ds4_status st = sched_open(&in->s, in->e, &in->o, &err);
    EXPECT_OK(st, err);
    return !st;
}

/* ---- one request --------------------------------------------------------------------------- */

static void ring(void *ctx)
{
    inside *in = ctx;
    pthread_mutex_lock(&in->lock);
    in->rang = true;
    pthread_cond_signal(&in->bell);
    pthread_mutex_unlock(&in->lock);
}

static bool wait_for_ring(inside *in)
{
    struct timespec until;
    int st = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&in->lock);
    while (!in->rang && !st) st = pthread_cond_timedwait(&in->bell, &in->lock, &until);
    in->rang = false;
    pthread_mutex_unlock(&in->lock);
    if (st) test_fail(__FILE__, __LINE__, "no event for a minute");
    return !st;
}

typedef struct {
    answer_usage usage;
    reuse_method method;
    bytes        body;
} reply;

static bool read_reply(inside *in, sched_ticket *t, api_encoder *e, reply *out)
{
    sched_event ev;
    for (;;) {
        switch (sched_next(t, &ev)) {
        case SCHED_NOTHING:
            if (!wait_for_ring(in)) return false;
            break;
        case SCHED_ADMITTED:
            out->method = ev.method;
            break;
        case SCHED_ANSWER:
            api_encode(e, &ev.answer, &out->body);
            break;
        case SCHED_DONE:
            out->usage = ev.usage;
            api_encode_end(e, &ev.usage, &out->body);
            return true;
        case SCHED_FAILED:
            test_fail(__FILE__, __LINE__, "failed: %s", ev.error.message);
            return false;
        default:
            break;
        }
    }
}

static bool submit(inside *in, const prepared *p, sched_ticket **t)
{
    ds4_error err = { .message = "" };
    int retry;
    sched_request q = { .id = "req_test", .prompt = &p->prompts[0], .start = p->start, .tools = p->request->chat.tools,
                        .n_tools = p->request->chat.n_tools, .sampling = ds4_sampling_defaults(), .n = 1,
                        .max_tokens = p->request->max_tokens, .wake = ring, .wake_ctx = in,
                        .ids = p->request->dialect == API_MESSAGES ? CALL_ID_ANTHROPIC : CALL_ID_OPENAI };
    q.sampling.temperature = 0;
    const ds4_status st = sched_submit(in->s, &q, t, &retry, &err);
    EXPECT_OK(st, err);
    return !st;
}

static bool ask(inside *in, agent *a, reply *out)
{
    const prepare_context context = { .api = &in->api, .replay = in->replay, .store = in->store,
                                      .capacity = sched_capacity(in->s) };
    bytes body;
    prepared p;
    sched_ticket *t = NULL;
    bool good = false;
    bytes_init(&body, SIZE_MAX);
    bytes_init(&out->body, SIZE_MAX);
    agent_body(a, &body);

    prepare_init(&p);
    p.context = &context;
    p.route = route_find(slice_of(agents[a->kind].path)).route;
    p.id = "req_test";
    p.body = (slice){ body.data, body.len };
    prepare_run(&p);
    if (p.refused) {
        test_fail(__FILE__, __LINE__, "%s: %s", agents[a->kind].name, p.error.message);
    } else {
        const api_answer_info info = { "req_test", 1 };
        api_encoder *e = api_encoder_new(p.request, &in->api, &info);
        good = submit(in, &p, &t) && read_reply(in, t, e, out);
        sched_release(t);
        api_encoder_free(e);
    }
    prepare_free(&p);
    bytes_free(&body);
    return good;
}

/* ---- twenty turns -------------------------------------------------------------------------- */

typedef enum { CACHE_ON, CACHE_OFF, RESTARTS } mode;

typedef struct {
    long prompt, cached;
    int  from_disk;
    char texts[TURNS][2048];            /* the answers as the client got them */
} record;

static void expect_reuse(const agent *a, int turn, const reply *r, record *sum)
{
    const int suffix = r->usage.prompt_tokens - r->usage.cached_tokens;
    if (turn < STEADY) return;
    sum->prompt += r->usage.prompt_tokens;
    sum->cached += r->usage.cached_tokens;
    sum->from_disk += r->method == REUSE_DISK;
    if (suffix > (int)a->fresh + SPARE)
        test_fail(__FILE__, __LINE__, "%s, turn %d: %d of %d tokens computed for %zu new bytes (%s)",
                  agents[a->kind].name, turn, suffix, r->usage.prompt_tokens, a->fresh, reuse_method_name(r->method));
}

/* Ids and seals are random: what is compared is the text of the answer. */
static void note_text(const reply *r, char out[2048])
{
    const char *at = r->body.data ? strstr(r->body.data, "Step ") : NULL;
    snprintf(out, 2048, "%.*s", at ? (int)strcspn(at, "\"\\") : 0, at ? at : "");
}

static void run_turns(agent_kind kind, mode m, record *sum)
{
    inside in;
    agent a;
    char folder[64];
    snprintf(folder, sizeof folder, "kv-%d", (int)kind);
    *sum = (record){ 0 };
    if (!inside_open(&in, m == RESTARTS ? test_scratch(folder) : NULL)) return;
    agent_open(&a, kind, SYSTEM_BYTES);
    agent_user(&a, "Please go through all files.");
    for (int turn = 1; turn <= TURNS; turn++) {
        reply r = { 0 };
        if (m == RESTARTS && turn % 4 == 0 && !restart(&in)) break;
        if (m == CACHE_OFF && !forget_sessions(&in)) break;
        const bool good = ask(&in, &a, &r);
        if (good) {
            if (m != CACHE_OFF) expect_reuse(&a, turn, &r, sum);
            note_text(&r, sum->texts[turn - 1]);
            const int n_calls = agent_take(&a, (slice){ r.body.data, r.body.len });
            EXPECT_INT(n_calls, turn % 5 ? 1 + turn % 3 : 0);
            if (n_calls == 0) agent_user(&a, "Go on with the next part, please.");
        }
        bytes_free(&r.body);
        if (!good) break;
    }
    agent_close(&a);
    inside_close(&in);
}

static void expect_share(agent_kind kind, const record *sum)
{
    const double share = sum->prompt ? (double)sum->cached / (double)sum->prompt : 0;
    if (share < 0.98)
        test_fail(__FILE__, __LINE__, "%s: %.2f %% of %ld prompt tokens were reused", agents[kind].name, 100 * share,
                  sum->prompt);
}

TEST(twenty_tool_turns_of_each_client_compute_little_but_what_is_new)
{
    for (int kind = 0; kind < AGENT_KINDS; kind++) {
        static record sum;
        run_turns((agent_kind)kind, CACHE_ON, &sum);
        expect_share((agent_kind)kind, &sum);
    }
}

TEST(a_restart_with_the_disk_cache_goes_on_where_the_conversation_stood)
{
    for (int kind = 0; kind < AGENT_KINDS; kind++) {
        static record sum;
        run_turns((agent_kind)kind, RESTARTS, &sum);
        expect_share((agent_kind)kind, &sum);
        EXPECT_INT(sum.from_disk, TURNS / 4);
    }
}

/* Retries after a time-out, and "regenerate": whatever the session holds behind the prompt is put away again. */
TEST(a_request_sent_twice_computes_nothing_twice)
{
    for (int kind = 0; kind < AGENT_KINDS; kind++) {
        inside in;
        agent a;
        if (!inside_open(&in, NULL)) return;
        agent_open(&a, (agent_kind)kind, 4000);
        agent_user(&a, "Please go through all files.");
        for (int turn = 1; turn <= 8; turn++) {
            reply first = { 0 }, again = { 0 };
            char text[2][2048];
            if (!ask(&in, &a, &first) || !ask(&in, &a, &again)) break;
            EXPECT_INT(again.usage.prompt_tokens, first.usage.prompt_tokens);
            EXPECT_INT(again.usage.cached_tokens, again.usage.prompt_tokens);
            note_text(&first, text[0]);
            note_text(&again, text[1]);
            EXPECT_TEXT(text[1], text[0]);
            const int n_calls = agent_take(&a, (slice){ again.body.data, again.body.len });
            if (n_calls == 0) agent_user(&a, "Go on with the next part, please.");
            bytes_free(&first.body);
            bytes_free(&again.body);
        }
        agent_close(&a);
        inside_close(&in);
    }
}

TEST(a_summary_in_place_of_the_history_computes_only_itself)
{
    for (int kind = 0; kind < AGENT_KINDS; kind++) {
        inside in;
        agent a;
        reply r = { 0 };
        if (!inside_open(&in, NULL)) return;
        agent_open(&a, (agent_kind)kind, SYSTEM_BYTES);
        agent_user(&a, "Please go through all files.");
        for (int turn = 1; turn <= TURNS && ask(&in, &a, &r); turn++) {
            if (agent_take(&a, (slice){ r.body.data, r.body.len }) == 0)
                agent_user(&a, "Go on with the next part, please.");
            bytes_free(&r.body);
        }
        bytes_clear(&a.history);
        agent_user(&a, "So far all files were read; nothing was found.");
        if (ask(&in, &a, &r)) {
            const int computed = r.usage.prompt_tokens - r.usage.cached_tokens;
            if (computed > 100) test_fail(__FILE__, __LINE__, "%s: %d tokens computed", agents[kind].name, computed);
        }
        bytes_free(&r.body);
        agent_close(&a);
        inside_close(&in);
    }
}

/* $STATE in the answers is a hash of all tokens of the session. */
TEST(answers_are_the_same_with_the_cache_on_and_off)
{
    for (int kind = 0; kind < AGENT_KINDS; kind++) {
        static record on, off;
        if (!agents[kind].returns_reasoning) continue;      /* a cold session lacks what the client did not send */
        run_turns((agent_kind)kind, CACHE_ON, &on);
        run_turns((agent_kind)kind, CACHE_OFF, &off);
        for (int turn = 0; turn < TURNS; turn++) {
            EXPECT((on.texts[turn][0] != 0) == ((turn + 1) % 3 != 0));
            EXPECT_TEXT(on.texts[turn], off.texts[turn]);
        }
    }
}
