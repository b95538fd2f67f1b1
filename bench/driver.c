#include "driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Sessions that decode together, kept between commands: a deep context costs
 * minutes to fill. */
typedef struct {
    int first, sessions, depth; /* slots first .. first + sessions - 1 */
    int length;                 /* tokens in each of them; 0: to be filled */
} group;

enum { MAX_GROUPS = 4, MAX_LOGIT_TOKENS = 512 };

typedef struct {
    const driver *d;
    group         groups[MAX_GROUPS];
    int           n_groups, used_slots;
} state;

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Token i of session s: spread over the vocabulary, so that the routing tables
 * of the hash layers and the experts see what they would see in a text. The
 * first sixteen ids are left out as control tokens. */
static int32_t token_at(const state *st, int s, int i)
{
    uint64_t x = (uint64_t)(i + 1) * 0x9e3779b97f4a7c15u + (uint64_t)s * 0xbf58476d1ce4e5b9u;
    x ^= x >> 31;
    x *= 0x94d049bb133111ebu;
    x ^= x >> 29;
    return 16 + (int32_t)(x % (uint64_t)(st->d->n_vocab - 16));
}

static bool feed(state *st, int slot, int session, int n)
{
    int32_t token[DRIVER_CHUNK];
    for (int done = 0; done < n; ) {
        const int take = n - done < DRIVER_CHUNK ? n - done : DRIVER_CHUNK;
        for (int i = 0; i < take; i++) token[i] = token_at(st, session, done + i);
        if (!st->d->feed(st->d->self, slot, done == 0, token, take)) return false;
        done += take;
    }
    return true;
}

static bool step(state *st, group *g)
{
    int32_t token[DRIVER_SLOTS];
    for (int s = 0; s < g->sessions; s++) token[s] = token_at(st, s, g->length);
    if (!st->d->step(st->d->self, g->first, g->sessions, token)) return false;
    g->length++;
    return true;
}

static void answer(const state *st, const char *command, int n, int depth, int sessions,
                   double wall, double cpu)
{
    printf("{\"engine\":\"%s\",\"test\":\"%s\",\"threads\":%d,\"n\":%d,\"depth\":%d,\"sessions\":%d,"
           "\"seconds\":%.6f,\"cpu_seconds\":%.6f,\"tps\":%.4f}\n", st->d->engine, command,
           st->d->threads, n, depth, sessions, wall, cpu, n * sessions / wall);
    fflush(stdout);
}

static bool refuse(const char *why)
{
    printf("{\"error\":\"%s\"}\n", why);
    fflush(stdout);
    return true;
}

static bool prefill(state *st, int n)
{
    if (n < 1 || n > DRIVER_CONTEXT) return refuse("pp: how many tokens?");

    const double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    if (!feed(st, -1, 0, n)) return false;
    answer(st, "pp", n, 0, 1, seconds_of(CLOCK_MONOTONIC) - wall, seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    return true;
}

static group *group_for(state *st, int depth, int sessions)
{
    for (int i = 0; i < st->n_groups; i++)
        if (st->groups[i].depth == depth && st->groups[i].sessions == sessions) return &st->groups[i];
    if (st->n_groups == MAX_GROUPS || st->used_slots + sessions > st->d->slots) return NULL;

    group *g = &st->groups[st->n_groups++];
    *g = (group){ st->used_slots, sessions, depth, 0 };
    st->used_slots += sessions;
    return g;
}

static bool decode(state *st, int n, int depth, int sessions)
{
    if (n < 1 || n >= DRIVER_GROWTH || depth < 1 || depth + DRIVER_GROWTH > DRIVER_CONTEXT || sessions < 1)
        return refuse("tg: steps, depth and sessions out of range");
    group *g = group_for(st, depth, sessions);
    if (!g) return refuse("tg: no slots left for so many sessions");

    if (!g->length || g->length + n + 1 > depth + DRIVER_GROWTH) {
        g->length = 0;
        for (int s = 0; s < sessions; s++)
            if (!feed(st, g->first + s, s, depth)) return false;
        g->length = depth;
    }
    if (!step(st, g)) return false;

    const double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < n; i++)
        if (!step(st, g)) return false;
    answer(st, "tg", n, depth, sessions, seconds_of(CLOCK_MONOTONIC) - wall,
           seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    return true;
}

static bool write_logits(state *st, char *words)
{
    int32_t token[MAX_LOGIT_TOKENS];
    int     n = 0;
    const char *path = strtok(words, " ");
    for (const char *w; path && n < MAX_LOGIT_TOKENS && (w = strtok(NULL, " ")); )
        token[n++] = (int32_t)strtol(w, NULL, 10);
    if (!n) return refuse("logits: a file and tokens");

    if (!st->d->feed(st->d->self, -1, true, token, n)) return false;
    FILE *f = fopen(path, "wb");
    const float *logits = st->d->logits(st->d->self);
    const size_t n_vocab = (size_t)st->d->n_vocab;
    const bool written = f && logits && fwrite(logits, sizeof *logits, n_vocab, f) == n_vocab;
    if (f && fclose(f)) return refuse("logits: the file cannot be written");
    if (!written) return refuse("logits: the file cannot be written");
    printf("{\"engine\":\"%s\",\"test\":\"logits\",\"n\":%d}\n", st->d->engine, n);
    fflush(stdout);
    return true;
}

static bool obey(state *st, char *line)
{
    int n, depth, sessions;
    if (sscanf(line, "pp %d", &n) == 1) return prefill(st, n);
    if (sscanf(line, "tg %d %d %d", &n, &depth, &sessions) == 3) return decode(st, n, depth, sessions);
    if (!strncmp(line, "logits ", 7)) return write_logits(st, line + 7);
    return refuse("commands: pp N; tg N D S; logits F T...; quit");
}

int driver_run(const driver *d)
{
    state st = { .d = d };
    printf("{\"engine\":\"%s\",\"build\":\"%s\",\"threads\":%d,\"n_vocab\":%d}\n", d->engine, d->build,
           d->threads, d->n_vocab);
    fflush(stdout);
    for (char line[8192]; fgets(line, sizeof line, stdin); ) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "quit")) break;
        if (!obey(&st, line)) return 1;
    }
    return 0;
}
