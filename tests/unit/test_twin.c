/* A model file whose layers share data, as a reader sees it that wants none of that. */
#include "../../bench/peers/twin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "factory/synth.h"
#include "gguf/gguf.h"
#include "runner.h"

static const char *aliased_file(void)
{
    const char *path = test_scratch("aliased.gguf");
    ds4_error err;
    synth_options o = synth_defaults();
    o.mix = "q2";
    o.shape.n_layer = 6;
    shape_default_ratios(&o.shape);
    o.shape.n_expert = 4;
    o.alias_layers = true;
    o.overwrite = true;
    o.out = path;
    EXPECT_OK(synth_run(&o, &err), err);
    return path;
}

TEST(every_tensor_lies_behind_the_one_before_it_and_has_its_bytes)
{
    ds4_error err;
    twin *t = NULL;
    gguf *real = NULL, *seen = NULL;
    const char *path = aliased_file();
    REQUIRE_OK(gguf_open(&real, path, NULL, &err), err);
    REQUIRE_OK(twin_open(&t, path, &err), err);

    struct stat info;
    REQUIRE(fstat(fileno(twin_file(t)), &info) == 0);
    const size_t bytes = (size_t)info.st_size;
    EXPECT(bytes > gguf_file_bytes(real));
    EXPECT((uint64_t)info.st_blocks * 512 < gguf_file_bytes(real));     /* nothing behind the header is written */

    uint8_t *twin_bytes = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fileno(twin_file(t)), 0);
    REQUIRE(twin_bytes != MAP_FAILED);
    REQUIRE_OK(gguf_open_memory(&seen, twin_bytes, bytes, &(gguf_options){ .strict = true }, &err), err);
    REQUIRE(gguf_n_tensors(seen) == gguf_n_tensors(real));

    uint8_t *base = twin_map(t, bytes);
    REQUIRE(base != NULL);
    uint64_t end = gguf_tensor_at(seen, 0)->offset;
    for (int i = 0; i < gguf_n_tensors(seen); i++) {
        const gguf_tensor *s = gguf_tensor_at(seen, i), *r = gguf_tensor_at(real, i);
        EXPECT_INT(s->offset, end);
        EXPECT_TEXT(s->name, r->name);
        const uint8_t *at = twin_place(t, base + s->offset);
        if (memcmp(at, r->data, r->bytes)) test_fail(__FILE__, __LINE__, "%s has other bytes", r->name);
        end = s->offset + (s->bytes + 31) / 32 * 32;
    }
    munmap(base, bytes);
    gguf_close(seen);
    munmap(twin_bytes, bytes);
    twin_close(t);
    gguf_close(real);
}

TEST(other_addresses_and_files_are_left_alone)
{
    ds4_error err;
    twin *t = NULL;
    int elsewhere;
    REQUIRE_OK(twin_open(&t, aliased_file(), &err), err);
    EXPECT(twin_is(t, fileno(twin_file(t))));
    EXPECT(!twin_is(t, STDERR_FILENO));
    EXPECT(!twin_is(NULL, fileno(twin_file(t))));
    EXPECT(twin_place(t, &elsewhere) == &elsewhere);
    EXPECT(twin_map(t, 4096) == NULL);          /* shorter than the real file */
    twin_close(t);
}

TEST(a_file_that_is_no_model_has_no_twin)
{
    ds4_error err;
    twin *t = NULL;
    EXPECT(twin_open(&t, test_scratch("nowhere.gguf"), &err) == DS4_ENOTFOUND);
    EXPECT(t == NULL);
}
