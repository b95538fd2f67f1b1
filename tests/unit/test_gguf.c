/* gguf.h by example: plain use, edges. Hostile files are in test_gguf_hostile.c. */
#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "gguf/gguf.h"

static const uint64_t shape_q8[2] = { 64, 2 }, shape_f32[1] = { 6 };

static bool exists(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0;
}

/* Bytes 0, 1, 2, ... for tensor data. */
static void put_data(gguf_writer *w, int i, size_t n)
{
    uint8_t data[512];
    ds4_error err = { 0 };
    for (size_t k = 0; k < sizeof data; k++) data[k] = (uint8_t)k;
    EXPECT_OK(gguf_writer_data(w, i, data, n, &err), err);
}

static void expect_string(const gguf *g, const char *key, const char *want)
{
    ds4_error err = { 0 };
    slice s = { 0 };
    EXPECT_OK(gguf_get_string(g, key, &s, &err), err);
    EXPECT(slice_is(s, want));
}

/* ---- plain use ------------------------------------------------------------------ */

static const slice words[3] = { { "one", 3 }, { "", 0 }, { "\xc3\xa9t\xc3\xa9", 5 } };
static const int32_t numbers[4] = { 0, -1, INT32_MAX, INT32_MIN };
static const float floats[2] = { 0.5f, -3e38f };

/* A file with a key of every kind that can be put, and two tensors. */
static void write_example(const char *path)
{
    ds4_error err = { 0 };
    gguf_writer *w;
    REQUIRE_OK(gguf_writer_open(&w, path, true, &err), err);
    gguf_put_string(w, "general.architecture", "test", 4);
    gguf_put_u32(w, "a.u32", 4000000000u);
    gguf_put_u64(w, "a.u64", UINT64_MAX);
    gguf_put_i32(w, "a.i32", -7);
    gguf_put_u16(w, "a.u16", 65535);
    gguf_put_f32(w, "a.f32", 0.25f);
    gguf_put_bool(w, "a.bool", true);
    gguf_put_i32_array(w, "a.numbers", numbers, countof(numbers));
    gguf_put_f32_array(w, "a.floats", floats, countof(floats));
    gguf_put_string_array(w, "a.words", words, countof(words));
    EXPECT_INT(gguf_put_tensor(w, "first.weight", QUANT_Q8_0, 2, shape_q8, -1), 0);
    EXPECT_INT(gguf_put_tensor(w, "second.bias", QUANT_F32, 1, shape_f32, -1), 1);
    EXPECT_OK(gguf_writer_begin_data(w, &err), err);
    put_data(w, 0, 100);        /* in two pieces */
    put_data(w, 0, 36);
    put_data(w, 1, 24);
    EXPECT_OK(gguf_writer_commit(w, &err), err);
}

TEST(what_was_written_reads_back)
{
    const char *path = test_scratch("example.gguf");
    ds4_error err = { 0 };
    gguf *g;
    write_example(path);
    const gguf_options strict = { .strict = true };     /* the writer leaves no gaps */
    REQUIRE_OK(gguf_open(&g, path, &strict, &err), err);

    EXPECT_INT(gguf_n_tensors(g), 2);
    EXPECT_INT(gguf_n_values(g), 10);
    EXPECT_INT(gguf_n_shards(g), 1);
    EXPECT_TEXT(gguf_shard_path(g, 0), path);
    EXPECT_INT(gguf_tensor_bytes(g), 136 + 24);
    EXPECT(!gguf_aliased(g));

    const gguf_tensor *t = gguf_find_tensor(g, "first.weight");
    REQUIRE(t);
    EXPECT(t == gguf_tensor_at(g, 0));
    EXPECT_INT(t->type, QUANT_Q8_0);
    EXPECT_INT(t->n_dims, 2);
    EXPECT(t->ne[0] == 64 && t->ne[1] == 2 && t->ne[2] == 1 && t->ne[3] == 1);
    EXPECT_INT(t->bytes, 136);
    EXPECT(t->data[99] == 99 && t->data[100] == 0 && t->data[135] == 35);

    uint64_t mapped;
    const uint8_t *map = gguf_mapping(g, 0, &mapped);
    EXPECT_INT(mapped, gguf_file_bytes(g));
    EXPECT(t->data == map + t->offset);
    EXPECT_INT(t->offset % 32, 0);
    EXPECT_INT(mapped % 32, 0);                          /* the last one is padded too */

    t = gguf_find_tensor(g, "second.bias");
    REQUIRE(t);
    EXPECT(t->n_dims == 1 && t->bytes == 24 && t->shard == 0 && t->data[23] == 23);
    EXPECT(!gguf_find_tensor(g, "third"));
    EXPECT(!gguf_find_tensor(g, "second.bia"));
    EXPECT(slice_is(gguf_value_at(g, 0)->key, "general.architecture"));
    gguf_close(g);
}

