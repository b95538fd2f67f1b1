/* cuda_driver.c over a driver that is none: the calls it makes, in which order, and what it says when
 * one of them fails. */
#include "checked.h"
#include "kernels/cuda/cuda_driver.h"
#include "mock_cuda.h"

#include <stdlib.h>
#include <string.h>

static ds4_error err;

static gpu_device *opened(void)
{
    const cuda_api api = mock_cuda();
    gpu_device *d = NULL;
    EXPECT_OK(driver_open(&d, &api, &mock_images, 0, &err), err);
    return d;
}

static void closed(gpu_device *d)
{
    d->close(d);
    EXPECT_INT(mock_alive(), 0);
}

/* The status of opening, whose sentence must hold `words`. */
static ds4_status refused(const char *words)
{
    const cuda_api api = mock_cuda();
    gpu_device *d = NULL;
    const ds4_status st = driver_open(&d, &api, &mock_images, 0, &err);
    if (!st || !strstr(err.message, words))
        test_fail(__FILE__, __LINE__, "status %d: \"%s\" lacks \"%s\"", st, err.message, words);
    EXPECT(d == NULL);
    EXPECT_INT(mock_alive(), 0);
    return st;
}

/* ---- opening ------------------------------------------------------------------------------ */

TEST(an_open_device_tells_what_the_card_is_and_closing_gives_all_back)
{
    mock_reset();
    gpu_device *d = opened();
    uint64_t available, total;
    EXPECT_TEXT(d->info.name, "Mock H200");
    EXPECT_INT(d->info.arch, 90);
    EXPECT_INT(d->info.driver, 13000);
    EXPECT_INT(d->info.shared_bytes, 227 * 1024);
    EXPECT_INT(d->info.total_bytes, 1 << 30);
    EXPECT(!d->info.unified);
    EXPECT_OK(d->memory(d, &available, &total, &err), err);
    EXPECT_INT(available, 1 << 29);
    closed(d);
    EXPECT_INT(mock_calls("cuDevicePrimaryCtxReset_v2"), 0);
}

TEST(what_can_not_be_opened_is_told_with_figures_and_the_remedy)
{
    mock_reset();
    mock_has.cards = 0;
    EXPECT_INT(refused("CUDA_VISIBLE_DEVICES"), DS4_ENOTFOUND);
    mock_reset();
    mock_has.version = 12080;
    EXPECT_INT(refused("the driver is for CUDA 12.8, the kernels need 13.0"), DS4_EDEVICE);
    mock_reset();
    mock_has.major = 7, mock_has.minor = 5;
    EXPECT_INT(refused("sm_75; this program has kernels for 80 86 90a 120 ptx90 ptx120"), DS4_EDEVICE);
    mock_reset();
    mock_has.mode = CU_MODE_PROHIBITED;
    EXPECT_INT(refused("nvidia-smi -c DEFAULT"), DS4_EDEVICE);
    mock_reset();
    mock_fail("cuDevicePrimaryCtxRetain", 1, CU_DEVICE_UNAVAILABLE, false);
    EXPECT_INT(refused("opening Mock H200: CUDA_ERROR_DEVICE_UNAVAILABLE; another process holds the card"), DS4_EDEVICE);
    mock_reset();
    mock_fail("cuDevicePrimaryCtxRetain", 1, CU_OUT_OF_MEMORY, false);
    EXPECT_INT(refused("end other programs on the card"), DS4_EMEMORY);
    mock_reset();
    mock_fail("cuInit", 1, CU_SYSTEM_DRIVER_MISMATCH, false);
    EXPECT_INT(refused("error 803; the driver was replaced"), DS4_EDEVICE);

    const cuda_api api = mock_cuda();
    gpu_device *d;
    mock_reset();
    mock_has.cards = 2;
    EXPECT_INT(driver_open(&d, &api, &mock_images, 2, &err), DS4_ENOTFOUND);
    EXPECT_TEXT(err.message, "cuda: there is no card 2; there are 2, counted from 0");
    EXPECT_INT(driver_open(&d, &api, &mock_images, -1, &err), DS4_ENOTFOUND);
}

