/* Files that are wrong on purpose: every one is refused with a sentence, none
 * is believed. The example is written byte by byte here, not by our writer. */
#include "runner.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "gguf/gguf.h"

/* ---- a file under construction --------------------------------------------------- */

static void le(bytes *b, uint64_t v, int n)
{
    for (int i = 0; i < n; i++, v >>= 8) bytes_char(b, (char)(v & 255));
}

static void text(bytes *b, const char *s)
{
    le(b, strlen(s), 8);
    bytes_text(b, s);
}

static void header(bytes *b, uint64_t tensors, uint64_t keys)
{
    bytes_init(b, 1 << 24);
    bytes_text(b, "GGUF");
    le(b, 3, 4);
    le(b, tensors, 8);
    le(b, keys, 8);
}

static void number_key(bytes *b, const char *key, gguf_kind kind, uint64_t v, int n)
{
    text(b, key);
    le(b, kind, 4);
    le(b, v, n);
}

static void text_key(bytes *b, const char *key, const char *value)
{
    text(b, key);
    le(b, GGUF_STRING, 4);
    text(b, value);
}

static void tensor(bytes *b, const char *name, uint64_t ne0, uint64_t ne1, uint32_t type, uint64_t offset)
{
    text(b, name);
    le(b, 2, 4);
    le(b, ne0, 8);
    le(b, ne1, 8);
    le(b, type, 4);
    le(b, offset, 8);
}

static void pad(bytes *b, size_t align)
{
    while (b->len % align) bytes_char(b, 0);
}

static void data(bytes *b, size_t n)
{
    pad(b, 32);
    for (size_t i = 0; i < n; i++) bytes_char(b, (char)i);
}

/* Three keys, two tensors: the file that is damaged below. */
static void example(bytes *b)
{
    header(b, 2, 4);
    text_key(b, "general.architecture", "test");
    number_key(b, "a.count", GGUF_U32, 7, 4);
    text(b, "tokenizer.ggml.tokens");
    le(b, GGUF_ARRAY, 4);
    le(b, GGUF_STRING, 4);
    le(b, 2, 8);
    text(b, "x");
    text(b, "yz");
    text(b, "a.floats");
    le(b, GGUF_ARRAY, 4);
    le(b, GGUF_F32, 4);
    le(b, 3, 8);
    le(b, 0, 12);
    tensor(b, "one", 4, 2, QUANT_F32, 0);
    tensor(b, "two", 32, 1, QUANT_Q8_0, 32);
    data(b, 32 + 34);
}

/* Opens a copy of exactly that size, so that a sanitizer sees a byte too many,
 * and looks at everything. */
static ds4_status open_copy(const char *p, size_t n, const gguf_options *o, ds4_error *err)
{
    char *copy = malloc(n ? n : 1);
    if (!copy) return DS4_EMEMORY;
    if (n) memcpy(copy, p, n);

    gguf *g;
    const ds4_status st = gguf_open_memory(&g, copy, n, o, err);
    unsigned sum = 0;
    for (int i = 0; g && i < gguf_n_tensors(g); i++)
        for (uint64_t k = 0; k < gguf_tensor_at(g, i)->bytes; k++) sum += gguf_tensor_at(g, i)->data[k];
    for (int i = 0; g && i < gguf_n_values(g); i++)
        for (uint64_t k = 0; k < gguf_value_at(g, i)->bytes; k++) sum += gguf_value_at(g, i)->data[k];
    EXPECT(st || sum + 1);
    EXPECT(!st == (g != NULL));
    gguf_close(g);
    free(copy);
    return st;
}

/* Opens what was built, expects that end and those words, and frees it. */
static void expect_end(bytes *b, ds4_status want, const char *says, int line)
{
    ds4_error err = { 0 };
    EXPECT(!b->failed);
    const ds4_status st = open_copy(b->data, b->len, NULL, &err);
    if (st != want || (says && !strstr(err.message, says)))
        test_fail(__FILE__, line, "status %d: \"%s\", want status %d: \"%s\"", st, err.message, want,
                  says ? says : "");
    bytes_free(b);
}

