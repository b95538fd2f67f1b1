#include "fault/alloc.h"
#include "text/answer.h"
#include "text/chat.h"
#include "text/json_tree.h"
#include "text/replay.h"
#include "text/stream.h"
#include "text/tokenizer.h"
#include "text_vocab.h"

static ds4_status open_vocab(void *ctx, ds4_error *err)
{
    vocab *v;
    const ds4_status st = text_source_open(&v, ctx, err);
    EXPECT((v == NULL) == (st != DS4_OK));
    vocab_close(v);
    return st;
}

TEST(a_vocabulary_without_memory)
{
    text_source s = text_tiny_source();
    fault_each(open_vocab, &s);
    text_source_free(&s);
}

/* Long words take memory of their own. */
static ds4_status encode(void *ctx, ds4_error *err)
{
    char text[500];
    token_list ids;
    memset(text, 'a', sizeof text);
    memcpy(text + 300, " . <think> ", 11);
    token_list_init(&ids, 1000);
    const ds4_status st = tokenizer_encode(ctx, (slice){ text, sizeof text }, true, &ids, err);
    if (!st) EXPECT(ids.n > 100 && ids.wanted == ids.n);
    token_list_free(&ids);
    return st;
}

TEST(encoding_without_memory)
{
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    fault_each(encode, v);
    vocab_close(v);
}

static ds4_status run_stream(void *ctx, ds4_error *err)
{
    const slice stops[] = { slice_of("stop"), slice_of("x") };
    const stream_options options = { .stops = stops, .n_stops = 2 };
    const vocab *v = ctx;
    stream *s;
    bytes out;
    bytes_init(&out, 10000);
    ds4_status st = stream_open(&s, v, &options, err);
    for (int i = 0; i < 300 && !st; i++)
        st = stream_push(s, vocab_find(v, i % 3 ? "s" : "hello", i % 3 ? 1 : 5), &out, err);
    if (!st) st = stream_flush(s, &out, err);
    stream_close(s);
    bytes_free(&out);
    return st;
}

TEST(a_stream_without_memory)
{
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    fault_each(run_stream, v);
    vocab_close(v);
}

static ds4_status parse(void *ctx, ds4_error *err)
{
    json_tree t;
    (void)ctx;
    const ds4_status st = json_tree_parse(&t, slice_of("{\"a\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17],\"b\":{\"c\":1,\"c\":2}}"), err);
    json_tree_free(&t);
    return st;
}

TEST(json_without_memory)
{
    fault_each(parse, NULL);
}

#define MESSAGE(r, t) { .role = (r), .text = { (t), sizeof(t) - 1 } }

static ds4_status render(void *ctx, ds4_error *err)
{
    static const char schema[] = "{\"type\":\"object\"}", arguments[] = "{\"a\":\"x\",\"b\":[1]}";
    static const chat_call calls[] = { { { "1", 1 }, { "f", 1 }, { arguments, sizeof arguments - 1 } } };
    static const chat_tool tools[] = {
        { .name = { "f", 1 }, .has_description = true, .description = { "d", 1 }, .parameters = { schema, sizeof schema - 1 } },
    };
    static const chat_message m[] = {
        MESSAGE(CHAT_SYSTEM, "S"), MESSAGE(CHAT_USER, "q"),
        { .role = CHAT_ASSISTANT, .calls = calls, .n_calls = 1 },
        { .role = CHAT_TOOL, .text = { "r", 1 }, .call_id = { "1", 1 } },
    };
    chat_request r = chat_request_defaults();
    chat_prompt p;
    token_list ids;
    r.messages = m;
    r.n_messages = countof(m);
    r.tools = tools;
    r.n_tools = 1;
    r.format_schema = slice_of(schema);
    chat_prompt_init(&p, ctx, 1u << 20);
    token_list_init(&ids, 1u << 20);
    ds4_status st = chat_render(&p, &r, err);
    if (!st) st = chat_tokens(&p, &ids, err);
    token_list_free(&ids);
    chat_prompt_free(&p);
    return st;
}

TEST(a_prompt_without_memory)
{
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    fault_each(render, v);
    vocab_close(v);
}

/* ---- answers -------------------------------------------------------------- */

static void some_bytes(void *ctx, uint8_t out[16])
{
    (void)ctx;
    memset(out, 1, 16);
}

static void count_event(void *ctx, const answer_event *e)
{
    int *finishes = ctx;
    *finishes += e->kind == ANSWER_FINISH;
}

static const char sampled[] =
    "hm\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"a\" string=\"true\">x\xFFy</｜DSML｜parameter>\n"
    "<｜DSML｜parameter name=\"n\" string=\"true\">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"f\">\n"
    "<｜DSML｜parameter name=\"input\" string=\"false\">{\"a\": \"b\"}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

static ds4_status run_answer(void *ctx, ds4_error *err)
{
    static const char schema[] = "{\"properties\":{\"a\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"}}}";
    const chat_tool tool = { .name = { "f", 1 }, .parameters = { schema, sizeof schema - 1 } };
    const slice stop = slice_of("stop");
    const vocab *v = ctx;
    int finishes = 0;
    const answer_options o = {
        .start = CHAT_STARTS_REASONING, .tools = &tool, .n_tools = 1, .stops = &stop, .n_stops = 1,
        .random = some_bytes, .event = count_event, .event_ctx = &finishes,
    };
    answer *a;
    ds4_status st = answer_open(&a, v, &o, err);
    if (st) return st;
    for (const char *c = sampled; *c; c++) answer_push(a, vocab_find(v, c, 1));
    answer_finish_with(a, FINISH_STOP);
    EXPECT_INT(finishes, 1);
    st = answer_status(a, err);
    const answer_turn turn = answer_turn_of(a);
    if (!st) {
        EXPECT_INT(turn.n_calls, 2);
        EXPECT(turn.n_calls == 2 && slice_is(turn.calls[0].arguments, "{\"a\":\"x\xEF\xBF\xBDy\",\"n\":2}"));
        EXPECT(turn.n_calls == 2 && slice_is(turn.calls[1].arguments, "{\"a\":\"b\"}"));
    }
    answer_close(a);
    return st;
}

TEST(an_answer_without_memory)
{
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    fault_each(run_answer, v);
    vocab_close(v);
}

static ds4_status run_replay(void *ctx, ds4_error *err)
{
    const char *block = strchr(sampled, '\n');
    const slice ids[] = { slice_of("1"), slice_of("2") }, names[] = { slice_of("f"), slice_of("f") };
    const slice arguments[] = { slice_of("{}"), slice_of("{}") };
    const replay_record r = { .block = slice_of(block), .ids = ids, .names = names, .arguments = arguments,
                              .n_calls = 2 };
    replay_memory *m, *again = NULL;
    bytes out;
    (void)ctx;
    bytes_init(&out, 1u << 20);
    ds4_status st = replay_open(&m, 100, 1u << 20, err);
    if (st) return st;
    if (!st) st = replay_add(m, &r, err);
    if (!st) st = replay_section_write(m, slice_of(sampled), &out, err);
    if (!st) st = replay_open(&again, 100, 1u << 20, err);
    if (!st) st = replay_section_read(again, (slice){ out.data, out.len }, err);
    if (!st) EXPECT_INT(replay_ids(again), 2);
    replay_close(again);
    replay_close(m);
    bytes_free(&out);
    return st;
}

TEST(sampled_calls_without_memory)
{
    fault_each(run_replay, NULL);
}
