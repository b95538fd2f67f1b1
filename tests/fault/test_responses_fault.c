/* Responses with tools of every kind and a store, with every allocation failing in its turn (test_api_fault.c has
 * the plain cases). */
#include <stdio.h>
#include <string.h>

#include "api/api.h"
#include "api/responses_store.h"
#include "base/checked.h"
#include "fault/alloc.h"
#include "runner.h"

static void zeros(void *ctx, uint8_t *out, size_t n)
{
    (void)ctx;
    memset(out, 0, n);
}

static void encode(api_encoder *e, bytes *out)
{
    static char text[3000];
    const answer_usage usage = { .prompt_tokens = 9 };
    memset(text, 'a', sizeof text);
    const slice all = { text, sizeof text };
    const answer_event events[] = {
        { .kind = ANSWER_REASONING, .bytes = all }, { .kind = ANSWER_TEXT, .bytes = all },
        { .kind = ANSWER_CALL_BEGIN, .id = slice_of("call_1"), .name = slice_of("patch") },
        { .kind = ANSWER_CALL_ARGS, .bytes = slice_of("{\"input\":\"x\"}") }, { .kind = ANSWER_CALL_END },
        { .kind = ANSWER_CALL_BEGIN, .id = slice_of("call_2"), .name = slice_of("f") },
        { .kind = ANSWER_CALL_ARGS, .bytes = slice_of("{}") }, { .kind = ANSWER_CALL_END },
        { .kind = ANSWER_FINISH, .finish = FINISH_TOOL_CALLS },
    };
    api_encode_start(e, &usage, out);
    for (size_t i = 0; i < countof(events); i++) api_encode(e, &events[i], out);
    api_encode_keepalive(e, out);
    api_encode_end(e, &usage, out);
}

typedef struct {
    const char *body;
    bool        stored;
} request;

static ds4_status run(void *ctx, ds4_error *err)
{
    const request *q = ctx;
    api_config c = { .model = "m", .ctx = 1000, .default_tokens = 100, .temperature = 1, .top_p = 1, .random = zeros };
    const api_answer_info info = { "req_1", 1767225600 };
    api_request *r = NULL;
    api_error e = { .message = "" };
    bytes out;
    bytes_init(&out, 1u << 24);
    ds4_status st = q->stored ? responses_store_open(&c.responses, 2, 1u << 20, err) : DS4_OK;
    if (!st && q->stored) {
        const stored_response kept = { .id = slice_of("resp_1"), .response = slice_of("{}"), .context = slice_of("[]"),
                                       .input = slice_of("[{\"role\":\"user\",\"content\":\"one\"}]"),
                                       .output = slice_of("[]") };
        if (!responses_store_put(c.responses, &kept)) st = DS4_EMEMORY;
    }
    if (!st && !api_parse(&r, API_RESPONSES, slice_of(q->body), &c, &e)) {
        /* A stored answer that can not be copied counts as one that is not there. */
        EXPECT(e.status == 500 || (q->stored && e.code && !strcmp(e.code, "previous_response_not_found")));
        st = DS4_EMEMORY;
    }
    api_encoder *encoder = r ? api_encoder_new(r, &c, &info) : NULL;
    if (encoder) encode(encoder, &out);
    if (!st && (!encoder || api_encoder_status(encoder) || out.failed)) st = DS4_EMEMORY;
    if (st) snprintf(err->message, sizeof err->message, "no memory");
    api_encoder_free(encoder);
    api_request_free(r);
    responses_store_close(c.responses);
    bytes_free(&out);
    return st;
}

#define TOOLS "\"tools\":[{\"type\":\"custom\",\"name\":\"patch\"},{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{\"type\":" \
              "\"function\",\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}]},{\"type\":\"web_search\"}]"
#define ITEMS "[{\"type\":\"reasoning\",\"content\":[{\"text\":\"a\"},{\"text\":\"b\"}],\"encrypted_content\":\"x\"}," \
              "{\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"c\"}]},{\"type\":\"custom_tool_call\"," \
              "\"call_id\":\"1\",\"name\":\"patch\",\"input\":\"i\"},{\"type\":\"custom_tool_call_output\",\"call_id\":\"1\"," \
              "\"output\":\"o\"},{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"d\"},{\"type\":\"x\"}]}]"

TEST(tools_and_items_without_memory)
{
    request stream = { "{\"stream\":true,\"instructions\":\"S\",\"include\":[\"reasoning.encrypted_content\"],"
                        "\"prompt_cache_key\":\"k\",\"stop\":\"s\",\"input\":" ITEMS "," TOOLS "}", false };
    request whole = { "{\"input\":" ITEMS "," TOOLS "}", false };
    fault_each(run, &stream);
    fault_each(run, &whole);
}

TEST(a_stored_conversation_without_memory)
{
    request continued = { "{\"previous_response_id\":\"resp_1\",\"input\":\"two\"," TOOLS "}", true };
    fault_each(run, &continued);
}
