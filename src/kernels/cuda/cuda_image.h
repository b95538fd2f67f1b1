/* cuda_image: the compiled kernels within the program.
 *
 * `make cuda` compiles every .cu file to one image for all architectures and links a table of them before
 * the library's own, which is empty. */
#ifndef KERNELS_CUDA_CUDA_IMAGE_H
#define KERNELS_CUDA_CUDA_IMAGE_H

#include <stdint.h>

typedef struct {
    const char *name;           /* of the file: "rows"   */
    const void *data;           /* what the driver loads */
} cuda_image;

typedef struct {
    const cuda_image *image;
    int               n;
    int               toolkit;  /* version of the compiler, 13000 for 13.0 */
    const char       *archs;    /* "80 90a 120 ptx80 ptx120": machine code and what drivers can compile further */
} cuda_image_set;

extern const cuda_image_set cuda_images;

#endif