TEST(keys_read_back_with_their_kind)
{
    const char *path = test_scratch("kinds.gguf");
    ds4_error err = { 0 };
    gguf *g;
    write_example(path);
    REQUIRE_OK(gguf_open(&g, path, NULL, &err), err);

    int64_t i = 0;
    double d = 0;
    bool b = false;
    expect_string(g, "general.architecture", "test");
    EXPECT_OK(gguf_get_int(g, "a.u32", 0, UINT32_MAX, &i, &err), err);
    EXPECT_INT(i, 4000000000);
    EXPECT_OK(gguf_get_int(g, "a.i32", -10, 10, &i, &err), err);
    EXPECT_INT(i, -7);
    EXPECT_OK(gguf_get_int(g, "a.u16", 0, 70000, &i, &err), err);
    EXPECT_INT(i, 65535);
    EXPECT_OK(gguf_get_float(g, "a.f32", &d, &err), err);
    EXPECT(d == 0.25);
    EXPECT_OK(gguf_get_float(g, "a.i32", &d, &err), err);   /* any number will do */
    EXPECT(d == -7);
    EXPECT_OK(gguf_get_bool(g, "a.bool", &b, &err), err);
    EXPECT(b);
    gguf_close(g);
}

TEST(arrays_are_read_element_by_element)
{
    const char *path = test_scratch("arrays.gguf");
    ds4_error err = { 0 };
    gguf *g;
    const gguf_value *v;
    write_example(path);
    REQUIRE_OK(gguf_open(&g, path, NULL, &err), err);

    REQUIRE_OK(gguf_get_array(g, "a.numbers", &v, &err), err);
    EXPECT_INT(v->count, countof(numbers));
    for (uint64_t k = 0; k < countof(numbers); k++) {
        int64_t x = 0;
        double f = 0;
        EXPECT(gguf_array_int(v, k, &x) && x == numbers[k]);
        EXPECT(gguf_array_float(v, k, &f) && f == numbers[k]);
    }
    int64_t unused;
    EXPECT(!gguf_array_int(v, countof(numbers), &unused));

    REQUIRE_OK(gguf_get_array(g, "a.floats", &v, &err), err);
    for (uint64_t k = 0; k < countof(floats); k++) {
        double f = 0;
        EXPECT(gguf_array_float(v, k, &f) && f == (double)floats[k]);
        EXPECT(!gguf_array_int(v, k, &unused));
    }

    REQUIRE_OK(gguf_get_array(g, "a.words", &v, &err), err);
    uint64_t cursor = 0;
    slice s;
    for (size_t k = 0; k < countof(words); k++)
        EXPECT(gguf_array_string(v, &cursor, &s) && slice_equal(s, words[k]));
    EXPECT(!gguf_array_string(v, &cursor, &s));
    EXPECT(!gguf_array_int(v, 0, &unused));
    gguf_close(g);
}

