#include "api/scrub.h"

#include <regex.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

/* A search costs the rest of its line, so both are bounded. */
enum { LONGEST_LINE = 64 * 1024, MOST_IN_A_LINE = 16 };

typedef struct {
    regex_t regex;
    bool    compiled;
    char   *text;               /* what a match becomes */
} rule;

struct scrub_list {
    rule *rules;
    int   n;
};

void scrub_close(scrub_list *s)
{
    if (!s) return;
    for (int i = 0; i < s->n; i++) {
        if (s->rules[i].compiled) regfree(&s->rules[i].regex);
        free(s->rules[i].text);
    }
    free(s->rules);
    free(s);
}

/* The = between expression and text: the first that no \ stands before. */
static const char *divider(const char *text)
{
    for (; *text; text++) {
        if (*text == '\\' && text[1]) text++;
        else if (*text == '=') return text;
    }
    return NULL;
}

/* \= is only for divider: an expression knows no such escape. */
static void unescape_equals(char *pattern)
{
    char *to = pattern;
    for (const char *from = pattern; *from; from++) {
        if (from[0] == '\\' && from[1] == '=') from++;
        else if (from[0] == '\\' && from[1]) *to++ = *from++;
        *to++ = *from;
    }
    *to = 0;
}

static ds4_status open_rule(rule *r, const char *text, ds4_error *err)
{
    const char *equals = divider(text);
    if (!equals || equals == text) return ds4_fail(err, DS4_EARG, "scrub \"%s\": REGEX=TEXT is expected", text);
    char *pattern = strndup(text, (size_t)(equals - text));
    r->text = strdup(equals + 1);
    if (!pattern || !r->text) {
        free(pattern);
        return ds4_fail(err, DS4_EMEMORY, "scrub: no memory");
    }
    unescape_equals(pattern);
    const int rc = regcomp(&r->regex, pattern, REG_EXTENDED);
    free(pattern);
    r->compiled = rc == 0;
    if (rc == 0) return DS4_OK;
    char why[128];
    regerror(rc, &r->regex, why, sizeof why);
    return ds4_fail(err, DS4_EARG, "scrub \"%s\": %s", text, why);
}

ds4_status scrub_open(scrub_list **out, const char *const *rules, int n, ds4_error *err)
{
    *out = NULL;
    scrub_list *s = calloc(1, sizeof *s);
    if (s) s->rules = calloc(n ? (size_t)n : 1, sizeof *s->rules);
    if (!s || !s->rules) {
        scrub_close(s);
        return ds4_fail(err, DS4_EMEMORY, "scrub: no memory");
    }
    s->n = n;
    for (int i = 0; i < n; i++) {
        const ds4_status st = open_rule(&s->rules[i], rules[i], err);
        if (!st) continue;
        scrub_close(s);
        return st;
    }
    *out = s;
    return DS4_OK;
}

/* One line without its newline. */
static bool apply_to_line(const rule *r, slice line, bytes *out)
{
    size_t at = 0;
    int n = 0;
    while (line.len <= LONGEST_LINE && at < line.len && n < MOST_IN_A_LINE) {
        regmatch_t m = { .rm_so = (regoff_t)at, .rm_eo = (regoff_t)line.len };
        if (regexec(&r->regex, line.data, 1, &m, REG_STARTEND | (at ? REG_NOTBOL : 0)) != 0) break;
        const size_t begin = (size_t)m.rm_so, end = (size_t)m.rm_eo;
        if (end == begin) break;                /* matches nothing: there is nothing to rewrite */
        bytes_append(out, line.data + at, begin - at);
        bytes_text(out, r->text);
        n++;
        at = end;
    }
    if (at < line.len) bytes_append(out, line.data + at, line.len - at);
    return n > 0;
}

static bool apply_rule(const rule *r, slice text, bytes *out)
{
    bool changed = false;
    for (size_t at = 0; at < text.len;) {
        const char *newline = memchr(text.data + at, '\n', text.len - at);
        const size_t end = newline ? (size_t)(newline - text.data) : text.len;
        changed |= apply_to_line(r, (slice){ text.data + at, end - at }, out);
        if (newline) bytes_char(out, '\n');
        at = end + (newline != NULL);
    }
    return changed;
}

bool scrub_apply(const scrub_list *s, slice text, bytes *out)
{
    bytes now, next;
    bool changed = false;
    bytes_init(&now, SIZE_MAX);
    bytes_init(&next, SIZE_MAX);
    bytes_append(&now, text.data, text.len);
    for (int i = 0; i < s->n; i++) {
        bytes_clear(&next);
        if (!apply_rule(&s->rules[i], (slice){ now.data, now.len }, &next)) continue;
        const bytes old = now;
        now = next;
        next = old;
        changed = true;
    }
    if (now.failed || next.failed) out->failed = true;
    bytes_append(out, now.data, now.len);
    bytes_free(&now);
    bytes_free(&next);
    return changed && !out->failed;
}
