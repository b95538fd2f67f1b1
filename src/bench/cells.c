#include "bench/cells.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/status.h"

enum { MOST = 1 << 24 };

/* A whole number at *at, which moves behind it. */
static bool take_number(const char **at, int least, int *out)
{
    if (**at < '0' || **at > '9') return false;
    char *end;
    const unsigned long v = strtoul(*at, &end, 10);
    if (v > MOST || (int)v < least) return false;
    *at = end;
    *out = (int)v;
    return true;
}

static bool add(int_list *l, int v)
{
    if (l->n == CELL_LIST_MAX) return false;
    l->at[l->n++] = v;
    return true;
}

/* first, first-last, first-last+step or first-last*factor at *at. */
static bool take_range(const char **at, int least, int_list *out)
{
    int first, last, by = 1;
    if (!take_number(at, least, &first)) return false;
    if (**at != '-') return add(out, first);
    ++*at;
    if (!take_number(at, first, &last)) return false;

    const char sign = **at;
    if (sign == '+' || sign == '*') {
        ++*at;
        if (!take_number(at, sign == '*' ? 2 : 1, &by)) return false;
        if (sign == '*' && first == 0) return false;        /* 0 times anything */
    }
    for (long v = first; v <= last; v = sign == '*' ? v * by : v + by)
        if (!add(out, (int)v)) return false;
    return true;
}

ds4_status int_list_parse(int_list *out, const char *option, const char *text, int least, ds4_error *err)
{
    const char *at = text;
    out->n = 0;
    while (take_range(&at, least, out)) {
        if (!*at) return DS4_OK;
        if (*at++ != ',') break;
    }
    return ds4_fail(err, DS4_EARG, "--%s: expected numbers from %d on, such as 1,2 or 0-4096+1024 or 1-8*2 "
                    "(at most %d), got \"%.60s\"", option, least, CELL_LIST_MAX, text);
}

ds4_status cell_pair_parse(cell_lists *l, const char *text, ds4_error *err)
{
    const char *at = text;
    int prompt, gen;
    if (take_number(&at, 1, &prompt) && *at++ == ',' && take_number(&at, 1, &gen) && !*at) {
        if (l->pair.n + 2 > CELL_LIST_MAX)
            return ds4_fail(err, DS4_EARG, "--prompt-gen: at most %d pairs", CELL_LIST_MAX / 2);
        add(&l->pair, prompt);
        add(&l->pair, gen);
        return DS4_OK;
    }
    return ds4_fail(err, DS4_EARG, "--prompt-gen: expected PROMPT,GEN such as 512,128, got \"%.60s\"", text);
}

typedef struct {
    bench_cell *out;
    int         n;
} cell_sink;

static bool add_cell(cell_sink *s, int prompt, int gen, int depth, int sessions)
{
    if (prompt == 0 && gen == 0) return true;
    if (s->n == CELLS_MAX) return false;
    s->out[s->n++] = (bench_cell){ prompt, gen, depth, sessions };
    return true;
}

ds4_status cells_make(const cell_lists *l, bench_cell out[CELLS_MAX], int *n, ds4_error *err)
{
    cell_sink s = { .out = out };
    bool room = true;
    for (int d = 0; d < l->depth.n; d++)
        for (int i = 0; i < l->sessions.n; i++) {
            const int depth = l->depth.at[d], sessions = l->sessions.at[i];
            for (int p = 0; p < l->prompt.n; p++) room &= add_cell(&s, l->prompt.at[p], 0, depth, sessions);
            for (int g = 0; g < l->gen.n; g++)    room &= add_cell(&s, 0, l->gen.at[g], depth, sessions);
            for (int k = 0; k < l->pair.n; k += 2)
                room &= add_cell(&s, l->pair.at[k], l->pair.at[k + 1], depth, sessions);
        }
    *n = s.n;
    if (!room) return ds4_fail(err, DS4_EARG, "more than %d cells; give fewer sizes or depths", CELLS_MAX);
    if (!s.n)  return ds4_fail(err, DS4_EARG, "nothing to measure: -p, -n and --prompt-gen are all 0");
    return DS4_OK;
}

void cell_name(const bench_cell *c, char out[CELL_NAME_BYTES])
{
    char size[32], depth[16] = "", sessions[16] = "";
    if (c->prompt && c->gen) snprintf(size, sizeof size, "pp%d+tg%d", c->prompt, c->gen);
    else                     snprintf(size, sizeof size, "%s%d", c->prompt ? "pp" : "tg", c->prompt ? c->prompt : c->gen);
    if (c->depth) snprintf(depth, sizeof depth, "@d%d", c->depth);
    if (c->sessions > 1) snprintf(sessions, sizeof sessions, "x%d", c->sessions);
    snprintf(out, CELL_NAME_BYTES, "%s%s%s", size, sessions, depth);
}

int cell_tokens(const bench_cell *c) { return c->depth + c->prompt + c->gen; }
