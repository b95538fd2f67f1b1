/* Any bytes, as a conversation: a prompt that renders has sound segments, its tokens
 * spell its text, and control tokens stand only where the renderer put them.
 *
 * The input is fields that end with 0xFF. The first four set the options, the tool's
 * name, its schema and the answer's schema; then come messages, three fields each: role
 * and text, reasoning or call id, arguments of a call. */
#include "text/chat.h"
#include "text/tokenizer.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_MESSAGES 64

static slice next_field(slice *rest)
{
    const char *end = rest->len ? memchr(rest->data, 0xFF, rest->len) : NULL;
    const slice field = { rest->data, end ? (size_t)(end - rest->data) : rest->len };
    const size_t taken = field.len + (end != NULL);
    if (taken) *rest = (slice){ rest->data + taken, rest->len - taken };
    return field;
}

static chat_message next_message(slice *rest, chat_call *call)
{
    chat_message m = { .role = CHAT_USER };
    const slice text = next_field(rest), second = next_field(rest), arguments = next_field(rest);
    if (text.len) {
        m.role = (chat_role)((unsigned char)text.data[0] % 6);
        m.text = (slice){ text.data + 1, text.len - 1 };
    }
    m.reasoning = m.call_id = second;
    *call = (chat_call){ second, second, arguments };
    m.calls = call;
    m.n_calls = m.role == CHAT_ASSISTANT && arguments.len > 0;
    return m;
}

static void check_segments(const chat_prompt *p, const token_list *ids)
{
    size_t end = 0, controls = 0, found = 0;
    for (size_t i = 0; i < p->n_segments; i++) {
        const chat_segment *s = &p->segments[i];
        if (s->begin != end || s->len == 0) abort();
        if (s->control < 0 && i > 0 && p->segments[i - 1].control < 0) abort();
        controls += s->control >= 0;
        end += s->len;
    }
    if (end != p->text.len) abort();
    for (size_t i = 0; i < ids->n; i++) found += vocab_type(p->v, ids->ids[i]) != TOKEN_NORMAL;
    if (found != controls) abort();
}

static void check_prompt(const vocab *v, const chat_request *r)
{
    chat_prompt p;
    token_list ids;
    bytes back;
    chat_prompt_init(&p, v, SIZE_MAX);
    token_list_init(&ids, SIZE_MAX);
    bytes_init(&back, SIZE_MAX);
    if (!chat_render(&p, r, NULL)) {
        if (chat_tokens(&p, &ids, NULL) || tokenizer_decode(v, ids.ids, ids.n, true, &back, NULL)) abort();
        if (!slice_equal((slice){ back.data, back.len }, (slice){ p.text.data, p.text.len })) abort();
        check_segments(&p, &ids);
    }
    bytes_free(&back);
    token_list_free(&ids);
    chat_prompt_free(&p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static vocab *v;                    /* opened once, left to the end of the process */
    static chat_message messages[MAX_MESSAGES];
    static chat_call calls[MAX_MESSAGES];
    if (!v) {
        text_source s = text_tiny_source();
        text_add_token(&s, "<｜latest_reminder｜>", TOKEN_CONTROL);
        if (text_source_open(&v, &s, NULL)) abort();
        text_source_free(&s);
    }
    slice rest = { (const char *)data, size };
    const slice options = next_field(&rest);
    const chat_tool tool = { .name = next_field(&rest), .parameters = next_field(&rest) };
    const unsigned bits = options.len ? (unsigned char)options.data[0] : 0;

    chat_request r = chat_request_defaults();
    r.format_schema = next_field(&rest);
    r.messages = messages;
    r.tools = &tool;
    r.n_tools = bits & 1;
    r.no_thinking = bits & 2;
    r.effort = (chat_effort)(bits >> 2 & 3);
    r.profile = (effort_profile)(bits >> 4 & 1);
    r.format_place = (format_place)(bits >> 5 & 1);
    r.think_max_min_ctx = bits & 64 ? 0 : r.think_max_min_ctx;
    while (rest.len && r.n_messages < MAX_MESSAGES) {
        messages[r.n_messages] = next_message(&rest, &calls[r.n_messages]);
        r.n_messages++;
    }
    check_prompt(v, &r);
    return 0;
}
