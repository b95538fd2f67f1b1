#include "printer.h"

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

static void put(printer *p, const char *data, size_t n)
{
    if (!n || p->write_error) return;
    p->last = data[n - 1];
    if (!p->terminal) {
        p->write_error = output_write(data, n);
        return;
    }
    bytes shown;
    bytes_init(&shown, 8 * n + 16);
    terminal_append_visible(&shown, data, n);
    p->write_error = shown.failed ? ENOMEM : output_write(shown.data, shown.len);
    bytes_free(&shown);
}

static void style(printer *p, terminal_style s)
{
    const char *code = terminal_style_code(s);
    terminal_note_style(STDOUT_FILENO, s);
    if (!p->write_error) p->write_error = output_write(code, strlen(code));
}

/* ---- reasoning -------------------------------------------------------------- */

static void begin_reasoning(printer *p)
{
    if (p->in_reasoning) return;
    if (p->text_begun && p->last != '\n') put(p, "\n", 1);
    if (p->colors) style(p, STYLE_DIM);
    else           put(p, "[thinking]\n", 11);
    p->in_reasoning = p->reasoning_shown = true;
}

static void end_reasoning(printer *p)
{
    if (!p->in_reasoning) return;
    p->in_reasoning = false;
    if (p->last != '\n') put(p, "\n", 1);
    if (p->colors) style(p, STYLE_NONE);
    if (p->colors) put(p, "\n", 1);
    else           put(p, "[/thinking]\n", 12);
}

/* ---- text ------------------------------------------------------------------- */

/* Newlines wait until something follows, so that those at the end are dropped. */
static void put_text(printer *p, const char *data, size_t n)
{
    while (n) {
        size_t text = 0;
        while (text < n && data[text] != '\n') text++;
        if (text) {
            /* Behind shown reasoning there is a line break already. */
            if (p->reasoning_shown && !p->text_begun) p->newlines = 0;
            for (; p->newlines; p->newlines--) put(p, "\n", 1);
            put(p, data, text);
            p->text_begun = true;
        }
        if (text < n) p->newlines++, text++;
        data += text;
        n -= text;
    }
}

void printer_write(printer *p, printer_section section, const char *data, size_t n)
{
    if (!n) return;
    if (p->collect) {
        bytes_append(section == PRINT_TEXT ? &p->text : &p->reasoning, data, n);
    } else if (section == PRINT_TEXT) {
        end_reasoning(p);
        put_text(p, data, n);
    } else if (p->show_reasoning) {
        begin_reasoning(p);
        put(p, data, n);
    }
}

void printer_begin(printer *p)
{
    p->in_reasoning = p->reasoning_shown = p->text_begun = false;
    p->newlines = 0;
    p->last = '\n';
    bytes_clear(&p->reasoning);
    bytes_clear(&p->text);
}

void printer_end(printer *p)
{
    if (p->collect) return;
    end_reasoning(p);
    if (p->text_begun || !p->reasoning_shown) put(p, "\n", 1);
}

void printer_open(printer *p, const cli_options *o)
{
    *p = (printer){ .collect = o->json };
    p->terminal = isatty(STDOUT_FILENO);
    p->colors = terminal_colors(STDOUT_FILENO, console_flags_color(&o->say));
    p->show_reasoning = strcmp(o->show_thinking, "yes") == 0 ||
                        (strcmp(o->show_thinking, "auto") == 0 && p->terminal);
    bytes_init(&p->reasoning, MAX_COLLECTED);
    bytes_init(&p->text, MAX_COLLECTED);
    printer_begin(p);
}

void printer_close(printer *p)
{
    bytes_free(&p->reasoning);
    bytes_free(&p->text);
}
