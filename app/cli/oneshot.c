#include "oneshot.h"

#include "printer.h"
#include "conversation.h"
#include "sampling.h"
#include "signals.h"
#include "stats.h"

/* What one run holds open. */
typedef struct {
    const cli_options   *options;
    const prompt_source *prompt;
    console             *console;
    model                model;
    conversation         talk;
    ds4_sampler         *sampler;
    printer              out;
} oneshot;

static exit_code failed(oneshot *r, ds4_status st, const ds4_error *err)
{
    if (st == DS4_OK) return CLI_OK;
    if (st != DS4_ECANCELLED) console_error(r->console, "%s", err->message);
    return exit_code_of(st);
}

static exit_code too_long(oneshot *r, size_t wanted, ds4_status st, const ds4_error *err)
{
    if (st != DS4_EFULL || wanted <= (size_t)r->options->flags.ctx) return failed(r, st, err);
    ds4_plan plan;
    const bool known = ds4_engine_plan(&r->model.engine_options, &plan, NULL) == DS4_OK;
    console_error(r->console, "the prompt needs a context of %zu tokens and has %d; start with --ctx %zu or more",
                  wanted, r->options->flags.ctx, wanted + 1000);
    if (known) console_note(r->console, "at most %d tokens fit this machine's memory", plan.max_tokens_that_fit);
    return CLI_TOO_LONG;
}

/* ---- the prompt ------------------------------------------------------------- */

static exit_code add_prompt(oneshot *r)
{
    ds4_error err = { 0 };
    ds4_status st = DS4_OK;
    const slice text = { r->prompt->text, r->prompt->len };
    size_t wanted = 0;

    if (r->options->load) {
        st = conversation_load(&r->talk, r->options->load, &err);
        if (st) return failed(r, st, &err);
    }
    if (r->options->raw) {
        token_list *l = &r->talk.line.tokens;
        st = prompt_tokens_raw(r->talk.vocab, text, l, &err);
        wanted = l->wanted + 1;
        if (!st && l->n == 0) {
            console_error(r->console, "--raw: the prompt is empty");
            return CLI_USAGE;
        }
        if (!st && wanted > l->max) st = DS4_EFULL;
    } else {
        st = conversation_add_turn(&r->talk, text, &wanted, &err);
    }
    return too_long(r, wanted, st, &err);
}

/* ---- the answer ------------------------------------------------------------- */

static exit_code print_json(oneshot *r, const turn_stats *s)
{
    bytes text;
    bytes_init(&text, (size_t)4 << 30);
    const bool whole = turn_stats_json(s, &r->out, &text);
    const int write_error = whole ? output_write(text.data, text.len) : 0;
    bytes_free(&text);
    if (whole) return output_finish(write_error, r->console);
    console_error(r->console, "no memory for the JSON of the answer");
    return CLI_NO_MEMORY;
}

static exit_code conclude(oneshot *r, const turn_stats *s, const ds4_error *err)
{
    char line[TURN_STATS_TEXT];
    if (r->options->json && s->answer.finish != FINISH_ERROR) {
        const exit_code code = print_json(r, s);
        if (code) return code;
    }
    if (r->out.write_error) return output_finish(r->out.write_error, r->console);
    if (s->answer.finish == FINISH_ERROR) {
        console_error(r->console, "%s", err->message);
        return CLI_FAILED;
    }
    if (s->answer.finish == FINISH_CONTEXT)
        console_warning(r->console, "context full: %d tokens; start with a larger --ctx", s->capacity);
    turn_stats_text(s, line, sizeof line);
    console_note(r->console, "%s", line);
    if (turn_stats_paging(s, line, sizeof line)) console_note(r->console, "%s", line);
    return s->answer.finish == FINISH_INTERRUPTED ? CLI_INTERRUPTED : CLI_OK;
}

static exit_code answer_prompt(oneshot *r)
{
    ds4_error err = { 0 };
    const size_t prompt_tokens = r->talk.line.tokens.n;
    ds4_status st = conversation_prefill(&r->talk, &err);
    if (st) return failed(r, st, &err);

    const generate_options how = {
        .max_tokens = r->options->n, .think_budget = r->options->flags.think_budget, .stops = &r->options->stops,
        .start = conversation_section(&r->talk),
    };
    generate_result result;
    generate_answer(&r->talk.line, r->talk.vocab, r->sampler, &how, &r->out, &result, &err);
    const turn_stats stats = turn_stats_of(&r->talk, prompt_tokens, &result);
    const exit_code code = conclude(r, &stats, &err);
    if ((code && code != CLI_INTERRUPTED) || !r->options->save) return code;

    signals_clear();        /* an interrupted answer is saved as far as it came */
    st = conversation_save(&r->talk, r->options->save, &err);
    return st ? failed(r, st, &err) : code;
}

/* ---- opening and closing ---------------------------------------------------- */

static exit_code open_all(oneshot *r)
{
    const cli_options *o = r->options;
    ds4_error err = { 0 };
    const exit_code code = model_open(&r->model, &o->flags, (model_room){ .ctx = o->flags.ctx }, r->console);
    if (code) return code;

    ds4_status st = conversation_attach(&r->talk, r->model.engine, o->flags.ctx, r->console, &err);
    if (st) return failed(r, st, &err);
    r->talk.mode = model_prompt_mode(&r->model, &o->flags);
    r->talk.system = (slice){ r->prompt->system, r->prompt->system_len };

    const ds4_sampling sampling = sampling_of(o, &r->model.shape);
    st = ds4_sampler_new(&r->sampler, &sampling, r->model.shape.n_vocab, &err);
    return failed(r, st, &err);
}

/* --think-max under a small context is not what was asked for; say so once. */
static void warn_effort(oneshot *r)
{
    if (r->options->raw || r->talk.mode.mode != MODE_THINK_MAX || prompt_effort(&r->talk.mode) == EFFORT_MAX) return;
    console_warning(r->console, "--think-max needs --ctx %d or more; thinking normally",
                    r->talk.mode.think_max_min_ctx);
}

exit_code oneshot_run(const cli_options *o, const prompt_source *prompt, console *c)
{
    oneshot r = { .options = o, .prompt = prompt, .console = c };
    printer_open(&r.out, o);
    exit_code code = open_all(&r);
    if (!code) warn_effort(&r);
    if (!code) code = add_prompt(&r);
    if (!code) code = answer_prompt(&r);

    printer_close(&r.out);
    ds4_sampler_free(r.sampler);
    conversation_close(&r.talk);
    model_close(&r.model);
    return code;
}
