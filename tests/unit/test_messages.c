#include <stdio.h>
#include <string.h>

#include "api/seal.h"
#include "unit/api_case.h"

static slice text_of(const char *text)
{
    return text ? slice_of(text) : (slice){ "", 0 };
}

static void expect_messages(const char *fields, const char *want)
{
    const api_config c = config();
    bytes body;
    bytes_init(&body, 1u << 16);
    bytes_printf(&body, "{'model':'m','max_tokens':10,%s}", fields);
    expect_parsed(API_MESSAGES, &c, &body, want);
    bytes_free(&body);
}

TEST(blocks_and_strings_make_the_same_conversation)
{
    expect_messages("'system':'S','messages':[{'role':'user','content':'hi'}]", "system|S\nuser|hi\n");
    expect_messages("'system':[{'type':'text','text':'S','cache_control':{'type':'ephemeral'}}],"
                    "'messages':[{'role':'user','content':[{'type':'text','text':'hi'}]}]",
                    "system|S\nuser|hi\n");
    expect_messages("'system':[{'type':'text','text':'A'},{'type':'text','text':'B'}],"
                    "'messages':[{'role':'user','content':[{'type':'text','text':'one'},"
                    "{'type':'image','source':{}}]},{'role':'user','content':[]}]",
                    "system|A\n\nB\nuser|one\nuser|[Unsupported image]\nuser|\n");
}

TEST(a_billing_line_is_dropped_and_only_in_front)
{
    expect_messages("'system':[{'type':'text','text':'x-anthropic-billing-header: cc_version=2.1.197.d55'},"
                    "{'type':'text','text':'I am'},{'type':'text','text':'x-anthropic-billing-header: 2'}],"
                    "'messages':[{'role':'user','content':'hi'}]",
                    "system|I am\n\nx-anthropic-billing-header: 2\nuser|hi\n");
}

TEST(a_system_message_stays_in_its_place)
{
    expect_messages("'messages':[{'role':'user','content':'hi'},{'role':'system','content':'Agents: x'},"
                    "{'role':'assistant','content':'ok'},{'role':'system','content':[{'type':'text',"
                    "'text':'Agents: y'}]}]",
                    "user|hi\nsystem|Agents: x\nassistant|ok\nsystem|Agents: y\n");
}

TEST(tool_results_become_tool_messages_in_their_order)
{
    expect_messages("'messages':[{'role':'user','content':'go'},{'role':'assistant','content':["
                    "{'type':'thinking','thinking':'two','signature':''},{'type':'text','text':'Checking.'},"
                    "{'type':'tool_use','id':'t1','name':'w','input':{ 'b' : 1.50, 'a':'x'}},"
                    "{'type':'tool_use','id':'t2','name':'w','input':{}}]},"
                    "{'role':'user','content':[{'type':'tool_result','tool_use_id':'t2','content':'5C'},"
                    "{'type':'tool_result','tool_use_id':'t1','is_error':true,'content':[{'type':'text',"
                    "'text':'22C'}]},{'type':'tool_result','tool_use_id':'t3'},{'type':'text','text':'be brief'}]}]",
                    "user|go\nassistant|Checking.|think two|t1 w{'b':1.50,'a':'x'}|t2 w{}\n"
                    "tool|5C|of t2\ntool|22C|of t1\ntool||of t3\nuser|be brief\n");
}

TEST(the_results_of_the_last_turn_are_told)
{
    const api_config c = config();
    api_request *r = NULL;
    api_error e = { .message = "" };
    REQUIRE(api_parse(&r, API_MESSAGES, quoted(
        "{'max_tokens':1,'messages':[{'role':'user','content':[{'type':'tool_result','tool_use_id':'t0'}]},"
        "{'role':'assistant','content':[{'type':'tool_use','id':'t1','name':'w','input':{}}]},"
        "{'role':'user','content':[{'type':'tool_result','tool_use_id':'t1'}]}]}"), &c, &e));
    REQUIRE(r->n_results == 1);
    EXPECT(slice_is(r->result_ids[0], "t1"));
    api_request_free(r);
}

