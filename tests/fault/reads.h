/* reads: what happens to reads at a given place of a file (pread). The linker puts this
 * between the programs of tests/fault and the system. Steering: one thread; reading: any. */
#ifndef TESTS_FAULT_READS_H
#define TESTS_FAULT_READS_H

#include <stdbool.h>

bool fault_reads_available(void);

/* The read after n more returns -1 with this errno, once; error 0: it finds the file's end. */
void fault_read_fails(int n, int error);
/* From now on: every read stops half way; direct reads are refused; each takes a while. */
void fault_reads_short(bool on);
void fault_reads_not_direct(bool on);
void fault_reads_slow(bool on);
/* All as usual again; returns how many reads were done since the last call. */
int  fault_reads_stop(void);

#endif
