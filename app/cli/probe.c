#include "probe.h"

#include "base/checked.h"
#include "base/status.h"
#include "signals.h"

/* Rows of logits kept at once; a full model has half a megabyte a row. */
enum { MAX_LOGIT_ROWS = 256 };

exit_code probe_failed(probe *p, ds4_status st, const ds4_error *err)
{
    if (st && st != DS4_ECANCELLED) console_error(p->console, "%s", err->message);
    return exit_code_of(st);
}

/* ---- prompts ---------------------------------------------------------------- */

static ds4_status render(probe *p, const prompt_source *prompt, ds4_error *err)
{
    const vocab *v = ds4_engine_vocab(p->model.engine);
    const prompt_mode mode = model_prompt_mode(&p->model, &p->options->flags);
    const slice text = { prompt->text, prompt->len }, system = { prompt->system, prompt->system_len };
    token_list tokens;
    token_list_init(&tokens, (size_t)1 << 28);
    ds4_status st = p->options->raw ? prompt_tokens_raw(v, text, &tokens, err)
                                    : prompt_tokens_chat(v, &mode, system, text, &tokens, err);
    if (!st && tokens.n == 0) st = ds4_fail(err, DS4_EARG, "the prompt is empty");
    if (!st) st = token_sequences_single(&p->prompts, tokens.ids, tokens.n, err);
    token_list_free(&tokens);
    return st;
}

static ds4_status check_lengths(const probe *p, ds4_error *err)
{
    const token_sequences *s = &p->prompts;
    for (size_t i = 0; i < s->n; i++) {
        const size_t n = s->begin[i + 1] - s->begin[i];
        if (n > (size_t)p->options->flags.ctx)
            return ds4_fail(err, DS4_EFULL, "prompt %zu has %zu tokens and the context %d; "
                            "start with --ctx %zu or more", i, n, p->options->flags.ctx, n + 1000);
    }
    return DS4_OK;
}

exit_code probe_open(probe *p, const cli_options *o, const prompt_source *prompt, console *c)
{
    ds4_error err = { 0 };
    *p = (probe){ .options = o, .console = c };
    exit_code code = model_open(&p->model, &o->flags, (model_room){ .ctx = o->flags.ctx }, c);
    if (code) return code;

    ds4_status st = timeline_attach(&p->line, p->model.engine, o->flags.ctx, c, &err);
    if (!st) st = o->token_ids ? token_sequences_read(&p->prompts, o->token_ids, p->model.shape.n_vocab, &err)
                               : render(p, prompt, &err);
    if (!st) st = check_lengths(p, &err);
    if (st) {
        code = st == DS4_EARG ? CLI_USAGE : exit_code_of(st);
        console_error(c, "%s", err.message);
        probe_close(p);
    }
    return code;
}

void probe_close(probe *p)
{
    token_sequences_free(&p->prompts);
    timeline_close(&p->line);
    model_close(&p->model);
}

/* ---- running ---------------------------------------------------------------- */

ds4_status probe_prefill(probe *p, size_t i, ds4_error *err)
{
    const token_sequences *s = &p->prompts;
    token_list *l = &p->line.tokens;
    ds4_session_reset(p->line.session);
    token_list_clear(l);
    for (size_t k = s->begin[i]; k < s->begin[i + 1]; k++) token_list_push(l, s->ids[k]);
    if (l->failed) return ds4_fail(err, DS4_EMEMORY, "no memory for the prompt");
    return timeline_sync(&p->line, l->n, err);
}

static ds4_status visit_chunk(ds4_batch *b, int first, int n, probe_visit *visit, void *ctx, ds4_error *err)
{
    ds4_status st = DS4_OK;
    for (int i = 0; i < n && !st; i++) st = visit(ctx, first + i, ds4_batch_logits(b, i), err);
    return st;
}

ds4_status probe_every_position(probe *p, const ds4_token *ids, int n, probe_visit *visit, void *ctx,
                                ds4_error *err)
{
    ds4_batch *b;
    const int chunk = min_int(p->model.shape.max_batch_rows, MAX_LOGIT_ROWS);
    ds4_status st = ds4_batch_new(&b, p->model.engine, err);
    if (st) return st;
    ds4_session_reset(p->line.session);
    token_list_clear(&p->line.tokens);
    for (int i = 0; i < n && !st; i += chunk) {
        const int m = min_int(chunk, n - i);
        ds4_batch_clear(b);
        st = ds4_batch_add(b, p->line.session, ids + i, m, DS4_LOGITS_ALL, err);
        if (!st) st = ds4_engine_step(p->model.engine, b, err);
        if (!st) st = visit_chunk(b, i, m, visit, ctx, err);
        if (!st && signals_interrupted()) st = ds4_fail(err, DS4_ECANCELLED, "interrupted");
    }
    ds4_batch_free(b);
    return st;
}

ds4_status probe_continue(probe *p, int n, probe_step *step, void *ctx, ds4_error *err)
{
    ds4_sampler *greedy;
    ds4_sampling how = ds4_sampling_defaults();
    how.temperature = 0;
    ds4_status st = ds4_sampler_new(&greedy, &how, p->model.shape.n_vocab, err);
    if (st) return st;

    const ds4_token eos = vocab_special(ds4_engine_vocab(p->model.engine))->eos;
    for (int i = 0; i < n; i++) {
        if ((st = timeline_advance(&p->line, err))) break;
        if (signals_interrupted()) { st = ds4_fail(err, DS4_ECANCELLED, "interrupted"); break; }
        const float *logits = ds4_session_logits(p->line.session);
        const ds4_token id = ds4_sample(greedy, logits);
        if (id < 0) { st = ds4_fail(err, DS4_EDEVICE, "the model's logits are not numbers"); break; }
        if ((st = step(ctx, i, id, logits, err))) break;
        if (id == eos || !token_list_push(&p->line.tokens, id)) break;
    }
    ds4_sampler_free(greedy);
    return st;
}
