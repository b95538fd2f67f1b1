/* memory: how much of it this process may use. Any thread. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stdint.h>

/* Bytes that new allocations can take without swapping: what the system calls
 * available, cut to what the control groups of this process still allow (memory.max
 * and memory.high, or v1's limit). Pages of files count as free: they can be had back.
 * 0: the system does not tell. Reads below `root` ("" outside of tests). */
uint64_t memory_available_below(const char *root);
uint64_t memory_available(void);

#endif
