#include "kernels/cpu/cpu_kernels.h"

#if defined(__x86_64__)
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
    return isa;
}

static void climb(cpu_kernels *k, uint32_t isa)
{
    if (!(isa & ISA_AVX2)) return;
    cpu_kernels_avx2(k);

    if (!(isa & ISA_AVX512)) return;
    cpu_kernels_avx512(k);
}

#elif defined(__aarch64__)

#if defined(__APPLE__)
/* Every Apple processor that runs this system has the dot product. */
uint32_t cpu_isa_present(void) { return ISA_NEON; }
#else
#include <sys/auxv.h>

uint32_t cpu_isa_present(void)
{
    const unsigned long asimddp = 1ul << 20;        /* HWCAP_ASIMDDP */
    return getauxval(AT_HWCAP) & asimddp ? ISA_NEON : 0;
}
#endif

static void climb(cpu_kernels *k, uint32_t isa)
{
    if (!(isa & ISA_NEON)) return;
    cpu_kernels_neon(k);
}

#else

uint32_t cpu_isa_present(void) { return 0; }

static void climb(cpu_kernels *k, uint32_t isa)
{
    (void)k;
    (void)isa;
}

#endif

void cpu_kernels_init(cpu_kernels *k, uint32_t isa_allowed)
{
    cpu_kernels_ref(k);
    climb(k, isa_allowed & cpu_isa_present());
}

const char *cpu_isa_name(uint32_t isa)
{
    return isa & ISA_AVX512 ? "avx512"
         : isa & ISA_AVX2   ? "avx2"
         : isa & ISA_NEON   ? "neon"
         : "ref";
}
