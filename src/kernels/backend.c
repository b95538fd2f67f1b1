#include "kernels/backend.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/status.h"

static bool starts(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

/* "cuda" of "check:cuda". */
static const char *device_of(const char *name)
{
    static const char *const wrappers[] = { "check:", "trace:", "time:" };
    for (size_t i = 0; i < countof(wrappers); i++)
        if (starts(name, wrappers[i])) return name + strlen(wrappers[i]);
    return name;
}

static bool is_cuda(const char *name) { return strcmp(device_of(name), "cuda") == 0; }

bool backend_exists(const char *name)
{
    return strcmp(device_of(name), "auto") == 0 || strcmp(device_of(name), "cpu") == 0 || is_cuda(name);
}

bool backend_has_device(const char *name) { return is_cuda(name); }

ds4_status backend_device_probe(backend_device *out, const backend_options *o, ds4_error *err)
{
    *out = (backend_device){ 0 };
    if (is_cuda(o->name)) return backend_cuda_probe(out, o, err);
    return ds4_fail(err, DS4_EUNSUPPORTED, "backend \"%s\" computes in the memory of the host", o->name);
}

uint64_t backend_scratch_bytes(const backend_options *o)
{
    return is_cuda(o->name) ? backend_cuda_scratch_bytes(o) : backend_cpu_scratch_bytes(o);
}

/* Of the rows of a result: equal tapes mean equal bits. */
static uint64_t hash_view(view v)
{
    uint64_t h = HASH_BEGIN;
    for (int64_t r = 0; r < v.rows; r++) h = hash_bytes(h, view_at(v, r), view_row_bytes(v));
    return h;
}

/* The tape: op, name, layer, result, shape, hash. */
static void tell_line(void *ctx, const char *op, const char *name, int layer, const char *result, view v)
{
    const backend_options *o = ctx;
    if (!o->line) return;
    char line[200];
    snprintf(line, sizeof line, "%-12s %-18s %3d  %-8s [%lld][%d] %s %016llx", op, name, layer, result,
             (long long)v.rows, v.cols, quant_get(v.type)->name, (unsigned long long)hash_view(v));
    o->line(o->line_ctx, line);
}

ds4_status backend_open(backend **out, const backend_options *o, ds4_error *err)
{
    *out = NULL;
    if (!backend_exists(o->name))
        return ds4_fail(err, DS4_EUNSUPPORTED,
                        "backend \"%s\" is not built into this program; there are cpu and cuda, also as check:, trace: and time:",
                        o->name);
    backend *b;
    backend_options inner = *o;
    inner.mirrored = device_of(o->name) != o->name;
    const ds4_status st = is_cuda(o->name) ? backend_cuda_open(&b, &inner, err) : backend_cpu_open(&b, &inner, err);
    if (st) return st;
    if (starts(o->name, "check:")) return backend_check_open(out, b, o, err);
    if (starts(o->name, "trace:")) return backend_trace_open(out, b, tell_line, (void *)o, err);
    if (starts(o->name, "time:")) return backend_time_open(out, b, err);
    *out = b;
    return DS4_OK;
}
