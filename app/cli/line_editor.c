#include "line_editor.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "../terminal.h"
#include "base/bytes.h"
#include "base/checked.h"
#include "base/utf8.h"
#include "complete.h"
#include "signals.h"

#define PROMPT      "ds4>"
#define CONTINUED   "...>"
#define PASTE_ON    "\033[?2004h"
#define PASTE_OFF   "\033[?2004l"
#define PASTE_END   L"\033[201~"

enum { MAX_LINE_BYTES = 64 << 20, POLL_MS = 200 };

struct line_editor {
    EditLine           *el;
    FILE               *out;
    bool                smart, continued, interrupted, was_empty;
    char                prompt[2][48];      /* first line, continuation */
    command_name_fn    *command;
    char                input[64];          /* bytes read and not yet given to libedit */
    size_t              n_input;
};

/* ---- signals while reading ---------------------------------------------------- */

static volatile sig_atomic_t resized, stopped;

static void on_resize(int sig) { (void)sig; resized = 1; }
static void on_stop(int sig)   { (void)sig; stopped = 1; }

static void listen_to(int sig, void (*handler)(int))
{
    struct sigaction act = { .sa_handler = handler };
    sigemptyset(&act.sa_mask);
    sigaction(sig, &act, NULL);
}

static void paste_mode(line_editor *e, bool on)
{
    if (!e->smart) return;
    fputs(on ? PASTE_ON : PASTE_OFF, e->out);
    fflush(e->out);
    terminal_note_paste_mode(fileno(e->out), on);
}

/* Ctrl-Z: hand the terminal back, sleep, take it again. */
static void stop_and_continue(line_editor *e)
{
    stopped = 0;
    paste_mode(e, false);
    el_set(e->el, EL_PREP_TERM, 0);
    listen_to(SIGTSTP, SIG_DFL);
    raise(SIGTSTP);
    listen_to(SIGTSTP, on_stop);
    el_set(e->el, EL_PREP_TERM, 1);
    paste_mode(e, true);
    el_set(e->el, EL_REFRESH);
}

static void redraw_resized(line_editor *e)
{
    resized = 0;
    el_resize(e->el);
    el_set(e->el, EL_REFRESH);
}

/* ---- characters ----------------------------------------------------------------- */

/* Blocks until input is there, dealing with signals. The poll has a limit because
 * the system may hand a signal to another thread. false: interrupted or ended. */
static bool fill_input(line_editor *e)
{
    for (;;) {
        if (signals_interrupted()) {
            const LineInfoW *li = el_wline(e->el);
            e->interrupted = true;
            e->was_empty = li->lastchar == li->buffer;
            return false;
        }
        if (stopped) stop_and_continue(e);
        if (resized) redraw_resized(e);

        struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
        const int ready = poll(&in, 1, POLL_MS);
        if (ready < 0 && errno != EINTR) return false;
        if (ready <= 0) continue;
        const ssize_t got = read(STDIN_FILENO, e->input + e->n_input, sizeof e->input - e->n_input);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got <= 0) return false;
        e->n_input += (size_t)got;
        return true;
    }
}

/* libedit's reader: one character from UTF-8; what is not UTF-8 becomes U+FFFD. */
static int read_character(EditLine *el, wchar_t *out)
{
    line_editor *e;
    uint32_t cp;
    el_get(el, EL_CLIENTDATA, &e);
    if (!e->n_input && !fill_input(e)) return e->interrupted ? -1 : 0;
    while (e->n_input < 4 && (size_t)utf8_pending(e->input, e->n_input) == e->n_input)
        if (!fill_input(e)) return e->interrupted ? -1 : 0;

    const int len = utf8_next(e->input, e->n_input, &cp);
    *out = cp == UTF8_INVALID ? 0xFFFD : (wchar_t)cp;
    e->n_input -= (size_t)len;
    memmove(e->input, e->input + len, e->n_input);
    return 1;
}

/* ---- keys ----------------------------------------------------------------------- */

static unsigned char key_newline(EditLine *el, int ch)
{
    (void)ch;
    return el_winsertstr(el, L"\n") ? CC_ERROR : CC_REFRESH;
}

/* Terminals send the line breaks of a paste as CR, LF or both; here they arrive
 * as the line discipline changed them. One break, one newline. */
