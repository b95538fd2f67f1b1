#include "mock_cuda.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fake_device.h"
#include "kernels/cuda/kernels.h"

typedef struct mock_job {
    struct mock_job *next;
    void       *to;
    const void *from;
    size_t      bytes;
    int         value;          /* -1: a copy */
    int         kernel;         /* -1: none   */
    unsigned    grid[3], block, shared;
    uint8_t    *args;
} mock_job;

struct cu_context_  { int nothing; };
struct cu_stream_   { cu_graph capture; };      /* that it belongs to, where it is the one under way */
struct cu_event_    { bool recorded; cu_graph capture; };
struct cu_module_   { const char *kernels; };
struct cu_function_ { int shared; };
struct cu_graph_    { mock_job *first, **last; bool early, spoilt; };
struct cu_exec_     { mock_job *first; bool early; };

mock_machine mock_has;
void (*mock_watch)(void);

static struct {
    pthread_mutex_t lock;
    int             n_calls, alive, retained, shared;
    struct { const char *name; int n; } calls[64];
    const char     *fail_name;
    int             fail_in;
    cu_result       fail_with;
    bool            fail_stays, failing;
    struct cu_function_ function[CUDA_KERNEL_COUNT];
    struct cu_graph_   *capture;
} M = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct cu_context_ the_context;
static _Thread_local cu_context current;

void mock_reset(void)
{
    M.n_calls = M.alive = M.retained = M.shared = M.fail_in = 0;
    M.failing = false;
    M.capture = NULL;
    memset(M.calls, 0, sizeof M.calls);
    memset(M.function, 0, sizeof M.function);
    current = NULL;
    mock_has = (mock_machine){ .cards = 1, .version = 13000, .major = 9, .bytes = (size_t)1 << 30 };
}

void mock_fail(const char *name, int n, cu_result r, bool stays)
{
    M.fail_name = name;
    M.fail_in = n;
    M.fail_with = r;
    M.fail_stays = stays;
    M.failing = false;
}

bool mock_fails(void) { return M.fail_in > 0 || M.failing; }

int mock_calls(const char *name)
{
    if (!name) return M.n_calls;
    for (int i = 0; i < 64 && M.calls[i].name; i++)
        if (strcmp(M.calls[i].name, name) == 0) return M.calls[i].n;
    return 0;
}

int mock_alive(void) { return M.alive + M.retained; }
int mock_sizes_seen(void) { return M.shared; }

static cu_result enter(const char *name, bool wants_context)
{
    pthread_mutex_lock(&M.lock);
    if (mock_watch) mock_watch();
    cu_result r = wants_context && current != &the_context ? CU_INVALID_CONTEXT : CU_OK;
    int i = 0;
    while (M.calls[i].name && strcmp(M.calls[i].name, name) != 0) i++;
    M.calls[i].name = name;
    M.calls[i].n++;
    M.n_calls++;
    if ((!M.fail_name || strcmp(M.fail_name, name) == 0) && M.fail_in > 0 && --M.fail_in == 0) {
        r = M.fail_with;
        M.failing = M.fail_stays;
    } else if (M.failing && wants_context) {
        r = M.fail_with;
    }
    pthread_mutex_unlock(&M.lock);
    return r;
}

static void count(int by)
{
    pthread_mutex_lock(&M.lock);
    M.alive += by;
    pthread_mutex_unlock(&M.lock);
}

#define ENTER(wants_context)                                                  \
    do { const cu_result r_ = enter(__func__, wants_context); if (r_) return r_; } while (0)
/* What gives back does so also when it fails. */
#define LEAVE(object)                                                         \
    do { count(-1); free(object); return enter(__func__, true); } while (0)

static void *made(size_t n)
{
    count(1);
    return calloc(1, n);
}

static bool capturing(cu_stream s) { return M.capture && s->capture == M.capture; }

/* ---- cards -------------------------------------------------------------------------------- */

