/* ds4: answers a prompt, holds a conversation, or shows what a model computes.
 *
 * stdout carries the answer or the dump, stderr everything else. */
#include <fcntl.h>
#include <unistd.h>

#include "bus_error.h"
#include "cli/printer.h"
#include "cli/dump_tokens.h"
#include "cli/exit_code.h"
#include "cli/inspect.h"
#include "cli/oneshot.h"
#include "cli/options.h"
#include "cli/perplexity.h"
#include "cli/probe.h"
#include "cli/prompt.h"
#include "cli/repl.h"
#include "cli/signals.h"
#include "console.h"
#include "terminal.h"
#include "version.h"

/* A program started without its standard streams must not open a model as one
 * of them. Reading-only, so that writing to a missing stdout still fails. */
static void fill_standard_streams(void)
{
    int fd;
    do fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= 2);
    if (fd > 2) close(fd);
}

static exit_code usage_error(console *c, const char *message)
{
    console_error(c, "%s", message);
    console_error(c, "try --help");
    return CLI_USAGE;
}

static exit_code print_help(const char *topic, console *c)
{
    bytes out;
    bytes_init(&out, (size_t)1 << 16);
    bytes_text(&out, "Usage: ds4 [options]              conversation at a terminal\n"
                     "       ds4 [options] -p TEXT      one answer\n"
                     "       ... | ds4 [options]        the prompt is piped in\n\n");
    if (topic) bytes_clear(&out);
    const bool known = cli_options_help(topic, &out);
    const exit_code code = known
        ? output_finish(output_write(out.data, out.len), c)
        : usage_error(c, "--help: topics are model, prompt, thinking, sampling, output, diagnostics");
    bytes_free(&out);
    return code;
}

static exit_code print_version(console *c)
{
    char text[512];
    version_text(text, sizeof text, "ds4");
    bytes out;
    bytes_init(&out, sizeof text);
    bytes_printf(&out, "%s\n", text);
    const exit_code code = output_finish(output_write(out.data, out.len), c);
    bytes_free(&out);
    return code;
}

static exit_code run_probe(const cli_options *o, const prompt_source *prompt, console *c)
{
    probe p;
    exit_code code = probe_open(&p, o, prompt, c);
    if (code) return code;
    switch (o->job) {
    case JOB_DUMP_LOGPROBS: code = dump_logprobs_run(&p); break;
    case JOB_DUMP_LOGITS:   code = dump_logits_run(&p);   break;
    default:                code = print_ids_run(&p);     break;
    }
    probe_close(&p);
    return code;
}

static exit_code run_with_prompt(const cli_options *o, const prompt_source *prompt, console *c)
{
    if (!prompt->present && o->job != JOB_CHAT)
        return usage_error(c, "this dump needs a prompt: -p, --prompt-file or standard input");
    if (!prompt->present && (o->raw || o->json))
        return usage_error(c, o->raw ? "--raw: needs a prompt: -p, --prompt-file or standard input"
                                     : "--json: needs a prompt: -p, --prompt-file or standard input");
    if (o->job == JOB_DUMP_TOKENS) return dump_tokens_run(o, prompt, c);
    /* Until here Ctrl-C just ended the program: nothing was open yet. */
    signals_catch_interrupt();
    if (o->job != JOB_CHAT) return run_probe(o, prompt, c);
    return prompt->present ? oneshot_run(o, prompt, c) : repl_run(o, prompt, c);
}

static exit_code run(const cli_options *o, console *c)
{
    ds4_error err = { 0 };
    prompt_source prompt;
    if (o->flags.chdir_to && chdir(o->flags.chdir_to)) {
        console_error(c, "--chdir: can not go to %s", o->flags.chdir_to);
        return CLI_FAILED;
    }
    if (o->job == JOB_INSPECT) return inspect_run(o, c);
    if (o->job == JOB_PERPLEXITY) {
        signals_catch_interrupt();
        return perplexity_run(o, c);
    }
    const ds4_status st = prompt_read(&prompt, o, &err);
    if (st == DS4_EARG) return usage_error(c, err.message);
    if (st) {
        console_error(c, "%s", err.message);
        return exit_code_of(st);
    }
    const exit_code code = run_with_prompt(o, &prompt, c);
    prompt_free(&prompt);
    return code;
}

int main(int argc, char **argv)
{
    cli_options options;
    console out;
    ds4_error err = { 0 };
    exit_code code;

    fill_standard_streams();
    terminal_guard();
    bus_error_catch("ds4");
    signals_ignore_pipe();
    const ds4_status st = cli_options_parse(&options, argc, argv, &err);
    console_flags_open(&options.say, &out, "ds4");
    if (st)                                      code = usage_error(&out, err.message);
    else if (options.action == ACTION_HELP)      code = print_help(options.say.help_topic, &out);
    else if (options.action == ACTION_VERSION)   code = print_version(&out);
    else                                         code = run(&options, &out);
    console_close(&out);
    cli_options_free(&options);
    return code;
}
