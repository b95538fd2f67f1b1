#include "kernels/cuda/cuda_image.h"

#include "kernels/backend.h"

#ifdef CUDA_IMAGES

/* CUDA_IMAGES is X(name) X(name) ..., CUDA_IMAGE_DIR the folder of name.fatbin. */
#define EMBED(family)                                                         \
    __asm__(".section .rodata\n.balign 64\ncuda_image_" #family ":\n"         \
            ".incbin \"" CUDA_IMAGE_DIR "/" #family ".fatbin\"\n.previous\n"); \
    extern const unsigned char cuda_image_##family[] __attribute__((visibility("hidden")));
#define X EMBED
CUDA_IMAGES
#undef X

#define X(family) { #family, cuda_image_##family },
static const cuda_image images[] = { CUDA_IMAGES };
const cuda_image_set cuda_images = { images, sizeof images / sizeof *images, CUDA_TOOLKIT, CUDA_ARCHS };

#else

const cuda_image_set cuda_images = { 0, 0, 0, "" };

#endif

const char *backend_cuda_archs(void) { return cuda_images.archs; }