#define REFUSED(b, says)      expect_end(b, DS4_EFORMAT, says, __LINE__)
#define ACCEPTED(b)           expect_end(b, DS4_OK, NULL, __LINE__)
#define ENDS(b, status, says) expect_end(b, status, says, __LINE__)

TEST(the_example_itself_is_good)
{
    bytes b;
    example(&b);
    ACCEPTED(&b);
}

/* ---- damage everywhere --------------------------------------------------------------- */

TEST(a_cut_file_is_refused_at_every_byte)
{
    bytes b;
    example(&b);
    for (size_t n = 0; n < b.len; n++) {
        ds4_error err = { 0 };
        if (open_copy(b.data, n, NULL, &err) != DS4_EFORMAT)
            test_fail(__FILE__, __LINE__, "cut at %zu of %zu: %s", n, b.len, err.message);
    }
    bytes_free(&b);
}

TEST(wild_numbers_at_every_byte_are_survived)
{
    static const uint64_t wild[] = {
        0, 1, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX, 9, 14, 33, (uint64_t)1 << 32
    };
    bytes b;
    example(&b);
    char *copy = malloc(b.len);
    REQUIRE(copy);
    for (size_t at = 0; at < b.len; at++)
        for (size_t k = 0; k < countof(wild); k++)
            for (int width = 1; width <= 8; width *= 2) {
                ds4_error err = { 0 };
                memcpy(copy, b.data, b.len);
                for (int i = 0; i < width && at + (size_t)i < b.len; i++)
                    copy[at + (size_t)i] = (char)(wild[k] >> 8 * i & 255);
                const ds4_status st = open_copy(copy, b.len, NULL, &err);
                EXPECT(st == DS4_OK || ((st == DS4_EFORMAT || st == DS4_EUNSUPPORTED) && err.message[0]));
            }
    free(copy);
    bytes_free(&b);
}

/* ---- header ------------------------------------------------------------------------------ */

static void with_version(bytes *b, uint32_t version)
{
    example(b);
    for (int i = 0; i < 4; i++) b->data[4 + i] = (char)(version >> 8 * i & 255);
}

TEST(only_versions_2_and_3_are_read)
{
    bytes b;
    with_version(&b, 2);
    ACCEPTED(&b);
    with_version(&b, 0);
    REFUSED(&b, "version is 0");
    with_version(&b, 1);
    ENDS(&b, DS4_EUNSUPPORTED, "version 1 is too old");
    with_version(&b, 4);
    ENDS(&b, DS4_EUNSUPPORTED, "version 4");
    with_version(&b, 3u << 24);
    ENDS(&b, DS4_EUNSUPPORTED, "big-endian");
    example(&b);
    b.data[0] = 'g';
    REFUSED(&b, "not a GGUF file");
}

TEST(counts_are_compared_with_the_file_before_they_are_believed)
{
    static const uint64_t counts[] = { 5, 70000, UINT32_MAX, INT64_MAX, UINT64_MAX };
    for (size_t i = 0; i < countof(counts); i++) {
        bytes b;
        header(&b, 0, counts[i]);
        le(&b, 0, 40);
        REFUSED(&b, "key count");
        header(&b, counts[i], 0);
        le(&b, 0, 40);
        REFUSED(&b, "tensor count");
    }
}

/* ---- keys ----------------------------------------------------------------------------------- */

TEST(bad_keys_are_refused)
{
    bytes b;
    header(&b, 0, 1);
    number_key(&b, "", GGUF_U32, 1, 4);
    REFUSED(&b, "empty or not printable");
    header(&b, 0, 1);
    number_key(&b, "a\nb", GGUF_U32, 1, 4);
    REFUSED(&b, "not printable");
    header(&b, 0, 1);
    number_key(&b, "caf\xc3\xa9", GGUF_U32, 1, 4);
    REFUSED(&b, "not printable");
    header(&b, 0, 1);
    number_key(&b, "A-key/with:other$ASCII", GGUF_U32, 1, 4);
    ACCEPTED(&b);
    header(&b, 0, 2);
    number_key(&b, "same", GGUF_U32, 1, 4);
    number_key(&b, "same", GGUF_U8, 1, 1);
    REFUSED(&b, "key same occurs twice");
}

