#include "bench/machine.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/json_writer.h"
#include "base/status.h"
#include "bench/read_speed.h"
#include "kernels/cpu/cpu_kernels.h"

/* ---- measuring -------------------------------------------------------------- */

static ds4_status part(const machine_options *o, const char *name, ds4_error *err)
{
    if (!o->on_part || o->on_part(o->ctx, name)) return DS4_OK;
    return ds4_fail(err, DS4_ECANCELLED, "stopped before: %s", name);
}

/* Bytes 0x20..0x2f: small numbers in every block format (tile_speed.h). */
static void fill_weights(uint64_t *w, uint64_t size)
{
    uint64_t x = 0x9e3779b97f4a7c15u;
    for (uint64_t i = 0; i < size / sizeof *w; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        w[i] = (x & 0x0f0f0f0f0f0f0f0fu) | 0x2020202020202020u;
    }
}

static ds4_status read_with(const void *data, uint64_t size, int n_threads, stats *out, ds4_error *err)
{
    pool *threads;
    const ds4_status st = pool_open(&threads, n_threads, err);
    if (!st) read_speed_of(data, size, threads, out);
    pool_close(threads);
    return st;
}

static ds4_status measure_memory(machine_report *r, const machine_options *o, void *data, ds4_error *err)
{
    const uint32_t isa = cpu_isa_present();
    ds4_status st = part(o, "memory, one core", err);
    if (!st) st = read_with(data, r->read_bytes, 1, &r->read_one, err);
    if (!st) st = part(o, "memory, all cores", err);
    if (!st) st = read_with(data, r->read_bytes, r->threads, &r->read_all, err);
    if (!st) st = part(o, "kernels", err);
    if (!st) st = tile_speed_measure(data, r->read_bytes, r->threads, isa, r->tile, &r->n_tiles, err);
    return st;
}

static ds4_status measure_peaks(machine_report *r, const machine_options *o, ds4_error *err)
{
    const peak_loop *int8 = peak_int8(cpu_isa_present()), *f32 = peak_f32(cpu_isa_present());
    ds4_status st = part(o, "multiply-adds", err);
    if (!int8) host_note_missing(&r->readings, "dot-product peak", "no loop is written for this processor", "");
    if (!int8 || st) return st;
    r->int8_name = int8->name;
    r->f32_name = f32->name;
    st = peak_measure(int8, 1, &r->int8_one, err);
    if (!st) st = peak_measure(int8, r->threads, &r->int8_all, err);
    if (!st) st = peak_measure(f32, 1, &r->f32_one, err);
    if (!st) st = peak_measure(f32, r->threads, &r->f32_all, err);
    return st;
}

/* A file that can not be read takes nothing from the rest. */
static ds4_status measure_file(machine_report *r, const machine_options *o, ds4_error *err)
{
    ds4_error why;
    if (!o->file) {
        host_note_missing(&r->readings, "file reads", "no file of some size to read", "-m FILE");
        return DS4_OK;
    }
    const ds4_status st = part(o, "file", err);
    if (st) return st;
    r->file_measured = file_speed_measure(o->file, r->threads, &r->file, &why) == DS4_OK;
    if (!r->file_measured) host_note_missing(&r->readings, "file reads", why.message, "-m FILE names another");
    else if (!r->file.verified)
        host_note_missing(&r->readings, "cold reads", "the file's pages stayed in memory: cache_state unverified",
                          "a file that no program holds mapped, on a disk");
    return DS4_OK;
}

