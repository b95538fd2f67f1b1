/* The scheduler over an engine without a model: what it keeps, who goes first, and how requests end. */
#include "asking.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/random.h"
#include "fake_engine.h"
#include "text/tokenizer.h"

/* ---- a server's inside --------------------------------------------------------------------- */

typedef struct {
    ds4_engine     *e;
    scheduler      *s;
    asked           at;
    replay_memory  *replay;
    server_metrics  metrics;
    kvstore        *store;
    sched_options   o;
    char            order[256];
    atomic_bool     abandon;
    bool log_is_private, trace_quotes;      /* who said PRIVATE */
    int  hesitations;                       /* lost devices that were not opened again at once */
} rig;

/* Notes who was admitted: the last letter of each id. */
static void note_line(void *ctx, int level, const char *said)
{
    rig *r = ctx;
    const char *at = strstr(said, " reuse=");
    (void)level;
    if (strstr(said, "PRIVATE")) r->log_is_private = true;      /* lines also come from the saving thread */
    r->hesitations += strstr(said, "no request was answered") != NULL;
    if (at && at > said && strlen(r->order) + 1 < sizeof r->order) r->order[strlen(r->order)] = at[-1];
}

static void note_trace(void *ctx, const char *id, const char *what, slice text)
{
    rig *r = ctx;
    (void)id;
    if (strcmp(what, "reuse") == 0) r->trace_quotes |= memmem(text.data, text.len, "PRIVATE", 7) != NULL;
}

static bool abandoned(void *ctx) { return atomic_load(&((rig *)ctx)->abandon); }

typedef struct {
    int  slots, ctx, chunk, queue;
    const char *disk;
    bool orphans, strict;
    int  side;
} rig_options;

static bool rig_open(rig *r, const rig_options *o)
{
    ds4_error err;
    memset(r, 0, sizeof *r);
    ds4_engine_options eo = ds4_engine_defaults();
    eo.model_path = test_data("../../models/tiny/ds4-tiny.gguf");
    eo.max_sessions = max_int(o->slots, 1);
    eo.max_tokens = o->ctx ? o->ctx : 8192;
    eo.max_batch_rows = o->chunk ? o->chunk : 512;
    eo.rewind_points = 16;
    eo.side_tokens = o->side;
    eo.interrupted = abandoned;
    eo.interrupted_ctx = r;
    server_metrics_init(&r->metrics);
    ds4_status st = ds4_engine_open(&r->e, &eo, &err);
    if (!st) st = replay_open(&r->replay, 1000, 1 << 20, &err);
    r->o = sched_defaults();
    r->o.n_slots = max_int(o->slots, 1);
    if (o->queue) r->o.max_queue = o->queue;
    r->o.replay = r->replay;
    r->o.metrics = &r->metrics;
    r->o.log = (log_sink){ note_line, r };
    r->o.trace = note_trace;
    r->o.trace_ctx = r;
    r->o.now_ns = fake_now_ns;
    r->o.finish_orphans = o->orphans;
    r->o.strict_drop_reasoning = o->strict;
    r->o.abandon = &r->abandon;
    if (!st && o->disk) {
        const kvstore_options ko = { .dir = o->disk, .budget_bytes = 1u << 30, .metrics = &r->metrics, .log = r->o.log };
        st = kvstore_open(&r->store, &ko, r->e, &err);
        r->o.store = r->store;
    }
    if (!st) st = sched_open(&r->s, r->e, &r->o, &err);
    if (!st) r->at = (asked){ r->s, ds4_engine_vocab(r->e) };
    if (st) test_fail(__FILE__, __LINE__, "opening: %s", err.message);
    return !st;
}

static void rig_close(rig *r)
{
    if (r->e) fake_allow_steps(r->e, -1);
    sched_close(r->s);
    kvstore_close(r->store);
    replay_close(r->replay);
    ds4_engine_close(r->e);
}

/* Text of about n tokens; the vocabulary is small, so a word is several. */
static char *long_text(int n)
{
    char *text = malloc((size_t)n * 2 + 16);
    int at = 0;
    for (int i = 0; i < n; i++) at += sprintf(text + at, "%d", i % 10);
    return text;
}

static uint64_t prefilled(rig *r) { return counter_get(&r->metrics.prefill_tokens); }

static void pause_ms(int ms) { nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L }, NULL); }

static int busy_slots(rig *r)
{
    sched_slot_status st[8];
    int busy = 0;
    const int n = sched_status(r->s, st, 8);
    for (int i = 0; i < n; i++) busy += st[i].state == SLOT_PREFILL || st[i].state == SLOT_DECODE;
    return busy;
}

static const render_options plain = { 0 };

/* ---- answers ------------------------------------------------------------------------------- */

TEST(a_request_is_answered_as_scripted)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "sum", 0, "two and two</think>It is 4.");
    const line lines[] = { SYSTEM("S"), USER("the sum?") };
    if (ask(&r.at, &c, lines, 2, &(render_options){ .think = true })) {
        EXPECT_TEXT(c.reasoning.data, "two and two");
        EXPECT_TEXT(c.text[0].data, "It is 4.");
        EXPECT_INT(c.finish, FINISH_STOP);
        EXPECT_INT(c.end, SCHED_DONE);
        EXPECT(c.usage.reasoning_tokens > 0 && c.usage.completion_tokens > c.usage.reasoning_tokens);
        EXPECT_INT(c.usage.cached_tokens, 0);
    }
    client_close(&c);
    rig_close(&r);
}

TEST(a_length_limit_ends_the_answer)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "one two three four five six seven");
    const line lines[] = { USER("count") };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    q.max_tokens = 3;
    if (submit_lines(&r.at, &c, lines, 1, &plain, &q) && client_wait(&c)) {
        EXPECT_INT(c.finish, FINISH_LENGTH);
        EXPECT_INT(c.usage.completion_tokens, 3);
    }
    client_close(&c);
    rig_close(&r);
}

TEST(several_choices_share_one_prefill)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    const line lines[] = { USER("three of them") };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    q.n = 3;
    if (submit_lines(&r.at, &c, lines, 1, &plain, &q) && client_wait(&c)) {
        EXPECT_INT(c.n_finished, 3);
        EXPECT_TEXT(c.text[1].data, c.text[0].data);
        EXPECT_TEXT(c.text[2].data, c.text[0].data);
        EXPECT_INT(prefilled(&r), c.usage.prompt_tokens);
    }
    client_close(&c);
    rig_close(&r);
}

