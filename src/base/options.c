#include "base/options.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/checked.h"
#include "base/slice.h"
#include "base/status.h"
#include "base/utf8.h"

/* ---- lists ------------------------------------------------------------- */

bool option_list_add(option_list *list, const char *text)
{
    if (list->n == list->cap) {
        if (list->cap > INT_MAX / 2 / (int)sizeof *list->items) return false;
        const int cap = list->cap ? list->cap * 2 : 8;
        const char **items = realloc(list->items, (size_t)cap * sizeof *items);
        if (!items) return false;
        list->items = items;
        list->cap = cap;
    }
    list->items[list->n++] = text;
    return true;
}

void option_list_free(option_list *list)
{
    free(list->items);
    *list = (option_list){ 0 };
}

/* ---- values ------------------------------------------------------------ */

static ds4_status expected(const option *o, const char *what, const char *got, ds4_error *err)
{
    return ds4_fail(err, DS4_EARG, "--%s: expected %s, got \"%s\"", o->long_name, what, got);
}

/* Digits and at most one suffix letter; false when it is anything else or too large. */
static bool parse_whole(const char *text, uint64_t unit, uint64_t *out)
{
    uint64_t v = 0, scale = 1;
    const char *at = text;
    for (; *at >= '0' && *at <= '9'; at++)
        if (!checked_mul_u64(v, 10, &v) || !checked_add_u64(v, (uint64_t)(*at - '0'), &v)) return false;
    if (at == text) return false;

    if (*at && unit > 1) {
        const char *letter = strchr("kKmMgG", *at);
        if (!letter) return false;
        for (int i = (int)(letter - "kKmMgG") / 2; i >= 0; i--) scale *= unit;
        at++;
    }
    return !*at && checked_mul_u64(v, scale, out);
}

static ds4_status take_int(const option *o, const char *text, int least, const char *what, ds4_error *err)
{
    const bool negative = o->kind == OPTION_INT && *text == '-';
    uint64_t v;
    if (!parse_whole(text + negative, o->kind == OPTION_INT ? 1 : 1000, &v) || v > INT_MAX)
        return expected(o, what, text, err);
    if ((int)v < least && !negative) return expected(o, what, text, err);
    *(int *)o->target = negative ? -(int)v : (int)v;
    return DS4_OK;
}

static ds4_status take_u64(const option *o, const char *text, uint64_t unit, const char *what, ds4_error *err)
{
    uint64_t v;
    if (!parse_whole(text, unit, &v)) return expected(o, what, text, err);
    *(uint64_t *)o->target = v;
    return DS4_OK;
}

static ds4_status take_float(const option *o, const char *text, ds4_error *err)
{
    char *end;
    const bool starts_well = *text && strchr("+-.0123456789", *text);
    const float v = starts_well ? strtof(text, &end) : 0;
    if (!starts_well || *end || end == text || !isfinite(v)) return expected(o, "a number", text, err);
    *(float *)o->target = v;
    return DS4_OK;
}

/* The first of "a|b|c"; *list moves behind it. Empty: no more. */
static slice next_choice(const char **list)
{
    const char *start = *list;
    const size_t len = strcspn(start, "|");
    *list = start + len + (start[len] == '|');
    return (slice){ start, len };
}

static ds4_status take_choice(const option *o, const char *text, ds4_error *err)
{
    const char *list = o->choices;
    for (slice c = next_choice(&list); c.len; c = next_choice(&list)) {
        if (!slice_is(c, text)) continue;
        *(const char **)o->target = text;
        return DS4_OK;
    }

    bytes names;
    bytes_init(&names, 256);
    list = o->choices;
    for (slice c = next_choice(&list); c.len; c = next_choice(&list))
        bytes_printf(&names, "%s%.*s", !names.len ? "" : *list ? ", " : " or ", (int)c.len, c.data);
    const ds4_status st = expected(o, names.failed ? o->choices : names.data, text, err);
    bytes_free(&names);
    return st;
}

