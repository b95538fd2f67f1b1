/* The base of all prefix reuse: a turn that the model sampled, sent back by the client as
 * it was told about it, is rendered as the bytes and control tokens that were sampled. */
#include "base/random.h"
#include "text/answer.h"
#include "text/json_tree.h"
#include "text/replay.h"
#include "text_vocab.h"

enum { MAX_CALLS = 4, TURNS = 4 };

/* ---- a model ------------------------------------------------------------------- */

static const char *const words[] = {
    "I", " see", "\n", "\n\n", " ", " <b>", "é", "a < b", "\"", "\\", "&lt;", "</p>", "<", "｜", "😀", "{", "\t", "<think", "</thin",
};
/* Only in values. A plain </parameter> in front of a tag is taken for a wrong closer, so it is not here. */
static const char *const markup[] = {
    "<｜DSML｜invoke name=\"x\">", "<｜DSML｜tool_calls>", "</｜DSML｜invoke>", "</think>", "<think>", "<parameter>", "<｜User｜>",
};

static const char *pick(random_stream *r, const char *const *list, size_t n)
{
    return list[random_below(r, n)];
}

static bool chance(random_stream *r, int percent)
{
    return random_below(r, 100) < (uint64_t)percent;
}

/* Says words; ends without a blank. */
static void say(random_stream *r, bytes *out)
{
    const int n = 1 + (int)random_below(r, 8);
    for (int i = 0; i < n; i++) bytes_text(out, pick(r, words, countof(words)));
    bytes_text(out, ".");
}

static void say_value(random_stream *r, bytes *out)
{
    const int n = (int)random_below(r, 8);
    for (int i = 0; i < n; i++) bytes_text(out,
        chance(r, 25) ? pick(r, markup, countof(markup)) : pick(r, words, countof(words)));
}

/* JSON with blanks in odd places. */
static void say_json(random_stream *r, bytes *out, int depth)
{
    static const char *const scalars[] = { "1", "-2.50", "1e3", "true", "null", "\"a<｜DSML｜b\\n\"", "\"\\u00e9\"",
        "[ ]", "{}" };
    if (depth == 0 || chance(r, 50)) {
        bytes_text(out, pick(r, scalars, countof(scalars)));
    } else if (chance(r, 50)) {
        bytes_text(out, "{ \"k\" :");
        say_json(r, out, depth - 1);
        bytes_text(out, ",\"a\": ");
        say_json(r, out, depth - 1);
        bytes_text(out, "\n}");
    } else {
        bytes_text(out, "[");
        say_json(r, out, depth - 1);
        bytes_text(out, " , 7]");
    }
}

/* What is sampled: \x01 stands in front of what is a control token. */
#define M "\x01｜DSML｜"

static void say_call(random_stream *r, bool offered, bytes *out)
{
    static const char *const keys[] = { "path", "text", "more", "a&quot;b" };
    const int n = (int)random_below(r, 4);
    bytes_printf(out, "<" M "invoke name=\"%s\">\n", offered || chance(r, 50) ? "write" : "other");
    for (int i = 0; i < n; i++) {
        const bool string = chance(r, 60), mistyped = string && i == 2 && chance(r, 50);
        bytes_printf(out, "<" M "parameter name=\"%s\" string=\"%s\">", keys[i], string ? "true" : "false");
        if (mistyped) bytes_text(out, " 17");
        else if (string) say_value(r, out);
        else say_json(r, out, 3);
        bytes_text(out, "</" M "parameter>");
        if (chance(r, 80)) bytes_text(out, "\n");
    }
    bytes_text(out, "</" M "invoke>");
}

static bool say_turn(random_stream *r, bytes *out)
{
    const bool calls = chance(r, 70), closed = !calls || chance(r, 80);
    if (chance(r, 80)) say(r, out);
    if (closed) bytes_text(out, "\x01</think>");
    if (closed && (!calls || chance(r, 50))) say(r, out);
    if (!calls) {
        bytes_text(out, "\x01<｜end▁of▁sentence｜>");
        return false;
    }
    bytes_text(out, !closed ? "\n\n" : chance(r, 70) ? "\n\n" : chance(r, 50) ? "\n" : "");
    bytes_text(out, "<" M "tool_calls>\n");
    for (int n = 1 + (int)random_below(r, MAX_CALLS); n; n--) {
        say_call(r, !closed, out);       /* only an offered tool closes the reasoning */
        if (chance(r, 80)) bytes_text(out, n > 1 ? "\n" : "\n\n");
    }
    bytes_text(out, "</" M "tool_calls>");
    return true;
}

/* ---- a client -------------------------------------------------------------------- */

/* What it was told of one turn, and sends back. */
typedef struct {
    bytes     reasoning, text;
    bytes     ids[MAX_CALLS], names[MAX_CALLS], arguments[MAX_CALLS], rewritten[MAX_CALLS];
    chat_call calls[MAX_CALLS];
    int       n_calls, counter;
} told;