TEST(a_required_call_is_opened_for_the_model_and_an_unwanted_one_is_not)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "go", 0, "I would rather talk.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n"
              "<｜DSML｜parameter name=\"city\" string=\"true\">Rome</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>");
    const line lines[] = { USER("go") };
    const render_options o = { .tools = true };
    for (int i = 0; i < 3; i++) {
        sched_request q = request(NULL, CHAT_STARTS_TEXT);
        q.choice = i == 0 ? CHOOSE_REQUIRED : i == 1 ? CHOOSE_NAMED : CHOOSE_NONE;
        q.forced_tool = slice_of("weather");
        if (submit_lines(&r.at, &c, lines, 1, &o, &q) && client_wait(&c)) {
            if (i < 2) {
                EXPECT_INT(c.text[0].len, 0);
                EXPECT_INT(c.n_calls, 1);
                EXPECT_TEXT(c.name[0], "weather");
                EXPECT_TEXT(c.args[0].data, "{\"city\":\"Rome\"}");
                EXPECT_INT(c.finish, FINISH_TOOL_CALLS);
            } else {
                EXPECT_INT(c.n_calls, 0);
                EXPECT(c.text[0].len > 0 && !strstr(c.text[0].data, "DSML"));
            }
        }
        client_close(&c);
    }
    rig_close(&r);
}

TEST(without_parallel_calls_the_block_is_closed_behind_the_first)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "go", 0, "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n\n</｜DSML｜invoke>\n"
              "<｜DSML｜invoke name=\"weather\">\n\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>");
    const line lines[] = { USER("go") };
    for (int one = 0; one < 2; one++) {
        sched_request q = request(NULL, CHAT_STARTS_TEXT);
        q.one_call = one;
        if (submit_lines(&r.at, &c, lines, 1, &(render_options){ .tools = true }, &q) && client_wait(&c)) {
            EXPECT_INT(c.n_calls, one ? 1 : 2);
            EXPECT_INT(c.finish, FINISH_TOOL_CALLS);
        }
        client_close(&c);
    }
    rig_close(&r);
}

TEST(a_thinking_budget_closes_the_reasoning)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    char *reasoning = long_text(900);
    char *script = malloc(2000);
    sprintf(script, "%s</think>done", reasoning);
    fake_rule(r.e, "", 0, script);
    const line lines[] = { USER("think") };
    sched_request q = request(NULL, CHAT_STARTS_REASONING);
    q.max_tokens = 2000;
    q.think_budget = 10;
    if (submit_lines(&r.at, &c, lines, 1, &(render_options){ .think = true }, &q) && client_wait(&c)) {
        EXPECT(c.usage.reasoning_tokens <= 10 + 512 + 1);
        EXPECT(c.usage.reasoning_tokens >= 10);
        EXPECT_INT(c.finish, FINISH_STOP);
    }
    client_close(&c);
    free(reasoning);
    free(script);
    rig_close(&r);
}

TEST(logprobs_come_with_the_text_and_an_echo_has_the_prompts)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "some words here");
    const line lines[] = { USER("logprobs") };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    q.logprobs = q.prompt_logprobs = true;
    q.top_logprobs = 2;
    if (submit_lines(&r.at, &c, lines, 1, &plain, &q) && client_wait(&c)) {
        EXPECT_INT(c.n_tokens, c.usage.completion_tokens);
        EXPECT_INT(c.n_echo, c.usage.prompt_tokens);
        EXPECT(c.first_logprob < 0 && c.first_logprob > -0.001f);
        EXPECT(c.last_echo < 0);
    }
    client_close(&c);
    rig_close(&r);
}

TEST(logprobs_of_a_long_prompt_are_given_to_whoever_reads)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ .ctx = 65536 })) return;
    fake_rule(r.e, "", 0, "yes");
    char *text = long_text(30000);
    const line lines[] = { USER(text) };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    q.logprobs = q.prompt_logprobs = true;
    q.top_logprobs = 20;
    if (submit_lines(&r.at, &c, lines, 1, &plain, &q) && client_wait(&c)) {
        EXPECT_INT(c.end, SCHED_DONE);
        EXPECT_INT(c.n_echo, c.usage.prompt_tokens);
        EXPECT_INT(c.finish, FINISH_STOP);
    }
    client_close(&c);
    free(text);
    rig_close(&r);
}

TEST(a_seed_gives_the_same_text_alone_and_among_others)
{
    rig r;
    client c[6];
    char *alone = NULL;
    if (!rig_open(&r, &(rig_options){ .slots = 3 })) return;
    fake_rule(r.e, "", 0, "a rather plain answer");
    const line lines[] = { USER("seeded") }, others[] = { USER("another one") };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    q.sampling.temperature = 10;            /* flat enough that scripts are left at once */
    q.sampling.min_p = 0;
    q.sampling.seed = 1234;
    q.max_tokens = 60;
    if (submit_lines(&r.at, &c[0], lines, 1, &plain, &q) && client_wait(&c[0]))
        alone = strdup(c[0].text[0].len ? c[0].text[0].data : "");
    client_close(&c[0]);
    for (int i = 0; i < 6; i++) {
        sched_request other = q;
        if (i != 3) other.sampling.seed = (uint64_t)i;
        submit_lines(&r.at, &c[i], i == 3 ? lines : others, 1, &plain, &other);
    }
    for (int i = 0; i < 6; i++) client_wait(&c[i]);
    EXPECT_TEXT(c[3].text[0].len ? c[3].text[0].data : "", alone);
    EXPECT(c[2].text[0].len && strcmp(c[2].text[0].data, alone));
    for (int i = 0; i < 6; i++) client_close(&c[i]);
    free(alone);
    rig_close(&r);
}

/* ---- what is kept -------------------------------------------------------------------------- */

TEST(a_second_turn_computes_only_its_new_bytes)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    line lines[4] = { SYSTEM("You are a rather long system prompt."), USER("first question") };
    char first[64] = "";
    if (ask(&r.at, &c, lines, 2, &plain)) snprintf(first, sizeof first, "%s", c.text[0].data);
    client_close(&c);
    const uint64_t before = prefilled(&r);
    lines[2] = (line)ASSISTANT(first);
    lines[3] = (line)USER("second question");
    if (ask(&r.at, &c, lines, 4, &plain)) {
        EXPECT(c.usage.cached_tokens > 0);
        EXPECT_INT(prefilled(&r) - before, c.usage.prompt_tokens - c.usage.cached_tokens);
        EXPECT(prefilled(&r) - before < 32);
        EXPECT_INT(counter_get(&r.metrics.cached_tokens[SOURCE_LIVE]), c.usage.cached_tokens);
    }
    client_close(&c);
    rig_close(&r);
}

