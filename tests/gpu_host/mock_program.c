/* Stands before the library's own in whole programs: the driver that is none, and images of kernels that it knows. */
#include "mock_cuda.h"

#include "kernels/backend.h"

const cuda_image_set cuda_images = { (const cuda_image[]){ { "rows", "rows" }, { "rest", "rest" } }, 2, 13000, "90a" };

const char *backend_cuda_archs(void) { return cuda_images.archs; }

/* Little memory, so that reading it lane by lane takes no time. */
static void __attribute__((constructor)) set_up(void)
{
    mock_reset();
    mock_has.bytes = (size_t)256 << 20;
}

ds4_status cuda_api_load(cuda_api *api, ds4_error *err)
{
    (void)err;
    *api = mock_cuda();
    return DS4_OK;
}
