/* cpus: which processors this process may use, and how much of them.
 *
 * Reads the system's files below `root` ("" outside of tests). Any thread. */
#ifndef BASE_CPUS_H
#define BASE_CPUS_H

/* Physical cores among cpu[0..n): hardware threads that the topology calls
 * siblings count once; one of unknown topology counts as a core. */
int cpus_cores(const char *root, const int *cpu, int n);

/* Processors' worth of time the control group of this process and its parents
 * grant (v2 cpu.max, v1 cfs quota), rounded, at least 1; 0: no limit. */
int cpus_quota(const char *root);

/* Writes the processors of the affinity mask; returns how many, at most cap.
 * 0 where the system cannot tell. */
int cpus_allowed(int *cpu, int cap);

/* Processors that are switched on, at least 1. */
int cpus_online(void);

#endif
