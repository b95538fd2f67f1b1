/* Reuse without a model: conversations of many turns with the habits of real clients, and each decision alone. */
#include "reuse_sim.h"

/* ---- twenty turns of each client ------------------------------------------------------------- */

static const habits clients[] = {
    { .name = "Claude Code", .results_reversed = true, .system_in_the_middle = true, .rewrites_arguments = true },
    { .name = "Codex" },
    { .name = "opencode", .rewrites_arguments = true },
    { .name = "Pi", .rewrites_arguments = true, .trims_text = true },
    { .name = "generic", .reasoning = DROPS_REASONING, .trims_text = true },
    { .name = "generic without ids", .reasoning = DROPS_REASONING, .no_replay = true },
    { .name = "drops old reasoning", .reasoning = DROPS_OLD_REASONING },
    { .name = "web front end", .reasoning = DROPS_REASONING, .adds_newline = true, .no_thinking = true },
};

typedef struct {
    int prompt, kept;           /* tokens of the steady state */
    int worst;                  /* suffix beyond the new bytes */
} score;

static void add_record(replay_memory *replay, const answer_turn *turn)
{
    slice ids[4], names[4], arguments[4];
    ds4_error err;
    for (int i = 0; i < turn->n_calls; i++) {
        ids[i] = turn->calls[i].id;
        names[i] = turn->calls[i].name;
        arguments[i] = turn->calls[i].arguments;
    }
    const replay_record r = { turn->block, turn->reasoning_closed, ids, names, arguments, turn->n_calls };
    if (replay && turn->n_calls) EXPECT_OK(replay_add(replay, &r, &err), err);
}

/* One request and its answer; fresh: bytes that the session can not know yet. */
static void take_turn(talk *t, sim *s, replay_memory *replay, int n_calls, size_t fresh, score *sum)
{
    reuse_prompt p;
    talk_request(t, replay, &p);
    const sim_served served = sim_serve(s, &p);
    sim_expect_timeline(s, &p);
    if (sum) {
        const int beyond = served.suffix - (int)fresh;
        sum->prompt += p.key.n;
        sum->kept += p.key.n - served.suffix;
        if (beyond > sum->worst) sum->worst = beyond;
        if (beyond > 300)
            test_fail(__FILE__, __LINE__, "%s: %d tokens computed for %zu new bytes (%s)", t->h.name, served.suffix,
                                    fresh, reuse_method_name(served.match.method));
    }
    const answer_turn turn = talk_turn(t, n_calls);
    sim_answer(s, &t->r, &p, &turn);
    add_record(replay, &turn);
    reuse_prompt_close(&p);
}

static score talk_long(habits h, uint64_t seed, bool with_replay, int turns)
{
    talk *t = malloc(sizeof *t);
    replay_memory *replay = NULL;
    ds4_error err;
    score sum = { 0 };
    sim s;
    sim_open(&s);
    talk_open(t, seed, h, 30000);
    if (with_replay) EXPECT_OK(replay_open(&replay, 1000, 1 << 20, &err), err);
    talk_say(t, CHAT_USER, pool_random(&t->pool, &t->r, 400));
    size_t fresh = 0;
    for (int i = 0; i < turns; i++) {
        const int n_calls = i % 5 == 4 ? 0 : 1 + (int)random_below(&t->r, 3);
        take_turn(t, &s, replay, n_calls, fresh, i < 2 ? NULL : &sum);
        fresh = 40;
        if (h.system_in_the_middle && i % 3 == 0) {
            talk_say(t, CHAT_SYSTEM, pool_random(&t->pool, &t->r, 60));
            fresh += 100;
        }
        if (n_calls) {
            if (h.system_in_the_middle && i % 3 == 0) {             /* results stand right behind the calls */
                const said reminder = t->all[--t->n];
                fresh += talk_results(t, 120);
                t->all[t->n++] = reminder;
            } else {
                fresh += talk_results(t, 120);
            }
        } else {
            talk_say(t, CHAT_USER, pool_random(&t->pool, &t->r, 150));
            fresh += t->all[t->n - 1].m.text.len;
        }
    }
    replay_close(replay);
    talk_close(t);
    sim_close(&s);
    free(t);
    return sum;
}

TEST(twenty_turns_of_each_client_keep_what_was_computed)
{
    for (size_t i = 0; i < countof(clients); i++) {
        for (int with_replay = 0; with_replay < 2; with_replay++) {
            const score sum = talk_long(clients[i], test_seed() + i, with_replay, 22);
            const double share = (double)sum.kept / sum.prompt;
            if (share < 0.98)
                test_fail(__FILE__, __LINE__, "%s: %.2f %% of %d tokens were kept", clients[i].name, 100 * share,
                          sum.prompt);
        }
    }
}