static cu_result cuInit(unsigned flags) { (void)flags; ENTER(false); return mock_has.cards ? CU_OK : CU_NO_DEVICE; }
static cu_result cuDriverGetVersion(int *v) { ENTER(false); *v = mock_has.version; return CU_OK; }
static cu_result cuGetErrorName(cu_result r, const char **text)
{
    *text = r == CU_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : r == CU_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
          : r == CU_DEVICE_UNAVAILABLE ? "CUDA_ERROR_DEVICE_UNAVAILABLE" : r == CU_NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : NULL;
    return *text ? CU_OK : 1;
}
static cu_result cuGetErrorString(cu_result r, const char **text) { (void)r; *text = ""; return CU_OK; }
static cu_result cuDeviceGetCount(int *n) { ENTER(false); *n = mock_has.cards; return CU_OK; }
static cu_result cuDeviceGet(cu_card *card, int index) { ENTER(false); *card = index; return CU_OK; }
static cu_result cuDeviceGetName(char *name, int room, cu_card card)
{
    (void)card;
    ENTER(false);
    strncpy(name, "Mock H200", (size_t)room - 1);
    return CU_OK;
}
static cu_result cuDeviceTotalMem_v2(size_t *bytes, cu_card card) { (void)card; ENTER(false); *bytes = mock_has.bytes; return CU_OK; }
static cu_result cuDeviceGetAttribute(int *value, int what, cu_card card)
{
    (void)card;
    ENTER(false);
    *value = what == CU_ATTRIBUTE_MAJOR ? mock_has.major : what == CU_ATTRIBUTE_MINOR ? mock_has.minor
           : what == CU_ATTRIBUTE_SM ? 4 : what == CU_ATTRIBUTE_SHARED ? 227 * 1024 : what == CU_ATTRIBUTE_MODE ? mock_has.mode
           : what == CU_ATTRIBUTE_INTEGRATED ? mock_has.integrated : 1 << 20;
    return CU_OK;
}
static cu_result cuDevicePrimaryCtxRetain(cu_context *c, cu_card card)
{
    (void)card;
    ENTER(false);
    M.retained++;
    *c = &the_context;
    return CU_OK;
}
static cu_result cuDevicePrimaryCtxRelease_v2(cu_card card) { (void)card; M.retained--; return enter(__func__, false); }
static cu_result cuDevicePrimaryCtxReset_v2(cu_card card) { (void)card; M.failing = false; return enter(__func__, false); }
static cu_result cuCtxSetCurrent(cu_context c) { ENTER(false); current = c; return CU_OK; }

/* ---- memory ------------------------------------------------------------------------------- */

static void *host_of(cu_ptr p) { return p & LANE_ADDRESS ? fake_device_at(p) : NULL; }

static cu_result cuMemGetInfo_v2(size_t *available, size_t *total)
{
    ENTER(true);
    *available = mock_has.bytes / 2;
    *total = mock_has.bytes;
    return CU_OK;
}
static cu_result cuMemAlloc_v2(cu_ptr *p, size_t bytes)
{
    ENTER(true);
    if (bytes > mock_has.bytes) return CU_OUT_OF_MEMORY;
    count(1);
    *p = (cu_ptr)(uintptr_t)aligned_alloc(256, (bytes + 255) / 256 * 256) | LANE_ADDRESS;
    return CU_OK;
}
static cu_result cuMemFree_v2(cu_ptr p) { LEAVE(host_of(p)); }
static cu_result cuMemHostAlloc(void **p, size_t bytes, unsigned flags)
{
    (void)flags;
    ENTER(true);
    count(1);
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return CU_OK;
}
static cu_result cuMemHostGetDevicePointer_v2(cu_ptr *p, void *host, unsigned flags)
{
    (void)flags;
    ENTER(true);
    *p = (cu_ptr)(uintptr_t)host | LANE_ADDRESS;
    return CU_OK;
}
static cu_result cuMemFreeHost(void *p) { LEAVE(p); }

/* ---- work --------------------------------------------------------------------------------- */

static void run(const mock_job *j)
{
    if (j->kernel >= 0) lane_run(&lane_kernels[j->kernel], j->grid, j->block, j->shared, j->args, LANES_FORWARD);
    else if (j->value >= 0) memset(j->to, j->value, j->bytes);
    else memmove(j->to, j->from, j->bytes);
}