TEST(a_key_may_have_65535_bytes_and_no_more)
{
    char *name = malloc(65537);
    REQUIRE(name);
    memset(name, 'k', 65536);
    bytes b;
    name[65536] = 0;
    header(&b, 0, 1);
    number_key(&b, name, GGUF_U32, 1, 4);
    REFUSED(&b, "a key has a length of 65536");
    name[65535] = 0;
    header(&b, 0, 1);
    number_key(&b, name, GGUF_U32, 1, 4);
    ACCEPTED(&b);
    free(name);
}

TEST(bad_values_are_refused)
{
    bytes b;
    header(&b, 0, 1);
    number_key(&b, "a", (gguf_kind)13, 1, 4);
    REFUSED(&b, "a: kind 13 is not known");
    header(&b, 0, 1);
    number_key(&b, "a", GGUF_BOOL, 2, 1);
    REFUSED(&b, "a bool is 2");
    header(&b, 0, 1);
    text(&b, "a");
    le(&b, GGUF_STRING, 4);
    le(&b, (uint64_t)65 << 20, 8);
    REFUSED(&b, "the most is 67108864");
    header(&b, 0, 1);
    text_key(&b, "general.name", "bad \xc0\x80");         /* overlong */
    REFUSED(&b, "general.name is not valid UTF-8");
    header(&b, 0, 1);
    text_key(&b, "tokenizer.chat_template", "\xed\xa0\x80");     /* surrogate */
    REFUSED(&b, "not valid UTF-8");
}

static void array_key(bytes *b, const char *key, uint32_t element, uint64_t count)
{
    text(b, key);
    le(b, GGUF_ARRAY, 4);
    le(b, element, 4);
    le(b, count, 8);
}

TEST(bad_arrays_are_refused)
{
    bytes b;
    header(&b, 0, 1);
    array_key(&b, "a", GGUF_ARRAY, 1);
    le(&b, 0, 64);
    REFUSED(&b, "arrays of arrays");
    header(&b, 0, 1);
    array_key(&b, "a", 77, 1);
    le(&b, 0, 64);
    REFUSED(&b, "element kind 77");
    header(&b, 0, 1);
    array_key(&b, "a", GGUF_U64, (uint64_t)1 << 61);     /* times 8 wraps to 0 */
    le(&b, 0, 64);
    REFUSED(&b, "too large for the file");
    header(&b, 0, 1);
    array_key(&b, "a", GGUF_U8, 65);
    le(&b, 0, 64);
    REFUSED(&b, "too large for the file");
    header(&b, 0, 1);
    array_key(&b, "a", GGUF_STRING, 9);
    le(&b, 0, 64);
    REFUSED(&b, "too large for the file");
    header(&b, 0, 1);
    array_key(&b, "a", GGUF_BOOL, 2);
    le(&b, 0x0301, 2);
    REFUSED(&b, "a bool is 3");
    header(&b, 0, 1);
    array_key(&b, "tokenizer.ggml.tokens", GGUF_STRING, 2);
    text(&b, "good");
    text(&b, "\xf4\x90\x80\x80");                         /* above 10FFFF */
    REFUSED(&b, "not valid UTF-8");
    header(&b, 0, 1);
    array_key(&b, "a", GGUF_STRING, 0);                   /* empty is fine */
    ACCEPTED(&b);
}

TEST(text_outside_the_known_keys_is_checked_when_read)
{
    bytes b;
    ds4_error err = { 0 };
    gguf *g;
    slice s;
    header(&b, 0, 2);
    text_key(&b, "other.note", "\xff");
    array_key(&b, "other.notes", GGUF_STRING, 1);
    text(&b, "\xff");
    REQUIRE_OK(gguf_open_memory(&g, b.data, b.len, NULL, &err), err);
    EXPECT_INT(gguf_get_string(g, "other.note", &s, &err), DS4_EFORMAT);
    uint64_t cursor = 0;
    EXPECT(!gguf_array_string(gguf_find(g, "other.notes"), &cursor, &s));
    gguf_close(g);
    bytes_free(&b);
}