static size_t normalise_breaks(wchar_t *text, size_t n)
{
    size_t to = 0;
    for (size_t i = 0; i < n; i++) {
        wchar_t c = text[i];
        if (c == L'\r' || c == L'\n') {
            if (i + 1 < n && (text[i + 1] == L'\r' || text[i + 1] == L'\n') && text[i + 1] != c) i++;
            c = L'\n';
        }
        if (c) text[to++] = c;
    }
    text[to] = 0;
    return to;
}

/* Everything up to the end mark goes into the line as it is. */
static unsigned char key_paste(EditLine *el, int ch)
{
    const size_t mark = wcslen(PASTE_END);
    wchar_t *text = NULL;
    size_t n = 0, cap = 0;
    (void)ch;
    while (n < mark || wmemcmp(text + n - mark, PASTE_END, mark) != 0) {
        if (n + 2 > cap) {
            const size_t more = cap ? 2 * cap : 256;
            wchar_t *bigger = more < MAX_LINE_BYTES ? realloc(text, more * sizeof *text) : NULL;
            if (!bigger) break;
            text = bigger;
            cap = more;
        }
        if (el_wgetc(el, &text[n]) != 1) {
            free(text);
            return CC_EOF;
        }
        n++;
    }
    unsigned char result = CC_ERROR;
    if (n >= mark) {
        normalise_breaks(text, n - mark);
        result = !*text || el_winsertstr(el, text) == 0 ? CC_REFRESH : CC_ERROR;
    }
    free(text);
    return result;
}

static void list_candidates(line_editor *e, const completions *c)
{
    fputc('\n', e->out);
    for (size_t i = 0; i < c->n; i++) fprintf(e->out, "%s%s", i ? "  " : "", c->items[i]);
    fputc('\n', e->out);
    fflush(e->out);
}

/* Adds what all candidates share; a second Tab lists them. */
static unsigned char key_complete(EditLine *el, int ch)
{
    line_editor *e;
    completions c;
    unsigned char result = CC_ERROR;
    const LineInfo *li = el_line(el);
    char *line = strndup(li->buffer, (size_t)(li->cursor - li->buffer));
    (void)ch;
    el_get(el, EL_CLIENTDATA, &e);
    if (!line) return CC_ERROR;

    complete_line(&c, line, e->command);
    const size_t typed = strlen(line) - c.word, common = completions_common(&c);
    if (c.n && common > typed) {
        char *rest = strndup(c.items[0] + typed, common - typed);
        if (rest && el_insertstr(el, rest) == 0) result = CC_REFRESH;
        free(rest);
    } else if (c.n > 1) {
        list_candidates(e, &c);
        result = CC_REDISPLAY;
    }
    if (c.n == 1 && c.after && el_insertstr(el, " ") == 0) result = CC_REFRESH;
    completions_free(&c);
    free(line);
    return result;
}

static void bind_keys(EditLine *el)
{
    static const char *const keys[][2] = {
        { "^I", "ds4-complete" },           { "\033[200~", "ds4-paste" },
        { "\033\n", "ds4-newline" },        { "\033\r", "ds4-newline" },
        { "^R", "em-inc-search-prev" },     { "^W", "ed-delete-prev-word" },
        { "^U", "vi-kill-line-prev" },      { "^L", "ed-clear-screen" },
        { "^P", "ed-prev-history" },        { "^N", "ed-next-history" },
        { "\033[A", "ed-prev-history" },    { "\033OA", "ed-prev-history" },
        { "\033[B", "ed-next-history" },    { "\033OB", "ed-next-history" },
        { "\033[C", "ed-next-char" },       { "\033OC", "ed-next-char" },
        { "\033[D", "ed-prev-char" },       { "\033OD", "ed-prev-char" },
        { "\033[H", "ed-move-to-beg" },     { "\033OH", "ed-move-to-beg" },
        { "\033[1~", "ed-move-to-beg" },    { "\033[7~", "ed-move-to-beg" },
        { "\033[F", "ed-move-to-end" },     { "\033OF", "ed-move-to-end" },
        { "\033[4~", "ed-move-to-end" },    { "\033[8~", "ed-move-to-end" },
        { "\033[3~", "ed-delete-next-char" },
        { "\033[1;5C", "em-next-word" },    { "\033[1;5D", "ed-prev-word" },
    };
    /* Wide, since libedit keeps these pointers; of narrow ones it would keep (and
     * never free) copies. */
    el_wset(el, EL_ADDFN, L"ds4-complete", L"complete a command or a file name", key_complete);
    el_wset(el, EL_ADDFN, L"ds4-paste", L"insert a bracketed paste", key_paste);
    el_wset(el, EL_ADDFN, L"ds4-newline", L"insert a newline", key_newline);
    for (size_t i = 0; i < countof(keys); i++) el_set(el, EL_BIND, keys[i][0], keys[i][1], NULL);
}