/* As an editor asks while somebody types. */
TEST(text_that_grows_by_letters_is_answered_as_a_new_one_and_computed_once)
{
    rig r;
    char text[8160];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "once upon a time "[i % 17];
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    for (int i = 0; i < 34; i++) {
        client c;
        token_list tokens;
        reuse_prompt p;
        ds4_error err;
        client_open(&c);
        token_list_init(&tokens, 1 << 20);
        token_list_push(&tokens, vocab_special(r.at.v)->bos);
        EXPECT_OK(tokenizer_encode(r.at.v, (slice){ text, 8000 + (size_t)i }, false, &tokens, &err), err);
        const uint64_t want = fake_state_of(tokens.ids, (int)tokens.n);
        EXPECT_OK(reuse_prompt_open(&p, r.at.v, &tokens, &err), err);
        p.raw = true;
        sched_request q = request(&p, CHAT_STARTS_TEXT);
        q.raw = true;
        q.max_tokens = 0;                       /* the session is the prompt */
        const uint64_t before = prefilled(&r);
        EXPECT_INT(submit(&r.at, &c, &q), DS4_OK);
        client_wait(&c);
        for (int k = 0; k < 5000 && busy_slots(&r); k++) pause_ms(1);
        EXPECT_INT(fake_state(fake_session(r.e, 0)), want);
        if (i) EXPECT(prefilled(&r) - before < 64);
        token_list_free(&tokens);
        client_close(&c);
    }
    rig_close(&r);
}

TEST(an_identical_prompt_computes_nothing)
{
    rig r;
    client c;
    char first[64] = "";
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    const line lines[] = { SYSTEM("S"), USER("the same again") };
    for (int i = 0; i < 3; i++) {
        const uint64_t before = prefilled(&r);
        if (ask(&r.at, &c, lines, 2, &plain)) {
            if (i == 0) snprintf(first, sizeof first, "%s", c.text[0].data);
            else EXPECT_INT(prefilled(&r) - before, 0);
            EXPECT_TEXT(c.text[0].data, first);
            EXPECT_INT(c.usage.cached_tokens, i ? c.usage.prompt_tokens : 0);
        }
        client_close(&c);
    }
    rig_close(&r);
}

/* What each method leads to is what a cold session says: the answer spells the state at the prompt's end. */
static void expect_as_cold(const line *lines, int n, const render_options *o, const char *got)
{
    rig cold;
    client c;
    if (!rig_open(&cold, &(rig_options){ 0 })) return;
    fake_rule(cold.e, "", 0, "state $STATE");
    if (ask(&cold.at, &c, lines, n, o)) EXPECT_TEXT(got, c.text[0].data);
    client_close(&c);
    rig_close(&cold);
}

TEST(an_edited_last_message_goes_back_to_a_rewind_point)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    char first[64] = "";
    line lines[4] = { SYSTEM("You are a rather long system prompt."), USER("first question") };
    if (ask(&r.at, &c, lines, 2, &plain)) snprintf(first, sizeof first, "%s", c.text[0].data);
    client_close(&c);
    lines[2] = (line)ASSISTANT(first);
    const char *const edits[] = { "second question", "second thought", "no, a third" };
    for (int i = 0; i < 3; i++) {
        lines[3] = (line)USER(edits[i]);
        if (ask(&r.at, &c, lines, 4, &plain)) {
            EXPECT(c.usage.cached_tokens > 20);
            expect_as_cold(lines, 4, &plain, c.text[0].data);
        }
        client_close(&c);
    }
    rig_close(&r);
}

TEST(another_conversation_keeps_the_system_part)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    char *text = long_text(300);
    line lines[2] = { SYSTEM(text), USER("first") };
    ask(&r.at, &c, lines, 2, &plain);
    client_close(&c);
    lines[1] = (line)USER("something else");
    if (ask(&r.at, &c, lines, 2, &plain)) {
        EXPECT(c.usage.cached_tokens > 200);
        expect_as_cold(lines, 2, &plain, c.text[0].data);
    }
    client_close(&c);
    free(text);
    rig_close(&r);
}

TEST(the_log_holds_no_text_and_the_trace_shows_where_texts_part)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "PRIVATE answer");
    line lines[2] = { SYSTEM("PRIVATE rules"), USER("PRIVATE one") };
    ask(&r.at, &c, lines, 2, &plain);
    client_close(&c);
    lines[1] = (line)USER("other PRIVATE words");
    ask(&r.at, &c, lines, 2, &plain);
    client_close(&c);
    EXPECT_INT(counter_get(&r.metrics.misses[MISS_HISTORY_EDITED]) + counter_get(&r.metrics.misses[MISS_OTHER_SESSION]), 1);
    EXPECT(!r.log_is_private);
    EXPECT(r.trace_quotes);
    rig_close(&r);
}

TEST(dropped_reasoning_costs_nothing)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "some long reasoning that the client never sends back</think>the answer");
    const render_options think = { .think = true };
    line lines[4] = { SYSTEM("S"), USER("first question") };
    ask(&r.at, &c, lines, 2, &think);
    client_close(&c);
    lines[2] = (line)ASSISTANT("the answer");
    lines[3] = (line)USER("second");
    const uint64_t before = prefilled(&r);
    if (ask(&r.at, &c, lines, 4, &think)) EXPECT(prefilled(&r) - before < 16);
    EXPECT(counter_get(&r.metrics.cached_tokens[SOURCE_VISIBLE]) > 0);
    client_close(&c);
    rig_close(&r);
}

TEST(results_of_live_calls_go_on_where_the_session_stands)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "tool_result", 0, "thinking again</think>It rains. $STATE");
    fake_rule(r.e, "", 0, "hm</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n"
              "<｜DSML｜parameter name=\"city\" string=\"true\">Rome</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>");
    const render_options tools = { .think = true, .tools = true };
    line lines[4] = { SYSTEM("S"), USER("weather in Rome?") };
    char id[64] = "";
    if (ask(&r.at, &c, lines, 2, &tools)) {
        EXPECT_INT(c.finish, FINISH_TOOL_CALLS);
        EXPECT_INT(c.n_calls, 1);
        snprintf(id, sizeof id, "%s", c.id[0]);
    }
    client_close(&c);
    /* The client drops the reasoning and writes the arguments in its own way. */
    lines[2] = (line){ .role = "assistant", .call = "weather", .args = "{ \"city\" : \"Rome\" }", .id = id };
    lines[3] = (line)RESULT(id, "rain");
    const uint64_t before = prefilled(&r);
    if (ask(&r.at, &c, lines, 4, &tools)) {
        EXPECT(prefilled(&r) - before < 24);
        EXPECT(!strncmp(c.text[0].data, "It rains.", 9));
    }
    client_close(&c);
    rig_close(&r);
}