TEST(a_wrong_key_is_told_by_name_kind_and_expectation)
{
    const char *path = test_scratch("wrong.gguf");
    ds4_error err = { 0 };
    gguf *g;
    write_example(path);
    REQUIRE_OK(gguf_open(&g, path, NULL, &err), err);

    int64_t i = 123;
    double d;
    bool b;
    slice s;
    const gguf_value *v;
    EXPECT_INT(gguf_get_int(g, "a.none", 0, 9, &i, &err), DS4_ENOTFOUND);
    EXPECT(strstr(err.message, "a.none"));
    EXPECT_INT(gguf_get_int(g, "a.f32", 0, 9, &i, &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "key a.f32 is f32, expected an integer"));
    EXPECT_INT(gguf_get_int(g, "a.u16", 0, 65534, &i, &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "key a.u16 is 65535, expected 0 to 65534"));
    EXPECT_INT(gguf_get_int(g, "a.u64", 0, INT64_MAX, &i, &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "beyond 2^63"));
    EXPECT_INT(gguf_get_float(g, "a.bool", &d, &err), DS4_EFORMAT);
    EXPECT_INT(gguf_get_bool(g, "a.u16", &b, &err), DS4_EFORMAT);
    EXPECT_INT(gguf_get_string(g, "a.words", &s, &err), DS4_EFORMAT);
    EXPECT_INT(gguf_get_array(g, "a.u16", &v, &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "key a.u16 is u16, expected an array"));
    EXPECT_INT(i, 123);
    gguf_close(g);
}

TEST(a_value_is_copied_verbatim_to_another_file)
{
    const char *from = test_scratch("from.gguf"), *to = test_scratch("to.gguf");
    ds4_error err = { 0 };
    gguf *a, *b;
    gguf_writer *w;
    write_example(from);
    REQUIRE_OK(gguf_open(&a, from, NULL, &err), err);
    REQUIRE_OK(gguf_writer_open(&w, to, true, &err), err);
    for (int i = 0; i < gguf_n_values(a); i++) gguf_put_value(w, gguf_value_at(a, i));
    EXPECT_OK(gguf_writer_begin_data(w, &err), err);
    EXPECT_OK(gguf_writer_commit(w, &err), err);

    REQUIRE_OK(gguf_open(&b, to, NULL, &err), err);
    EXPECT_INT(gguf_n_values(b), gguf_n_values(a));
    for (int i = 0; i < gguf_n_values(b); i++) {
        const gguf_value *x = gguf_value_at(a, i), *y = gguf_value_at(b, i);
        EXPECT(slice_equal(x->key, y->key) && x->kind == y->kind && x->element == y->element);
        EXPECT(x->bytes == y->bytes && !memcmp(x->data, y->data, x->bytes));
    }
    gguf_close(a);
    gguf_close(b);
}

TEST(a_file_in_memory_reads_like_one_on_disk)
{
    const char *path = test_scratch("memory.gguf");
    ds4_error err = { 0 };
    size_t n;
    gguf *g;
    write_example(path);
    char *data = test_read(path, &n);
    REQUIRE(data);
    REQUIRE_OK(gguf_open_memory(&g, data, n, NULL, &err), err);
    EXPECT_INT(gguf_n_tensors(g), 2);
    EXPECT_INT(gguf_file_bytes(g), n);
    expect_string(g, "general.architecture", "test");
    gguf_close(g);
    free(data);
}

TEST(closing_nothing_is_fine)
{
    gguf_close(NULL);
    gguf_writer_abort(NULL);
}

TEST(a_missing_file_is_named)
{
    ds4_error err = { 0 };
    gguf *g = (gguf *)&err;
    EXPECT_INT(gguf_open(&g, test_scratch("nowhere.gguf"), NULL, &err), DS4_ENOTFOUND);
    EXPECT(!g);
    EXPECT(strstr(err.message, "nowhere.gguf"));
}

/* ---- shared data ------------------------------------------------------------------- */

