#include <stdio.h>
#include <string.h>

#include "api/responses.h"
#include "api/responses_store.h"
#include "api/seal.h"
#include "unit/api_case.h"

static api_request *parse_with(const api_config *c, const char *fields, api_error *e)
{
    api_request *r = NULL;
    bytes body;
    *e = (api_error){ .message = "" };
    bytes_init(&body, 1u << 16);
    bytes_printf(&body, "{'model':'m',%s}", fields);
    replace(body.data, '\'', '"');
    const bool good = api_parse(&r, API_RESPONSES, (slice){ body.data, body.len }, c, e);
    EXPECT(good == (r != NULL));
    bytes_free(&body);
    return r;
}

static void expect_with(const api_config *c, const char *fields, const char *want)
{
    bytes body;
    bytes_init(&body, 1u << 16);
    bytes_printf(&body, "{'model':'m',%s}", fields);
    expect_parsed(API_RESPONSES, c, &body, want);
    bytes_free(&body);
}

static void expect(const char *fields, const char *want)
{
    const api_config c = config();
    expect_with(&c, fields, want);
}

static api_request *parsed(const char *fields)
{
    static api_config c;
    api_error e;
    c = config();
    api_request *r = parse_with(&c, fields, &e);
    EXPECT_TEXT(e.message, "");
    return r;
}

TEST(a_string_or_items_make_the_same_conversation)
{
    expect("'input':'hi','instructions':'S'", "system|S\nuser|hi\n");
    expect("'instructions':'S','input':[{'role':'user','content':'hi'}]", "system|S\nuser|hi\n");
    expect("'instructions':null,'input':[{'type':'message','role':'developer','content':[{'type':'input_text',"
           "'text':'S'}]},{'type':'message','role':'system','content':'T','id':'msg_1'},"
           "{'role':'user','content':[{'type':'input_text','text':'a'},{'type':'input_image','image_url':'x'}]}]",
           "developer|S\nsystem|T\nuser|a\n\n[Unsupported input_image]\n");
}

TEST(neighbouring_items_of_the_assistant_are_one_turn)
{
    expect("'input':[{'role':'user','content':'go'},"
           "{'type':'reasoning','id':'rs_1','summary':[{'type':'summary_text','text':'no'}],"
           "'content':[{'type':'reasoning_text','text':'Need it.'}],'encrypted_content':'x'},"
           "{'type':'message','role':'assistant','content':[{'type':'output_text','text':'Let me look.'}]},"
           "{'type':'function_call','call_id':'c1','name':'w','arguments':'{ \\\"a\\\": 1 }'},"
           "{\"type\":\"custom_tool_call\",\"call_id\":\"c2\",\"name\":\"patch\",\"input\":\"*** a\\n\\\"b\\\"\"},"
           "{'type':'local_shell_call','call_id':'c3','action':{'type':'exec','command':['ls','-l'],'env':{}}},"
           "{'type':'function_call_output','call_id':'c1','output':'22C'},"
           "{'type':'custom_tool_call_output','call_id':'c2','output':[{'type':'input_text','text':'done'}]},"
           "{'type':'local_shell_call_output','id':'c3','output':'x'}]",
           "user|go\nassistant|Let me look.|think Need it.|c1 w{ \"a\": 1 }|c2 patch{\"input\":\"*** a\\n\\\"b\\\"\"}"
           "|c3 local_shell{'command':['ls','-l']}\ntool|22C|of c1\ntool|done|of c2\ntool|x|of c3\n");
}

TEST(reasoning_comes_from_the_fullest_source)
{
    const api_config c = config();
    const uint8_t nonce[SEAL_NONCE_BYTES] = { 1 };
    bytes sealed, fields;
    bytes_init(&sealed, 1000);
    bytes_init(&fields, 4000);
    REQUIRE(seal_text(c.state_key, nonce, slice_of("sealed"), &sealed));
    bytes_printf(&fields, "'input':[{'role':'user','content':'go'},{'type':'reasoning','summary':[{'type':"
                 "'summary_text','text':'short'}],'content':null,'encrypted_content':'%s'}]", sealed.data);
    expect(fields.data, "user|go\nassistant||think sealed\n");
    sealed.data[40] ^= 1;
    bytes_clear(&fields);
    bytes_printf(&fields, "'input':[{'role':'user','content':'go'},{'type':'reasoning','summary':[{'type':"
                 "'summary_text','text':'short'}],'content':[],'encrypted_content':'%s'}]", sealed.data);
    expect(fields.data, "user|go\nassistant||think short\n");
    bytes_free(&sealed);
    bytes_free(&fields);
}

