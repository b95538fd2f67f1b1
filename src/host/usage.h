/* usage: what this process and the others have used so far.
 *
 * Readings are totals; two of them bracket a measurement. What the system does
 * not tell is 0. Any thread. */
#ifndef HOST_USAGE_H
#define HOST_USAGE_H

#include <stdint.h>

typedef struct {
    uint64_t wall_ns;
    uint64_t process_ns;        /* processor time of this process                    */
    uint64_t machine_ns;        /* of everybody, stolen time included                */
    int      n_cpus;
    uint64_t major_faults;      /* pages this process waited for                     */
    uint64_t swapped_in;        /* bytes, by the whole system                        */
    uint64_t rss;               /* bytes of this process in memory now               */
} host_usage;

void host_usage_read(host_usage *u);

/* Share of the machine's processors that others had between two readings, 0..1;
 * -1: the system does not tell. */
double host_usage_others(const host_usage *from, const host_usage *to);

#endif
