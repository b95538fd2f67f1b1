/* What is sampled, as events. Input is written as bytes in which the spelled control tokens
 * are those tokens; a middle dot is where one token ends. Events are written
 *
 *   R(x) T(x) B(0,name) A(0,x) E(0) F(reason)
 */
#include "text/answer.h"
#include "base/random.h"
#include "text_vocab.h"

#define EOS   "<｜end▁of▁sentence｜>"
#define OPEN  "<｜DSML｜tool_calls>\n"
#define CLOSE "</｜DSML｜tool_calls>"
#define CALL(name)  "<｜DSML｜invoke name=\"" name "\">\n"
#define ENDCALL     "</｜DSML｜invoke>\n"
#define STRING(k)   "<｜DSML｜parameter name=\"" k "\" string=\"true\">"
#define JSON(k)     "<｜DSML｜parameter name=\"" k "\" string=\"false\">"
#define BARE(k)     "<｜DSML｜parameter name=\"" k "\">"
#define ENDARG      "</｜DSML｜parameter>\n"

static const chat_tool offered[] = {
    { .name = { "get_weather", 11 }, .parameters = { NULL, 0 } },
    { .name = { "write", 5 }, .parameters = { NULL, 0 } },
};

static const char weather_schema[] =
    "{\"type\":\"object\",\"properties\":{\"city\":{\"type\":\"string\"},\"days\":{\"type\":\"integer\"},"
    "\"any\":{},\"list\":{\"type\":[\"array\",\"null\"]},\"ref\":{\"$ref\":\"#/$defs/n\"}},\"$defs\":{\"n\":{\"enum\":[1,2]}}}";
static const char write_schema[] = "{\"type\":\"object\",\"properties\":{\"path\":{\"type\":\"string\"},\"text\":{\"type\":\"string\"}}}";

/* ---- a run ------------------------------------------------------------------- */

typedef struct {
    bytes       log;
    bool        merged;                 /* neighbouring pieces are one event */
    answer_kind last;
    int         last_call, n_events, n_random;
    bool        any, finished;
    answer_counts counts;
    bytes       block, ids;
    bool        reasoning_closed;
    bytes       arguments;              /* of the turn's calls, one a line */
} run;

static void count_up(void *ctx, uint8_t out[16])
{
    run *r = ctx;
    for (int i = 0; i < 16; i++) out[i] = (uint8_t)(16 * r->n_random + i);
    r->n_random++;
}

static const char *reason(answer_finish f)
{
    static const char *const names[] = { "stop", "stop_string", "length", "context", "tool_calls", "cancelled" };
    return names[f];
}

static void take_event(void *ctx, const answer_event *e)
{
    static const char letters[] = "RTBAEF";
    run *r = ctx;
    const bool goes_on = r->merged && r->any && r->last == e->kind && e->kind != ANSWER_CALL_END &&
        r->last_call == e->call;
    EXPECT(!r->finished);
    EXPECT_INT(e->choice, 3);
    EXPECT(utf8_valid(e->bytes.data, e->bytes.len));
    if (e->kind == ANSWER_REASONING || e->kind == ANSWER_TEXT || e->kind == ANSWER_CALL_ARGS) EXPECT(e->bytes.len > 0);
    if (goes_on) r->log.len--;          /* the bracket */
    else bytes_printf(&r->log, "%s%c(", r->any ? " " : "", letters[e->kind]);
    switch (e->kind) {
    case ANSWER_CALL_BEGIN:
        bytes_printf(&r->log, "%d,%.*s", e->call, (int)e->name.len, e->name.data);
        bytes_printf(&r->ids, "%.*s\n", (int)e->id.len, e->id.data);
        break;
    case ANSWER_CALL_ARGS: if (!goes_on) bytes_printf(&r->log, "%d,", e->call); break;
    case ANSWER_CALL_END:  bytes_printf(&r->log, "%d", e->call); break;
    case ANSWER_FINISH:
        bytes_text(&r->log, reason(e->finish));
        if (e->finish == FINISH_STOP_STRING) bytes_printf(&r->log, ":%.*s", (int)e->stop.len, e->stop.data);
        r->finished = true;
        break;
    default: break;
    }
    bytes_append(&r->log, e->bytes.data, e->bytes.len);
    bytes_char(&r->log, ')');
    r->any = true;
    r->last = e->kind;
    r->last_call = e->call;
    r->n_events++;
}

typedef struct {
    chat_start     start;
    bool           tools, raw, include_stop;
    unclosed_think unclosed;
    const char    *stop;
    answer_finish  finish;              /* as the caller says at the end */
    call_id_form   ids;
} how;