/* Does the job, or keeps it where the stream's work is captured. */
static cu_result take(cu_stream s, mock_job job, size_t n_args)
{
    if (!capturing(s)) {
        run(&job);
        return CU_OK;
    }
    if (M.capture->spoilt) return CU_CAPTURE_INVALIDATED;
    mock_job *j = malloc(sizeof *j);
    *j = job;
    if (n_args) {
        j->args = malloc(n_args);
        memcpy(j->args, job.args, n_args);
    }
    *M.capture->last = j;
    M.capture->last = &j->next;
    return CU_OK;
}

static cu_result cuMemsetD8Async(cu_ptr to, unsigned char value, size_t n, cu_stream s)
{
    ENTER(true);
    return take(s, (mock_job){ .to = host_of(to), .bytes = n, .value = value, .kernel = -1 }, 0);
}
static cu_result cuMemcpyHtoDAsync_v2(cu_ptr to, const void *from, size_t n, cu_stream s)
{
    ENTER(true);
    return take(s, (mock_job){ .to = host_of(to), .from = from, .bytes = n, .value = -1, .kernel = -1 }, 0);
}
static cu_result cuMemcpyDtoHAsync_v2(void *to, cu_ptr from, size_t n, cu_stream s)
{
    ENTER(true);
    return take(s, (mock_job){ .to = to, .from = host_of(from), .bytes = n, .value = -1, .kernel = -1 }, 0);
}
static cu_result cuMemcpyDtoDAsync_v2(cu_ptr to, cu_ptr from, size_t n, cu_stream s)
{
    ENTER(true);
    return take(s, (mock_job){ .to = host_of(to), .from = host_of(from), .bytes = n, .value = -1, .kernel = -1 }, 0);
}
static cu_result start(cu_function f, mock_job job, cu_stream s, void **args)
{
    job.kernel = (int)(f - M.function);
    job.value = -1;
    job.args = args[0];
    if (job.shared > 48 * 1024 && (int)job.shared > f->shared) return 1;
    return take(s, job, lane_kernels[job.kernel].args_bytes);
}
static cu_result cuLaunchKernel(cu_function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                                unsigned shared, cu_stream s, void **args, void **extra)
{
    (void)extra;
    ENTER(true);
    if (by != 1 || bz != 1) return 1;
    return start(f, (mock_job){ .grid = { gx, gy, gz }, .block = bx, .shared = shared }, s, args);
}
static cu_result cuLaunchKernelEx(const cu_launch_config *c, cu_function f, void **args, void **extra)
{
    (void)extra;
    ENTER(true);
    if (c->n_attributes != 1 || c->attributes->id != CU_LAUNCH_SERIAL_EARLY || c->attributes->value.allowed != 1) return 1;
    const bool kept = capturing(c->stream);
    if (kept && mock_has.early == MOCK_SPOIL_CAPTURES) M.capture->spoilt = true;
    if (mock_has.early == MOCK_IN_STREAMS ? !kept : kept && mock_has.early >= MOCK_IN_CAPTURES &&
                                                         mock_has.early <= MOCK_SPOIL_CAPTURES) return 400;
    if (kept) M.capture->early = true;
    return start(f, (mock_job){ .grid = { c->grid[0], c->grid[1], c->grid[2] }, .block = c->block[0], .shared = c->shared },
                 c->stream, args);
}
static cu_result cuModuleLoadData(cu_module *m, const void *image)
{
    ENTER(true);
    *m = made(sizeof **m);
    (*m)->kernels = image;
    return CU_OK;
}
static cu_result cuModuleUnload(cu_module m) { LEAVE(m); }
static cu_result cuModuleGetFunction(cu_function *f, cu_module m, const char *name)
{
    ENTER(true);
    const bool of_rows = strncmp(name, "rows", 4) == 0 || strcmp(name, "rms_norm") == 0;
    if (strcmp(m->kernels, "none") == 0 || of_rows != (strcmp(m->kernels, "rows") == 0)) return CU_NOT_FOUND;
    int i = 0;
    while (i < CUDA_KERNEL_COUNT && strcmp(lane_kernels[i].name, name) != 0) i++;
    if (i == CUDA_KERNEL_COUNT) return CU_NOT_FOUND;
    *f = &M.function[i];
    return CU_OK;
}
static cu_result cuFuncSetAttribute(cu_function f, int what, int value)
{
    ENTER(true);
    if (what != CU_FUNCTION_DYNAMIC_SHARED || value > 227 * 1024) return 1;
    M.shared = f->shared = value;
    return CU_OK;
}

