/* Stands before the library's own in whole programs: the driver that is none, and images of kernels that it knows.
 * What becomes of the device is said through fate.h. */
#include "mock_cuda.h"

#include "kernels/backend.h"
#include "tiny/fate.h"

const cuda_image_set cuda_images = { (const cuda_image[]){ { "rows", "rows" }, { "rest", "rest" } }, 2, 13000, "90a" };

const char *backend_cuda_archs(void) { return cuda_images.archs; }

/* The driver's answer is that of a kernel that went astray, until the context is reset. */
static void watch(void)
{
    mock_has.cards = !fate_away();
    if (mock_fails()) return;
    const int n = fate_loss();
    if (n >= 0) mock_fail(NULL, n + 1, CU_ILLEGAL_ADDRESS, true);
}

/* Little memory, so that reading it lane by lane takes no time. */
static void __attribute__((constructor)) set_up(void)
{
    mock_reset();
    mock_has.bytes = (size_t)256 << 20;
    mock_watch = watch;
}

ds4_status cuda_api_load(cuda_api *api, ds4_error *err)
{
    (void)err;
    *api = mock_cuda();
    return DS4_OK;
}
