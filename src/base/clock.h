/* clock: monotonic time. Any thread. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);            /* since an arbitrary start, never backwards */
uint64_t clock_unix_seconds(void);  /* wall time, for stamps in files            */

#endif
