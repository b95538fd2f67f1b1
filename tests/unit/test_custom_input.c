#include "api/custom_input.h"

#include "runner.h"

/* The text, whatever the cut; what was said before the end is a beginning of it. */
static void expect_input(const char *json, const char *want)
{
    const size_t n = strlen(json);
    for (size_t first = 0; first <= n; first++) {
        for (size_t second = first; second <= n; second++) {
            custom_input c;
            bytes got;
            custom_input_init(&c, 1000);
            bytes_init(&got, 1000);
            const slice parts[3] = { { json, first }, { json + first, second - first }, { json + second, n - second } };
            for (int i = 0; i < 3; i++) {
                const slice more = custom_input_push(&c, parts[i]);
                bytes_append(&got, more.data, more.len);
            }
            const slice rest = custom_input_end(&c);
            bytes_append(&got, rest.data, rest.len);
            EXPECT_TEXT(got.data ? got.data : "", want);
            EXPECT_TEXT(c.text.data ? c.text.data : "", want);
            bytes_free(&got);
            custom_input_free(&c);
        }
    }
}

TEST(the_one_string_comes_out_however_it_was_cut)
{
    expect_input("{\"input\":\"*** Begin\\n\\\"x\\\" \\\\ \xC3\xA9\"}", "*** Begin\n\"x\" \\ \xC3\xA9");
    expect_input("{\"input\":\"\"}", "");
    expect_input("{\"input\":\"a\\u0001\\u00e9\",\"other\":\"b\"}", "a\x01\xC3\xA9");
}

TEST(another_shape_is_given_as_it_is)
{
    expect_input("{}", "{}");
    expect_input("", "");
    expect_input("{\"patch\":\"x\"}", "{\"patch\":\"x\"}");
    expect_input("{\"input\":5}", "{\"input\":5}");
    expect_input("{\"a\":1,\"input\":\"x\"}", "x");
    expect_input("no json", "no json");
}

TEST(text_comes_as_soon_as_it_is_there)
{
    custom_input c;
    custom_input_init(&c, 1000);
    EXPECT_INT(custom_input_push(&c, slice_of("{\"inp")).len, 0);
    EXPECT(slice_is(custom_input_push(&c, slice_of("ut\":\"ab")), "ab"));
    EXPECT_INT(custom_input_push(&c, slice_of("\\")).len, 0);
    EXPECT(slice_is(custom_input_push(&c, slice_of("nc")), "\nc"));
    EXPECT_INT(custom_input_push(&c, slice_of("\"}")).len, 0);
    EXPECT_INT(custom_input_end(&c).len, 0);
    custom_input_clear(&c);
    EXPECT(slice_is(custom_input_push(&c, slice_of("{\"input\":\"z")), "z"));
    custom_input_free(&c);
}
