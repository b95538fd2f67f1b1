/* trace: on a device with memory of its own. */
#include "checked.h"

typedef struct {
    int   n;
    float seen[8];              /* number 3 of row 1 of each result */
} tape;

static void tap(void *ctx, const char *op, const char *name, int layer, const char *result, view v)
{
    tape *t = ctx;
    EXPECT_TEXT(op, "add");
    EXPECT_TEXT(name, "");
    EXPECT_INT(layer, 2);
    EXPECT_TEXT(result, "y");
    if (t->n < 8) t->seen[t->n++] = view_f32(v, 1)[3];
}

TEST(trace_tells_what_the_device_computed_when_it_was_computed)
{
    ds4_error err;
    gpu_device *d;
    backend *cuda, *b;
    tape t = { 0 };
    const backend_options o = { .name = "trace:cuda", .mirrored = true, .limits = { .max_rows = 2, .max_cols = 64 } };
    EXPECT_OK(fake_device_open(&d, &(fake_options){ .order = LANES_SHUFFLED, .seed = 1 }, &err), err);
    EXPECT_OK(cuda_open_on(&cuda, d, &o, &err), err);
    EXPECT_OK(backend_trace_open(&b, cuda, tap, &t, &err), err);

    const view x = checked_random(b, 2, 64, 1.0f, 1);
    const float one = view_f32(x, 1)[3];
    const add_args twice = { .a = x, .b = x, .y = x, .layer = 2 };
    for (int i = 0; i < 3; i++) EXPECT_OK(b->ops.add(&b->queue, &twice), b->queue.error);
    EXPECT_INT(t.n, 3);
    for (int i = 0; i < 3; i++) EXPECT(t.seen[i] == one * (float)(2 << i));
    checked_free(b, x);
    b->close(b);
}