static const how thinking = { .start = CHAT_STARTS_REASONING };
static const how talking  = { .start = CHAT_STARTS_TEXT };
static const how thinking_tools = { .start = CHAT_STARTS_REASONING, .tools = true };
static const how talking_tools  = { .start = CHAT_STARTS_TEXT, .tools = true };

/* The control token that begins here, -1: text. The marker's token counts only where `marker`. */
static int32_t control_at(const vocab *v, const char *at, size_t *n, bool marker)
{
    const special_tokens *s = vocab_special(v);
    const int32_t ids[] = { s->eos, s->think, s->end_think, s->user, s->dsml };
    for (size_t i = 0; i < countof(ids) - !marker; i++) {
        const char *text = vocab_bytes(v, ids[i], n);
        if (strncmp(at, text, *n) == 0) return ids[i];
    }
    return -1;
}

#define DOT "·"
enum { LONGEST = 6 };           /* bytes of a random chunk: shorter than any control token */

/* Cuts the input and pushes it. cuts NULL: at the dots. Otherwise dots are skipped, and text
 * becomes chunks of random lengths. */
static void push_all(answer *a, const vocab *v, const char *input, random_stream *cuts)
{
    bool over = false;
    while (*input) {
        size_t n = strlen(DOT);
        if (strncmp(input, DOT, n) == 0) {
            input += n;
            continue;
        }
        int32_t id = control_at(v, input, &n, !cuts || random_below(cuts, 2));
        if (id < 0) {
            const char *end = input;
            const size_t want = cuts ? 1 + (size_t)random_below(cuts, LONGEST) : SIZE_MAX;
            size_t skip;
            while (*end && (size_t)(end - input) < want && strncmp(end, DOT, strlen(DOT)) != 0 &&
                   control_at(v, end, &skip, !cuts) < 0) end++;
            n = (size_t)(end - input);
            id = vocab_find(v, input, n);
            if (id < 0) test_fail(__FILE__, __LINE__, "no token for \"%.*s\"", (int)n, input);
            EXPECT_INT(vocab_hidden(v, id), false);
        }
        input += n;
        answer_verdict verdict = answer_push(a, id);
        if (verdict == ANSWER_END_THINK) verdict = answer_push(a, vocab_special(v)->end_think);
        over = over || verdict == ANSWER_END;
        if (over) EXPECT_INT(verdict, ANSWER_END);
    }
}

static void run_free(run *r)
{
    bytes_free(&r->log);
    bytes_free(&r->block);
    bytes_free(&r->ids);
    bytes_free(&r->arguments);
}

static run run_answer(const vocab *v, const how *h, const char *input, random_stream *cuts, bool merged)
{
    run r = { .merged = merged };
    ds4_error err;
    chat_tool tools[2] = { offered[0], offered[1] };
    tools[0].parameters = slice_of(weather_schema);
    tools[1].parameters = slice_of(write_schema);
    const slice stop = h->stop ? slice_of(h->stop) : (slice){ NULL, 0 };
    const answer_options o = {
        .start = h->start, .tools = tools, .n_tools = h->tools ? 2 : 0, .raw = h->raw, .stops = &stop,
        .n_stops = h->stop != NULL,
        .include_stop = h->include_stop, .unclosed = h->unclosed, .ids = h->ids, .choice = 3,
        .random = count_up, .random_ctx = &r, .event = take_event, .event_ctx = &r,
    };
    answer *a = NULL;
    bytes_init(&r.log, 1u << 24);
    bytes_init(&r.block, 1u << 24);
    bytes_init(&r.ids, 1u << 24);
    bytes_init(&r.arguments, 1u << 24);
    EXPECT_OK(answer_open(&a, v, &o, &err), err);
    if (!a) return r;
    push_all(a, v, input, cuts);
    answer_finish_with(a, h->finish);
    answer_finish_with(a, FINISH_LENGTH);               /* once is enough */
    EXPECT(r.finished);
    EXPECT_OK(answer_status(a, &err), err);

    const answer_turn turn = answer_turn_of(a);
    bytes_append(&r.block, turn.block.data, turn.block.len);
    for (int i = 0; i < turn.n_calls; i++) {
        bytes_append(&r.arguments, turn.calls[i].arguments.data, turn.calls[i].arguments.len);
        bytes_char(&r.arguments, '\n');
    }
    r.reasoning_closed = turn.reasoning_closed;
    r.counts = *answer_counts_of(a);
    answer_close(a);
    return r;
}

/* A base token may hold half a character. */
static void take_chunk(text_source *s, const char *data, size_t n)
{
    bytes spelled;
    bytes_init(&spelled, 1u << 20);
    for (size_t i = 0; i < n; i++) {
        const slice byte = text_spelled_byte((unsigned char)data[i]);
        bytes_append(&spelled, byte.data, byte.len);
        free((char *)byte.data);
    }
    text_take_token(s, (slice){ bytes_take(&spelled), 0 }, TOKEN_NORMAL);
    s->tokens[s->n - 1].len = strlen(s->tokens[s->n - 1].data);
}

