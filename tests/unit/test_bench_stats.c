#include "bench/stats.h"

#include <math.h>

#include "base/checked.h"
#include "runner.h"

static bool near(double a, double b) { return fabs(a - b) <= 1e-9 * fmax(1, fabs(b)); }

TEST(median_and_percentiles_of_known_numbers)
{
    double x[] = { 5, 1, 4, 2, 3 };
    stats s;
    stats_of(x, countof(x), &s);
    EXPECT(near(s.p50, 3));
    EXPECT(near(s.p10, 1.4));           /* 0.1 * 4 ranks above the first */
    EXPECT(near(s.p90, 4.6));
    EXPECT(near(s.min, 1) && near(s.max, 5));
    EXPECT(near(s.mad, 1));             /* deviations 2 1 0 1 2 */
}

TEST(an_even_count_takes_the_middle_of_two)
{
    double x[] = { 10, 1, 3, 2 };
    stats s;
    stats_of(x, countof(x), &s);
    EXPECT(near(s.p50, 2.5));
    EXPECT(near(s.mad, 1));             /* 0.5 0.5 1.5 7.5 */
}

TEST(one_number_has_no_spread)
{
    double x[] = { 7 };
    stats s;
    stats_of(x, 1, &s);
    EXPECT(near(s.p50, 7) && near(s.p10, 7) && near(s.p90, 7));
    EXPECT(s.mad == 0);
    EXPECT(near(s.ci_low, 7) && near(s.ci_high, 7));
    EXPECT(!stats_settled(&s, 0.01));
}

/* Ranks of the 95 % interval of a median, from tables of the sign test. */
TEST(interval_of_the_median_follows_the_binomial)
{
    static const struct { int n, low, high; } known[] = {
        { 5, 1, 5 }, { 6, 1, 6 }, { 8, 1, 8 }, { 9, 2, 8 }, { 15, 4, 12 }, { 20, 6, 15 }, { 50, 18, 33 },
    };
    for (size_t i = 0; i < countof(known); i++) {
        double x[64];
        stats s;
        for (int k = 0; k < known[i].n; k++) x[k] = known[i].n - k;
        stats_of(x, known[i].n, &s);
        EXPECT_INT(s.ci_low, known[i].low);
        EXPECT_INT(s.ci_high, known[i].high);
    }
}

TEST(settled_when_both_halves_are_narrow)
{
    double close[] = { 100, 100.2, 100.4, 100.1, 99.9, 100.3 }, apart[] = { 100, 100.2, 100.4, 100.1, 99.9, 120 };
    stats s;
    stats_of(close, countof(close), &s);
    EXPECT(stats_settled(&s, 0.01));
    stats_of(apart, countof(apart), &s);
    EXPECT(!stats_settled(&s, 0.01));
}

TEST(a_stall_is_an_outlier_and_noise_is_not)
{
    double x[] = { 10, 10.1, 9.9, 10.2, 9.8, 10, 3 };
    stats s;
    stats_of(x, countof(x), &s);
    const double deviation = stats_mean_deviation(x, countof(x), s.p50);
    EXPECT(stats_outlier(&s, deviation, 3));
    EXPECT(!stats_outlier(&s, deviation, 10.2));
}

TEST(equal_values_still_let_an_outlier_show)
{
    double x[] = { 10, 10, 10, 10, 10, 10, 10, 10, 10, 2 };
    stats s;
    stats_of(x, countof(x), &s);
    EXPECT(s.mad == 0);
    const double deviation = stats_mean_deviation(x, countof(x), s.p50);
    EXPECT(stats_outlier(&s, deviation, 2));
    EXPECT(!stats_outlier(&s, deviation, 10));
}