TEST(code_of_its_generation_or_code_to_compile_further_serves_a_card)
{
    static const struct { int major, minor; bool ok; } cards[] = {
        { 7, 5, false }, { 8, 0, true }, { 8, 9, true }, { 9, 0, true }, { 10, 3, true }, { 11, 0, true }, { 12, 1, true },
        { 13, 0, true }
    };
    const cuda_api api = mock_cuda();
    gpu_info i;
    for (int c = 0; c < 8; c++) {
        mock_reset();
        mock_has.major = cards[c].major, mock_has.minor = cards[c].minor;
        EXPECT_INT(driver_probe(&i, &api, &mock_images, 0, NULL, &err) == DS4_OK, cards[c].ok);
    }
    const cuda_image_set hopper_alone = { mock_images.image, 2, 13000, "90a" };
    mock_has.major = 9;
    EXPECT_OK(driver_probe(&i, &api, &hopper_alone, 0, NULL, &err), err);
    mock_has.major = 10;
    EXPECT_INT(driver_probe(&i, &api, &hopper_alone, 0, NULL, &err), DS4_EDEVICE);
}

TEST(a_probe_takes_a_context_only_to_know_the_free_memory)
{
    const cuda_api api = mock_cuda();
    gpu_info i;
    uint64_t available = 0;
    mock_reset();
    EXPECT_OK(driver_probe(&i, &api, &mock_images, 0, NULL, &err), err);
    EXPECT_INT(mock_calls("cuDevicePrimaryCtxRetain"), 0);
    EXPECT_OK(driver_probe(&i, &api, &mock_images, 0, &available, &err), err);
    EXPECT_INT(available, 1 << 29);
    EXPECT_INT(mock_alive(), 0);
}

TEST(a_program_without_kernels_says_so_and_one_without_a_driver_too)
{
    gpu_device *d;
    gpu_info i;
    mock_reset();
    if (cuda_images.n) {
        test_skip("this program has kernels");
        return;
    }
    EXPECT_INT(gpu_driver_open(&d, 0, &err), DS4_EUNSUPPORTED);
    EXPECT(strstr(err.message, "make cuda") != NULL);
    EXPECT_INT(gpu_driver_probe(&i, 0, NULL, &err), DS4_EUNSUPPORTED);
    cuda_api api;
    const ds4_status st = cuda_api_load(&api, &err);
    EXPECT(st == DS4_OK || (st == DS4_ENOTFOUND && strstr(err.message, "libcuda.so.1")));
}

/* ---- memory and errors ---------------------------------------------------------------------- */

TEST(memory_that_is_not_there_is_told_with_figures_and_leaves_the_device_usable)
{
    mock_reset();
    gpu_device *d = opened();
    gpu_ptr p;
    EXPECT_INT(d->alloc(d, GPU_LOCAL, (uint64_t)2 << 30, &p, NULL, &err), DS4_EMEMORY);
    EXPECT(strstr(err.message,
                  "2048.0 MiB asked of Mock H200, 512.0 of 1024.0 MiB are free: CUDA_ERROR_OUT_OF_MEMORY") != NULL);
    EXPECT_OK(d->alloc(d, GPU_LOCAL, 1 << 20, &p, NULL, &err), err);
    d->free(d, GPU_LOCAL, p);
    closed(d);
}

TEST(an_error_that_leaves_no_way_on_makes_every_later_call_say_it_again)
{
    mock_reset();
    gpu_device *d = opened();
    gpu_ptr p;
    float x[4];
    EXPECT_OK(d->alloc(d, GPU_LOCAL, 256, &p, NULL, &err), err);
    mock_fail("cuStreamSynchronize", 1, CU_ILLEGAL_ADDRESS, true);
    EXPECT_INT(d->sync(d, -1, &err), DS4_EDEVICE);
    const ds4_error first = err;
    EXPECT(strstr(first.message, "waiting for work: CUDA_ERROR_ILLEGAL_ADDRESS; a kernel failed") != NULL);
    const int calls = mock_calls(NULL);
    EXPECT_INT(d->fill(d, 0, p, 0, 256, &err), DS4_EDEVICE);
    EXPECT_TEXT(err.message, first.message);
    EXPECT_INT(d->graph_begin(d, &err), DS4_EDEVICE);
    EXPECT_INT(d->transfer(d, true, &(gpu_piece){ p, x, sizeof x }, 1, &err), DS4_EDEVICE);
    EXPECT_TEXT(err.message, first.message);
    EXPECT_INT(mock_calls(NULL), calls);
    d->free(d, GPU_LOCAL, p);
    closed(d);
    EXPECT_INT(mock_calls("cuDevicePrimaryCtxReset_v2"), 1);
    d = opened();
    EXPECT_OK(d->sync(d, -1, &err), err);
    closed(d);
}

