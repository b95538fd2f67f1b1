/* The weights of a whole model on a device with memory of its own. */
#include "checked.h"

#include <string.h>

#include "base/checked.h"
#include "gguf/gguf.h"
#include "model/weights.h"
#include "tiny/model.h"

typedef struct {
    gguf          *file;
    model_config   config;
    gpu_device    *device;      /* the backend's */
    backend       *b;
    model_weights  w;
    uint64_t       before;      /* bytes that were free */
} rig;

static uint64_t available(rig *r)
{
    uint64_t n = 0, total;
    ds4_error err;
    EXPECT_OK(r->device->memory(r->device, &n, &total, &err), err);
    return n;
}

static bool rig_open(rig *r, uint64_t card)
{
    ds4_error err;
    *r = (rig){ 0 };
    const char *path = tiny_model("q2");
    if (!path) return false;
    EXPECT_OK(gguf_open(&r->file, path, NULL, &err), err);
    EXPECT_OK(config_read(&r->config, r->file, &err), err);
    EXPECT_OK(fake_device_open(&r->device, &(fake_options){ .total_bytes = card }, &err), err);
    const backend_options o = { .name = "cuda" };
    EXPECT_OK(cuda_open_on(&r->b, r->device, &o, &err), err);
    r->before = available(r);
    return true;
}

/* What uploads go through is given back with the first step. */
static void rig_close(rig *r)
{
    ds4_error err;
    weights_close(&r->w);
    EXPECT_OK(cuda_residency_step((cuda_backend *)r->b, &err), err);
    EXPECT_INT(available(r), r->before);
    r->b->close(r->b);
    gguf_close(r->file);
}

typedef struct {
    int      calls, stop_at;
    uint64_t done, total;
    bool     ascends;
} told;

static bool tell(void *ctx, const char *phase, uint64_t done, uint64_t total)
{
    told *t = ctx;
    EXPECT_TEXT(phase, "uploading");
    t->ascends = t->ascends && done > t->done && (t->total == 0 || t->total == total);
    t->done = done;
    t->total = total;
    return ++t->calls != t->stop_at;
}

TEST(every_weight_is_taken_over_with_its_use_and_the_way_is_told_in_bytes)
{
    rig r;
    ds4_error err;
    if (!rig_open(&r, 0)) return;
    told t = { .ascends = true };
    const weights_options o = { .progress = tell, .progress_ctx = &t };
    EXPECT_OK(weights_open(&r.w, &r.config, r.file, r.b, &o, &err), err);
    EXPECT(t.ascends);
    EXPECT_INT(t.done, t.total);
    EXPECT_INT(t.calls, r.w.n_adopted);

    const layer_weights *L = &r.w.layer[0];
    const cuda_buf *up = cuda_buf_of(L->up_exps), *down = cuda_buf_of(L->down_exps), *out = cuda_buf_of(L->out_a);
    EXPECT(up->planes && up->table && up->rows_each == r.config.expert_width);
    EXPECT(down->table && down->rows_each == r.config.n_embd);
    EXPECT(out->planes && !out->table && out->rows_each == L->out_a.rows);
    EXPECT(!cuda_buf_of(r.w.embed)->planes && !cuda_buf_of(L->hc_attn.fn)->planes);
    EXPECT(!cuda_buf_of(L->hash)->planes);
    EXPECT(available(&r) < r.before);
    rig_close(&r);
}

TEST(an_upload_that_is_cancelled_leaves_nothing_on_the_card)
{
    rig r;
    ds4_error err;
    if (!rig_open(&r, 0)) return;
    told t = { .ascends = true, .stop_at = 7 };
    const weights_options o = { .progress = tell, .progress_ctx = &t };
    EXPECT_INT(weights_open(&r.w, &r.config, r.file, r.b, &o, &err), DS4_ECANCELLED);
    EXPECT_INT(t.calls, 7);
    rig_close(&r);
}

TEST(a_card_that_is_too_small_is_an_error_that_leaves_nothing_on_it)
{
    rig r;
    ds4_error err;
    const uint64_t large = 1ull << 30, way = 16 << 20, some = 1 << 20;
    if (!rig_open(&r, large)) return;
    const uint64_t taken = large - r.before;
    rig_close(&r);
    if (!rig_open(&r, taken + way + some)) return;
    EXPECT_INT(weights_open(&r.w, &r.config, r.file, r.b, NULL, &err), DS4_EMEMORY);
    EXPECT(strstr(err.message, "no room for the next weight: 0.00 GiB of weights are on the card") != NULL);
    rig_close(&r);
}