TEST(neighbouring_assistant_messages_are_one_turn)
{
    expect_messages("'messages':[{'role':'user','content':'go'},"
                    "{'role':'assistant','content':[{'type':'thinking','thinking':'a'},{'type':'redacted_thinking',"
                    "'data':'x'},{'type':'text','text':'b'}]},{'role':'assistant','content':[{'type':'thinking',"
                    "'thinking':'c'},{'type':'text','text':'d'},{'type':'tool_use','id':'t','name':'n',"
                    "'input':{}}]},{'role':'user','content':'x'},{'role':'assistant','content':''}]",
                    "user|go\nassistant|b\n\nd|think a\nc|t n{}\nuser|x\nassistant|\n");
}

TEST(sealed_reasoning_comes_back_from_the_signature)
{
    const api_config c = config();
    const uint8_t nonce[SEAL_NONCE_BYTES] = { 1 };
    bytes sealed, fields;
    bytes_init(&sealed, 1000);
    bytes_init(&fields, 4000);
    REQUIRE(seal_text(c.state_key, nonce, slice_of("secret thought"), &sealed));
    bytes_printf(&fields, "'messages':[{'role':'user','content':'go'},{'role':'assistant','content':[{'type':"
                 "'thinking','thinking':'','signature':'%s'},{'type':'text','text':'b'}]}]", sealed.data);
    expect_messages(fields.data, "user|go\nassistant|b|think secret thought\n");
    sealed.data[30] ^= 1;
    bytes_clear(&fields);
    bytes_printf(&fields, "'messages':[{'role':'user','content':'go'},{'role':'assistant','content':[{'type':"
                 "'thinking','thinking':'','signature':'%s'},{'type':'text','text':'b'}]}]", sealed.data);
    expect_messages(fields.data, "user|go\nassistant|b\n");
    bytes_free(&sealed);
    bytes_free(&fields);
}

TEST(a_field_that_is_wrong_is_named)
{
    expect_messages("'messages':'hi'", "400 messages: messages: an array is expected");
    expect_messages("'messages':[]", "400 messages: messages: at least one message is required");
    expect_messages("'system':'S','messages':[{'role':'system','content':'x'}]",
                    "400 messages: messages: at least one message is required");
    expect_messages("'messages':[1]", "400 messages[0]: messages[0]: an object is expected");
    expect_messages("'messages':[{'role':'tool','content':'x'}]",
                    "400 messages[0].role: messages[0].role: user, assistant or system is expected");
    expect_messages("'messages':[{'role':'user'}]", "400 messages[0].content: messages[0].content: this field is "
        "required");
    expect_messages("'messages':[{'role':'user','content':[{'type':'tool_result','content':'x'}]}]",
                    "400 messages[0].content[0].tool_use_id: messages[0].content[0].tool_use_id: this field is "
                    "required");
    expect_messages("'messages':[{'role':'assistant','content':[{'type':'tool_use','id':'t','name':'n',"
                    "'input':'x'}]}]",
                    "400 messages[0].content[0].input: messages[0].content[0].input: an object is expected");
    expect_messages("'system':5,'messages':[{'role':'user','content':'x'}]",
                    "400 system: system: a string or an array of parts is expected");
    expect_messages("'messages':[{'role':'user','content':'x'}],'tool_choice':{'type':'tool','name':'n'}",
                    "400 tool_choice.name: tool_choice.name: no tool is named 'n'");
    expect_messages("'messages':[{'role':'user','content':'x'}],'tool_choice':{'type':'some'}",
                    "400 tool_choice.type: tool_choice.type: auto, any, tool or none is expected");
    expect_messages("'messages':[{'role':'user','content':'x'}],'temperature':3",
                    "400 temperature: temperature: a number from 0 to 2 is expected");
    expect_messages("'messages':[{'role':'user','content':'x'}],'mcp_servers':[{}]",
                    "400 mcp_servers: mcp_servers: this server does not call MCP servers");
}

TEST(a_limit_is_required)
{
    const api_config c = config();
    api_request *r = NULL;
    api_error e = { .message = "" };
    EXPECT(!api_parse(&r, API_MESSAGES, quoted("{'messages':[{'role':'user','content':'x'}]}"), &c, &e));
    EXPECT(!r);
    EXPECT_TEXT(e.message, "max_tokens: this field is required");
    EXPECT(!api_parse(&r, API_MESSAGES, quoted("{'max_tokens':0,'messages':[{'role':'user','content':'x'}]}"), &c, &e));
    EXPECT_TEXT(e.param, "max_tokens");
}