/* Three tensors, of which two share their bytes. */
static void write_aliased(const char *path)
{
    ds4_error err = { 0 };
    gguf_writer *w;
    REQUIRE_OK(gguf_writer_open(&w, path, true, &err), err);
    EXPECT_INT(gguf_put_tensor(w, "one", QUANT_F32, 1, shape_f32, -1), 0);
    EXPECT_INT(gguf_put_tensor(w, "same", QUANT_F32, 1, shape_f32, 0), 1);
    EXPECT_INT(gguf_put_tensor(w, "same again", QUANT_F32, 1, shape_f32, 1), 2);
    EXPECT_INT(gguf_put_tensor(w, "other", QUANT_F32, 1, shape_f32, -1), 3);
    EXPECT_OK(gguf_writer_begin_data(w, &err), err);
    put_data(w, 0, 24);
    put_data(w, 3, 24);
    EXPECT_OK(gguf_writer_commit(w, &err), err);
}

TEST(tensors_may_share_data_when_the_file_says_so)
{
    const char *path = test_scratch("aliased.gguf");
    ds4_error err = { 0 };
    gguf *g;
    bool said = false;
    write_aliased(path);
    const gguf_options strict = { .strict = true };
    REQUIRE_OK(gguf_open(&g, path, &strict, &err), err);
    EXPECT(gguf_aliased(g));
    EXPECT_OK(gguf_get_bool(g, "ds4.aliased_tensors", &said, &err), err);
    EXPECT(said);
    EXPECT(gguf_tensor_at(g, 0)->data == gguf_tensor_at(g, 1)->data);
    EXPECT(gguf_tensor_at(g, 0)->data == gguf_tensor_at(g, 2)->data);
    EXPECT(gguf_tensor_at(g, 3)->data == gguf_tensor_at(g, 0)->data + 32);
    EXPECT_INT(gguf_tensor_bytes(g), 48);               /* each byte once */
    gguf_close(g);
}

TEST(a_copied_alias_key_stays_behind)
{
    const char *from = test_scratch("aliased2.gguf"), *to = test_scratch("plain2.gguf");
    ds4_error err = { 0 };
    gguf *g;
    gguf_writer *w;
    write_aliased(from);
    REQUIRE_OK(gguf_open(&g, from, NULL, &err), err);
    REQUIRE_OK(gguf_writer_open(&w, to, true, &err), err);
    gguf_put_value(w, gguf_find(g, "ds4.aliased_tensors"));
    gguf_put_bool(w, "ds4.aliased_tensors", true);
    EXPECT_OK(gguf_writer_begin_data(w, &err), err);
    EXPECT_OK(gguf_writer_commit(w, &err), err);
    gguf_close(g);

    REQUIRE_OK(gguf_open(&g, to, NULL, &err), err);
    EXPECT_INT(gguf_n_values(g), 0);
    gguf_close(g);
}

TEST(an_alias_must_have_the_same_type_and_shape)
{
    ds4_error err = { 0 };
    gguf_writer *w;
    const uint64_t flat[1] = { 128 };
    REQUIRE_OK(gguf_writer_open(&w, test_scratch("bad_alias.gguf"), true, &err), err);
    gguf_put_tensor(w, "one", QUANT_Q8_0, 2, shape_q8, -1);
    gguf_put_tensor(w, "two", QUANT_Q8_0, 1, flat, 0);
    EXPECT_INT(gguf_writer_begin_data(w, &err), DS4_EARG);
    EXPECT(strstr(err.message, "two"));
    gguf_writer_abort(w);
}

/* ---- the writer refuses ------------------------------------------------------------- */

typedef void put_something(gguf_writer *w);

static void put_empty_key(gguf_writer *w)    { gguf_put_u32(w, "", 1); }
static void put_spaced_key(gguf_writer *w)   { gguf_put_u32(w, "a key", 1); }
static void put_same_key(gguf_writer *w)     { gguf_put_u32(w, "a", 1); gguf_put_u32(w, "a", 1); }
static void put_bad_text(gguf_writer *w)     { gguf_put_string(w, "a", "\xff", 1); }
static void put_bad_alignment(gguf_writer *w){ gguf_put_u32(w, "general.alignment", 48); }
static void put_no_name(gguf_writer *w)      { gguf_put_tensor(w, "", QUANT_F32, 1, shape_f32, -1); }
static void put_part_block(gguf_writer *w)   { gguf_put_tensor(w, "t", QUANT_Q8_0, 1, shape_f32, -1); }
static void put_retired(gguf_writer *w)      { gguf_put_tensor(w, "t", (quant_type)4, 1, shape_f32, -1); }
static void put_no_dims(gguf_writer *w)      { gguf_put_tensor(w, "t", QUANT_F32, 0, shape_f32, -1); }
static void put_far_alias(gguf_writer *w)    { gguf_put_tensor(w, "t", QUANT_F32, 1, shape_f32, 0); }

