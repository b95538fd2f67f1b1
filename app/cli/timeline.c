#include "timeline.h"

#include "base/clock.h"
#include "base/status.h"
#include "signals.h"

ds4_status timeline_attach(timeline *t, ds4_engine *e, int ctx, console *c, ds4_error *err)
{
    token_list kept;
    token_list_init(&kept, (size_t)ctx);
    for (size_t i = 0; i < t->tokens.n; i++) token_list_push(&kept, t->tokens.ids[i]);
    if (kept.failed) {
        token_list_free(&kept);
        return ds4_fail(err, DS4_EMEMORY, "no memory for the conversation");
    }
    token_list_free(&t->tokens);
    t->tokens = kept;
    t->console = c;
    t->engine = e;
    return ds4_session_open(&t->session, e, ctx, err);
}

void timeline_detach(timeline *t)
{
    ds4_session_close(t->session);
    t->session = NULL;
}

void timeline_close(timeline *t)
{
    timeline_detach(t);
    token_list_free(&t->tokens);
    *t = (timeline){ 0 };
}

static bool on_chunk(void *ctx, int done, int total)
{
    console_progress(ctx, (uint64_t)done, (uint64_t)total);
    return !signals_interrupted();
}

size_t timeline_common(const timeline *t, size_t upto)
{
    const ds4_token *have = ds4_session_tokens(t->session);
    const size_t length = (size_t)ds4_session_length(t->session);
    size_t n = 0;
    while (n < length && n < upto && have[n] == t->tokens.ids[n]) n++;
    return n;
}

ds4_status timeline_sync(timeline *t, size_t upto, ds4_error *err)
{
    size_t length = (size_t)ds4_session_length(t->session);
    const size_t common = timeline_common(t, upto);
    if (common < length) length = (size_t)ds4_session_rewind(t->session, (int)common);
    /* A point kept without logits: its last token is computed again. */
    if (length == upto && upto && !ds4_session_has_logits(t->session, (int)length))
        length = (size_t)ds4_session_rewind(t->session, (int)upto - 1);

    const uint64_t start = clock_ns();
    const int todo = (int)(upto - length);
    ds4_status st = DS4_OK;
    if (todo) {
        ds4_shape shape;
        ds4_engine_shape(t->engine, &shape);
        console_progress_begin(t->console, "prefill", PROGRESS_TOKENS, (uint64_t)todo);
        console_progress_steps(t->console, (uint64_t)shape.max_batch_rows, shape.n_layer);
        st = ds4_session_feed(t->session, t->tokens.ids + length, todo, on_chunk, t->console, err);
        console_progress_end(t->console);
    }
    t->fed = (size_t)ds4_session_length(t->session) - length;
    t->fed_ns = clock_ns() - start;
    return st;
}

ds4_status timeline_sync_and_mark(timeline *t, size_t upto, ds4_error *err)
{
    const ds4_status st = timeline_sync(t, upto, err);
    return st ? st : ds4_session_mark(t->session, err);
}

ds4_status timeline_advance(timeline *t, ds4_error *err)
{
    const int length = ds4_session_length(t->session);
    const int todo = (int)t->tokens.n - length;
    if (!todo) return DS4_OK;
    return ds4_session_feed(t->session, t->tokens.ids + length, todo, NULL, NULL, err);
}
