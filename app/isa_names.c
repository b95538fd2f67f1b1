#include "isa_names.h"

#include <string.h>

#include "base/checked.h"
#include "kernels/cpu/cpu_kernels.h"

bool isa_mask_parse(const char *text, uint32_t *mask)
{
    static const struct { const char *name; uint32_t bits; } names[] = {
        { "auto", ~0u }, { "ref", 0 }, { "avx2", ISA_AVX2 }, { "neon", ISA_NEON },
        { "neon_i8mm", ISA_NEON | ISA_NEON_I8MM },
        { "avx512", ISA_AVX2 | ISA_AVX512 },    /* the upper rung stands on the lower */
        { "avx512vbmi", ISA_AVX2 | ISA_AVX512 | ISA_AVX512_VBMI },
    };
    *mask = 0;
    for (const char *at = text; ; at++) {
        const size_t len = strcspn(at, ",");
        size_t i = 0;
        while (i < countof(names) && (strlen(names[i].name) != len || memcmp(names[i].name, at, len))) i++;
        if (i == countof(names)) return false;
        *mask |= names[i].bits;
        at += len;
        if (!*at) return true;
    }
}