ds4_status machine_measure(machine_report *r, const machine_options *o, ds4_error *err)
{
    *r = (machine_report){ .start_unix = clock_unix_seconds() };
    host_machine_read(&r->machine, "");
    host_read_limits(&r->readings, "");
    host_read_clock(&r->readings, "");
    host_read_heat(&r->readings, "");
    host_note_missing(&r->readings, "GPU", "this mode measures the processor",
                      "ds4-bench speed --backend cuda reads the card's memory beside every cell");
    r->threads = o->threads ? o->threads : pool_default_threads();

    r->read_bytes = read_speed_bytes(1u << 30, r->machine.l3_bytes) & ~(uint64_t)0xfffff;
    void *data = mmap(NULL, r->read_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (data == MAP_FAILED)
        return ds4_fail(err, DS4_EMEMORY, "no memory to measure its speed (%" PRIu64 " MiB)", r->read_bytes >> 20);
    fill_weights(data, r->read_bytes);
    ds4_status st = measure_memory(r, o, data, err);
    munmap(data, r->read_bytes);
    if (!st) st = measure_peaks(r, o, err);
    if (!st) st = measure_file(r, o, err);
    r->end_unix = clock_unix_seconds();
    return st;
}

/* ---- text --------------------------------------------------------------------- */

static void line_of(bytes *out, const char *name, const stats *s, const char *unit)
{
    if (s->n) bytes_printf(out, "  %-34s %9.2f %9.2f %9.2f %9.2f  %s\n", name, s->p10, s->p50, s->p90, s->max, unit);
}

static void tiles_text(const machine_report *r, bytes *out)
{
    bytes_printf(out, "\nkernels (%s)%*s in cache, one core        from memory, %d threads\n",
                 cpu_isa_name(cpu_isa_present()), (int)(14 - strlen(cpu_isa_name(cpu_isa_present()))), "", r->threads);
    bytes_printf(out, "  %-10s %19s %11s %19s %11s\n", "type", "decode G/s (GB/s)", "batch G/s", "decode G/s (GB/s)",
                 "batch G/s");
    for (int i = 0; i < r->n_tiles; i++) {
        const tile_speed *t = &r->tile[i];
        bytes_printf(out, "  %-10s %10.1f (%6.2f) %11.1f %10.1f (%6.2f) %11.1f\n", quant_get(t->type)->name,
                     t->cached[0].gmacs, t->cached[0].gbs, t->cached[1].gmacs, t->memory[0].gmacs, t->memory[0].gbs,
                     t->memory[1].gmacs);
    }
}

void machine_text(const machine_report *r, bytes *out)
{
    const host_machine *m = &r->machine;
    bytes_printf(out,
                 "%s, %d of %d processors allowed, %d cores; %.1f GiB memory, %.1f available; L1d %" PRIu64 " KiB, L2 %"
                 PRIu64 " KiB, L3 %" PRIu64 " KiB\n%s\n\n", m->cpu, m->n_allowed, m->n_cpus, m->n_cores,
                 (double)m->memory_bytes / 0x1p30, (double)m->available_bytes / 0x1p30, m->l1d_bytes >> 10,
                 m->l2_bytes >> 10, m->l3_bytes >> 10, m->os);

    char name[64];
    bytes_printf(out, "  %-34s %9s %9s %9s %9s\n", "", "p10", "p50", "p90", "best");
    line_of(out, "memory read, 1 core", &r->read_one, "GB/s");
    snprintf(name, sizeof name, "memory read, %d threads", r->threads);
    line_of(out, name, &r->read_all, "GB/s");
    if (r->file_measured) line_of(out, "warm file mapping, same threads", &r->file.mapped, "GB/s");
    line_of(out, "int8 multiply-adds, 1 core", &r->int8_one, "G/s");
    line_of(out, "int8 multiply-adds, all threads", &r->int8_all, "G/s");
    line_of(out, "f32 multiply-adds, 1 core", &r->f32_one, "G/s");
    line_of(out, "f32 multiply-adds, all threads", &r->f32_all, "G/s");
    if (r->int8_name) bytes_printf(out, "  (%s; %s)\n", r->int8_name, r->f32_name);
    if (r->file_measured)
        bytes_printf(out, "  cold file, in order %.2f GB/s, 4 MiB at random %.2f GB/s%s\n", r->file.sequential,
                     r->file.random, r->file.verified ? "" : "  (cache_state: unverified)");
    tiles_text(r, out);

    bytes_text(out, "\n");
    for (int i = 0; i < r->readings.n; i++)
        bytes_printf(out, "  %-8s %-22s %s\n", r->readings.reading[i].group, r->readings.reading[i].name,
                     r->readings.reading[i].value);
    for (int i = 0; i < r->readings.n_missing; i++) {
        const host_missing *x = &r->readings.missing[i];
        bytes_printf(out, "  missing  %-22s %s%s%s\n", x->name, x->why, *x->remedy ? "; " : "", x->remedy);
    }
}

void machine_ceilings(const machine_model *m, int n, double read_gbs, double int8_gmacs, bytes *out)
{
    bytes_printf(out, "\nmost that %.1f GB/s and %.0f G multiply-adds/s allow\n", read_gbs, int8_gmacs);
    for (int i = 0; i < n; i++) {
        const double gb = (double)token_bytes_step(&m[i].bytes, 1, 0) * 1e-9;
        const double gmacs = (double)m[i].bytes.matrix_macs * 1e-9;
        bytes_printf(out, "  %-28s decode %7.2f t/s (%.2f GB a token)", m[i].name, read_gbs / gb, gb);
        if (int8_gmacs > 0) bytes_printf(out, ", prefill %8.2f t/s (%.2f G multiply-adds)", int8_gmacs / gmacs, gmacs);
        bytes_char(out, '\n');
    }
}

/* ---- JSON ----------------------------------------------------------------------- */

static void positive(json_writer *w, const char *key, double v)
{
    json_put_double(w, key, v > 0 ? v : NAN, 7);
}

static void spread(json_writer *w, const char *key, const stats *s)
{
    json_key(w, key);
    if (!s->n) {
        json_null(w);
        return;
    }
    json_object(w);
    json_put_int(w, "n", s->n);
    positive(w, "p10", s->p10);
    positive(w, "p50", s->p50);
    positive(w, "p90", s->p90);
    positive(w, "best", s->max);
    json_object_end(w);
}

static void rate(json_writer *w, const char *key, const tile_rate *t)
{
    json_key(w, key);
    json_object(w);
    positive(w, "gmacs", t->gmacs);
    positive(w, "GBps", t->gbs);
    json_object_end(w);
}

static void tiles_json(const machine_report *r, json_writer *w)
{
    json_key(w, "kernels");
    json_object(w);
    for (int i = 0; i < r->n_tiles; i++) {
        const tile_speed *t = &r->tile[i];
        json_key(w, quant_get(t->type)->name);
        json_object(w);
        rate(w, "cached_1", &t->cached[0]);
        rate(w, "cached_64", &t->cached[1]);
        rate(w, "memory_1", &t->memory[0]);
        rate(w, "memory_64", &t->memory[1]);
        json_object_end(w);
    }
    json_object_end(w);
}

static void readings_json(const host_readings *r, json_writer *w)
{
    json_key(w, "readings");
    json_array(w);
    for (int i = 0; i < r->n; i++) {
        json_object(w);
        json_put_text(w, "group", r->reading[i].group);
        json_put_text(w, "name", r->reading[i].name);
        json_put_text(w, "value", r->reading[i].value);
        json_object_end(w);
    }
    json_array_end(w);
    json_key(w, "missing");
    json_array(w);
    for (int i = 0; i < r->n_missing; i++) {
        json_object(w);
        json_put_text(w, "name", r->missing[i].name);
        json_put_text(w, "why", r->missing[i].why);
        json_put_text(w, "remedy", r->missing[i].remedy);
        json_object_end(w);
    }
    json_array_end(w);
}

void machine_json(const machine_report *r, const char *build, const char *flags, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_put_int(&w, "schema", 1);
    json_put_text(&w, "mode", "machine");
    json_key(&w, "tool");
    json_object(&w);
    json_put_text(&w, "build", build);
    json_put_text(&w, "flags", flags);
    json_object_end(&w);
    json_key(&w, "when");
    json_object(&w);
    json_put_int(&w, "start", r->start_unix);
    json_put_int(&w, "end", r->end_unix);
    json_object_end(&w);
    json_key(&w, "machine");
    json_object(&w);
    json_put_text(&w, "cpu", r->machine.cpu);
    json_put_text(&w, "os", r->machine.os);
    json_put_text(&w, "isa", cpu_isa_name(cpu_isa_present()));
    json_put_int(&w, "cpus", r->machine.n_cpus);
    json_put_int(&w, "cpus_allowed", r->machine.n_allowed);
    json_put_int(&w, "cores", r->machine.n_cores);
    json_put_int(&w, "threads", r->threads);
    json_put_int(&w, "mem", r->machine.memory_bytes);
    json_put_int(&w, "mem_available", r->machine.available_bytes);
    json_put_int(&w, "l1d", r->machine.l1d_bytes);
    json_put_int(&w, "l2", r->machine.l2_bytes);
    json_put_int(&w, "l3", r->machine.l3_bytes);
    json_object_end(&w);
    json_put_int(&w, "read_bytes", r->read_bytes);
    spread(&w, "read_one_GBps", &r->read_one);
    spread(&w, "read_all_GBps", &r->read_all);
    spread(&w, "mapped_GBps", &r->file.mapped);
    positive(&w, "cold_sequential_GBps", r->file.sequential);
    positive(&w, "cold_random_GBps", r->file.random);
    json_put_text(&w, "cache_state", !r->file_measured ? "not measured" : r->file.verified ? "cold" : "unverified");
    spread(&w, "int8_one_gmacs", &r->int8_one);
    spread(&w, "int8_all_gmacs", &r->int8_all);
    spread(&w, "f32_one_gmacs", &r->f32_one);
    spread(&w, "f32_all_gmacs", &r->f32_all);
    tiles_json(r, &w);
    readings_json(&r->readings, &w);
    json_object_end(&w);
    bytes_char(out, '\n');
}

/* Of all that would make the figures others. */
uint64_t machine_key(const host_machine *m, const char *build)
{
    char all[512];
    snprintf(all, sizeof all, "%s|%d|%d|%d|%" PRIu64 "|%s|%s", m->cpu, m->n_cpus, m->n_allowed, m->n_cores,
             m->memory_bytes, m->release, build);
    return hash_bytes(HASH_BEGIN, all, strlen(all));
}