/* ---- one decision at a time ------------------------------------------------------------------- */

typedef struct {
    talk *t;
    sim   s;
} pair;

static pair pair_open(habits h, size_t system_bytes)
{
    pair p = { .t = malloc(sizeof *p.t) };
    sim_open(&p.s);
    talk_open(p.t, test_seed(), h, system_bytes);
    talk_say(p.t, CHAT_USER, slice_of("What is in main.c?"));
    return p;
}

static void pair_close(pair *p)
{
    talk_close(p->t);
    free(p->t);
    sim_close(&p->s);
}

/* A request with its answer. */
static void round_of(pair *p, int n_calls)
{
    take_turn(p->t, &p->s, NULL, n_calls, 0, NULL);
    if (n_calls) talk_results(p->t, 60);
    else talk_say(p->t, CHAT_USER, slice_of("And now?"));
}

/* What a request would get, with nothing moved. */
static reuse_match match_now(pair *p, reuse_prompt *prompt)
{
    const reuse_session session = sim_session(&p->s);
    talk_request(p->t, NULL, prompt);
    return reuse_match_slot(prompt, &p->s.slot, &session, p->s.v);
}

static void expect_method(pair *p, reuse_method want, int keep)
{
    reuse_prompt prompt;
    const reuse_match m = match_now(p, &prompt);
    EXPECT_TEXT(reuse_method_name(m.method), reuse_method_name(want));
    if (keep >= 0) EXPECT_INT(m.keep, keep);
    reuse_prompt_close(&prompt);
}

/* The miss, and that its sentence holds `part`. */
static void expect_miss(pair *p, reuse_miss want, const char *part)
{
    reuse_prompt prompt;
    bytes why;
    bytes_init(&why, SIZE_MAX);
    const reuse_match m = match_now(p, &prompt);
    const reuse_miss miss = reuse_explain(&prompt, &p->s.slot, &m, p->s.v, &why, &why);
    EXPECT_TEXT(reuse_miss_name(miss), reuse_miss_name(want));
    const char *told = why.len ? why.data : "";
    if (!strstr(told, part)) test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", told, part);
    reuse_prompt_close(&prompt);
    bytes_free(&why);
}

static const habits keeps = { .name = "keeps" }, drops = { .name = "drops", .reasoning = DROPS_REASONING };

/* A turn of our own words, in place of a random one. */
static void answer_with(pair *p, const char *reasoning, const char *text, bool closed)
{
    reuse_prompt prompt;
    talk_request(p->t, NULL, &prompt);
    sim_serve(&p->s, &prompt);
    const answer_turn turn = { .reasoning = slice_of(reasoning), .text = slice_of(text), .block = { "", 0 },
                               .reasoning_closed = closed };
    sim_answer(&p->s, NULL, &prompt, &turn);
    p->t->all[p->t->n++] = (said){ .m = { .role = CHAT_ASSISTANT, .reasoning = turn.reasoning, .text = turn.text } };
    reuse_prompt_close(&prompt);
}

TEST(an_empty_slot_is_cold)
{
    pair p = pair_open(keeps, 200);
    expect_method(&p, REUSE_COLD, 0);
    expect_miss(&p, MISS_EMPTY, "empty");
    pair_close(&p);
}

TEST(results_of_the_last_calls_find_the_turn_by_its_ids)
{
    pair p = pair_open(drops, 200);
    round_of(&p, 2);
    said *calls = &p.t->all[p.t->n - 3];
    calls->sent[0].arguments = slice_of("{\"path\":\"what the client made of it\"}");
    calls->m.text = slice_of("and of the text");
    expect_method(&p, REUSE_LIVE_ID, p.s.slot.key.n);

    p.t->n--;                                       /* one result is missing: the ids are not all */
    expect_method(&p, REUSE_REWIND, -1);
    pair_close(&p);
}

TEST(a_client_that_sends_all_back_continues_token_by_token)
{
    pair p = pair_open(keeps, 200);
    answer_with(&p, "think", "answer", true);
    talk_say(p.t, CHAT_USER, slice_of("more"));
    expect_method(&p, REUSE_LIVE_TOKEN, p.s.slot.key.n);
    pair_close(&p);
}

