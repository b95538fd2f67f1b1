/* printer: the model's words on their way to standard output.
 *
 * Shows or drops the reasoning, dims it or sets it off by marker lines, hides
 * control characters from terminals, ends with exactly one newline; or collects
 * both parts for JSON. Every piece is written at once, so a reader sees a token
 * as soon as it exists. */
#ifndef CLI_PRINTER_H
#define CLI_PRINTER_H

#include <stdbool.h>
#include <stddef.h>
#include "base/bytes.h"
#include "exit_code.h"
#include "options.h"
#include "../console.h"

typedef enum { PRINT_REASONING, PRINT_TEXT } printer_section;

typedef struct {
    bool   terminal, colors, show_reasoning, collect;
    /* while writing */
    bool   in_reasoning, reasoning_shown, text_begun;
    size_t newlines;            /* of the text, held back until something follows */
    char   last;                /* byte written last */
    bytes  reasoning, text;     /* collected for JSON */
    int    write_error;         /* errno of standard output; 0 while all went well */
} printer;

void printer_open(printer *p, const cli_options *o);
void printer_close(printer *p);
void printer_begin(printer *p);                 /* a new answer */

/* Complete characters of one section; sections may alternate. */
void printer_write(printer *p, printer_section section, const char *data, size_t n);
void printer_end(printer *p);

/* Everything to standard output, for dumps and JSON too. 0, or errno. */
int  output_write(const char *data, size_t n);
/* What that errno means: a reader that has gone (EPIPE, stdout closed) is not
 * worth a word, anything else is printed. */
exit_code output_finish(int write_error, console *c);

#endif