static void told_init(told *t, int counter)
{
    *t = (told){ .counter = counter };
    bytes_init(&t->reasoning, 1u << 20);
    bytes_init(&t->text, 1u << 20);
    for (int i = 0; i < MAX_CALLS; i++) {
        bytes_init(&t->ids[i], 1u << 20);
        bytes_init(&t->names[i], 1u << 20);
        bytes_init(&t->arguments[i], 1u << 20);
        bytes_init(&t->rewritten[i], 1u << 20);
    }
}

static void told_free(told *t)
{
    bytes_free(&t->reasoning);
    bytes_free(&t->text);
    for (int i = 0; i < MAX_CALLS; i++) {
        bytes_free(&t->ids[i]);
        bytes_free(&t->names[i]);
        bytes_free(&t->arguments[i]);
        bytes_free(&t->rewritten[i]);
    }
}

static void count_up(void *ctx, uint8_t out[16])
{
    told *t = ctx;
    memset(out, 0, 16);
    memcpy(out, &t->counter, sizeof t->counter);
    t->counter++;
}

static void take_event(void *ctx, const answer_event *e)
{
    told *t = ctx;
    switch (e->kind) {
    case ANSWER_REASONING: bytes_append(&t->reasoning, e->bytes.data, e->bytes.len); break;
    case ANSWER_TEXT:      bytes_append(&t->text, e->bytes.data, e->bytes.len); break;
    case ANSWER_CALL_BEGIN:
        bytes_append(&t->ids[e->call], e->id.data, e->id.len);
        bytes_append(&t->names[e->call], e->name.data, e->name.len);
        break;
    case ANSWER_CALL_ARGS: bytes_append(&t->arguments[e->call], e->bytes.data, e->bytes.len); break;
    case ANSWER_CALL_END:  t->n_calls++; break;
    default: break;
    }
}

static slice all_of(const bytes *b)
{
    return (slice){ b->data, b->len };
}

/* Arguments are parsed and written again by most clients. */
static chat_message message_of(told *t)
{
    for (int i = 0; i < t->n_calls; i++) {
        json_tree tree;
        if (json_tree_parse(&tree, all_of(&t->arguments[i]), NULL)) test_fail(__FILE__, __LINE__, "no JSON: %s",
            t->arguments[i].data);
        else json_tree_write(&tree, 1, &t->rewritten[i]);
        json_tree_free(&tree);
        t->calls[i] = (chat_call){ all_of(&t->ids[i]), all_of(&t->names[i]), all_of(&t->rewritten[i]) };
    }
    return (chat_message){ .role = CHAT_ASSISTANT, .text = all_of(&t->text), .reasoning = all_of(&t->reasoning),
                           .calls = t->calls, .n_calls = t->n_calls };
}

/* ---- one turn --------------------------------------------------------------------- */

static const char schema[] = "{\"properties\":{\"path\":{},\"text\":{},\"more\":{\"type\":[\"integer\",\"object\",\"boolean\"]}}}";
static const chat_tool tool = { .name = { "write", 5 }, .parameters = { schema, sizeof schema - 1 } };

static void remember(replay_memory *m, const answer_turn *turn)
{
    slice texts[3][MAX_CALLS];
    for (int i = 0; i < turn->n_calls; i++) {
        texts[0][i] = turn->calls[i].id;
        texts[1][i] = turn->calls[i].name;
        texts[2][i] = turn->calls[i].arguments;
    }
    const replay_record r = { .block = turn->block, .reasoning_closed = turn->reasoning_closed, .ids = texts[0],
                              .names = texts[1], .arguments = texts[2], .n_calls = turn->n_calls };
    ds4_error err;
    if (turn->n_calls) EXPECT_OK(replay_add(m, &r, &err), err);
}

/* Samples `said`, byte by byte where it is no control token; the client is told. */
static void sample(const vocab *v, const bytes *said, replay_memory *m, told *t)
{
    const answer_options o = { .start = CHAT_STARTS_REASONING, .tools = &tool, .n_tools = 1, .random = count_up,
        .random_ctx = t,
                               .event = take_event, .event_ctx = t };
    answer *a = NULL;
    ds4_error err;
    EXPECT_OK(answer_open(&a, v, &o, &err), err);
    if (!a) return;
    answer_verdict verdict = ANSWER_MORE;
    for (size_t i = 0; i < said->len;) {
        const bool control = said->data[i] == 1;
        size_t n = 1;
        int32_t id = -1;
        if (control) {
            const special_tokens *s = vocab_special(v);
            const int32_t ids[] = { s->dsml, s->end_think, s->eos };
            for (size_t k = 0; k < countof(ids) && id < 0; k++) {
                const char *text = vocab_bytes(v, ids[k], &n);
                if (strncmp(said->data + i + 1, text, n) == 0) id = ids[k];
            }
        } else {
            id = vocab_find(v, said->data + i, 1);
        }
        EXPECT_INT(verdict, ANSWER_MORE);
        verdict = answer_push(a, id);
        i += n + control;
    }
    EXPECT_INT(verdict, ANSWER_END);
    answer_finish_with(a, FINISH_STOP);
    const answer_turn turn = answer_turn_of(a);
    remember(m, &turn);
    answer_close(a);
}

