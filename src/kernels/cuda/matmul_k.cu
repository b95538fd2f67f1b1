/* matmul_k: products with super-blocks of 256. */
#include "kernels/cuda/matmul_blocks.cuh"

MATMUL_TUNED_KERNELS(Q2_K, 2, 1)
MATMUL_TUNED_KERNELS(Q4_K, 2, 1)
MATMUL_GENERAL_KERNELS(Q3_K)
MATMUL_GENERAL_KERNELS(Q5_K)
MATMUL_GENERAL_KERNELS(Q6_K)