static void put_long_name(gguf_writer *w)
{
    char name[65];
    memset(name, 'n', 64);
    name[64] = 0;
    gguf_put_tensor(w, name, QUANT_F32, 1, shape_f32, -1);
}

static void put_same_tensor(gguf_writer *w)
{
    gguf_put_tensor(w, "t", QUANT_F32, 1, shape_f32, -1);
    gguf_put_tensor(w, "t", QUANT_F32, 1, shape_f32, -1);
}

static void put_bad_word(gguf_writer *w)
{
    const slice bad[2] = { { "good", 4 }, { "\xc3", 1 } };
    gguf_put_string_array(w, "a", bad, 2);
}

static void put_huge(gguf_writer *w)
{
    const uint64_t ne[3] = { 1u << 31, 1u << 31, 1u << 31 };
    gguf_put_tensor(w, "t", QUANT_F32, 3, ne, -1);
}

TEST(the_writer_keeps_the_first_error)
{
    static put_something *const bad[] = {
        put_empty_key, put_spaced_key, put_same_key, put_bad_text, put_bad_alignment, put_no_name,
        put_part_block, put_retired, put_no_dims, put_far_alias, put_long_name, put_same_tensor,
        put_bad_word, put_huge
    };
    for (size_t i = 0; i < countof(bad); i++) {
        ds4_error err = { 0 };
        gguf_writer *w;
        REQUIRE_OK(gguf_writer_open(&w, test_scratch("refused.gguf"), true, &err), err);
        bad[i](w);
        gguf_put_u32(w, "later", 1);
        if (gguf_writer_begin_data(w, &err) != DS4_EARG)
            test_fail(__FILE__, __LINE__, "case %zu was accepted: %s", i, err.message);
        gguf_writer_abort(w);
    }
}

TEST(data_must_come_in_order_and_whole)
{
    const char *path = test_scratch("order.gguf");
    ds4_error err = { 0 };
    gguf_writer *w;
    uint8_t data[64] = { 0 };
    REQUIRE_OK(gguf_writer_open(&w, path, true, &err), err);
    gguf_put_tensor(w, "one", QUANT_F32, 1, shape_f32, -1);
    gguf_put_tensor(w, "two", QUANT_F32, 1, shape_f32, -1);
    REQUIRE_OK(gguf_writer_begin_data(w, &err), err);
    EXPECT_INT(gguf_writer_data(w, 1, data, 24, &err), DS4_EARG);
    EXPECT_INT(gguf_writer_data(w, 0, data, 25, &err), DS4_EARG);
    EXPECT_OK(gguf_writer_data(w, 0, data, 20, &err), err);
    EXPECT_INT(gguf_writer_data(w, 1, data, 24, &err), DS4_EARG);
    EXPECT_OK(gguf_writer_data(w, 0, data, 4, &err), err);
    EXPECT_INT(gguf_writer_data(w, 2, data, 4, &err), DS4_EARG);
    EXPECT_OK(gguf_writer_data(w, 1, data, 23, &err), err);
    EXPECT_INT(gguf_writer_commit(w, &err), DS4_EARG);
    EXPECT(strstr(err.message, "two"));
    EXPECT(!exists(path));
}

