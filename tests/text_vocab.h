/* text_vocab: vocabularies for tests.
 *
 * v3: the published DeepSeek V3 base vocabulary with V4's added tokens, from tests/data
 *     (ids 3..258 are the bytes in the order of their characters, id 259 + i is what
 *     merge i makes, so pairs of ids tell all of it; see tests/data/text-README.md).
 * tiny: all bytes, a few merges, control tokens at unusual places. */
#ifndef TESTS_TEXT_VOCAB_H
#define TESTS_TEXT_VOCAB_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/utf8.h"
#include "runner.h"
#include "text/alphabet.h"
#include "text/vocab.h"

#define V3_MERGES      127741
#define V3_SIZE        129280

/* A vocab_source under construction. */
typedef struct {
    slice   *tokens;            /* each token's text is its own block */
    int32_t *types;
    size_t   n, cap;
    slice   *merges;
    size_t   n_merges, merge_cap;
} text_source;

static inline slice text_copy(const char *data, size_t n)
{
    char *copy = malloc(n + 1);
    if (n) memcpy(copy, data, n);
    copy[n] = 0;
    return (slice){ copy, n };
}

static inline slice text_joined(slice a, const char *between, slice b)
{
    const size_t n = strlen(between);
    char *text = malloc(a.len + n + b.len + 1);
    memcpy(text, a.data, a.len);
    memcpy(text + a.len, between, n);
    memcpy(text + a.len + n, b.data, b.len);
    text[a.len + n + b.len] = 0;
    return (slice){ text, a.len + n + b.len };
}

/* Takes a text made by text_copy or text_joined. */
static inline void text_take_token(text_source *s, slice text, int32_t type)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 1024;
        s->tokens = realloc(s->tokens, s->cap * sizeof *s->tokens);
        s->types = realloc(s->types, s->cap * sizeof *s->types);
    }
    s->tokens[s->n] = text;
    s->types[s->n++] = type;
}

static inline void text_add_token(text_source *s, const char *text, int32_t type)
{
    text_take_token(s, text_copy(text, strlen(text)), type);
}

static inline void text_take_merge(text_source *s, slice merge)
{
    if (s->n_merges == s->merge_cap) {
        s->merge_cap = s->merge_cap ? s->merge_cap * 2 : 1024;
        s->merges = realloc(s->merges, s->merge_cap * sizeof *s->merges);
    }
    s->merges[s->n_merges++] = merge;
}

/* The character that spells a byte. */
static inline slice text_spelled_byte(unsigned byte)
{
    char out[4];
    return text_copy(out, (size_t)utf8_put(out, alphabet_point(byte)));
}

static inline void text_source_free(text_source *s)
{
    for (size_t i = 0; i < s->n; i++) free((char *)s->tokens[i].data);
    for (size_t i = 0; i < s->n_merges; i++) free((char *)s->merges[i].data);
    free(s->tokens);
    free(s->types);
    free(s->merges);
    *s = (text_source){ .n = 0 };
}

static inline ds4_status text_source_open(vocab **out, const text_source *s, ds4_error *err)
{
    const vocab_source source = { s->tokens, s->types, s->n, s->merges, s->n_merges };
    return vocab_from_arrays(out, &source, err);
}

/* ---- tiny ----------------------------------------------------------------- */