/* The tiny vocabulary with a token for every chunk: those between dots, and all short
 * substrings. */
static vocab *vocab_for(const char *input)
{
    text_source s = text_tiny_source();
    vocab *v = text_tiny_vocab(), *out = NULL;
    ds4_error err;
    const size_t n = strlen(input);
    size_t skip, begin = 0;
    for (size_t i = 0; i <= n; i++) {
        const bool dot = strncmp(input + i, DOT, strlen(DOT)) == 0;
        const bool control = control_at(v, input + i, &skip, true) >= 0;
        if (!dot && !control && i < n) continue;
        if (i > begin + 1) take_chunk(&s, input + begin, i - begin);
        if (i < n) i += (dot ? strlen(DOT) : skip) - 1;
        begin = i + 1;
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t len = 2; len <= LONGEST && i + len <= n; len++) take_chunk(&s, input + i, len);
    }
    EXPECT_OK(text_source_open(&out, &s, &err), err);
    text_source_free(&s);
    vocab_close(v);
    return out;
}

/* The pieces as they come (want_exact, NULL: any), and joined for every cut. */
static run expect_events(const how *h, const char *input, const char *want_exact, const char *want)
{
    vocab *v = vocab_for(input);
    random_stream cuts;
    run r = run_answer(v, h, input, NULL, false);
    if (want_exact) EXPECT_TEXT(r.log.data, want_exact);
    run_free(&r);
    random_seed(&cuts, test_seed());
    for (int i = 0; i < 100; i++) {
        r = run_answer(v, h, input, &cuts, true);
        EXPECT_TEXT(r.log.data, want);
        if (strcmp(r.log.data, want) != 0) break;
        run_free(&r);
    }
    r = run_answer(v, h, input, NULL, true);
    EXPECT_TEXT(r.log.data, want);
    vocab_close(v);
    return r;
}

static void expect(const how *h, const char *input, const char *want)
{
    run r = expect_events(h, input, NULL, want);
    run_free(&r);
}

/* ---- the worked examples ------------------------------------------------------ */

TEST(o1_reasoning_then_text)
{
    run r = expect_events(&thinking, "Simple." DOT "</th" DOT "ink>" DOT "2 + 2" DOT "= 4" DOT EOS,
                          "R(Simple.) T(2 + 2) T(= 4) F(stop)", "R(Simple.) T(2 + 2= 4) F(stop)");
    EXPECT(r.reasoning_closed);
    run_free(&r);
}

TEST(o2_text_then_a_call)
{
    static const char input[] =
        "hm</think>Let me look." DOT "\n\n" DOT "<" DOT "｜DSML｜" DOT "tool" DOT "_calls>\n<｜DSML｜invoke name=\"get_weather\">\n"
        "<｜DSML｜parameter name=\"city\" string=\"true\">Ro" DOT "me</｜DSML｜parameter>\n"
        "<｜DSML｜parameter name=\"days\" string=\"false\">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
    run r = expect_events(&thinking_tools, input,
        "R(hm) T(Let me look.) B(0,get_weather) A(0,{\"city\":\") A(0,Ro) A(0,me) A(0,\") A(0,,\"days\":2) A(0,}) E(0) F(tool_calls)",
        "R(hm) T(Let me look.) B(0,get_weather) A(0,{\"city\":\"Rome\",\"days\":2}) E(0) F(tool_calls)");
    EXPECT_TEXT(r.arguments.data, "{\"city\":\"Rome\",\"days\":2}\n");
    EXPECT_TEXT(r.block.data, "\n\n" OPEN CALL("get_weather") STRING("city") "Rome" ENDARG JSON("days") "2"
                ENDARG ENDCALL CLOSE);
    EXPECT_TEXT(r.ids.data, "call_000102030405060708090a0b0c0d0e0f\n");
    for (int i = 0; i < REPAIR_KINDS; i++) EXPECT_INT(r.counts.repairs[i], 0);
    run_free(&r);
}

TEST(o3_text_that_only_looks_like_a_tag)
{
    expect(&talking_tools, "a < b and " DOT "<" DOT "｜DSML｜" DOT " is a marker" DOT EOS,
           "T(a < b and <｜DSML｜ is a marker) F(stop)");
}

TEST(o4_a_value_is_escaped)
{
    expect(&talking_tools, OPEN CALL("write") STRING("text") "say \"é\"\nx\\\t\x01" ENDARG ENDCALL CLOSE,
           "B(0,write) A(0,{\"text\":\"say \\\"é\\\"\\nx\\\\\\t\\u0001\"}) E(0) F(tool_calls)");
}