static ds4_status take_value(const option *o, const char *text, ds4_error *err)
{
    switch (o->kind) {
    case OPTION_COUNT:    return take_int(o, text, 0, "an integer that is not negative", err);
    case OPTION_POSITIVE: return take_int(o, text, 1, "a positive integer", err);
    case OPTION_INT:      return take_int(o, text, 0, "an integer", err);
    case OPTION_U64:      return take_u64(o, text, 1, "an integer that is not negative", err);
    case OPTION_BYTES:    return take_u64(o, text, 1024, "a size such as 512m or 4g", err);
    case OPTION_FLOAT:    return take_float(o, text, err);
    case OPTION_CHOICE:   return take_choice(o, text, err);
    case OPTION_LIST:
        if (!option_list_add(o->target, text))
            return ds4_fail(err, DS4_EMEMORY, "--%s: not enough memory", o->long_name);
        return DS4_OK;
    case OPTION_TEXT:
        *(const char **)o->target = text;
        return DS4_OK;
    case OPTION_FLAG:
    case OPTION_CALL:
        break;
    }
    return ds4_fail(err, DS4_EARG, "--%s: takes no value", o->long_name);
}

static bool needs_value(const option *o)
{
    return o->kind != OPTION_FLAG && o->kind != OPTION_CALL && !o->optional_value;
}

/* What the option's mere presence means. */
static void take_presence(const option *o)
{
    if (o->kind == OPTION_FLAG) *(bool *)o->target = true;
    if (o->kind == OPTION_CALL) *(int *)o->target = o->value;
}

/* ---- did you mean ------------------------------------------------------ */

/* Edits (insert, delete, change, swap of neighbours) from a to b; both are
 * shorter than 32 (optimal string alignment: three rows of the table). */
static int edits(slice a, slice b)
{
    enum { SIDE = 33 };
    int rows[3][SIDE];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= b.len; j++) above[j] = (int)j;
    for (size_t i = 1; i <= a.len; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= b.len; j++) {
            const bool same = a.data[i - 1] == b.data[j - 1];
            row[j] = min_int(min_int(above[j], row[j - 1]) + 1, above[j - 1] + !same);
            if (i > 1 && j > 1 && a.data[i - 1] == b.data[j - 2] && a.data[i - 2] == b.data[j - 1])
                row[j] = min_int(row[j], before[j - 2] + 1);
        }
        int *spare = before;
        before = above;
        above = row;
        row = spare;
    }
    return above[b.len];
}

/* How far a mistyped name is from a real one; cut and lengthened names are near. */
static int distance(slice typed, const char *name)
{
    const slice real = slice_of(name);
    if (typed.len >= 32 || real.len >= 32) return INT_MAX;
    const size_t common = min_size(typed.len, real.len);
    if (common >= 3 && typed.len != real.len && memcmp(typed.data, name, common) == 0) return 1;
    return edits(typed, real);
}

static const char *nearest(const option *table, slice typed)
{
    const char *best = NULL;
    /* One wrong letter in three; of a letter or two nothing can be guessed. */
    int least = typed.len < 3 ? 1 : (int)min_size(typed.len, 32) / 3 + 1;
    for (const option *o = table; o->long_name; o++) {
        const char *names[] = { o->long_name, o->alias };
        for (size_t i = 0; i < countof(names); i++) {
            const int d = names[i] ? distance(typed, names[i]) : INT_MAX;
            if (d >= least) continue;
            least = d;
            best = names[i];
        }
    }
    return best;
}

static ds4_status unknown(const option *table, const char *arg, slice name, ds4_error *err)
{
    const int shown = (int)min_size((size_t)(name.data - arg) + name.len, 100);
    const char *hint = nearest(table, name);
    if (hint) return ds4_fail(err, DS4_EARG, "unknown option %.*s; did you mean --%s?", shown, arg, hint);
    return ds4_fail(err, DS4_EARG, "unknown option %.*s; see --help", shown, arg);
}

/* ---- parsing ----------------------------------------------------------- */

/* "-x", "--long" or either spelling of the alias; dashes and any =V cut off. */
static const option *find(const option *table, slice name, bool long_form)
{
    for (const option *o = table; o->long_name; o++) {
        if (long_form && slice_is(name, o->long_name)) return o;
        if (!long_form && o->short_name && name.len == 1 && name.data[0] == o->short_name) return o;
        if (o->alias && slice_is(name, o->alias)) return o;
    }
    return NULL;
}

