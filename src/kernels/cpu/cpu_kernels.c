#include "kernels/cpu/cpu_kernels.h"

#include <string.h>

#include "quant/float_formats.h"

/* DS4_SCALAR: a build of the definitions alone (Makefile). */
#if defined(DS4_SCALAR) || !(defined(__x86_64__) || defined(__aarch64__))

uint32_t cpu_isa_present(void) { return 0; }

static void climb(cpu_kernels *k, uint32_t isa)
{
    (void)k;
    (void)isa;
}

#elif defined(__x86_64__)
#include <cpuid.h>

/* __builtin_cpu_supports asks the processor and, for wide registers, whether
 * the system saves them. F16C lives in the same registers as AVX2, but not
 * every compiler has a name for it: read its bit. */
uint32_t cpu_isa_present(void)
{
    unsigned a, b, c = 0, d;
    __builtin_cpu_init();
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;

    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !(c & bit_F16C)) return 0;
    uint32_t isa = ISA_AVX2;

    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni")) isa |= ISA_AVX512;
    if ((isa & ISA_AVX512) && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni"))
        isa |= ISA_AVX512_VBMI;
    return isa;
}

static void climb(cpu_kernels *k, uint32_t isa)
{
    if (!(isa & ISA_AVX2)) return;
    cpu_kernels_avx2(k);
    attn_kernels_avx2(&k->attn);
    index_kernels_avx2(&k->attn);

    if (!(isa & ISA_AVX512)) return;
    cpu_kernels_avx512(k);
    attn_kernels_avx512(&k->attn);
    index_kernels_avx512(&k->attn);

    if (!(isa & ISA_AVX512_VBMI)) return;
    cpu_kernels_avx512vbmi(k);
}

#else

#if defined(__APPLE__)
#include <sys/sysctl.h>

/* Every Apple processor that runs this system has the dot product. */
uint32_t cpu_isa_present(void)
{
    int i8mm = 0;
    size_t size = sizeof i8mm;
    if (sysctlbyname("hw.optional.arm.FEAT_I8MM", &i8mm, &size, NULL, 0)) return ISA_NEON;  /* no such name: none */
    return i8mm ? ISA_NEON | ISA_NEON_I8MM : ISA_NEON;
}
#else
#include <sys/auxv.h>

uint32_t cpu_isa_present(void)
{
    const unsigned long asimddp = 1ul << 20, i8mm = 1ul << 13;      /* HWCAP_ASIMDDP, HWCAP2_I8MM */
    if (!(getauxval(AT_HWCAP) & asimddp)) return 0;
    return getauxval(AT_HWCAP2) & i8mm ? ISA_NEON | ISA_NEON_I8MM : ISA_NEON;
}
#endif

static void climb(cpu_kernels *k, uint32_t isa)
{
    if (!(isa & ISA_NEON)) return;
    cpu_kernels_neon(k);
    attn_kernels_neon(&k->attn);

    if (!(isa & ISA_NEON_I8MM)) return;
    cpu_kernels_neon_i8mm(k);
}

#endif

void cpu_kernels_init(cpu_kernels *k, uint32_t isa_allowed)
{
    cpu_kernels_ref(k);
    climb(k, isa_allowed & cpu_isa_present());
}

const char *cpu_isa_name(uint32_t isa)
{
    return isa & ISA_AVX512_VBMI ? "avx512vbmi"
         : isa & ISA_AVX512 ? "avx512"
         : isa & ISA_AVX2   ? "avx2"
         : isa & ISA_NEON_I8MM ? "neon_i8mm"
         : isa & ISA_NEON   ? "neon"
         : "ref";
}

/* ---- activation rows ------------------------------------------------------- */

static uint64_t to_64(uint64_t n) { return (n + 63) & ~(uint64_t)63; }

static uint64_t block_bytes(quant_type type, int n)
{
    const quant_info *q = quant_get(type);
    return (uint64_t)((n + q->block_len - 1) / q->block_len) * (uint64_t)q->block_bytes;
}

static bool has_planes(quant_type type) { return type == QUANT_Q8_0 || type == QUANT_Q8_1; }

activation_planes activation_planes_of(const uint8_t *row, quant_type type, int n)
{
    const uint8_t *codes = row + to_64(block_bytes(type, n));
    const uint8_t *d = codes + to_64((uint64_t)n);
    return (activation_planes){ (const int8_t *)codes, (const float *)(const void *)d,
                                (const int32_t *)(const void *)(d + to_64((uint64_t)n / 8)) };
}

uint64_t activation_bytes(quant_type type, int n)
{
    uint64_t bytes = to_64(block_bytes(type, n));
    if (has_planes(type)) bytes += to_64((uint64_t)n) + 2 * to_64((uint64_t)n / 8);
    return bytes;
}

void activation_fill_planes(uint8_t *row, quant_type type, int n)
{
    const activation_planes p = activation_planes_of(row, type, n);
    int8_t *codes = (int8_t *)(uintptr_t)p.codes;
    float *d = (float *)(uintptr_t)p.d;
    int32_t *sums = (int32_t *)(uintptr_t)p.sums;
    const int bytes = quant_get(type)->block_bytes, header = bytes - 32;    /* d, or d and s */

    for (int i = 0; i < n / 32; i++) {
        const uint8_t *block = row + (size_t)i * (size_t)bytes;
        uint16_t half;
        memcpy(&half, block, sizeof half);
        memcpy(codes + 32 * i, block + header, 32);
        d[i] = half_to_float(half);
        sums[i] = 0;
        for (int j = 0; j < 32; j++) sums[i] += codes[32 * i + j];
    }
}