TEST(o5_a_block_closes_the_reasoning)
{
    run r = expect_events(&thinking_tools, "need data\n\n" OPEN CALL("get_weather") STRING("city") "Rome"
                          ENDARG ENDCALL CLOSE, NULL,
                          "R(need data) B(0,get_weather) A(0,{\"city\":\"Rome\"}) E(0) F(tool_calls)");
    EXPECT(!r.reasoning_closed);
    EXPECT(r.block.data && strncmp(r.block.data, "\n\n<", 3) == 0);
    run_free(&r);
}

TEST(o6_quoted_markup_is_reasoning)
{
    expect(&thinking_tools, "I would write <｜DSML｜tool_calls> here</think>ok" EOS,
           "R(I would write <｜DSML｜tool_calls> here) T(ok) F(stop)");
    expect(&thinking_tools, "like\n<｜DSML｜tool_calls>\nhere</think>ok" EOS,
           "R(like\n<｜DSML｜tool_calls>\nhere) T(ok) F(stop)");
    expect(&thinking_tools, "like\n" OPEN CALL("other") "\n</think>ok" EOS, "R(like\n" OPEN CALL("other")
           "\n) T(ok) F(stop)");
}

TEST(o7_length_inside_a_call)
{
    how h = talking_tools;
    h.finish = FINISH_LENGTH;
    expect(&h, OPEN CALL("write") STRING("text") "abc", "B(0,write) A(0,{\"text\":\"abc) F(length)");
    expect(&h, OPEN CALL("write") STRING("text") "abc" ENDARG ENDCALL CALL("write") "<｜DSML｜parameter name=\"te",
           "B(0,write) A(0,{\"text\":\"abc\"}) E(0) B(1,write) F(length)");
}

/* ---- sections ------------------------------------------------------------------ */

TEST(an_eos_inside_of_reasoning_closes_it)
{
    how h = thinking;
    expect(&h, "so far" EOS "then" EOS, "R(so far) T(then) F(stop)");
    expect(&h, "so far" EOS EOS, "R(so far) F(stop)");
    h.unclosed = UNCLOSED_STOP;
    expect(&h, "so far" EOS, "R(so far) F(stop)");
    h.unclosed = UNCLOSED_TEXT;
    expect(&h, "so far" EOS, "R(so far) T(so far) F(stop)");
    h.finish = FINISH_LENGTH;
    expect(&h, "so far", "R(so far) F(length)");
}

TEST(reasoning_can_begin_again)
{
    expect(&thinking, "a</think>b<think>c</think>d" EOS, "R(a) T(b) R(c) T(d) F(stop)");
    expect(&talking, "a</think>b" EOS, "T(ab) F(stop)");
    expect(&thinking_tools, "a\n\n</think>\n\nb \n<think>c" EOS "\n" EOS, "R(a\n\n) T(\n\nb \n) R(c) T(\n) F(stop)");
}

TEST(a_broken_character_is_replaced)
{
    expect(&talking, "a\xC3" "b\xE2\x82" EOS, "T(a\xEF\xBF\xBD" "b\xEF\xBF\xBD) F(stop)");
    expect(&thinking, "\xF0\x9F\x98\x80\x80</think>", "R(\xF0\x9F\x98\x80\xEF\xBF\xBD) F(stop)");
    expect(&talking_tools, OPEN CALL("write") STRING("text") "\xE2\x82" ENDARG JSON("n") "\"\xFF\""
           ENDARG ENDCALL CLOSE,
           "B(0,write) A(0,{\"text\":\"\xEF\xBF\xBD\",\"n\":\"\xEF\xBF\xBD\"}) E(0) F(tool_calls)");
}

TEST(a_stop_string_ends_the_text)
{
    how h = thinking;
    h.stop = "END";
    expect(&h, "ENDless</think>one ENtwo ENENDmore" EOS, "R(ENDless) T(one ENtwo EN) F(stop_string:END)");
    h.include_stop = true;
    expect(&h, "</think>one END more" EOS, "T(one END) F(stop_string:END)");
    h.include_stop = false;
    expect(&h, "</think>one EN" EOS, "T(one EN) F(stop)");
    h.tools = true;
    h.stop = "\n\n";
    expect(&h, "</think>a\n\nb" EOS, "T(a) F(stop_string:\n\n)");
    expect(&h, "</think>a\n\n" OPEN CALL("write") STRING("text") "x\n\ny" ENDARG ENDCALL CLOSE,
           "T(a) B(0,write) A(0,{\"text\":\"x\\n\\ny\"}) E(0) F(tool_calls)");
    h.stop = "</";
    expect(&h, "</think>a </b", "T(a ) F(stop_string:</)");
}

