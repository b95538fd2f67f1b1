/* Speed of the inner loops alone: one thread, one matrix against some activations.
 *
 *   bench_kernels [KIB] [REPEATS] [TYPE ...]
 *
 * KIB of weights per type (default 256: stays in a core's second-level cache, so
 * arithmetic is measured; give more than the last level to measure memory). Rows go
 * through the tiles in tasks of 512 KiB, as the driver hands them out. Times are the
 * thread's own, the best of the repeats: neighbours on the machine count little.
 * GB/s are of weight bytes, or the source's for activations; G/s are multiply-adds.
 * A line per type, instruction set and batch, tab-separated. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/checked.h"
#include "base/random.h"
#include "kernels/cpu/cpu_kernels.h"

enum { WIDTH = 4096, MAX_REPEATS = 1001, MIN_NS = 2000000, TASK_BYTES = 512 * 1024, MAX_BATCH = 64 };

static const int batches[] = { 1, 3, 12, 64 };

typedef struct {
    const cpu_kernels *k;
    quant_type         type;
    const uint8_t     *w;
    const uint8_t     *x[MAX_BATCH];
    uint8_t           *out, *scratch;
    size_t             row_bytes;
    int                rows, batch;
} job;

static uint64_t thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *take(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) abort();
    return p;
}

static void run_tiles(job *j)
{
    const int at_once = TASK_BYTES / (int)j->row_bytes / 16 * 16;
    for (int r = 0; r < j->rows; r += at_once)
        j->k->tile[j->type](j->k, &(tile_args){
            .w = j->w + (size_t)r * j->row_bytes, .w_stride = j->row_bytes,
            .rows = j->rows - r < at_once ? j->rows - r : at_once, .n = WIDTH, .x = j->x, .batch = j->batch,
            .y = (float *)(void *)j->out, .y_stride = (uint64_t)at_once, .scratch = j->scratch });
}

static void run_quantise(job *j)
{
    for (int i = 0; i < j->rows; i++)
        j->k->quantise[j->type](j->out, (const float *)(const void *)(j->w + (size_t)i * j->row_bytes), WIDTH);
}

/* Nanoseconds of one pass, from as many as fill MIN_NS. */
static double pass_ns(job *j, void (*run)(job *))
{
    const uint64_t start = thread_ns();
    uint64_t now, passes = 0;
    do {
        run(j);
        passes++;
        now = thread_ns();
    } while (now - start < MIN_NS);
    return (double)(now - start) / (double)passes;
}

static void measure(job *j, void (*run)(job *), const char *what, const char *isa, int repeats)
{
    double best = 1e30;
    run(j);
    for (int i = 0; i < repeats; i++) {
        const double ns = pass_ns(j, run);
        if (ns < best) best = ns;
    }
    printf("%s\t%s\t%s\t%d\t%.2f\t%.2f\n", what, quant_get(j->type)->name, isa, j->batch,
           (double)j->row_bytes * j->rows / best, (double)j->rows * WIDTH * j->batch / best);
    fflush(stdout);
}

/* Numbers of usable size: random codes would make scales of any. */
static void fill_floats(float *x, size_t n)
{
    random_stream r;
    random_seed(&r, 1);
    for (size_t i = 0; i < n; i++) x[i] = (float)random_normal(&r);
}

/* Random codes; scales small but normal, so that no sum overflows or underflows. */
static void fill_codes(uint8_t *data, size_t n, size_t block)
{
    random_stream r;
    random_seed(&r, 1);
    for (size_t i = 0; i < n; i++) data[i] = (uint8_t)(random_u64(&r) & 0x2f);
    for (size_t i = 0; i < n; i += block) data[i] = 0x2c;
}

static void machine_line(void)
{
    char line[256], model[256] = "unknown processor";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (colon && strncmp(line, "model name", 10) == 0) snprintf(model, sizeof model, "%s", colon + 2);
    }
    if (f) fclose(f);
    model[strcspn(model, "\n")] = '\0';
    printf("# %s, best of the ladder: %s, compiler %s\n", model, cpu_isa_name(cpu_isa_present()), __VERSION__);
}

