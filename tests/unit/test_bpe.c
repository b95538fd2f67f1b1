#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "runner.h"

/* A random merge list over few bytes, so that merges build on merges. */
#define N_MERGES 200

typedef struct {
    int32_t left, right, merged;
} rule;

typedef struct {
    bpe  b;
    rule rules[N_MERGES];
} grammar;

static bool make_grammar(grammar *g, random_stream *r)
{
    int32_t byte_id[256];
    ds4_error err;
    for (int i = 0; i < 256; i++) byte_id[i] = 1000 - i;            /* ids in any order */
    if (bpe_open(&g->b, byte_id, N_MERGES, &err)) return false;
    for (int i = 0; i < N_MERGES; i++) {
        int32_t side[2];
        for (int k = 0; k < 2; k++) {
            const int from = (int)random_below(r, (uint64_t)(3 + i));
            side[k] = from < 3 ? byte_id['a' + from] : g->rules[from - 3].merged;
        }
        g->rules[i] = (rule){ side[0], side[1], 2000 + i };
        bpe_add(&g->b, side[0], side[1], 2000 + i);
    }
    return true;
}

/* The definition: of all neighbours in the list the lowest rank, the leftmost of those. */
static void encode_by_definition(const grammar *g, slice piece, token_list *out)
{
    int32_t symbol[256];
    int n = (int)piece.len;
    for (int i = 0; i < n; i++) symbol[i] = g->b.byte_id[(unsigned char)piece.data[i]];
    for (;;) {
        int best = -1, at = -1;
        for (int rank = 0; rank < N_MERGES && best < 0; rank++) {
            for (int i = 0; i + 1 < n && best < 0; i++) {
                if (symbol[i] == g->rules[rank].left && symbol[i + 1] == g->rules[rank].right) best = rank, at = i;
            }
        }
        if (best < 0) break;
        symbol[at] = g->rules[best].merged;
        memmove(symbol + at + 1, symbol + at + 2, (size_t)(n - at - 2) * sizeof *symbol);
        n--;
    }
    for (int i = 0; i < n; i++) token_list_push(out, symbol[i]);
}

/* Pieces of up to 200 bytes take the scan or the heap by their length. */
TEST(scan_and_heap_follow_the_definition)
{
    random_stream r;
    ds4_error err;
    random_seed(&r, test_seed());
    for (int round = 0; round < 40; round++) {
        grammar g;
        token_list want, got;
        bpe_work work = { .nodes = NULL };
        REQUIRE(make_grammar(&g, &r));
        token_list_init(&want, 1000);
        token_list_init(&got, 1000);
        for (int k = 0; k < 50; k++) {
            char text[200];
            const size_t n = 1 + random_below(&r, k % 2 ? sizeof text : 40);
            for (size_t i = 0; i < n; i++) text[i] = "abcabcabcd"[random_below(&r, 10)];
            token_list_clear(&want);
            token_list_clear(&got);
            encode_by_definition(&g, (slice){ text, n }, &want);
            EXPECT_OK(bpe_encode(&g.b, &work, (slice){ text, n }, &got, &err), err);
            if (got.n != want.n || memcmp(got.ids, want.ids, got.n * sizeof *got.ids) != 0) {
                test_fail(__FILE__, __LINE__, "\"%.*s\" gives %zu tokens, want %zu, or other ones", (int)n, text, got.n,
                          want.n);
            }
        }
        bpe_work_free(&work);
        token_list_free(&want);
        token_list_free(&got);
        bpe_close(&g.b);
    }
}

static void expect_joined(const bpe *b, size_t n, size_t want_tokens)
{
    char text[100];
    ds4_error err;
    token_list out;
    bpe_work work = { .nodes = NULL };
    memset(text, 'a', sizeof text);
    token_list_init(&out, 100);
    EXPECT_OK(bpe_encode(b, &work, (slice){ text, n }, &out, &err), err);
    EXPECT_INT(out.n, want_tokens);
    token_list_free(&out);
    bpe_work_free(&work);
}

/* "aaa" with the pair a a joins the first two; both encoders, around their border. */
TEST(ties_go_to_the_left)
{
    int32_t byte_id[256];
    bpe b;
    ds4_error err;
    for (int i = 0; i < 256; i++) byte_id[i] = i;
    REQUIRE_OK(bpe_open(&b, byte_id, 2, &err), err);
    bpe_add(&b, 'a', 'a', 300);
    bpe_add(&b, 300, 300, 301);
    bpe_add(&b, 'a', 'a', 302);         /* a repeated pair keeps its first rank */
    for (size_t n = 0; n <= 100; n++) expect_joined(&b, n, n / 4 + n % 4 / 2 + n % 2);
    bpe_close(&b);
}

TEST(no_merges_leave_bytes)
{
    int32_t byte_id[256];
    bpe b;
    ds4_error err;
    for (int i = 0; i < 256; i++) byte_id[i] = i;
    REQUIRE_OK(bpe_open(&b, byte_id, 0, &err), err);
    expect_joined(&b, 5, 5);
    expect_joined(&b, 90, 90);
    bpe_close(&b);
}

TEST(a_list_keeps_its_limit)
{
    token_list l;
    token_list_init(&l, 3);
    for (int i = 0; i < 5; i++) EXPECT(token_list_push(&l, i) == (i < 3));
    EXPECT_INT(l.n, 3);
    EXPECT_INT(l.wanted, 5);
    EXPECT(!l.failed);
    token_list_clear(&l);
    EXPECT(token_list_push(&l, 7));
    EXPECT_INT(l.ids[0], 7);
    token_list_free(&l);

    token_list_init(&l, 0);
    EXPECT(!token_list_push(&l, 1));
    EXPECT_INT(l.wanted, 1);
    token_list_free(&l);
}
