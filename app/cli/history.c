#include "history.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"

#define MAX_FILE_BYTES ((size_t)16 << 20)

/* ---- entries ------------------------------------------------------------------ */

static void append_escaped(bytes *out, const char *line)
{
    for (; *line; line++) {
        if (*line == '\n')      bytes_text(out, "\\n");
        else if (*line == '\\') bytes_text(out, "\\\\");
        else                    bytes_char(out, *line);
    }
    bytes_char(out, '\n');
}

/* In place; text is NUL-terminated. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *at = text; *at; at++) {
        if (*at == '\\' && at[1]) {
            at++;
            *to++ = *at == 'n' ? '\n' : *at;
        } else {
            *to++ = *at;
        }
    }
    *to = 0;
}

static void remember(line_history *h, const char *line)
{
    HistEvent ev;
    history(h->list, &ev, H_ENTER, line);
    free(h->last);
    h->last = strdup(line);
}

/* ---- the file ----------------------------------------------------------------- */

static char *history_path(void)
{
    const char *named = getenv("DS4_HISTORY"), *home = getenv("HOME");
    if (named) return *named ? strdup(named) : NULL;
    if (!home || !*home) return NULL;
    bytes b;
    bytes_init(&b, 4096);
    bytes_printf(&b, "%s/.ds4_history", home);
    return bytes_take(&b);
}

/* Old entries beyond the limit leave the file; written beside it and renamed. */
static void rewrite(const char *path, const char *from)
{
    file_replace f;
    if (file_replace_open(&f, path, true, NULL)) return;
    fchmod(f.fd, 0600);
    if (file_write_all(f.fd, from, strlen(from), path, NULL)) file_replace_abort(&f);
    else file_replace_commit(&f, NULL);
}

static char *skip_surplus(char *text)
{
    size_t lines = 0;
    for (const char *at = text; *at; at++) lines += *at == '\n';
    for (; lines > HISTORY_MAX; lines--) text = strchr(text, '\n') + 1;
    return text;
}

static void load(line_history *h)
{
    char *text;
    size_t n;
    if (file_read_all(h->path, MAX_FILE_BYTES, &text, &n, NULL)) return;
    chmod(h->path, 0600);
    char *start = skip_surplus(text);
    if (start != text) rewrite(h->path, start);
    for (char *line = strtok(start, "\n"); line; line = strtok(NULL, "\n")) {
        unescape(line);
        remember(h, line);
    }
    free(text);
}

static void append(const char *path, const char *line)
{
    bytes b;
    bytes_init(&b, MAX_FILE_BYTES);
    append_escaped(&b, line);
    const int fd = b.failed ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        file_write_all(fd, b.data, b.len, path, NULL);
        close(fd);
    }
    bytes_free(&b);
}

/* ---- contract ----------------------------------------------------------------- */

void history_open(line_history *h)
{
    HistEvent ev;
    *h = (line_history){ .path = history_path(), .list = history_init() };
    if (!h->list) return;
    history(h->list, &ev, H_SETSIZE, HISTORY_MAX);
    if (h->path) load(h);
}

void history_close(line_history *h)
{
    if (h->list) history_end(h->list);
    free(h->path);
    free(h->last);
    *h = (line_history){ 0 };
}

void history_add(line_history *h, const char *line)
{
    if (!h->list || !*line || *line == ' ' || *line == '\t') return;
    if (h->last && strcmp(h->last, line) == 0) return;
    remember(h, line);
    if (h->path) append(h->path, line);
}
