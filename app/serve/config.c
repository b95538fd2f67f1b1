#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/status.h"

enum { MAX_FILE_BYTES = 1 << 20 };

static const option *find(const option *table, const char *name)
{
    for (; table->long_name; table++) {
        if (strcmp(table->long_name, name) == 0) return table;
    }
    return NULL;
}

static char *trim(char *s)
{
    while (*s == ' ' || *s == '\t') s++;
    size_t n = strlen(s);
    while (n && strchr(" \t\r", s[n - 1])) s[--n] = 0;
    return s;
}

static bool one_of(const char *s, const char *a, const char *b, const char *c, const char *d)
{
    return !strcmp(s, a) || !strcmp(s, b) || !strcmp(s, c) || !strcmp(s, d);
}

/* `line` becomes "--key=value" in place of `out`, which has room; false: the flag is off. */
static ds4_status flag_of(const option *table, char *line, char *out, size_t room, bool *on, ds4_error *err)
{
    char *sign = strchr(line, '=');
    char *value = NULL;
    if (sign) {
        *sign = 0;
        value = trim(sign + 1);
    }
    const char *key = trim(line);
    const option *o = find(table, key);
    const bool bare = o && (o->kind == OPTION_FLAG || o->kind == OPTION_CALL);
    *on = true;
    if (!*key) return ds4_fail(err, DS4_EARG, "there is no key before the =");
    if (!o) return ds4_fail(err, DS4_EARG, "there is no flag --%s", key);
    if (!value && !bare && !o->optional_value)
        return ds4_fail(err, DS4_EARG, "%s: needs a value: %s = ...", key, key);
    if (strcmp(key, "config") == 0) return ds4_fail(err, DS4_EARG, "a configuration file can not name another");
    if (!value || bare) {
        if (value && one_of(value, "false", "no", "off", "0")) *on = false;
        else if (value && !one_of(value, "true", "yes", "on", "1"))
            return ds4_fail(err, DS4_EARG, "%s: expected true or false, got \"%s\"", key, value);
        snprintf(out, room, "--%s", key);
    } else {
        snprintf(out, room, "--%s=%s", key, value);
    }
    return DS4_OK;
}

ds4_status server_config_read(const char *path, const option *table, char **text, option_list *flags, ds4_error *err)
{
    size_t n;
    char *file = NULL;
    *text = NULL;
    ds4_status st = file_read_all(path, MAX_FILE_BYTES, &file, &n, err);
    if (st) return st;
    if (strlen(file) != n) st = ds4_fail(err, DS4_EARG, "%s: holds a zero byte", path);

    /* Each flag is at most two dashes and a zero longer than its line. */
    size_t lines = 1;
    for (const char *c = file; *c; c++) lines += *c == '\n';
    const size_t room = n + 4 * lines;
    char *out = *text = malloc(room + 1);
    if (!st && !out) st = ds4_fail(err, DS4_EMEMORY, "%s: no memory to read it", path);
    int number = 0;
    for (char *rest = file, *line; !st && rest && *rest;) {
        bool on;
        ds4_error why;
        line = rest;
        rest = strchr(rest, '\n');
        if (rest) *rest++ = 0;
        number++;
        line = trim(line);
        if (!*line || *line == '#') continue;
        if (flag_of(table, line, out, room - (size_t)(out - *text), &on, &why))
            st = ds4_fail(err, DS4_EARG, "%s:%d: %s", path, number, why.message);
        else if (on && !option_list_add(flags, out)) st = ds4_fail(err, DS4_EMEMORY, "%s: no memory to read it", path);
        if (!st && on) out += strlen(out) + 1;
    }
    free(file);
    return st;
}
