/* machine: everything `ds4-bench machine` measures, and how it is told.
 *
 * Measured, never looked up; what could not be measured is listed as missing.
 * Allocates a gigabyte where that is free; takes about half a minute. */
#ifndef BENCH_MACHINE_H
#define BENCH_MACHINE_H

#include "base/bytes.h"
#include "bench/file_speed.h"
#include "bench/peak.h"
#include "bench/tile_speed.h"
#include "bench/token_bytes.h"
#include "host/machine.h"

typedef struct {
    host_machine  machine;
    host_readings readings;
    int           threads;      /* that the engine would use                    */
    uint64_t      read_bytes;   /* of memory that was read                      */
    stats         read_one, read_all;           /* GB/s                         */
    file_speed    file;
    bool          file_measured;
    const char   *int8_name, *f32_name;         /* NULL: no loop for this machine */
    stats         int8_one, int8_all, f32_one, f32_all;     /* G multiply-adds/s */
    tile_speed    tile[QUANT_COUNT];
    int           n_tiles;
    uint64_t      start_unix, end_unix;
} machine_report;

typedef struct {
    int         threads;        /* 0: one per physical core                     */
    const char *file;           /* to read warm and cold; NULL: not measured    */
    /* A part begins; false stops with DS4_ECANCELLED. May be NULL. */
    bool      (*on_part)(void *ctx, const char *part);
    void       *ctx;
} machine_options;

ds4_status machine_measure(machine_report *r, const machine_options *o, ds4_error *err);

void machine_text(const machine_report *r, bytes *out);
void machine_json(const machine_report *r, const char *build, const char *flags, bytes *out);

/* Most tokens/s that this memory and these multiply-adds allow. */
typedef struct {
    char        name[64];
    token_bytes bytes;
} machine_model;

void machine_ceilings(const machine_model *m, int n, double read_gbs, double int8_gmacs, bytes *out);

/* Tells machines apart for the cache: processor, cores, memory, kernel release, build. */
uint64_t machine_key(const host_machine *m, const char *build);

#endif