TEST(a_turn_is_recognised_by_sight_however_it_is_replayed)
{
    static const struct { const char *reasoning, *text; reuse_method want; } replays[] = {
        { "think", "answer\n", REUSE_LIVE_VISIBLE },
        { " think\n", "  answer", REUSE_LIVE_VISIBLE },
        { "", "answer", REUSE_LIVE_VISIBLE },
        { "other", "answer", REUSE_REWIND },
        { "think", "another", REUSE_REWIND },
        { "", "", REUSE_REWIND },
    };
    pair p = pair_open(keeps, 200);
    answer_with(&p, "think", "answer", true);
    talk_say(p.t, CHAT_USER, slice_of("more"));
    for (size_t i = 0; i < countof(replays); i++) {
        chat_message *m = &p.t->all[p.t->n - 2].m;
        m->reasoning = slice_of(replays[i].reasoning);
        m->text = slice_of(replays[i].text);
        expect_method(&p, replays[i].want, replays[i].want == REUSE_REWIND ? -1 : p.s.slot.key.n);
    }
    pair_close(&p);
}

TEST(reasoning_that_the_template_drops_stays_unless_it_must_not)
{
    pair p = pair_open(keeps, 200);
    p.t->n_tools = 0;
    answer_with(&p, "think", "answer", true);
    talk_say(p.t, CHAT_USER, slice_of("more"));
    expect_method(&p, REUSE_LIVE_VISIBLE, p.s.slot.key.n);
    p.s.strict = true;
    expect_method(&p, REUSE_REWIND, -1);
    expect_miss(&p, MISS_REASONING_DROPPED, "");
    pair_close(&p);
}

TEST(reasoning_that_was_cut_is_closed_before_the_end_of_its_turn)
{
    for (int keep = 0; keep < 2; keep++) {
        reuse_prompt prompt;
        pair p = pair_open(keep ? keeps : drops, 200);
        answer_with(&p, "it goes on and", "", false);
        talk_say(p.t, CHAT_USER, slice_of("more"));
        const reuse_match m = match_now(&p, &prompt);
        EXPECT_INT(m.keep, p.s.slot.key.n);
        EXPECT_INT(prefix_key_mark(prefix_key_bytes(&prompt.key), m.from), vocab_special(p.s.v)->end_think);
        reuse_prompt_close(&prompt);
        pair_close(&p);
    }
}

TEST(the_same_prompt_again_needs_no_step)
{
    for (int client = 0; client < 2; client++) {
        reuse_prompt prompt;
        pair p = pair_open(client ? keeps : drops, 200);
        for (int i = 0; i < 4; i++) round_of(&p, i % 2);
        take_turn(p.t, &p.s, NULL, 0, 0, NULL);
        p.t->n--;                                   /* "regenerate" */
        const reuse_match m = match_now(&p, &prompt);
        EXPECT_TEXT(reuse_method_name(m.method), "rewind");
        EXPECT_INT(m.from, prompt.key.data.len);
        const sim_served served = sim_apply(&p.s, &prompt, m);
        EXPECT_INT(served.suffix, 0);
        sim_expect_timeline(&p.s, &prompt);

        /* and once more, from right there */
        const answer_turn turn = talk_turn(p.t, 0);
        sim_answer(&p.s, &p.t->r, &prompt, &turn);
        talk_say(p.t, CHAT_USER, slice_of("good"));
        expect_method(&p, REUSE_LIVE_VISIBLE, p.s.slot.key.n);
        reuse_prompt_close(&prompt);
        pair_close(&p);
    }
}

TEST(without_logits_the_last_token_is_computed_again)
{
    reuse_prompt prompt;
    pair p = pair_open(keeps, 200);
    take_turn(p.t, &p.s, NULL, 0, 0, NULL);
    p.t->n--;
    for (int i = 0; i < p.s.n_points; i++) p.s.logits[i] = false;
    const reuse_match m = match_now(&p, &prompt);
    EXPECT_INT(m.keep, prompt.key.n - 2);           /* the point in front of ASSISTANT */
    EXPECT(m.aligned);
    reuse_prompt_close(&prompt);
    pair_close(&p);
}

TEST(an_edited_question_costs_its_turn_also_behind_turns_replayed_without_reasoning)
{
    pair p = pair_open(drops, 2000);
    for (int i = 0; i < 6; i++) round_of(&p, i % 2);
    take_turn(p.t, &p.s, NULL, 0, 0, NULL);
    p.t->n--;
    p.t->all[p.t->n - 1].m.text = slice_of("something else instead");
    reuse_prompt prompt;
    const reuse_match m = match_now(&p, &prompt);
    EXPECT_TEXT(reuse_method_name(m.method), "rewind");
    EXPECT(!m.aligned);
    EXPECT(prompt.key.data.len - m.from < 100);
    sim_apply(&p.s, &prompt, m);
    sim_expect_timeline(&p.s, &prompt);
    reuse_prompt_close(&prompt);
    pair_close(&p);
}

