/* lane_table: every kernel of kernels.h by its id. */
#include "lane_runner.h"

extern "C" {
#include "kernels/cuda/kernels.h"

#define DECLARE(name, args) void name(const void *p);
CUDA_KERNELS(DECLARE)

#define ENTRY(name, args) { #name, name, sizeof(args) },
extern const lane_kernel_entry lane_kernels[];
const lane_kernel_entry lane_kernels[] = { CUDA_KERNELS(ENTRY) };
}