TEST(a_file_appears_only_when_it_is_complete)
{
    const char *path = test_scratch("late/late.gguf"), *folder = test_scratch("late");
    ds4_error err = { 0 };
    gguf_writer *w;
    REQUIRE(mkdir(folder, 0700) == 0);

    REQUIRE_OK(gguf_writer_open(&w, path, false, &err), err);
    gguf_put_tensor(w, "one", QUANT_F32, 1, shape_f32, -1);
    EXPECT_OK(gguf_writer_begin_data(w, &err), err);
    EXPECT(!exists(path));
    gguf_writer_abort(w);
    EXPECT_INT(rmdir(folder), 0);                        /* nothing was left behind */

    REQUIRE(mkdir(folder, 0700) == 0);
    write_example(path);
    EXPECT(exists(path));
    EXPECT_INT(gguf_writer_open(&w, path, false, &err), DS4_EARG);      /* not over it */
    EXPECT(!w);
    REQUIRE_OK(gguf_writer_open(&w, path, true, &err), err);
    EXPECT_INT(gguf_writer_commit(w, &err), DS4_EARG);   /* no metadata yet */
    size_t n;
    char *data = test_read(path, &n);                    /* the old one is still whole */
    EXPECT(data && n > 100 && !memcmp(data, "GGUF", 4));
    free(data);
    unlink(path);
    EXPECT_INT(rmdir(folder), 0);
}

TEST(the_alignment_is_taken_from_its_key)
{
    const char *path = test_scratch("align.gguf");
    ds4_error err = { 0 };
    gguf_writer *w;
    gguf *g;
    REQUIRE_OK(gguf_writer_open(&w, path, true, &err), err);
    gguf_put_u32(w, "general.alignment", 4096);
    gguf_put_tensor(w, "one", QUANT_F32, 1, shape_f32, -1);
    gguf_put_tensor(w, "two", QUANT_F32, 1, shape_f32, -1);
    EXPECT_OK(gguf_writer_begin_data(w, &err), err);
    put_data(w, 0, 24);
    put_data(w, 1, 24);
    EXPECT_OK(gguf_writer_commit(w, &err), err);
    REQUIRE_OK(gguf_open(&g, path, NULL, &err), err);
    EXPECT_INT(gguf_tensor_at(g, 0)->offset, 4096);
    EXPECT_INT(gguf_tensor_at(g, 1)->offset, 8192);
    EXPECT_INT(gguf_file_bytes(g), 3 * 4096);
    gguf_close(g);
}

/* ---- split files ----------------------------------------------------------------------- */

typedef struct {
    int         no, count, total;
    const char *tensor;         /* NULL: none */
} shard_plan;

static void write_shard(const char *name, shard_plan p)
{
    ds4_error err = { 0 };
    gguf_writer *w;
    REQUIRE_OK(gguf_writer_open(&w, test_scratch(name), true, &err), err);
    if (p.no == 0) gguf_put_string(w, "general.architecture", "split", 5);
    gguf_put_u16(w, "split.no", (uint16_t)p.no);
    gguf_put_u32(w, "split.count", (uint32_t)p.count);         /* any integer kind */
    gguf_put_i32(w, "split.tensors.count", p.total);
    if (p.tensor) gguf_put_tensor(w, p.tensor, QUANT_F32, 1, shape_f32, -1);
    EXPECT_OK(gguf_writer_begin_data(w, &err), err);
    if (p.tensor) put_data(w, 0, 24);
    EXPECT_OK(gguf_writer_commit(w, &err), err);
}

/* Opens NAME-%05d-of-00003.gguf after writing the three shards. */
static ds4_status open_three(const char *prefix, const shard_plan p[3], int which, gguf **g,
                             ds4_error *err)
{
    char name[64];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s-%05d-of-00003.gguf", prefix, i + 1);
        if (p[i].count) write_shard(name, p[i]);
    }
    snprintf(name, sizeof name, "%s-%05d-of-00003.gguf", prefix, which + 1);
    return gguf_open(g, test_scratch(name), NULL, err);
}

