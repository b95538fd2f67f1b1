/* The splitter against a transcription of the three regular expressions that define it:
 * matchers over code points, one per alternative, each doing what a backtracking engine
 * would, applied pass after pass. */
#include "base/checked.h"
#include "base/random.h"
#include "base/utf8.h"
#include "runner.h"
#include "text/split.h"
#include "text/unicode.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- classes -------------------------------------------------------------- */

static unsigned bit_of(char name)
{
    switch (name) {
    case 'L': return UNICODE_LETTER;
    case 'M': return UNICODE_MARK;
    case 'N': return UNICODE_NUMBER;
    case 'P': return UNICODE_PUNCT;
    case 'S': return UNICODE_SYMBOL;
    case 'W': return UNICODE_SPACE;
    default:  return 0;
    }
}

/* Rows "first TAB last TAB class" behind a heading; returns how many there were. */
static int read_classes(char *tsv, uint8_t *classes)
{
    int rows = 0;
    char *save = NULL;
    strtok_r(tsv, "\n", &save);
    for (char *line; (line = strtok_r(NULL, "\n", &save)); rows++) {
        char *rest;
        const unsigned long first = strtoul(line, &rest, 16), last = strtoul(rest, &rest, 16);
        for (unsigned long cp = first; cp <= last && cp < 0x110000; cp++) classes[cp] |= (uint8_t)bit_of(rest[1]);
    }
    return rows;
}

TEST(the_table_is_the_unicode_database)
{
    size_t n = 0;
    char *tsv = test_read(test_data("text-unicode-classes.tsv"), &n);
    uint8_t *classes = calloc(0x110000, 1);
    REQUIRE(tsv && classes);
    EXPECT_INT(read_classes(tsv, classes), 1539);
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        const bool cjk = (cp >= 0x4E00 && cp <= 0x9FA5) || (cp >= 0x3040 && cp <= 0x30FF);
        const unsigned want = classes[cp] | (cjk ? UNICODE_CJK : 0);
        if (unicode_class(cp) != want) {
            test_fail(__FILE__, __LINE__, "U+%04X is %u, want %u", (unsigned)cp, unicode_class(cp), want);
        }
    }
    EXPECT_INT(unicode_class(0x110000), 0);
    EXPECT_INT(unicode_class(UTF8_INVALID), 0);
    free(tsv);
    free(classes);
}

/* ---- the definition ------------------------------------------------------- */

#define MAX_POINTS 64

typedef struct {
    uint32_t cp[MAX_POINTS];
    int      n;
    int      cuts[MAX_POINTS + 1];      /* ends of pieces, in code points */
    int      n_cuts;
} model;

typedef int matcher(const uint32_t *cp, int i, int n);      /* end of the match at i, or -1 */

static bool is(uint32_t cp, unsigned bits) { return unicode_class(cp) & bits; }
static bool letter_or_mark(uint32_t cp)    { return is(cp, UNICODE_LETTER | UNICODE_MARK); }
static bool sign(uint32_t cp)              { return is(cp, UNICODE_PUNCT | UNICODE_SYMBOL); }
static bool space(uint32_t cp)             { return is(cp, UNICODE_SPACE); }
static bool line_end(uint32_t cp)          { return cp == '\r' || cp == '\n'; }
static bool ascii_letter(uint32_t cp)      { return (cp >= 'A' && cp <= 'Z') || (cp >= 'a' && cp <= 'z'); }

static int run_of(bool (*kind)(uint32_t), const uint32_t *cp, int i, int n)
{
    while (i < n && kind(cp[i])) i++;
    return i;
}

static int pass_1(const uint32_t *cp, int i, int n)
{
    const int start = i;
    while (i < n && i < start + 3 && is(cp[i], UNICODE_NUMBER)) i++;
    return i > start ? i : -1;
}

static bool cjk_or_kana(uint32_t cp)
{
    return (cp >= 0x4E00 && cp <= 0x9FA5) || (cp >= 0x3040 && cp <= 0x309F) || (cp >= 0x30A0 && cp <= 0x30FF);
}

static int pass_2(const uint32_t *cp, int i, int n)
{
    const int end = run_of(cjk_or_kana, cp, i, n);
    return end > i ? end : -1;
}

