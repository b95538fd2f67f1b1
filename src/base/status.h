/* status: making the one sentence that a failure carries upwards. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include "ds4_status.h"

/* Fills err (may be NULL) and returns st, so that a failing function ends
 * with `return ds4_fail(err, DS4_EFORMAT, "...")`. A message too long for
 * err->message is cut at a code point boundary; bytes that are not printable
 * UTF-8 are replaced by '?', so a hostile name can not reach a terminal. */
ds4_status ds4_fail(ds4_error *err, ds4_status st, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