TEST(shards_open_as_one_from_any_of_them)
{
    static const shard_plan p[3] = { { 0, 3, 2, NULL }, { 1, 3, 2, "one" }, { 2, 3, 2, "two" } };
    for (int which = 0; which < 3; which++) {
        ds4_error err = { 0 };
        gguf *g;
        REQUIRE_OK(open_three("good", p, which, &g, &err), err);
        EXPECT_INT(gguf_n_shards(g), 3);
        EXPECT_INT(gguf_n_tensors(g), 2);
        EXPECT_INT(gguf_tensor_bytes(g), 48);
        expect_string(g, "general.architecture", "split");
        const gguf_tensor *t = gguf_find_tensor(g, "two");
        REQUIRE(t);
        uint64_t bytes;
        EXPECT_INT(t->shard, 2);
        EXPECT(t->data == gguf_mapping(g, 2, &bytes) + t->offset && t->data[23] == 23);
        EXPECT(strstr(gguf_shard_path(g, 1), "good-00002-of-00003.gguf"));
        gguf_close(g);
    }
}

TEST(bad_shards_are_told_apart)
{
    static const struct {
        shard_plan  p[3];
        ds4_status  st;
        const char *says;
    } bad[] = {
        { { { 0, 3, 2, NULL }, { 0 }, { 2, 3, 2, "two" } }, DS4_ENOTFOUND, "-00002-of-00003.gguf" },
        { { { 0, 3, 2, NULL }, { 2, 3, 2, "one" }, { 1, 3, 2, "two" } }, DS4_EFORMAT, "split.no is 2" },
        { { { 0, 3, 2, NULL }, { 1, 2, 2, "one" }, { 2, 3, 2, "two" } }, DS4_EFORMAT, "split.count is 2" },
        { { { 0, 3, 2, NULL }, { 1, 3, 2, "one" }, { 2, 3, 2, "one" } }, DS4_EFORMAT, "tensor one occurs twice" },
        { { { 0, 3, 5, NULL }, { 1, 3, 5, "one" }, { 2, 3, 5, "two" } }, DS4_EFORMAT, "hold 2 tensors" },
        { { { 0, 3, 2, NULL }, { 1, 3, 3, "one" }, { 2, 3, 2, "two" } }, DS4_EFORMAT, "tensors.count is 3" },
        { { { 0, 4, 2, NULL }, { 1, 3, 2, "one" }, { 2, 3, 2, "two" } }, DS4_EFORMAT, "-of-00004" },
        { { { 0, 1000, 2, NULL }, { 1, 3, 2, "one" }, { 2, 3, 2, "two" } }, DS4_EFORMAT, "split.count is not" },
    };
    for (size_t i = 0; i < countof(bad); i++) {
        char prefix[16];
        ds4_error err = { 0 };
        gguf *g;
        snprintf(prefix, sizeof prefix, "bad%zu", i);
        EXPECT_INT(open_three(prefix, bad[i].p, 0, &g, &err), bad[i].st);
        EXPECT(!g);
        if (!strstr(err.message, bad[i].says))
            test_fail(__FILE__, __LINE__, "case %zu says: %s", i, err.message);
    }
}

TEST(a_shard_needs_a_name_that_follows_the_pattern)
{
    ds4_error err = { 0 };
    gguf *g;
    write_shard("lonely.gguf", (shard_plan){ 0, 2, 1, "one" });
    EXPECT_INT(gguf_open(&g, test_scratch("lonely.gguf"), NULL, &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "-of-00002"));

    write_shard("single.gguf", (shard_plan){ 0, 1, 1, "one" });     /* one of one is whole */
    REQUIRE_OK(gguf_open(&g, test_scratch("single.gguf"), NULL, &err), err);
    gguf_close(g);
}

TEST(a_shard_in_memory_is_refused)
{
    ds4_error err = { 0 };
    gguf *g;
    size_t n;
    write_shard("mem-00001-of-00002.gguf", (shard_plan){ 0, 2, 1, "one" });
    char *data = test_read(test_scratch("mem-00001-of-00002.gguf"), &n);
    REQUIRE(data);
    EXPECT_INT(gguf_open_memory(&g, data, n, NULL, &err), DS4_EUNSUPPORTED);
    free(data);
}
