/* A file in memory: open it, look at everything, close it. */
#include <stddef.h>
#include <stdint.h>

#include "gguf/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned sink;      /* keeps the reads */

static void walk_value(const gguf *g, const gguf_value *v)
{
    uint64_t cursor = 0;
    int64_t i;
    double d;
    slice s;
    for (uint64_t k = 0; k < v->count && k < 64; k++) {
        sink += gguf_array_int(v, k, &i);
        sink += gguf_array_float(v, k, &d);
    }
    while (gguf_array_string(v, &cursor, &s)) sink += s.len ? (unsigned)s.data[s.len - 1] : 0;
    if (v->bytes) sink += v->data[v->bytes - 1];

    char key[128];      /* a longer one is looked for by its beginning: missing */
    const size_t n = v->key.len < sizeof key ? v->key.len : sizeof key - 1;
    memcpy(key, v->key.data, n);
    key[n] = 0;
    sink += gguf_get_int(g, key, 0, INT64_MAX, &i, NULL);
    sink += gguf_get_float(g, key, &d, NULL);
    sink += gguf_get_string(g, key, &s, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    gguf *g;
    if (gguf_open_memory(&g, data, size, NULL, NULL)) return 0;
    for (int i = 0; i < gguf_n_values(g); i++) walk_value(g, gguf_value_at(g, i));
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        if (gguf_find_tensor(g, t->name) != t) __builtin_trap();
        sink += t->data[0] + t->data[t->bytes - 1];
    }
    if (gguf_tensor_bytes(g) > size) __builtin_trap();
    gguf_close(g);
    return 0;
}
