#include "console.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"

#define TICK_NS      100000000ull       /* the line is rewritten at most ten times a second */
#define PATIENCE_NS 1000000000ull       /* phases expected to be shorter are not shown      */
#define PLAIN_NS   10000000000ull       /* between two plain lines in a pipe                */

enum { LINE_MAX_BYTES = 512 };

/* ---- numbers for people -------------------------------------------------- */

static const char *const byte_units[] = { "B", "KiB", "MiB", "GiB", "TiB" };

static int byte_unit(uint64_t n, double *divisor)
{
    int unit = 0;
    for (*divisor = 1; (double)n / *divisor >= 1024 && unit < 4; unit++) *divisor *= 1024;
    return unit;
}

void console_bytes(char out[24], uint64_t n)
{
    double divisor;
    const int unit = byte_unit(n, &divisor);
    snprintf(out, 24, "%.*f %s", unit ? 1 : 0, (double)n / divisor, byte_units[unit]);
}

static void format_eta(char out[24], double seconds)
{
    const unsigned long s = (unsigned long)(seconds + 0.5);
    if (s < 60)        snprintf(out, 24, "%lus", s);
    else if (s < 3600) snprintf(out, 24, "%lum%02lus", s / 60, s % 60);
    else               snprintf(out, 24, "%luh%02lum", s / 3600, s / 60 % 60);
}

/* ---- the progress line --------------------------------------------------- */

/* "61%  52.1/85.3 GiB  2.9 GiB/s  ETA 11s" or "12288/60005  241 t/s  ETA 3m18s" */
static void describe(const progress_state *p, uint64_t now, char *out, size_t size)
{
    const double elapsed = (double)(now - p->start_ns) / 1e9;
    const double rate = elapsed > 0 ? (double)p->done / elapsed : 0;
    char eta[24] = "", speed[48] = "", amount[96];

    if (p->unit == PROGRESS_BYTES) {
        double divisor;
        const int unit = byte_unit(p->total, &divisor);
        char per_second[24];
        console_bytes(per_second, (uint64_t)rate);
        snprintf(amount, sizeof amount, "%3d%%  %.1f/%.1f %s",
                 p->total ? (int)(100 * p->done / p->total) : 0,
                 (double)p->done / divisor, (double)p->total / divisor, byte_units[unit]);
        snprintf(speed, sizeof speed, "  %s/s", per_second);
    } else {
        snprintf(amount, sizeof amount, "%llu/%llu",
                 (unsigned long long)p->done, (unsigned long long)p->total);
        snprintf(speed, sizeof speed, rate < 10 ? "  %.1f t/s" : "  %.0f t/s", rate);
    }
    if (p->done == 0) {
        snprintf(out, size, "%s", amount);
        return;
    }
    format_eta(eta, (double)(p->total - p->done) / rate);
    snprintf(out, size, "%s%s  ETA %s", amount, speed, eta);
}

/* phase  [####----]  text, cut to what the window holds; no bar below 40 columns. */
static void compose(const progress_state *p, uint64_t now, int columns, char *out, size_t size)
{
    char text[256], bar[64];
    describe(p, now, text, sizeof text);

    const int room = columns - 1 - (int)strlen(p->phase) - (int)strlen(text) - 6;
    const int width = min_int(room, 24);
    if (columns < 40 || width < 4) {
        snprintf(out, size, "%.*s", max_int(columns - 1, 0), text);
        return;
    }
    const int filled = p->total ? (int)((uint64_t)width * p->done / p->total) : 0;
    memset(bar, '#', (size_t)filled);
    memset(bar + filled, '-', (size_t)(width - filled));
    bar[width] = 0;
    snprintf(out, size, "%s  [%s]  %s", p->phase, bar, text);
}

static bool worth_showing(const progress_state *p, uint64_t now)
{
    const uint64_t elapsed = now - p->start_ns;
    if (p->visible || elapsed >= PATIENCE_NS) return true;
    if (p->done == 0 || elapsed < PATIENCE_NS / 4) return false;
    return (double)elapsed * (double)p->total / (double)p->done > (double)PATIENCE_NS;
}

/* What is done, with the parts of the step in work. */
static progress_state seen_now(const progress_state *p)
{
    progress_state s = *p;
    if (p->parts) s.done += min_u64(p->stride, p->total - p->done) * (uint64_t)p->parts_done / (uint64_t)p->parts;
    return s;
}

/* Under the lock. */
static void draw(console *c)
{
    progress_state *p = &c->progress;
    const progress_state s = seen_now(p);
    const uint64_t now = clock_ns();
    char line[LINE_MAX_BYTES];

    if (c->smart && worth_showing(&s, now)) {
        compose(&s, now, terminal_columns(STDERR_FILENO), line, sizeof line);
        fprintf(stderr, "\r\033[K%s", line);
        fflush(stderr);
        p->visible = true;
    } else if (!c->smart && now - p->drawn_ns >= PLAIN_NS) {
        describe(&s, now, line, sizeof line);
        fprintf(stderr, "%s: %s %s\n", c->program, p->phase, line);
        p->drawn_ns = now;
    }
}