TEST(a_restarted_server_finds_its_conversations_on_disk)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_scratch("kv"));
    rig r;
    client c;
    char *text = long_text(2000);
    char first[64] = "";
    line lines[4] = { SYSTEM(text), USER("first question") };
    if (!rig_open(&r, &(rig_options){ .disk = dir })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    if (ask(&r.at, &c, lines, 2, &plain)) snprintf(first, sizeof first, "%s", c.text[0].data);
    EXPECT(c.usage.stored_tokens > 0);
    client_close(&c);
    rig_close(&r);

    if (!rig_open(&r, &(rig_options){ .disk = dir })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    lines[2] = (line)ASSISTANT(first);
    lines[3] = (line)USER("second");
    if (ask(&r.at, &c, lines, 4, &plain)) {
        EXPECT(prefilled(&r) < 32);
        EXPECT_INT(counter_get(&r.metrics.cached_tokens[SOURCE_DISK]), c.usage.cached_tokens);
        expect_as_cold(lines, 4, &plain, c.text[0].data);
    }
    client_close(&c);

    /* Another question to the same system part: the anchor serves. */
    lines[1] = (line)USER("quite another");
    if (ask(&r.at, &c, lines, 2, &plain)) expect_as_cold(lines, 2, &plain, c.text[0].data);
    client_close(&c);
    rig_close(&r);
    free(text);
}

TEST(a_checkpoint_that_gives_no_numbers_is_put_aside_and_the_request_runs_cold)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_scratch("kv-bad"));
    rig r;
    client c;
    char *text = long_text(2000);
    line lines[2] = { SYSTEM(text), USER("first question") };
    if (!rig_open(&r, &(rig_options){ .disk = dir })) return;
    ask(&r.at, &c, lines, 2, &plain);
    client_close(&c);
    rig_close(&r);

    if (!rig_open(&r, &(rig_options){ .disk = dir })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    fake_spoil_loads(r.e, true);
    if (ask(&r.at, &c, lines, 2, &plain)) {
        EXPECT_INT(c.end, SCHED_DONE);
        EXPECT_INT(c.usage.cached_tokens, 0);
        EXPECT(counter_get(&r.metrics.kv_corrupt) > 0);
        expect_as_cold(lines, 2, &plain, c.text[0].data);
    }
    client_close(&c);
    rig_close(&r);
    free(text);
}

TEST(reasoning_that_a_client_drops_does_not_come_back_from_disk_when_it_must_not)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_scratch("kv-strict"));
    rig r;
    client c;
    char *text = long_text(2000);
    const render_options think = { .think = true };
    line lines[4] = { SYSTEM("S"), USER(text), ASSISTANT("the text"), USER("and now") };
    for (int i = 0; i < 3; i++) {
        const bool strict = i == 1;
        if (!rig_open(&r, &(rig_options){ .disk = dir, .strict = strict })) return;
        fake_rule(r.e, "and now", 0, "state $STATE</think>state $STATE");
        fake_rule(r.e, "", 0, "much reasoning, which nobody sends back</think>the text");
        if (ask(&r.at, &c, lines, i == 0 ? 2 : 4, &think) && i == 1) {
            EXPECT(c.usage.cached_tokens <= 512);            /* its anchor */
            expect_as_cold(lines, 4, &think, c.text[0].data);
        }
        if (i == 2) EXPECT(c.usage.cached_tokens > 1500);
        client_close(&c);
        rig_close(&r);
    }
    free(text);
}

TEST(a_stored_session_that_would_be_refused_is_not_loaded)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_scratch("kv-ambiguous"));
    rig r;
    client c;
    char *text = long_text(2000);
    memcpy(text, "<｜User｜>", strlen("<｜User｜>"));
    const render_options think = { .think = true };
    const line lines[4] = { SYSTEM("S"), USER(text), ASSISTANT("the text"), USER("and now") };
    for (int i = 0; i < 2; i++) {
        if (!rig_open(&r, &(rig_options){ .disk = dir })) return;
        fake_rule(r.e, "and now", 0, "state $STATE</think>state $STATE");
        fake_rule(r.e, "", 0, "reasoning</think>the text");
        if (ask(&r.at, &c, lines, i == 0 ? 2 : 4, &think) && i == 1) {
            EXPECT_INT(histogram_below(&r.metrics.kv_load, r.metrics.kv_load.n), 1);     /* the anchor alone */
            EXPECT_INT(c.usage.cached_tokens, 512);
            expect_as_cold(lines, 4, &think, c.text[0].data);
        }
        client_close(&c);
        rig_close(&r);
    }
    free(text);
}

TEST(a_call_that_is_demanded_is_not_begun_twice_when_a_checkpoint_turns_out_bad)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_scratch("kv-demanded"));
    rig r;
    client c;
    char *text = long_text(2000);
    const line lines[] = { SYSTEM(text), USER("weather") };
    const render_options tools = { .tools = true };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    q.choice = CHOOSE_NAMED;
    q.forced_tool = slice_of("weather");
    q.n = 2;
    for (int i = 0; i < 2; i++) {
        if (!rig_open(&r, &(rig_options){ .disk = dir })) return;
        fake_rule(r.e, "", 0, "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" "
                  "string=\"true\">Rome</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>");
        fake_spoil_loads(r.e, i == 1);
        submit_lines(&r.at, &c, lines, 2, &tools, &q);
        client_wait(&c);
        EXPECT_INT(c.end, SCHED_DONE);
        EXPECT_INT(c.n_calls, 2);
        EXPECT_TEXT(c.name[0], "weather");
        EXPECT_TEXT(c.args[0].data, "{\"city\":\"Rome\"}{\"city\":\"Rome\"}");   /* of both choices */
        EXPECT(i == 0 || counter_get(&r.metrics.kv_corrupt) > 0);
        client_close(&c);
        rig_close(&r);
    }
    free(text);
}

TEST(a_conversation_that_makes_room_for_another_comes_back_from_disk)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_scratch("kv-evict"));
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ .disk = dir })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    char *system = long_text(600), *text = long_text(4000), *other = long_text(3000);
    other[0] = 'x';                             /* of the first, only 600 tokens are on disk from its prefill */
    const line one[] = { SYSTEM(system), USER(text) }, two[] = { USER(other) };
    ask(&r.at, &c, one, 2, &plain);
    char said[64];
    snprintf(said, sizeof said, "%s", c.text[0].len ? c.text[0].data : "");
    client_close(&c);
    ask(&r.at, &c, two, 1, &plain);
    client_close(&c);
    kvstore_wait(r.store, NULL);
    EXPECT(histogram_below(&r.metrics.kv_save[KV_SAVE_EVICT], r.metrics.kv_save[KV_SAVE_EVICT].n) == 1);
    const uint64_t before = prefilled(&r);
    const line more[] = { SYSTEM(system), USER(text), ASSISTANT(said), USER("more") };
    if (ask(&r.at, &c, more, 4, &plain)) {
        EXPECT(prefilled(&r) - before < 32);
        EXPECT_INT(counter_get(&r.metrics.cached_tokens[SOURCE_DISK]), c.usage.cached_tokens);
        expect_as_cold(more, 4, &plain, c.text[0].data);
    }
    client_close(&c);
    free(system);
    free(text);
    free(other);
    rig_close(&r);
}