TEST(unknown_items_are_left_out_with_a_warning)
{
    api_request *r = parsed("'input':[{'role':'user','content':'go'},{'type':'web_search_call','id':'ws'},"
                            "{'type':'compaction','encrypted_content':'x'}]");
    REQUIRE(r);
    EXPECT_INT(r->chat.n_messages, 1);
    EXPECT_INT(r->n_warnings, 2);
    api_request_free(r);
}

TEST(an_output_without_its_call_is_told)
{
    expect("'input':[{'type':'function_call_output','call_id':'c9','output':'x'},"
           "{'type':'function_call','call_id':'c1','name':'w','arguments':'{}'},"
           "{'type':'function_call_output','call_id':'c1','output':'y'},"
           "{'type':'function_call_output','call_id':'c8','output':'z'}]",
           "tool|x|of c9\nassistant||c1 w{}\ntool|y|of c1\ntool|z|of c8\norphan c9\norphan c8\n");
    api_error e;
    EXPECT(!api_refuse_orphan(&e, slice_of("c9")));
    EXPECT_TEXT(e.message, "No tool call found for function call output with call_id c9.");
    EXPECT_INT(e.status, 400);
}

TEST(a_field_that_is_wrong_is_named)
{
    expect("'x':1", "400 input: input: this field is required");
    expect("'input':5", "400 input: input: an array is expected");
    expect("'input':[],'instructions':'S'", "400 input: input: at least one message is required");
    expect("'input':[{}]", "400 input[0].type: input[0].type: this field is required");
    expect("'input':[{'type':'message','role':'tool','content':'x'}]",
           "400 input[0].role: input[0].role: user, assistant, system or developer is expected");
    expect("'input':[{'type':'function_call','name':'n','arguments':'{}'}]",
           "400 input[0].call_id: input[0].call_id: this field is required");
    expect("'input':[{'type':'function_call','call_id':'c','name':'n','arguments':{}}]",
           "400 input[0].arguments: input[0].arguments: a string is expected");
    expect("'input':[{'type':'item_reference','id':'x'}]",
           "400 input[0]: input[0]: items are not kept by this server; send the item itself instead of a reference");
    expect("'input':'x','instructions':[]", "400 instructions: instructions: a string is expected");
    expect("'input':'x','max_output_tokens':0",
           "400 max_output_tokens: max_output_tokens: an integer from 1 to 9007199254740992 is expected");
    expect("'input':'x','reasoning':{'effort':'silly'}", "400 reasoning.effort: reasoning.effort: none, off, minimal, "
           "low, medium, high, xhigh, max, ultra or a number is expected");
    expect("'input':'x','tools':[{'type':'function'}]", "400 tools[0].name: tools[0].name: this field is required");
    expect("'input':'x','tool_choice':'some'", "400 tool_choice: tool_choice: auto, required or none is expected");
    expect("'input':'x','tool_choice':{'type':'web_search'}", "400 tool_choice.type: tool_choice.type: function, "
           "custom, local_shell or allowed_tools is expected");
}

TEST(what_this_server_does_not_do_is_refused)
{
    expect("'input':'x','conversation':'conv_1'", "400 conversation: conversation: conversations are not kept by this "
           "server; send the whole conversation as input");
    expect("'input':'x','background':true", "400 background: background: this server does not answer in the "
        "background");
    expect("'input':'x','prompt':{'id':'p'}", "400 prompt: prompt: prompt templates are not kept by this server");
    expect("'input':'x','truncation':'middle'", "400 truncation: truncation: auto or disabled is expected");
    expect("'input':'x','background':false,'conversation':null,'prompt':null,'truncation':'auto'", "user|x\n");
    expect("'input':'x','text':{'format':{'type':'json_schema','name':'n','schema':{'type':'object'}}}",
           "400 text.format.schema: text.format.schema: answers can not be held to a schema by this version; ask for "
           "plain "
           "text and check the answer");
    expect("'input':'x','text':{'format':{'type':'json_object'}}",
           "400 text.format: text.format: answers can not be held to a schema by this version; ask for plain text "
           "and check "
           "the answer");
    expect("'input':'x','previous_response_id':'resp_1'", "400 previous_response_id: Previous response with id "
        "'resp_1' "
           "not found. This server does not keep responses; send the whole conversation as input.");

    const api_config c = config();
    api_error e;
    EXPECT(!parse_with(&c, "'input':'x','previous_response_id':'resp_1'", &e));
    EXPECT_TEXT(e.code, "previous_response_not_found");
}

