/* memory: how much of it this process may use. Any thread. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H

#include <stdint.h>

/* Bytes that new allocations can take without swapping: what the system calls
 * available, cut to the cgroup's limit. 0: the system does not tell. */
uint64_t memory_available(void);

#endif
