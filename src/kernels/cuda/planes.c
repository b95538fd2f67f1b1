#include "kernels/cuda/planes.h"

#include <stddef.h>

#include "base/checked.h"
#include "quant/quant.h"

#define PLANES_ROW(name, len, bytes, n, f0, l0, f1, l1, f2, l2, f3, l3, f4, l4) \
    [QUANT_##name] = { len, bytes, n, { { f0, l0 }, { f1, l1 }, { f2, l2 }, { f3, l3 }, { f4, l4 } } },
static const planes_of_type table[QUANT_COUNT] = { PLANES_TYPES(PLANES_ROW) };

const planes_of_type *planes_of(int type)
{
    return type >= 0 && type < QUANT_COUNT && table[type].n ? &table[type] : NULL;
}

uint64_t planes_offset(const planes_of_type *t, int64_t blocks, int p)
{
    uint64_t at = 0;
    for (int i = 0; i < p; i++)
        at += round_up((uint64_t)blocks * (uint64_t)t->plane[i].len, PLANE_ALIGN);
    return at;
}

uint64_t planes_bytes(const planes_of_type *t, int64_t blocks) { return planes_offset(t, blocks, t->n); }
