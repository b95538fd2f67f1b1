#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/json_writer.h"
#include "base/random.h"
#include "base/utf8.h"
#include "runner.h"

TEST(objects_arrays_and_every_kind_of_value)
{
    bytes b;
    json_writer w;
    bytes_init(&b, 1000);
    json_init(&w, &b);
    json_object(&w);
    json_key(&w, "text");   json_text(&w, "hi");
    json_key(&w, "list");   json_array(&w);
    json_int(&w, 1);        json_int(&w, INT64_MIN);
    json_array(&w);         json_array_end(&w);
    json_object(&w);        json_object_end(&w);
    json_bool(&w, true);    json_bool(&w, false);   json_null(&w);
    json_array_end(&w);
    json_key(&w, "x");      json_double(&w, 0.1, 3);
    json_object_end(&w);
    EXPECT_TEXT(b.data, "{\"text\":\"hi\",\"list\":[1,-9223372036854775808,[],{},true,false,null],\"x\":0.1}");
    EXPECT(!b.failed);
    bytes_free(&b);
}

static void expect_string(const char *data, size_t n, const char *want)
{
    bytes b;
    json_writer w;
    bytes_init(&b, 1000);
    json_init(&w, &b);
    json_string(&w, data, n);
    EXPECT_TEXT(b.data, want);
    bytes_free(&b);
}

TEST(strings_are_escaped)
{
    expect_string("", 0, "\"\"");
    expect_string("a\"b\\c/d", 7, "\"a\\\"b\\\\c/d\"");
    expect_string("\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\"");
    expect_string("\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\x7f\"");
    expect_string("\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9, "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"");
}

TEST(invalid_bytes_become_the_replacement_character)
{
    expect_string("\xFF", 1, "\"\xEF\xBF\xBD\"");
    expect_string("a\xC3", 2, "\"a\xEF\xBF\xBD\"");
    expect_string("\xE2\x82" "b", 3, "\"\xEF\xBF\xBD" "b\"");
    expect_string("\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"");
    expect_string("\xC0\xAF\"", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\\\"\"");
}

TEST(keys_are_escaped_too)
{
    bytes b;
    json_writer w;
    bytes_init(&b, 1000);
    json_init(&w, &b);
    json_object(&w);
    json_key(&w, "a\n\"");
    json_null(&w);
    json_object_end(&w);
    EXPECT_TEXT(b.data, "{\"a\\n\\\"\":null}");
    bytes_free(&b);
}

TEST(numbers_are_finite_or_null)
{
    static const struct { double v; int digits; const char *want; } rows[] = {
        { 0, 6, "0" }, { -0.5, 6, "-0.5" }, { 1e300, 17, "1.0000000000000001e+300" }, { 1.0 / 3, 9, "0.333333333" },
        { 1e6, 3, "1e+06" }, { 3.14159, 0, "3" }, { 0.1, 99, "0.10000000000000001" },
        { NAN, 6, "null" }, { INFINITY, 6, "null" }, { -INFINITY, 6, "null" },
    };
    for (size_t i = 0; i < countof(rows); i++) {
        bytes b;
        json_writer w;
        bytes_init(&b, 100);
        json_init(&w, &b);
        json_double(&w, rows[i].v, rows[i].digits);
        EXPECT_TEXT(b.data, rows[i].want);
        bytes_free(&b);
    }
}

/* Opens and closes `depth` arrays with a number before and after each. */
static void nest(bytes *b, int depth)
{
    json_writer w;
    json_init(&w, b);
    for (int i = 0; i < depth; i++) {
        json_array(&w);
        json_int(&w, i);
    }
    for (int i = 0; i < depth; i++) {
        json_array_end(&w);
        if (i + 1 < depth) json_int(&w, -i);
    }
}

TEST(nesting_to_64_levels_and_no_further)
{
    bytes b;
    bytes_init(&b, 1 << 16);
    nest(&b, 3);
    EXPECT_TEXT(b.data, "[0,[1,[2],0],-1]");
    bytes_clear(&b);
    nest(&b, 64);
    EXPECT(!b.failed);
    bytes_clear(&b);
    nest(&b, 65);
    EXPECT(b.failed);
    bytes_clear(&b);
    nest(&b, 1000);
    EXPECT(b.failed);
    bytes_free(&b);
}

TEST(a_small_buffer_fails_quietly)
{
    for (size_t max = 0; max < 80; max++) {
        bytes b;
        bytes_init(&b, max);
        nest(&b, 10);
        EXPECT(b.len <= max);
        EXPECT(b.failed == (max < 65));     /* 20 brackets, 27 of numbers, 18 commas */
        bytes_free(&b);
    }
}

/* Whatever the bytes, the text is valid UTF-8, closed by its quote and without
 * a raw control character. */
TEST(random_bytes_give_one_sound_string)
{
    random_stream r;
    random_seed(&r, test_seed());
    for (int turn = 0; turn < 3000; turn++) {
        char data[40];
        const size_t n = (size_t)random_below(&r, sizeof data + 1);
        for (size_t i = 0; i < n; i++) data[i] = (char)(random_u64(&r) >> (random_below(&r, 3) * 20));
        bytes b;
        json_writer w;
        bytes_init(&b, 1000);
        json_init(&w, &b);
        json_string(&w, data, n);
        REQUIRE(!b.failed && b.len >= 2);
        EXPECT(utf8_valid(b.data, b.len));
        size_t i = 1;
        while (i < b.len && b.data[i] != '"') {
            EXPECT((unsigned char)b.data[i] >= 0x20);
            i += b.data[i] == '\\' ? 2 : 1;
        }
        EXPECT_INT(i, b.len - 1);
        bytes_free(&b);
    }
}

TEST(members_are_keys_and_values)
{
    bytes b;
    json_writer w;
    bytes_init(&b, 1000);
    json_init(&w, &b);
    json_object(&w);
    json_put_text(&w, "a", "x\"y");
    json_put_text(&w, "b", NULL);
    json_put_int(&w, "c", INT64_MIN);
    json_put_double(&w, "d", 1.0 / 3, 3);
    json_put_double(&w, "e", NAN, 3);
    json_put_bool(&w, "f", true);
    json_object_end(&w);
    EXPECT_TEXT(b.data, "{\"a\":\"x\\\"y\",\"b\":null,\"c\":-9223372036854775808,\"d\":0.333,\"e\":null,\"f\":true}");
    bytes_free(&b);
}

TEST(json_text_goes_in_as_it_is)
{
    bytes b;
    json_writer w;
    bytes_init(&b, 1000);
    json_init(&w, &b);
    json_object(&w);
    json_key(&w, "a");
    json_array(&w);
    json_raw(&w, "", 0);
    json_raw(&w, "{},1", 4);
    json_int(&w, 2);
    json_array_end(&w);
    json_key(&w, "b");
    json_raw(&w, "null", 4);
    json_object_end(&w);
    EXPECT_TEXT(b.data, "{\"a\":[{},1,2],\"b\":null}");
    bytes_free(&b);
}

TEST(no_bytes_may_come_from_nowhere)
{
    bytes b;
    json_writer w;
    bytes_init(&b, 100);
    json_init(&w, &b);
    json_string(&w, NULL, 0);
    EXPECT_TEXT(b.data, "\"\"");
    bytes_free(&b);
}