TEST(a_long_prompt_is_saved_on_its_way)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_scratch("kv-continued"));
    rig r;
    client c;
    char *system = long_text(600), *text = long_text(11000);
    const line lines[] = { SYSTEM(system), USER(text) };
    if (!rig_open(&r, &(rig_options){ .disk = dir, .ctx = 32768 })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &c, lines, 2, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    while (prefilled(&r) <= 10240) {
        fake_allow_steps(r.e, 1);
        EXPECT(fake_wait_at_gate(r.e, 20000));
        kvstore_wait(r.store, NULL);            /* a save that finds another at work does not happen */
    }
    client_close(&c);                           /* gone before the end, and the process dies */
    fake_allow_steps(r.e, -1);
    for (int i = 0; i < 5000 && busy_slots(&r); i++) pause_ms(1);
    kvstore_wait(r.store, NULL);
    EXPECT(histogram_below(&r.metrics.kv_save[KV_SAVE_CONTINUED], r.metrics.kv_save[KV_SAVE_CONTINUED].n) == 1);
    rig_close(&r);

    if (!rig_open(&r, &(rig_options){ .disk = dir, .ctx = 32768 })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    if (ask(&r.at, &c, lines, 2, &plain)) {
        EXPECT(c.usage.cached_tokens >= 10240);
        rig cold;
        client again;
        if (rig_open(&cold, &(rig_options){ .ctx = 32768 })) {
            fake_rule(cold.e, "", 0, "state $STATE");
            if (ask(&cold.at, &again, lines, 2, &plain)) EXPECT_TEXT(c.text[0].data, again.text[0].data);
            client_close(&again);
            rig_close(&cold);
        }
    }
    client_close(&c);
    free(system);
    free(text);
    rig_close(&r);
}

/* ---- who goes first ------------------------------------------------------------------------ */

TEST(a_short_request_speaks_within_three_steps_while_a_long_prompt_is_computed)
{
    rig r;
    client big, small, talker;
    if (!rig_open(&r, &(rig_options){ .slots = 3, .ctx = 32768 })) return;
    char *text = long_text(20000), *speech = long_text(200);
    fake_rule(r.e, "talk", 0, speech);
    free(speech);
    const line lines[] = { USER(text) }, brief[] = { USER("hi") }, talk[] = { USER("talk") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &talker, talk, 1, &plain, NULL);
    submit_lines(&r.at, &big, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    for (int i = 0; i < 10; i++) {
        fake_allow_steps(r.e, 1);
        EXPECT(fake_wait_at_gate(r.e, 20000));
    }
    client_poll(&talker);
    EXPECT(talker.begun);
    const uint64_t before = fake_steps(r.e);
    submit_lines(&r.at, &small, brief, 1, &plain, NULL);
    while (!small.begun && fake_steps(r.e) < before + 20) {
        fake_allow_steps(r.e, 1);
        EXPECT(fake_wait_at_gate(r.e, 20000));
        client_poll(&small);
    }
    client_poll(&big);
    EXPECT(!big.begun);
    EXPECT(fake_steps(r.e) - before <= 3);
    fake_allow_steps(r.e, -1);
    client_wait(&small);
    client_wait(&talker);
    client_wait(&big);
    EXPECT(histogram_below(&r.metrics.ttft.usual, r.metrics.ttft.usual.n) == 3);
    client_close(&small);
    client_close(&talker);
    client_close(&big);
    free(text);
    rig_close(&r);
}

TEST(a_long_chunk_gives_way_to_a_short_request_but_not_twice_in_a_row)
{
    rig r;
    client big, small[2];
    if (!rig_open(&r, &(rig_options){ .slots = 3, .ctx = 32768 })) return;
    char *text = long_text(20000);
    const line lines[] = { USER(text) }, brief[] = { USER("hi") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &big, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    for (int i = 0; i < 6; i++) {
        fake_allow_steps(r.e, 1);
        EXPECT(fake_wait_at_gate(r.e, 20000));
    }
    const uint64_t steps = fake_steps(r.e), now = fake_now_ns();
    submit_lines(&r.at, &small[0], brief, 1, &plain, NULL);
    fake_allow_steps(r.e, 1);                   /* the chunk at the gate is broken off */
    EXPECT(fake_wait_at_gate(r.e, 20000));
    EXPECT_INT(fake_steps(r.e), steps);
    submit_lines(&r.at, &small[1], brief, 1, &plain, NULL);
    fake_allow_steps(r.e, 1);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    EXPECT_INT(fake_steps(r.e), steps + 1);
    client_poll(&small[0]);
    EXPECT(small[0].begun);
    EXPECT(fake_now_ns() - now < 3 * FAKE_STEP_NS + 150000000);
    fake_allow_steps(r.e, -1);
    for (int i = 0; i < 2; i++) {
        client_wait(&small[i]);
        client_close(&small[i]);
    }
    client_wait(&big);
    client_close(&big);
    free(text);
    rig_close(&r);
}

TEST(three_short_requests_may_pass_a_long_one_and_no_more)
{
    rig r;
    client running, big, small[5];
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    char *text = long_text(3000);
    const line lines[] = { USER(text) }, brief[] = { USER("hi") };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    fake_allow_steps(r.e, 0);
    q.id = "first";
    submit_lines(&r.at, &running, brief, 1, &plain, &q);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    q.id = "Long-L";
    submit_lines(&r.at, &big, lines, 1, &plain, &q);
    q.id = "short-s";
    for (int i = 0; i < 5; i++) submit_lines(&r.at, &small[i], brief, 1, &plain, &q);
    fake_allow_steps(r.e, -1);
    client_wait(&running);
    client_wait(&big);
    for (int i = 0; i < 5; i++) client_wait(&small[i]);
    EXPECT_TEXT(r.order, "tsssLss");
    for (int i = 0; i < 5; i++) client_close(&small[i]);
    client_close(&running);
    client_close(&big);
    free(text);
    rig_close(&r);
}

TEST(a_full_queue_refuses_and_tells_when_to_come_back)
{
    rig r;
    client c[3];
    if (!rig_open(&r, &(rig_options){ .queue = 2 })) return;
    const line lines[] = { USER("hi") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &c[0], lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &c[1], lines, 1, &plain, NULL);
    submit_lines(&r.at, &c[2], lines, 1, &plain, NULL);

    reuse_prompt p;
    chat_start start;
    sched_ticket *t;
    int retry = 0;
    ds4_error err;
    if (render(&r.at, lines, 1, &plain, &p, &start)) {
        sched_request q = request(&p, start);
        EXPECT_INT(sched_submit(r.s, &q, &t, &retry, &err), DS4_EFULL);
        EXPECT(retry >= 1 && retry <= 60);
        EXPECT(!t && p.tokens.n == 0);
    }
    fake_allow_steps(r.e, -1);
    for (int i = 0; i < 3; i++) {
        client_wait(&c[i]);
        client_close(&c[i]);
    }
    rig_close(&r);
}

TEST(a_title_is_made_beside_the_conversation_on_a_single_slot)
{
    rig r;
    client main, title, later;
    if (!rig_open(&r, &(rig_options){ .side = 1024 })) return;
    fake_rule(r.e, "title", 0, "A title");
    fake_rule(r.e, "", 0, "state $STATE");
    char *text = long_text(3000);
    line lines[4] = { SYSTEM(text), USER("work") };
    const line ask_title[] = { USER("title please") };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    q.side = true;

    /* While the conversation is computed, and again when it rests. */
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &main, lines, 2, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &title, ask_title, 1, &plain, &q);
    for (int i = 0; i < 3; i++) {
        fake_allow_steps(r.e, 1);
        EXPECT(fake_wait_at_gate(r.e, 20000));
    }
    client_poll(&title);
    EXPECT(title.begun);
    fake_allow_steps(r.e, -1);
    client_wait(&title);
    client_wait(&main);
    EXPECT_TEXT(title.text[0].data, "A title");
    client_close(&title);
    submit_lines(&r.at, &title, ask_title, 1, &plain, &q);
    client_wait(&title);

    client_close(&title);
    fake_pass_ns(UINT64_C(3600000000000));      /* after lunch */
    submit_lines(&r.at, &title, ask_title, 1, &plain, &q);
    client_wait(&title);

    lines[2] = (line)ASSISTANT(main.text[0].data);
    lines[3] = (line)USER("more");
    const uint64_t before = prefilled(&r);
    if (ask(&r.at, &later, lines, 4, &plain)) {
        EXPECT(prefilled(&r) - before < 16);
        expect_as_cold(lines, 4, &plain, later.text[0].data);
    }
    client_close(&later);
    client_close(&title);
    client_close(&main);
    free(text);
    rig_close(&r);
}

/* ---- how requests end ---------------------------------------------------------------------- */

TEST(a_cancelled_request_leaves_within_one_step_whatever_it_was_doing)
{
    rig r;
    client a, b;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    char *text = long_text(3000);
    const line lines[] = { USER(text) }, brief[] = { USER("hi") };
    fake_rule(r.e, "", 0, "a long answer 0123456789012345678901234567890123456789");

    /* In the queue. */
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &a, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &b, brief, 1, &plain, NULL);
    sched_cancel(b.t);
    EXPECT(client_poll(&b));
    EXPECT_INT(b.error.status, DS4_ECANCELLED);
    EXPECT_INT(counter_get(&r.metrics.waiting), 0);
    client_close(&b);

    /* In the prompt: the step at work ends, and the next request has the slot. */
    submit_lines(&r.at, &b, brief, 1, &plain, NULL);
    sched_cancel(a.t);
    const uint64_t steps = fake_steps(r.e);
    fake_allow_steps(r.e, 1);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    EXPECT_INT(fake_steps(r.e), steps);         /* nobody wanted it: it was broken off */
    EXPECT(client_poll(&a));
    EXPECT_INT(a.finish, FINISH_CANCELLED);
    EXPECT_INT(counter_get(&r.metrics.cancelled[PHASE_PREFILL]), 1);
    client_poll(&b);
    EXPECT(b.admitted);
    client_close(&a);

    /* In the answer, by a reader that just goes. */
    for (int i = 0; i < 3; i++) {
        fake_allow_steps(r.e, 1);
        EXPECT(fake_wait_at_gate(r.e, 20000));
    }
    client_poll(&b);
    EXPECT(b.begun);
    client_close(&b);
    fake_allow_steps(r.e, 1);
    for (int i = 0; i < 2000 && busy_slots(&r); i++) pause_ms(1);
    EXPECT_INT(busy_slots(&r), 0);
    EXPECT_INT(counter_get(&r.metrics.cancelled[PHASE_DECODE]), 1);
    fake_allow_steps(r.e, -1);

    /* What was computed of the long prompt is there for the next try. */
    const uint64_t before = prefilled(&r);
    if (ask(&r.at, &a, brief, 1, &plain)) EXPECT(prefilled(&r) - before < 16);
    client_close(&a);
    free(text);
    rig_close(&r);
}

TEST(a_repeated_request_goes_on_where_the_cancelled_one_stopped)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    char *text = long_text(3000);
    const line lines[] = { USER(text) };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &c, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    fake_allow_steps(r.e, 3);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    client_close(&c);
    fake_allow_steps(r.e, -1);
    if (ask(&r.at, &c, lines, 1, &plain)) {
        EXPECT(c.usage.cached_tokens >= 1000);
        expect_as_cold(lines, 1, &plain, c.text[0].data);
    }
    client_close(&c);
    free(text);
    rig_close(&r);
}

