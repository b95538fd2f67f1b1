#include "base/random.h"
#include "text/stream.h"
#include "text/tokenizer.h"
#include "text_vocab.h"

typedef struct {
    vocab  *v;
    stream *s;
    bytes   out;
} fixture;

static bool open_fixture(fixture *f, bool show_control, bool raw, int n_stops, const slice *stops)
{
    const stream_options options = { show_control, raw, stops, n_stops };
    ds4_error err;
    *f = (fixture){ .v = text_tiny_vocab() };
    bytes_init(&f->out, 1u << 20);
    if (!f->v) return false;
    EXPECT_OK(stream_open(&f->s, f->v, &options, &err), err);
    return f->s != NULL;
}

static void close_fixture(fixture *f)
{
    stream_close(f->s);
    vocab_close(f->v);
    bytes_free(&f->out);
}

static void push(fixture *f, int32_t token)
{
    ds4_error err;
    EXPECT_OK(stream_push(f->s, token, &f->out, &err), err);
}

/* One byte token per byte. */
static void push_bytes(fixture *f, const char *data)
{
    for (; *data; data++) push(f, vocab_find(f->v, data, 1));
}

static void flush(fixture *f)
{
    ds4_error err;
    EXPECT_OK(stream_flush(f->s, &f->out, &err), err);
}

static const char *shown(const fixture *f)
{
    return f->out.data ? f->out.data : "";
}

/* ---- characters ----------------------------------------------------------- */

TEST(half_a_character_waits_for_the_other_half)
{
    fixture f;
    REQUIRE(open_fixture(&f, false, false, 0, NULL));
    push_bytes(&f, "a\xF0\x9F\x98");
    EXPECT_TEXT(shown(&f), "a");
    push_bytes(&f, "\x80");
    EXPECT_TEXT(shown(&f), "a😀");
    push_bytes(&f, "e");                        /* complete, so out at once, */
    EXPECT_TEXT(shown(&f), "a😀e");
    push_bytes(&f, "\xCC\x81");                 /* whatever combines later   */
    EXPECT_TEXT(shown(&f), "a😀e\xCC\x81");
    close_fixture(&f);
}

