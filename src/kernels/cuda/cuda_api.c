#include "kernels/cuda/cuda_api.h"

#include <dlfcn.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"

_Static_assert(sizeof(cu_launch_attribute) == 72 && sizeof(cu_launch_config) == 56, "the driver's layouts");

static void *open_library(void)
{
    /* By the loader's paths; then where WSL keeps it, and where hosts of containers and small machines mount it. */
    static const char *const names[] = { "libcuda.so.1", "libcuda.so", "/usr/lib/wsl/lib/libcuda.so.1",
                                         "/usr/local/nvidia/lib64/libcuda.so.1" };
    for (size_t i = 0; i < countof(names); i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (library) return library;
    }
    return NULL;
}

/* A function's address into its pointer, as POSIX has it. */
static bool find(void *library, const char *name, void *pointer)
{
    void *f = dlsym(library, name);
    memcpy(pointer, &f, sizeof f);
    return f != NULL;
}

ds4_status cuda_api_load(cuda_api *api, ds4_error *err)
{
    void *library = open_library();
    const char *lacks = NULL;
    if (!library)
        return ds4_fail(err, DS4_ENOTFOUND,
                        "cuda: no NVIDIA driver was found (libcuda.so.1); install the one for this card, "
                                            "or choose the cpu backend");
#define FIND(name, args)       if (!find(library, #name, &api->name) && !lacks) lacks = #name;
#define FIND_NEWER(name, args) find(library, #name, &api->name);
    CUDA_API(FIND)
    CUDA_API_NEWER(FIND_NEWER)
    if (!lacks) return DS4_OK;
    dlclose(library);
    return ds4_fail(err, DS4_EDEVICE,
                    "cuda: the NVIDIA driver is too old (it has no %s); install one from 2021 or later", lacks);
}