/* One option at argv[*i]; its value may be in argv[*i + 1], then *i moves on. */
static ds4_status parse_option(const option *table, int argc, char **argv, int *i, ds4_error *err)
{
    const char *arg = argv[*i];
    const bool long_form = arg[1] == '-';
    const char *start = arg + 1 + long_form;
    const slice name = { start, strcspn(start, "=") };
    const char *value = start[name.len] ? start + name.len + 1 : NULL;

    const option *o = find(table, name, long_form);
    if (!o) return unknown(table, arg, name, err);
    if (!value && needs_value(o)) {
        if (*i + 1 >= argc)
            return ds4_fail(err, DS4_EARG, "--%s: needs a value (%s)", o->long_name,
                            o->value_name ? o->value_name : o->choices ? o->choices : "VALUE");
        value = argv[++*i];
    }
    if (value) {
        const ds4_status st = take_value(o, value, err);
        if (st) return st;
    }
    take_presence(o);
    if (o->seen) *o->seen = true;
    return DS4_OK;
}

static ds4_status operand(const char *arg, option_list *rest, ds4_error *err)
{
    if (!rest) return ds4_fail(err, DS4_EARG, "unexpected argument \"%.100s\"; see --help", arg);
    if (!option_list_add(rest, arg)) return ds4_fail(err, DS4_EMEMORY, "arguments: not enough memory");
    return DS4_OK;
}

ds4_status options_parse(const option *table, int argc, char **argv, option_list *rest, ds4_error *err)
{
    bool options_ended = false;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (!options_ended && strcmp(arg, "--") == 0) {
            options_ended = true;
            continue;
        }
        const bool is_option = !options_ended && arg[0] == '-' && arg[1];   /* "-" is an operand */
        const ds4_status st = is_option ? parse_option(table, argc, argv, &i, err)
                                        : operand(arg, rest, err);
        if (st) return st;
    }
    return DS4_OK;
}

/* ---- help -------------------------------------------------------------- */

enum { HELP_COLUMN = 26, LINE_COLUMNS = 80 };

static int columns(slice s)
{
    int sum = 0;
    for (size_t i = 0; i < s.len;) {
        uint32_t cp;
        i += (size_t)utf8_next(s.data + i, s.len - i, &cp);
        sum += cp == UTF8_INVALID ? 1 : utf8_width(cp);
    }
    return sum;
}

/* "  -t, --threads N" with every spelling. */
static void help_names(const option *o, bytes *out)
{
    if (o->short_name) bytes_printf(out, "  -%c, --%s", o->short_name, o->long_name);
    else               bytes_printf(out, "      --%s", o->long_name);
    if (o->alias) bytes_printf(out, ", -%s", o->alias);

    const char *value = o->value_name ? o->value_name : o->choices;
    if (value && o->optional_value) bytes_printf(out, "[=%s]", value);
    else if (value)                 bytes_printf(out, " %s", value);
}

/* Words of text from column `at` on, later lines begin at HELP_COLUMN. */
static void help_wrapped(const char *text, int at, bytes *out)
{
    bool first = true;
    while (*(text += strspn(text, " "))) {
        const slice word = { text, strcspn(text, " ") };
        const int width = columns(word);
        if (first ? at >= HELP_COLUMN : at + 1 + width > LINE_COLUMNS) {
            bytes_char(out, '\n');
            at = 0;
            first = true;
        }
        if (first) {
            bytes_printf(out, "%*s", HELP_COLUMN - at, "");
            at = HELP_COLUMN;
        } else {
            bytes_char(out, ' ');
            at++;
        }
        bytes_append(out, word.data, word.len);
        at += width;
        first = false;
        text += word.len;
    }
    bytes_char(out, '\n');
}

bool options_help(const option *table, const char *topic, bytes *out)
{
    const char *here = "Options", *shown = NULL;
    for (const option *o = table; o->long_name; o++) {
        if (o->topic) here = o->topic;
        if (topic && strcasecmp(topic, here) != 0) continue;

        if (!shown || strcmp(shown, here) != 0) bytes_printf(out, "%s%s:\n", shown ? "\n" : "", here);
        shown = here;
        const size_t start = out->len;
        help_names(o, out);
        if (out->failed) break;
        help_wrapped(o->help ? o->help : "", columns((slice){ out->data + start, out->len - start }), out);
    }
    return shown || !topic;
}