TEST(a_card_that_went_away_is_lost_and_not_one_that_was_never_there)
{
    mock_reset();
    gpu_device *d = opened();
    mock_fail("cuStreamSynchronize", 1, CU_NO_DEVICE, true);
    EXPECT_INT(d->sync(d, -1, &err), DS4_EDEVICE);
    EXPECT_INT(err.status, DS4_EDEVICE);
    EXPECT(strstr(err.message, "CUDA_ERROR_NO_DEVICE") != NULL);
    const int calls = mock_calls(NULL);
    EXPECT_INT(d->sync(d, -1, &err), DS4_EDEVICE);
    EXPECT_INT(mock_calls(NULL), calls);
    closed(d);
}

/* ---- launches ------------------------------------------------------------------------------- */

static ds4_status norm(gpu_device *d, int stream, gpu_ptr x, unsigned shared)
{
    const rms_norm_kernel_args k = { .x = { x, 16, 1, 16 }, .y = { x, 16, 1, 16 }, .eps = 1e-6f };
    return d->launch(d, stream, &(gpu_launch){ CUDA_rms_norm, { 1, 1, 1 }, 32, shared, &k, sizeof k }, &err);
}

static gpu_ptr cleared(gpu_device *d, uint64_t bytes)
{
    gpu_ptr p = 0;
    EXPECT_OK(d->alloc(d, GPU_LOCAL, bytes, &p, NULL, &err), err);
    EXPECT_OK(d->fill(d, GPU_MAIN, p, 0, bytes, &err), err);
    return p;
}

/* Early launches among: kernel, kernel, copy, kernel, kernel, wait, kernel. */
static int early_launches(void)
{
    gpu_device *d = opened();
    const gpu_ptr p = cleared(d, 256);
    norm(d, 0, p, 0);
    norm(d, 0, p, 0);
    d->copy(d, 0, p + 128, p, 64, &err);
    norm(d, 0, p, 0);
    norm(d, 0, p, 0);
    d->record(d, 1, 0, &err);
    d->wait(d, 0, 0, &err);
    EXPECT_OK(norm(d, 0, p, 0), err);
    EXPECT_INT(mock_calls("cuLaunchKernel") + mock_calls("cuLaunchKernelEx"), 5);
    d->free(d, GPU_LOCAL, p);
    closed(d);
    return mock_calls("cuLaunchKernelEx");
}

TEST(a_kernel_behind_a_kernel_begins_early_where_card_and_driver_have_that)
{
    mock_reset();
    EXPECT_INT(early_launches(), 2);
    mock_reset();
    mock_has.major = 8, mock_has.minor = 6;
    EXPECT_INT(early_launches(), 0);
    mock_reset();
    mock_has.major = 11;                        /* runs what was written for 90 */
    EXPECT_INT(early_launches(), 2);
}

TEST(no_kernel_begins_early_on_a_device_that_is_treated_with_care)
{
    mock_reset();
    gpu_device *d = opened();
    const gpu_ptr p = cleared(d, 256);
    d->careful = true;
    norm(d, 0, p, 0);
    EXPECT_OK(norm(d, 0, p, 0), err);
    EXPECT_INT(mock_calls("cuLaunchKernelEx"), 0);
    d->free(d, GPU_LOCAL, p);
    closed(d);
}