/* ---- streams and captures ----------------------------------------------------------------- */

static cu_result cuStreamCreate(cu_stream *s, unsigned flags)
{
    ENTER(true);
    *s = made(sizeof **s);
    return flags == CU_STREAM_NON_BLOCKING ? CU_OK : 1;
}
static cu_result cuStreamDestroy_v2(cu_stream s) { LEAVE(s); }
static cu_result cuStreamSynchronize(cu_stream s) { ENTER(true); return capturing(s) ? 900 : CU_OK; }
static cu_result cuStreamWaitEvent(cu_stream s, cu_event e, unsigned flags)
{
    (void)flags;
    ENTER(true);
    if (e->capture && e->capture == M.capture) s->capture = M.capture;
    else if (capturing(s) || e->capture) return 905;
    return CU_OK;
}
static cu_result cuEventCreate(cu_event *e, unsigned flags) { (void)flags; ENTER(true); *e = made(sizeof **e); return CU_OK; }
static cu_result cuEventDestroy_v2(cu_event e) { LEAVE(e); }
static cu_result cuEventRecord(cu_event e, cu_stream s) { ENTER(true); e->recorded = true; e->capture = capturing(s) ? M.capture : NULL; return CU_OK; }
static cu_result cuEventSynchronize(cu_event e) { ENTER(true); return e->recorded ? CU_OK : 1; }
static cu_result cuEventElapsedTime(float *ms, cu_event from, cu_event to)
{
    ENTER(true);
    *ms = 1.5f;
    return from->recorded && to->recorded ? CU_OK : 400;
}
static cu_result cuStreamBeginCapture_v2(cu_stream s, int mode)
{
    ENTER(true);
    if (mode != CU_CAPTURE_RELAXED || M.capture) return 1;
    M.capture = made(sizeof *M.capture);
    M.capture->last = &M.capture->first;
    s->capture = M.capture;
    return CU_OK;
}
static void free_jobs(mock_job *j)
{
    for (mock_job *next; j; j = next) {
        next = j->next;
        if (j->kernel >= 0) free(j->args);
        free(j);
    }
}
static cu_result cuStreamEndCapture(cu_stream s, cu_graph *g)
{
    struct cu_graph_ *c = M.capture;
    if (!capturing(s)) return 901;
    M.capture = NULL;
    cu_result r = enter(__func__, true);
    if (!r && (c->spoilt || (c->early && mock_has.early == MOCK_AT_THE_END))) r = CU_CAPTURE_INVALIDATED;
    *g = r ? NULL : c;
    if (!r) return CU_OK;
    free_jobs(c->first);
    count(-1);
    free(c);
    return r;
}
static cu_result cuGraphInstantiateWithFlags(cu_exec *x, cu_graph g, unsigned long long flags)
{
    ENTER(true);
    if (g->early && mock_has.early == MOCK_AT_INSTANTIATION) return 1;
    *x = made(sizeof **x);
    (*x)->first = g->first;
    (*x)->early = g->early;
    g->first = NULL;
    return flags ? 1 : CU_OK;
}
static cu_result cuGraphLaunch(cu_exec x, cu_stream s)
{
    (void)s;
    ENTER(true);
    if (x->early && mock_has.early == MOCK_AT_THE_RUN) return 1;
    for (const mock_job *j = x->first; j; j = j->next) run(j);
    return CU_OK;
}
static cu_result cuGraphDestroy(cu_graph g) { free_jobs(g->first); LEAVE(g); }
static cu_result cuGraphExecDestroy(cu_exec x) { free_jobs(x->first); LEAVE(x); }

cuda_api mock_cuda(void)
{
#define MEMBER(name, args) .name = name,
    return (cuda_api){ CUDA_API(MEMBER) CUDA_API_NEWER(MEMBER) };
}

static const cuda_image images[] = { { "rows", "rows" }, { "rest", "rest" } };
const cuda_image_set mock_images = { images, 2, 13000, "80 86 90a 120 ptx90 ptx120" };
