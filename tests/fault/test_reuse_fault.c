/* What slots remember when memory runs out: a request fails or costs more, and the slot stays true of its session. */
#include "engine/reuse.h"
#include "fault/alloc.h"
#include "text/tokenizer.h"
#include "text_vocab.h"

static int  whole(void *ctx, int want)    { return want < *(int *)ctx ? 0 : *(int *)ctx; }
static bool no_logits(void *ctx, int n)   { return (void)ctx, n < 0; }

static ds4_status open_prompt(reuse_prompt *p, const vocab *v, const char *text, ds4_error *err)
{
    token_list l;
    token_list_init(&l, 1000);
    ds4_status st = tokenizer_encode(v, slice_of(text), true, &l, err);
    if (!st) st = reuse_prompt_open(p, v, &l, err);
    token_list_free(&l);
    return st;
}

/* A request, as the scheduler brings it to a slot; its answer when there is one. */
static ds4_status serve(reuse_slot *s, const vocab *v, const char *text, const answer_turn *turn, ds4_error *err)
{
    reuse_prompt p;
    token_list rest;
    bytes why;
    ds4_status st = open_prompt(&p, v, text, err);
    if (st) return st;
    token_list_init(&rest, 1000);
    bytes_init(&why, 1000);
    int n = s->key.n;
    const reuse_session session = { whole, no_logits, &n, false };
    const reuse_match m = reuse_match_slot(&p, s, &session, v);
    EXPECT(m.keep == 0 || m.keep == n);
    reuse_explain(&p, s, &m, v, &why, &why);
    st = reuse_suffix(&p, &m, v, &rest, err);
    const bool begun = !st;
    if (!st) st = reuse_slot_take(s, &p, &m, v, err);
    if (!st) st = reuse_slot_push(s, v, rest.ids, (int)rest.n, err);
    if (!st && turn) st = reuse_slot_finish(s, &p, turn, false, v, err);
    if (st && begun) EXPECT(s->base < 0);
    token_list_free(&rest);
    bytes_free(&why);
    reuse_prompt_close(&p);
    return st;
}

static ds4_status converse(void *ctx, ds4_error *err)
{
    const vocab *v = ctx;
    const int32_t sampled[] = { vocab_find(v, "a", 1), vocab_special(v)->end_think, vocab_find(v, "b", 1) };
    const chat_call call = { slice_of("id"), slice_of("name"), slice_of("{\"a\":1}") };
    const answer_turn turn = { .reasoning = slice_of("a"), .text = slice_of("b"), .reasoning_closed = true,
                               .calls = &call, .n_calls = 1 };
    reuse_slot s;
    bytes text;
    reuse_slot_init(&s);
    bytes_init(&text, 1000);
    ds4_status st = serve(&s, v, "hello<｜User｜>the<｜Assistant｜>", NULL, err);
    if (!st) st = reuse_slot_push(&s, v, sampled, 0, err);
    if (!st) st = serve(&s, v, "hello<｜User｜>the<｜Assistant｜>", &turn, err);
    if (!st)
        st = serve(&s, v, "hello<｜User｜>the<｜Assistant｜></think>b<｜end▁of▁sentence｜><｜User｜>a<｜Assistant｜>", &turn,
                   err);
    if (!st) reuse_visible_text(&s, true, v, &text);
    bytes_free(&text);
    reuse_slot_free(&s);
    return st;
}

TEST(a_slot_without_memory)
{
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    fault_each(converse, v);
    vocab_close(v);
}

static ds4_status tokens_again(void *ctx, ds4_error *err)
{
    reuse_prompt p;
    token_list l;
    bytes text;
    ds4_status st = open_prompt(&p, ctx, "hello<｜User｜>the<｜Assistant｜>abc", err);
    if (st) return st;
    token_list_init(&l, 1000);
    bytes_init(&text, 1000);
    st = prefix_key_tokens(prefix_key_bytes(&p.key), 0, ctx, &l, err);
    if (!st) st = prefix_key_text(prefix_key_bytes(&p.key), ctx, &text, err);
    if (!st) EXPECT_INT(l.n, p.tokens.n);
    token_list_free(&l);
    bytes_free(&text);
    reuse_prompt_close(&p);
    return st;
}

TEST(a_key_without_memory)
{
    vocab *v = text_tiny_vocab();
    REQUIRE(v);
    fault_each(tokens_again, v);
    vocab_close(v);
}