/* The prompt with \x01 in front of each control token. */
static void spell(const chat_prompt *p, bytes *out)
{
    bytes_clear(out);
    for (size_t i = 0; i < p->n_segments; i++) {
        if (p->segments[i].control >= 0) bytes_char(out, 1);
        bytes_append(out, p->text.data + p->segments[i].begin, p->segments[i].len);
    }
}

static bool render(const vocab *v, const chat_message *messages, int n, replay_memory *m, bytes *out, bytes *plain)
{
    ds4_error err;
    chat_prompt p;
    chat_request r = chat_request_defaults();
    r.messages = messages;
    r.n_messages = n;
    r.tools = &tool;
    r.n_tools = 1;
    r.replay = m;
    chat_prompt_init(&p, v, 1u << 24);
    const ds4_status st = chat_render(&p, &r, &err);
    EXPECT_OK(st, err);
    if (!st) spell(&p, out);
    if (plain) bytes_append(plain, p.text.data, p.text.len);
    chat_prompt_free(&p);
    return !st;
}

/* The same after a restart: the memory comes back from the section of a checkpoint. */
static bool survives(const vocab *v, const chat_message *messages, int n, replay_memory *m)
{
    bytes section, text, marked, again;
    ds4_error err;
    replay_memory *fresh = NULL;
    bytes_init(&section, 1u << 24);
    bytes_init(&text, 1u << 24);
    bytes_init(&marked, 1u << 24);
    bytes_init(&again, 1u << 24);
    EXPECT_OK(replay_open(&fresh, 1000, 1u << 24, &err), err);
    bool good = fresh && render(v, messages, n, m, &marked, &text);
    if (good) EXPECT_OK(replay_section_write(m, all_of(&text), &section, &err), err);
    if (good && section.len) EXPECT_OK(replay_section_read(fresh, all_of(&section), &err), err);
    good = good && render(v, messages, n, fresh, &again, NULL) && slice_equal(all_of(&marked), all_of(&again));
    EXPECT(good);
    replay_close(fresh);
    bytes_free(&section);
    bytes_free(&text);
    bytes_free(&marked);
    bytes_free(&again);
    return good;
}

/* A conversation; false: something was not as it should be. */
static bool converse(const vocab *v, random_stream *r)
{
    told turns[TURNS];
    chat_message messages[2 * TURNS + 1];
    int n = 0;
    bool good = true;
    replay_memory *m = NULL;
    bytes before, after, said;
    bytes_init(&before, 1u << 24);
    bytes_init(&after, 1u << 24);
    bytes_init(&said, 1u << 24);
    if (replay_open(&m, 1000, 1u << 24, NULL)) return false;

    messages[n++] = (chat_message){ .role = CHAT_USER, .text = slice_of("go") };
    for (int i = 0; i < TURNS; i++) {
        told *t = &turns[i];
        told_init(t, 100 * i);
        good = good && render(v, messages, n, m, &before, NULL);
        bytes_clear(&said);
        const bool calls = say_turn(r, &said);
        sample(v, &said, m, t);
        messages[n++] = message_of(t);
        messages[n++] = (chat_message){ .role = calls ? CHAT_TOOL : CHAT_USER, .text = slice_of("done"),
            .call_id = all_of(&t->ids[0]) };
        bytes_append(&before, said.data, said.len);
        good = good && render(v, messages, n, m, &after, NULL);
        if (good && (after.len < before.len || memcmp(before.data, after.data, before.len) != 0)) {
            size_t at = 0;
            while (at < after.len && at < before.len && before.data[at] == after.data[at]) at++;
            test_fail(__FILE__, __LINE__, "from byte %zu on: sampled \"%.80s\", rendered \"%.80s\"", at,
                      before.data + at, after.data + at);
            good = false;
        }
    }
    good = good && survives(v, messages, n, m);
    for (int i = 0; i < TURNS; i++) told_free(&turns[i]);
    replay_close(m);
    bytes_free(&before);
    bytes_free(&after);
    bytes_free(&said);
    return good;
}

TEST(sampled_turns_come_back_as_they_were)
{
    vocab *v = text_tiny_vocab();
    random_stream r;
    REQUIRE(v);
    random_seed(&r, test_seed());
    for (int i = 0; i < 300; i++) if (!converse(v, &r)) break;
    vocab_close(v);
}
