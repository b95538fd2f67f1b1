#include "text/json_tree.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runner.h"

/* Reads and writes again. */
static void expect_style(const char *text, const char *want)
{
    json_tree t;
    ds4_error err = { .message = "" };
    bytes out;
    bytes_init(&out, 1u << 20);
    REQUIRE_OK(json_tree_parse(&t, slice_of(text), &err), err);
    json_tree_write(&t, 1, &out);
    EXPECT_TEXT(out.data, want);

    json_tree again;                    /* what was written reads the same */
    bytes twice;
    bytes_init(&twice, 1u << 20);
    EXPECT_OK(json_tree_parse(&again, (slice){ out.data, out.len }, &err), err);
    json_tree_write(&again, 1, &twice);
    EXPECT_TEXT(twice.data, want);
    json_tree_free(&again);
    bytes_free(&twice);
    json_tree_free(&t);
    bytes_free(&out);
}

TEST(one_style_for_all_json)
{
    expect_style("{\"a\":[1,2,{\"b\":null}],\"c\":true,\"d\":false}",
                 "{\"a\": [1, 2, {\"b\": null}], \"c\": true, \"d\": false}");
    expect_style(" [ ] ", "[]");
    expect_style("\t{\r\n}\n", "{}");
    expect_style("\"\"", "\"\"");
    expect_style("{\"z\":1,\"a\":2,\"\":3}", "{\"z\": 1, \"a\": 2, \"\": 3}");
}

TEST(number_tokens_stay_as_written)
{
    expect_style("[0,-0,1.50,1E+05,-0.0e-0,12345678901234567890,1e999]",
                 "[0, -0, 1.50, 1E+05, -0.0e-0, 12345678901234567890, 1e999]");
}

TEST(strings_are_escaped_in_one_way)
{
    expect_style("\"\\/\\u002f\\u00E9\\u4e2d\\uD83D\\uDE00\"", "\"//é中😀\"");
    expect_style("\"\\u0022\\u005c\\u000a\\u000D\\t\\b\\f\\u0000\\u001F\\u007f\"",
                 "\"\\\"\\\\\\n\\r\\t\\b\\f\\u0000\\u001f\x7F\"");
    expect_style("\"\\ud83d\"", "\"\xEF\xBF\xBD\"");
    expect_style("\"\\ude00x\"", "\"\xEF\xBF\xBDx\"");
    expect_style("\"\\ud83d\\ud83d\\ude00\"", "\"\xEF\xBF\xBD😀\"");
    expect_style("\"\\ud83d\\n\"", "\"\xEF\xBF\xBD\\n\"");
}

TEST(a_repeated_key_keeps_its_place_and_its_last_value)
{
    expect_style("{\"a\":1,\"b\":2,\"a\":[3]}", "{\"a\": [3], \"b\": 2}");
    expect_style("{\"a\":1,\"\\u0061\":2,\"b\":0,\"a\":{\"x\":1,\"x\":2}}", "{\"a\": {\"x\": 2}, \"b\": 0}");
    expect_style("{\"\":1,\"\":2}", "{\"\": 2}");
    expect_style("{\"b\":0,\"a\":1,\"ab\":2,\"a\":3,\"b\":4}", "{\"b\": 4, \"a\": 3, \"ab\": 2}");
}

TEST(members_are_found_by_key)
{
    json_tree t;
    ds4_error err;
    REQUIRE_OK(json_tree_parse(&t, slice_of("{\"a\":1,\"b\":[true]}"), &err), err);
    const uint32_t b = json_tree_find(&t, 1, "b");
    EXPECT_INT(t.nodes[b].kind, JSON_TREE_ARRAY);
    EXPECT_INT(t.nodes[t.nodes[b].first].kind, JSON_TREE_TRUE);
    EXPECT_INT(json_tree_find(&t, 1, "c"), 0);
    EXPECT_INT(json_tree_find(&t, b, "b"), 0);
    json_tree_free(&t);
    json_tree_free(&t);
}

/* Each text is wrong at the byte its sentence names. */
TEST(wrong_json_is_refused_with_its_place)
{
    static const struct { const char *text, *message; } cases[] = {
        { "",              "byte 0: a value was expected" },
        { "  ",            "byte 2: a value was expected" },
        { "nul",           "byte 0: a value was expected" },
        { "True",          "byte 0: a value was expected" },
        { "'a'",           "byte 0: a value was expected" },
        { "1 2",           "byte 2: something follows the value" },
        { "01",            "byte 1: something follows the value" },
        { "-",             "byte 1: a digit was expected" },
        { "-a",            "byte 1: a digit was expected" },
        { "1.",            "byte 2: a digit was expected" },
        { "1e+",           "byte 3: a digit was expected" },
        { ".5",            "byte 0: a value was expected" },
        { "+1",            "byte 0: a value was expected" },
        { "[1,]",          "byte 3: a value was expected" },
        { "[1",            "byte 2: ',' or ']' was expected" },
        { "[1 2]",         "byte 3: ',' or ']' was expected" },
        { "{\"a\" 1}",     "byte 5: ':' was expected" },
        { "{\"a\":1,}",    "byte 7: a string was expected" },
        { "{a:1}",         "byte 1: a string was expected" },
        { "{\"a\":1",      "byte 6: ',' or '}' was expected" },
        { "\"a",           "byte 2: the string has no end" },
        { "\"\\",          "byte 2: no such escape" },
        { "\"\\x\"",       "byte 2: no such escape" },
        { "\"\\u12g4\"",   "byte 5: four hexadecimal digits belong behind \\u" },
        { "\"\\ud83d\\u1\"", "byte 10: four hexadecimal digits belong behind \\u" },
        { "\"\n\"",        "byte 1: a control character stands in a string unescaped" },
        { "\"\xFF\"",      "byte 1: not valid UTF-8" },
        { "\"\xED\xA0\x80\"", "byte 1: not valid UTF-8" },
        { "\xEF\xBB\xBF{}", "byte 0: a value was expected" },
        { "[1]//",         "byte 3: something follows the value" },
    };
    for (size_t i = 0; i < countof(cases); i++) {
        json_tree t;
        ds4_error err = { .message = "" };
        EXPECT_INT(json_tree_parse(&t, slice_of(cases[i].text), &err), DS4_EFORMAT);
        EXPECT_TEXT(err.message, cases[i].message);
        EXPECT(t.nodes == NULL && t.strings == NULL);
    }
}

