/* ptx_run: runs nvcc's PTX of a kernel over a grid on the CPU, 32 lanes at a time.
 *
 * A second judge of the kernels, beside the lane runner: it sees what the compiler made of them, inline
 * assembly and argument structs included. Strict: what it does not know, and what a card would trap or
 * leave undefined, ends the process with kernel, line and thread. The text is the .ptx files of the folder
 * DS4_TEST_PTX. One thread at a time per launch; launches of several threads do not meet. */
#ifndef TESTS_GPU_HOST_PTX_RUN_H
#define TESTS_GPU_HOST_PTX_RUN_H

#include <stddef.h>

#include "lane_runner.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As lane_run. LANES_FORWARD: lanes that diverge run in the text's order and meet again as soon as they
 * can, copies land as late as they may; LANES_BACKWARD: they run apart for as long as they may, copies land
 * at once; LANES_SHUFFLED: either, and warps take turns after few steps. */
void ptx_run(const lane_kernel_entry *kernel, const unsigned grid[3], unsigned block, unsigned shared,
             const void *args, lane_order order);

/* Somebody has waited: the launches so far are over, and no later one starts beside them. */
void ptx_settled(void);

/* ptx_run of one kernel of one file. */
void ptx_run_file(const char *path, const char *kernel, const unsigned grid[3], unsigned block, unsigned shared,
                  const void *args, size_t args_bytes, lane_order order);

/* Decodes every kernel of every file in DS4_TEST_PTX; returns how many, or ends the process. */
int ptx_decode_all(void);

#ifdef __cplusplus
}
#endif
#endif
