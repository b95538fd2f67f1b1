/* matmul_q8: products with Q8_0, what most matrices of the model are. */
#include "kernels/cuda/matmul_blocks.cuh"

MATMUL_TUNED_KERNELS(Q8_0, 4, 4)
