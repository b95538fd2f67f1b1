/* Files of named arrays: the plain use, the edges, the lies. */
#include "factory/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "factory/checkpoint.h"
#include "runner.h"

/* A file in memory: length, header text, n_data bytes 0 1 2 ... */
static uint8_t *make_file(const char *header, size_t n_data, size_t *n)
{
    const size_t len = strlen(header);
    uint8_t *file = malloc(8 + len + n_data);
    *n = 8 + len + n_data;
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)len >> (8 * i));
    memcpy(file + 8, header, len);
    for (size_t i = 0; i < n_data; i++) file[8 + len + i] = (uint8_t)i;
    return file;
}

/* Opens such a file, which must fail, and looks for `part` in the sentence. */
static void refused(const char *header, size_t n_data, const char *part)
{
    size_t n;
    safetensors s;
    ds4_error err = { 0 };
    uint8_t *file = make_file(header, n_data, &n);
    const ds4_status st = safetensors_open_memory(&s, file, n, "x.safetensors", &err);
    if (!st) test_fail(__FILE__, __LINE__, "accepted: %s", header);
    else if (!strstr(err.message, part))
        test_fail(__FILE__, __LINE__, "\"%s\" does not tell \"%s\"", err.message, part);
    safetensors_close(&s);
    free(file);
}

TEST(arrays_are_found_with_type_shape_and_bytes)
{
    size_t n;
    safetensors s;
    ds4_error err;
    uint8_t *file = make_file("{\"__metadata__\":{\"format\":\"pt\"},"
                              "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                              "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                              "\"z\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[16,16]}}   ", 16, &n);
    REQUIRE_OK(safetensors_open_memory(&s, file, n, "x", &err), err);
    REQUIRE(s.n == 3);
    EXPECT_TEXT(s.items[0].name, "a");
    EXPECT_INT(s.items[0].n_dims, 0);
    EXPECT_INT(s.items[0].bytes, 4);
    EXPECT_TEXT(s.items[1].name, "b");
    EXPECT_INT(s.items[1].type, STORED_BF16);
    EXPECT_INT(s.items[1].dims[1], 3);
    EXPECT_INT(s.items[1].data[0], 4);
    EXPECT_INT(s.items[2].bytes, 0);

    char shape[64];
    stored_shape_text(&s.items[1], shape, sizeof shape);
    EXPECT_TEXT(shape, "[2, 3]");
    safetensors_close(&s);
    free(file);
}

