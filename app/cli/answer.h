/* answer: the model's words on their way to standard output.
 *
 * Shows or drops the reasoning, dims it or sets it off by marker lines, hides
 * control characters from terminals, ends with exactly one newline; or collects
 * both parts for JSON. Every piece is written at once, so a reader sees a token
 * as soon as it exists. */
#ifndef CLI_ANSWER_H
#define CLI_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include "base/bytes.h"
#include "exit_code.h"
#include "options.h"
#include "../console.h"

typedef enum { SECTION_REASONING, SECTION_TEXT } answer_section;

typedef struct {
    bool   terminal, colors, show_reasoning, collect;
    /* while writing */
    bool   in_reasoning, reasoning_shown, text_begun;
    size_t newlines;            /* of the text, held back until something follows */
    char   last;                /* byte written last */
    bytes  reasoning, text;     /* collected for JSON */
    int    write_error;         /* errno of standard output; 0 while all went well */
} answer;

void answer_open(answer *a, const cli_options *o);
void answer_close(answer *a);
void answer_begin(answer *a);                   /* a new answer */

/* Complete characters of one section; sections may alternate. */
void answer_write(answer *a, answer_section section, const char *data, size_t n);
void answer_end(answer *a);

/* Everything to standard output, for dumps and JSON too. 0, or errno. */
int  output_write(const char *data, size_t n);
/* What that errno means: a reader that has gone (EPIPE, stdout closed) is not
 * worth a word, anything else is printed. */
exit_code output_finish(int write_error, console *c);

#endif
