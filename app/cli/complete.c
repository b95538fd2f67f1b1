#include "complete.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/checked.h"

enum { MAX_ITEMS = 4096 };

static void add(completions *c, char *item)
{
    char **items = item && c->n < MAX_ITEMS ? realloc(c->items, (c->n + 1) * sizeof *items) : NULL;
    if (!items) {
        free(item);
        return;
    }
    c->items = items;
    c->items[c->n++] = item;
}

static char *join(const char *head, size_t n, const char *tail, const char *end)
{
    bytes b;
    bytes_init(&b, 8192);
    bytes_append(&b, head, n);
    bytes_text(&b, tail);
    bytes_text(&b, end);
    return bytes_take(&b);
}

static void add_commands(completions *c, const char *word, command_name_fn *command)
{
    const size_t n = strlen(word);
    c->after = ' ';
    for (size_t i = 0; command(i); i++)
        if (strncmp(command(i), word + 1, n - 1) == 0) add(c, join("/", 1, command(i), ""));
}

static bool is_folder(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* Hidden files only when the word asks for them. */
static void add_files(completions *c, const char *word)
{
    const char *slash = strrchr(word, '/');
    const char *name = slash ? slash + 1 : word;
    const size_t head = (size_t)(name - word);
    char *folder = head ? join(word, head, "", "") : strdup(".");
    DIR *dir = folder ? opendir(folder) : NULL;

    for (struct dirent *e; dir && (e = readdir(dir)); ) {
        if (strncmp(e->d_name, name, strlen(name)) != 0) continue;
        if (e->d_name[0] == '.' && name[0] != '.') continue;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        char *path = join(word, head, e->d_name, "");
        if (path && is_folder(path)) {
            free(path);
            path = join(word, head, e->d_name, "/");
        }
        add(c, path);
    }
    if (dir) closedir(dir);
    free(folder);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void complete_line(completions *c, const char *line, command_name_fn *command)
{
    static const char *const with_file[] = { "/read ", "/save ", "/load " };
    *c = (completions){ 0 };
    if (*line != '/') return;
    if (!strchr(line, ' ')) {
        add_commands(c, line, command);
    } else {
        for (size_t i = 0; i < countof(with_file); i++) {
            const size_t n = strlen(with_file[i]);
            if (strncmp(line, with_file[i], n) != 0) continue;
            c->word = n;
            add_files(c, line + n);
        }
    }
    if (c->n) qsort(c->items, c->n, sizeof *c->items, by_name);
}

void completions_free(completions *c)
{
    for (size_t i = 0; i < c->n; i++) free(c->items[i]);
    free(c->items);
    *c = (completions){ 0 };
}

size_t completions_common(const completions *c)
{
    if (!c->n) return 0;
    size_t n = strlen(c->items[0]);
    for (size_t i = 1; i < c->n; i++) {
        size_t k = 0;
        while (k < n && c->items[i][k] == c->items[0][k]) k++;
        n = k;
    }
    return n;
}
