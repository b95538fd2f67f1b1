#include "text/stop_filter.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "base/utf8.h"

/* One string as the automaton of Knuth, Morris and Pratt (1977). */
typedef struct {
    char *text;                 /* owned, [len]                                         */
    int   len;
    int  *fall;                 /* owned, [len]: where to go on when byte i mismatches  */
    int   seen;                 /* bytes at the end of the output that begin this string */
} pattern;

struct stop_filter {
    pattern patterns[STOPS_MAX];
    int     n;
    char    held[STOPS_MAX_BYTES];      /* the longest half-seen string */
    size_t  n_held;
    int     hit;                        /* -1: not yet */
};

static ds4_status take(pattern *p, slice text, ds4_error *err)
{
    if (text.len == 0 || text.len > STOPS_MAX_BYTES || !utf8_valid(text.data, text.len)) {
        return ds4_fail(err, DS4_EARG, "a stop string must be valid UTF-8 of 1 to %d bytes", STOPS_MAX_BYTES);
    }
    p->len = (int)text.len;
    p->text = malloc(text.len);
    p->fall = malloc(text.len * sizeof *p->fall);
    if (!p->text || !p->fall) return ds4_fail(err, DS4_EMEMORY, "no memory for a stop string");

    memcpy(p->text, text.data, text.len);
    p->fall[0] = -1;
    for (int i = 1, k = -1; i < p->len; i++) {
        while (k >= 0 && p->text[k] != p->text[i - 1]) k = p->fall[k];
        p->fall[i] = ++k;
    }
    return DS4_OK;
}

ds4_status stop_filter_open(stop_filter **out, const slice *strings, int n, ds4_error *err)
{
    *out = NULL;
    if (n < 0 || n > STOPS_MAX) return ds4_fail(err, DS4_EARG, "%d stop strings; %d are the most", n, STOPS_MAX);
    stop_filter *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for stop strings");
    s->hit = -1;
    while (s->n < n) {
        const ds4_status st = take(&s->patterns[s->n], strings[s->n], err);
        s->n++;
        if (!st) continue;
        stop_filter_close(s);
        return st;
    }
    *out = s;
    return DS4_OK;
}

void stop_filter_close(stop_filter *s)
{
    if (!s) return;
    for (int i = 0; i < s->n; i++) {
        free(s->patterns[i].text);
        free(s->patterns[i].fall);
    }
    free(s);
}

/* Feeds a byte; true when it completes the string. */
static bool advance(pattern *p, char byte)
{
    while (p->seen >= 0 && p->text[p->seen] != byte) p->seen = p->fall[p->seen];
    return ++p->seen == p->len;
}

static void push_byte(stop_filter *s, char byte, bytes *out)
{
    int longest = 0, hit = -1;
    for (int i = 0; i < s->n; i++) {
        pattern *p = &s->patterns[i];
        if (advance(p, byte) && (hit < 0 || p->len > s->patterns[hit].len)) hit = i;
        if (p->seen > longest) longest = p->seen;
    }
    if (hit >= 0) {
        bytes_append(out, s->held, s->n_held + 1 - (size_t)s->patterns[hit].len);
        s->n_held = 0;
        s->hit = hit;
        return;
    }
    if (longest == 0 && s->n_held == 0) {
        bytes_char(out, byte);
        return;
    }
    /* What no half-seen string covers any more can go. */
    const size_t gone = s->n_held + 1 - (size_t)longest;
    s->held[s->n_held++] = byte;
    bytes_append(out, s->held, gone);
    s->n_held -= gone;
    memmove(s->held, s->held + gone, s->n_held);
}

void stop_filter_push(stop_filter *s, slice text, bytes *out)
{
    if (s->n == 0) {
        bytes_append(out, text.data, text.len);
        return;
    }
    for (size_t i = 0; i < text.len && s->hit < 0; i++) push_byte(s, text.data[i], out);
}

void stop_filter_release(stop_filter *s, bytes *out)
{
    bytes_append(out, s->held, s->n_held);
    s->n_held = 0;
    for (int i = 0; i < s->n; i++) s->patterns[i].seen = 0;
}

void stop_filter_reset(stop_filter *s)
{
    s->hit = -1;
    s->n_held = 0;
    for (int i = 0; i < s->n; i++) s->patterns[i].seen = 0;
}

int stop_filter_seen(const stop_filter *s)
{
    return s->hit;
}

slice stop_filter_string(const stop_filter *s, int i)
{
    return (slice){ s->patterns[i].text, (size_t)s->patterns[i].len };
}