TEST(tools_of_every_kind_become_functions)
{
    api_request *r = parsed("'input':'x','tools':["
        "{'type':'function','name':'f','description':'d','parameters':{'type':'object'},'strict':false},"
        "{'type':'namespace','name':'agents','description':'of','tools':[{'type':'function','name':'spawn',"
        "'parameters':{}}]},{'type':'custom','name':'patch','description':'p','format':{'type':'grammar'}},"
        "{'type':'local_shell'},{'type':'web_search'}],'parallel_tool_calls':false,"
        "'tool_choice':{'type':'function','name':'spawn','namespace':'agents'}");
    REQUIRE(r && r->chat.n_tools == 4);
    EXPECT(slice_is(r->chat.tools[0].name, "f"));
    EXPECT(slice_is(r->chat.tools[1].name, "agents.spawn"));
    EXPECT(slice_is(r->chat.tools[2].name, "patch"));
    EXPECT(slice_equal(r->chat.tools[2].parameters,
                       quoted("{'type':'object','properties':{'input':{'type':'string'}},'required':['input']}")));
    EXPECT(slice_is(r->chat.tools[3].name, "local_shell"));
    EXPECT(r->choice == API_TOOLS_NAMED && slice_is(r->chosen_tool, "agents.spawn") && r->one_call);
    EXPECT_INT(r->n_warnings, 1);
    api_request_free(r);
    expect("'input':[{'type':'function_call','call_id':'c','name':'spawn','namespace':'agents','arguments':'{}'}]",
           "assistant||c agents.spawn{}\n");
    expect("'input':'x','tools':[{'type':'function','name':'a.b'},{'type':'namespace','name':'a','tools':["
           "{'type':'function','name':'b'}]}]", "400 tools: tools: two of them are named 'a.b'");
    expect("'input':'x','tools':[{'type':'function','name':'a','strict':true}]",
           "400 tools[0].strict: tools[0].strict: arguments can not be held to a schema by this version; leave "
           "strict out or false");
}

TEST(allowed_tools_narrow_what_may_be_called)
{
    static const char tools[] = "'input':'x','tools':[{'type':'function','name':'a'},{'type':'function','name':'b'},"
                                "{'type':'function','name':'c'}],'tool_choice':{'type':'allowed_tools',";
    char fields[600];
    snprintf(fields, sizeof fields, "%s'mode':'required','tools':[{'type':'function','name':'c'},"
             "{'type':'function','name':'a'}]}", tools);
    api_request *r = parsed(fields);
    REQUIRE(r);
    EXPECT_INT(r->chat.n_tools, 3);
    EXPECT_INT(r->n_callable, 2);
    EXPECT(slice_is(r->callable[0].name, "c"));
    EXPECT_INT(r->choice, API_TOOLS_REQUIRED);
    api_request_free(r);
    snprintf(fields, sizeof fields, "%s'tools':[]}", tools);
    expect(fields, "400 tool_choice.tools: tool_choice.tools: at least one tool is expected");
}

TEST(settings_reach_the_request)
{
    api_request *r = parsed("'input':'x','stream':true,'temperature':0.5,'top_p':0.9,'top_k':40,'seed':7,"
                            "'max_output_tokens':100,'stop':['END'],'prompt_cache_key':'k1','reasoning':{'effort':"
                            "'high','summary':'auto'},'include':['reasoning.encrypted_content',"
                            "'file_search_call.results'],"
                            "'top_logprobs':2,'store':true,'service_tier':'auto','client_metadata':{}");
    REQUIRE(r);
    EXPECT(r->stream && r->has_seed && r->seed == 7 && r->top_k == 40);
    EXPECT_INT(r->max_tokens, 100);
    EXPECT_INT(r->n_stops, 1);
    EXPECT_INT(r->n_hints, 1);
    EXPECT(r->n_hints && slice_is(r->hints[0], "k1"));
    EXPECT_INT(r->chat.effort, EFFORT_HIGH);
    EXPECT(r->logprobs && r->top_logprobs == 2);
    const responses_request *q = r->own;
    EXPECT(q->encrypt && q->summary && !q->store);      /* there is no store */
    api_request_free(r);

    r = parsed("'input':'x','reasoning':{'effort':'none'}");
    REQUIRE(r);
    EXPECT(r->chat.no_thinking);
    api_request_free(r);
}

/* ---- what goes out comes back ---------------------------------------------------------------- */