TEST(numbers_that_are_not_finite_are_refused_when_read)
{
    bytes b;
    ds4_error err = { 0 };
    gguf *g;
    double d;
    header(&b, 0, 2);
    number_key(&b, "a.nan", GGUF_F32, 0x7fc00000, 4);
    number_key(&b, "a.inf", GGUF_F64, 0xfff0000000000000u, 8);
    REQUIRE_OK(gguf_open_memory(&g, b.data, b.len, NULL, &err), err);
    EXPECT_INT(gguf_get_float(g, "a.nan", &d, &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "a finite number"));
    EXPECT_INT(gguf_get_float(g, "a.inf", &d, &err), DS4_EFORMAT);
    gguf_close(g);
    bytes_free(&b);
}

TEST(the_alignment_must_be_a_sane_power_of_two)
{
    static const uint64_t bad[] = { 0, 1, 3, 4, 48, 131072, (uint64_t)1 << 31 };
    bytes b;
    for (size_t i = 0; i < countof(bad); i++) {
        header(&b, 0, 1);
        number_key(&b, "general.alignment", GGUF_U32, bad[i], 4);
        REFUSED(&b, "expected a power of two from 8 to 65536");
    }
    header(&b, 0, 1);
    number_key(&b, "general.alignment", GGUF_U64, 32, 8);
    REFUSED(&b, "general.alignment is u64, expected u32");
    header(&b, 0, 1);
    text_key(&b, "general.alignment", "32");
    REFUSED(&b, "expected u32");
    header(&b, 1, 1);
    number_key(&b, "general.alignment", GGUF_U32, 8, 4);
    tensor(&b, "t", 1, 1, QUANT_F32, 0);
    pad(&b, 8);
    le(&b, 0, 4);
    ACCEPTED(&b);
}

/* ---- tensors ---------------------------------------------------------------------------------- */

/* One tensor and 64 bytes of data. */
static void one_tensor(bytes *b, const char *name, uint64_t ne0, uint64_t ne1, uint32_t type,
                       uint64_t offset)
{
    header(b, 1, 0);
    tensor(b, name, ne0, ne1, type, offset);
    data(b, 64);
}

TEST(bad_tensor_names_are_refused)
{
    char name[65];
    bytes b;
    memset(name, 'n', 64);
    name[64] = 0;
    one_tensor(&b, name, 4, 4, QUANT_F32, 0);
    REFUSED(&b, "a tensor's name has a length of 64");
    name[63] = 0;
    one_tensor(&b, name, 4, 4, QUANT_F32, 0);
    ACCEPTED(&b);
    one_tensor(&b, "", 4, 4, QUANT_F32, 0);
    REFUSED(&b, "name is empty");
    one_tensor(&b, "a\x1b[2J", 4, 4, QUANT_F32, 0);
    REFUSED(&b, "control characters");
    one_tensor(&b, "\xff", 4, 4, QUANT_F32, 0);
    REFUSED(&b, "not UTF-8");
    header(&b, 2, 0);
    tensor(&b, "same", 4, 2, QUANT_F32, 0);
    tensor(&b, "same", 4, 2, QUANT_F32, 32);
    data(&b, 64);
    REFUSED(&b, "tensor same occurs twice");
}

TEST(a_name_with_a_zero_byte_is_refused)
{
    bytes b;
    one_tensor(&b, "a.b", 4, 4, QUANT_F32, 0);
    b.data[24 + 8 + 1] = 0;
    REFUSED(&b, "control characters");
    header(&b, 0, 1);
    number_key(&b, "a.b", GGUF_U8, 1, 1);
    b.data[24 + 8 + 1] = 0;
    REFUSED(&b, "not printable");
}

