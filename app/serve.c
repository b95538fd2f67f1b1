/* ds4-server: an endpoint for the clients of two vendors, in front of one engine.
 *
 * stderr carries all messages; nothing is written to stdout but --help and --version. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "bus_error.h"
#include "console.h"
#include "serve/options.h"
#include "serve/run.h"
#include "terminal.h"
#include "version.h"

/* A program started without its standard streams must not open a socket as one of them. */
static void fill_standard_streams(void)
{
    int fd;
    do fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2) close(fd);
}

static int usage_error(console *c, const char *message)
{
    console_error(c, "%s", message);
    console_error(c, "try --help");
    return CLI_USAGE;
}

static int print(const bytes *text)
{
    const bool ok = fwrite(text->data, 1, text->len, stdout) == text->len && fflush(stdout) == 0;
    return ok ? CLI_OK : CLI_STDOUT_GONE;
}

static int print_help(const char *topic, console *c)
{
    bytes out;
    bytes_init(&out, (size_t)1 << 16);
    if (!topic) bytes_text(&out, "Usage: ds4-server [options]        serves at http://127.0.0.1:8000\n\n");
    const int code = server_flags_help(topic, &out)
        ? print(&out)
        : usage_error(c, "--help: topics are address, model, slots, cache, answers, thinking, sampling, limits, "
                         "running");
    bytes_free(&out);
    return code;
}

static int print_version(void)
{
    char text[512];
    version_text(text, sizeof text, "ds4-server");
    bytes out;
    bytes_init(&out, sizeof text + 1);
    bytes_printf(&out, "%s\n", text);
    const int code = print(&out);
    bytes_free(&out);
    return code;
}

static int run(const server_flags *o, console *c)
{
    if (o->flags.chdir_to && chdir(o->flags.chdir_to)) {
        console_error(c, "--chdir: can not go to %s", o->flags.chdir_to);
        return CLI_FAILED;
    }
    return o->check ? server_check(o, c) : server_run(o, c);
}

int main(int argc, char **argv)
{
    server_flags options;
    console out;
    ds4_error err = { 0 };
    int code;

    fill_standard_streams();
    terminal_guard();
    bus_error_catch("ds4-server");
    signal(SIGPIPE, SIG_IGN);
    const ds4_status st = server_flags_parse(&options, argc, argv, &err);
    console_flags_open(&options.say, &out, "ds4-server");
    if (st == DS4_EARG)       code = usage_error(&out, err.message);
    else if (st) {
        console_error(&out, "%s", err.message);
        code = CLI_FAILED;
    }
    else if (options.say.help)    code = print_help(options.say.help_topic, &out);
    else if (options.say.version) code = print_version();
    else                      code = run(&options, &out);
    console_close(&out);
    server_flags_free(&options);
    return code;
}
