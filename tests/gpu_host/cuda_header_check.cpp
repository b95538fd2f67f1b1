/* cuda_header_check: cuda_api.h against the toolkit's cuda.h, by the compiler alone.
 *
 * Numbers, layouts, names and arguments that cuda_api.h states must be those of the header that the driver's
 * makers ship. Compiled and never run (test_cuda_compile.sh); MISTAKE gives it one that is wrong, which must be
 * noticed. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <type_traits>

#include "kernels/cuda/cuda_api.h"

#ifndef MISTAKE
#define MISTAKE 0               /* 1: all numbers, 2: all places; one function more, with 3: a name, 4: the number of */
#endif                          /* arguments, 5: the size of one, that are not those of cuda.h */
#if MISTAKE == 3
#define WRONG(X) X(cuMemAlloc, (cu_ptr *p, size_t bytes))
#elif MISTAKE == 4
#define WRONG(X) X(cuCtxSynchronize, (cu_context c))
#elif MISTAKE == 5
#define WRONG(X) X(cuMemFreeAsync, (int p, cu_stream s))
#else
#define WRONG(X)
#endif

/* Taken before cuda.h, whose macros give names other suffixes. */
#define OURS(name, args) typedef cu_result (*our_##name) args;
CUDA_API(OURS) CUDA_API_NEWER(OURS) WRONG(OURS)

namespace theirs {
#include <cuda.h>
}

#if CUDA_VERSION < 12080
#error "cuda.h of CUDA 12.8 or later is wanted: older ones do not know all of these numbers"
#endif

/* ---- numbers -------------------------------------------------------------------------- */

