/* Bytes as a safetensors file: opened, every array's ends touched, closed. */
#include <stddef.h>
#include <stdint.h>

#include "factory/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    safetensors s;
    ds4_error   err;
    volatile uint8_t touched = 0;
    if (safetensors_open_memory(&s, data, n, "fuzz", &err)) return 0;
    for (int i = 0; i < s.n; i++) {
        char shape[64];
        stored_shape_text(&s.items[i], shape, sizeof shape);
        if (s.items[i].bytes) touched = (uint8_t)(touched + s.items[i].data[0] + s.items[i].data[s.items[i].bytes - 1]);
    }
    safetensors_close(&s);
    return 0;
}