static const answer_event agent_turn[] = {
    { .kind = ANSWER_REASONING, .bytes = { "Need \"it\".\n", 11 } },
    { .kind = ANSWER_REASONING, .bytes = { "\xC3\xA9", 2 } },
    { .kind = ANSWER_TEXT, .bytes = { "Let me look.", 12 } },
    { .kind = ANSWER_CALL_BEGIN, .call = 0, .id = { "call_1", 6 }, .name = { "agents.spawn", 12 } },
    { .kind = ANSWER_CALL_ARGS, .call = 0, .bytes = { "{\"b\":1.50,\"a\":\"x\"}", 18 } },
    { .kind = ANSWER_CALL_END, .call = 0 },
    { .kind = ANSWER_CALL_BEGIN, .call = 1, .id = { "call_2", 6 }, .name = { "patch", 5 } },
    { .kind = ANSWER_CALL_ARGS, .call = 1, .bytes = { "{\"input\":\"*** a\\n\"}", 19 } },
    { .kind = ANSWER_CALL_END, .call = 1 },
    { .kind = ANSWER_CALL_BEGIN, .call = 2, .id = { "call_3", 6 }, .name = { "local_shell", 11 } },
    { .kind = ANSWER_CALL_ARGS, .call = 2, .bytes = { "{\"command\":[\"ls\"]}", 18 } },
    { .kind = ANSWER_CALL_END, .call = 2 },
    { .kind = ANSWER_FINISH, .finish = FINISH_TOOL_CALLS },
};
static const char agent_tools[] = "'tools':[{'type':'namespace','name':'agents','tools':[{'type':'function',"
                                  "'name':'spawn'}]},{'type':'custom','name':'patch'},{'type':'local_shell'}]";

/* The items of the agent's turn as the server gives them, without their brackets. */
static void answer_items(const api_config *c, const char *fields, bytes *items)
{
    static const char begin[] = "\"output\":[", end[] = "],\"parallel_tool_calls\"";
    api_error e;
    bytes out;
    api_request *r = parse_with(c, fields, &e);
    EXPECT_TEXT(e.message, "");
    const api_answer_info info = { .request_id = "req_1", .created = 1767225600 };
    const answer_usage usage = { .prompt_tokens = 3 };
    api_encoder *enc = r ? api_encoder_new(r, c, &info) : NULL;
    bytes_init(&out, 1u << 16);
    for (size_t i = 0; enc && i < sizeof agent_turn / sizeof *agent_turn; i++) api_encode(enc, &agent_turn[i], &out);
    if (enc) api_encode_end(enc, &usage, &out);
    const char *first = out.data ? strstr(out.data, begin) : NULL, *last = first ? strstr(first, end) : NULL;
    EXPECT(last != NULL);
    if (last) bytes_append(items, first + sizeof begin - 1, (size_t)(last - first) - (sizeof begin - 1));
    api_encoder_free(enc);
    api_request_free(r);
    bytes_free(&out);
}

static void expect_round_trip(bool summary, const char *settings, const char *gone)
{
    api_config c = config();
    char fields[2000];
    bytes items, next;
    c.responses_summary = summary;
    bytes_init(&items, 1u << 16);
    bytes_init(&next, 1u << 16);
    snprintf(fields, sizeof fields, "'input':'go',%s,%s", settings, agent_tools);
    answer_items(&c, fields, &items);
    /* A client that sends less back than it got. */
    char *at = gone ? strstr(items.data, gone) : NULL;
    if (at) memset(at, ' ', strlen(gone));
    EXPECT(!gone || at);
    bytes_printf(&next, "'input':[{'role':'user','content':'go'},%s,{'type':'function_call_output','call_id':'call_1',"
                 "'output':'1'}],%s", items.data, agent_tools);
    expect_with(&c, next.data, "user|go\nassistant|Let me look.|think Need 'it'.\n\xC3\xA9|call_1 "
        "agents.spawn{'b':1.50,'a':'x'}"
                "|call_2 patch{\"input\":\"*** a\\n\"}|call_3 local_shell{\"command\":[\"ls\"]}\ntool|1|of call_1\n");
    bytes_free(&items);
    bytes_free(&next);
}

TEST(a_turn_that_comes_back_is_the_turn_that_was_sent)
{
    static const char content[] = "{\"type\":\"reasoning_text\",\"text\":\"Need \\\"it\\\".\\n\xC3\xA9\"}";
    expect_round_trip(false, "'store':false", NULL);
    expect_round_trip(false, "'include':['reasoning.encrypted_content']", NULL);
    expect_round_trip(false, "'include':['reasoning.encrypted_content']", content);
    expect_round_trip(true, "'reasoning':{'summary':'auto'}", NULL);
}

/* ---- kept responses -------------------------------------------------------------------------- */

