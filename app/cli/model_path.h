/* model_path: which model file a run uses, and where it was looked for. */
#ifndef CLI_MODEL_PATH_H
#define CLI_MODEL_PATH_H

#include <limits.h>
#include "ds4_status.h"

#ifndef PATH_MAX
#define PATH_MAX 4096
#endif

typedef struct {
    char        path[PATH_MAX];
    const char *found_by;           /* "--model", "DS4_MODEL", "current folder", "bundled" */
} model_path;

/* named: from -m or DS4_MODEL (from_env), or NULL to search: ./ds4flash.gguf,
 * then the bundled model beside this executable. DS4_ENOTFOUND: the sentence
 * tells what was looked for and how to get a model. */
ds4_status model_path_find(model_path *out, const char *named, int from_env, ds4_error *err);

/* A file that comes with the program, by name; false: not found. */
int model_path_bundled(char out[PATH_MAX], const char *name);

#endif