TEST(an_orphaned_prompt_is_finished_when_nobody_waits)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ .orphans = true })) return;
    fake_rule(r.e, "", 0, "state $STATE");
    char *text = long_text(3000);
    const line lines[] = { USER(text) };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &c, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    client_close(&c);
    fake_allow_steps(r.e, -1);
    for (int i = 0; i < 5000 && busy_slots(&r); i++) pause_ms(1);
    const uint64_t before = prefilled(&r);
    if (ask(&r.at, &c, lines, 1, &plain)) {
        EXPECT_INT(prefilled(&r) - before, 0);
        EXPECT_INT(c.finish, FINISH_STOP);
        expect_as_cold(lines, 1, &plain, c.text[0].data);
    }
    client_close(&c);
    free(text);
    rig_close(&r);
}

TEST(a_reader_that_does_not_come_is_cancelled_and_delays_nobody)
{
    rig r;
    client lazy, busy;
    if (!rig_open(&r, &(rig_options){ .slots = 2, .ctx = 65536 })) return;
    char *endless = long_text(40000);
    fake_rule(r.e, "endless", 0, endless);
    const line lines[] = { USER("endless") }, brief[] = { USER("hi") };
    sched_request q = request(NULL, CHAT_STARTS_TEXT);
    q.max_tokens = 60000;
    q.logprobs = true;
    q.top_logprobs = 20;
    submit_lines(&r.at, &lazy, lines, 1, &plain, &q);
    for (int i = 0; i < 5; i++) {
        ask(&r.at, &busy, brief, 1, &plain);
        EXPECT_INT(busy.end, SCHED_DONE);
        client_close(&busy);
    }
    for (int i = 0; i < 20000 && busy_slots(&r); i++) pause_ms(1);
    EXPECT_INT(counter_get(&r.metrics.cancelled[PHASE_DECODE]), 1);
    EXPECT(client_poll(&lazy));
    EXPECT_INT(lazy.finish, FINISH_CANCELLED);
    client_close(&lazy);
    free(endless);
    rig_close(&r);
}