TEST(reasoning_dropped_from_old_turns_later_does_not_lose_what_follows)
{
    pair p = pair_open((habits){ .name = "drops old", .reasoning = DROPS_OLD_REASONING }, 2000);
    for (int i = 0; i < 8; i++) round_of(&p, i < 7);            /* seven tool turns, then an answer and a question */
    expect_method(&p, REUSE_LIVE_VISIBLE, p.s.slot.key.n);
    pair_close(&p);
}

TEST(an_answer_that_was_not_sent_still_tells_how_the_client_spells_the_history)
{
    pair p = pair_open((habits){ .name = "drops old", .reasoning = DROPS_OLD_REASONING }, 2000);
    reuse_prompt prompt;
    ds4_error err;
    for (int i = 0; i < 6; i++) round_of(&p, 1);
    talk_request(p.t, NULL, &prompt);
    sim_serve(&p.s, &prompt);
    const answer_turn turn = { .reasoning = slice_of(""), .text = slice_of("cut"), .block = { "", 0 } };
    sim_push(&p.s, vocab_find(p.s.v, "c", 1));
    EXPECT_OK(reuse_slot_finish(&p.s.slot, &prompt, &turn, true, p.s.v, &err), err);
    EXPECT_INT(p.s.slot.base, -1);
    reuse_prompt_close(&prompt);

    talk_say(p.t, CHAT_USER, slice_of("Stop. Something else."));
    const reuse_match m = match_now(&p, &prompt);
    EXPECT_TEXT(reuse_method_name(m.method), "rewind");
    EXPECT(prompt.key.data.len - m.from < 400);
    sim_apply(&p.s, &prompt, m);
    sim_expect_timeline(&p.s, &prompt);
    reuse_prompt_close(&prompt);
    pair_close(&p);
}

TEST(a_summary_in_place_of_the_history_keeps_the_system_part)
{
    pair p = pair_open(keeps, 3000);
    for (int i = 0; i < 5; i++) round_of(&p, 1);
    p.t->n = 1;
    talk_say(p.t, CHAT_USER, slice_of("So far: nothing."));
    expect_method(&p, REUSE_REWIND, p.s.points[0]);
    pair_close(&p);
}

TEST(text_that_ends_inside_a_token_is_not_guessed_at)
{
    /* A prompt was cut off in its question, between two tokens that are one in the next prompt. */
    pair p = pair_open(keeps, 200);
    reuse_prompt prompt;
    ds4_error err;
    p.t->all[1].m.text = slice_of("the file and the");
    talk_request(p.t, NULL, &prompt);
    const size_t cut = prefix_key_find(prefix_key_bytes(&prompt.key), 0,
                                       vocab_special(p.s.v)->user) + PREFIX_KEY_MARK_BYTES;
    const int n = prefix_key_count(&prompt.key, cut);
    EXPECT_OK(reuse_slot_push(&p.s.slot, p.s.v, prompt.tokens.ids, n, &err), err);
    sim_mark(&p.s, false);
    const int32_t t = vocab_find(p.s.v, "t", 1);
    EXPECT_OK(reuse_slot_push(&p.s.slot, p.s.v, &t, 1, &err), err);
    reuse_prompt_close(&prompt);
    expect_method(&p, REUSE_REWIND, n);
    pair_close(&p);
}

TEST(raw_prompts_continue_text_and_know_no_turns)
{
    const vocab *v = sim_vocab();
    static const char *const texts[] = { "once upon a time", "once upon a time there was", "once upon a",
                                         "once upon a timeless" };
    static const reuse_method want[] = { REUSE_LIVE_TOKEN, REUSE_LIVE_TEXT, REUSE_COLD, REUSE_COLD };
    for (size_t i = 0; i < countof(texts); i++) {
        sim s;
        reuse_prompt p;
        token_list l;
        ds4_error err;
        sim_open(&s);
        token_list_init(&l, SIZE_MAX);
        EXPECT_OK(tokenizer_encode(v, slice_of(i < 3 ? texts[0] : "once upon a ti"), false, &l, &err), err);
        if (i) EXPECT_OK(reuse_slot_push(&s.slot, v, l.ids, (int)l.n, &err), err);
        for (size_t k = 0; !i && k + 1 < l.n; k++) EXPECT_OK(reuse_slot_push(&s.slot, v, &l.ids[k], 1, &err), err);
        token_list_clear(&l);
        if (i == 1) {                               /* the session spells it in its own way */
            reuse_slot_clear(&s.slot);
            sim_spell(&s, NULL, slice_of("once upon a ti"), false, &l);
            sim_spell(&s, NULL, slice_of("me"), false, &l);
            EXPECT_OK(reuse_slot_push(&s.slot, v, l.ids, (int)l.n, &err), err);
            token_list_clear(&l);
        }
        EXPECT_OK(tokenizer_encode(v, slice_of(texts[i]), false, &l, &err), err);
        EXPECT_OK(reuse_prompt_open(&p, v, &l, &err), err);
        p.raw = true;
        const reuse_session session = sim_session(&s);
        const reuse_match m = reuse_match_slot(&p, &s.slot, &session, v);
        EXPECT_TEXT(reuse_method_name(m.method), reuse_method_name(want[i]));
        sim_apply(&s, &p, m);
        EXPECT(slice_equal(prefix_key_bytes(&s.slot.key), prefix_key_bytes(&p.key)));
        reuse_prompt_close(&p);
        sim_close(&s);
    }
}