TEST(impossible_shapes_are_refused)
{
    static const struct {
        uint64_t    ne0, ne1;
        uint32_t    type;
        const char *says;
    } bad[] = {
        { 0, 4, QUANT_F32, "at least 1" },
        { 4, 0, QUANT_F32, "at least 1" },
        { (uint64_t)1 << 32, (uint64_t)1 << 32, QUANT_F32, "below 2^63" },
        { (uint64_t)1 << 62, 2, QUANT_I8, "below 2^63" },
        { (uint64_t)1 << 62, 1, QUANT_F64, "beyond 2^64" },
        { 33, 1, QUANT_Q8_0, "whole number of blocks" },
        { 128, 1, QUANT_Q4_K, "whole number of blocks" },
        { 4, 4, 4, "type 4 is unknown or retired" },
        { 4, 4, 31, "type 31" },
        { 4, 4, 255, "type 255" },
        { 4, 4, UINT32_MAX, "type 4294967295" },
        { 17, 1, QUANT_F32, "beyond the file" },
        { INT64_MAX, 1, QUANT_I8, "beyond the file" },
    };
    for (size_t i = 0; i < countof(bad); i++) {
        bytes b;
        one_tensor(&b, "t", bad[i].ne0, bad[i].ne1, bad[i].type, 0);
        REFUSED(&b, bad[i].says);
    }
}

TEST(dimensions_are_one_to_four)
{
    bytes b;
    for (uint32_t n = 0; n <= 6; n++) {
        header(&b, 1, 0);
        text(&b, "t");
        le(&b, n, 4);
        for (uint32_t i = 0; i < n; i++) le(&b, 2, 8);
        le(&b, QUANT_F32, 4);
        le(&b, 0, 8);
        data(&b, 64);
        if (n >= 1 && n <= 4) ACCEPTED(&b);
        else REFUSED(&b, "must be 1 to 4");
    }
}

/* A product that wraps to a small number: 2^32 * 2^32 * 1 is 0 in 64 bits. */
TEST(a_product_that_wraps_is_refused)
{
    bytes b;
    header(&b, 1, 0);
    text(&b, "t");
    le(&b, 3, 4);
    le(&b, (uint64_t)1 << 32, 8);
    le(&b, (uint64_t)1 << 32, 8);
    le(&b, 1, 8);
    le(&b, QUANT_F32, 4);
    le(&b, 0, 8);
    data(&b, 64);
    REFUSED(&b, "below 2^63");
}

TEST(offsets_are_aligned_and_inside)
{
    static const struct {
        uint64_t    offset;
        const char *says;
    } bad[] = {
        { 1, "not a multiple of 32" },
        { 31, "not a multiple of 32" },
        { 32, "beyond the file" },
        { 96, "beyond the file" },
        { (uint64_t)1 << 63, "beyond the file" },
        { UINT64_MAX - 31, "beyond the file" },
    };
    bytes b;
    for (size_t i = 0; i < countof(bad); i++) {
        one_tensor(&b, "t", 4, 4, QUANT_F32, bad[i].offset);
        REFUSED(&b, bad[i].says);
    }
    one_tensor(&b, "t", 4, 4, QUANT_F32, 0);
    ACCEPTED(&b);
}

/* ---- places ------------------------------------------------------------------------------------- */

/* Two tensors of 32 bytes each, of rows of the given type. */
static void two_tensors(bytes *b, uint64_t second_ne0, uint64_t second_ne1, uint64_t second_offset,
                        int alias_key)
{
    header(b, 2, alias_key ? 1 : 0);
    if (alias_key == 1) number_key(b, "ds4.aliased_tensors", GGUF_BOOL, 1, 1);
    if (alias_key == 2) number_key(b, "ds4.aliased_tensors", GGUF_BOOL, 0, 1);
    if (alias_key == 3) number_key(b, "ds4.aliased_tensors", GGUF_U32, 1, 4);
    tensor(b, "one", 4, 4, QUANT_F32, 0);
    tensor(b, "two", second_ne0, second_ne1, QUANT_F32, second_offset);
    data(b, 128);
}