static int rule_a(const uint32_t *cp, int i, int n)
{
    if (cp[i] >= 0x80 || !strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", (int)cp[i]) || cp[i] == 0) return -1;
    const int end = run_of(ascii_letter, cp, i + 1, n);
    return end > i + 1 ? end : -1;
}

static int rule_b(const uint32_t *cp, int i, int n)
{
    if (!line_end(cp[i]) && !is(cp[i], UNICODE_LETTER) && !sign(cp[i])) {      /* the optional one, greedily */
        const int end = run_of(letter_or_mark, cp, i + 1, n);
        if (end > i + 1) return end;
    }
    const int end = run_of(letter_or_mark, cp, i, n);
    return end > i ? end : -1;
}

static int rule_c(const uint32_t *cp, int i, int n)
{
    const int start = cp[i] == ' ' ? i + 1 : i;
    const int end = run_of(sign, cp, start, n);
    return end > start ? run_of(line_end, cp, end, n) : -1;
}

static int rule_d(const uint32_t *cp, int i, int n)
{
    for (int k = run_of(space, cp, i, n); k >= i; k--) {       /* \s* gives back until [\r\n]+ fits */
        const int end = run_of(line_end, cp, k, n);
        if (end > k) return end;
    }
    return -1;
}

static int rule_e(const uint32_t *cp, int i, int n)
{
    for (int k = run_of(space, cp, i, n); k > i; k--) {
        if (k == n || space(cp[k])) return k;
    }
    return -1;
}

static int rule_f(const uint32_t *cp, int i, int n)
{
    const int end = run_of(space, cp, i, n);
    return end > i ? end : -1;
}

static int pass_3(const uint32_t *cp, int i, int n)
{
    static matcher *const rules[] = { rule_a, rule_b, rule_c, rule_d, rule_e, rule_f };
    for (size_t k = 0; k < countof(rules); k++) {
        const int end = rules[k](cp, i, n);
        if (end >= 0) return end;
    }
    return -1;
}

/* Cuts every piece once more: matches and what is between them. */
static void apply(model *m, matcher *match)
{
    int old[MAX_POINTS + 1];
    const int n_old = m->n_cuts;
    memcpy(old, m->cuts, sizeof old);
    m->n_cuts = 0;
    for (int p = 0, start = 0; p < n_old; start = old[p++]) {
        const int end = old[p];
        int gap = start;
        for (int i = start; i < end;) {
            const int stop = match(m->cp + start, i - start, end - start);
            if (stop < 0) {
                i++;
                continue;
            }
            if (i > gap) m->cuts[m->n_cuts++] = i;
            m->cuts[m->n_cuts++] = gap = i = start + stop;
        }
        if (gap < end) m->cuts[m->n_cuts++] = end;
    }
}

static void split_by_definition(model *m)
{
    m->n_cuts = m->n > 0;
    m->cuts[0] = m->n;
    apply(m, pass_1);
    apply(m, pass_2);
    apply(m, pass_3);
}

static void describe(const model *m, char *out, size_t cap)
{
    size_t len = 0;
    out[0] = 0;
    for (int i = 0; i < m->n && len + 12 < cap; i++)
        len += (size_t)snprintf(out + len, cap - len, " %04X", (unsigned)m->cp[i]);
}

/* Both ways on m->cp[0..n). */
static bool check(model *m)
{
    char text[4 * MAX_POINTS], what[12 * MAX_POINTS];
    size_t at[MAX_POINTS + 1] = { 0 };
    for (int i = 0; i < m->n; i++) at[i + 1] = at[i] + (size_t)utf8_put(text + at[i], m->cp[i]);
    split_by_definition(m);

    splitter s = split_begin((slice){ text, at[m->n] });
    slice piece;
    int k = 0;
    size_t end = 0;
    while (split_next(&s, &piece)) {
        end += piece.len;
        if (k == m->n_cuts || end != at[m->cuts[k]]) break;
        k++;
    }
    if (k == m->n_cuts && end == at[m->n]) return true;
    describe(m, what, sizeof what);
    test_fail(__FILE__, __LINE__, "piece %d differs in%s", k, what);
    return false;
}

/* One character of each kind that the rules tell apart, and their neighbours. */
static const uint32_t alphabet[] = {
    'a', 0xE9, '1', 0xBD, 0x4E2D, 0x30A2, 0x30FB, 0x3099, 0x301, ' ', '\t', '\n', '\r', 0xA0, 0x3000,
    0x85, 0xFEFF, '.', '~', '\'', 0x20AC, 0x1F600, 0x200D, 0xFE0F, 1, 0xAD, 0x378,
};

TEST(all_short_strings_split_as_defined)
{
    const int k = countof(alphabet);
    model m = { .n = 0 };
    for (int len = 0, total = 1; len <= 3; len++, total *= k) {
        for (int code = 0; code < total; code++) {
            m.n = len;
            for (int i = 0, rest = code; i < len; i++, rest /= k) m.cp[i] = alphabet[rest % k];
            if (!check(&m)) return;
        }
    }
}

TEST(random_strings_split_as_defined)
{
    random_stream r;
    random_seed(&r, test_seed());
    model m = { .n = 0 };
    for (int round = 0; round < 300000; round++) {
        m.n = 4 + (int)random_below(&r, round % 8 ? 3 : 30);       /* mostly up to 6, some long ones */
        for (int i = 0; i < m.n; i++) m.cp[i] = alphabet[random_below(&r, countof(alphabet))];
        if (!check(&m)) return;
    }
}

TEST(random_characters_split_as_defined)
{
    random_stream r;
    random_seed(&r, test_seed());
    model m = { .n = 0 };
    for (int round = 0; round < 50000; round++) {
        m.n = 1 + (int)random_below(&r, 12);
        for (int i = 0; i < m.n; i++) {
            const uint32_t cp = (uint32_t)random_below(&r, random_below(&r, 2) ? 0x3200 : 0x110000);
            m.cp[i] = cp >= 0xD800 && cp <= 0xDFFF ? 'x' : cp;
        }
        if (!check(&m)) return;
    }
}

/* ---- examples ------------------------------------------------------------- */

/* `want` is the pieces, each followed by a bar. */
static void expect_pieces(const char *text, const char *want)
{
    char got[256] = "";
    splitter s = split_begin(slice_of(text));
    slice piece;
    while (split_next(&s, &piece)) {
        strncat(got, piece.data, piece.len);
        strcat(got, "|");
    }
    EXPECT_TEXT(got, want);
}

TEST(consequences_often_got_wrong)
{
    expect_pieces("1234567", "123|456|7|");
    expect_pieces("٣½Ⅷ①", "٣½Ⅷ|①|");
    expect_pieces(".été", ".|été|");
    expect_pieces(".caf\xC3\xA9", ".caf|é|");
    expect_pieces("don't", "don|'t|");
    expect_pieces("   x", "  | x|");
    expect_pieces("   1", "   |1|");
    expect_pieces("   !", "  | !|");
    expect_pieces("\t!\t\t!", "\t|!|\t|\t|!|");
    expect_pieces("\xC2\xA0" "a", "\xC2\xA0" "a|");
    expect_pieces("1 a", "1| a|");
    expect_pieces("a \n b", "a| \n| b|");
    expect_pieces("ア・ア中", "ア|・|ア中|");
    expect_pieces("x  ", "x|  |");
    expect_pieces("!?\r\n\nx", "!?\r\n\n|x|");
    expect_pieces("\x01\x02.\x01" "a", "\x01\x02|.|\x01" "a|");
    expect_pieces("👨\xE2\x80\x8D👩", "👨|\xE2\x80\x8D|👩|");
    expect_pieces("", "");
}

TEST(invalid_bytes_are_characters_without_a_class)
{
    expect_pieces("\xFF\xFE" "a", "\xFF|\xFE" "a|");
    expect_pieces("\xFF.", "\xFF|.|");
    expect_pieces("\xE4\xB8" "a", "\xE4\xB8" "a|");        /* a cut sequence is one of them */
    expect_pieces("中\xE4\xB8", "中|\xE4\xB8|");
    expect_pieces("\xC0\x80\xED\xA0\x80", "\xC0\x80\xED\xA0\x80|");
}