/* Under the lock. */
static void erase(console *c)
{
    if (!c->progress.visible) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    c->progress.visible = false;
}

static void *ticker(void *arg)
{
    console *c = arg;
    pthread_mutex_lock(&c->lock);
    while (c->progress.running) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += TICK_NS;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&c->wake, &c->lock, &until);
        if (c->progress.running) draw(c);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

void console_progress_begin(console *c, const char *phase, progress_unit unit, uint64_t total)
{
    if (c->level == CONSOLE_QUIET) return;
    progress_state *p = &c->progress;
    const uint64_t now = clock_ns();
    pthread_mutex_lock(&c->lock);
    *p = (progress_state){ .unit = unit, .total = total, .start_ns = now, .drawn_ns = now, .running = true };
    snprintf(p->phase, sizeof p->phase, "%s", phase);
    /* Without the thread there is no line, and nothing else is lost. */
    if (pthread_create(&c->thread, NULL, ticker, c)) p->running = false;
    pthread_mutex_unlock(&c->lock);
}

void console_progress(console *c, uint64_t done, uint64_t total)
{
    pthread_mutex_lock(&c->lock);
    c->progress.done = done < total ? done : total;
    c->progress.parts_done = 0;
    c->progress.total = total;
    pthread_mutex_unlock(&c->lock);
}

void console_progress_steps(console *c, uint64_t stride, int parts)
{
    pthread_mutex_lock(&c->lock);
    c->progress.stride = stride;
    c->progress.parts = parts;
    pthread_mutex_unlock(&c->lock);
}

void console_progress_part(console *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->progress.parts_done < c->progress.parts) c->progress.parts_done++;
    pthread_mutex_unlock(&c->lock);
}

void console_progress_end(console *c)
{
    pthread_mutex_lock(&c->lock);
    const bool running = c->progress.running;
    c->progress.running = false;
    pthread_cond_signal(&c->wake);
    erase(c);
    pthread_mutex_unlock(&c->lock);
    if (running) pthread_join(c->thread, NULL);
}

void console_progress_phase(console *c, const char *phase, uint64_t done, uint64_t total)
{
    if (strcmp(c->progress.phase, phase) != 0 || !c->progress.running) {
        console_progress_end(c);
        console_progress_begin(c, phase, PROGRESS_BYTES, total);
    }
    console_progress(c, done, total);
}

/* ---- messages ------------------------------------------------------------ */

static void say(console *c, const char *name, terminal_style style, const char *fmt, va_list args)
{
    char line[2048];
    bytes shown;
    vsnprintf(line, sizeof line, fmt, args);
    bytes_init(&shown, 8 * sizeof line);
    terminal_append_visible(&shown, line, strlen(line));

    pthread_mutex_lock(&c->lock);
    erase(c);
    const bool styled = c->colors && style != STYLE_NONE;
    fprintf(stderr, "%s%s%s%s%s\n", styled ? terminal_style_code(style) : "", name, *name ? ": " : "",
            shown.data ? shown.data : "", styled ? terminal_style_code(STYLE_NONE) : "");
    fflush(stderr);
    pthread_mutex_unlock(&c->lock);
    bytes_free(&shown);
}

#define SAY(wanted, name, style)                                        \
    do {                                                                \
        va_list args;                                                   \
        if (!(wanted)) return;                                          \
        va_start(args, fmt);                                            \
        say(c, name, style, fmt, args);                                 \
        va_end(args);                                                   \
    } while (0)

void console_error(console *c, const char *fmt, ...)   { SAY(true, c->program, STYLE_RED); }
void console_warning(console *c, const char *fmt, ...) { SAY(c->level >= CONSOLE_NORMAL, c->program, STYLE_YELLOW); }
void console_note(console *c, const char *fmt, ...)    { SAY(c->level >= CONSOLE_NORMAL, c->program, STYLE_NONE); }
void console_detail(console *c, const char *fmt, ...)  { SAY(c->level >= CONSOLE_VERBOSE, c->program, STYLE_NONE); }
void console_print(console *c, const char *fmt, ...)   { SAY(true, "", STYLE_NONE); }

void console_open(console *c, const char *program, console_level level, color_choice color)
{
    *c = (console){ .program = program, .level = level };
    c->smart = terminal_is_smart(STDERR_FILENO);
    c->colors = terminal_colors(STDERR_FILENO, color);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->wake, NULL);
}

void console_close(console *c)
{
    console_progress_end(c);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
}
