/* console_flags: how much a program says and in which colours, its help and its version; ds4 and ds4-server share
 * them. */
#ifndef APP_CONSOLE_FLAGS_H
#define APP_CONSOLE_FLAGS_H

#include <stdbool.h>
#include "base/options.h"
#include "console.h"
#include "ds4_status.h"

typedef struct {
    const char *color;
    bool        quiet, verbose, help, version;
    const char *help_topic;     /* NULL: all */
} console_flags;

console_flags console_flags_defaults(void);

/* Rows below the topic that stands before them; returns how many. */
int           console_flags_rows(console_flags *f, option *table);

/* Operands are a mistake, save for the topic behind --help. `hint` ends the sentence. */
ds4_status    console_flags_operands(console_flags *f, const option_list *rest, const char *hint, ds4_error *err);
ds4_status    console_flags_check(const console_flags *f, ds4_error *err);

color_choice  console_flags_color(const console_flags *f);
void          console_flags_open(const console_flags *f, console *c, const char *program);

#endif
