/* stop_filter: text passes until one of the stop strings is complete.
 *
 * A suffix that may still become a stop string is held back; once one is complete,
 * neither it nor anything after it comes out. Knows bytes only. One thread. */
#ifndef TEXT_STOP_FILTER_H
#define TEXT_STOP_FILTER_H

#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"

#define STOPS_MAX       16
#define STOPS_MAX_BYTES 1024

typedef struct stop_filter stop_filter;

/* Copies the strings. DS4_EARG: too many, or one is empty, too long or not UTF-8. */
ds4_status stop_filter_open(stop_filter **out, const slice *strings, int n, ds4_error *err);
void       stop_filter_close(stop_filter *s);       /* NULL is fine */

/* Appends what may pass. */
void  stop_filter_push(stop_filter *s, slice text, bytes *out);
/* The text is interrupted: what is half seen is no stop string and comes out. */
void  stop_filter_release(stop_filter *s, bytes *out);
void  stop_filter_reset(stop_filter *s);            /* as just opened */

/* The number of the string that was seen, or -1. When several end at the same byte it
 * is the longest. */
int   stop_filter_seen(const stop_filter *s);
slice stop_filter_string(const stop_filter *s, int i);

#endif