/* ---- misses -------------------------------------------------------------------------------------- */

TEST(a_miss_names_its_reason_and_shows_where_the_texts_part)
{
    pair p = pair_open(keeps, 400);
    p.s.n_points = 0;
    answer_with(&p, "think", "The answer.", true);
    talk_say(p.t, CHAT_USER, slice_of("more of it"));
    answer_with(&p, "again", "Nothing more.", true);
    talk_say(p.t, CHAT_USER, slice_of("pity"));
    expect_miss(&p, MISS_NONE, "");

    said *all = p.t->all;
    const said kept[] = { all[0], all[2], all[3], all[4] };
    all[0].m.text = slice_of("Another system.\n\"quoted\"");
    expect_miss(&p, MISS_OTHER_SESSION, "Another system.\\n\\\"quoted\\\"");
    all[0] = kept[0];
    all[3].m.text = slice_of("less of it");
    expect_miss(&p, MISS_HISTORY_EDITED, "the prompt \"less of it");
    all[3] = kept[2];
    all[4].m.text = slice_of("Something more.");
    expect_miss(&p, MISS_HISTORY_EDITED, "the session says \"Nothing more.");
    all[4].m.reasoning = slice_of("");
    expect_miss(&p, MISS_REASONING_DROPPED, "again");
    all[4] = kept[3];
    all[1].m.text = slice_of("What else?");
    expect_miss(&p, MISS_OTHER_SESSION, "else?");
    pair_close(&p);
}

TEST(tools_that_came_and_went_are_named)
{
    pair p = pair_open(keeps, 400);
    reuse_prompt prompt;
    bytes why;
    answer_with(&p, "think", "The answer.", true);
    bytes_init(&why, SIZE_MAX);
    bytes_text(&p.s.slot.tool_names, "read\nbash\nnote");
    p.s.slot.tools_hash = 1;
    p.t->tools[2].name = slice_of("LSP");
    const reuse_match m = match_now(&p, &prompt);
    prompt.tools_hash = 2;
    prompt.tool_names = (slice){ strdup("read\nbash\nLSP"), 13 };
    EXPECT_INT(reuse_explain(&prompt, &p.s.slot, &m, p.s.v, &why, &why), MISS_TOOLS_CHANGED);
    EXPECT(strstr(why.data, "; tools +LSP -note") != NULL);
    bytes_free(&why);
    reuse_prompt_close(&prompt);
    pair_close(&p);
}

TEST(calls_and_blanks_are_told_apart_in_misses)
{
    pair p = pair_open(keeps, 400);
    talk_say(p.t, CHAT_USER, slice_of("go"));
    round_of(&p, 1);
    round_of(&p, 1);
    said *turn = &p.t->all[p.t->n - 4];
    while (turn->m.role != CHAT_ASSISTANT) turn--;
    turn->sent[0].arguments = slice_of("{\"path\":\"elsewhere.c\"}");
    expect_miss(&p, MISS_TOOLCALL_RESERIALISED, "");
    pair_close(&p);
}

/* ---- slots --------------------------------------------------------------------------------------- */

#define MINUTE (60 * UINT64_C(1000000000))

typedef struct {
    sim           s[4];
    reuse_slot   *slots[4];
    reuse_session sessions[4];
    int           n;
    reuse_prompt  p;
    reuse_request r;
} house;

/* The prompt is BOS, `shared` letters, and a question. */
static void house_open(house *h, int n, int shared)
{
    const special_tokens *special = vocab_special(sim_vocab());
    token_list l;
    ds4_error err;
    *h = (house){ .n = n, .r = { .now_ns = 100 * MINUTE } };
    token_list_init(&l, SIZE_MAX);
    token_list_push(&l, special->bos);
    for (int i = 0; i < shared; i++) token_list_push(&l, vocab_find(sim_vocab(), "a", 1));
    token_list_push(&l, special->user);
    token_list_push(&l, vocab_find(sim_vocab(), "q", 1));
    token_list_push(&l, special->assistant);
    token_list_push(&l, special->think);
    EXPECT_OK(reuse_prompt_open(&h->p, sim_vocab(), &l, &err), err);
    for (int i = 0; i < n; i++) {
        sim_open(&h->s[i]);
        h->slots[i] = &h->s[i].slot;
        h->sessions[i] = sim_session(&h->s[i]);
        h->slots[i]->last_used_ns = (uint64_t)(99 * MINUTE + i);
    }
}

