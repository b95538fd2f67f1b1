/* lane_runner: runs one kernel over a grid on the CPU (lanes.h). One thread at a time. */
#ifndef TESTS_GPU_HOST_LANE_RUNNER_H
#define TESTS_GPU_HOST_LANE_RUNNER_H

#include <stddef.h>

/* Set in every device address, so that it is none on the host: kernels come to memory through gpu_at,
 * which takes it away, and through nothing else. */
#define LANE_ADDRESS (1ull << 52)

#ifdef __cplusplus
extern "C" {
#endif

typedef void lane_kernel(const void *args);

typedef struct {
    const char  *name;
    lane_kernel *run;
    size_t       args_bytes;
} lane_kernel_entry;

/* By cuda_kernel_id (kernels/cuda/kernels.h); in lane_table.cpp. */
extern const lane_kernel_entry lane_kernels[];

typedef enum {
    LANES_FORWARD, LANES_BACKWARD,      /* order of lanes, warps and blocks */
    LANES_SHUFFLED                      /* another order at every turn      */
} lane_order;

/* Runs grid[0]*grid[1]*grid[2] blocks of `block` threads with `shared` bytes of dynamic shared
 * memory. Ends the process with a sentence where the kernel does what CUDA leaves undefined. */
void lane_run(const lane_kernel_entry *kernel, const unsigned grid[3], unsigned block, unsigned shared,
              const void *args, lane_order order);
typedef void lane_runner(const lane_kernel_entry *kernel, const unsigned grid[3], unsigned block, unsigned shared,
                         const void *args, lane_order order);

#ifdef __cplusplus
}
#endif
#endif
