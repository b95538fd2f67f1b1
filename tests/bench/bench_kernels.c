/* Speed of the inner loops alone: one thread, one matrix against one activation.
 *
 *   bench_kernels [KIB] [REPEATS]
 *
 * KIB of weights per type (default 256: stays in a core's second-level cache, so
 * arithmetic is measured; give more than the last level to measure memory).
 * GB/s count weight bytes, or the source's for activations; min, median and max
 * over the repeats. A line per type and instruction set, tab-separated. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/random.h"
#include "kernels/cpu/cpu_kernels.h"

enum { WIDTH = 4096, MAX_REPEATS = 101, MIN_NS = 2000000 };

typedef struct {
    const cpu_kernels *k;
    quant_type         type;
    const uint8_t     *w;
    uint8_t           *x, *out;
    size_t             row_bytes;
    int                rows;
    float              sink;
} job;

static void run_dot(job *j)
{
    for (int i = 0; i < j->rows; i++)
        j->sink += j->k->dot[j->type](j->w + (size_t)i * j->row_bytes, j->x, WIDTH);
}

static void run_quantise(job *j)
{
    for (int i = 0; i < j->rows; i++)
        j->k->quantise[j->type](j->out, (const float *)(const void *)(j->w + (size_t)i * j->row_bytes), WIDTH);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* GB/s of one repeat: as many passes as fill MIN_NS. */
static double gigabytes_per_second(job *j, void (*run)(job *))
{
    const uint64_t start = clock_ns();
    uint64_t now, passes = 0;
    do {
        run(j);
        passes++;
        now = clock_ns();
    } while (now - start < MIN_NS);
    return (double)(passes * j->row_bytes * (uint64_t)j->rows) / (double)(now - start);
}

static void measure(job *j, void (*run)(job *), const char *what, const char *isa, int repeats)
{
    double rate[MAX_REPEATS];
    run(j);
    for (int i = 0; i < repeats; i++) rate[i] = gigabytes_per_second(j, run);
    qsort(rate, (size_t)repeats, sizeof *rate, by_value);
    printf("%s\t%s\t%s\t%.2f\t%.2f\t%.2f\n", what, quant_get(j->type)->name, isa, rate[0],
           rate[repeats / 2], rate[repeats - 1]);
    fflush(stdout);
}

/* Random codes; scales small but normal, so that no sum overflows or underflows. */
static void fill(uint8_t *data, size_t n, size_t block)
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

static void bench_type(const cpu_kernels *k, quant_type type, const char *isa, size_t bytes, int repeats)
{
    const bool activation = k->quantise[type] != NULL;
    uint64_t row = 0, x_bytes = 0, source = WIDTH * sizeof(float);
    quant_row_bytes(type, WIDTH, &row);
    quant_row_bytes(quant_get(type)->dot_type, WIDTH, &x_bytes);

    job j = { .k = k, .type = type };
    uint8_t *w = malloc(bytes + row + source);
    j.x = malloc(x_bytes);
    j.out = malloc(activation_bytes(type, WIDTH) + row);
    if (w && j.x && j.out) {
        fill(w, bytes + row + source, (size_t)quant_get(type)->block_bytes);
        fill(j.x, x_bytes, (size_t)quant_get(quant_get(type)->dot_type)->block_bytes);
        j.w = w;
        j.row_bytes = row;
        j.rows = (int)(bytes / row) + 1;
        if (k->dot[type]) measure(&j, run_dot, "dot", isa, repeats);
        j.row_bytes = source;
        j.rows = (int)(bytes / source) + 1;
        for (size_t i = 0; i < bytes + source; i += sizeof(float)) {
            const float v = (float)(int)(i * 2654435761u % 1000) - 500.0f;
            memcpy(w + i, &v, sizeof v);
        }
        if (activation) measure(&j, run_quantise, "quantise", isa, repeats);
    }
    free(w);
    free(j.x);
    free(j.out);
}

int main(int argc, char **argv)
{
    static const uint32_t rungs[] = { 0, ISA_AVX2, ISA_AVX2 | ISA_AVX512, ISA_NEON };
    const long kib = argc > 1 ? atol(argv[1]) : 256, repeats = argc > 2 ? atol(argv[2]) : 9;
    if (kib < 1 || kib > 1 << 22 || repeats < 1 || repeats > MAX_REPEATS) {
        fprintf(stderr, "bench_kernels: KIB is 1 to %d, REPEATS 1 to %d\n", 1 << 22, MAX_REPEATS);
        return 2;
    }
    machine_line();
    printf("# one thread, rows of %d, %ld KiB of weights, %ld repeats\n", WIDTH, kib, repeats);
    printf("loop\ttype\tisa\tmin GB/s\tmedian GB/s\tmax GB/s\n");
    for (int t = 0; t < QUANT_COUNT; t++)
        for (size_t i = 0; i < countof(rungs); i++) {
            cpu_kernels k;
            if ((rungs[i] & cpu_isa_present()) != rungs[i]) continue;
            cpu_kernels_init(&k, rungs[i]);
            if (k.dot[t] || k.quantise[t])
                bench_type(&k, (quant_type)t, cpu_isa_name(rungs[i]), (size_t)kib * 1024, (int)repeats);
        }
    return 0;
}
