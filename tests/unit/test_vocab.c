#include "text_vocab.h"

static bool is_token(const vocab *v, int32_t id, const char *text)
{
    size_t n;
    const char *data = vocab_bytes(v, id, &n);
    return data && slice_is((slice){ data, n }, text);
}

/* ---- plain use ------------------------------------------------------------ */

TEST(the_alphabet_spells_every_byte_once)
{
    bool seen[256] = { false };
    int n = 0;
    for (uint32_t cp = 0; cp < 0x400; cp++) {
        const int byte = alphabet_byte(cp);
        if (byte < 0) continue;
        EXPECT(byte < 256 && !seen[byte & 255]);
        seen[byte & 255] = true;
        EXPECT_INT(alphabet_point((unsigned)byte), cp);
        n++;
    }
    EXPECT_INT(n, 256);
    EXPECT_INT(alphabet_point(' '), 0x120);
    EXPECT_INT(alphabet_point('\n'), 0x10A);
    EXPECT_INT(alphabet_point('\t'), 0x109);
    EXPECT_INT(alphabet_point(173), 0x143);
    EXPECT_INT(alphabet_point('A'), 'A');
}

TEST(tokens_are_found_by_their_bytes)
{
    vocab *v = text_tiny_vocab();
    size_t n;
    REQUIRE(v);
    EXPECT_INT(vocab_size(v), 277);
    for (int32_t id = 0; id < vocab_size(v); id++) {
        const char *data = vocab_bytes(v, id, &n);
        EXPECT(data && n > 0);
        EXPECT_INT(vocab_find(v, data, n), id);
    }
    const int32_t the = vocab_find(v, " the", 4);
    EXPECT_INT(vocab_type(v, the), TOKEN_NORMAL);
    EXPECT(is_token(v, the, " the"));
    EXPECT_INT(vocab_find(v, "the", 3), -1);
    EXPECT_INT(vocab_find(v, "", 0), -1);
    EXPECT_INT(vocab_type(v, vocab_find(v, "<spare>", 7)), TOKEN_UNUSED);
    EXPECT(vocab_memory_bytes(v) > 277 * 5);
    vocab_close(v);
    vocab_close(NULL);
}

TEST(control_tokens_are_found_by_their_text)
{
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    const special_tokens *s = vocab_special(v);
    EXPECT_INT(s->end_think, 0);
    EXPECT_INT(s->dsml, 102);
    EXPECT_INT(s->user, 258);
    EXPECT(is_token(v, s->eos, "<｜end▁of▁sentence｜>"));
    EXPECT(is_token(v, s->bos, "<｜begin▁of▁sentence｜>"));
    EXPECT(is_token(v, s->think, "<think>"));
    EXPECT(is_token(v, s->assistant, "<｜Assistant｜>"));
    EXPECT_INT(s->reminder, -1);

    EXPECT(vocab_hidden(v, s->user));           /* of type user, and protocol all the same */
    EXPECT(vocab_hidden(v, s->think));
    EXPECT(!vocab_hidden(v, s->dsml));
    EXPECT(!vocab_hidden(v, vocab_find(v, "a", 1)));
    EXPECT(!vocab_hidden(v, -1));
    vocab_close(v);
}

TEST(ids_out_of_range_have_no_bytes)
{
    static const int32_t ids[] = { -1, 277, INT32_MAX, INT32_MIN };
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    for (size_t i = 0; i < countof(ids); i++) {
        size_t n = 9;
        EXPECT(vocab_bytes(v, ids[i], &n) == NULL && n == 0);
        EXPECT_INT(vocab_type(v, ids[i]), TOKEN_UNUSED);
    }
    vocab_close(v);
}

/* ---- the published vocabulary --------------------------------------------- */

TEST(every_published_base_token_is_whole)
{
    const vocab *v = text_v3_vocab();
    size_t n;
    REQUIRE(v);
    EXPECT_INT(vocab_size(v), V3_SIZE);
    for (int32_t id = 3; id < 128000; id++) {
        const char *data = vocab_bytes(v, id, &n);
        EXPECT_INT(vocab_whole(v, (slice){ data, n }), id);
    }
    EXPECT_INT(vocab_whole(v, slice_of("<think>")), -1);        /* an added token is no piece */
    EXPECT_INT(vocab_special(v)->bos, 0);
    EXPECT_INT(vocab_special(v)->eos, 1);
    EXPECT_INT(vocab_special(v)->user, 128803);
    EXPECT_INT(vocab_special(v)->dsml, 128825);
    EXPECT_INT(vocab_special(v)->reminder, 128828);
}

/* ---- edges ---------------------------------------------------------------- */

