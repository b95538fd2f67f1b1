/* Keys of timelines, over a small vocabulary whose added tokens stand at unusual places. */
#include "base/random.h"
#include "engine/prefix_key.h"
#include "text/tokenizer.h"
#include "text_vocab.h"

static slice key_of(const prefix_key *k) { return prefix_key_bytes(k); }

static prefix_key key_from(const vocab *v, const int32_t *tokens, int n)
{
    prefix_key k;
    ds4_error err;
    prefix_key_init(&k);
    EXPECT_OK(prefix_key_push(&k, v, tokens, n, &err), err);
    return k;
}

static token_list tokens_of(const vocab *v, const char *text, bool parse_added)
{
    token_list l;
    ds4_error err;
    token_list_init(&l, SIZE_MAX);
    EXPECT_OK(tokenizer_encode(v, slice_of(text), parse_added, &l, &err), err);
    return l;
}

static prefix_key key_of_text(const vocab *v, const char *text, bool parse_added)
{
    token_list l = tokens_of(v, text, parse_added);
    prefix_key k = key_from(v, l.ids, (int)l.n);
    token_list_free(&l);
    return k;
}

TEST(text_that_quotes_a_token_is_not_the_token)
{
    vocab *v = text_tiny_vocab();
    prefix_key token = key_of_text(v, "a<｜User｜>b", true), text = key_of_text(v, "a<｜User｜>b", false);
    EXPECT(!slice_equal(key_of(&token), key_of(&text)));
    EXPECT_INT(prefix_key_common(key_of(&token), key_of(&text)), 1);
    EXPECT_INT(token.data.len, 1 + PREFIX_KEY_MARK_BYTES + 1);
    EXPECT_INT(prefix_key_mark(key_of(&token), 1), vocab_special(v)->user);
    EXPECT_INT(prefix_key_mark(key_of(&text), 1), -1);
    prefix_key_free(&token);
    prefix_key_free(&text);
    vocab_close(v);
}

TEST(two_tokenisations_of_a_text_have_one_key)
{
    vocab *v = text_tiny_vocab();
    const int32_t apart[] = { vocab_find(v, "a", 1), vocab_find(v, "b", 1), vocab_find(v, "c", 1) };
    const int32_t one[] = { vocab_find(v, "abc", 3) };
    prefix_key a = key_from(v, apart, 3), b = key_from(v, one, 1);
    EXPECT(slice_equal(key_of(&a), key_of(&b)));
    EXPECT_INT(prefix_key_count(&a, 2), 2);
    EXPECT_INT(prefix_key_count(&b, 2), 0);
    EXPECT_INT(prefix_key_end(&a, 2), 2);
    prefix_key_free(&a);
    prefix_key_free(&b);
    vocab_close(v);
}

TEST(a_common_prefix_never_ends_inside_a_mark_or_a_doubled_byte)
{
    vocab *v = text_tiny_vocab();
    const int32_t ff = vocab_find(v, "\xFF", 1), user = vocab_special(v)->user, eos = vocab_special(v)->eos;
    const int32_t lists[][3] = { { ff, ff, user }, { ff, ff, eos }, { ff, user, ff }, { ff, ff, ff }, { user, ff, ff },
                                 { eos, ff, ff } };
    static const size_t want[6][6] = {
        { 9, 4, 2, 4, 0, 0 }, { 4, 9, 2, 4, 0, 0 }, { 2, 2, 9, 2, 0, 0 }, { 4, 4, 2, 6, 0, 0 }, { 0, 0, 0, 0, 9, 0 }, { 0, 0, 0, 0, 0, 9 },
    };
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < 6; j++) {
            prefix_key a = key_from(v, lists[i], 3), b = key_from(v, lists[j], 3);
            EXPECT_INT(prefix_key_common(key_of(&a), key_of(&b)), want[i][j]);
            prefix_key_free(&a);
            prefix_key_free(&b);
        }
    }
    vocab_close(v);
}

TEST(marks_are_found_from_both_sides)
{
    vocab *v = text_tiny_vocab();
    const int32_t ff = vocab_find(v, "\xFF", 1), user = vocab_special(v)->user, eos = vocab_special(v)->eos;
    const int32_t tokens[] = { user, ff, ff, ff, user, ff, eos };
    prefix_key k = key_from(v, tokens, 7);
    const slice key = key_of(&k);
    EXPECT_INT(prefix_key_find(key, 0, user), 0);
    EXPECT_INT(prefix_key_find(key, 1, user) == 0, 0);
    EXPECT_INT(prefix_key_find(key, 5, user), 11);
    EXPECT_INT(prefix_key_find(key, 16, user), key.len);
    EXPECT_INT(prefix_key_find(key, 0, eos), 18);
    EXPECT_INT(prefix_key_find_back(key, key.len, user), 11);
    EXPECT_INT(prefix_key_find_back(key, 15, user), 0);         /* the mark has to end there */
    EXPECT_INT(prefix_key_find_back(key, 16, user), 11);
    EXPECT(prefix_key_find_back(key, 18, eos) == SIZE_MAX);
    EXPECT(prefix_key_find_back((slice){ NULL, 0 }, 0, eos) == SIZE_MAX);
    prefix_key_free(&k);
    vocab_close(v);
}

