/* ptx_block: runs one launch of a decoded kernel. */
#ifndef TESTS_GPU_HOST_PTX_BLOCK_H
#define TESTS_GPU_HOST_PTX_BLOCK_H

#include "lane_runner.h"
#include "ptx_program.h"

namespace ptx {

void settle(void);
void run_grid(const program &p, const unsigned grid[3], unsigned threads, unsigned dynamic, const void *args, lane_order order);

}

#endif
