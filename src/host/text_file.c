#include "host/text_file.h"

#include <stdio.h>
#include <string.h>

static FILE *open_below(const char *root, const char *path)
{
    char whole[1024];
    if (snprintf(whole, sizeof whole, "%s%s", root, path) >= (int)sizeof whole) return NULL;
    return fopen(whole, "re");
}

bool text_file_line(const char *root, const char *path, char *out, size_t size)
{
    FILE *f = open_below(root, path);
    if (!f) return false;
    const bool read = fgets(out, (int)size, f) != NULL;
    fclose(f);
    if (read) out[strcspn(out, "\n")] = 0;
    return read && *out;
}

bool text_file_field(const char *root, const char *path, const char *key, char *out, size_t size)
{
    FILE *f = open_below(root, path);
    if (!f) return false;
    char line[1024];
    bool found = false;
    const size_t n = strlen(key);
    while (!found && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, n)) continue;
        const char *value = line + n + strspn(line + n, " \t:");
        snprintf(out, size, "%.*s", (int)strcspn(value, "\n"), value);
        found = true;
    }
    fclose(f);
    return found;
}
