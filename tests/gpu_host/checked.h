/* checked: an op on the CUDA backend over the lane runner or a card, judged by the scalar definition.
 *
 * checked_open gives a check: backend around it; an op that differs fails with the sentence
 * that names op, layer and element. Buffers are mirrored, so a test fills views with upload
 * and may look at them with view_f32 after an op. With DS4_TEST_DEVICE=cuda in the environment
 * the device is this machine's first card, in a program that was linked with the kernels. */
#ifndef TESTS_GPU_HOST_CHECKED_H
#define TESTS_GPU_HOST_CHECKED_H

#include "runner.h"

#include "base/random.h"
#include "fake_device.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_internal.h"

/* limits are those of the ops to come. exact: float activations. */
backend *checked_open(const backend_limits *limits, bool exact, lane_order order);
/* The same over a device of the caller's, which it takes. */
backend *checked_open_on(gpu_device *d, const backend_limits *limits, bool exact);

/* A new buffer of rows of F32 or I32, cleared. */
view     checked_view(backend *b, int64_t rows, int cols, quant_type type);
/* The same with seeded floats in -scale..scale. */
view     checked_random(backend *b, int64_t rows, int cols, float scale, uint64_t seed);
/* A weight of any type, encoded from seeded floats in host memory that lives as long as the process, and
 * adopted. rows_each as in backend.adopt. */
view     checked_weight(backend *b, int64_t rows, int cols, quant_type type, weight_use use, int64_t rows_each,
                        uint64_t seed);
void     checked_free(backend *b, view v);

#define CHECKED(b, op, ...)                                                   \
    do {                                                                      \
        const ds4_status st_ = (b)->ops.op(&(b)->queue, &(op##_args){ __VA_ARGS__ }); \
        EXPECT_OK(st_, (b)->queue.error);                                     \
    } while (0)

#endif
