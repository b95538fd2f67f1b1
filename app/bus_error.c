#include "bus_error.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "terminal.h"

/* Everything that the handler calls is async-signal-safe; so there is no printf. */

static const char *name_of_program, *line_start;
static struct sigaction before;

typedef struct {
    char     path[4096];
    uint64_t offset;
} place;

/* ---- text -------------------------------------------------------------------- */

typedef struct {
    char   text[8192];
    size_t n;
} message;

static void add_text(message *m, const char *s)
{
    const size_t n = strlen(s), room = sizeof m->text - m->n;
    memcpy(m->text + m->n, s, n < room ? n : room);
    m->n += n < room ? n : room;
}

static void add_number(message *m, uint64_t v)
{
    char digits[24] = { 0 };
    size_t at = sizeof digits - 1;
    do digits[--at] = (char)('0' + v % 10);
    while (v /= 10);
    add_text(m, digits + at);
}

/* ---- the file behind an address ---------------------------------------------- */

static uint64_t hexadecimal(const char **at)
{
    uint64_t v = 0;
    for (;; ++*at) {
        const char c = **at;
        const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) return v;
        v = v << 4 | (uint64_t)digit;
    }
}

/* One line of /proc/self/maps: "from-to rights offset device inode     path" */
static bool line_holds(const char *line, uint64_t address, place *p)
{
    const char *at = line;
    const uint64_t from = hexadecimal(&at);
    at++;
    const uint64_t to = hexadecimal(&at);
    const char *path = strchr(at, '/');
    if (address < from || address >= to || !path || strlen(at) < 6) return false;
    at += 6;
    p->offset = hexadecimal(&at) + (address - from);
    strncpy(p->path, path, sizeof p->path - 1);
    p->path[sizeof p->path - 1] = 0;
    return true;
}

static bool find(uint64_t address, place *p)
{
    const int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    char buffer[512], line[4096 + 128];
    size_t used = 0;
    bool found = false;
    for (ssize_t n; fd >= 0 && !found && (n = read(fd, buffer, sizeof buffer)) > 0; )
        for (ssize_t i = 0; i < n && !found; i++) {
            if (buffer[i] != '\n') {
                if (used < sizeof line - 1) line[used++] = buffer[i];
                continue;
            }
            line[used] = 0;
            used = 0;
            found = line_holds(line, address, p);
        }
    if (fd >= 0) close(fd);
    return found;
}

/* ---- the handler --------------------------------------------------------------- */

static void on_bus_error(int sig, siginfo_t *info, void *context)
{
    (void)context;
    place p;
    if (!find((uint64_t)(uintptr_t)info->si_addr, &p)) {
        sigaction(sig, &before, NULL);      /* and the instruction fails again */
        return;
    }
    struct stat s;
    const bool shorter = stat(p.path, &s) == 0 && (uint64_t)s.st_size <= p.offset;
    message m = { .n = 0 };
    terminal_restore();
    add_text(&m, line_start);
    add_text(&m, name_of_program);
    add_text(&m, ": ");
    add_text(&m, p.path);
    add_text(&m, shorter ? ": became shorter while it was in use; byte " : ": the disk could not give byte ");
    add_number(&m, p.offset);
    add_text(&m, shorter ? " is no longer there\n" : " (input/output error)\n");
    const ssize_t ignored = write(STDERR_FILENO, m.text, m.n);
    (void)ignored;
    _exit(1);
}

void bus_error_catch(const char *program)
{
    name_of_program = program;
    line_start = terminal_is_smart(STDERR_FILENO) ? "\r\033[K" : "";      /* over a progress line */
    struct sigaction act = { .sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO };
    sigemptyset(&act.sa_mask);
    sigaction(SIGBUS, &act, &before);
}
