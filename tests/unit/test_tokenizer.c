/* Golden ids come from three other implementations (tests/data/text-README.md). */
#include "base/random.h"
#include "base/utf8.h"
#include "text/json_tree.h"
#include "text/tokenizer.h"
#include "text_vocab.h"

static void encode(const vocab *v, slice text, bool parse_added, token_list *out)
{
    ds4_error err;
    token_list_init(out, 1u << 26);
    EXPECT_OK(tokenizer_encode(v, text, parse_added, out, &err), err);
}

static void expect_ids(const vocab *v, slice text, bool parse_added, const int32_t *want, size_t n)
{
    token_list got;
    encode(v, text, parse_added, &got);
    const bool same = got.n == n && (n == 0 || memcmp(got.ids, want, n * sizeof *want) == 0);
    if (!same) test_fail(__FILE__, __LINE__, "\"%.*s\" (added %d): %zu tokens, want %zu, or other ones",
                         (int)text.len, text.data, parse_added, got.n, n);
    token_list_free(&got);
}

static bool round_trips(const vocab *v, slice text, bool parse_added)
{
    ds4_error err;
    token_list ids;
    bytes back;
    encode(v, text, parse_added, &ids);
    bytes_init(&back, 1u << 30);
    EXPECT_OK(tokenizer_decode(v, ids.ids, ids.n, true, &back, &err), err);
    const bool same = slice_equal(text, (slice){ back.data, back.len });
    bytes_free(&back);
    token_list_free(&ids);
    return same;
}

static void expect_round_trip(const vocab *v, slice text)
{
    for (int added = 0; added < 2; added++) {
        if (round_trips(v, text, added)) continue;
        test_fail(__FILE__, __LINE__, "%zu bytes, first 0x%02X, do not come back (added %d)",
                  text.len, (unsigned char)text.data[0], added);
    }
}

/* ---- plain use ------------------------------------------------------------ */

TEST(worked_examples)
{
    static const int32_t hello[] = { 19923, 3, 223, 5464, 5008, 1175, 19, 940, 223, 19, 438, 223, 20 };
    static const int32_t chat[]  = { 128803, 30594, 128804, 128821, 36101, 128822, 7624, 1 };
    static const int32_t code[]  = { 223, 688, 1527, 510 };
    const vocab *v = text_v3_vocab();
    REQUIRE(v);
    expect_ids(v, slice_of("Hello! 毕老师！1 + 1 = 2"), false, hello, countof(hello));
    expect_ids(v, slice_of("<｜User｜>你好<｜Assistant｜><think>推理</think>答案<｜end▁of▁sentence｜>"), true,
               chat, countof(chat));
    expect_ids(v, slice_of("  int x;\n"), false, code, countof(code));
    expect_ids(v, slice_of(""), true, NULL, 0);
}

/* Reads an array of ids. */
static size_t golden_ids(const json_tree *t, uint32_t array, int32_t *out, size_t cap)
{
    size_t n = 0;
    for (uint32_t c = t->nodes[array].first; c && n < cap; c = t->nodes[c].next) {
        out[n++] = (int32_t)strtol(t->nodes[c].text.data, NULL, 10);
    }
    return n;
}

static void check_golden_line(const vocab *v, const char *line)
{
    static int32_t want[4096];
    json_tree t;
    ds4_error err;
    REQUIRE_OK(json_tree_parse(&t, slice_of(line), &err), err);
    const slice text = t.nodes[json_tree_find(&t, 1, "text")].text;
    const uint32_t ids = json_tree_find(&t, 1, "ids"), plain = json_tree_find(&t, 1, "plain_ids");

    size_t n = golden_ids(&t, ids, want, countof(want));
    expect_ids(v, text, true, want, n);
    n = golden_ids(&t, plain ? plain : ids, want, countof(want));
    expect_ids(v, text, false, want, n);
    expect_round_trip(v, text);
    json_tree_free(&t);
}

TEST(golden_lines_in_both_modes)
{
    const vocab *v = text_v3_vocab();
    size_t n = 0;
    int lines = 0;
    char *save = NULL, *data = test_read(test_data("text-golden.jsonl"), &n);
    REQUIRE(v && data);
    for (char *line = strtok_r(data, "\n", &save); line; line = strtok_r(NULL, "\n", &save), lines++) {
        check_golden_line(v, line);
    }
    EXPECT_INT(lines, 344);
    free(data);
}

TEST(added_tokens_are_text_unless_asked_for)
{
    vocab *v = text_tiny_vocab();
    token_list ids;
    REQUIRE(v);
    encode(v, slice_of("a<｜Assistant｜><think>b"), true, &ids);
    REQUIRE(ids.n == 3);
    EXPECT_INT(ids.ids[1], vocab_find(v, "<｜Assistant｜><think>", strlen("<｜Assistant｜><think>")));  /* the longest */
    token_list_free(&ids);

    encode(v, slice_of("a<｜Assistant｜><think>b"), false, &ids);
    for (size_t i = 0; i < ids.n; i++) EXPECT_INT(vocab_type(v, ids.ids[i]), TOKEN_NORMAL);
    token_list_free(&ids);

    encode(v, slice_of("<spare>"), true, &ids);             /* unused ones are never made */
    EXPECT(ids.n > 1);
    token_list_free(&ids);
    vocab_close(v);
}

TEST(text_beside_an_added_token_stands_alone)
{
    static const char *const parts[] = { "x", "  ", "<think>", "x" };
    const vocab *v = text_v3_vocab();
    token_list ids;
    REQUIRE(v);
    encode(v, slice_of("x  <think>x"), true, &ids);
    EXPECT_INT(ids.n, countof(parts));
    for (size_t i = 0; i < ids.n && i < countof(parts); i++) {
        EXPECT_INT(ids.ids[i], vocab_find(v, parts[i], strlen(parts[i])));
    }
    token_list_free(&ids);
}