TEST(an_event_keeps_the_next_kernel_from_an_early_begin_but_not_in_a_recording)
{
    for (int recording = 0; recording < 2; recording++) {
        mock_reset();
        gpu_device *d = opened();
        gpu_graph *g = NULL;
        const gpu_ptr p = cleared(d, 256);
        if (recording) EXPECT_OK(d->graph_begin(d, &err), err);
        norm(d, 0, p, 0);
        EXPECT_OK(d->record(d, 0, 0, &err), err);
        EXPECT_OK(norm(d, 0, p, 0), err);
        EXPECT_INT(mock_calls("cuLaunchKernelEx"), recording);
        if (recording) EXPECT_OK(d->graph_end(d, &g, &err), err);
        d->graph_free(d, g);
        d->sync(d, -1, &err);
        d->free(d, GPU_LOCAL, p);
        closed(d);
    }
}

TEST(kernels_are_looked_up_once_and_their_images_loaded_when_needed)
{
    mock_reset();
    gpu_device *d = opened();
    const gpu_ptr p = cleared(d, 256);
    EXPECT_INT(mock_calls("cuModuleLoadData"), 0);
    norm(d, 0, p, 0);
    norm(d, 0, p, 0);
    EXPECT_INT(mock_calls("cuModuleLoadData"), 1);
    EXPECT_INT(mock_calls("cuModuleGetFunction"), 1);
    d->free(d, GPU_LOCAL, p);
    closed(d);
    EXPECT_INT(mock_calls("cuModuleUnload"), 1);

    const cuda_image none = { "none", "none" };
    const cuda_image_set without = { &none, 1, 13000, "90a" };
    const cuda_api api = mock_cuda();
    EXPECT_OK(driver_open(&d, &api, &without, 0, &err), err);
    EXPECT_INT(norm(d, 0, 0, 0), DS4_EDEVICE);
    EXPECT_TEXT(err.message, "cuda: this program has no kernel rms_norm; make cuda builds it");
    closed(d);
}

TEST(shared_memory_is_allowed_a_kernel_once_and_refused_with_figures)
{
    mock_reset();
    gpu_device *d = opened();
    const gpu_ptr p = cleared(d, 256);
    EXPECT_OK(norm(d, 0, p, 100 * 1024), err);
    EXPECT_OK(norm(d, 0, p, 60 * 1024), err);
    EXPECT_INT(mock_calls("cuFuncSetAttribute"), 1);
    EXPECT_INT(mock_sizes_seen(), 100 * 1024);
    EXPECT_INT(norm(d, 0, p, 228 * 1024), DS4_EDEVICE);
    EXPECT(strstr(err.message, "233472 bytes of shared memory for rms_norm (a block may have 232448)") != NULL);
    d->free(d, GPU_LOCAL, p);
    closed(d);
}

static const backend_limits limits = { .max_rows = 4, .max_cols = 256, .max_pairs = 8, .max_expert_width = 64,
                                       .n_experts = 8, .max_head_width = 64, .index_top_k = 8 };

TEST(an_op_runs_through_the_driver_and_agrees_with_its_definition)
{
    mock_reset();
    backend *b = checked_open_on(opened(), &limits, false);
    const view x = checked_random(b, 3, 256, 2.0f, 1), y = checked_view(b, 3, 256, QUANT_F32);
    CHECKED(b, rms_norm, .x = x, .y = y, .eps = 1e-6f, .name = "test");
    checked_free(b, x);
    checked_free(b, y);
    b->close(b);
    EXPECT_INT(mock_alive(), 0);
}

/* ---- recordings ------------------------------------------------------------------------------ */

static ds4_status record_fork(gpu_device *d, gpu_ptr p, const uint8_t *value, gpu_graph **g)
{
    ds4_status st = d->graph_begin(d, &err);
    if (!st) st = d->to_device(d, GPU_MAIN, p, value, 64, &err);
    if (!st) st = d->record(d, GPU_MAIN, 3, &err);
    if (!st) st = d->wait(d, 1, 3, &err);
    if (!st) st = d->copy(d, 1, p + 64, p, 64, &err);
    if (!st) st = d->record(d, 1, 4, &err);
    if (!st) st = d->wait(d, GPU_MAIN, 4, &err);
    if (!st) st = norm(d, GPU_MAIN, p, 0);
    if (!st) return d->graph_end(d, g, &err);
    d->graph_abandon(d);
    return st;
}