/* ---- opening -------------------------------------------------------------------- */

/* libedit goes by the locale; ours is UTF-8 whatever the environment says. */
static void use_utf8(void)
{
    static const char *const names[] = { "C.UTF-8", "en_US.UTF-8", "UTF-8" };
    setlocale(LC_CTYPE, "");
    for (size_t i = 0; i < countof(names) && strcmp(nl_langinfo(CODESET), "UTF-8") != 0; i++)
        setlocale(LC_CTYPE, names[i]);
}

static char *prompt_of(EditLine *el)
{
    line_editor *e;
    el_get(el, EL_CLIENTDATA, &e);
    return e->prompt[e->continued];
}

/* \1 tells libedit that what is between takes no columns; such a piece is written
 * together with the character behind it, so the blank comes last. */
static void make_prompt(char out[48], const char *text, bool colors)
{
    if (colors) snprintf(out, 48, "\1\033[1m\1%s\1\033[0m\1 ", text);
    else        snprintf(out, 48, "%s ", text);
}

line_editor *line_editor_open(bool colors, line_history *h, command_name_fn *command)
{
    line_editor *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    use_utf8();
    /* Prompts are no part of the answer: stderr, unless only stdout is there to see. */
    e->out = isatty(STDERR_FILENO) || !isatty(STDOUT_FILENO) ? stderr : stdout;
    e->smart = terminal_is_smart(fileno(e->out));
    e->command = command;
    make_prompt(e->prompt[0], PROMPT, colors);
    make_prompt(e->prompt[1], CONTINUED, colors);

    e->el = el_init("ds4", stdin, e->out, stderr);
    if (!e->el) {
        free(e);
        return NULL;
    }
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_SIGNAL, 0);
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_PROMPT_ESC, prompt_of, '\1');
    if (h->list) el_set(e->el, EL_HIST, history, h->list);
    el_wset(e->el, EL_GETCFN, read_character);
    bind_keys(e->el);
    return e;
}

void line_editor_close(line_editor *e)
{
    if (!e) return;
    el_end(e->el);
    free(e);
}

/* ---- reading -------------------------------------------------------------------- */

/* One line of the editor behind what is already there; *more: it continues. */
static line_result read_line(line_editor *e, bytes *line, bool *more)
{
    int n = 0;
    const char *got = el_gets(e->el, &n);
    *more = false;
    if (e->interrupted) e->n_input = 0;     /* typed before it, as the terminal's own queue */
    if (e->interrupted) return e->was_empty && !line->len ? LINE_INTERRUPTED_EMPTY : LINE_INTERRUPTED;
    if (!got || n <= 0) return LINE_END;
    if (got[n - 1] == '\n') n--;
    if (n && got[n - 1] == '\\') {
        *more = true;
        n--;
    }
    bytes_append(line, got, (size_t)n);
    if (*more) bytes_char(line, '\n');
    return LINE_OK;
}

line_result line_editor_read(line_editor *e, char **out)
{
    bytes line;
    bool more;
    line_result result;
    struct sigaction old_stop, old_resize;
    sigaction(SIGTSTP, NULL, &old_stop);
    sigaction(SIGWINCH, NULL, &old_resize);
    listen_to(SIGTSTP, on_stop);
    listen_to(SIGWINCH, on_resize);
    terminal_note_editing(true);

    bytes_init(&line, MAX_LINE_BYTES);
    e->continued = e->interrupted = false;
    do {
        el_resize(e->el);       /* the window may have changed while nobody looked */
        /* libedit shows the prompt first; keys of somebody quicker than that would
         * be echoed twice, and Ctrl-D lost. */
        el_set(e->el, EL_PREP_TERM, 1);
        paste_mode(e, true);
        result = read_line(e, &line, &more);
        paste_mode(e, false);
        e->continued = more;
    } while (result == LINE_OK && more);

    terminal_note_editing(false);
    sigaction(SIGTSTP, &old_stop, NULL);
    sigaction(SIGWINCH, &old_resize, NULL);

    if (result == LINE_OK) bytes_append(&line, "", 0);
    *out = result == LINE_OK ? bytes_take(&line) : NULL;
    if (result == LINE_OK && !*out) result = LINE_END;
    bytes_free(&line);
    return result;
}