TEST(a_cut_key_grows_again_as_if_nothing_had_been)
{
    vocab *v = text_tiny_vocab();
    ds4_error err;
    prefix_key k = key_of_text(v, "hello abc<｜User｜>the", true), whole = key_of_text(v, "hello abc<｜User｜>the", true);
    token_list l = tokens_of(v, "hello abc<｜User｜>the", true);
    for (int n = 0; n <= (int)l.n; n++) {
        prefix_key_cut(&k, n);
        EXPECT_INT(k.data.len, prefix_key_end(&whole, n));
        EXPECT_OK(prefix_key_push(&k, v, l.ids + n, (int)l.n - n, &err), err);
        EXPECT(slice_equal(key_of(&k), key_of(&whole)));
    }
    const int32_t none[] = { l.ids[0], vocab_size(v) };
    EXPECT_INT(prefix_key_push(&k, v, none, 2, &err), DS4_EARG);
    EXPECT(slice_equal(key_of(&k), key_of(&whole)));
    EXPECT_INT(k.n, whole.n);
    token_list_free(&l);
    prefix_key_free(&k);
    prefix_key_free(&whole);
    vocab_close(v);
}

TEST(keys_become_tokens_and_text_again)
{
    vocab *v = text_tiny_vocab();
    random_stream r;
    ds4_error err;
    random_seed(&r, test_seed());
    for (int round = 0; round < 300; round++) {
        int32_t ids[40];
        const int n = (int)random_below(&r, 40);
        for (int i = 0; i < n; i++) {
            do ids[i] = (int32_t)random_below(&r, (uint64_t)vocab_size(v));
            while (random_below(&r, 4) && vocab_type(v, ids[i]) != TOKEN_NORMAL);
        }
        prefix_key k = key_from(v, ids, n);
        token_list again;
        bytes text, plain;
        token_list_init(&again, SIZE_MAX);
        bytes_init(&text, SIZE_MAX);
        bytes_init(&plain, SIZE_MAX);
        const int from = (int)random_below(&r, (uint64_t)n + 1);
        EXPECT_OK(prefix_key_tokens(key_of(&k), prefix_key_end(&k, from), v, &again, &err), err);
        prefix_key second = key_from(v, ids, from);
        EXPECT_OK(prefix_key_push(&second, v, again.ids, (int)again.n, &err), err);
        EXPECT(slice_equal(key_of(&k), key_of(&second)));

        EXPECT_OK(prefix_key_text(key_of(&k), v, &text, &err), err);
        EXPECT_OK(tokenizer_decode(v, ids, (size_t)n, true, &plain, &err), err);
        EXPECT(slice_equal((slice){ text.data, text.len }, (slice){ plain.data, plain.len }));
        prefix_key_free(&k);
        prefix_key_free(&second);
        token_list_free(&again);
        bytes_free(&text);
        bytes_free(&plain);
    }
    vocab_close(v);
}

TEST(bytes_that_are_no_key_are_refused)
{
    vocab *v = text_tiny_vocab();
    static const slice bad[] = {
        { "\xFF", 1 }, { "a\xFF\x00", 3 }, { "\xFF\x01\x01\x80\x01", 5 }, { "\xFF\x7F\x7F\x7F\x7F", 5 }, { "\xFF\xFF\xFF", 3 },
    };
    for (size_t i = 0; i < countof(bad); i++) {
        token_list l;
        bytes text;
        ds4_error err;
        token_list_init(&l, SIZE_MAX);
        bytes_init(&text, SIZE_MAX);
        EXPECT_INT(prefix_key_tokens(bad[i], 0, v, &l, &err), DS4_EARG);
        EXPECT_INT(prefix_key_text(bad[i], v, &text, &err), DS4_EARG);
        token_list_free(&l);
        bytes_free(&text);
    }
    prefix_key k = key_of_text(v, "a<｜User｜>", true);
    token_list l;
    token_list_init(&l, SIZE_MAX);
    for (size_t from = 2; from < 6; from++) EXPECT_INT(prefix_key_tokens(key_of(&k), from, v, &l, NULL), DS4_EARG);
    EXPECT_INT(prefix_key_tokens(key_of(&k), 7, v, &l, NULL), DS4_EARG);
    EXPECT_INT(prefix_key_tokens(key_of(&k), 6, v, &l, NULL), DS4_OK);
    token_list_free(&l);
    prefix_key_free(&k);
    vocab_close(v);
}
