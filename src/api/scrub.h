/* scrub: rewrites volatile spans of system text, so that a prompt begins with the same bytes every day.
 *
 * --scrub REGEX=TEXT (docs/server.md): what a POSIX extended expression matches becomes TEXT. An expression
 * sees one line at a time, acts at most 16 times in it, and leaves lines above 64 KiB alone, so hostile
 * text costs little more than its length. Immutable once open: any thread. */
#ifndef API_SCRUB_H
#define API_SCRUB_H

#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"

typedef struct scrub_list scrub_list;

/* `rules` are REGEX=TEXT; the first = that is not escaped by \ divides. DS4_EARG names the wrong one. */
ds4_status scrub_open(scrub_list **out, const char *const *rules, int n, ds4_error *err);
void       scrub_close(scrub_list *s);          /* NULL is fine */

/* Appends the text with all rules applied, one after another. False: nothing matched, or out failed;
 * use the text as it is. */
bool       scrub_apply(const scrub_list *s, slice text, bytes *out);

#endif
