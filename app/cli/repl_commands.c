#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "prompt.h"
#include "repl.h"
#include "signals.h"

typedef void command_fn(repl *r, const char *argument);

/* ---- modes ---------------------------------------------------------------------- */

static void say_mode(repl *r)
{
    const prompt_mode *m = &r->talk.mode;
    if (m->mode == MODE_NOTHINK)                     console_print(r->console, "Thinking mode: off.");
    else if (m->mode == MODE_THINK)                  console_print(r->console, "Thinking mode: on.");
    else if (prompt_effort(m) == EFFORT_MAX)         console_print(r->console, "Thinking mode: max.");
    else console_print(r->console, "Thinking mode: high (ctx below %d).", m->think_max_min_ctx);
}

static void set_mode(repl *r, think_mode mode)
{
    ds4_error err = { 0 };
    bool changed;
    if (conversation_set_mode(&r->talk, mode, &changed, &err)) {
        console_error(r->console, "%s", err.message);
        return;
    }
    say_mode(r);
    if (changed)
        console_print(r->console, "The start of the prompt changed: the conversation (%zu tokens) is computed "
                      "again with the next message.", r->talk.line.tokens.n);
}

static void do_think(repl *r, const char *argument)     { (void)argument; set_mode(r, MODE_THINK); }
static void do_think_max(repl *r, const char *argument) { (void)argument; set_mode(r, MODE_THINK_MAX); }
static void do_nothink(repl *r, const char *argument)   { (void)argument; set_mode(r, MODE_NOTHINK); }

static void do_compact(repl *r, const char *argument)
{
    (void)argument;
    const size_t dropped = conversation_drop_reasoning(&r->talk);
    console_print(r->console, "%zu tokens of reasoning dropped; %zu left.", dropped, r->talk.line.tokens.n);
}

/* ---- the conversation ------------------------------------------------------------ */

static void do_reset(repl *r, const char *argument)
{
    (void)argument;
    conversation_reset(&r->talk);
    console_print(r->console, "New conversation.");
}

static void do_system(repl *r, const char *argument)
{
    char *text = strdup(argument);
    if (!text) return;
    free(r->system);
    r->system = text;
    r->talk.system = slice_of(text);
    do_reset(r, "");
}

static void do_undo(repl *r, const char *argument)
{
    (void)argument;
    console_print(r->console, conversation_undo(&r->talk) ? "The last exchange is gone." : "There is nothing to undo.");
}

static void do_retry(repl *r, const char *argument)
{
    (void)argument;
    if (conversation_retry(&r->talk)) repl_answer(r);
    else console_print(r->console, "There is no answer to try again.");
}

static void do_read(repl *r, const char *argument)
{
    ds4_error err = { 0 };
    char *text;
    size_t n;
    if (!*argument) {
        console_print(r->console, "/read needs a file name.");
    } else if (prompt_read_file(argument, &text, &n, &err)) {
        console_error(r->console, "%s", err.message);
    } else {
        repl_send(r, text, n);
        free(text);
    }
}

static void do_save(repl *r, const char *argument)
{
    ds4_error err = { 0 };
    if (!*argument) console_print(r->console, "/save needs a file name.");
    else if (conversation_save(&r->talk, argument, &err)) console_error(r->console, "%s", err.message);
    else console_print(r->console, "Saved %zu tokens to %s.", r->talk.line.tokens.n, argument);
}

static void do_load(repl *r, const char *argument)
{
    ds4_error err = { 0 };
    if (!*argument) console_print(r->console, "/load needs a file name.");
    else if (conversation_load(&r->talk, argument, &err)) console_error(r->console, "%s", err.message);
    else console_print(r->console, "Loaded %zu tokens from %s.", r->talk.line.tokens.n, argument);
}

/* ---- context --------------------------------------------------------------------- */

/* The KV is planned when the engine is opened, so another context is another
 * engine; the weights are still in memory. */
static void change_ctx(repl *r, int ctx)
{
    const int before = r->talk.mode.ctx;
    conversation_detach(&r->talk);
    model_close(&r->model);
    if (repl_open(r, ctx) == CLI_OK) {
        r->options.flags.ctx = ctx;
        console_print(r->console, "Context: %d tokens; the conversation is computed again with the next message.", ctx);
        return;
    }
    signals_clear();            /* Ctrl-C meant the other context, not the old one */
    r->code = repl_open(r, before);
    r->leave = r->code != CLI_OK;
}

static void do_ctx(repl *r, const char *argument)
{
    const size_t used = r->talk.line.tokens.n;
    int ctx;
    if (model_flags_parse_ctx(argument, &ctx, NULL))
        console_print(r->console, "/ctx needs a number of tokens, such as 32768 or 100k.");
    else if (used + 1 > (size_t)ctx)
        console_print(r->console, "The conversation has %zu tokens and does not fit %d; /reset or /undo first.",
                      used, ctx);
    else
        change_ctx(r, ctx);
}

static void do_tokens(repl *r, const char *argument)
{
    char kv[24];
    (void)argument;
    const int used = (int)r->talk.line.tokens.n, capacity = ds4_session_capacity(r->talk.line.session);
    console_bytes(kv, ds4_session_kv_bytes(r->talk.line.session));
    console_print(r->console, "%d tokens used, %d free of %d, KV %s.", used, capacity - used, capacity, kv);
}

