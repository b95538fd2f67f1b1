/* cgroup: the control groups of this process, whose limits hold besides the system's.
 *
 * Knows where they are (v2, and v1 with a hierarchy per controller); what their files
 * mean is for whoever reads them. Reads below `root` ("" outside of tests). Any thread. */
#ifndef BASE_CGROUP_H
#define BASE_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

/* The folder of one group; v2: its files have version 2's names. */
typedef void cgroup_visit(void *ctx, const char *folder, bool v2);

/* The group of this process and then each of its parents, since a parent's limit holds
 * for its children. `controller` is "cpu" or "memory". */
void cgroup_each(const char *root, const char *controller, cgroup_visit *visit, void *ctx);

/* The text of a file of a folder (caller frees), NULL: there is none. */
char *cgroup_read(const char *folder, const char *name);

#endif