TEST(names_keep_their_escapes_and_bytes)
{
    size_t n;
    safetensors s;
    ds4_error err;
    uint8_t *file = make_file("{\"\\u00e9.\\\"x:y\\\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, &n);
    REQUIRE_OK(safetensors_open_memory(&s, file, n, "x", &err), err);
    EXPECT_TEXT(s.items[0].name, "\xc3\xa9.\"x:y\"");
    safetensors_close(&s);
    free(file);
}

TEST(lies_in_a_header_are_refused)
{
#define ONE(dtype, shape, range) "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" range "}}"
    static const struct { const char *header; size_t n_data; const char *part; } cases[] = {
        { "", 0, "JSON" },
        { "{", 0, "ends too early" },
        { "[]", 0, "not a JSON object" },
        { "{} x", 0, "after the JSON value" },
        { "{}", 3, "3 bytes after the last tensor" },
        { "{\"t\":1}", 0, "not an object" },
        { "{\"\":{}}", 0, "name has 0 bytes" },
        { "{\"t\":{}}", 0, "no dtype" },
        { ONE("F33", "[1]", "[0,4]"), 4, "unknown dtype \"F33\"" },
        { ONE("F32", "1", "[0,4]"), 4, "no shape" },
        { ONE("F32", "[-1]", "[0,4]"), 4, "not a count" },
        { ONE("F32", "[1.0]", "[0,4]"), 4, "not a count" },
        { ONE("F32", "[\"1\"]", "[0,4]"), 4, "not a count" },
        { ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "more than 8" },
        { ONE("F32", "[4294967296,4294967296]", "[0,0]"), 0, "overflows" },
        { ONE("F32", "[4611686018427387904]", "[0,0]"), 0, "overflows" },
        { ONE("F32", "[18446744073709551615]", "[0,4]"), 4, "overflows" },
        { ONE("F32", "[1]", "[0]"), 4, "not a range" },
        { ONE("F32", "[1]", "[4,0]"), 4, "not a range" },
        { ONE("F32", "[1]", "[0,4.5]"), 4, "not a range" },
        { ONE("F32", "[2]", "[0,4]"), 4, "[2] of F32 take 8 bytes, its range holds 4" },
        { ONE("F32", "[1]", "[0,8]"), 4, "truncated" },
        { ONE("F32", "[1]", "[4,8]"), 8, "gap" },
        { ONE("F32", "[1]", "[0,9223372036854775807]"), 4, "truncated" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
          "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6, "shares bytes" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
          "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "occurs twice" },
        { "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "occurs twice" },
        { "{\"a\":[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}", 0, "JSON" },
        { "{\"a\xff\":{}}", 0, "UTF-8" },
        { "{'a':{}}", 0, "JSON" },
        { "{/* */}", 0, "JSON" },
    };
#undef ONE
    for (size_t i = 0; i < countof(cases); i++) refused(cases[i].header, cases[i].n_data, cases[i].part);
}

TEST(a_cut_file_is_refused_at_every_byte)
{
    size_t n;
    uint8_t *file = make_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, &n);
    for (size_t cut = 0; cut <= n; cut++) {
        safetensors s;
        ds4_error err;
        uint8_t *part = malloc(cut ? cut : 1);      /* of its own, so that a reader's step beyond shows */
        memcpy(part, file, cut);
        const ds4_status st = safetensors_open_memory(&s, part, cut, "x", &err);
        if ((st == DS4_OK) != (cut == n)) test_fail(__FILE__, __LINE__, "cut at %zu: status %d", cut, st);
        safetensors_close(&s);
        free(part);
    }
    free(file);
}

TEST(a_header_longer_than_the_file_is_refused)
{
    static const uint64_t lengths[] = { 3, 100000001, 1ull << 31, 1ull << 63, ~0ull, ~0ull - 7 };
    uint8_t file[10] = { 0 };
    file[8] = '{';
    file[9] = '}';
    for (size_t i = 0; i < countof(lengths); i++) {
        safetensors s;
        ds4_error err;
        memcpy(file, &lengths[i], 8);
        EXPECT_INT(safetensors_open_memory(&s, file, sizeof file, "x", &err), DS4_EFORMAT);
    }
}

/* ---- folders ----------------------------------------------------------- */

static const char *new_folder(const char *name)
{
    const char *dir = test_scratch(name);
    if (mkdir(dir, 0700)) test_fail(__FILE__, __LINE__, "can not make %s", dir);
    return dir;
}

static void put(const char *dir, const char *name, const void *data, size_t n)
{
    char *path = checkpoint_path(dir, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n) test_fail(__FILE__, __LINE__, "can not write %s", path);
    if (f) fclose(f);
    free(path);
}

static void put_shard(const char *dir, const char *name, const char *tensor)
{
    char header[128];
    size_t n;
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", tensor);
    uint8_t *file = make_file(header, 3, &n);
    put(dir, name, file, n);
    free(file);
}

static ds4_status open_with_index(const char *dir, const char *index, ds4_error *err)
{
    checkpoint *c;
    put(dir, "model.safetensors.index.json", index, strlen(index));
    const ds4_status st = checkpoint_open(&c, dir, err);
    checkpoint_close(c);
    return st;
}

TEST(shards_are_one_set_of_tensors)
{
    ds4_error err = { 0 };
    checkpoint *c;
    const char *dir = new_folder("shards");
    EXPECT_INT(checkpoint_open(&c, dir, &err), DS4_ENOTFOUND);

    put_shard(dir, "one.safetensors", "a");
    put_shard(dir, "two.safetensors", "b");
    const char *index = "{\"weight_map\":{\"b\":\"two.safetensors\",\"a\":\"one.safetensors\"}}";
    put(dir, "model.safetensors.index.json", index, strlen(index));
    REQUIRE_OK(checkpoint_open(&c, dir, &err), err);
    REQUIRE(checkpoint_find(c, "a") && checkpoint_find(c, "b"));
    EXPECT(checkpoint_find(c, "c") == NULL);
    EXPECT_TEXT(checkpoint_at(c, 1)->name, "b");
    EXPECT(checkpoint_at(c, 2) == NULL);
    EXPECT(strstr(checkpoint_find(c, "b")->path, "two.safetensors") != NULL);
    checkpoint_close(c);
}

TEST(an_index_may_not_lie_or_lead_elsewhere)
{
    ds4_error err = { 0 };
    const char *dir = new_folder("lying-index");
    put_shard(dir, "one.safetensors", "a");
    put_shard(dir, "two.safetensors", "b");
    put_shard(dir, "again.safetensors", "a");

    EXPECT_INT(open_with_index(dir, "{\"weight_map\":{\"a\":\"two.safetensors\"}}", &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "tensor a is not in two.safetensors") != NULL);
    EXPECT_INT(open_with_index(dir, "{\"weight_map\":{\"a\":\"../one.safetensors\"}}", &err), DS4_EFORMAT);
    EXPECT_INT(open_with_index(dir, "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", &err), DS4_EFORMAT);
    EXPECT_INT(open_with_index(dir, "{\"weight_map\":{}}", &err), DS4_EFORMAT);
    EXPECT_INT(open_with_index(dir, "{\"weight_map\":{\"a\":\"missing.safetensors\"}}", &err), DS4_ENOTFOUND);
    EXPECT(strstr(err.message, "missing.safetensors") != NULL);
    EXPECT_INT(open_with_index(dir, "{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"again.safetensors\"}}", &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "tensor a is in") != NULL);
}
