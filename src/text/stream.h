/* stream: tokens in, complete characters out.
 *
 * What comes out at any moment ends on a character boundary, and the pieces
 * joined are the same however the tokens were pushed. Bytes that can not become
 * valid UTF-8 come out as U+FFFD, one per maximal invalid part. A suffix that
 * may still become a stop string is held back; once one is complete, neither it
 * nor anything after it comes out. Belongs to one thread; the vocabulary must
 * outlive it. */
#ifndef TEXT_STREAM_H
#define TEXT_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"
#include "text/stop_filter.h"
#include "text/vocab.h"

typedef struct stream stream;

typedef struct {
    bool         show_control;  /* spell hidden tokens (vocab_hidden) too            */
    bool         raw;           /* pass invalid bytes through instead of U+FFFD      */
    const slice *stops;         /* copied; each valid UTF-8 and not empty            */
    int          n_stops;
} stream_options;

/* options NULL: all zero. DS4_EARG: a stop string is empty, too long or not UTF-8. */
ds4_status stream_open(stream **out, const vocab *v, const stream_options *options, ds4_error *err);
void       stream_close(stream *s);                 /* NULL is fine */

/* Appends to out what may be shown now. A hidden token first flushes pending
 * bytes; when it is not shown it also ends a half-seen stop string. After a stop nothing
 * comes out any more. DS4_EARG: no such token; DS4_EFULL, DS4_EMEMORY: out. */
ds4_status stream_push(stream *s, int32_t token, bytes *out, ds4_error *err);

/* The end, or the end of a section (reasoning, answer): gives out everything held,
 * a cut character as U+FFFD. Afterwards the stream begins anew; a stop stays. */
ds4_status stream_flush(stream *s, bytes *out, ds4_error *err);

/* The number of the stop string that was seen, or -1. When several end at the same
 * byte it is the longest. */
int        stream_stopped(const stream *s);
void       stream_reset(stream *s);                 /* as just opened */

#endif
