/* lane_samples: small kernels that show what the lane runner does and finds. */
#ifndef TESTS_GPU_HOST_LANE_SAMPLES_H
#define TESTS_GPU_HOST_LANE_SAMPLES_H

#include "kernels/cuda/device_types.h"
#include "lane_runner.h"

typedef struct {
    gpu_ptr in, out;
    int32_t mode;
} sample_args;

#define LANE_SAMPLES(X)                                                       \
    X(sample_sums) X(sample_turn) X(sample_shuffles) X(sample_votes) X(sample_integers) X(sample_numbers) \
    X(sample_copies) X(sample_matrices) X(sample_mma) X(sample_wrong) X(sample_idle_warps) X(sample_order)

#ifdef __cplusplus
extern "C" {
#endif
#define LANE_SAMPLE(name) extern const lane_kernel_entry name##_entry;
LANE_SAMPLES(LANE_SAMPLE)
#ifdef __cplusplus
}
#endif

/* Modes: of sample_turn; of sample_mma; of sample_wrong. */
enum { TURN_WITH_BARRIER, TURN_WITHOUT_BARRIER, TURN_WITH_SYNCWARP, TURN_WITH_SHUFFLE };
enum { MMA_S8_K32, MMA_S8_K16, MMA_F16, MMA_BF16, MMA_TF32, MMA_KINDS };
enum { WRONG_HALF_A_WARP, WRONG_OPERATION, WRONG_EARLY_END, WRONG_WARP_ENDS, WRONG_ALIGNMENT, WRONG_ASYNC_ALIGNMENT,
       WRONG_HOST_ADDRESS, WRONG_STATIC_SIZE, WRONG_NO_DYNAMIC, WRONG_KINDS };

#endif