TEST(a_nul_byte_is_not_an_end)
{
    json_tree t;
    ds4_error err = { .message = "" };
    EXPECT_INT(json_tree_parse(&t, (slice){ "1\0", 2 }, &err), DS4_EFORMAT);
    EXPECT_INT(json_tree_parse(&t, (slice){ "\"\0\"", 3 }, &err), DS4_EFORMAT);
    EXPECT_INT(json_tree_parse(&t, (slice){ "\"\\\0\"", 4 }, &err), DS4_EFORMAT);
}

TEST(nesting_is_bounded)
{
    static char text[4 * JSON_TREE_DEPTH + 8];
    for (int depth = JSON_TREE_DEPTH; depth <= JSON_TREE_DEPTH + 1; depth++) {
        json_tree t;
        ds4_error err;
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        const ds4_status st = json_tree_parse(&t, (slice){ text, 2 * (size_t)depth }, &err);
        EXPECT_INT(st, depth <= JSON_TREE_DEPTH ? DS4_OK : DS4_EFORMAT);
        json_tree_free(&t);
    }
}

TEST(values_can_be_bounded)
{
    json_tree t;
    ds4_error err = { .message = "" };
    EXPECT_OK(json_tree_parse_bounded(&t, slice_of("[1,[2],{\"a\":3}]"), 6, &err), err);
    json_tree_free(&t);
    EXPECT_INT(json_tree_parse_bounded(&t, slice_of("[1,[2],{\"a\":3}]"), 5, &err), DS4_EFORMAT);
    EXPECT_TEXT(err.message, "byte 13: too many values");
}

TEST(compact_style_has_no_blanks)
{
    json_tree t;
    ds4_error err = { .message = "" };
    bytes out;
    bytes_init(&out, 1000);
    REQUIRE_OK(json_tree_parse(&t, slice_of("{ \"a\" : [ 1.50 , {\"b\":null}, \"\\u00e9 \\/\" ] , \"c\":{} }"), &err),
               err);
    json_tree_write_compact(&t, 1, &out);
    EXPECT_TEXT(out.data, "{\"a\":[1.50,{\"b\":null},\"é /\"],\"c\":{}}");
    json_tree_free(&t);
    bytes_free(&out);
}

static bool equal(const char *a, const char *b)
{
    json_tree x, y;
    ds4_error err = { .message = "" };
    EXPECT_OK(json_tree_parse(&x, slice_of(a), &err), err);
    EXPECT_OK(json_tree_parse(&y, slice_of(b), &err), err);
    const bool same = json_tree_equal(&x, 1, &y, 1);
    EXPECT_INT(json_tree_equal(&y, 1, &x, 1), same);
    json_tree_free(&x);
    json_tree_free(&y);
    return same;
}

TEST(values_that_mean_the_same)
{
    EXPECT(equal("{\"a\":1,\"b\":[1,2]}", " { \"b\" : [1.0, 2e0], \"a\" : 1 } "));
    EXPECT(equal("\"\\u00e9\"", "\"é\""));
    EXPECT(equal("12345678901234567890", "12345678901234567000"));      /* what a double makes of it */
    EXPECT(equal("{}", "{}") && equal("[]", "[]") && equal("null", "null") && equal("-0", "0"));
    EXPECT(!equal("[1,2]", "[2,1]") && !equal("[1]", "[1,1]") && !equal("{}", "[]"));
    EXPECT(!equal("{\"a\":1}", "{\"b\":1}") && !equal("{\"a\":1}", "{\"a\":2}") &&
           !equal("{\"a\":1}", "{\"a\":1,\"b\":1}"));
    EXPECT(!equal("1", "\"1\"") && !equal("true", "false") && !equal("\"a\"", "\"A\""));
}

/* A quadratic search for repeated keys would take hours. */
TEST(many_members_are_no_burden)
{
    bytes text;
    json_tree t;
    ds4_error err;
    bytes_init(&text, 1u << 26);
    for (int i = 0; i < 300000; i++) bytes_printf(&text, "%c\"%d\":%d", i ? ',' : '{', i % 200000, i);
    bytes_char(&text, '}');
    REQUIRE_OK(json_tree_parse(&t, (slice){ text.data, text.len }, &err), err);
    const uint32_t first = t.nodes[1].first;
    EXPECT(slice_is(t.nodes[first].text, "200000"));
    int n = 0;
    for (uint32_t c = first; c; c = t.nodes[c].next) n++;
    EXPECT_INT(n, 200000);
    json_tree_free(&t);
    bytes_free(&text);
}
