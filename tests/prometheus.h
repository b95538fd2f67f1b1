/* prometheus: reads a page of metrics as a strict scraper does (text format 0.0.4), for tests.
 *
 * Each family is announced once, HELP before TYPE before its samples, and stands in one piece; no series comes twice;
 * counters end with _total; buckets ascend, are cumulative, and end with +Inf, which is the count. */
#ifndef TESTS_PROMETHEUS_H
#define TESTS_PROMETHEUS_H

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

enum { PROM_SAMPLES = 2048, PROM_FAMILIES = 256 };

typedef struct {
    char   series[300];         /* name{labels} as they stand */
    double value;
} prom_sample;

typedef struct {
    char        text[96];
    const char *type;           /* NULL: only HELP yet */
} prom_family;

typedef struct {
    prom_sample  samples[PROM_SAMPLES];
    prom_family  families[PROM_FAMILIES];
    int          n, n_families;
    char         buckets[300];              /* the histogram that is open: its labels without le */
    double       bound, below;
    const char  *why;                       /* NULL: all is well so far */
} prom_page;

static size_t prom_name(const char *s)
{
    size_t n = 0;
    while (isalpha((unsigned char)s[n]) || s[n] == '_' || s[n] == ':' || (n && isdigit((unsigned char)s[n]))) n++;
    return n;
}

/* "# HELP name words" or "# TYPE name type". */
static const char *prom_announce(prom_page *p, const char *line)
{
    static const char *const types[] = { "counter", "gauge", "histogram" };
    const bool help = strncmp(line, "# HELP ", 7) == 0;
    if (!help && strncmp(line, "# TYPE ", 7) != 0) return "a comment that is neither HELP nor TYPE";
    const char *name = line + 7;
    const size_t n = prom_name(name);
    if (n == 0 || n >= sizeof p->families[0].text || name[n] != ' ' || !name[n + 1])
        return "no name, or nothing behind it";
    prom_family *last = p->n_families ? &p->families[p->n_families - 1] : NULL;
    if (help) {
        for (int i = 0; i < p->n_families; i++)
            if (strlen(p->families[i].text) == n && !memcmp(p->families[i].text, name, n)) return "HELP comes twice";
        if (p->n_families == PROM_FAMILIES) return "too many families for this test";
        snprintf(p->families[p->n_families++].text, sizeof last->text, "%.*s", (int)n, name);
        return NULL;
    }
    if (!last || last->type || strlen(last->text) != n || memcmp(last->text, name, n))
        return "TYPE is not behind its HELP";
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(name + n + 1, types[i]) == 0) last->type = types[i];
    if (!last->type) return "an unknown type";
    const bool total = n > 6 && !memcmp(name + n - 6, "_total", 6);
    return total || strcmp(last->type, "counter") != 0 ? NULL : "a counter without _total";
}

/* {a="b",c="d"}; *le: the value of that label; `rest` becomes the labels without it. NULL: not in order. */
static const char *prom_labels(const char *s, char *rest, size_t room, double *le)
{
    bool model = false;
    *le = -1;
    rest[0] = 0;
    if (*s++ != '{') return NULL;
    for (;;) {
        const char *name = s;
        const size_t n = prom_name(s);
        if (n == 0 || memchr(s, ':', n) || s[n] != '=' || s[n + 1] != '"') return NULL;
        for (s += n + 2; *s && *s != '"'; s++)
            if (*s == '\\' && !strchr("\\\"n", *++s)) return NULL;
        if (*s != '"') return NULL;
        model |= n == 10 && !memcmp(name, "model_name", 10);
        if (n == 2 && !memcmp(name, "le", 2)) *le = strncmp(name + 4, "+Inf", 4) ? strtod(name + 4, NULL) : INFINITY;
        else snprintf(rest + strlen(rest), room - strlen(rest), "%.*s,", (int)(s + 1 - name), name);
        if (*++s == '}') return model ? s + 1 : NULL;
        if (*s++ != ',') return NULL;
    }
}

/* A line of a histogram's: name_bucket, name_sum or name_count. */
static const char *prom_bucket(prom_page *p, const char *suffix, const char *labels, double le, double v)
{
    const bool same = strcmp(p->buckets, labels) == 0;
    if (strcmp(suffix, "_bucket") == 0) {
        if (!same && p->buckets[0]) return "the histogram before has no count";
        if (le < 0) return "a bucket without le";
        if (same && (le <= p->bound || v < p->below)) return "buckets do not ascend";
        snprintf(p->buckets, sizeof p->buckets, "%s", labels);
        p->bound = le;
        p->below = v;
        return NULL;
    }
    if (!same || p->bound != (double)INFINITY) return "the last bucket is not +Inf";
    if (strcmp(suffix, "_sum") == 0) return NULL;
    if (strcmp(suffix, "_count") != 0) return "a name that no histogram has";
    p->buckets[0] = 0;
    return v == p->below ? NULL : "the count is not that of +Inf";
}

static const char *prom_line(prom_page *p, const char *line)
{
    char labels[300], suffix[16];
    double le;
    char *end;
    if (*line == '#') return prom_announce(p, line);
    const prom_family *f = p->n_families ? &p->families[p->n_families - 1] : NULL;
    const size_t n = prom_name(line), m = f ? strlen(f->text) : 0;
    if (!f || !f->type) return "a sample without HELP and TYPE";
    if (n < m || n - m >= sizeof suffix || memcmp(line, f->text, m)) return "a sample outside its family";
    const char *at = prom_labels(line + n, labels, sizeof labels, &le);
    if (!at || *at != ' ') return "labels are not in order";
    const double v = strtod(at + 1, &end);
    if (end == at + 1 || *end || !isfinite(v) || v < 0) return "no value";
    if (p->n == PROM_SAMPLES || (size_t)(at - line) >= sizeof p->samples[0].series) return "too much for this test";
    prom_sample *s = &p->samples[p->n++];
    snprintf(s->series, sizeof s->series, "%.*s", (int)(at - line), line);
    s->value = v;
    for (int i = 0; i < p->n - 1; i++)
        if (strcmp(p->samples[i].series, s->series) == 0) return "a series comes twice";
    snprintf(suffix, sizeof suffix, "%.*s", (int)(n - m), line + m);
    if (strcmp(f->type, "histogram") == 0) return prom_bucket(p, suffix, labels, le, v);
    return suffix[0] ? "a sample outside its family" : le >= 0 ? "le outside a histogram" : NULL;
}

/* The whole page; NULL, or what is wrong with it: "line: why". */
static const char *prom_read(prom_page *p, const char *text)
{
    static char said[700];
    memset(p, 0, sizeof *p);
    while (*text) {
        char line[600];
        const char *end = strchr(text, '\n');
        if (!end) return "the last line has no end";
        snprintf(line, sizeof line, "%.*s", (int)(end - text), text);
        const char *why = prom_line(p, line);
        if (why) {
            snprintf(said, sizeof said, "%s: %s", line, why);
            return said;
        }
        text = end + 1;
    }
    return p->buckets[0] ? "the last histogram has no count" : NULL;
}

/* Of the only series whose text begins with `name` and holds `label`; -1: there is none. */
static double prom_value(const prom_page *p, const char *name, const char *label)
{
    const size_t n = strlen(name);
    for (int i = 0; i < p->n; i++) {
        const char *s = p->samples[i].series;
        if (!memcmp(s, name, n) && s[n] == '{' && strstr(s, label)) return p->samples[i].value;
    }
    return -1;
}

#endif
