#include <string.h>

#include "base/checked.h"
#include "base/utf8.h"
#include "runner.h"

static bool is_scalar(uint32_t cp)
{
    return cp <= 0x10FFFF && (cp < 0xD800 || cp > 0xDFFF);
}

TEST(every_scalar_value_goes_out_and_back)
{
    for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
        if (!is_scalar(cp)) continue;
        char out[4];
        uint32_t back;
        const int len = utf8_put(out, cp);
        EXPECT_INT(len, cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4);
        EXPECT_INT(utf8_next(out, (size_t)len, &back), len);
        REQUIRE(back == cp);
        EXPECT(utf8_valid(out, (size_t)len));
        EXPECT_INT(utf8_pending(out, (size_t)len), 0);
        for (int cut = 1; cut < len; cut++) {
            EXPECT_INT(utf8_next(out, (size_t)cut, &back), cut);
            EXPECT(back == UTF8_INVALID);
            EXPECT_INT(utf8_pending(out, (size_t)cut), cut);
        }
    }
}

/* Every sequence of four bytes from a set that holds each boundary of the
 * table 3-7: valid ones are exactly those that encode a scalar value. */
TEST(what_is_no_scalar_value_is_invalid)
{
    static const unsigned char edges[] = {
        0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED,
        0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF,
    };
    enum { N = countof(edges) };
    for (int i = 0; i < N * N * N * N; i++) {
        const char b[4] = { (char)edges[i % N], (char)edges[i / N % N], (char)edges[i / N / N % N],
                            (char)edges[i / N / N / N] };
        uint32_t cp;
        const int len = utf8_next(b, 4, &cp);
        REQUIRE(len >= 1 && len <= 4);
        if (cp == UTF8_INVALID) {
            EXPECT(len <= 3);
            continue;
        }
        char again[4];
        REQUIRE(is_scalar(cp));
        EXPECT_INT(utf8_put(again, cp), len);       /* the shortest form is the only one */
        EXPECT(memcmp(again, b, (size_t)len) == 0);
    }
}

/* Table 3-8 of the Unicode standard (section 3.9, "U+FFFD Substitution of
 * Maximal Subparts"): lengths of the invalid parts. */
TEST(invalid_parts_are_maximal)
{
    static const struct { const char *text; int n_parts; int part[9]; } rows[] = {
        { "\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", 9, { 1, 1, 1, 1, 1, 1, 1, 1, -1 } },
        { "\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", 9, { 1, 1, 1, 1, 1, 1, 1, 1, -1 } },
        { "\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", 9, { 1, 1, 1, 1, 1, -1, 1, 1, -1 } },
        { "\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", 5, { 2, 1, 3, 2, -1 } },
    };
    for (size_t i = 0; i < countof(rows); i++) {
        size_t at = 0;
        for (int k = 0; k < rows[i].n_parts; k++) {
            uint32_t cp;
            const int len = utf8_next(rows[i].text + at, 9 - at, &cp);
            EXPECT_INT(len, rows[i].part[k] < 0 ? 1 : rows[i].part[k]);
            EXPECT((cp == UTF8_INVALID) == (rows[i].part[k] > 0));
            at += (size_t)len;
        }
        EXPECT_INT(at, 9);
    }
}

TEST(validity_of_whole_texts)
{
    EXPECT(utf8_valid("", 0) && utf8_valid(NULL, 0));
    EXPECT(utf8_valid("gr\xC3\xBC\xC3\x9F", 6));
    EXPECT(!utf8_valid("gr\xC3\xBC\xC3\x9F", 5));
    EXPECT(!utf8_valid("\xED\xA0\x80", 3));
    EXPECT(utf8_valid("a\0b", 3));
}

TEST(pending_counts_what_more_bytes_could_complete)
{
    static const struct { const char *text; int want; } rows[] = {
        { "", 0 }, { "a", 0 }, { "\x80", 0 }, { "\xFF", 0 }, { "\xC1", 0 }, { "\xF5", 0 },
        { "a\xC3", 1 }, { "\xC3\xA9", 0 }, { "\xE2", 1 }, { "\xE2\x82", 2 }, { "\xE2\x82\xAC", 0 },
        { "\xF0", 1 }, { "\xF0\x9F", 2 }, { "\xF0\x9F\x98", 3 }, { "\xF0\x9F\x98\x80", 0 },
        { "\xE0\x80", 0 }, { "\xED\xA0", 0 }, { "\xF4\x90", 0 }, { "\xF0\x8F", 0 },
        { "\xE2\x82\xC3", 1 }, { "\x80\x80\x80\x80", 0 }, { "\xC3\xA9\xA9", 0 }, { "\xF0\x9F\x98\x80\x80", 0 },
    };
    for (size_t i = 0; i < countof(rows); i++)
        EXPECT_INT(utf8_pending(rows[i].text, strlen(rows[i].text)), rows[i].want);
}

TEST(printable_text_is_cut_to_fit)
{
    char out[8];
    EXPECT_INT(utf8_printable(out, 8, "abcdefghij", 10), 7);
    EXPECT_TEXT(out, "abcdefg");
    EXPECT_INT(utf8_printable(out, 8, "abcde\xE2\x82\xAC", 8), 5);
    EXPECT_TEXT(out, "abcde");
    EXPECT_INT(utf8_printable(out, 8, "abcd\xE2\x82\xAC", 7), 7);
    EXPECT_INT(utf8_printable(out, 8, "\0\n\xFF", 3), 3);
    EXPECT_TEXT(out, "???");
    EXPECT_INT(utf8_printable(out, 1, "abc", 3), 0);
    EXPECT_TEXT(out, "");
    EXPECT_INT(utf8_printable(out, 8, NULL, 0), 0);
}

TEST(columns_of_a_terminal)
{
    static const struct { uint32_t cp; int want; } rows[] = {
        { 'a', 1 }, { ' ', 1 }, { 0, 0 }, { '\n', 0 }, { 0x7F, 0 }, { 0x9F, 0 }, { 0xA0, 1 }, { 0xAD, 1 },
        { 0xE9, 1 }, { 0x2FF, 1 }, { 0x301, 0 }, { 0x3B1, 1 }, { 0x1160, 0 }, { 0x200B, 0 }, { 0x200D, 0 },
        { 0x20AC, 1 }, { 0x4E2D, 2 }, { 0x3042, 2 }, { 0xAC00, 2 }, { 0xFF21, 2 }, { 0xFF71, 1 }, { 0xFE0F, 0 },
        { 0x1F600, 2 }, { 0x2705, 2 }, { 0x2713, 1 }, { 0x20000, 2 }, { 0x10FFFF, 1 }, { 0xE0100, 0 },
    };
    for (size_t i = 0; i < countof(rows); i++)
        if (utf8_width(rows[i].cp) != rows[i].want)
            test_fail(__FILE__, __LINE__, "U+%04X takes %d columns, want %d", rows[i].cp,
                      utf8_width(rows[i].cp), rows[i].want);
}