TEST(a_failing_step_fails_only_the_request_to_blame)
{
    rig r;
    client good, bad;
    if (!rig_open(&r, &(rig_options){ .slots = 2 })) return;
    const int32_t poison = vocab_find(r.at.v, "7", 1);
    fake_fail_on(r.e, poison);
    const line lines[] = { USER("hi") }, poisoned[] = { USER("a 7 here") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &good, lines, 1, &plain, NULL);
    submit_lines(&r.at, &bad, poisoned, 1, &plain, NULL);
    fake_allow_steps(r.e, -1);
    client_wait(&good);
    client_wait(&bad);
    EXPECT_INT(good.end, SCHED_DONE);
    EXPECT_TEXT(good.text[0].data, "ok");
    EXPECT_INT(bad.end, SCHED_FAILED);
    EXPECT_INT(bad.error.status, DS4_EDEVICE);
    client_close(&good);
    client_close(&bad);
    fake_fail_on(r.e, -1);
    if (ask(&r.at, &bad, poisoned, 1, &plain)) EXPECT_INT(bad.end, SCHED_DONE);
    client_close(&bad);
    rig_close(&r);
}

/* ---- a device that is lost ------------------------------------------------------------------ */

/* Until it is open again; false: it is not. */
static bool wait_until_back(rig *r)
{
    for (int i = 0; i < 20000 && sched_lost(r->s, NULL); i++) pause_ms(1);
    return !sched_lost(r->s, NULL);
}

/* A finished request's last token is in its slot too. */
static bool wait_until_idle(rig *r)
{
    sched_slot_status slots[4];
    for (int i = 0; i < 20000; i++, pause_ms(1)) {
        int busy = 0;
        for (int k = sched_status(r->s, slots, 4); k > 0; k--)
            busy += slots[k - 1].state == SLOT_PREFILL || slots[k - 1].state == SLOT_DECODE;
        if (!busy) return true;
    }
    return false;
}

TEST(a_lost_device_ends_what_runs_and_is_opened_again)
{
    rig r;
    client first, second, waiting, after;
    if (!rig_open(&r, &(rig_options){ .slots = 2 })) return;
    const line lines[] = { USER("hi") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &first, lines, 1, &plain, NULL);
    submit_lines(&r.at, &second, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &waiting, lines, 1, &plain, NULL);  /* no slot is free: it waits through the loss */
    fake_lose_device(r.e, 0);
    fake_allow_steps(r.e, -1);
    client_wait(&first);
    EXPECT_INT(first.end, SCHED_FAILED);
    EXPECT_INT(first.error.status, DS4_EDEVICE);
    client_wait(&waiting);
    EXPECT_INT(waiting.end, SCHED_DONE);
    EXPECT_TEXT(waiting.text[0].data, "ok");
    client_wait(&second);
    EXPECT(wait_until_back(&r));
    EXPECT_INT(fake_reopenings(r.e), 1);
    if (ask(&r.at, &after, lines, 1, &plain)) EXPECT_TEXT(after.text[0].data, "ok");
    client_close(&first);
    client_close(&second);
    client_close(&waiting);
    client_close(&after);
    rig_close(&r);
}

TEST(while_the_device_stays_away_submissions_are_refused_and_the_next_attempts_go_on)
{
    rig r;
    client running, waiting, after;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    const line lines[] = { USER("hi") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &running, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &waiting, lines, 1, &plain, NULL);
    fake_lose_device(r.e, 2);
    fake_allow_steps(r.e, -1);
    client_wait(&running);
    client_wait(&waiting);                          /* the first attempt failed */
    EXPECT_INT(running.end, SCHED_FAILED);
    EXPECT_INT(waiting.end, SCHED_FAILED);
    EXPECT_INT(waiting.error.status, DS4_EDEVICE);
    EXPECT(strstr(waiting.error.message, "opened again") && strstr(waiting.error.message, "does not come back"));
    EXPECT_INT(counter_get(&r.metrics.device_losses), 1);
    EXPECT_INT(counter_get(&r.metrics.device_away), 1);

    reuse_prompt p;
    sched_ticket *t = NULL;
    ds4_error err;
    int retry_s = 0;
    EXPECT(sched_lost(r.s, &retry_s));
    EXPECT(retry_s >= 1);
    retry_s = 0;
    chat_start start;
    EXPECT(render(&r.at, lines, 1, &plain, &p, &start));
    const sched_request q = request(&p, start);
    EXPECT_INT(sched_submit(r.s, &q, &t, &retry_s, &err), DS4_EDEVICE);
    EXPECT(retry_s >= 1 && strstr(err.message, "opened again"));
    EXPECT(wait_until_back(&r));
    EXPECT_INT(fake_reopenings(r.e), 3);
    if (ask(&r.at, &after, lines, 1, &plain)) EXPECT_TEXT(after.text[0].data, "ok");
    client_close(&running);
    client_close(&waiting);
    client_close(&after);
    rig_close(&r);
}

TEST(a_device_that_is_lost_again_with_no_request_answered_between_is_opened_after_growing_pauses)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    const line lines[] = { USER("hi") };
    EXPECT_INT(counter_get(&r.metrics.device_losses), 0);
    for (int i = 0; i < 3; i++) {
        fake_lose_device(r.e, 0);
        ask(&r.at, &c, lines, 1, &plain);
        const uint64_t failed = clock_ns();
        EXPECT_INT(c.end, SCHED_FAILED);
        EXPECT_INT(c.error.status, DS4_EDEVICE);
        client_close(&c);
        EXPECT(wait_until_back(&r));
        if (i > 0) EXPECT(clock_ns() - failed > (i == 1 ? 200 : 400) * UINT64_C(1000000));
        EXPECT_INT(r.hesitations, i);
        EXPECT_INT(counter_get(&r.metrics.device_losses), i + 1);
        EXPECT_INT(counter_get(&r.metrics.device_away), 0);
    }
    if (ask(&r.at, &c, lines, 1, &plain)) EXPECT_TEXT(c.text[0].data, "ok");
    client_close(&c);
    EXPECT(wait_until_idle(&r));
    fake_lose_device(r.e, 0);
    ask(&r.at, &c, lines, 1, &plain);
    client_close(&c);
    EXPECT(wait_until_back(&r));
    EXPECT_INT(r.hesitations, 2);
    EXPECT_INT(fake_reopenings(r.e), 4);
    rig_close(&r);
}

TEST(a_scheduler_whose_device_does_not_come_back_can_be_closed)
{
    rig r;
    client c;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    const line lines[] = { USER("hi") };
    fake_lose_device(r.e, 1000000);
    ask(&r.at, &c, lines, 1, &plain);
    EXPECT_INT(c.end, SCHED_FAILED);
    client_close(&c);
    rig_close(&r);
}

static void *drain_now(void *arg)
{
    rig *r = arg;
    sched_drain(r->s, 0);
    return NULL;
}

