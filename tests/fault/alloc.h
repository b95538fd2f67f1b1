/* alloc: allocations that fail when a test wants them to.
 *
 * Programs of tests/fault are linked so that malloc, calloc, realloc,
 * aligned_alloc and strdup called from our own code pass through here (not
 * those inside shared libraries). Works under the sanitizers; where the linker
 * cannot do it, fault_available is false and the tests skip. Any thread may
 * allocate; one thread steers. */
#ifndef TESTS_FAULT_ALLOC_H
#define TESTS_FAULT_ALLOC_H

#include <stdbool.h>
#include "ds4_status.h"

bool fault_available(void);

void fault_fail_after(int n);   /* n allocations succeed, all later ones fail   */
void fault_fail_once(int n);    /* n allocations succeed, one fails, then none  */
int  fault_stop(void);          /* back to normal; how many were made to fail   */

/* Runs body with its 1st, 2nd, ... allocation failing, once alone and once with
 * all later ones, until it runs without meeting the failure. Each time it must
 * return DS4_EMEMORY with a sentence, or DS4_OK where it can do without; leaks
 * are for the sanitizer to find. Skips the test aloud where nothing can fail. */
typedef ds4_status fault_body(void *ctx, ds4_error *err);
void fault_each(fault_body *body, void *ctx);

#endif