TEST(structured_output_is_refused_in_both_spellings)
{
    static const char schema[] = "{'type':'json_schema','schema':{'type':'object'}}";
    char fields[400];
    snprintf(fields, sizeof fields, "'messages':[{'role':'user','content':'x'}],'output_config':{'effort':'high',"
             "'format':%s}", schema);
    expect_messages(fields, "400 output_config.format.schema: output_config.format.schema: answers can not be held "
        "to a "
                            "schema by this version; ask for plain text and check the answer");
    snprintf(fields, sizeof fields, "'messages':[{'role':'user','content':'x'}],'output_format':%s", schema);
    expect_messages(fields, "400 output_format.schema: output_format.schema: answers can not be held to a schema by "
        "this "
                            "version; ask for plain text and check the answer");
}

static api_request *parsed(const char *fields)
{
    static api_config c;
    api_request *r = NULL;
    api_error e = { .message = "" };
    bytes body;
    c = config();
    bytes_init(&body, 1u << 16);
    bytes_printf(&body, "{'max_tokens':10,'messages':[{'role':'user','content':'x'}]%s%s}", *fields ? "," : "", fields);
    replace(body.data, '\'', '"');
    EXPECT(api_parse(&r, API_MESSAGES, (slice){ body.data, body.len }, &c, &e));
    EXPECT_TEXT(e.message, "");
    bytes_free(&body);
    return r;
}

TEST(tools_of_the_client_are_offered_and_those_of_a_vendor_are_not)
{
    api_request *r = parsed("'tools':[{'name':'a','description':'d','input_schema':{'type':'object'},"
                            "'cache_control':{}},{'type':'custom','name':'b','input_schema':{}},"
                            "{'type':'web_search_20250305','name':'web_search'}],"
                            "'tool_choice':{'type':'tool','name':'b','disable_parallel_tool_use':true}");
    REQUIRE(r && r->chat.n_tools == 2);
    EXPECT(slice_is(r->chat.tools[0].name, "a") && slice_is(r->chat.tools[0].parameters, "{\"type\":\"object\"}"));
    EXPECT(slice_is(r->chat.tools[1].name, "b") && !r->chat.tools[1].has_description);
    EXPECT(r->choice == API_TOOLS_NAMED && slice_is(r->chosen_tool, "b") && r->one_call);
    EXPECT_INT(r->n_warnings, 1);
    api_request_free(r);
}

