/* golden: numbers that another implementation computed, and our pass held
 * against them.
 *
 * A folder in the form of tests/data/golden/tiny-a: golden.json is the index,
 * golden.f32 and golden.i32 the numbers, model.safetensors the weights. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include <json-c/json.h>

#include "ds4_status.h"
#include "gguf/gguf.h"

typedef struct {
    json_object *index;         /* owned */
    float       *f32;           /* owned, whole file */
    int32_t     *i32;           /* owned; NULL when there is no such file */
    size_t       n_f32, n_i32;
} golden;

ds4_status golden_open(golden *g, const char *dir, ds4_error *err);
void       golden_close(golden *g);

/* The numbers that {"file","offset","shape"} describes; NULL when out of range. */
const float   *golden_floats(const golden *g, json_object *tensor, size_t *n);
const int32_t *golden_ints(const golden *g, json_object *tensor, size_t *n);
/* Integers of a JSON array, at most cap; returns their number. */
int golden_list(json_object *array, int32_t *out, int cap);

json_object *golden_get(json_object *o, const char *key);

/* Holds every op of one run against the trace, in the order of computation. */
typedef struct {
    bool   agrees;
    char   tensor[48];          /* the first that is out of tolerance, "L3/kv"  */
    double difference, tolerance;
    int    compared;            /* tensors */
} golden_verdict;

ds4_status golden_trace(const golden *g, const gguf *model, uint32_t isa_mask, golden_verdict *out, ds4_error *err);

#endif
