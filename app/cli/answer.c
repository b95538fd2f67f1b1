#include "answer.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "../terminal.h"

#define MAX_COLLECTED ((size_t)1 << 30)

/* ---- standard output -------------------------------------------------------- */

int output_write(const char *data, size_t n)
{
    while (n) {
        const ssize_t put = write(STDOUT_FILENO, data, n);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return errno;
        data += put;
        n -= (size_t)put;
    }
    return 0;
}

exit_code output_finish(int write_error, console *c)
{
    if (!write_error) return CLI_OK;
    if (write_error == EPIPE || write_error == EBADF) return CLI_STDOUT_GONE;
    console_error(c, "standard output: %s", strerror(write_error));
    return CLI_FAILED;
}

static void put(answer *a, const char *data, size_t n)
{
    if (!n || a->write_error) return;
    a->last = data[n - 1];
    if (!a->terminal) {
        a->write_error = output_write(data, n);
        return;
    }
    bytes shown;
    bytes_init(&shown, 8 * n + 16);
    terminal_append_visible(&shown, data, n);
    a->write_error = shown.failed ? ENOMEM : output_write(shown.data, shown.len);
    bytes_free(&shown);
}

static void style(answer *a, terminal_style s)
{
    const char *code = terminal_style_code(s);
    terminal_note_style(STDOUT_FILENO, s);
    if (!a->write_error) a->write_error = output_write(code, strlen(code));
}

/* ---- reasoning -------------------------------------------------------------- */

static void begin_reasoning(answer *a)
{
    if (a->in_reasoning) return;
    if (a->text_begun && a->last != '\n') put(a, "\n", 1);
    if (a->colors) style(a, STYLE_DIM);
    else           put(a, "[thinking]\n", 11);
    a->in_reasoning = a->reasoning_shown = true;
}

static void end_reasoning(answer *a)
{
    if (!a->in_reasoning) return;
    a->in_reasoning = false;
    if (a->last != '\n') put(a, "\n", 1);
    if (a->colors) style(a, STYLE_NONE);
    if (a->colors) put(a, "\n", 1);
    else           put(a, "[/thinking]\n", 12);
}

/* ---- text ------------------------------------------------------------------- */

/* Newlines wait until something follows, so that those at the end are dropped. */
static void put_text(answer *a, const char *data, size_t n)
{
    while (n) {
        size_t text = 0;
        while (text < n && data[text] != '\n') text++;
        if (text) {
            /* Behind shown reasoning there is a line break already. */
            if (a->reasoning_shown && !a->text_begun) a->newlines = 0;
            for (; a->newlines; a->newlines--) put(a, "\n", 1);
            put(a, data, text);
            a->text_begun = true;
        }
        if (text < n) a->newlines++, text++;
        data += text;
        n -= text;
    }
}

void answer_write(answer *a, answer_section section, const char *data, size_t n)
{
    if (!n) return;
    if (a->collect) {
        bytes_append(section == SECTION_TEXT ? &a->text : &a->reasoning, data, n);
    } else if (section == SECTION_TEXT) {
        end_reasoning(a);
        put_text(a, data, n);
    } else if (a->show_reasoning) {
        begin_reasoning(a);
        put(a, data, n);
    }
}

void answer_begin(answer *a)
{
    a->in_reasoning = a->reasoning_shown = a->text_begun = false;
    a->newlines = 0;
    a->last = '\n';
    bytes_clear(&a->reasoning);
    bytes_clear(&a->text);
}

void answer_end(answer *a)
{
    if (a->collect) return;
    end_reasoning(a);
    if (a->text_begun || !a->reasoning_shown) put(a, "\n", 1);
}

void answer_open(answer *a, const cli_options *o)
{
    *a = (answer){ .collect = o->json };
    a->terminal = isatty(STDOUT_FILENO);
    a->colors = terminal_colors(STDOUT_FILENO, cli_color(o));
    a->show_reasoning = strcmp(o->show_thinking, "yes") == 0 ||
                        (strcmp(o->show_thinking, "auto") == 0 && a->terminal);
    bytes_init(&a->reasoning, MAX_COLLECTED);
    bytes_init(&a->text, MAX_COLLECTED);
    answer_begin(a);
}

void answer_close(answer *a)
{
    bytes_free(&a->reasoning);
    bytes_free(&a->text);
}