#define SAME(ours, name)                                                      \
    static_assert((int)(ours) == (int)theirs::name + (MISTAKE == 1), #ours " is not " #name)
#define ERROR(name) SAME(CU_##name, CUDA_ERROR_##name)

SAME(CU_OK, CUDA_SUCCESS);
ERROR(OUT_OF_MEMORY);
ERROR(DEINITIALIZED);
ERROR(STUB_LIBRARY);
ERROR(DEVICE_UNAVAILABLE);
ERROR(NO_DEVICE);
ERROR(INVALID_IMAGE);
ERROR(INVALID_CONTEXT);
ERROR(NO_BINARY_FOR_GPU);
ERROR(ECC_UNCORRECTABLE);
ERROR(INVALID_PTX);
ERROR(NVLINK_UNCORRECTABLE);
ERROR(JIT_COMPILER_NOT_FOUND);
ERROR(UNSUPPORTED_PTX_VERSION);
ERROR(CONTAINED);
ERROR(NOT_FOUND);
ERROR(ILLEGAL_ADDRESS);
ERROR(LAUNCH_OUT_OF_RESOURCES);
ERROR(LAUNCH_TIMEOUT);
ERROR(CONTEXT_IS_DESTROYED);
ERROR(ASSERT);
ERROR(HARDWARE_STACK_ERROR);
ERROR(ILLEGAL_INSTRUCTION);
ERROR(MISALIGNED_ADDRESS);
ERROR(INVALID_ADDRESS_SPACE);
ERROR(INVALID_PC);
ERROR(LAUNCH_FAILED);
ERROR(TENSOR_MEMORY_LEAK);
ERROR(NOT_SUPPORTED);
ERROR(SYSTEM_NOT_READY);
ERROR(SYSTEM_DRIVER_MISMATCH);
SAME(CU_CAPTURE_INVALIDATED, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
ERROR(UNKNOWN);
SAME(CU_ATTRIBUTE_SM, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
SAME(CU_ATTRIBUTE_INTEGRATED, CU_DEVICE_ATTRIBUTE_INTEGRATED);
SAME(CU_ATTRIBUTE_MODE, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE);
SAME(CU_ATTRIBUTE_L2, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
SAME(CU_ATTRIBUTE_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
SAME(CU_ATTRIBUTE_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
SAME(CU_ATTRIBUTE_SHARED, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
SAME(CU_MODE_PROHIBITED, CU_COMPUTEMODE_PROHIBITED);
SAME(CU_FUNCTION_DYNAMIC_SHARED, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
SAME(CU_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME(CU_EVENT_NO_TIMING, CU_EVENT_DISABLE_TIMING);
SAME(CU_CAPTURE_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED);
static_assert(CU_HOST_PORTABLE == CU_MEMHOSTALLOC_PORTABLE && CU_HOST_MAPPED == CU_MEMHOSTALLOC_DEVICEMAP,
              "kinds of host memory");
SAME(CU_LAUNCH_SERIAL_EARLY, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);

/* ---- layouts -------------------------------------------------------------------------- */

#define PLACE(ours, member, type, theirs_member)                              \
    static_assert(offsetof(ours, member) == offsetof(theirs::type, theirs_member) + 4 * (MISTAKE == 2) && \
                  sizeof(ours::member) % sizeof(theirs::type::theirs_member) == 0, #ours "." #member " lies elsewhere")

static_assert(sizeof(cu_launch_attribute) == sizeof(theirs::CUlaunchAttribute) &&
              alignof(cu_launch_attribute) == alignof(theirs::CUlaunchAttribute), "attributes of a launch");
PLACE(cu_launch_attribute, id, CUlaunchAttribute, id);
PLACE(cu_launch_attribute, value, CUlaunchAttribute, value);
PLACE(cu_launch_attribute, value.allowed, CUlaunchAttribute, value.programmaticStreamSerializationAllowed);
static_assert(sizeof(cu_launch_config) == sizeof(theirs::CUlaunchConfig) &&
              alignof(cu_launch_config) == alignof(theirs::CUlaunchConfig), "a launch");
PLACE(cu_launch_config, grid, CUlaunchConfig, gridDimX);
PLACE(cu_launch_config, grid[1], CUlaunchConfig, gridDimY);
PLACE(cu_launch_config, grid[2], CUlaunchConfig, gridDimZ);
PLACE(cu_launch_config, block, CUlaunchConfig, blockDimX);
PLACE(cu_launch_config, block[1], CUlaunchConfig, blockDimY);
PLACE(cu_launch_config, block[2], CUlaunchConfig, blockDimZ);
PLACE(cu_launch_config, shared, CUlaunchConfig, sharedMemBytes);
PLACE(cu_launch_config, stream, CUlaunchConfig, hStream);
PLACE(cu_launch_config, attributes, CUlaunchConfig, attrs);
PLACE(cu_launch_config, n_attributes, CUlaunchConfig, numAttrs);

/* ---- arguments ------------------------------------------------------------------------ */

template <class T, class = void> struct size_of { enum { value = 0 }; };        /* void, and handles' own types */
template <class T> struct size_of<T, decltype((void)sizeof(T))> { enum { value = sizeof(T) }; };

/* Alike to the binary interface: pointers to what is alike, else values of one size. */
template <class A, class B> struct alike {
    static constexpr bool value = !std::is_pointer_v<A> && !std::is_pointer_v<B> &&
                                  (int)size_of<A>::value == (int)size_of<B>::value;
};
template <class A, class B> struct alike<A *, B *> : alike<std::remove_cv_t<A>, std::remove_cv_t<B>> {};

template <class A, class B> struct call { static constexpr bool value = false; };
template <class R, class... A, class S, class... B> struct call<R (*)(A...), S (*)(B...)> {
    static constexpr bool answer()
    {
        if constexpr (sizeof...(A) != sizeof...(B)) return false;
        else return alike<R, S>::value && (alike<A, B>::value && ...);
    }
    static constexpr bool value = answer();
};

/* The driver is asked for the name as it stands in cuda_api.h; where cuda.h gives it a suffix, that is another one. */
constexpr bool same(const char *a, const char *b) { return *a == *b && (!*a || same(a + 1, b + 1)); }
/* Since 12.8 there is a second version with the same arguments, which drivers from before lack. */
constexpr bool first_will_do(const char *name) { return same(name, "cuEventElapsedTime"); }
#define TEXT(x) #x
#define EXPANDED(x) TEXT(x)

#define CHECK(name, args)                                                     \
    static_assert(same(#name, EXPANDED(name)) || first_will_do(#name), #name " has a suffix in cuda.h"); \
    static_assert(call<our_##name, decltype(&theirs::name)>::value, #name " has other arguments in cuda.h");
CUDA_API(CHECK) CUDA_API_NEWER(CHECK) WRONG(CHECK)
