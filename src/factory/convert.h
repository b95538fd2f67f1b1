/* convert: a released checkpoint into a GGUF file.
 *
 * Opens the folder, checks that every tensor of the model is there with its
 * shape and dtype before anything is written, then streams tensor by tensor:
 * memory is a few row blocks, whatever the checkpoint's size. The file appears
 * under its name when it is complete. */
#ifndef FACTORY_CONVERT_H
#define FACTORY_CONVERT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/log.h"
#include "ds4_status.h"
#include "factory/tensors.h"

typedef struct {
    const char *dir, *out;
    const char *recipe;             /* recipe_make's names                       */
    file_layout layout;
    bool        overwrite;
    int         n_threads;          /* 0: one per core                           */
    log_sink    log;                /* what was skipped, defaulted or fell back  */
    /* After each block of rows, in bytes of output. false cancels. May be NULL. */
    bool      (*progress)(void *ctx, const char *tensor, uint64_t done, uint64_t total);
    void       *progress_ctx;
} convert_options;

convert_options convert_defaults(void);

ds4_status convert_run(const convert_options *o, ds4_error *err);

#endif