TEST(draining_refuses_who_waits_and_ends_who_runs_by_length)
{
    rig r;
    client running, waiting;
    if (!rig_open(&r, &(rig_options){ 0 })) return;
    fake_rule(r.e, "", 0, "a long answer 0123456789012345678901234567890123456789");
    const line lines[] = { USER("hi") };
    fake_allow_steps(r.e, 0);
    submit_lines(&r.at, &running, lines, 1, &plain, NULL);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    submit_lines(&r.at, &waiting, lines, 1, &plain, NULL);
    fake_allow_steps(r.e, 4);
    EXPECT(fake_wait_at_gate(r.e, 20000));
    pthread_t drainer;
    pthread_create(&drainer, NULL, drain_now, &r);
    pause_ms(20);
    fake_allow_steps(r.e, -1);
    pthread_join(drainer, NULL);
    client_wait(&waiting);
    client_wait(&running);
    EXPECT_INT(waiting.end, SCHED_FAILED);
    EXPECT_INT(waiting.error.status, DS4_ECANCELLED);
    EXPECT_INT(running.end, SCHED_DONE);
    EXPECT_INT(running.finish, FINISH_LENGTH);
    EXPECT(running.text[0].len > 0);
    client_close(&waiting);
    client_close(&running);
    rig_close(&r);
}

/* ---- all together -------------------------------------------------------------------------- */

typedef struct {
    rig *r;
    int  number;
    int  prompt_tokens, cached_tokens, wrong;
} agent;

/* Twenty turns with a tool call and its result each, as an agent sends them. */
static void *run_agent(void *arg)
{
    agent *a = arg;
    char system[400], question[32], ids[20][64];
    snprintf(system, sizeof system, "You are agent %d of several. %s", a->number,
             "Long instructions follow here, the same for all of the agents that talk to this server at once.");
    snprintf(question, sizeof question, "begin %d", a->number);
    line lines[42] = { SYSTEM(system), USER(question) };
    int n = 2;
    for (int turn = 0; turn < 20; turn++) {
        client c;
        const render_options o = { .think = true, .tools = true, .hint = (uint64_t)a->number + 1 };
        if (!ask(&a->r->at, &c, lines, n, &o)) break;
        a->wrong += c.n_calls != 1 || c.finish != FINISH_TOOL_CALLS;
        if (turn > 1) {
            a->prompt_tokens += c.usage.prompt_tokens;
            a->cached_tokens += c.usage.cached_tokens;
        }
        snprintf(ids[turn], sizeof ids[turn], "%s", c.id[0]);
        client_close(&c);
        lines[n++] = (line){ .role = "assistant", .call = "weather", .args = "{\"city\":\"Rome\"}", .id = ids[turn],
                             .reasoning = "hm" };
        lines[n++] = (line)RESULT(ids[turn], "rain");
    }
    return NULL;
}

TEST(eight_agents_reuse_what_they_computed)
{
    rig r;
    agent agents[8];
    pthread_t threads[8];
    if (!rig_open(&r, &(rig_options){ .slots = 8 })) return;
    fake_rule(r.e, "", 0, "hm</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n"
              "<｜DSML｜parameter name=\"city\" string=\"true\">Rome</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>");
    for (int i = 0; i < 8; i++) {
        agents[i] = (agent){ .r = &r, .number = i };
        pthread_create(&threads[i], NULL, run_agent, &agents[i]);
    }
    int prompt = 0, cached = 0, wrong = 0;
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        prompt += agents[i].prompt_tokens;
        cached += agents[i].cached_tokens;
        wrong += agents[i].wrong;
    }
    EXPECT_INT(wrong, 0);
    EXPECT(prompt > 0 && (double)cached / prompt > 0.9);
    for (int i = 0; i < 2000 && busy_slots(&r); i++) pause_ms(1);
    EXPECT_INT(counter_get(&r.metrics.running), 0);
    rig_close(&r);
}

/* Requests of all kinds: some are read to the end, some cancelled early or late, some just left. */
static void *run_crowd(void *arg)
{
    agent *a = arg;
    random_stream rng;
    random_seed(&rng, (uint64_t)a->number + 1);
    for (int i = 0; i < 120; i++) {
        char text[64];
        client c;
        snprintf(text, sizeof text, "question %d", (int)random_below(&rng, 20));
        const bool tools = random_below(&rng, 3) == 0, long_system = random_below(&rng, 4) == 0;
        char *system = long_text(long_system ? 900 : 10);
        const line lines[] = { SYSTEM(system), USER(text) };
        sched_request q = request(NULL, CHAT_STARTS_TEXT);
        q.side = random_below(&rng, 4) == 0;
        q.n = random_below(&rng, 5) == 0 ? 2 : 1;
        q.logprobs = random_below(&rng, 4) == 0;
        q.prompt_logprobs = random_below(&rng, 16) == 0;
        q.max_tokens = (int)random_below(&rng, 40);
        q.choice = tools ? (tool_choice)random_below(&rng, 4) : CHOOSE_AUTO;
        q.forced_tool = slice_of("weather");
        q.sampling.temperature = random_below(&rng, 2) ? 0 : 1;
        q.sampling.seed = random_u64(&rng);
        const render_options o = { .tools = tools, .think = random_below(&rng, 2) };
        const bool there = submit_lines(&a->r->at, &c, lines, 2, &o, &q);
        a->wrong += !there;
        switch (there ? random_below(&rng, 4) : 3) {
        case 0: pause_ms((int)random_below(&rng, 3)); break;
        case 1: sched_cancel(c.t); client_wait(&c); break;
        default: a->wrong += !client_wait(&c) || (c.end == SCHED_DONE && c.n_finished != q.n); break;
        }
        client_close(&c);
        free(system);
    }
    return NULL;
}

TEST(a_crowd_that_comes_and_goes_leaves_every_slot_free)
{
    char dir[512];
    snprintf(dir, sizeof dir, "%s", test_scratch("kv-crowd"));
    rig r;
    agent agents[8];
    pthread_t threads[8];
    if (!rig_open(&r, &(rig_options){ .slots = 3, .side = 1024, .queue = 100, .disk = dir })) return;
    fake_rule(r.e, "", 0, "well</think>some words\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"weather\">\n\n"
              "</｜DSML｜invoke>\n</｜DSML｜tool_calls>");
    for (int i = 0; i < 8; i++) {
        agents[i] = (agent){ .r = &r, .number = i };
        pthread_create(&threads[i], NULL, run_crowd, &agents[i]);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        EXPECT_INT(agents[i].wrong, 0);
    }
    uint64_t ended = 0;
    for (int i = 0; i < 5000 && (busy_slots(&r) || ended < 8 * 120); i++) {
        pause_ms(1);
        ended = 0;
        for (int k = 0; k < ENDED_KINDS; k++) ended += counter_get(&r.metrics.ended[k]);
    }
    EXPECT_INT(busy_slots(&r), 0);
    EXPECT_INT(counter_get(&r.metrics.waiting), 0);
    EXPECT_INT(ended, 8 * 120);
    EXPECT_INT(counter_get(&r.metrics.ended[ENDED_ERROR]), 0);
    rig_close(&r);
}