TEST(shared_bytes_need_the_key_and_the_same_shape)
{
    bytes b;
    two_tensors(&b, 4, 4, 0, 0);
    REFUSED(&b, "share their bytes without ds4.aliased_tensors");
    two_tensors(&b, 4, 4, 0, 2);
    REFUSED(&b, "share their bytes without ds4.aliased_tensors");
    two_tensors(&b, 4, 4, 0, 3);
    REFUSED(&b, "ds4.aliased_tensors is u32, expected bool");
    two_tensors(&b, 4, 4, 0, 1);
    ACCEPTED(&b);
    two_tensors(&b, 16, 1, 0, 1);                         /* the same bytes in another shape */
    REFUSED(&b, "one and two overlap");
}

TEST(partial_overlap_is_refused_always)
{
    bytes b;
    for (int key = 0; key <= 1; key++) {
        two_tensors(&b, 4, 4, 32, key);                   /* the second half of the first */
        REFUSED(&b, "one and two overlap");
        two_tensors(&b, 4, 2, 0, key);                    /* the first half of it */
        REFUSED(&b, "overlap");
        two_tensors(&b, 4, 2, 32, key);
        REFUSED(&b, "overlap");
        two_tensors(&b, 4, 6, 0, key);                    /* and more than it */
        REFUSED(&b, "overlap");
    }
}

static void count_line(void *ctx, const char *line)
{
    (void)line;
    (*(int *)ctx)++;
}

/* Warnings while opening; -1: refused. */
static int warnings(bytes *b, bool strict)
{
    int n = 0;
    ds4_error err = { 0 };
    const gguf_options o = { .strict = strict, .warn = count_line, .warn_ctx = &n };
    const ds4_status st = open_copy(b->data, b->len, &o, &err);
    return st ? -1 : n;
}

TEST(gaps_and_disorder_warn_or_are_refused)
{
    bytes b;
    two_tensors(&b, 4, 4, 64, 0);
    EXPECT_INT(warnings(&b, true), 0);
    bytes_free(&b);

    header(&b, 2, 0);
    tensor(&b, "one", 4, 2, QUANT_F32, 0);
    tensor(&b, "two", 4, 2, QUANT_F32, 64);               /* a gap */
    data(&b, 96);
    EXPECT_INT(warnings(&b, false), 1);
    EXPECT_INT(warnings(&b, true), -1);
    bytes_free(&b);

    header(&b, 2, 0);
    tensor(&b, "one", 4, 2, QUANT_F32, 32);               /* in the wrong order */
    tensor(&b, "two", 4, 2, QUANT_F32, 0);
    data(&b, 64);
    EXPECT_INT(warnings(&b, false), 1);
    EXPECT_INT(warnings(&b, true), -1);
    bytes_free(&b);

    one_tensor(&b, "t", 4, 2, QUANT_F32, 0);              /* 32 bytes more than it says */
    EXPECT_INT(warnings(&b, false), 1);
    EXPECT_INT(warnings(&b, true), 1);
    bytes_free(&b);
}

TEST(padding_at_the_end_may_be_missing)
{
    bytes b;
    header(&b, 1, 0);
    tensor(&b, "t", 3, 1, QUANT_F32, 0);
    data(&b, 12);
    EXPECT_INT(warnings(&b, true), 0);
    bytes_free(&b);

    header(&b, 0, 1);                                     /* no data at all */
    number_key(&b, "a", GGUF_U8, 1, 1);
    EXPECT_INT(warnings(&b, true), 0);
    bytes_free(&b);
}

/* ---- time ------------------------------------------------------------------------------------------- */

/* A megabyte of names that differ in their last bytes only, in falling order. */
TEST(many_names_take_little_time)
{
    const int n = 9000;
    bytes b;
    header(&b, (uint64_t)n, 0);
    for (int i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa%07d", n - i);
        tensor(&b, name, 1, 1, QUANT_I8, (uint64_t)i * 32);
    }
    data(&b, (size_t)n * 32);
    EXPECT(b.len > 1000000);
    const clock_t start = clock();
    ACCEPTED(&b);
    EXPECT((double)(clock() - start) / CLOCKS_PER_SEC < 1.0);
}
