#include "console_flags.h"

#include <string.h>

#include "base/status.h"

#define ROW(...) table[n++] = (option){ __VA_ARGS__ }

console_flags console_flags_defaults(void)
{
    return (console_flags){ .color = "auto" };
}

int console_flags_rows(console_flags *f, option *table)
{
    int n = 0;
    ROW(.long_name = "color", .kind = OPTION_CHOICE, .target = &f->color, .value_name = "WHEN",
        .choices = "auto|always|never", .help = "auto, always or never (default auto)");
    ROW(.long_name = "quiet", .short_name = 'q', .kind = OPTION_FLAG, .target = &f->quiet,
        .help = "only errors on stderr");
    ROW(.long_name = "verbose", .short_name = 'v', .kind = OPTION_FLAG, .target = &f->verbose,
        .help = "details of every phase on stderr");
    ROW(.long_name = "help", .short_name = 'h', .kind = OPTION_FLAG, .target = &f->help,
        .help = "this text, or one topic of it: --help sampling");
    ROW(.long_name = "version", .kind = OPTION_FLAG, .target = &f->version,
        .help = "version, commit, backends and build flags");
    return n;
}

ds4_status console_flags_operands(console_flags *f, const option_list *rest, const char *hint, ds4_error *err)
{
    if (f->help && rest->n == 1) f->help_topic = rest->items[0];
    else if (rest->n) return ds4_fail(err, DS4_EARG, "%s: unexpected argument%s", rest->items[0], hint);
    return DS4_OK;
}

ds4_status console_flags_check(const console_flags *f, ds4_error *err)
{
    return f->quiet && f->verbose ? ds4_fail(err, DS4_EARG, "--verbose: contradicts --quiet") : DS4_OK;
}

color_choice console_flags_color(const console_flags *f)
{
    if (strcmp(f->color, "always") == 0) return COLOR_ALWAYS;
    return strcmp(f->color, "never") == 0 ? COLOR_NEVER : COLOR_AUTO;
}

void console_flags_open(const console_flags *f, console *c, const char *program)
{
    const console_level level = f->quiet ? CONSOLE_QUIET : f->verbose ? CONSOLE_VERBOSE : CONSOLE_NORMAL;
    console_open(c, program, level, console_flags_color(f));
}