/* The slot holds the prompt's first `same` tokens and then `other` more. */
static void fill(house *h, int slot, int same, int other)
{
    sim *s = &h->s[slot];
    ds4_error err;
    EXPECT_OK(reuse_slot_push(&s->slot, s->v, h->p.tokens.ids, same, &err), err);
    if (same) sim_mark(s, false);
    const int32_t z = vocab_find(s->v, "z", 1);
    for (int i = 0; i < other; i++) sim_push(s, z);
}

static reuse_choice choose(house *h)
{
    return reuse_choose(&h->p, &h->r, (const reuse_slot *const *)h->slots, h->sessions, h->n, sim_vocab());
}

static void house_close(house *h)
{
    for (int i = 0; i < h->n; i++) sim_close(&h->s[i]);
    reuse_prompt_close(&h->p);
}

TEST(no_slot_is_free_when_all_are_busy)
{
    house h;
    house_open(&h, 2, 10);
    h.slots[0]->busy = h.slots[1]->busy = true;
    EXPECT_INT(choose(&h).slot, -1);
    house_close(&h);
}

TEST(an_empty_slot_is_taken_rather_than_one_that_shares_only_the_system_part)
{
    house h;
    house_open(&h, 2, 1000);
    fill(&h, 0, 1001, 3000);
    const reuse_choice c = choose(&h);
    EXPECT_INT(c.slot, 1);
    EXPECT(!c.foreign);
    house_close(&h);
}

TEST(the_slot_that_holds_the_conversation_is_taken)
{
    house h;
    house_open(&h, 3, 3000);
    fill(&h, 1, 3001, 2000);
    const reuse_choice c = choose(&h);
    EXPECT_INT(c.slot, 1);
    EXPECT_INT(c.match.keep, 3001);
    EXPECT(!c.foreign && !c.side);
    house_close(&h);
}

TEST(of_other_conversations_a_stale_one_goes_then_the_least_recently_used)
{
    house h;
    house_open(&h, 3, 1000);
    for (int i = 0; i < 3; i++) fill(&h, i, i == 0 ? 1001 : 1, 5000);
    h.slots[0]->last_used_ns = 95 * MINUTE;
    h.slots[1]->last_used_ns = 94 * MINUTE;
    reuse_choice c = choose(&h);
    EXPECT_INT(c.slot, 1);
    EXPECT(c.foreign);
    h.slots[2]->last_used_ns = 80 * MINUTE;
    EXPECT_INT(choose(&h).slot, 2);
    house_close(&h);
}

TEST(a_hint_brings_a_conversation_back_to_its_slot)
{
    house h;
    house_open(&h, 3, 1000);
    fill(&h, 0, 1002, 300);
    fill(&h, 2, 1002, 9000);
    h.p.hints[h.p.n_hints++] = h.slots[2]->hints[h.slots[2]->n_hints++] = 77;
    EXPECT_INT(choose(&h).slot, 2);
    h.p.hints[0] = 78;
    EXPECT_INT(choose(&h).slot, 0);
    house_close(&h);
}

TEST(sessions_that_share_a_long_system_part_do_not_take_turns_on_one_slot)
{
    house h;
    house_open(&h, 2, 3000);
    fill(&h, 0, 3001, 1500);
    h.p.hints[h.p.n_hints++] = 77;
    EXPECT_INT(choose(&h).slot, 0);                 /* whose it is nobody knows: most of it is of use */
    h.slots[0]->hints[h.slots[0]->n_hints++] = 78;
    EXPECT_INT(choose(&h).slot, 1);
    fill(&h, 1, 1, 4000);
    h.slots[1]->last_used_ns = 99 * MINUTE;
    const reuse_choice c = choose(&h);
    EXPECT_INT(c.match.keep, 3001);                 /* no other: its session is saved first */
    EXPECT(c.slot == 0 && c.foreign);
    house_close(&h);
}

TEST(a_session_that_was_forked_goes_on_in_its_slot)
{
    house h;
    house_open(&h, 2, 3000);
    fill(&h, 0, 3001, 500);
    h.p.hints[h.p.n_hints++] = 77;
    h.slots[0]->hints[h.slots[0]->n_hints++] = 78;
    EXPECT_INT(choose(&h).slot, 0);
    house_close(&h);
}