TEST(thinking_and_effort_are_read_from_their_own_fields)
{
    static const struct { const char *fields; bool no_thinking; chat_effort effort; int budget; } cases[] = {
        { "", false, EFFORT_UNSET, 0 },
        { "'thinking':{'type':'disabled'}", true, EFFORT_UNSET, 0 },
        { "'thinking':{'type':'adaptive'},'output_config':{'effort':'high'}", false, EFFORT_HIGH, 0 },
        { "'thinking':{'type':'enabled','budget_tokens':2048,'display':'omitted'}", false, EFFORT_UNSET, 2048 },
        { "'output_config':{'effort':'none'}", true, EFFORT_UNSET, 0 },
        { "'model':'deepseek-chat'", true, EFFORT_UNSET, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        api_request *r = parsed(cases[i].fields);
        REQUIRE(r);
        EXPECT_INT(r->chat.no_thinking, cases[i].no_thinking);
        EXPECT_INT(r->chat.effort, cases[i].effort);
        EXPECT_INT(r->think_budget, cases[i].budget);
        api_request_free(r);
    }
}

TEST(the_session_in_a_user_id_is_a_hint)
{
    static const struct { const char *user, *hint; } cases[] = {
        { "user_ab12_account__session_6d1f", "6d1f" },
        { "{\\\"device_id\\\":\\\"x\\\",\\\"session_id\\\":\\\"6d1f\\\"}", "6d1f" },
        { "somebody", NULL },
        { "{not json_session_5", "5" },
        { "_session_", NULL },
        { "[]", NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char fields[200];
        snprintf(fields, sizeof fields, "'metadata':{'user_id':'%s'}", cases[i].user);
        api_request *r = parsed(fields);
        REQUIRE(r);
        EXPECT_INT(r->n_hints, cases[i].hint != NULL);
        if (cases[i].hint && r->n_hints) EXPECT(slice_equal(r->hints[0], text_of(cases[i].hint)));
        api_request_free(r);
    }
}

TEST(counting_takes_what_generating_would_refuse)
{
    const api_config c = config();
    api_request *r = NULL;
    api_error e = { .message = "" };
    bytes out;
    EXPECT(api_parse_count_tokens(&r, quoted("{'system':'S','messages':[]}"), &c, &e));
    REQUIRE(r && r->chat.n_messages == 2);      /* renders only with a turn */
    api_request_free(r);
    EXPECT(api_parse_count_tokens(&r, quoted(
        "{'model':'m','messages':[{'role':'user','content':'x'}],'temperature':9,'max_tokens':0,"
        "'output_config':{'format':{'type':'json_schema','schema':{'type':'object'}}}}"), &c, &e));
    EXPECT_TEXT(e.message, "");
    REQUIRE(r);
    EXPECT(slice_is(r->chat.format_schema, "{\"type\":\"object\"}"));
    EXPECT(r->chat.no_thinking);
    api_request_free(r);
    EXPECT(!api_parse_count_tokens(&r, quoted("{'model':'m'}"), &c, &e));
    EXPECT_TEXT(e.param, "messages");

    bytes_init(&out, 100);
    api_count_tokens_body(2095, &out);
    EXPECT_TEXT(out.data, "{\"input_tokens\":2095}");
    bytes_free(&out);
}

/* ---- what goes out comes back ---------------------------------------------------------------- */

static void expect_round_trip(bool redact)
{
    static const answer_event turn[] = {
        { .kind = ANSWER_REASONING, .bytes = { "Need \"it\".\n", 11 } },
        { .kind = ANSWER_REASONING, .bytes = { "\xC3\xA9", 2 } },
        { .kind = ANSWER_TEXT, .bytes = { "Let me look.", 12 } },
        { .kind = ANSWER_CALL_BEGIN, .call = 0, .id = { "toolu_1", 7 }, .name = { "w", 1 } },
        { .kind = ANSWER_CALL_ARGS, .call = 0, .bytes = { "{\"b\":1.50,", 10 } },
        { .kind = ANSWER_CALL_ARGS, .call = 0, .bytes = { "\"a\":\"x\"}", 8 } },
        { .kind = ANSWER_CALL_END, .call = 0 },
        { .kind = ANSWER_FINISH, .finish = FINISH_TOOL_CALLS },
    };
    static const char begin[] = "\"content\":", end[] = ",\"stop_reason\"";
    api_config c = config();
    const api_answer_info info = { .request_id = "req_1", .created = 1767225600 };
    const answer_usage usage = { .prompt_tokens = 3 };
    api_request *r = parsed("");
    bytes out, next, got;
    REQUIRE(r);
    c.anthropic_redact = redact;
    api_encoder *enc = api_encoder_new(r, &c, &info);
    REQUIRE(enc);
    bytes_init(&out, 1u << 16);
    bytes_init(&next, 1u << 16);
    bytes_init(&got, 1u << 16);
    for (size_t i = 0; i < sizeof turn / sizeof *turn; i++) api_encode(enc, &turn[i], &out);
    api_encode_end(enc, &usage, &out);
    api_encoder_free(enc);
    api_request_free(r);

    const char *first = strstr(out.data, begin), *last = strstr(out.data, end);
    REQUIRE(first && last);
    EXPECT((strstr(out.data, "Need") == NULL) == redact);
    first += sizeof begin - 1;
    bytes_printf(&next, "{'max_tokens':9,'messages':[{'role':'user','content':'x'},{'role':'assistant','content':"
                 "%.*s}]}", (int)(last - first), first);
    replace(next.data, '\'', '"');
    api_error e = { .message = "" };
    REQUIRE(api_parse(&r, API_MESSAGES, (slice){ next.data, next.len }, &c, &e));
    describe(r, &got);
    EXPECT_TEXT(got.data, "user|x\nassistant|Let me look.|think Need \"it\".\n\xC3\xA9|toolu_1 w{\"b\":1.50,"
        "\"a\":\"x\"}\n");
    EXPECT_INT(r->n_warnings, 0);       /* the signature is ours */
    api_request_free(r);
    bytes_free(&out);
    bytes_free(&next);
    bytes_free(&got);
}

TEST(a_turn_that_comes_back_is_the_turn_that_was_sent)
{
    expect_round_trip(false);
    expect_round_trip(true);
}