static void do_stats(repl *r, const char *argument)
{
    char line[TURN_STATS_TEXT];
    (void)argument;
    if (!r->has_last) {
        console_print(r->console, "No turn yet.");
        return;
    }
    turn_stats_text(&r->last, line, sizeof line);
    console_print(r->console, "%s", line);
}

/* ---- settings -------------------------------------------------------------------- */

static void show_settings(repl *r)
{
    const ds4_sampling *s = &r->sampling;
    console_print(r->console, "temp %g  top-p %g  min-p %g  top-k %d  seed %llu  n %d", (double)s->temperature,
                  (double)s->top_p, (double)s->min_p, s->top_k, (unsigned long long)s->seed, r->options.n);
}

static bool parse_setting(const char *text, double *v)
{
    char *end;
    *v = strtod(text, &end);
    return *text && !*end && isfinite(*v);
}

/* A whole number from least up to what an int holds. */
static bool is_whole(double v, double least)
{
    return v >= least && v <= 2147483647.0 && v == floor(v);
}

static bool apply_setting(repl *r, const char *key, const char *text)
{
    double v;
    ds4_sampling *s = &r->sampling;
    if (!parse_setting(text, &v) || !sampling_in_range(key, v)) return false;
    if (strcmp(key, "temp") == 0)       s->temperature = (float)v;
    else if (strcmp(key, "top-p") == 0) s->top_p = (float)v;
    else if (strcmp(key, "min-p") == 0) s->min_p = (float)v;
    else if (strcmp(key, "top-k") == 0 && is_whole(v, 0)) s->top_k = (int)v;
    else if (strcmp(key, "n") == 0 && is_whole(v, 1))     r->options.n = (int)v;
    else if (strcmp(key, "seed") == 0 && v >= 0)          s->seed = strtoull(text, NULL, 10);
    else return false;
    return true;
}

static void do_set(repl *r, const char *argument)
{
    char key[16];
    const size_t n = strcspn(argument, " \t");
    const char *value = argument + n + strspn(argument + n, " \t");
    if (!*argument) {
        show_settings(r);
        return;
    }
    const ds4_sampling before = r->sampling;
    snprintf(key, sizeof key, "%.*s", (int)n, argument);
    if (!apply_setting(r, key, value)) {
        console_print(r->console, "/set KEY VALUE: temp 0..100, top-p 0..1, min-p 0..1, top-k, seed, n");
        return;
    }
    if (!repl_renew_sampler(r)) r->sampling = before;
    show_settings(r);
}

static void do_quit(repl *r, const char *argument)
{
    (void)argument;
    r->leave = true;
}

/* ---- the table ------------------------------------------------------------------- */

static command_fn do_help;

static const struct {
    const char *name, *argument, *help;
    command_fn *run;
} commands[] = {
    { "help",             "",          "this list",                                         do_help },
    { "think",            "",          "reason before answering",                           do_think },
    { "think-max",        "",          "reason at length; needs a large context",           do_think_max },
    { "nothink",          "",          "answer at once",                                    do_nothink },
    { "compact-thinking", "",          "drop the reasoning of earlier answers",             do_compact },
    { "ctx",              "N",         "another context size; the conversation is kept",    do_ctx },
    { "read",             "FILE",      "send the content of a file",                        do_read },
    { "system",           "TEXT",      "another system message; a new conversation",        do_system },
    { "reset",            "",          "new conversation",                                  do_reset },
    { "undo",             "",          "drop the last exchange",                            do_undo },
    { "retry",            "",          "another answer to the last message",                do_retry },
    { "save",             "FILE",      "write a checkpoint",                                do_save },
    { "load",             "FILE",      "continue from a checkpoint",                        do_load },
    { "tokens",           "",          "context used and free, bytes of KV",                do_tokens },
    { "stats",            "",          "timings of the last turn",                          do_stats },
    { "set",              "KEY VALUE", "temp, top-p, min-p, top-k, seed or n",              do_set },
    { "quit",             "",          "leave; so do /exit and Ctrl-D",                     do_quit },
    { "exit",             "",          NULL,                                                do_quit },
};

static void do_help(repl *r, const char *argument)
{
    (void)argument;
    for (size_t i = 0; i < countof(commands); i++) {
        char usage[40];
        if (!commands[i].help) continue;
        snprintf(usage, sizeof usage, "/%s %s", commands[i].name, commands[i].argument);
        console_print(r->console, "%-20s %s", usage, commands[i].help);
    }
    console_print(r->console, "%-20s %s", "//text", "send a line that begins with a slash");
    console_print(r->console, "\\ at the end of a line, or Alt-Enter, continues the message on the next line.");
}

const char *repl_command_name(size_t i)
{
    return i < countof(commands) ? commands[i].name : NULL;
}

void repl_command(repl *r, const char *line)
{
    const char *name = line + 1;
    const size_t n = strcspn(name, " \t\n");
    const char *argument = name + n + strspn(name + n, " \t");
    for (size_t i = 0; i < countof(commands); i++) {
        if (strlen(commands[i].name) != n || memcmp(commands[i].name, name, n) != 0) continue;
        commands[i].run(r, argument);
        return;
    }
    console_print(r->console, "Unknown command /%.*s; /help lists them, // sends a line that begins with a slash.",
                  (int)n, name);
}