/* ---- edges ---------------------------------------------------------------- */

TEST(a_full_list_tells_how_much_was_wanted)
{
    vocab *v = text_tiny_vocab();
    token_list ids;
    ds4_error err;
    REQUIRE(v);
    token_list_init(&ids, 3);
    EXPECT_INT(tokenizer_encode(v, slice_of("x y z 1 2 3"), false, &ids, &err), DS4_EFULL);
    EXPECT_INT(ids.n, 3);
    EXPECT_INT(ids.wanted, 11);
    EXPECT_TEXT(err.message, "the text has 11 tokens, and 3 are the most allowed");

    token_list_clear(&ids);
    EXPECT_INT(tokenizer_encode(v, slice_of("abc"), false, &ids, &err), DS4_OK);
    EXPECT_INT(ids.n, 1);
    token_list_free(&ids);
    vocab_close(v);
}

TEST(decoding_hides_protocol_tokens_but_not_dsml)
{
    vocab *v = text_tiny_vocab();
    bytes out;
    ds4_error err;
    REQUIRE(v);
    const special_tokens *s = vocab_special(v);
    const int32_t ids[] = { s->bos, s->user, vocab_find(v, "a", 1), s->dsml, s->think, s->eos };
    bytes_init(&out, 1000);
    EXPECT_OK(tokenizer_decode(v, ids, countof(ids), false, &out, &err), err);
    EXPECT_TEXT(out.data, "a｜DSML｜");
    bytes_clear(&out);
    EXPECT_OK(tokenizer_decode(v, ids, 4, true, &out, &err), err);
    EXPECT_TEXT(out.data, "<｜begin▁of▁sentence｜><｜User｜>a｜DSML｜");
    bytes_free(&out);
    vocab_close(v);
}

TEST(decoding_refuses_unknown_ids_and_overflow)
{
    vocab *v = text_tiny_vocab();
    bytes out;
    ds4_error err;
    REQUIRE(v);
    const int32_t bad[] = { vocab_size(v) }, worse[] = { -1 };
    bytes_init(&out, 4);
    EXPECT_INT(tokenizer_decode(v, bad, 1, true, &out, &err), DS4_EARG);
    EXPECT_INT(tokenizer_decode(v, worse, 1, true, &out, &err), DS4_EARG);
    EXPECT_INT(tokenizer_decode(v, &vocab_special(v)->bos, 1, true, &out, &err), DS4_EFULL);
    bytes_free(&out);
    vocab_close(v);
}

/* ---- decode(encode(x)) == x ----------------------------------------------- */

TEST(random_bytes_come_back)
{
    char data[600];
    random_stream r;
    vocab *tiny = text_tiny_vocab();
    REQUIRE(tiny && text_v3_vocab());
    random_seed(&r, test_seed());
    for (int i = 0; i < 3000; i++) {
        const size_t n = 1 + random_below(&r, sizeof data - 1);
        /* All bytes, or few, so that runs and half characters are common. */
        for (size_t k = 0; k < n; k++) {
            data[k] = i % 2 ? (char)random_u64(&r) : "a \n<\xE4\xBD\x9C\xF0\x9F\xEF\xBD\x9C"[random_below(&r, 12)];
        }
        expect_round_trip(text_v3_vocab(), (slice){ data, n });
        expect_round_trip(tiny, (slice){ data, n });
    }
    vocab_close(tiny);
}

TEST(text_cut_at_every_byte_comes_back)
{
    static const char text[] = "é 中文<｜User｜>ア・ 👨‍👩‍👧 ½٣\r\n　नमस्ते <think>x</think>𠀀";
    const vocab *v = text_v3_vocab();
    REQUIRE(v);
    for (size_t n = 1; n < sizeof text; n++) {
        expect_round_trip(v, (slice){ text, n });
        expect_round_trip(v, (slice){ text + n - 1, sizeof text - n });
    }
}

TEST(every_character_comes_back)
{
    const vocab *v = text_v3_vocab();
    REQUIRE(v);
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        char text[8] = "a";
        if (cp >= 0xD800 && cp <= 0xDFFF) continue;
        const size_t n = (size_t)utf8_put(text + 1, cp);
        text[1 + n] = 'b';
        if (!round_trips(v, (slice){ text + 1, n }, false) || !round_trips(v, (slice){ text, n + 2 }, false)) {
            test_fail(__FILE__, __LINE__, "U+%04X does not come back", (unsigned)cp);
        }
    }
}

/* One character of each kind, and invalid bytes. Nothing here may be quadratic: with an
 * n^2 loop this would take hours. */
TEST(a_megabyte_of_one_character_comes_back)
{
    static const char *const characters[] = {
        "a", " ", "1", "\n", ".", "\xE4\xB8\xAD", "\xE3\x82\xA2", "\xCC\x81", "\xF0\x9F\x98\x80", "\x01", "\xFF", "<",
        "\xEF\xBD\x9C",
    };
    const vocab *v = text_v3_vocab();
    const size_t size = 1u << 20;
    char *data = malloc(size);
    REQUIRE(v && data);
    for (size_t i = 0; i < countof(characters); i++) {
        const size_t n = strlen(characters[i]);
        for (size_t k = 0; k < size; k++) data[k] = characters[i][k % n];
        EXPECT(round_trips(v, (slice){ data, size }, true));
    }
    free(data);
}
