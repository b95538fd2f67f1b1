/* Opening and writing a model file with each allocation failing in turn. */
#include "runner.h"

#include <string.h>

#include "fault/alloc.h"
#include "gguf/gguf.h"

static ds4_status write_two(void *ctx, ds4_error *err)
{
    static const float data[32];
    const uint64_t ne[2] = { 16, 2 };
    gguf_writer *w;
    ds4_status st = gguf_writer_open(&w, ctx, true, err);
    if (st) return st;
    gguf_put_string(w, "general.architecture", "test", 4);
    gguf_put_f32_array(w, "a.floats", data, 32);
    gguf_put_tensor(w, "one", QUANT_F32, 2, ne, -1);
    gguf_put_tensor(w, "same", QUANT_F32, 2, ne, 0);
    if ((st = gguf_writer_begin_data(w, err)) || (st = gguf_writer_data(w, 0, data, sizeof data, err))) {
        gguf_writer_abort(w);
        return st;
    }
    return gguf_writer_commit(w, err);
}

static ds4_status read_two(void *ctx, ds4_error *err)
{
    gguf *g;
    const ds4_status st = gguf_open(&g, ctx, NULL, err);
    EXPECT(!st == (g != NULL));
    gguf_close(g);
    return st;
}

TEST(a_writer_without_memory_leaves_nothing_behind)
{
    char path[512];
    strcpy(path, test_scratch("fault.gguf"));
    fault_each(write_two, path);
}

TEST(a_reader_without_memory_says_so)
{
    char path[512];
    ds4_error err = { 0 };
    strcpy(path, test_scratch("fault_read.gguf"));
    REQUIRE_OK(write_two(path, &err), err);
    fault_each(read_two, path);
}