/* Opens and frees a changed source. `want` is the sentence, NULL: it opens. */
static vocab *expect_source(text_source *s, const char *want)
{
    ds4_error err = { .message = "" };
    vocab *v = NULL;
    const ds4_status st = text_source_open(&v, s, &err);
    EXPECT_TEXT(st ? err.message : "", want ? want : "");
    if (st) EXPECT_INT(st, DS4_EFORMAT);
    text_source_free(s);
    return v;
}

static void set_token(text_source *s, size_t i, const char *text)
{
    free((char *)s->tokens[i].data);
    s->tokens[i] = text_copy(text, strlen(text));
}

TEST(a_base_token_wins_over_others_with_its_bytes)
{
    text_source s = text_tiny_source();
    text_add_token(&s, "ab", TOKEN_CONTROL);
    text_add_token(&s, "ab", TOKEN_NORMAL);
    vocab *v = expect_source(&s, NULL);
    REQUIRE(v);
    const int32_t id = vocab_find(v, "ab", 2);
    EXPECT_INT(vocab_type(v, id), TOKEN_NORMAL);
    EXPECT_INT(id, 259);
    vocab_close(v);
}

/* A base token that the merges spell otherwise must not be taken at once. */
TEST(a_token_that_merges_do_not_rebuild_is_no_whole_piece)
{
    text_source s = text_tiny_source();
    text_add_token(&s, "xyz", TOKEN_NORMAL);
    vocab *v = expect_source(&s, NULL);
    REQUIRE(v);
    EXPECT(vocab_find(v, "xyz", 3) >= 0);
    EXPECT_INT(vocab_whole(v, slice_of("xyz")), -1);
    EXPECT_INT(vocab_whole(v, slice_of("abc")), vocab_find(v, "abc", 3));
    vocab_close(v);
}

/* The text of a control token may also be a base token; protocol uses the added one. */
TEST(a_base_token_spelled_like_a_control_token_is_another)
{
    text_source s = text_tiny_source();
    const size_t base = s.n;
    text_add_token(&s, "<think>", TOKEN_NORMAL);
    vocab *v = expect_source(&s, NULL);
    REQUIRE(v);
    EXPECT_INT(vocab_find(v, "<think>", 7), base);
    EXPECT(vocab_special(v)->think != (int32_t)base);
    vocab_close(v);
}

/* ---- broken files --------------------------------------------------------- */

TEST(a_byte_without_a_token_is_refused)
{
    text_source s = text_tiny_source();
    set_token(&s, 1 + 65, "zz");
    expect_source(&s, "vocabulary: no token for the byte 0x41");
}

TEST(a_merge_without_a_result_is_refused)
{
    text_source s = text_tiny_source();
    text_take_merge(&s, text_copy("a z", 3));
    expect_source(&s, "vocabulary: merge 12 (\"a z\") is not of two tokens that make a third");
}

TEST(malformed_merges_are_refused)
{
    static const char *const merges[] = { "", " ", "ab", "a ", " a", "a b c", "a\xFF b", "中 a", "ab  c", "<think> a" };
    for (size_t i = 0; i < countof(merges); i++) {
        ds4_error err;
        vocab *v = NULL;
        text_source s = text_tiny_source();
        text_take_merge(&s, text_copy(merges[i], strlen(merges[i])));
        EXPECT_INT(text_source_open(&v, &s, &err), DS4_EFORMAT);
        EXPECT(v == NULL);
        text_source_free(&s);
    }
}

TEST(broken_tokens_are_refused)
{
    text_source s = text_tiny_source();
    set_token(&s, 5, "中");
    expect_source(&s, "vocabulary: token 5 (\"中\") has a character that spells no byte");

    s = text_tiny_source();
    s.types[5] = 6;
    expect_source(&s, "vocabulary: token 5 has type 6; 1 to 5 are known");

    s = text_tiny_source();
    set_token(&s, 5, "");
    expect_source(&s, "vocabulary: token 5 is empty");

    s = text_tiny_source();
    set_token(&s, 0, "\xFF");
    expect_source(&s, "vocabulary: token 0 is not valid UTF-8");

    s = text_tiny_source();
    s.types[0] = TOKEN_UNUSED;
    expect_source(&s, "vocabulary: no control or user-defined token </think>; this is not a DeepSeek V4 chat vocabulary");

    s = (text_source){ .n = 0 };
    expect_source(&s, "vocabulary: 0 tokens; 1 to 16777216 can be handled");
}

TEST(a_giant_token_is_refused)
{
    text_source s = text_tiny_source();
    char *giant = malloc(70000);
    REQUIRE(giant);
    memset(giant, 'a', 70000);
    text_take_token(&s, (slice){ giant, 70000 }, TOKEN_NORMAL);
    expect_source(&s, "vocabulary: token 277 has 70000 bytes; 65536 are the most");
}