TEST(raw_output_is_all_text)
{
    how h = { .start = CHAT_STARTS_REASONING, .raw = true, .tools = true };
    expect(&h, "a</think>\n<｜User｜>" OPEN CALL("write") ENDCALL CLOSE EOS, "T(a\n" OPEN CALL("write") ENDCALL CLOSE
           ") F(stop)");
}

TEST(markup_is_text_where_no_tools_are_offered)
{
    expect(&talking, "a \n" OPEN CALL("write") ENDCALL CLOSE EOS, "T(a \n" OPEN CALL("write") ENDCALL CLOSE
           ") F(stop)");
    expect(&thinking, "a\n" OPEN CALL("write") "\n" EOS, "R(a\n" OPEN CALL("write") "\n) F(stop)");
}

TEST(who_ends_an_answer_says_why)
{
    how h = talking_tools;
    h.finish = FINISH_LENGTH;
    expect(&h, "abc \n", "T(abc \n) F(length)");
    expect(&h, "abc \n<", "T(abc \n<) F(length)");
    expect(&h, "abc \n<｜DSML｜to", "T(abc) F(length)");         /* half a tag is never shown */
    h.finish = FINISH_CANCELLED;
    expect(&h, "abc", "T(abc) F(cancelled)");
    h.finish = FINISH_CONTEXT;
    expect(&h, "abc", "T(abc) F(context)");
    expect(&h, "abc" EOS, "T(abc) F(stop)");                     /* the machine was first */
    h.finish = FINISH_STOP;
    expect(&h, "abc", "T(abc) F(stop)");
    expect(&h, "", "F(stop)");
}

/* ---- blocks -------------------------------------------------------------------- */

TEST(several_calls_in_one_block)
{
    run r = expect_events(&talking_tools,
        OPEN CALL("get_weather") STRING("city") "Rome" ENDARG ENDCALL CALL("get_weather") "\n" ENDCALL CLOSE "ignored",
        NULL, "B(0,get_weather) A(0,{\"city\":\"Rome\"}) E(0) B(1,get_weather) A(1,{}) E(1) F(tool_calls)");
    EXPECT_TEXT(r.arguments.data, "{\"city\":\"Rome\"}\n{}\n");
    run_free(&r);
    how h = talking_tools;
    h.ids = CALL_ID_ANTHROPIC;
    r = expect_events(&h, OPEN CALL("write") "\n" ENDCALL CLOSE, NULL, "B(0,write) A(0,{}) E(0) F(tool_calls)");
    EXPECT(r.ids.len == 31 && strncmp(r.ids.data, "toolu_", 6) == 0);
    run_free(&r);
}

TEST(delimiters_in_values_are_unescaped)
{
    expect(&talking_tools,
           OPEN CALL("write") STRING("text") "a&lt;/｜DSML｜parameter>b &lt; &amp;" ENDARG
           JSON("any") "{\"k\": [1.50, \"\\u003c/｜DSML｜parameter>\"] }" ENDARG ENDCALL CLOSE,
           "B(0,write) A(0,{\"text\":\"a</｜DSML｜parameter>b &lt; &amp;\",\"any\":{\"k\":[1.50,\"</｜DSML｜parameter>\"]}}) E(0) F(tool_calls)");
    expect(&talking_tools, OPEN CALL("a&amp;b&quot;&lt;&gt;") STRING("k&quot;") "x" ENDARG ENDCALL CLOSE,
           "B(0,a&b\"<>) A(0,{\"k\\\"\":\"x\"}) E(0) F(tool_calls)");
}

/* A file about tools is a value like any other. */
TEST(markup_inside_of_a_value_belongs_to_it)
{
    expect(&talking_tools,
           OPEN CALL("write") STRING("text") OPEN CALL("f") "<parameter></parameter>\n<x/></think>" ENDCALL CLOSE "\nend" ENDARG ENDCALL CLOSE,
           "B(0,write) A(0,{\"text\":\"<｜DSML｜tool_calls>\\n<｜DSML｜invoke name=\\\"f\\\">\\n<parameter></parameter>\\n<x/></think>"
           "</｜DSML｜invoke>\\n</｜DSML｜tool_calls>\\nend\"}) E(0) F(tool_calls)");
}

static void expect_repair(const char *input, answer_repair kind, int n, const char *want)
{
    run r = expect_events(&talking_tools, input, NULL, want);
    for (int i = 0; i < REPAIR_KINDS; i++) {
        const int times = i == (int)kind ? n : 0;
        if (r.counts.repairs[i] != times) {
            test_fail(__FILE__, __LINE__, "%s: %d times %s, want %d", input, r.counts.repairs[i],
                      answer_repair_name((answer_repair)i), times);
        }
    }
    run_free(&r);
}

