/* ds4-bench: how fast this engine and this machine are.
 *
 * stdout carries the table or what `--json -` and its like ask for, stderr
 * everything else. */
#include <string.h>

#include "bench/machine_run.h"
#include "bus_error.h"
#include "bench/options.h"
#include "bench/output.h"
#include "bench/run.h"
#include "cli/signals.h"
#include "terminal.h"
#include "version.h"

static const char usage_text[] =
    "Usage: ds4-bench machine [options]    what this computer can do; see machine --help\n"
    "       ds4-bench speed [options]      tokens per second of prompts and of decoding\n"
    "       ds4-bench [--prompt-file FILE] [--ctx-start N] ...      a sweep over contexts\n\n";

static exit_code usage_error(console *c, const char *message)
{
    console_error(c, "%s", message);
    console_error(c, "try --help");
    return CLI_USAGE;
}

static exit_code print_help(console *c)
{
    bytes out;
    bytes_init(&out, (size_t)1 << 16);
    bytes_text(&out, usage_text);
    bench_options_help(&out);
    const exit_code code = output_standard(&out, c);
    bytes_free(&out);
    return code;
}

static exit_code print_version(console *c)
{
    char text[512];
    bytes out;
    version_text(text, sizeof text, "ds4-bench");
    bytes_init(&out, sizeof text);
    bytes_printf(&out, "%s\n", text);
    const exit_code code = output_standard(&out, c);
    bytes_free(&out);
    return code;
}

static exit_code run_speed(int argc, char **argv, bool bare, console *c)
{
    bench_options o;
    ds4_error err = { 0 };
    exit_code code;
    const ds4_status st = bench_options_parse(&o, argc, argv, bare, &err);
    c->level = o.quiet ? CONSOLE_QUIET : o.verbose ? CONSOLE_VERBOSE : CONSOLE_NORMAL;
    if (st)             code = usage_error(c, err.message);
    else if (o.help)    code = print_help(c);
    else if (o.version) code = print_version(c);
    else {
        signals_catch_interrupt();
        code = o.sweep ? sweep_run(&o, c) : cells_run(&o, argc, argv, c);
    }
    bench_options_free(&o);
    return code;
}

static exit_code run(int argc, char **argv, console *c)
{
    if (argc > 1 && strcmp(argv[1], "machine") == 0) return machine_run(argc - 1, argv + 1, c);
    if (argc > 1 && strcmp(argv[1], "speed") == 0) return run_speed(argc - 1, argv + 1, false, c);
    if (argc > 1 && argv[1][0] == '-') return run_speed(argc, argv, true, c);
    return usage_error(c, argc > 1 ? "the first word is machine or speed, or an option of a sweep"
                                   : "what is to be measured? machine, speed, or a sweep with --ctx-start");
}

int main(int argc, char **argv)
{
    console out;
    terminal_guard();
    bus_error_catch("ds4-bench");
    signals_ignore_pipe();
    console_open(&out, "ds4-bench", CONSOLE_NORMAL, COLOR_AUTO);
    const exit_code code = run(argc, argv, &out);
    console_close(&out);
    return code;
}
