#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/random.h"
#include "runner.h"

/* Known first outputs of xoshiro256** from the state 1 2 3 4, as in the tests
 * of the Rust crate rand_xoshiro (made with the authors' C code). */
TEST(stream_follows_the_published_generator)
{
    static const uint64_t want[] = {
        11520u, 0u, 1509978240u, 1215971899390074240u, 1216172134540287360u, 607988272756665600u,
        16172922978634559625u, 8476171486693032832u, 10595114339597558777u, 2904607092377533576u,
    };
    random_stream r = { { 1, 2, 3, 4 } };
    for (size_t i = 0; i < countof(want); i++) EXPECT(random_u64(&r) == want[i]);
}

/* splitmix64 from 1234567: the example of Rosetta Code's "Pseudo-random
 * numbers/Splitmix64". */
TEST(seed_fills_the_state_by_splitmix64)
{
    random_stream r;
    random_seed(&r, 1234567);
    EXPECT(r.s[0] == 6457827717110365317u);
    EXPECT(r.s[1] == 3203168211198807973u);
    EXPECT(r.s[2] == 9817491932198370423u);
    EXPECT(r.s[3] == 4593380528125082431u);
}

/* From both published algorithms together, in a dozen lines of Python. */
TEST(equal_seeds_give_equal_streams)
{
    random_stream a, b;
    random_seed(&a, 0);
    EXPECT(random_u64(&a) == 11091344671253066420u);
    EXPECT(random_u64(&a) == 13793997310169335082u);
    random_seed(&a, 42);
    random_seed(&b, 42);
    EXPECT(random_u64(&a) == 1546998764402558742u);
    (void)random_u64(&b);
    for (int i = 0; i < 100; i++) EXPECT(random_u64(&a) == random_u64(&b));
}

TEST(doubles_lie_in_0_to_1_and_spread_evenly)
{
    enum { N = 200000, BINS = 20 };
    int bins[BINS] = { 0 };
    random_stream r;
    random_seed(&r, test_seed());
    for (int i = 0; i < N; i++) {
        const double x = random_double(&r);
        REQUIRE(x >= 0 && x < 1);
        bins[(int)(x * BINS)]++;
    }
    /* Expected N/BINS = 10000 each, deviation 97: six deviations. */
    for (int i = 0; i < BINS; i++) EXPECT(fabs(bins[i] - (double)N / BINS) < 600);
}

TEST(normals_have_mean_0_and_deviation_1)
{
    enum { N = 200000 };
    double sum = 0, squares = 0, cubes = 0;
    random_stream r;
    random_seed(&r, test_seed());
    for (int i = 0; i < N; i++) {
        const double x = random_normal(&r);
        REQUIRE(isfinite(x));
        sum += x;
        squares += x * x;
        cubes += x * x * x;
    }
    /* Deviations of the three means: 0.0022, 0.0032, 0.0087; six of each. */
    EXPECT(fabs(sum / N) < 0.0134);
    EXPECT(fabs(squares / N - 1) < 0.019);
    EXPECT(fabs(cubes / N) < 0.052);
}

TEST(below_reaches_every_value_and_no_other)
{
    random_stream r;
    random_seed(&r, test_seed());
    for (uint64_t n = 1; n < 40; n++) {
        uint64_t seen = 0;
        for (int i = 0; i < 2000; i++) {
            const uint64_t x = random_below(&r, n);
            REQUIRE(x < n);
            seen |= UINT64_C(1) << x;
        }
        EXPECT(seen == (UINT64_C(1) << n) - 1);
    }
}

TEST(below_is_even_where_a_plain_remainder_is_not)
{
    /* 3 * 2^62: a remainder would draw the lower third twice as often. */
    const uint64_t n = UINT64_C(3) << 62;
    int low = 0;
    random_stream r;
    random_seed(&r, test_seed());
    for (int i = 0; i < 30000; i++) low += random_below(&r, n) < n / 3;
    EXPECT(abs(low - 10000) < 500);         /* deviation 82: six deviations */
    for (int i = 0; i < 100; i++) EXPECT(random_below(&r, UINT64_MAX) < UINT64_MAX);
}