static void expect_argument(const char *parameters, answer_repair kind, int n, const char *want)
{
    char input[1024], events[1024];
    snprintf(input, sizeof input, OPEN CALL("get_weather") "%s" ENDCALL CLOSE, parameters);
    snprintf(events, sizeof events, "B(0,get_weather) A(0,%s) E(0) F(tool_calls)", want);
    expect_repair(input, kind, n, events);
}

TEST(values_are_repaired)
{
    expect_argument(BARE("city") "5" ENDARG, REPAIR_STRING_ATTRIBUTE, 1, "{\"city\":\"5\"}");
    expect_argument(BARE("days") "5" ENDARG, REPAIR_STRING_ATTRIBUTE, 1, "{\"days\":5}");
    expect_argument(BARE("days") "five" ENDARG, REPAIR_STRING_ATTRIBUTE, 1, "{\"days\":\"five\"}");
    expect_argument(JSON("days") "True" ENDARG, REPAIR_JSON_LITERAL, 1, "{\"days\":true}");
    expect_argument(JSON("any") " None\n" ENDARG, REPAIR_JSON_LITERAL, 1, "{\"any\":null}");
    expect_argument(JSON("city") "Rome" ENDARG, REPAIR_TYPE, 1, "{\"city\":\"Rome\"}");
    expect_argument(JSON("days") "2 days" ENDARG, REPAIR_TYPE, 1, "{\"days\":\"2 days\"}");
    expect_argument(STRING("days") "2" ENDARG, REPAIR_TYPE, 1, "{\"days\":2}");
    expect_argument(STRING("days") "2.5" ENDARG, REPAIR_TYPE, 0, "{\"days\":\"2.5\"}");
    expect_argument(STRING("days") "two" ENDARG, REPAIR_TYPE, 0, "{\"days\":\"two\"}");
    expect_argument(STRING("list") "[1, 2]" ENDARG, REPAIR_TYPE, 1, "{\"list\":[1,2]}");
    expect_argument(STRING("list") "null" ENDARG, REPAIR_TYPE, 1, "{\"list\":null}");
    expect_argument(STRING("ref") "2" ENDARG, REPAIR_TYPE, 1, "{\"ref\":2}");
    expect_argument(STRING("any") "2" ENDARG, REPAIR_TYPE, 0, "{\"any\":\"2\"}");
    expect_argument(STRING("more") "2" ENDARG, REPAIR_TYPE, 0, "{\"more\":\"2\"}");
    expect_argument(JSON("more") " 1e3 " ENDARG, REPAIR_TYPE, 0, "{\"more\":1e3}");
    expect_argument(STRING("city") "a" ENDARG STRING("city") "b" ENDARG JSON("city") "3" ENDARG STRING("x") "y" ENDARG,
                    REPAIR_DUPLICATE, 2, "{\"city\":\"a\",\"x\":\"y\"}");
}

TEST(a_wrapper_is_taken_off)
{
    expect_argument(JSON("arguments") "{\"city\": \"Rome\", \"days\": 2}" ENDARG, REPAIR_WRAPPER, 1,
                    "{\"city\":\"Rome\",\"days\":2}");
    expect_argument(STRING("input") "{\"city\": \"Rome\"}" ENDARG, REPAIR_WRAPPER, 1, "{\"city\":\"Rome\"}");
    expect_argument(STRING("input") "{\"town\": \"Rome\"}" ENDARG, REPAIR_WRAPPER, 0,
                    "{\"input\":\"{\\\"town\\\": \\\"Rome\\\"}\"}");
    expect_argument(STRING("input") "Rome" ENDARG, REPAIR_WRAPPER, 0, "{\"input\":\"Rome\"}");
    expect_argument(JSON("arguments") "{\"city\": \"Rome\"}" ENDARG JSON("days") "2" ENDARG, REPAIR_WRAPPER, 0,
                    "{\"arguments\":{\"city\":\"Rome\"},\"days\":2}");
    expect_argument(STRING("city") "x" ENDARG STRING("input") "{}" ENDARG, REPAIR_WRAPPER, 0,
                    "{\"city\":\"x\",\"input\":\"{}\"}");
    expect_repair(OPEN CALL("nobody") STRING("input") "{}" ENDARG ENDCALL CLOSE, REPAIR_WRAPPER, 0,
                  "B(0,nobody) A(0,{\"input\":\"{}\"}) E(0) F(tool_calls)");
}

