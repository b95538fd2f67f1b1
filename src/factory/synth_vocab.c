/* A vocabulary that behaves like the released one without being it.
 *
 * Every token above the bytes is made by exactly one merge, and running the
 * merges over its own spelling gives the token back, as in the released one.
 * That holds because syllables come in three kinds with consonants of their
 * own: A, B, C; merges make a syllable, then A+B, then AB+C, then "Ġ" + A and
 * "Ġ" + AB, so that inside a word no pair of neighbours merges in two ways. */
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "factory/token_table.h"

#define FIRST_BYTE   3              /* ids 3..258 spell the bytes 0..255     */
#define FIRST_MERGED (FIRST_BYTE + 256)
#define FEWEST       272
#define RELEASED     129280         /* vocabulary with the released ids      */
#define RELEASED_END 128000         /* first id behind the base vocabulary   */

typedef struct {
    int         released;           /* id in the released vocabulary         */
    const char *text;
    int         type;
} marker;

static const marker markers[] = {
    { 128800, "<｜fim▁hole｜>", TOKEN_TYPE_USER },     { 128801, "<｜fim▁begin｜>", TOKEN_TYPE_USER },
    { 128802, "<｜fim▁end｜>", TOKEN_TYPE_USER },      { 128803, "<｜User｜>", TOKEN_TYPE_USER },
    { 128804, "<｜Assistant｜>", TOKEN_TYPE_USER },    { 128821, "<think>", TOKEN_TYPE_USER },
    { 128822, "</think>", TOKEN_TYPE_USER },           { 128825, "｜DSML｜", TOKEN_TYPE_USER },
    { 128828, "<｜latest_reminder｜>", TOKEN_TYPE_USER },
};

static const char *const consonants[3] = { "bcdfghjkBCDFGHJK", "lmnpqr", "stvwxz" };
static const char        vowels[]      = "aeiouy";

/* The byte alphabet: printable Latin-1 spells itself, the other 68 bytes take
 * U+0100 upwards in order. */
static uint32_t byte_letter(int byte)
{
    uint32_t next = 0x100;
    for (int b = 0; b <= byte; b++) {
        const bool plain = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte) return plain ? (uint32_t)b : next;
        if (!plain) next++;
    }
    return next;
}

typedef struct {
    token_table *t;
    int          next, end;         /* ids left for merged tokens */
    bool         failed;
} builder;

/* Adds left+right with its merge while there is room. */
static bool join(builder *b, slice left, slice right)
{
    char text[16];
    if (b->next >= b->end || b->failed) return false;
    memcpy(text, left.data, left.len);
    memcpy(text + left.len, right.data, right.len);
    b->failed = !token_table_set(b->t, b->next++, (slice){ text, left.len + right.len }, TOKEN_TYPE_NORMAL) ||
                !token_table_merge(b->t, left, right);
    return !b->failed;
}

static void join_all(builder *b, int left, int n_left, int right, int n_right)
{
    for (int l = left; l < left + n_left; l++)
        for (int r = right; r < right + n_right; r++)
            if (!join(b, b->t->tokens[l], b->t->tokens[r])) return;
}

static void add_merged(builder *b)
{
    int first[3], n[3];             /* ids of the syllables of each kind */
    for (int kind = 0; kind < 3; kind++) {
        first[kind] = b->next;
        for (const char *c = consonants[kind]; *c; c++)
            for (const char *v = vowels; *v; v++) join(b, (slice){ c, 1 }, (slice){ v, 1 });
        n[kind] = b->next - first[kind];
    }
    const int blank = FIRST_BYTE + ' ';
    const int ab = b->next;
    join_all(b, first[0], n[0], first[1], n[1]);
    const int n_ab = b->next - ab;
    join_all(b, ab, n_ab, first[2], n[2]);
    join_all(b, blank, 1, first[0], n[0]);
    join_all(b, blank, 1, ab, n_ab);
}

static bool add_fixed(token_table *t)
{
    bool ok = token_table_set(t, 0, slice_of("<｜begin▁of▁sentence｜>"), TOKEN_TYPE_CONTROL) &&
              token_table_set(t, 1, slice_of("<｜end▁of▁sentence｜>"), TOKEN_TYPE_CONTROL) &&
              token_table_set(t, 2, slice_of("<｜▁pad▁｜>"), TOKEN_TYPE_CONTROL);
    for (int i = 0; i < 256 && ok; i++) {
        char text[4];
        const int n = utf8_put(text, byte_letter(i));
        ok = token_table_set(t, FIRST_BYTE + i, (slice){ text, (size_t)n }, TOKEN_TYPE_NORMAL);
    }
    for (size_t i = 0; i < countof(markers) && ok; i++) {
        const int id = t->n_tokens >= RELEASED ? markers[i].released : t->n_tokens - (int)(countof(markers) - i);
        ok = token_table_set(t, id, slice_of(markers[i].text), markers[i].type);
    }
    return ok;
}

ds4_status token_table_synth(token_table *t, int n_tokens, ds4_error *err)
{
    if (n_tokens < FEWEST)
        return ds4_fail(err, DS4_EARG, "a vocabulary of %d tokens has no room for the bytes and markers, the "
                        "least is %d", n_tokens, FEWEST);
    const int end = n_tokens >= RELEASED ? RELEASED_END : n_tokens - (int)countof(markers);
    ds4_status st = token_table_init(t, n_tokens, (size_t)(end - FIRST_MERGED), err);
    if (st) return st;
    t->bos = 0;
    t->eos = 1;
    t->pad = 2;

    builder b = { .t = t, .next = FIRST_MERGED, .end = end };
    if (add_fixed(t)) add_merged(&b);
    else b.failed = true;
    if (b.failed) st = ds4_fail(err, DS4_EMEMORY, "no memory for a vocabulary of %d tokens", n_tokens);
    if (!st) st = token_table_fill(t, err);
    if (st) token_table_free(t);
    return st;
}