/* ---- from a model file ---------------------------------------------------- */

/* What a file says; NULL or negative: the key is left out. */
typedef struct {
    const char *model, *pre;
    int         bos;
    bool        no_types, short_types, no_merges, float_types;
} file_keys;

static void put_keys(gguf_writer *w, const text_source *s, const file_keys *k)
{
    static const float floats[300];
    gguf_put_string(w, "general.architecture", "deepseek4", 9);
    if (k->model) gguf_put_string(w, "tokenizer.ggml.model", k->model, strlen(k->model));
    if (k->pre) gguf_put_string(w, "tokenizer.ggml.pre", k->pre, strlen(k->pre));
    gguf_put_string_array(w, "tokenizer.ggml.tokens", s->tokens, s->n);
    if (k->float_types) gguf_put_f32_array(w, "tokenizer.ggml.token_type", floats, s->n);
    else if (!k->no_types) gguf_put_i32_array(w, "tokenizer.ggml.token_type", s->types, s->n - k->short_types);
    if (!k->no_merges) gguf_put_string_array(w, "tokenizer.ggml.merges", s->merges, s->n_merges);
    if (k->bos >= 0) gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)k->bos);
}

static ds4_status open_file(vocab **out, const file_keys *k, ds4_error *err)
{
    ds4_status st;
    gguf_writer *w = NULL;
    gguf *g = NULL;
    text_source s = text_tiny_source();
    *out = NULL;
    if (!(st = gguf_writer_open(&w, test_scratch("vocab.gguf"), true, err))) {
        put_keys(w, &s, k);
        st = gguf_writer_begin_data(w, err);
        if (!st) st = gguf_writer_commit(w, err);
        else gguf_writer_abort(w);
    }
    if (!st) st = gguf_open(&g, test_scratch("vocab.gguf"), NULL, err);
    if (!st) st = vocab_open(out, g, err);
    gguf_close(g);                      /* a vocabulary keeps nothing of its file */
    text_source_free(&s);
    return st;
}

TEST(a_model_file_gives_its_vocabulary)
{
    static const char *const names[] = { "joyai-llm", "deepseek-v3" };
    for (size_t i = 0; i < countof(names); i++) {
        const file_keys k = { .model = "gpt2", .pre = names[i], .bos = 272 };
        ds4_error err;
        vocab *v;
        REQUIRE_OK(open_file(&v, &k, &err), err);
        EXPECT_INT(vocab_size(v), 277);
        EXPECT_INT(vocab_special(v)->bos, 272);
        EXPECT(is_token(v, vocab_find(v, "hello", 5), "hello"));
        vocab_close(v);
    }
}

TEST(model_files_with_broken_keys_are_refused)
{
    static const struct { file_keys keys; ds4_status status; const char *message; } cases[] = {
        { { .model = "llama", .pre = "joyai-llm", .bos = -1 }, DS4_EUNSUPPORTED,
          "tokenizer.ggml.model: \"llama\" is not gpt2 (byte-level BPE)" },
        { { .model = "gpt2", .pre = "qwen2", .bos = -1 }, DS4_EUNSUPPORTED,
          "tokenizer.ggml.pre: \"qwen2\" is neither joyai-llm nor deepseek-v3" },
        { { .model = "gpt2", .bos = -1 }, DS4_EFORMAT, NULL },
        { { .pre = "joyai-llm", .bos = -1 }, DS4_EFORMAT, NULL },
        { { .model = "gpt2", .pre = "joyai-llm", .bos = -1, .no_types = true }, DS4_EFORMAT, NULL },
        { { .model = "gpt2", .pre = "joyai-llm", .bos = -1, .no_merges = true }, DS4_EFORMAT, NULL },
        { { .model = "gpt2", .pre = "joyai-llm", .bos = -1, .short_types = true }, DS4_EFORMAT,
          "tokenizer.ggml.token_type: 276 entries for 277 tokens" },
        { { .model = "gpt2", .pre = "joyai-llm", .bos = -1, .float_types = true }, DS4_EFORMAT,
          "tokenizer.ggml.token_type: not an array of integers" },
        { { .model = "gpt2", .pre = "joyai-llm", .bos = 3 }, DS4_EFORMAT,
          "tokenizer.ggml.bos_token_id: 3, but the vocabulary has that token at 272" },
    };
    for (size_t i = 0; i < countof(cases); i++) {
        ds4_error err = { .message = "" };
        vocab *v;
        EXPECT_INT(open_file(&v, &cases[i].keys, &err), cases[i].status);
        EXPECT(v == NULL && err.message[0]);
        if (cases[i].message) EXPECT_TEXT(err.message, cases[i].message);
    }
}