TEST(other_spellings_are_understood)
{
    static const char want[] = "B(0,get_weather) A(0,{\"city\":\"Rome\"}) E(0) F(tool_calls)";
    expect_repair("<｜｜DSML｜｜tool_calls>\n" CALL("get_weather") STRING("city") "Rome" ENDARG ENDCALL
                  "</|DSML|tool_calls>",
                  REPAIR_SPELLING, 2, want);
    expect_repair("<|DSML|tool_calls>\n<|DSML|invoke name=\"get_weather\">\n<|DSML|parameter name=“city” string=“true”>Rome"
                  "</|DSML|parameter>\n</|DSML|invoke>\n</|DSML|tool_calls>", REPAIR_SPELLING, 6, want);
    expect_repair(OPEN "<invoke name='get_weather'>" STRING("city") "Rome" ENDARG "</invoke>" CLOSE, REPAIR_SPELLING,
                  2, want);
    expect_repair("\n" CALL("get_weather") STRING("city") "Rome" ENDARG ENDCALL EOS, REPAIR_OUTER_TAG, 1, want);
    expect_repair("\n" CALL("get_weather") STRING("city") "Rome" ENDARG ENDCALL CLOSE, REPAIR_OUTER_TAG, 1, want);
}

TEST(missing_closers_are_found)
{
    static const char want[] = "B(0,get_weather) A(0,{\"city\":\"Rome\",\"days\":2}) E(0) F(tool_calls)";
    expect_argument(STRING("city") "Rome</｜DSML｜arg>\n" JSON("days") "2" ENDARG, REPAIR_CLOSER, 1,
                    "{\"city\":\"Rome\",\"days\":2}");
    expect_argument(STRING("city") "Rome</parameter>\n" JSON("days") "2</parameter>", REPAIR_CLOSER, 2,
                    "{\"city\":\"Rome\",\"days\":2}");
    expect_argument(STRING("city") "Rome\n" JSON("days") "2" ENDARG, REPAIR_CLOSER, 1,
                    "{\"city\":\"Rome\",\"days\":2}");
    expect_repair(OPEN CALL("get_weather") STRING("city") "Rome" ENDARG JSON("days") "2" ENDARG CLOSE, REPAIR_CLOSER,
                  1, want);
    expect_repair(OPEN CALL("get_weather") STRING("city") "Rome" ENDARG JSON("days") "2" ENDARG EOS, REPAIR_CLOSER,
                  1, want);
    expect_repair(OPEN CALL("get_weather") STRING("city") "Rome" ENDARG JSON("days") "2" EOS, REPAIR_CLOSER, 1, want);
    expect_repair(OPEN CALL("get_weather") JSON("days") "2" ENDARG STRING("city") "Rome\n" ENDCALL CLOSE EOS,
                  REPAIR_CLOSER, 1,
                  "B(0,get_weather) A(0,{\"days\":2,\"city\":\"Rome\"}) E(0) F(tool_calls)");
    expect_repair(OPEN CALL("get_weather") STRING("city") "Rome</｜DSML｜param" EOS, REPAIR_CLOSER, 1,
                  "B(0,get_weather) A(0,{\"city\":\"Rome\"}) E(0) F(tool_calls)");
    expect_repair(OPEN CALL("get_weather") "\n" CALL("write") "\n" ENDCALL CLOSE, REPAIR_CLOSER, 1,
                  "B(0,get_weather) A(0,{}) E(0) B(1,write) A(1,{}) E(1) F(tool_calls)");
    expect_repair(OPEN CALL("get_weather") "\n" ENDCALL EOS, REPAIR_CLOSER, 0,
                  "B(0,get_weather) A(0,{}) E(0) F(tool_calls)");
}

TEST(tags_without_a_block_vanish)
{
    expect_repair("a\n</｜DSML｜tool_calls>\nb" EOS, REPAIR_STRAY, 1, "T(a\nb) F(stop)");
    expect_repair("a</｜DSML｜x>b" EOS, REPAIR_STRAY, 1, "T(ab) F(stop)");
    expect_repair("a " STRING("k") "b" EOS, REPAIR_STRAY, 1, "T(a b) F(stop)");
    expect_repair(OPEN "Now:\n" CALL("write") "{}\n" ENDCALL ENDCALL CLOSE, REPAIR_STRAY, 3,
                  "B(0,write) A(0,{}) E(0) F(tool_calls)");
}

TEST(a_block_of_nothing_is_said_to_be_unparsable)
{
    static const char failed[] = "T(a\n\n[tool call could not be parsed]) F(stop)";
    run r = expect_events(&talking_tools, "a\n\n" OPEN "{\"name\": \"write\"}\n" CLOSE, NULL, failed);
    EXPECT_INT(r.counts.failures, 1);
    EXPECT_INT(r.block.len, 0);
    run_free(&r);
    expect(&talking_tools, "a\n\n" OPEN "nothing" EOS, failed);
    expect(&talking_tools, OPEN "<｜DSML｜invoke>\n" ENDCALL CLOSE, "T([tool call could not be parsed]) F(stop)");
    expect(&talking_tools, OPEN "<｜DSML｜inv" EOS, "T([tool call could not be parsed]) F(stop)");
}

