/* What the scheduler answers, whom it serves first, how requests end. */
#include "sched_rig.h"

#include "base/random.h"

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
