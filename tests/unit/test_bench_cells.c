#include "bench/cells.h"

#include <string.h>

#include "base/checked.h"
#include "bench/frontier.h"
#include "runner.h"

static void expect_list(const char *text, const int *want, int n)
{
    int_list l;
    ds4_error err;
    EXPECT_OK(int_list_parse(&l, "prompt", text, 0, &err), err);
    EXPECT_INT(l.n, n);
    for (int i = 0; i < n && i < l.n; i++) EXPECT_INT(l.at[i], want[i]);
}

TEST(lists_and_ranges_say_what_they_mean)
{
    expect_list("128", (int[]){ 128 }, 1);
    expect_list("1,2", (int[]){ 1, 2 }, 2);
    expect_list("2-5", (int[]){ 2, 3, 4, 5 }, 4);
    expect_list("0-4096+1024", (int[]){ 0, 1024, 2048, 3072, 4096 }, 5);
    expect_list("1-10*3,64", (int[]){ 1, 3, 9, 64 }, 4);
    expect_list("7-7", (int[]){ 7 }, 1);
}

TEST(what_is_no_list_is_refused)
{
    static const char *const bad[] = { "", "x", "1,", ",1", "1,,2", "5-2", "1-", "1-4+0", "1-4*1", "0-4*2", "1 2", "-1",
                                       "99999999999", "1-10000", "4k" };
    for (size_t i = 0; i < countof(bad); i++) {
        int_list l;
        ds4_error err = { 0 };
        EXPECT_INT(int_list_parse(&l, "prompt", bad[i], 0, &err), DS4_EARG);
        EXPECT(strncmp(err.message, "--prompt: ", 10) == 0);
    }
    int_list l;
    EXPECT_INT(int_list_parse(&l, "sessions", "0", 1, NULL), DS4_EARG);
}

static int_list list(int n, const int *v)
{
    int_list l = { .n = n };
    memcpy(l.at, v, (size_t)n * sizeof *v);
    return l;
}

TEST(every_combination_is_a_cell)
{
    cell_lists l = { .prompt = list(2, (int[]){ 512, 0 }), .gen = list(1, (int[]){ 128 }),
                     .depth = list(2, (int[]){ 0, 4096 }), .sessions = list(2, (int[]){ 1, 8 }) };
    bench_cell cell[CELLS_MAX];
    char name[CELL_NAME_BYTES];
    ds4_error err;
    int n;
    EXPECT_OK(cell_pair_parse(&l, "64,16", &err), err);
    REQUIRE_OK(cells_make(&l, cell, &n, &err), err);
    static const char *const want[] = { "pp512", "tg128", "pp64+tg16", "pp512x8", "tg128x8", "pp64+tg16x8", "pp512@d4096",
                                        "tg128@d4096", "pp64+tg16@d4096", "pp512x8@d4096", "tg128x8@d4096",
                                        "pp64+tg16x8@d4096" };
    EXPECT_INT(n, countof(want));
    for (int i = 0; i < n; i++) {
        cell_name(&cell[i], name);
        EXPECT_TEXT(name, want[i]);
    }
    EXPECT_INT(cell_tokens(&cell[8]), 4096 + 64 + 16);
}

TEST(nothing_to_measure_is_an_error)
{
    const cell_lists l = { .prompt = list(1, (int[]){ 0 }), .gen = list(1, (int[]){ 0 }), .depth = list(1, (int[]){ 0 }),
                           .sessions = list(1, (int[]){ 1 }) };
    bench_cell cell[CELLS_MAX];
    int n;
    EXPECT_INT(cells_make(&l, cell, &n, NULL), DS4_EARG);
}

TEST(pairs_need_both_numbers)
{
    static const char *const bad[] = { "64", "64,", "64,0", "64,16,1", ",16", "a,b" };
    for (size_t i = 0; i < countof(bad); i++) {
        cell_lists l = { 0 };
        EXPECT_INT(cell_pair_parse(&l, bad[i], NULL), DS4_EARG);
    }
}

/* Sweeps that others published have exactly this header. */
TEST(sweep_csv_has_the_published_columns)
{
    bytes out;
    bytes_init(&out, 4096);
    frontier_csv_head(&out);
    EXPECT_TEXT(out.data, "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,gen_first_ms,gen_steady_tokens,"
                          "gen_steady_tps,kvcache_bytes\n");
    bytes_clear(&out);
    frontier_csv_row(&(frontier_row){ .ctx_tokens = 4096, .prefill_tokens = 2048, .prefill_tps = 7.5, .gen_tokens = 128,
                                      .gen_tps = 2.5, .gen_first_ms = 400.25, .gen_steady_tokens = 127,
                                      .gen_steady_tps = 2.51, .kv_bytes = 1234567 }, &out);
    EXPECT_TEXT(out.data, "4096,2048,7.50,128,2.50,400.250,127,2.51,1234567\n");
    bytes_free(&out);
}

TEST(sweep_walks_by_steps_or_by_a_factor)
{
    const frontier_plan steps = { .start = 2048, .max = 7000, .incr = 2048 };
    int at = 0;
    EXPECT_INT(at = frontier_next(&steps, at), 2048);
    EXPECT_INT(at = frontier_next(&steps, at), 4096);
    EXPECT_INT(at = frontier_next(&steps, at), 6144);
    EXPECT_INT(frontier_next(&steps, at), 0);
    const frontier_plan factor = { .start = 1000, .max = 4000, .incr = 2048, .mul = 2 };
    EXPECT_INT(frontier_next(&factor, 1000), 2000);
    EXPECT_INT(frontier_next(&factor, 2000), 4000);
    EXPECT_INT(frontier_next(&factor, 4000), 0);
    EXPECT_INT(frontier_check(&(frontier_plan){ .start = 10, .max = 5 }, NULL), DS4_EARG);
}
