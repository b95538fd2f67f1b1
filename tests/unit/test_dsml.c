#include "text/dsml.h"

#include <stdio.h>

#include "runner.h"

static void expect(const char *text, bool loose, dsml_result result, dsml_kind kind, bool closing, bool exact,
                   const char *name)
{
    dsml_tag tag;
    const slice s = slice_of(text);
    const dsml_result got = dsml_read(s, loose, &tag);
    if (got != result) test_fail(__FILE__, __LINE__, "%s: result %d, want %d", text, got, result);
    if (got != DSML_TAG || result != DSML_TAG) return;
    EXPECT_INT(tag.kind, kind);
    EXPECT_INT(tag.closing, closing);
    EXPECT_INT(tag.exact, exact);
    EXPECT_INT(tag.has_name, name != NULL);
    if (name) EXPECT(slice_is(tag.name, name));
    /* Every shorter part is a part, and what follows changes nothing. */
    for (size_t n = 1; n < tag.len; n++) {
        dsml_tag part;
        const dsml_result r = dsml_read((slice){ text, n }, loose, &part);
        if (r != DSML_PARTIAL) test_fail(__FILE__, __LINE__, "%.*s: result %d", (int)n, text, r);
    }
}

TEST(tags_as_they_are_taught)
{
    expect("<｜DSML｜tool_calls>", false, DSML_TAG, DSML_TOOL_CALLS, false, true, NULL);
    expect("</｜DSML｜tool_calls>...", false, DSML_TAG, DSML_TOOL_CALLS, true, true, NULL);
    expect("<｜DSML｜invoke name=\"a>b c\">", false, DSML_TAG, DSML_INVOKE, false, true, "a>b c");
    expect("<｜DSML｜parameter name=\"\" string=\"true\">", false, DSML_TAG, DSML_PARAMETER, false, true, "");
    expect("</｜DSML｜parameter>", false, DSML_TAG, DSML_PARAMETER, true, true, NULL);
}

TEST(tags_as_they_are_meant)
{
    expect("<｜｜DSML｜｜invoke name=\"a\">", false, DSML_TAG, DSML_INVOKE, false, false, "a");
    expect("<|DSML|invoke  name='a' >", false, DSML_TAG, DSML_INVOKE, false, false, "a");
    expect("<｜DSML｜parameter name=“k” string=”True”>", false, DSML_TAG, DSML_PARAMETER, false, false, "k");
    expect("</｜DSML｜arg>", false, DSML_TAG, DSML_OTHER, true, true, NULL);
    expect("</invoke>", true, DSML_TAG, DSML_INVOKE, true, false, NULL);
    expect("<invoke name=\"f\">", true, DSML_TAG, DSML_INVOKE, false, false, "f");
}

TEST(what_is_no_tag)
{
    static const char *const none[] = {
        "<", "<a", "<｜DSMX", "<｜DSML｜ is", "<｜DSML｜>", "<｜DSML｜other x>", "<div>", "</invoke>", "<｜DSML｜an_identifier_that_is_too_long>",
    };
    dsml_tag tag;
    EXPECT_INT(dsml_read(slice_of(none[0]), false, &tag), DSML_PARTIAL);
    for (size_t i = 1; i < sizeof none / sizeof none[0]; i++) expect(none[i], false, DSML_NONE, 0, false, false, NULL);
    expect("<input>", true, DSML_NONE, 0, false, false, NULL);
    expect("<｜DSML｜invoke foo>", false, DSML_BROKEN, 0, false, false, NULL);
    expect("<｜DSML｜invoke name=a>", false, DSML_BROKEN, 0, false, false, NULL);
    expect("<｜DSML｜invoke name=\"a\nb\">", false, DSML_BROKEN, 0, false, false, NULL);
    expect("</｜DSML｜invoke name=\"a\">", false, DSML_BROKEN, 0, false, false, NULL);
    char long_one[DSML_TAG_MAX + 100];
    const int n = snprintf(long_one, sizeof long_one, "<｜DSML｜invoke name=\"");
    for (size_t i = (size_t)n; i < sizeof long_one; i++) long_one[i] = 'x';
    EXPECT_INT(dsml_read((slice){ long_one, DSML_TAG_MAX - 1 }, false, &tag), DSML_PARTIAL);
    EXPECT_INT(dsml_read((slice){ long_one, sizeof long_one }, false, &tag), DSML_BROKEN);
    EXPECT(tag.len < 30);
}

TEST(entities_of_names)
{
    bytes out;
    bytes_init(&out, 1000);
    dsml_unescape(slice_of("a&lt;b&gt;&amp;lt;&quot;&apos;&"), &out);
    EXPECT_TEXT(out.data, "a<b>&lt;\"&apos;&");
    bytes_free(&out);
}
