/* mock_cuda: a driver for cuda_driver.c to talk to, which keeps account of the calls and can fail any.
 *
 * Kernels are the lane runner's; work is done when it is asked for, or kept in a capture. What a driver
 * refuses is refused: work without a current context, handles that are no more. */
#ifndef TESTS_GPU_HOST_MOCK_CUDA_H
#define TESTS_GPU_HOST_MOCK_CUDA_H

#include <stdbool.h>

#include "kernels/cuda/cuda_api.h"
#include "kernels/cuda/cuda_image.h"

/* Where launches that begin early are refused. */
typedef enum {
    MOCK_NOWHERE, MOCK_IN_STREAMS,
    MOCK_IN_CAPTURES,           /* which can go on without */
    MOCK_SPOIL_CAPTURES,        /* which then take no more */
    MOCK_AT_THE_END, MOCK_AT_INSTANTIATION, MOCK_AT_THE_RUN     /* of captures with such launches */
} mock_refusal;

/* What the machine has; set before the first call. */
typedef struct {
    int    cards, version, major, minor, mode;
    bool   integrated;
    size_t bytes;
    mock_refusal early;
} mock_machine;

/* Forgets all calls. The machine: one H200 with a driver for 13.0. */
void mock_reset(void);
extern mock_machine mock_has;
extern void (*mock_watch)(void);       /* called before every call is looked at, by one thread at a time; NULL: nobody */

cuda_api mock_cuda(void);
/* Two images: "rows" with the kernels whose names begin so or are rms_norm, "rest" with all others. */
extern const cuda_image_set mock_images;

/* The n-th call of `name` from now on (of any call: NULL) gives `r`; every later one too where it stays. */
void mock_fail(const char *name, int n, cu_result r, bool stays);
bool mock_fails(void);                      /* a call is still to fail, or all do */
int  mock_calls(const char *name);          /* so far; NULL: all */
int  mock_alive(void);                      /* objects and memory that were not given back */
int  mock_sizes_seen(void);                 /* dynamic shared memory that was last allowed a kernel */

#endif
