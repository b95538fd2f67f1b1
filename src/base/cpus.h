/* cpus: which processors this process may use, and how much of them.
 *
 * Reads the system's files below `root` ("" outside of tests). Any thread. */
#ifndef BASE_CPUS_H
#define BASE_CPUS_H

#include <stdbool.h>
#include <stdint.h>

/* Physical cores among cpu[0..n): hardware threads that the topology calls
 * siblings count once; one of unknown topology counts as a core. Cores of less than
 * half the capacity of the largest do not count: they would come last in every loop. */
int cpus_cores(const char *root, const int *cpu, int n);

/* Processors' worth of time the control group of this process and its parents
 * grant (v2 cpu.max, v1 cfs quota), rounded, at least 1; 0: no limit. */
int cpus_quota(const char *root);

/* Writes the processors of the affinity mask; returns how many, at most cap.
 * 0 where the system cannot tell. */
int cpus_allowed(int *cpu, int cap);

/* Processors that are switched on, at least 1. */
int cpus_online(void);

/* What became of a thread's time since it began. */
typedef struct {
    uint64_t ran_ns;
    uint64_t waited_ns;         /* ready to run, while others had the processor */
} cpus_time;

/* The calling thread's own clock; -1 where the system does not tell. Any thread
 * may read or close it. A failed read leaves *t alone. */
int  cpus_clock_open(void);
void cpus_clock_read(int clock, cpus_time *t);
void cpus_clock_close(int clock);

#endif
