/* model: a small synthetic model for whole-engine tests, made once per program. */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include <stdio.h>
#include "factory/synth.h"
#include "runner.h"

/* The tiny shape in one of synth's mixes; NULL (and a failed test) when it can not be made. */
static inline const char *tiny_model(const char *mix)
{
    char name[64];
    snprintf(name, sizeof name, "tiny-%s.gguf", mix);
    static char path[512];
    snprintf(path, sizeof path, "%s", test_scratch(name));
    FILE *f = fopen(path, "rb");
    if (f) {
        fclose(f);
        return path;
    }
    ds4_error err;
    synth_options o = synth_defaults();
    o.mix = mix;
    o.out = path;
    if (!synth_run(&o, &err)) return path;
    test_fail(__FILE__, __LINE__, "making %s: %s", path, err.message);
    return NULL;
}

#endif