TEST(a_side_request_takes_a_spare_slot_or_borrows_one)
{
    house h;
    house_open(&h, 2, 1000);
    h.r.side = true;
    fill(&h, 0, 1001, 500);
    EXPECT_INT(choose(&h).slot, 1);
    EXPECT(!choose(&h).side);
    fill(&h, 1, 1, 3000);
    reuse_choice c = choose(&h);
    EXPECT_INT(c.slot, 0);                          /* the shorter way */
    EXPECT(c.side && !c.foreign);
    h.slots[1]->last_used_ns = 10 * MINUTE;
    c = choose(&h);
    EXPECT_INT(c.slot, 1);
    EXPECT(!c.side && c.foreign);
    house_close(&h);
}

/* ---- memory of slots ------------------------------------------------------------------------------ */

TEST(a_slot_that_was_cut_anywhere_still_serves)
{
    for (int cut = 0;; cut += 37) {
        pair p = pair_open(drops, 300);
        for (int i = 0; i < 5; i++) round_of(&p, i % 2);
        const int n = p.s.slot.key.n;
        if (cut < n) {
            reuse_prompt prompt;
            reuse_slot_cut(&p.s.slot, cut);
            while (p.s.n_points && p.s.points[p.s.n_points - 1] > cut) p.s.n_points--;
            talk_request(p.t, NULL, &prompt);
            sim_serve(&p.s, &prompt);
            sim_expect_timeline(&p.s, &prompt);
            reuse_prompt_close(&prompt);
        }
        pair_close(&p);
        if (cut >= n) break;
    }
}

/* ---- sessions from disk --------------------------------------------------------------------------- */

/* What a restart leaves: the tokens, and the text they were stored under. */
static void reload(pair *p, bool visible)
{
    reuse_slot fresh;
    bytes text;
    ds4_error err;
    token_list tokens;
    bytes_init(&text, SIZE_MAX);
    token_list_init(&tokens, SIZE_MAX);
    const bool differs = reuse_visible_text(&p->s.slot, true, p->s.v, &text);
    EXPECT_INT(differs, visible);
    if (!differs) EXPECT_OK(prefix_key_text(prefix_key_bytes(&p->s.slot.key), p->s.v, &text, &err), err);
    EXPECT_OK(prefix_key_tokens(prefix_key_bytes(&p->s.slot.key), 0, p->s.v, &tokens, &err), err);
    reuse_slot_init(&fresh);
    EXPECT_OK(reuse_slot_push(&fresh, p->s.v, tokens.ids, (int)tokens.n, &err), err);
    reuse_slot_free(&p->s.slot);
    p->s.slot = fresh;
    p->s.n_points = 0;

    reuse_prompt prompt;
    bytes spelled;
    reuse_match m;
    bytes_init(&spelled, SIZE_MAX);
    talk_request(p->t, NULL, &prompt);
    EXPECT_OK(prefix_key_text(prefix_key_bytes(&prompt.key), p->s.v, &spelled, &err), err);
    EXPECT(spelled.len > text.len && memcmp(spelled.data, text.data, text.len) == 0);
    EXPECT(reuse_match_loaded(&prompt, &p->s.slot, text.len, p->s.v, &m));
    EXPECT_INT(m.keep, p->s.slot.key.n);
    EXPECT(prompt.key.data.len - m.from < 600);
    sim_apply(&p->s, &prompt, m);
    sim_expect_timeline(&p->s, &prompt);
    const answer_turn turn = talk_turn(p->t, 1);
    sim_answer(&p->s, &p->t->r, &prompt, &turn);
    talk_results(p->t, 60);
    expect_method(p, REUSE_LIVE_ID, p->s.slot.key.n);
    token_list_free(&tokens);
    bytes_free(&text);
    bytes_free(&spelled);
    reuse_prompt_close(&prompt);
}

TEST(a_stored_session_is_found_by_what_its_client_will_say)
{
    for (int client = 0; client < 2; client++) {
        pair p = pair_open(client ? keeps : drops, 500);
        for (int i = 0; i < 4; i++) {
            answer_with(&p, "think about it", "the answer", true);
            talk_say(p.t, CHAT_USER, slice_of("more"));
        }
        reload(&p, !client);
        pair_close(&p);
    }
}

TEST(a_session_in_the_middle_of_a_turn_is_stored_as_its_client_spells_it)
{
    for (int client = 0; client < 2; client++) {
        pair p = pair_open(client ? keeps : drops, 500);
        reuse_prompt prompt;
        bytes text, spelled;
        ds4_error err;
        for (int i = 0; i < 3; i++) {
            answer_with(&p, "think about it", "the answer", true);
            talk_say(p.t, CHAT_USER, slice_of("more"));
        }
        talk_request(p.t, NULL, &prompt);
        sim_serve(&p.s, &prompt);
        bytes_init(&text, SIZE_MAX);
        bytes_init(&spelled, SIZE_MAX);
        EXPECT_OK(prefix_key_text(prefix_key_bytes(&prompt.key), p.s.v, &spelled, &err), err);
        EXPECT_INT(reuse_visible_text(&p.s.slot, true, p.s.v, &text), !client);
        if (!client) EXPECT(slice_equal(bytes_slice(&text), bytes_slice(&spelled)));
        else EXPECT_INT(text.len, 0);
        bytes_free(&text);
        bytes_free(&spelled);
        reuse_prompt_close(&prompt);
        pair_close(&p);
    }
}

