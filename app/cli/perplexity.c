#include "perplexity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "printer.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "logits.h"
#include "probe.h"

typedef struct {
    probe           *probe;
    const ds4_token *window;        /* BOS and then the text's tokens */
    int              window_tokens; /* with BOS */
    size_t           scored, total;
    double           nll;           /* sum over scored tokens */
} scoring;

/* Position i predicts the token at i + 1. */
static ds4_status score(void *ctx, int position, const float *logits, ds4_error *err)
{
    scoring *s = ctx;
    (void)err;
    if (position + 1 >= s->window_tokens) return DS4_OK;
    s->nll += log_sum_exp(logits, s->probe->model.shape.n_vocab) - logits[s->window[position + 1]];
    s->scored++;
    console_progress(s->probe->console, s->scored, s->total);
    return DS4_OK;
}

static ds4_status score_window(scoring *s, ds4_token *window, const ds4_token *text, int n, ds4_error *err)
{
    memcpy(window + 1, text, (size_t)n * sizeof *text);
    s->window = window;
    s->window_tokens = n + 1;
    return probe_every_position(s->probe, window, n, score, s, err);
}

static ds4_status score_text(scoring *s, const token_list *text, int ctx, ds4_error *err)
{
    ds4_token *window = malloc((size_t)ctx * sizeof *window);
    if (!window) return ds4_fail(err, DS4_EMEMORY, "no memory for a window of %d tokens", ctx);
    window[0] = vocab_special(ds4_engine_vocab(s->probe->model.engine))->bos;

    ds4_status st = DS4_OK;
    for (size_t at = 0; at < text->n && !st; ) {
        const int n = (int)min_size((size_t)ctx - 1, text->n - at);
        st = score_window(s, window, text->ids + at, n, err);
        at += (size_t)n;
    }
    free(window);
    return st;
}

static ds4_status read_tokens(probe *p, const char *path, token_list *out, ds4_error *err)
{
    char *text;
    size_t n;
    ds4_status st = file_read_all(path, (size_t)1 << 31, &text, &n, err);
    if (st) return st;
    st = tokenizer_encode(ds4_engine_vocab(p->model.engine), (slice){ text, n }, false, out, err);
    free(text);
    if (!st && out->n == 0) st = ds4_fail(err, DS4_EARG, "%.100s: the text is empty", path);
    return st;
}

static exit_code print(const scoring *s, uint64_t ns, console *c)
{
    char line[160];
    const double mean = s->nll / (double)s->scored;
    const int n = snprintf(line, sizeof line, "tokens %zu  nll %.6f  ppl %.4f  %.2f t/s\n", s->scored, mean,
                           exp(mean), (double)s->scored * 1e9 / (double)ns);
    return output_finish(output_write(line, (size_t)n), c);
}

exit_code perplexity_run(const cli_options *o, console *c)
{
    ds4_error err = { 0 };
    probe p = { .options = o, .console = c };
    token_list text;
    token_list_init(&text, (size_t)1 << 30);
    if (o->flags.ctx < 2) {
        console_error(c, "--perplexity-file: needs --ctx 2 or more");
        return CLI_USAGE;
    }
    exit_code code = model_open(&p.model, &o->flags, (model_room){ .ctx = o->flags.ctx }, c);
    if (code) return code;

    ds4_status st = timeline_attach(&p.line, p.model.engine, o->flags.ctx, c, &err);
    if (!st) st = read_tokens(&p, o->perplexity_file, &text, &err);
    scoring s = { .probe = &p, .total = text.n };
    const uint64_t start = clock_ns();
    if (!st) {
        console_progress_begin(c, "perplexity", PROGRESS_TOKENS, text.n);
        st = score_text(&s, &text, o->flags.ctx, &err);
        console_progress_end(c);
    }
    code = st ? probe_failed(&p, st, &err) : print(&s, clock_ns() - start, c);
    token_list_free(&text);
    probe_close(&p);
    return code;
}