TEST(a_block_in_reasoning_that_fails_is_reasoning)
{
    expect(&thinking_tools, "as\n" OPEN CALL("write") STRING("text") "x" "</think>b" EOS,
           "R(as\n" OPEN CALL("write") STRING("text") "x) T(b) F(stop)");
    expect(&thinking_tools, "as\n" OPEN CALL("write") "\n</think>b" EOS, "R(as\n" OPEN CALL("write")
           "\n) T(b) F(stop)");
    expect(&thinking_tools, "as\n" OPEN CALL("write") STRING("text") "x" EOS "b" EOS,
           "R(as\n" OPEN CALL("write") STRING("text") "x) T(b) F(stop)");
    how h = thinking_tools;
    h.finish = FINISH_LENGTH;
    expect(&h, "as\n" OPEN CALL("write") STRING("text") "x\n<", "R(as\n" OPEN CALL("write") STRING("text")
           "x\n<) F(length)");
}

TEST(the_real_block_comes_after_a_quoted_one)
{
    expect(&thinking_tools, "as\n" OPEN CALL("write") "\n" OPEN CALL("write") STRING("text") "x\n"
           OPEN CALL("write") STRING("path") "y"
           ENDARG ENDCALL CLOSE,
           "R(as\n" OPEN CALL("write") "\n" OPEN CALL("write") STRING("text") "x) B(0,write) A(0,{\"path\":\"y\"}) E(0) F(tool_calls)");
}

TEST(a_control_token_inside_of_a_value_is_a_part_of_it)
{
    expect(&talking_tools, OPEN CALL("write") STRING("text") "a</think>b<think><｜User｜>" ENDARG ENDCALL CLOSE,
           "B(0,write) A(0,{\"text\":\"a</think>b<think><｜User｜>\"}) E(0) F(tool_calls)");
}

TEST(a_block_that_never_ends_is_ended)
{
    bytes input;
    bytes_init(&input, 1u << 20);
    bytes_text(&input, OPEN CALL("write") "\n" ENDCALL);
    for (int i = 0; i < 1000; i++) bytes_text(&input, "and on ");
    expect(&talking_tools, input.data, "B(0,write) A(0,{}) E(0) F(tool_calls)");
    bytes_free(&input);
}

/* ---- how to sample ------------------------------------------------------------- */

static void ignore_event(void *ctx, const answer_event *e)
{
    (void)ctx;
    (void)e;
}

/* Where the next token is markup, and which section that is. */
TEST(structure_is_sampled_greedily_and_payload_is_not)
{
    static const struct { const char *piece; answer_section in; bool greedy; } steps[] = {
        { "hm", SECTION_REASONING, false },
        { "</think>", SECTION_TEXT, false },
        { "a \n<", SECTION_TEXT, false },
        { "｜DSML｜", SECTION_TEXT, true },
        { "tool_calls>", SECTION_TOOLS, true },
        { "\n" CALL("write"), SECTION_TOOLS, true },
        { STRING("text"), SECTION_TOOLS, false },
        { "some\n<", SECTION_TOOLS, false },
        { "/", SECTION_TOOLS, false },
        { "p></", SECTION_TOOLS, false },
        { "｜DSML｜", SECTION_TOOLS, true },
        { "parameter>\n", SECTION_TOOLS, true },
        { JSON("any"), SECTION_TOOLS, true },
        { "{ \"k", SECTION_TOOLS, false },
        { "\\\"", SECTION_TOOLS, false },
        { "\": ", SECTION_TOOLS, true },
        { "1}", SECTION_TOOLS, true },
        { ENDARG ENDCALL, SECTION_TOOLS, true },
        { CLOSE, SECTION_TEXT, false },
    };
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    run r = { .any = false };
    const answer_options o = { .start = CHAT_STARTS_REASONING, .tools = offered, .n_tools = 2, .random = count_up,
        .random_ctx = &r,
                               .event = ignore_event };
    answer *a = NULL;
    ds4_error err;
    REQUIRE_OK(answer_open(&a, v, &o, &err), err);
    for (size_t i = 0; i < countof(steps); i++) {
        for (const char *p = steps[i].piece; *p;) {
            size_t n = 1;
            int32_t id = control_at(v, p, &n, true);
            if (id < 0) id = vocab_find(v, p, n = 1);
            answer_push(a, id);
            p += n;
        }
        if (answer_in(a) != steps[i].in || answer_wants_greedy(a) != steps[i].greedy) {
            test_fail(__FILE__, __LINE__, "after \"%s\": section %d, greedy %d", steps[i].piece, answer_in(a),
                      answer_wants_greedy(a));
        }
    }
    answer_close(a);
    vocab_close(v);
}
