/* cuda_api: the part of the CUDA driver's interface that is used here, found at run time.
 *
 * Names, numbers and layouts are those of the driver's binary interface; the library is never a
 * condition for the program to start. */
#ifndef KERNELS_CUDA_CUDA_API_H
#define KERNELS_CUDA_CUDA_API_H

#include <stddef.h>
#include <stdint.h>
#include "ds4_status.h"

typedef int      cu_result;
typedef int      cu_card;
typedef uint64_t cu_ptr;
typedef struct cu_context_  *cu_context;
typedef struct cu_stream_   *cu_stream;
typedef struct cu_event_    *cu_event;
typedef struct cu_module_   *cu_module;
typedef struct cu_function_ *cu_function;
typedef struct cu_graph_    *cu_graph;
typedef struct cu_exec_     *cu_exec;

enum {
    CU_OK = 0, CU_OUT_OF_MEMORY = 2, CU_DEINITIALIZED = 4, CU_STUB_LIBRARY = 34, CU_DEVICE_UNAVAILABLE = 46,
    CU_NO_DEVICE = 100, CU_INVALID_IMAGE = 200, CU_INVALID_CONTEXT = 201, CU_NO_BINARY_FOR_GPU = 209,
    CU_ECC_UNCORRECTABLE = 214, CU_INVALID_PTX = 218, CU_NVLINK_UNCORRECTABLE = 220, CU_JIT_COMPILER_NOT_FOUND = 221,
    CU_UNSUPPORTED_PTX_VERSION = 222, CU_CONTAINED = 226, CU_NOT_FOUND = 500, CU_ILLEGAL_ADDRESS = 700,
    CU_LAUNCH_OUT_OF_RESOURCES = 701, CU_LAUNCH_TIMEOUT = 702, CU_CONTEXT_IS_DESTROYED = 709, CU_ASSERT = 710,
    CU_HARDWARE_STACK_ERROR = 714, CU_ILLEGAL_INSTRUCTION = 715, CU_MISALIGNED_ADDRESS = 716,
    CU_INVALID_ADDRESS_SPACE = 717, CU_INVALID_PC = 718, CU_LAUNCH_FAILED = 719, CU_TENSOR_MEMORY_LEAK = 721,
    CU_NOT_SUPPORTED = 801, CU_SYSTEM_NOT_READY = 802, CU_SYSTEM_DRIVER_MISMATCH = 803, CU_CAPTURE_INVALIDATED = 901,
    CU_UNKNOWN = 999
};
enum {
    CU_ATTRIBUTE_SM = 16, CU_ATTRIBUTE_INTEGRATED = 18, CU_ATTRIBUTE_MODE = 20, CU_ATTRIBUTE_L2 = 38,
    CU_ATTRIBUTE_MAJOR = 75, CU_ATTRIBUTE_MINOR = 76, CU_ATTRIBUTE_SHARED = 97
};
enum { CU_MODE_PROHIBITED = 2, CU_FUNCTION_DYNAMIC_SHARED = 8, CU_STREAM_NON_BLOCKING = 1, CU_CAPTURE_RELAXED = 2 };
enum { CU_EVENT_NO_TIMING = 2 };
enum { CU_HOST_PORTABLE = 1, CU_HOST_MAPPED = 2 };
enum { CU_LAUNCH_SERIAL_EARLY = 6 };            /* programmatic stream serialisation */

typedef struct {
    int     id, pad;
    union { int allowed; char room[64]; uint64_t aligned; } value;
} cu_launch_attribute;

typedef struct {
    unsigned  grid[3], block[3], shared;
    cu_stream stream;
    cu_launch_attribute *attributes;
    unsigned  n_attributes;
} cu_launch_config;

