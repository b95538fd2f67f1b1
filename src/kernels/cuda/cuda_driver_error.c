/* cuda_driver_error: the driver's errors in sentences, and which of them end a device. */
#include "kernels/cuda/cuda_driver.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/status.h"

/* After these the driver gives the same answer to every call. */
static bool is_fatal(cu_result r)
{
    switch (r) {
    case CU_DEINITIALIZED: case CU_DEVICE_UNAVAILABLE: case CU_INVALID_CONTEXT: case CU_ECC_UNCORRECTABLE:
    case CU_NVLINK_UNCORRECTABLE: case CU_CONTAINED: case CU_ILLEGAL_ADDRESS: case CU_LAUNCH_TIMEOUT:
    case CU_CONTEXT_IS_DESTROYED: case CU_ASSERT: case CU_HARDWARE_STACK_ERROR: case CU_ILLEGAL_INSTRUCTION:
    case CU_MISALIGNED_ADDRESS: case CU_INVALID_ADDRESS_SPACE: case CU_INVALID_PC: case CU_LAUNCH_FAILED:
    case CU_TENSOR_MEMORY_LEAK: case CU_UNKNOWN:
    case CU_NO_DEVICE:                              /* there was one when it was opened */
        return true;
    default:
        return false;
    }
}

static const char *remedy(cu_result r)
{
    switch (r) {
    case CU_OUT_OF_MEMORY:
        return "; end other programs on the card (nvidia-smi lists them) or choose a smaller context";
    case CU_STUB_LIBRARY:
        return "; a stub of the driver stands in the library path before the driver itself";
    case CU_DEVICE_UNAVAILABLE:
        return "; another process holds the card, which is for one alone: end it, or `nvidia-smi -c DEFAULT`";
    case CU_NO_DEVICE:
        return "; is there a card in nvidia-smi, and not hidden by CUDA_VISIBLE_DEVICES?";
    case CU_INVALID_IMAGE: case CU_NO_BINARY_FOR_GPU: case CU_INVALID_PTX: case CU_JIT_COMPILER_NOT_FOUND:
    case CU_UNSUPPORTED_PTX_VERSION:
        return "; install a newer driver, or build with CUDA_ARCHS for this card (make cuda)";
    case CU_ECC_UNCORRECTABLE: case CU_NVLINK_UNCORRECTABLE: case CU_CONTAINED:
        return "; the hardware failed: reset the card (nvidia-smi -r) or the machine";
    case CU_LAUNCH_TIMEOUT:
        return "; the card serves a display too, whose time limit ended a kernel";
    case CU_ILLEGAL_ADDRESS: case CU_ASSERT: case CU_HARDWARE_STACK_ERROR: case CU_ILLEGAL_INSTRUCTION:
    case CU_MISALIGNED_ADDRESS: case CU_INVALID_ADDRESS_SPACE: case CU_INVALID_PC: case CU_LAUNCH_FAILED:
    case CU_TENSOR_MEMORY_LEAK:
        return "; a kernel failed: the device must be opened anew (check:cuda tells which op)";
    case CU_SYSTEM_NOT_READY:
        return "; where cards are joined by NVSwitch, nvidia-fabricmanager must run";
    case CU_SYSTEM_DRIVER_MISMATCH:
        return "; the driver was replaced while the machine ran: restart it";
    case CU_UNKNOWN:
        return "; the system's log (dmesg, lines with Xid) may tell more";
    default:
        return "";
    }
}

static ds4_status status_of(cu_result r)
{
    return r == CU_OUT_OF_MEMORY ? DS4_EMEMORY : r == CU_NO_DEVICE ? DS4_ENOTFOUND : DS4_EDEVICE;
}

static ds4_status say(const cuda_api *api, cu_result r, ds4_error *err, const char *fmt, va_list args)
{
    char doing[128], number[32];
    const char *name = NULL;
    vsnprintf(doing, sizeof doing, fmt, args);
    snprintf(number, sizeof number, "error %d", r);
    if (api->cuGetErrorName(r, &name) != CU_OK || !name) name = number;
    return ds4_fail(err, status_of(r), "cuda: %s: %s%s", doing, name, remedy(r));
}

bool driver_survives(cu_result r) { return !is_fatal(r); }

ds4_status driver_says(const cuda_api *api, cu_result r, ds4_error *err, const char *fmt, ...)
{
    if (r == CU_OK) return DS4_OK;
    va_list args;
    va_start(args, fmt);
    const ds4_status st = say(api, r, err, fmt, args);
    va_end(args);
    return st;
}

ds4_status driver_result(driver_device *d, cu_result r, ds4_error *err, const char *fmt, ...)
{
    if (r == CU_OK) return DS4_OK;
    ds4_error own;
    va_list args;
    va_start(args, fmt);
    ds4_status st = say(&d->api, r, &own, fmt, args);
    va_end(args);
    if (st == DS4_ENOTFOUND) st = own.status = DS4_EDEVICE;     /* it is lost, as after other errors of hardware */
    if (err) *err = own;
    if (!is_fatal(r)) return st;
    pthread_mutex_lock(&d->lock);
    if (!d->lost) d->lost_error = own;
    d->lost = true;
    pthread_mutex_unlock(&d->lock);
    return st;
}

ds4_status driver_enter(driver_device *d, ds4_error *err)
{
    if (!d->lost)
        return driver_result(d, d->api.cuCtxSetCurrent(d->context), err, "%s: entering its context", d->base.info.name);
    pthread_mutex_lock(&d->lock);
    if (err) *err = d->lost_error;
    pthread_mutex_unlock(&d->lock);
    return DS4_EDEVICE;
}
