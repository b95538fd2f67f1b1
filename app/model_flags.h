/* model_flags: the flags about the model, thinking and sampling that ds4 and ds4-server share.
 *
 * Flags beat the environment (DS4_MODEL, DS4_BACKEND, DS4_CTX), which beats the defaults. Everything is
 * borrowed from argv and the environment. */
#ifndef APP_MODEL_FLAGS_H
#define APP_MODEL_FLAGS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/options.h"
#include "ds4_status.h"

typedef enum { MODE_THINK, MODE_THINK_MAX, MODE_NOTHINK } think_mode;

typedef struct {
    /* model and machine */
    const char *model;          /* NULL: search                                      */
    bool        model_from_env;
    const char *backend, *kv_type, *rounding, *isa, *numa;
    uint32_t    isa_mask;
    int         ctx, threads, device;
    int         prefill_chunk;  /* 0: as memory allows                               */
    const char *expert_cache_text;
    uint64_t    expert_cache;   /* bytes; 0: auto                                    */
    bool        quality, warm_weights, huge_pages, backend_given, ctx_given;
    const char *chdir_to;

    /* thinking */
    int         mode;           /* think_mode */
    const char *effort_profile;
    int         think_max_min_ctx, think_budget;

    /* sampling */
    float       temp, top_p, min_p;
    bool        temp_given, top_p_given;
    int         top_k;
} model_flags;

model_flags model_flags_defaults(void);

/* Rows of a program's table; each returns how many it wrote. */
int model_flags_model_rows(model_flags *f, option *table);
int model_flags_thinking_rows(model_flags *f, option *table);
int model_flags_sampling_rows(model_flags *f, option *table);

/* After parsing. DS4_EARG: the sentence says which flag and why. */
ds4_status model_flags_environment(model_flags *f, ds4_error *err);
ds4_status model_flags_check(model_flags *f, ds4_error *err);

/* A context size as --ctx, DS4_CTX and /ctx take it: "32768", "100k". */
ds4_status model_flags_parse_ctx(const char *text, int *ctx, ds4_error *err);

/* A sampling value as /set and the flags accept it. */
bool sampling_in_range(const char *key, double v);

#endif
