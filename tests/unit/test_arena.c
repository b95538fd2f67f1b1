#include <stdint.h>
#include <string.h>

#include "base/arena.h"
#include "base/checked.h"
#include "runner.h"

TEST(pieces_are_aligned_and_do_not_overlap)
{
    static const size_t sizes[] = { 1, 63, 64, 65, 100, 4096, 0, 7 };
    arena a;
    ds4_error err;
    char *p[countof(sizes)];
    REQUIRE_OK(arena_open(&a, 8192, &err), err);
    for (size_t i = 0; i < countof(sizes); i++) {
        p[i] = arena_take(&a, sizes[i]);
        REQUIRE(p[i]);
        EXPECT_INT((uintptr_t)p[i] % ARENA_ALIGN, 0);
        memset(p[i], (int)i + 1, sizes[i]);
    }
    for (size_t i = 0; i < countof(sizes); i++)
        for (size_t k = 0; k < sizes[i]; k++) EXPECT_INT(p[i][k], i + 1);
    arena_close(&a);
}

TEST(a_full_arena_says_so_and_stays_as_it_was)
{
    arena a;
    ds4_error err;
    REQUIRE_OK(arena_open(&a, 256, &err), err);
    EXPECT(arena_take(&a, 200));
    EXPECT(!arena_take(&a, 1));
    EXPECT_INT(a.used, 256);
    arena_reset(&a);
    EXPECT(arena_take(&a, 256));
    EXPECT(!arena_take(&a, SIZE_MAX));
    EXPECT(!arena_take(&a, SIZE_MAX - 62));
    EXPECT_INT(a.used, 256);
    arena_close(&a);
}

TEST(reset_takes_all_back_and_remembers_the_most)
{
    arena a;
    ds4_error err;
    REQUIRE_OK(arena_open(&a, 1000, &err), err);
    char *first = arena_take(&a, 500);
    EXPECT_INT(a.high, 512);
    arena_reset(&a);
    EXPECT_INT(a.used, 0);
    EXPECT(arena_take(&a, 10) == first);
    EXPECT_INT(a.used, 64);
    EXPECT_INT(a.high, 512);
    arena_close(&a);
}

TEST(a_size_that_is_no_multiple_is_fully_there)
{
    arena a;
    ds4_error err;
    REQUIRE_OK(arena_open(&a, 100, &err), err);
    EXPECT(arena_take(&a, 100));
    arena_close(&a);
}

TEST(an_empty_arena_gives_nothing_big)
{
    arena a;
    ds4_error err;
    REQUIRE_OK(arena_open(&a, 0, &err), err);
    EXPECT(!arena_take(&a, 65));
    arena_close(&a);
    arena_close(&a);
    arena_close(NULL);
}

TEST(impossible_sizes_are_no_memory)
{
    static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 2 + 1 };
    for (size_t i = 0; i < countof(sizes); i++) {
        arena a;
        ds4_error err = { 0 };
        EXPECT_INT(arena_open(&a, sizes[i], &err), DS4_EMEMORY);
        EXPECT(err.message[0]);
        EXPECT(!a.base);
        arena_close(&a);
    }
}