TEST(a_recording_runs_again_and_its_events_do_not_mix_with_others)
{
    mock_reset();
    gpu_device *d = opened();
    const gpu_ptr p = cleared(d, 256);
    gpu_ptr at;
    uint8_t *value, out[64];
    gpu_graph *g = NULL;
    float ms;
    EXPECT_OK(d->alloc(d, GPU_PINNED, 64, &at, (void **)&value, &err), err);
    memset(value, 0, 64);
    EXPECT_OK(d->record(d, 1, 3, &err), err);
    EXPECT_OK(record_fork(d, p, value, &g), err);
    EXPECT_OK(d->wait(d, 2, 3, &err), err);             /* the one from before the recording */
    EXPECT_OK(d->record(d, 1, 4, &err), err);
    EXPECT_OK(d->elapsed(d, 3, 4, &ms, &err), err);
    for (int i = 1; i < 4; i++) {
        value[0] = (uint8_t)i;
        EXPECT_OK(d->graph_run(d, g, &err), err);
        EXPECT_OK(d->to_host(d, GPU_MAIN, out, p + 64, 64, &err), err);
        EXPECT_INT(out[0], i);
    }
    d->graph_free(d, g);
    d->free(d, GPU_PINNED, at);
    d->free(d, GPU_LOCAL, p);
    closed(d);
}

TEST(all_kernels_are_loaded_before_a_recording_begins)
{
    mock_reset();
    gpu_device *d = opened();
    EXPECT_OK(d->graph_begin(d, &err), err);
    EXPECT_INT(mock_calls("cuModuleLoadData"), 2);
    EXPECT(mock_calls("cuModuleGetFunction") >= CUDA_KERNEL_COUNT);
    d->graph_abandon(d);
    EXPECT_OK(d->sync(d, -1, &err), err);
    d->graph_abandon(d);                                /* nothing to abandon */
    closed(d);
}

/* Two kernels, one behind the other, in a recording that runs. */
static ds4_status record_norms(gpu_device *d, gpu_ptr p)
{
    gpu_graph *g = NULL;
    ds4_status st = d->graph_begin(d, &err);
    if (!st) st = norm(d, 0, p, 0);
    if (!st) st = norm(d, 0, p, 0);
    if (!st) st = d->graph_end(d, &g, &err);
    else d->graph_abandon(d);
    if (!st) st = d->graph_run(d, g, &err);
    d->graph_free(d, g);
    return st;
}

TEST(where_early_launches_are_refused_the_device_goes_on_without_them_and_says_so)
{
    for (mock_refusal where = MOCK_IN_STREAMS; where <= MOCK_AT_THE_RUN; where++) {
        mock_reset();
        mock_has.early = where;
        gpu_device *d = opened();
        const gpu_ptr p = cleared(d, 256);
        EXPECT_OK(norm(d, 0, p, 0), err);
        EXPECT_OK(norm(d, 0, p, 0), err);
        EXPECT_INT(d->remark[0] != 0, where == MOCK_IN_STREAMS);
        EXPECT_INT(record_norms(d, p), where >= MOCK_SPOIL_CAPTURES ? DS4_EDEVICE : DS4_OK);
        EXPECT_INT(strncmp(d->remark, "cuda: letting kernels begin early in recordings: error ", 55) == 0,
                   where != MOCK_IN_STREAMS);
        EXPECT(strstr(d->remark, "; each begins when the one ahead is over") != NULL);
        d->remark[0] = 0;
        EXPECT_OK(d->sync(d, -1, &err), err);
        const int tried = mock_calls("cuLaunchKernelEx");
        EXPECT_OK(record_norms(d, p), err);
        if (where != MOCK_IN_STREAMS) EXPECT_INT(mock_calls("cuLaunchKernelEx"), tried);
        EXPECT_OK(norm(d, 0, p, 0), err);
        EXPECT_OK(norm(d, 0, p, 0), err);
        EXPECT_INT(mock_calls("cuLaunchKernelEx"), tried + 1);      /* in a recording, or in a stream */
        EXPECT_TEXT(d->remark, "");
        d->free(d, GPU_LOCAL, p);
        closed(d);
    }
}

