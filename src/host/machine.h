/* machine: what this computer is, and the limits and conditions it runs under.
 *
 * Everything is read from the system at the moment of asking. What can not be
 * read is listed with the reason and what would help. Files are looked up below
 * `root` ("" outside of tests). Knows no models. Any thread. */
#ifndef HOST_MACHINE_H
#define HOST_MACHINE_H

#include <stdint.h>

typedef struct {
    char     cpu[128];          /* "AMD EPYC 9454P 48-Core Processor"              */
    char     os[160];           /* system, release, architecture                   */
    char     release[96];
    int      n_cpus;            /* switched on                                     */
    int      n_allowed;         /* this process may use; 0: unknown                */
    int      n_cores;           /* physical ones among them                        */
    uint64_t l1d_bytes, l2_bytes, l3_bytes;     /* 0: unknown                      */
    uint64_t memory_bytes, available_bytes;
} host_machine;

void host_machine_read(host_machine *m, const char *root);

enum { HOST_READINGS = 48, HOST_MISSING = 32 };

typedef struct {
    const char *group;          /* "limits" "clock" "heat"                         */
    char        name[48];
    char        value[96];      /* as the system writes it, with a unit            */
} host_reading;

typedef struct {
    char name[48], why[96];
    const char *remedy;         /* "" where nothing helps                          */
} host_missing;

typedef struct {
    host_reading reading[HOST_READINGS];
    host_missing missing[HOST_MISSING];
    int n, n_missing;
} host_readings;

/* Each appends. */
void host_read_limits(host_readings *r, const char *root);
void host_read_clock(host_readings *r, const char *root);
void host_read_heat(host_readings *r, const char *root);
void host_note_missing(host_readings *r, const char *name, const char *why, const char *remedy);

#endif