/* Answers `fields` with a text and returns the body. */
static void keep_answer(const api_config *c, const char *fields, const char *text, bytes *out)
{
    api_error e;
    api_request *r = parse_with(c, fields, &e);
    EXPECT_TEXT(e.message, "");
    if (!r) return;
    const api_answer_info info = { .request_id = "req_1", .created = 1767225600 };
    const answer_usage usage = { .prompt_tokens = 3, .completion_tokens = 2 };
    api_encoder *enc = api_encoder_new(r, c, &info);
    if (enc) {
        api_encode(enc, &(answer_event){ .kind = ANSWER_TEXT, .bytes = slice_of(text) }, out);
        api_encode(enc, &(answer_event){ .kind = ANSWER_FINISH, .finish = FINISH_STOP }, out);
        api_encode_end(enc, &usage, out);
        EXPECT_INT(api_encoder_status(enc), DS4_OK);
    }
    api_encoder_free(enc);
    api_request_free(r);
}

static void expect_stored(const api_config *c, const char *method, const char *id, const char *rest, const char *want)
{
    bytes out;
    api_error e = { .message = "" };
    bytes_init(&out, 1u << 16);
    if (!api_stored_response(c, slice_of(method), slice_of(id), slice_of(rest), &out, &e)) {
        bytes_clear(&out);
        bytes_printf(&out, "%d %s: %s", e.status, e.code ? e.code : "-", e.message);
    }
    expect_same(id, out.data, want);
    bytes_free(&out);
}

TEST(a_kept_response_can_be_continued_read_and_deleted)
{
    static const char first[] = "resp_000102030405060708090a0b0c0d0e0f",
        second[] = "resp_101112131415161718191a1b1c1d1e1f";
    api_config c = config();
    ds4_error err = { .message = "" };
    bytes body, again;
    char fields[400];
    REQUIRE_OK(responses_store_open(&c.responses, 4, 1u << 20, &err), err);
    bytes_init(&body, 1u << 16);
    bytes_init(&again, 1u << 16);

    keep_answer(&c, "'input':'one','instructions':'S'", "1", &body);
    expect_stored(&c, "GET", first, "", body.data);
    snprintf(fields, sizeof fields, "'previous_response_id':'%s','stream':true,'input':[{'role':'user',"
        "'content':'two'}]",
             first);
    keep_answer(&c, fields, "2", &again);
    snprintf(fields, sizeof fields, "'previous_response_id':'%s','input':'three'", second);
    expect_with(&c, fields, "user|one\nassistant|1\nuser|two\nassistant|2\nuser|three\n");

    expect_stored(&c, "GET", first, "input_items",
                  "{'object':'list','data':[{'id':'item_resp_000102030405060708090a0b0c0d0e0f_0','type':'message',"
                  "'role':'user','content':[{'type':'input_text','text':'one'}]}],"
                  "'first_id':'item_resp_000102030405060708090a0b0c0d0e0f_0',"
                  "'last_id':'item_resp_000102030405060708090a0b0c0d0e0f_0','has_more':false}");
    expect_stored(&c, "DELETE", first, "", "{'id':'resp_000102030405060708090a0b0c0d0e0f','object':'response',"
        "'deleted':true}");
    expect_stored(&c, "GET", first, "", "404 -: Response with id 'resp_000102030405060708090a0b0c0d0e0f' not found.");
    expect_stored(&c, "GET", second, "cancel", "404 unknown_url: A stored response has GET, DELETE, and GET of its "
        "input_items.");
    expect_with(&c, "'input':'x','previous_response_id':'resp_1'", "400 previous_response_id: Previous response with "
        "id "
                "'resp_1' not found. This server keeps only the latest responses; send the whole conversation as "
                "input.");
    responses_store_close(c.responses);
    bytes_free(&body);
    bytes_free(&again);
}

TEST(a_response_that_asks_not_to_be_kept_is_not)
{
    api_config c = config();
    ds4_error err = { .message = "" };
    bytes body;
    bytes_init(&body, 1u << 16);
    REQUIRE_OK(responses_store_open(&c.responses, 4, 1u << 20, &err), err);
    keep_answer(&c, "'input':'one','store':false", "1", &body);
    EXPECT(strstr(body.data, "\"store\":false"));
    expect_stored(&c, "GET", "resp_000102030405060708090a0b0c0d0e0f", "",
                  "404 -: Response with id 'resp_000102030405060708090a0b0c0d0e0f' not found.");
    responses_store_close(c.responses);
    bytes_free(&body);
}

TEST(without_a_store_the_endpoints_name_what_exists)
{
    const api_config c = config();
    expect_stored(&c, "GET", "resp_1", "", "404 unsupported_endpoint: This server does not keep responses (it was "
        "started "
                  "without --responses-store). It has POST /v1/responses, /v1/chat/completions, /v1/completions and "
                  "/v1/messages.");
}
