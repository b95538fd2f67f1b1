/* What the scheduler keeps of a conversation, in slots and on disk. */
#include "sched_rig.h"

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
    EXPECT_INT(counter_get(&r.metrics.misses[MISS_HISTORY_EDITED]) + counter_get(&r.metrics.misses[MISS_OTHER_SESSION]),
               1);
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
