/* Any tokens, as an answer: events are in order and valid, arguments are JSON, nothing comes
 * after the end, no tag is ever shown as text, and other cuts of the same bytes give the same.
 *
 * The first two bytes set the options. Of the rest a byte below 128 is that character, others are
 * pieces of markup, control tokens and broken characters. */
#include "base/checked.h"
#include "text/answer.h"
#include "text/dsml.h"
#include "text/json_tree.h"
#include "text/tools.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const pieces[] = {
    DSML_MARKER, "<" DSML_MARKER, "</" DSML_MARKER, "<" DSML_MARKER "tool_calls>\n", "</" DSML_MARKER "tool_calls>",
    "<" DSML_MARKER "invoke name=\"", "</" DSML_MARKER "invoke>\n", "<" DSML_MARKER "parameter name=\"", "</" DSML_MARKER "parameter>\n",
    "\">", "\" string=\"true\">", "\" string=\"false\">", "&lt;/" DSML_MARKER "parameter>", "write", "text", "arguments", "count",
    "</parameter>", "<invoke name='", "|DSML|", "｜｜DSML｜｜", "“", "”", "\xE2", "\x82", "\xF0\x9F", "\xFF", "\n\n", "END",
    "True", "{\"text\": \"x\"}", "<｜end▁of▁sentence｜>", "<think>", "</think>", "<｜User｜>",
};

enum { MAX_TOKENS = 4096 };

typedef struct {
    bytes log;                  /* events, neighbouring pieces joined */
    bytes text, arguments;
    int   n_calls;
    bool  any, in_call, finished;
    answer_kind last;
} seen;

static void check(bool good)
{
    if (!good) abort();
}

static void check_arguments(slice text)
{
    json_tree t;
    check(json_tree_parse(&t, text, NULL) == DS4_OK && t.nodes[1].kind == JSON_TREE_OBJECT);
    json_tree_free(&t);
}

static void take_event(void *ctx, const answer_event *e)
{
    seen *s = ctx;
    check(!s->finished && utf8_valid(e->bytes.data, e->bytes.len));
    check(e->kind == ANSWER_CALL_ARGS || e->kind == ANSWER_CALL_END ? s->in_call : !s->in_call ||
          e->kind == ANSWER_FINISH);
    if (!s->any || s->last != e->kind || e->kind == ANSWER_CALL_END) bytes_printf(&s->log, "\n%d:", (int)e->kind);
    bytes_append(&s->log, e->bytes.data, e->bytes.len);
    s->any = true;
    s->last = e->kind;
    switch (e->kind) {
    case ANSWER_CALL_BEGIN:
        check(e->call == s->n_calls && e->id.len > 0 && e->name.len > 0 && utf8_valid(e->name.data, e->name.len));
        bytes_append(&s->log, e->name.data, e->name.len);
        bytes_clear(&s->arguments);
        s->in_call = true;
        break;
    case ANSWER_CALL_ARGS:
        bytes_append(&s->arguments, e->bytes.data, e->bytes.len);
        break;
    case ANSWER_CALL_END:
        check_arguments((slice){ s->arguments.data, s->arguments.len });
        s->in_call = false;
        s->n_calls++;
        break;
    case ANSWER_TEXT:
        bytes_append(&s->text, e->bytes.data, e->bytes.len);
        break;
    case ANSWER_FINISH:
        check(e->finish != FINISH_TOOL_CALLS || (s->n_calls > 0 && !s->in_call));
        bytes_printf(&s->log, "%d", (int)e->finish);
        s->finished = true;
        break;
    default:
        break;
    }
}

static void same_bytes(void *ctx, uint8_t out[16])
{
    (void)ctx;
    memset(out, 7, 16);
}

/* Bytes of a token one by one. */
static answer_verdict push_cut(answer *a, const vocab *v, int32_t token)
{
    size_t n;
    answer_verdict verdict = ANSWER_MORE;
    const char *text = vocab_bytes(v, token, &n);
    if (vocab_hidden(v, token)) return answer_push(a, token);
    for (size_t i = 0; i < n && verdict == ANSWER_MORE; i++) verdict = answer_push(a, vocab_find(v, text + i, 1));
    return verdict;
}

static void check_no_tags(slice text)
{
    for (size_t i = 0; i < text.len; i++) {
        dsml_tag tag;
        if (text.data[i] != '<') continue;
        const dsml_result r = dsml_read((slice){ text.data + i, text.len - i }, false, &tag);
        check(r == DSML_NONE || r == DSML_PARTIAL || tag.kind == DSML_OTHER);
    }
}

/* The block, written again as a prompt, is the same bytes. */
static void check_replay(const vocab *v, slice block)
{
    chat_prompt p;
    answer *again;
    chat_prompt_init(&p, v, SIZE_MAX);
    calls_replay(&p, block);
    check(slice_equal(block, (slice){ p.text.data, p.text.len }));
    chat_prompt_free(&p);
    check(answer_read_block(&again, block, NULL, 0, NULL) == DS4_OK);
    answer_close(again);
}