static void bench_tiles(const cpu_kernels *k, quant_type type, const char *isa, size_t bytes, int repeats)
{
    const quant_type act = quant_get(type)->dot_type;
    uint64_t row = 0;
    quant_row_bytes(type, WIDTH, &row);
    const size_t x_bytes = act == QUANT_F32 ? WIDTH * sizeof(float) : (size_t)activation_bytes(act, WIDTH);

    job j = { .k = k, .type = type, .row_bytes = (size_t)row, .rows = (int)(bytes / row) + 1 };
    uint8_t *w = take((size_t)j.rows * j.row_bytes), *x = take(x_bytes * MAX_BATCH);
    float *source = take(WIDTH * sizeof(float));
    j.out = take(sizeof(float) * MAX_BATCH * (TASK_BYTES / row + 16));
    j.scratch = take(TILE_SCRATCH);
    j.w = w;
    fill_floats(source, WIDTH);
    if (type == QUANT_F32)
        for (int i = 0; i < j.rows; i++) memcpy(w + (size_t)i * j.row_bytes, source, j.row_bytes);
    else fill_codes(w, (size_t)j.rows * j.row_bytes, (size_t)quant_get(type)->block_bytes);
    for (int i = 0; i < MAX_BATCH; i++) {
        j.x[i] = x + (size_t)i * x_bytes;
        if (act == QUANT_F32) memcpy(x + (size_t)i * x_bytes, source, x_bytes);
        else k->quantise[act](x + (size_t)i * x_bytes, source, WIDTH);
    }
    for (size_t i = 0; i < countof(batches); i++) {
        j.batch = batches[i];
        measure(&j, run_tiles, "tile", isa, repeats);
    }
    free(w);
    free(x);
    free(source);
    free(j.out);
    free(j.scratch);
}

static void bench_quantise(const cpu_kernels *k, quant_type type, const char *isa, size_t bytes, int repeats)
{
    job j = { .k = k, .type = type, .row_bytes = WIDTH * sizeof(float), .batch = 1 };
    j.rows = (int)(bytes / j.row_bytes) + 1;
    float *source = take((size_t)j.rows * j.row_bytes);
    fill_floats(source, (size_t)j.rows * WIDTH);
    j.w = (const uint8_t *)source;
    j.out = take((size_t)activation_bytes(type, WIDTH));
    measure(&j, run_quantise, "quantise", isa, repeats);
    free(source);
    free(j.out);
}

static bool asked(quant_type type, int argc, char **argv)
{
    for (int i = 3; i < argc; i++)
        if (quant_by_name(argv[i]) == type) return true;
    return argc <= 3;
}

int main(int argc, char **argv)
{
    static const uint32_t rungs[] = { 0, ISA_AVX2, ISA_AVX2 | ISA_AVX512, ISA_AVX2 | ISA_AVX512 | ISA_AVX512_VBMI,
                                       ISA_NEON, ISA_NEON | ISA_NEON_I8MM };
    const long kib = argc > 1 ? atol(argv[1]) : 256, repeats = argc > 2 ? atol(argv[2]) : 9;
    if (kib < 1 || kib > 1 << 22 || repeats < 1 || repeats > MAX_REPEATS) {
        fprintf(stderr, "bench_kernels: KIB is 1 to %d, REPEATS 1 to %d\n", 1 << 22, MAX_REPEATS);
        return 2;
    }
    machine_line();
    printf("# one thread, rows of %d, %ld KiB of weights, %ld repeats\n", WIDTH, kib, repeats);
    printf("loop\ttype\tisa\tbatch\tGB/s\tG/s\n");
    for (int t = 0; t < QUANT_COUNT; t++)
        for (size_t i = 0; i < countof(rungs); i++) {
            cpu_kernels k;
            if ((rungs[i] & cpu_isa_present()) != rungs[i] || !asked((quant_type)t, argc, argv)) continue;
            cpu_kernels_init(&k, rungs[i]);
            const char *isa = cpu_isa_name(rungs[i]);
            if (k.tile[t]) bench_tiles(&k, (quant_type)t, isa, (size_t)kib * 1024, (int)repeats);
            if (k.quantise[t]) bench_quantise(&k, (quant_type)t, isa, (size_t)kib * 1024, (int)repeats);
        }
    return 0;
}
