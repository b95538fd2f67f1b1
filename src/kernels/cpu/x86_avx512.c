#include "kernels/cpu/cpu_kernels.h"
void cpu_kernels_avx512(cpu_kernels *k) { (void)k; }