/* X(name, arguments). */
#define CUDA_API(X)                                                           \
    X(cuInit, (unsigned flags))                                               \
    X(cuDriverGetVersion, (int *version))                                     \
    X(cuGetErrorName, (cu_result r, const char **text))                       \
    X(cuGetErrorString, (cu_result r, const char **text))                     \
    X(cuDeviceGetCount, (int *n))                                             \
    X(cuDeviceGet, (cu_card *card, int index))                                \
    X(cuDeviceGetName, (char *name, int room, cu_card card))                  \
    X(cuDeviceTotalMem_v2, (size_t *bytes, cu_card card))                     \
    X(cuDeviceGetAttribute, (int *value, int attribute, cu_card card))        \
    X(cuDevicePrimaryCtxRetain, (cu_context *c, cu_card card))                \
    X(cuDevicePrimaryCtxRelease_v2, (cu_card card))                           \
    X(cuDevicePrimaryCtxReset_v2, (cu_card card))                             \
    X(cuCtxSetCurrent, (cu_context c))                                        \
    X(cuMemGetInfo_v2, (size_t *available, size_t *total))                    \
    X(cuMemAlloc_v2, (cu_ptr *p, size_t bytes))                               \
    X(cuMemFree_v2, (cu_ptr p))                                               \
    X(cuMemHostAlloc, (void **p, size_t bytes, unsigned flags))               \
    X(cuMemHostGetDevicePointer_v2, (cu_ptr *p, void *host, unsigned flags))  \
    X(cuMemFreeHost, (void *p))                                               \
    X(cuMemsetD8Async, (cu_ptr to, unsigned char value, size_t n, cu_stream s)) \
    X(cuMemcpyHtoDAsync_v2, (cu_ptr to, const void *from, size_t n, cu_stream s)) \
    X(cuMemcpyDtoHAsync_v2, (void *to, cu_ptr from, size_t n, cu_stream s))   \
    X(cuMemcpyDtoDAsync_v2, (cu_ptr to, cu_ptr from, size_t n, cu_stream s))  \
    X(cuStreamCreate, (cu_stream *s, unsigned flags))                         \
    X(cuStreamDestroy_v2, (cu_stream s))                                      \
    X(cuStreamSynchronize, (cu_stream s))                                     \
    X(cuStreamWaitEvent, (cu_stream s, cu_event e, unsigned flags))           \
    X(cuStreamBeginCapture_v2, (cu_stream s, int mode))                       \
    X(cuStreamEndCapture, (cu_stream s, cu_graph *g))                         \
    X(cuEventCreate, (cu_event *e, unsigned flags))                           \
    X(cuEventDestroy_v2, (cu_event e))                                        \
    X(cuEventRecord, (cu_event e, cu_stream s))                               \
    X(cuEventSynchronize, (cu_event e))                                       \
    X(cuEventElapsedTime, (float *ms, cu_event from, cu_event to))            \
    X(cuGraphInstantiateWithFlags, (cu_exec *x, cu_graph g, unsigned long long flags)) \
    X(cuGraphLaunch, (cu_exec x, cu_stream s))                                \
    X(cuGraphDestroy, (cu_graph g))                                           \
    X(cuGraphExecDestroy, (cu_exec x))                                        \
    X(cuModuleLoadData, (cu_module *m, const void *image))                    \
    X(cuModuleUnload, (cu_module m))                                          \
    X(cuModuleGetFunction, (cu_function *f, cu_module m, const char *name))   \
    X(cuFuncSetAttribute, (cu_function f, int attribute, int value))          \
    X(cuLaunchKernel, (cu_function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, \
                       unsigned shared, cu_stream s, void **args, void **extra))

/* Of newer drivers; NULL where there is none. */
#define CUDA_API_NEWER(X)                                                     \
    X(cuLaunchKernelEx, (const cu_launch_config *config, cu_function f, void **args, void **extra))

#define CUDA_API_MEMBER(name, args) cu_result (*name) args;
typedef struct { CUDA_API(CUDA_API_MEMBER) CUDA_API_NEWER(CUDA_API_MEMBER) } cuda_api;

/* The driver's library stays loaded: it has threads of its own. DS4_ENOTFOUND without one, DS4_EDEVICE when
 * it lacks something. */
ds4_status cuda_api_load(cuda_api *api, ds4_error *err);

#endif
