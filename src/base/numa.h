/* numa: memory of machines whose processors each have their own.
 *
 * Reads the system's files below `root` ("" outside of tests). */
#ifndef BASE_NUMA_H
#define BASE_NUMA_H

#include <stdint.h>
#include "ds4_status.h"

/* Nodes with memory as a set of bits, of the first 64; 0: the system does not tell. */
uint64_t numa_nodes(const char *root);

/* From now on pages that this thread, or a thread it starts later, touches first are
 * spread over the nodes in turn: anonymous ones and pages of files that are read.
 * Pages in memory already stay where they are. DS4_EUNSUPPORTED says why not. */
ds4_status numa_interleave(uint64_t nodes, ds4_error *err);

#endif