static seen run(const vocab *v, const uint8_t *options, const int32_t *tokens, size_t n, bool cut)
{
    static const char schema[] = "{\"properties\":{\"text\":{\"type\":\"string\"},\"count\":{\"type\":\"integer\"}}}";
    const chat_tool tool = { .name = { "write", 5 }, .parameters = { schema, sizeof schema - 1 } };
    const slice stop = { "END", 3 };
    seen s = { .n_calls = 0 };
    bytes_init(&s.log, SIZE_MAX);
    bytes_init(&s.text, SIZE_MAX);
    bytes_init(&s.arguments, SIZE_MAX);
    const answer_options o = {
        .start = options[0] & 1 ? CHAT_STARTS_REASONING : CHAT_STARTS_TEXT, .tools = &tool, .n_tools = !(options[0] & 2),
        .raw = (options[0] & 28) == 28, .stops = &stop, .n_stops = options[0] >> 5 & 1,
        .include_stop = options[0] >> 6 & 1,
        .unclosed = (unclosed_think)(options[1] % 3), .ids = (call_id_form)(options[1] >> 2 & 1),
        .random = same_bytes, .event = take_event, .event_ctx = &s,
    };
    answer *a;
    check(answer_open(&a, v, &o, NULL) == DS4_OK);
    for (size_t i = 0; i < n; i++) {
        answer_wants_greedy(a);
        const answer_verdict verdict = cut ? push_cut(a, v, tokens[i]) : answer_push(a, tokens[i]);
        if (verdict == ANSWER_END_THINK) answer_push(a, vocab_special(v)->end_think);
        if (verdict == ANSWER_END) break;
    }
    answer_finish_with(a, options[1] & 8 ? FINISH_LENGTH : FINISH_STOP);
    check(s.finished && answer_push(a, 5) == ANSWER_END && answer_status(a, NULL) == DS4_OK);

    const answer_turn turn = answer_turn_of(a);
    check(turn.n_calls == s.n_calls);
    if (s.n_calls && !s.in_call) {
        const slice last = turn.calls[turn.n_calls - 1].arguments;
        check(slice_equal(last, (slice){ s.arguments.data, s.arguments.len }));
    }
    if (turn.block.len) check_replay(v, turn.block);
    /* Reasoning may quote tags, and bytes around a deleted tag may look like one. */
    const bool quoted = o.unclosed == UNCLOSED_TEXT || answer_counts_of(a)->repairs[REPAIR_STRAY];
    if (o.n_tools && !o.raw && !quoted) check_no_tags((slice){ s.text.data, s.text.len });
    answer_close(a);
    return s;
}

static void seen_free(seen *s)
{
    bytes_free(&s->log);
    bytes_free(&s->text);
    bytes_free(&s->arguments);
}

/* The tiny vocabulary and a token for each piece. */
static vocab *open_vocab(int32_t *ids)
{
    text_source s = text_tiny_source();
    vocab *v = NULL;
    for (size_t i = 0; i < countof(pieces); i++) {
        bytes spelled;
        bytes_init(&spelled, 1u << 16);
        for (const char *p = pieces[i]; *p; p++) {
            const slice byte = text_spelled_byte((unsigned char)*p);
            bytes_append(&spelled, byte.data, byte.len);
            free((char *)byte.data);
        }
        text_take_token(&s, text_copy(spelled.data, spelled.len), TOKEN_NORMAL);
        bytes_free(&spelled);
        ids[i] = (int32_t)s.n - 1;
    }
    if (text_source_open(&v, &s, NULL)) abort();
    text_source_free(&s);

    /* The control tokens are those of the vocabulary, not their spelling. */
    const special_tokens *special = vocab_special(v);
    const int32_t control[] = { special->eos, special->think, special->end_think, special->user };
    for (size_t i = 0; i < countof(control); i++) ids[countof(pieces) - countof(control) + i] = control[i];
    ids[0] = special->dsml;
    return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static vocab *v;                    /* opened once, left to the end of the process */
    static int32_t ids[countof(pieces)], tokens[MAX_TOKENS];
    if (!v) v = open_vocab(ids);
    if (size < 2) return 0;

    size_t n = 0;
    for (size_t i = 2; i < size && n < MAX_TOKENS; i++) {
        const char c = (char)data[i];
        tokens[n++] = data[i] < 128 ? vocab_find(v, &c, 1) : ids[(data[i] - 128u) % countof(pieces)];
    }
    seen whole = run(v, data, tokens, n, false), cut = run(v, data, tokens, n, true);
    check(slice_equal((slice){ whole.log.data, whole.log.len }, (slice){ cut.log.data, cut.log.len }));
    seen_free(&whole);
    seen_free(&cut);
    return 0;
}
