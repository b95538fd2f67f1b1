/* stops: text passes until one of the stop strings is complete.
 *
 * A suffix that may still become a stop string is held back; once one is complete,
 * neither it nor anything after it comes out. Knows bytes only. One thread. */
#ifndef TEXT_STOPS_H
#define TEXT_STOPS_H

#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"

#define STOPS_MAX       16
#define STOPS_MAX_BYTES 1024

typedef struct stops stops;

/* Copies the strings. DS4_EARG: too many, or one is empty, too long or not UTF-8. */
ds4_status stops_open(stops **out, const slice *strings, int n, ds4_error *err);
void       stops_close(stops *s);               /* NULL is fine */

void  stops_push(stops *s, slice text, bytes *out);     /* appends what may pass */
void  stops_release(stops *s, bytes *out);      /* a half-seen string is none: gives out what is held */
void  stops_reset(stops *s);                    /* as just opened */

/* The number of the string that was seen, or -1. When several end at the same byte it
 * is the longest. */
int   stops_seen(const stops *s);
slice stops_string(const stops *s, int i);

#endif
