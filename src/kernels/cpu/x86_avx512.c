/* x86_avx512: the rung. Needs AVX-512 F, BW, VL, DQ and VNNI; what its parts do not
 * replace stays with AVX2. */
#include "kernels/cpu/x86_avx512.h"

void cpu_kernels_avx512(cpu_kernels *k)
{
    cpu_q32_avx512(k);
    cpu_kq_avx512(k);
    cpu_float_avx512(k);
    cpu_quantise_avx512(k);
}
