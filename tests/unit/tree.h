/* tree: a folder that looks like a machine's, for code that reads /proc and /sys. */
#ifndef TESTS_UNIT_TREE_H
#define TESTS_UNIT_TREE_H

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "runner.h"

static inline const char *tree_root(const char *name)
{
    const char *root = test_scratch(name);
    mkdir(root, 0700);
    return root;
}

/* root/path with this text; folders on the way are made. */
static inline void tree_put(const char *root, const char *path, const char *text)
{
    char whole[1024];
    snprintf(whole, sizeof whole, "%s/%s", root, path);
    for (char *at = whole + strlen(root) + 1; (at = strchr(at, '/')); at++) {
        *at = 0;
        mkdir(whole, 0700);
        *at = '/';
    }
    FILE *f = fopen(whole, "w");
    if (!f) {
        test_fail(__FILE__, __LINE__, "can not write %s", whole);
        return;
    }
    fputs(text, f);
    fclose(f);
}

#endif
