#include "bench/read_speed.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"

enum { PIECE = 1 << 20, AHEAD = 4096 };

/* The compiler makes of it what the machine has: sums of 64 bytes at a time. */
typedef uint64_t vec __attribute__((vector_size(64), aligned(8)));

typedef struct {
    const uint8_t   *data;
    uint64_t         bytes;
    _Atomic uint64_t sum;       /* looked at by nobody; keeps the reads alive */
} reading;

static void sum_piece(void *ctx, int index, int thread)
{
    reading *r = ctx;
    const uint64_t first = (uint64_t)index * PIECE;
    const uint64_t n = r->bytes - first < PIECE ? r->bytes - first : PIECE;
    const uint8_t *p = r->data + first;
    vec a = { 0 }, b = a, c = a, d = a;
    for (uint64_t i = 0; i + 256 <= n; i += 256) {
        vec w[4];
        for (int j = 0; j < 4; j++) __builtin_prefetch(p + i + AHEAD + 64 * j, 0, 0);
        memcpy(w, p + i, sizeof w);
        a += w[0], b += w[1], c += w[2], d += w[3];
    }
    a += b, c += d, a += c;
    uint64_t sum = (uint64_t)thread;
    for (int j = 0; j < 8; j++) sum += a[j];
    atomic_fetch_add_explicit(&r->sum, sum, memory_order_relaxed);
}

void read_speed_of(const void *data, uint64_t bytes, pool *threads, stats *out)
{
    double rate[READ_SPEED_REPEATS];
    reading r = { .data = data, .bytes = bytes };
    const int n = (int)((bytes + PIECE - 1) / PIECE);
    pool_run(threads, sum_piece, &r, n);
    for (int i = 0; i < READ_SPEED_REPEATS; i++) {
        const uint64_t start = clock_ns();
        pool_run(threads, sum_piece, &r, n);
        rate[i] = (double)bytes / (double)(clock_ns() - start);
    }
    stats_of(rate, READ_SPEED_REPEATS, out);
}

uint64_t read_speed_bytes(uint64_t least, uint64_t last_level_bytes)
{
    const uint64_t wanted = 4 * last_level_bytes > least ? 4 * last_level_bytes : least;
    const uint64_t available = memory_available();
    return available && available / 4 < wanted ? available / 4 : wanted;
}

ds4_status read_speed_memory(uint64_t bytes, int n_threads, stats *out, ds4_error *err)
{
    pool *threads;
    ds4_status st = pool_open(&threads, n_threads, err);
    if (st) return st;
    bytes &= ~(uint64_t)(PIECE - 1);
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (data == MAP_FAILED || !bytes) {
        pool_close(threads);
        return ds4_fail(err, DS4_EMEMORY, "no memory to measure its speed (%llu MiB)", (unsigned long long)(bytes >> 20));
    }
    memset(data, 1, bytes);             /* untouched pages are all the same page of zeros */
    read_speed_of(data, bytes, threads, out);
    munmap(data, bytes);
    pool_close(threads);
    return DS4_OK;
}
