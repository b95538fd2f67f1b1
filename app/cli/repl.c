#include "repl.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "line_editor.h"
#include "sampling.h"
#include "signals.h"

enum { REWIND_POINTS = 16 };        /* two a turn: its beginning, its answer */

#define TWICE_NS 1000000000ull      /* two Ctrl-C within this time leave */

/* ---- answering ------------------------------------------------------------------ */

static void say_full(repl *r)
{
    console_print(r->console, "[context full: %d tokens; /reset, /undo or start with a larger --ctx]",
                  ds4_session_capacity(r->talk.line.session));
}

static void say_interrupted(repl *r)
{
    console_print(r->console, "[interrupted]");
    signals_clear();
}

/* Notes how the answer ended and closes the turn, so that the next one finds a
 * well-formed conversation. */
static void settle(repl *r, const generate_result *result, size_t prompt_tokens, const ds4_error *err)
{
    char line[TURN_STATS_TEXT];
    r->last = turn_stats_of(&r->talk, prompt_tokens, result);
    r->has_last = true;
    if (result->finish == FINISH_INTERRUPTED) say_interrupted(r);
    if (result->finish == FINISH_CONTEXT)     say_full(r);
    if (result->finish == FINISH_ERROR)       console_error(r->console, "%s", err->message);
    if (result->finish == FINISH_LENGTH)
        console_note(r->console, "the answer was cut at %d tokens; /set n changes that", r->options.n);
    if (result->finish == FINISH_OUTPUT) {
        r->code = output_finish(r->out.write_error, r->console);
        r->leave = true;
    }
    conversation_end_turn(&r->talk);
    turn_stats_text(&r->last, line, sizeof line);
    console_detail(r->console, "%s", line);
    if (turn_stats_paging(&r->last, line, sizeof line)) console_note(r->console, "%s", line);
}

void repl_answer(repl *r)
{
    ds4_error err = { 0 };
    generate_result result = { .finish = FINISH_INTERRUPTED };
    const size_t prompt_tokens = r->talk.line.tokens.n;
    const ds4_status st = conversation_prefill(&r->talk, &err);
    if (st == DS4_ECANCELLED) {
        say_interrupted(r);
        conversation_end_turn(&r->talk);
        return;
    }
    if (st) {
        console_error(r->console, "%s", err.message);
        conversation_undo(&r->talk);
        return;
    }
    const generate_options how = {
        .max_tokens = r->options.n, .think_budget = r->options.flags.think_budget, .stops = &r->options.stops,
        .start = conversation_section(&r->talk),
    };
    generate_answer(&r->talk.line, r->talk.vocab, r->sampler, &how, &r->out, &result, &err);
    settle(r, &result, prompt_tokens, &err);
}

void repl_send(repl *r, const char *text, size_t n)
{
    ds4_error err = { 0 };
    size_t wanted;
    const ds4_status st = conversation_add_turn(&r->talk, (slice){ text, n }, &wanted, &err);
    if (st == DS4_EFULL) say_full(r);
    else if (st)         console_error(r->console, "%s", err.message);
    else                 repl_answer(r);
}

bool repl_renew_sampler(repl *r)
{
    ds4_error err = { 0 };
    ds4_sampler *fresh;
    const ds4_status st = ds4_sampler_new(&fresh, &r->sampling, r->model.shape.n_vocab, &err);
    if (st) {
        console_error(r->console, "%s", err.message);
        return false;
    }
    ds4_sampler_free(r->sampler);
    r->sampler = fresh;
    return true;
}

/* ---- opening -------------------------------------------------------------------- */

exit_code repl_open(repl *r, int ctx)
{
    ds4_error err = { 0 };
    const model_room room = { .ctx = ctx, .rewind_points = REWIND_POINTS };
    exit_code code = model_open(&r->model, &r->options.flags, room, r->console);
    if (code) return code;
    const ds4_status st = conversation_attach(&r->talk, r->model.engine, ctx, r->console, &err);
    if (st) {
        console_error(r->console, "%s", err.message);
        model_close(&r->model);
        return exit_code_of(st);
    }
    const think_mode mode = r->talk.mode.mode;
    r->talk.mode = model_prompt_mode(&r->model, &r->options.flags);
    r->talk.mode.mode = mode;
    return CLI_OK;
}

