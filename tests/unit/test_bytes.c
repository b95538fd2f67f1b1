#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/slice.h"
#include "runner.h"

/* The sentences of bytes.h. */
static void expect_sound(const bytes *b)
{
    EXPECT(b->len <= b->cap && b->cap <= b->max);
    EXPECT(b->data || b->len == 0);
    if (b->data) EXPECT_INT(b->data[b->len], 0);
}

TEST(appending_in_every_way)
{
    bytes b;
    bytes_init(&b, 1000);
    expect_sound(&b);
    EXPECT(bytes_text(&b, "one"));
    EXPECT(bytes_char(&b, ','));
    EXPECT(bytes_append(&b, "two\0three", 9));
    EXPECT(bytes_printf(&b, "%d-%s", 4, "five"));
    expect_sound(&b);
    EXPECT_INT(b.len, 19);
    EXPECT(memcmp(b.data, "one,two\0three4-five", 20) == 0);
    bytes_free(&b);
    EXPECT(!b.data && b.len == 0 && b.max == 1000);
    EXPECT(bytes_text(&b, "again"));
    bytes_free(&b);
}

TEST(appending_nothing_makes_an_empty_text)
{
    bytes b;
    bytes_init(&b, 0);
    EXPECT(bytes_append(&b, NULL, 0));
    EXPECT_TEXT(b.data, "");
    expect_sound(&b);
    bytes_free(&b);
}

TEST(max_is_reached_and_never_passed)
{
    for (size_t max = 0; max < 300; max++) {
        bytes b;
        bytes_init(&b, max);
        for (size_t i = 0; i < max; i++) EXPECT(bytes_char(&b, 'x'));
        expect_sound(&b);
        EXPECT(!b.failed && b.len == max);
        EXPECT(!bytes_char(&b, 'y'));
        EXPECT(b.failed && b.len == max);
        if (b.data) expect_sound(&b);
        bytes_free(&b);
    }
}

TEST(a_failed_append_changes_nothing_and_ends_the_chain)
{
    bytes b;
    bytes_init(&b, 8);
    bytes_text(&b, "abcd");
    EXPECT(!bytes_text(&b, "efghi"));
    EXPECT_TEXT(b.data, "abcd");
    EXPECT(!bytes_char(&b, 'e'));
    EXPECT(!bytes_printf(&b, "%d", 1));
    EXPECT(!bytes_append(&b, "", 0));
    EXPECT_TEXT(b.data, "abcd");
    expect_sound(&b);

    bytes_clear(&b);
    EXPECT(!b.failed && b.data && b.len == 0);
    EXPECT(!bytes_printf(&b, "%09d", 1));
    EXPECT_TEXT(b.data, "");
    bytes_clear(&b);
    EXPECT(bytes_printf(&b, "%08d", 1));
    EXPECT_TEXT(b.data, "00000001");
    bytes_free(&b);
}

TEST(room_beyond_reason_is_refused)
{
    bytes b;
    bytes_init(&b, SIZE_MAX);
    EXPECT(b.max < SIZE_MAX);
    bytes_char(&b, 'x');
    EXPECT(!bytes_reserve(&b, SIZE_MAX));
    EXPECT(b.failed);
    bytes_clear(&b);
    EXPECT(!bytes_append(&b, "x", SIZE_MAX / 2));
    EXPECT(!bytes_append(&b, "x", 1));
    bytes_free(&b);
}

TEST(reserved_room_is_filled_without_moving)
{
    bytes b;
    bytes_init(&b, 1 << 20);
    bytes_text(&b, "x");
    EXPECT(bytes_reserve(&b, 5000));
    EXPECT_TEXT(b.data, "x");
    const char *data = b.data;
    for (int i = 0; i < 5000; i++) bytes_char(&b, 'y');
    EXPECT(b.data == data);
    expect_sound(&b);
    bytes_free(&b);
}

TEST(taking_gives_the_memory_away)
{
    bytes b;
    bytes_init(&b, 100);
    char *empty = bytes_take(&b);
    EXPECT_TEXT(empty, "");
    bytes_text(&b, "text");
    char *text = bytes_take(&b);
    EXPECT_TEXT(text, "text");
    EXPECT(!b.data && b.len == 0 && b.cap == 0);
    bytes_text(&b, "other");
    EXPECT_TEXT(text, "text");

    bytes_append(&b, "x", 1000);
    EXPECT(bytes_take(&b) == NULL);
    EXPECT(!b.failed && !b.data);
    free(empty);
    free(text);
}

/* ---- checked and slice ------------------------------------------------- */

TEST(checked_arithmetic_says_when_it_does_not_fit)
{
    uint64_t v = 7;
    size_t s = 7;
    EXPECT(checked_mul_u64(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &v) && v == UINT64_MAX - UINT32_MAX);
    EXPECT(!checked_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &v));
    EXPECT(checked_add_u64(UINT64_MAX, 0, &v) && v == UINT64_MAX);
    v = 7;
    EXPECT(!checked_add_u64(UINT64_MAX, 1, &v) && v == 7);
    EXPECT(!checked_mul_size(SIZE_MAX, 2, &s) && s == 7);
    EXPECT(checked_align_u64(33, 32, &v) && v == 64);
    EXPECT(checked_align_u64(64, 32, &v) && v == 64);
    EXPECT(checked_align_u64(0, 32, &v) && v == 0);
    EXPECT(!checked_align_u64(UINT64_MAX - 30, 32, &v) && v == 0);
}

TEST(slices_compare_by_their_bytes)
{
    EXPECT(slice_is(slice_of("abc"), "abc"));
    EXPECT(!slice_is(slice_of("abc"), "abd") && !slice_is(slice_of("abc"), "ab"));
    EXPECT(slice_equal((slice){ NULL, 0 }, slice_of("")));
    EXPECT(!slice_equal((slice){ "a\0b", 3 }, (slice){ "a\0c", 3 }));
}