TEST(a_launch_that_is_refused_either_way_takes_no_early_launches_with_it)
{
    mock_reset();
    gpu_device *d = opened();
    const gpu_ptr p = cleared(d, 256);
    EXPECT_OK(norm(d, 0, p, 0), err);
    EXPECT_INT(norm(d, 0, p, 228 * 1024), DS4_EDEVICE);
    EXPECT_TEXT(d->remark, "");
    EXPECT_OK(norm(d, 0, p, 0), err);
    EXPECT_INT(mock_calls("cuLaunchKernelEx"), 1);
    mock_fail("cuLaunchKernelEx", 1, CU_ILLEGAL_ADDRESS, true);     /* of a kernel before */
    const int plain = mock_calls("cuLaunchKernel");
    EXPECT_INT(norm(d, 0, p, 0), DS4_EDEVICE);
    EXPECT_INT(mock_calls("cuLaunchKernel"), plain);
    EXPECT_TEXT(d->remark, "");
    d->free(d, GPU_LOCAL, p);
    closed(d);
}

/* ---- whatever fails ---------------------------------------------------------------------------- */

static ds4_status everything(void)
{
    const cuda_api api = mock_cuda();
    gpu_device *d = NULL;
    gpu_ptr p = 0, at = 0;
    uint8_t *pinned = NULL, bytes[300] = { 1 };
    gpu_graph *g = NULL;
    ds4_status st = driver_open(&d, &api, &mock_images, 0, &err);
    if (st) return st;
    uint64_t available, total;
    st = d->memory(d, &available, &total, &err);
    if (!st) st = d->alloc(d, GPU_LOCAL, 4096, &p, NULL, &err);
    if (!st) st = d->alloc(d, GPU_PINNED, 4096, &at, (void **)&pinned, &err);
    if (!st) st = d->fill(d, 2, p, 0, 4096, &err);
    if (!st) st = norm(d, 0, p, 50000);
    if (!st) st = norm(d, 0, p, 0);
    if (!st) st = record_fork(d, p, pinned, &g);
    if (!st) st = d->graph_run(d, g, &err);
    if (!st) st = d->to_host(d, GPU_MAIN, bytes, p, 64, &err);
    if (!st) st = d->transfer(d, true, (gpu_piece[]){ { p, bytes, 300 }, { p + 512, pinned, 64 } }, 2, &err);
    if (!st) st = d->transfer(d, false, &(gpu_piece){ p, bytes, 300 }, 1, &err);
    if (!st) st = d->sync(d, -1, &err);
    if (g) d->graph_free(d, g);
    if (p) d->free(d, GPU_LOCAL, p);
    if (at) d->free(d, GPU_PINNED, at);
    d->close(d);
    return st;
}

TEST(any_call_may_fail_and_nothing_is_lost)
{
    mock_reset();
    EXPECT_OK(everything(), err);
    const int calls = mock_calls(NULL);
    EXPECT_INT(mock_alive(), 0);
    EXPECT(calls > 250);
    const cu_result with[] = { CU_OUT_OF_MEMORY, CU_LAUNCH_FAILED, CU_NOT_SUPPORTED };
    int noticed = 0;
    for (int i = 1; i <= calls; i++) {
        mock_reset();
        mock_fail(NULL, i, with[i % 3], i % 2);
        memset(&err, 0, sizeof err);
        const ds4_status st = everything();
        noticed += st != DS4_OK;
        if (st && !err.message[0]) test_fail(__FILE__, __LINE__, "call %d failed without a sentence", i);
        if (mock_alive()) test_fail(__FILE__, __LINE__, "call %d failed and %d things stayed", i, mock_alive());
    }
    EXPECT(noticed > 150);                      /* the others are those that give back */
}