TEST(an_ambiguous_prompt_takes_a_stored_session_only_token_by_token)
{
    pair p = pair_open(keeps, 100);
    reuse_prompt prompt;
    reuse_match m;
    bytes text;
    ds4_error err;
    p.t->all[1].m.text = slice_of("what is <｜User｜>?");
    talk_request(p.t, NULL, &prompt);
    EXPECT(prompt.ambiguous);
    for (int real = 0; real < 2; real++) {
        token_list l;
        token_list_init(&l, SIZE_MAX);
        bytes_init(&text, SIZE_MAX);
        EXPECT_OK(prefix_key_text(prefix_key_bytes(&prompt.key), p.s.v, &text, &err), err);
        if (real) for (int i = 0; i < prompt.key.n; i++) token_list_push(&l, prompt.tokens.ids[i]);
        else EXPECT_OK(tokenizer_encode(p.s.v, bytes_slice(&text), true, &l, &err), err);     /* its tokens are another prompt's */
        reuse_slot_clear(&p.s.slot);
        EXPECT_OK(reuse_slot_push(&p.s.slot, p.s.v, l.ids, (int)l.n, &err), err);
        EXPECT_INT(reuse_match_loaded(&prompt, &p.s.slot, text.len, p.s.v, &m), real);
        token_list_free(&l);
        bytes_free(&text);
    }
    reuse_prompt_close(&prompt);
    pair_close(&p);
}

/* ---- anything a client may do --------------------------------------------------------------------- */

static habits random_habits(random_stream *r)
{
    return (habits){ .name = "random", .reasoning = (reasoning_habit)random_below(r, 3), .trims_text = random_below(r, 2),
                     .adds_newline = random_below(r, 3) == 0, .results_reversed = random_below(r, 2),
                     .rewrites_arguments = random_below(r, 2), .no_thinking = random_below(r, 5) == 0 };
}

/* Back to some earlier message, which is then another one. */
static void edit_history(talk *t)
{
    int i = 1 + (int)random_below(&t->r, (uint64_t)t->n - 1);
    while (i > 1 && t->all[i].m.role != CHAT_USER) i--;
    t->n = i;
    talk_say(t, CHAT_USER, pool_random(&t->pool, &t->r, 50));
}

TEST(whatever_clients_do_the_session_stays_a_timeline_of_the_model)
{
    random_stream r;
    random_seed(&r, test_seed());
    for (int round = 0; round < 40; round++) {
        pair p = pair_open(random_habits(&r), random_below(&r, 600));
        p.s.strict = random_below(&r, 4) == 0;
        if (random_below(&r, 4) == 0) p.t->n_tools = 0;
        for (int i = 0; i < 30; i++) {
            reuse_prompt prompt;
            if (random_below(&r, 8) == 0) {
                const bool thinks = p.t->h.no_thinking;
                p.t->h = random_habits(&r);                     /* another client goes on */
                p.t->h.no_thinking = thinks;
            }
            talk_request(p.t, NULL, &prompt);
            sim_serve(&p.s, &prompt);
            sim_expect_timeline(&p.s, &prompt);
            switch (random_below(&r, 8)) {
            case 0:                                             /* gone before the first token; asks the same again */
                break;
            case 1:                                             /* gone in the middle of the prompt */
                reuse_slot_cut(&p.s.slot, (int)random_below(&r, (uint64_t)p.s.slot.key.n + 1));
                while (p.s.n_points && p.s.points[p.s.n_points - 1] > p.s.slot.key.n) p.s.n_points--;
                break;
            case 2:
                edit_history(p.t);
                break;
            default: {
                const int n_calls = p.t->n_tools ? (int)random_below(&r, 3) : 0;
                const answer_turn turn = talk_turn(p.t, n_calls);
                sim_answer(&p.s, &p.t->r, &prompt, &turn);
                if (n_calls) talk_results(p.t, 50);
                if (!n_calls || random_below(&r, 6) == 0) talk_say(p.t, CHAT_USER, pool_random(&p.t->pool, &p.t->r, 40));
            }
            }
            reuse_prompt_close(&prompt);
        }
        pair_close(&p);
    }
}