TEST(what_can_not_become_a_character_is_replaced)
{
    fixture f;
    REQUIRE(open_fixture(&f, false, false, 0, NULL));
    push_bytes(&f, "\xF0\x9F");
    EXPECT_TEXT(shown(&f), "");
    push_bytes(&f, "a");
    EXPECT_TEXT(shown(&f), "\xEF\xBF\xBD" "a");
    bytes_clear(&f.out);
    push_bytes(&f, "\xFF\x80\xE4\xB8\xE4\xB8\xAD");
    EXPECT_TEXT(shown(&f), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD中");
    close_fixture(&f);
}

TEST(the_end_gives_a_cut_character)
{
    fixture f;
    REQUIRE(open_fixture(&f, false, false, 0, NULL));
    push_bytes(&f, "x\xE4\xB8");
    flush(&f);
    EXPECT_TEXT(shown(&f), "x\xEF\xBF\xBD");
    close_fixture(&f);

    REQUIRE(open_fixture(&f, false, true, 0, NULL));
    push_bytes(&f, "x\xFF\xE4\xB8");
    EXPECT_TEXT(shown(&f), "x\xFF");
    flush(&f);
    EXPECT_TEXT(shown(&f), "x\xFF\xE4\xB8");
    close_fixture(&f);
}

TEST(control_tokens_flush_and_are_hidden_or_shown)
{
    fixture f;
    REQUIRE(open_fixture(&f, false, false, 0, NULL));
    push_bytes(&f, "\xE4\xB8");
    push(&f, vocab_special(f.v)->end_think);
    EXPECT_TEXT(shown(&f), "\xEF\xBF\xBD");
    push(&f, vocab_special(f.v)->dsml);
    EXPECT_TEXT(shown(&f), "\xEF\xBF\xBD｜DSML｜");
    close_fixture(&f);

    REQUIRE(open_fixture(&f, true, false, 0, NULL));
    push_bytes(&f, "a");
    push(&f, vocab_special(f.v)->eos);
    EXPECT_TEXT(shown(&f), "a<｜end▁of▁sentence｜>");
    close_fixture(&f);
}

/* ---- stop strings --------------------------------------------------------- */

TEST(a_stop_string_and_what_follows_never_come_out)
{
    const slice stops[] = { slice_of("STOP"), slice_of("aab") };
    fixture f;
    REQUIRE(open_fixture(&f, false, false, 2, stops));
    push_bytes(&f, "say ST");
    EXPECT_TEXT(shown(&f), "say ");
    EXPECT_INT(stream_stopped(f.s), -1);
    push_bytes(&f, "STOP or not");
    EXPECT_TEXT(shown(&f), "say ST");
    EXPECT_INT(stream_stopped(f.s), 0);
    flush(&f);
    EXPECT_TEXT(shown(&f), "say ST");
    EXPECT_INT(stream_stopped(f.s), 0);

    stream_reset(f.s);
    bytes_clear(&f.out);
    EXPECT_INT(stream_stopped(f.s), -1);
    push_bytes(&f, "aaaab");                    /* a match may begin inside a failed one */
    EXPECT_TEXT(shown(&f), "aa");
    EXPECT_INT(stream_stopped(f.s), 1);
    close_fixture(&f);
}

TEST(of_stop_strings_ending_together_the_longest_counts)
{
    const slice stops[] = { slice_of("d"), slice_of("bcd"), slice_of("cd") };
    fixture f;
    REQUIRE(open_fixture(&f, false, false, 3, stops));
    push_bytes(&f, "abcd");
    EXPECT_TEXT(shown(&f), "a");
    EXPECT_INT(stream_stopped(f.s), 1);
    close_fixture(&f);
}

TEST(held_text_comes_out_at_the_end_of_a_section)
{
    const slice stops[] = { slice_of("中文") };
    fixture f;
    REQUIRE(open_fixture(&f, false, false, 1, stops));
    push_bytes(&f, "x中");
    EXPECT_TEXT(shown(&f), "x");
    push(&f, vocab_special(f.v)->think);        /* not part of the text, so it breaks the match */
    EXPECT_TEXT(shown(&f), "x中");
    push_bytes(&f, "文");
    EXPECT_TEXT(shown(&f), "x中文");
    EXPECT_INT(stream_stopped(f.s), -1);
    push_bytes(&f, "中");
    flush(&f);
    EXPECT_TEXT(shown(&f), "x中文中");
    push_bytes(&f, "文.");
    EXPECT_TEXT(shown(&f), "x中文中文.");
    EXPECT_INT(stream_stopped(f.s), -1);
    close_fixture(&f);
}

TEST(bad_stop_strings_are_refused)
{
    char long_one[STOPS_MAX_BYTES + 1];
    memset(long_one, 'a', sizeof long_one);
    const slice bad[] = { { "", 0 }, { "\xFF", 1 }, { "\xE4\xB8", 2 }, { long_one, sizeof long_one } };
    vocab *v = text_tiny_vocab();
    ds4_error err;
    stream *s;
    REQUIRE(v);
    for (size_t i = 0; i < countof(bad); i++) {
        const slice stops[] = { slice_of("ok"), bad[i] };
        const stream_options options = { .stops = stops, .n_stops = 2 };
        EXPECT_INT(stream_open(&s, v, &options, &err), DS4_EARG);
        EXPECT(s == NULL);
    }
    const slice longest = { long_one, STOPS_MAX_BYTES };
    slice many[STOPS_MAX + 1];
    for (size_t i = 0; i < countof(many); i++) many[i] = longest;
    stream_options options = { .stops = many, .n_stops = STOPS_MAX + 1 };
    EXPECT_INT(stream_open(&s, v, &options, &err), DS4_EARG);
    options.n_stops = STOPS_MAX;
    EXPECT_OK(stream_open(&s, v, &options, &err), err);
    stream_close(s);
    stream_close(NULL);
    vocab_close(v);
}

TEST(errors_of_a_push)
{
    fixture f;
    ds4_error err;
    REQUIRE(open_fixture(&f, false, false, 0, NULL));
    EXPECT_INT(stream_push(f.s, -1, &f.out, &err), DS4_EARG);
    EXPECT_INT(stream_push(f.s, vocab_size(f.v), &f.out, &err), DS4_EARG);
    bytes_free(&f.out);
    bytes_init(&f.out, 2);
    push_bytes(&f, "ab");
    EXPECT_INT(stream_push(f.s, vocab_find(f.v, "c", 1), &f.out, &err), DS4_EFULL);
    close_fixture(&f);
}

/* ---- streaming equals one shot -------------------------------------------- */

/* Text with invalid parts replaced, in one go. */
static void replace_invalid(slice text, bytes *out)
{
    for (size_t i = 0; i < text.len;) {
        uint32_t cp;
        const size_t len = (size_t)utf8_next(text.data + i, text.len - i, &cp);
        if (cp == UTF8_INVALID) bytes_text(out, "\xEF\xBF\xBD");
        else bytes_append(out, text.data + i, len);
        i += len;
    }
}

/* Where the first stop string to be complete begins; the length when there is none. */
static size_t cut_at(slice text, const slice *stops, int n)
{
    for (size_t end = 1; end <= text.len; end++) {
        size_t longest = 0;
        for (int i = 0; i < n; i++) {
            if (stops[i].len <= end && stops[i].len > longest
                && memcmp(text.data + end - stops[i].len, stops[i].data, stops[i].len) == 0) longest = stops[i].len;
        }
        if (longest) return end - longest;
    }
    return text.len;
}

static void check_random_stream(const vocab *v, random_stream *r, bool raw)
{
    static const char *const words[] = { "ab", "aba", "中", "中中a", "\xEF\xBF\xBD" "a", "bb😀" };
    slice stops[3];
    const int n_stops = (int)random_below(r, 4);
    for (int i = 0; i < n_stops; i++) stops[i] = slice_of(words[random_below(r, countof(words))]);

    const stream_options options = { false, raw, stops, n_stops };
    ds4_error err;
    stream *s;
    bytes all, want, got;
    REQUIRE_OK(stream_open(&s, v, &options, &err), err);
    bytes_init(&all, 1u << 20);
    bytes_init(&want, 1u << 20);
    bytes_init(&got, 1u << 20);
    for (int i = 0; i < 60; i++) {
        const char byte = "ab\xE4\xB8\xAD\xF0\x9F\x98\x80\xFF"[random_below(r, 10)];
        const int32_t id = random_below(r, 6) ? vocab_find(v, &byte, 1) : vocab_find(v, "中", 3);
        const int32_t token = id >= 0 ? id : vocab_find(v, "aa", 2);
        EXPECT_OK(tokenizer_decode(v, &token, 1, true, &all, &err), err);
        EXPECT_OK(stream_push(s, token, &got, &err), err);
        if (!raw) EXPECT(utf8_valid(got.data ? got.data : "", got.len));
    }
    EXPECT_OK(stream_flush(s, &got, &err), err);

    const slice text = { all.data, all.len };
    if (raw) bytes_append(&want, text.data, text.len);
    else replace_invalid(text, &want);
    const slice wanted = { want.data, cut_at((slice){ want.data, want.len }, stops, n_stops) };
    EXPECT(slice_equal((slice){ got.data, got.len }, wanted));
    EXPECT((stream_stopped(s) >= 0) == (wanted.len < want.len));
    stream_close(s);
    bytes_free(&all);
    bytes_free(&want);
    bytes_free(&got);
}

TEST(token_by_token_equals_one_shot)
{
    vocab *v = text_tiny_vocab();
    random_stream r;
    REQUIRE(v);
    random_seed(&r, test_seed());
    for (int i = 0; i < 4000; i++) check_random_stream(v, &r, i % 2);
    vocab_close(v);
}