static exit_code open_all(repl *r, const prompt_source *prompt)
{
    ds4_error err = { 0 };
    r->talk.mode.mode = (think_mode)r->options.flags.mode;
    r->talk.keep_points = true;
    r->system = strndup(prompt->system, prompt->system_len);
    if (!r->system) return CLI_NO_MEMORY;
    r->talk.system = slice_of(r->system);
    const exit_code code = repl_open(r, r->options.flags.ctx);
    if (code) return code;
    r->sampling = sampling_of(&r->options, &r->model.shape);
    if (!repl_renew_sampler(r)) return CLI_FAILED;
    if (!r->options.load) return CLI_OK;
    const ds4_status st = conversation_load(&r->talk, r->options.load, &err);
    if (st) console_error(r->console, "%s", err.message);
    return exit_code_of(st);
}

static void save_at_end(repl *r)
{
    ds4_error err = { 0 };
    if (!r->options.save || (r->code && r->code != CLI_INTERRUPTED)) return;
    signals_clear();
    const ds4_status st = conversation_save(&r->talk, r->options.save, &err);
    if (!st) return;
    console_error(r->console, "%s", err.message);
    r->code = exit_code_of(st);
}

/* ---- the loop ------------------------------------------------------------------- */

/* Behind a command or an answer that lost the device: the conversation goes on with another session, whose
 * tokens the next turn computes. */
static void come_back(repl *r)
{
    ds4_error err = { 0 };
    const int ctx = r->model.engine_options.max_tokens;
    if (!r->model.engine || !ds4_engine_lost(r->model.engine)) return;
    signals_clear();
    console_note(r->console, "the device was lost; opening it again");
    timeline_detach(&r->talk.line);
    ds4_status st = ds4_engine_reopen(r->model.engine, &err);
    console_progress_end(r->console);
    if (!st) st = conversation_attach(&r->talk, r->model.engine, ctx, r->console, &err);
    if (!st) return;
    console_error(r->console, "%s", err.message);
    r->code = exit_code_of(st);
    r->leave = true;
}

/* "/command", "//text beginning with a slash", or text. */
static void take_line(repl *r, const char *line)
{
    if (line[0] == '/' && line[1] != '/') repl_command(r, line);
    else repl_send(r, line + (line[0] == '/'), strlen(line) - (line[0] == '/'));
}

static bool is_blank(const char *line)
{
    return line[strspn(line, " \t\n")] == 0;
}

static void loop(repl *r, line_editor *editor, line_history *history)
{
    uint64_t last_interrupt = 0;
    while (!r->leave) {
        char *line;
        const line_result result = line_editor_read(editor, &line);
        if (result == LINE_INTERRUPTED || result == LINE_INTERRUPTED_EMPTY) {
            const uint64_t now = clock_ns();
            const bool twice = result == LINE_INTERRUPTED_EMPTY && last_interrupt && now - last_interrupt < TWICE_NS;
            signals_clear();
            last_interrupt = result == LINE_INTERRUPTED_EMPTY ? now : 0;
            console_print(r->console, "^C");
            if (twice) r->code = CLI_INTERRUPTED;
            if (twice) return;
            continue;
        }
        last_interrupt = 0;
        if (result == LINE_END) return;
        history_add(history, line);
        if (!is_blank(line)) take_line(r, line);
        come_back(r);
        free(line);
    }
}

exit_code repl_run(const cli_options *o, const prompt_source *prompt, console *c)
{
    repl r = { .options = *o, .console = c };
    line_history history;
    printer_open(&r.out, o);
    r.code = open_all(&r, prompt);
    if (!r.code && signals_interrupted()) r.code = CLI_INTERRUPTED;
    if (!r.code) {
        history_open(&history);
        line_editor *editor = line_editor_open(terminal_colors(2, console_flags_color(&o->say)), &history,
                                               repl_command_name);
        console_note(c, "/help lists the commands, Ctrl-D leaves");
        if (editor) loop(&r, editor, &history);
        else console_error(c, "no memory for the line editor");
        line_editor_close(editor);
        history_close(&history);
        save_at_end(&r);
    }
    ds4_sampler_free(r.sampler);
    conversation_close(&r.talk);
    model_close(&r.model);
    printer_close(&r.out);
    free(r.system);
    return r.code;
}
