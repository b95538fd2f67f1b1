#include "base/cgroup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { FOLDER_BYTES = 1024, PATH_BYTES = FOLDER_BYTES + 64, FILE_BYTES = 1 << 16 };

char *cgroup_read(const char *folder, const char *name)
{
    char path[PATH_BYTES], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return file_read_all(path, FILE_BYTES, &text, &n, NULL) ? NULL : text;
}

/* Inside a container the group's path may be the host's and absent here; the walk
 * then ends at the mount itself. */
static void walk(const char *mount, const char *group, bool v2, cgroup_visit *visit, void *ctx)
{
    char folder[FOLDER_BYTES];
    const size_t stem = strlen(mount);
    if (snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder) return;
    for (;;) {
        visit(ctx, folder, v2);
        char *slash = strrchr(folder, '/');
        if (!slash || slash < folder + stem) return;
        *slash = 0;
    }
}

/* Is `name` among names such as "cpu,cpuacct"? */
static bool names(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || !at[n])) return true;
    }
    return false;
}

/* One line of /proc/self/cgroup: "0::/group" is v2, "4:cpu,cpuacct:/group" v1. */
static void visit_line(const char *root, char *line, const char *controller, cgroup_visit *visit, void *ctx)
{
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return;
    *controllers++ = 0;
    *group++ = 0;

    char mount[FOLDER_BYTES];
    const bool v2 = !*controllers;
    if (!v2 && !names(controllers, controller)) return;
    snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s%s", root, v2 ? "" : "/", v2 ? "" : controller);
    walk(mount, group, v2, visit, ctx);
}

void cgroup_each(const char *root, const char *controller, cgroup_visit *visit, void *ctx)
{
    char proc[FOLDER_BYTES];
    snprintf(proc, sizeof proc, "%s/proc/self", root);
    char *text = cgroup_read(proc, "cgroup");
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        visit_line(root, line, controller, visit, ctx);
    }
    free(text);
}