static inline text_source text_tiny_source(void)
{
    static const char *const merges[][2] = {
        { "a", "b" }, { "ab", "c" }, { "Ġ", "t" }, { "h", "e" }, { "Ġt", "he" }, { "a", "a" },
        { "aa", "aa" }, { "Ċ", "Ċ" }, { "l", "l" }, { "ll", "o" }, { "he", "llo" }, { "Ã", "©" },
    };
    text_source s = { .n = 0 };
    text_add_token(&s, "</think>", TOKEN_CONTROL);
    for (unsigned b = 0; b < 256; b++) {
        text_take_token(&s, text_spelled_byte(b), TOKEN_NORMAL);
        if (b == 100) text_add_token(&s, "｜DSML｜", TOKEN_USER);
    }
    text_add_token(&s, "<｜User｜>", TOKEN_USER);
    for (size_t i = 0; i < countof(merges); i++) {
        const slice left = slice_of(merges[i][0]), right = slice_of(merges[i][1]);
        text_take_token(&s, text_joined(left, "", right), TOKEN_NORMAL);
        text_take_merge(&s, text_joined(left, " ", right));
        if (i == 3) text_add_token(&s, "<｜end▁of▁sentence｜>", TOKEN_CONTROL);
    }
    text_add_token(&s, "<｜begin▁of▁sentence｜>", TOKEN_CONTROL);
    text_add_token(&s, "<think>", TOKEN_CONTROL);
    text_add_token(&s, "<spare>", TOKEN_UNUSED);
    text_add_token(&s, "<｜Assistant｜>", TOKEN_CONTROL);
    text_add_token(&s, "<｜Assistant｜><think>", TOKEN_USER);
    return s;
}

static inline vocab *text_tiny_vocab(void)
{
    ds4_error err = { .message = "" };
    vocab *v = NULL;
    text_source s = text_tiny_source();
    EXPECT_OK(text_source_open(&v, &s, &err), err);
    text_source_free(&s);
    return v;
}

/* ---- v3 ------------------------------------------------------------------- */

static inline size_t text_u24(const unsigned char *p)
{
    return (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16;
}

/* Ids 0..2, 3..258 and the merged tokens. */
static inline bool text_v3_base(text_source *s, const char *path)
{
    size_t n;
    char *pairs;
    if (file_read_all(path, 6 * V3_MERGES, &pairs, &n, NULL)) return false;
    for (int i = 0; i < 3; i++) text_add_token(s, "", TOKEN_UNUSED);
    for (uint32_t cp = 0; cp < 0x144; cp++) {
        if (alphabet_byte(cp) >= 0) text_take_token(s, text_spelled_byte((unsigned)alphabet_byte(cp)), TOKEN_NORMAL);
    }
    for (size_t i = 0; i < n / 6; i++) {
        const unsigned char *pair = (unsigned char *)pairs + 6 * i;
        const slice left = s->tokens[text_u24(pair)], right = s->tokens[text_u24(pair + 3)];
        text_take_token(s, text_joined(left, "", right), TOKEN_NORMAL);
        text_take_merge(s, text_joined(left, " ", right));
    }
    free(pairs);
    return n == 6 * V3_MERGES;
}

/* Lines "id TAB type TAB text"; the place holders follow a rule, the rest is unused. */
static inline bool text_v3_added(text_source *s, const char *path)
{
    char name[64], *save = NULL, *tsv;
    size_t n;
    if (file_read_all(path, 1u << 20, &tsv, &n, NULL)) return false;
    for (int i = 0; i < 800; i++) {
        snprintf(name, sizeof name, "<｜place▁holder▁no▁%d｜>", i);
        text_add_token(s, name, TOKEN_CONTROL);
    }
    for (int i = 128800; i < V3_SIZE; i++) {
        snprintf(name, sizeof name, "<reserved %d>", i);
        text_add_token(s, name, TOKEN_UNUSED);
    }
    for (char *line = strtok_r(tsv, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *rest;
        const long id = strtol(line, &rest, 10), type = strtol(rest, &rest, 10);
        free((char *)s->tokens[id].data);
        s->tokens[id] = text_copy(rest + 1, strlen(rest + 1));
        s->types[id] = (int32_t)type;
    }
    free(tsv);
    return s->n == V3_SIZE;
}

/* Loaded once per program, for all its tests. */
static inline const vocab *text_v3_vocab(void)
{
    static vocab *v;
    text_source s = { .n = 0 };
    ds4_error err = { .message = "" };
    if (v) return v;
    const bool good = text_v3_base(&s, test_data("text-v3-merges.bin")) &&
        text_v3_added(&s, test_data("text-v4-added.tsv"));
    EXPECT(good);
    if (good) EXPECT_OK(text_source_open(&v, &s, &err), err);
    text_source_free(&s);
    return v;
}

#endif
