/* The lane runner itself: that it computes what CUDA tells, and finds what CUDA leaves undefined. */
#include "ends.h"
#include "lane_samples.h"

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "quant/float_formats.h"

static const lane_order orders[] = { LANES_FORWARD, LANES_BACKWARD, LANES_SHUFFLED };

static gpu_ptr device(const void *p) { return (gpu_ptr)(uintptr_t)p | LANE_ADDRESS; }

static void run(const lane_kernel_entry *k, unsigned blocks, unsigned threads, unsigned shared, const void *in, void *out, int mode,
                lane_order order)
{
    const sample_args a = { device(in), device(out), mode };
    lane_run(k, (unsigned[]){ blocks, 1, 1 }, threads, shared, &a, order);
}

TEST(sums_and_maxima_reach_every_thread_of_every_block_in_every_order)
{
    enum { N = 1024 };
    static float in[N], out[2 * 5 * N];
    const int sizes[] = { 32, 96, 1024 };
    for (int i = 0; i < N; i++) in[i] = (float)((i * 37) % 101 - 40);
    for (int o = 0; o < 3; o++)
        for (int s = 0; s < 3; s++) {
            const int n = sizes[s];
            float sum = 0, max = -1e9f;
            for (int i = 0; i < n; i++) sum += in[i], max = in[i] > max ? in[i] : max;
            memset(out, 0, sizeof out);
            run(&sample_sums_entry, 2, (unsigned)n, 0, in, out, 0, orders[o]);
            for (int b = 0; b < 2; b++)
                for (int t = 0; t < n; t++) {
                    const float *r = out + 5 * n * b;
                    float warp = 0;
                    for (int l = 0; l < 32; l++) warp += in[t / 32 * 32 + l];
                    if (r[t] == sum && r[n + t] == sum && r[2 * n + t] == sum && r[3 * n + t] == max && r[4 * n + t] == warp) continue;
                    test_fail(__FILE__, __LINE__, "order %d, %d threads, block %d, thread %d", o, n, b, t);
                    return;
                }
        }
}

TEST(lanes_and_warps_come_in_their_order_and_from_anywhere_when_shuffled)
{
    enum { N = 128 };
    int out[2 * N + 1], moved = 0;
    for (int o = 0; o < 3; o++) {
        bool seen[2 * N] = { false };
        memset(out, 0, sizeof out);
        run(&sample_order_entry, 1, N, 0, out, out, 0, orders[o]);
        for (int t = 0; t < N; t++)
            for (int behind = 0; behind < 2; behind++) {
                const int at = out[behind * N + t], i = orders[o] == LANES_BACKWARD ? N - 1 - t : t;
                const int want = i / 32 * 64 + 32 * behind + i % 32;
                REQUIRE(at >= 0 && at < 2 * N && !seen[at]);
                seen[at] = true;
                if (orders[o] == LANES_SHUFFLED) moved += at != want;
                else EXPECT_INT(at, want);
            }
    }
    EXPECT(moved > N);
}

TEST(warps_that_end_at_once_leave_their_place_to_others)
{
    enum { BLOCKS = 3, N = 128 };
    float in[BLOCKS * N], out[BLOCKS * N];
    for (int i = 0; i < BLOCKS * N; i++) in[i] = (float)i;
    for (int o = 0; o < 3; o++)
        for (int idle = 0; idle < 2; idle++) {
            memset(out, 0, sizeof out);
            run(&sample_idle_warps_entry, BLOCKS, N, 0, in, out, idle, orders[o]);
            for (int i = 0; i < BLOCKS * N; i++)
                EXPECT(out[i] == (i / 32 % 2 == idle ? 0.0f : (float)(i / 32 * 32 * 32 + 31 * 16)));
        }
}

/* Whether lanes are threads to a race detector (lanes.cpp). */
#if defined(__SANITIZE_THREAD__)
enum { RACES_SHOW = 1 };
#else
enum { RACES_SHOW = 0 };
#endif

TEST(a_missing_barrier_shows_in_some_order_and_a_barrier_holds_in_all)
{
    enum { N = 128 };
    float in[N], out[N];
    int wrong = 0;
    for (int i = 0; i < N; i++) in[i] = (float)i;
    for (int o = 0; o < 3; o++)
        for (int mode = TURN_WITH_BARRIER; mode <= TURN_WITHOUT_BARRIER && !(RACES_SHOW && mode); mode++) {
            run(&sample_turn_entry, 1, N, sizeof in, in, out, mode, orders[o]);
            for (int i = 0; i < N; i++) {
                const bool ok = out[i] == in[N - 1 - i];
                if (mode == TURN_WITH_BARRIER) EXPECT(ok);
                else wrong += !ok;
            }
        }
    EXPECT(RACES_SHOW || wrong >= 3 * N / 2);
}

static bool turning;

/* Called at a race. */
void __tsan_on_report(void *report);
void __tsan_on_report(void *report)
{
    (void)report;
    if (turning) _exit(1);
}

static void run_turn(void *ctx)
{
    turning = true;                             /* in the child alone */
    static float in[32], out[32];
    run(&sample_turn_entry, 1, 32, sizeof in, in, out, *(int *)ctx, LANES_BACKWARD);
}

TEST(a_race_detector_sees_lanes_that_exchange_without_a_barrier_of_the_block_or_the_warp)
{
    for (int mode = TURN_WITH_BARRIER; mode <= TURN_WITH_SHUFFLE; mode++)
        EXPECT(ends(run_turn, &mode) == (RACES_SHOW && (mode == TURN_WITHOUT_BARRIER || mode == TURN_WITH_SHUFFLE)));
}

TEST(shuffles_take_from_the_lanes_that_the_manual_tells)
{
    for (int o = 0; o < 3; o++) {
        int out[224];
        run(&sample_shuffles_entry, 1, 32, 0, out, out, 0, orders[o]);
        for (int l = 0; l < 32; l++) {
            EXPECT_INT(out[l], 5);
            EXPECT_INT(out[32 + l], l / 8 * 8 + 5);
            EXPECT_INT(out[64 + l], l ^ 9);
            EXPECT_INT(out[96 + l], l >= 3 ? l - 3 : l);
            EXPECT_INT(out[128 + l], l % 8 >= 3 ? l - 3 : l);
            EXPECT_INT(out[160 + l], l + 3 < 32 ? l + 3 : l);
            EXPECT_INT(out[192 + l], l % 8 + 3 < 8 ? l + 3 : l);
        }
    }
}

TEST(votes_and_integer_operations)
{
    int out[97];
    unsigned want = 0, r[9];
    for (int l = 0; l < 32; l += 3) want |= 1u << l;
    memset(out, 0, sizeof out);
    run(&sample_votes_entry, 1, 32, 0, out, out, 0, LANES_SHUFFLED);
    for (int l = 0; l < 32; l++) {
        EXPECT_INT(out[l], (int)want);
        EXPECT_INT(out[32 + l], 1);
        EXPECT_INT(out[64 + l], 1);
    }
    EXPECT_INT(out[96], 31 * 16);
    run(&sample_integers_entry, 1, 32, 0, r, r, 0, LANES_FORWARD);
    EXPECT_INT((int)r[0], -128 * 2 + 1 * -1 + 127 * 2 + -1 * -1 + 10);
    EXPECT_INT(r[1], 0x77225500u);
    EXPECT_INT(r[2], 0xffffffffu);
    EXPECT_INT(r[3], 8 | 4 << 16);
}

TEST(half_numbers_and_short_mantissas_are_rounded_as_the_card_does)
{
    const float in[32] = { 0, -0.0f, 1, 1.0f + 1.0f / 2048, 1.0f + 3.0f / 2048, 65504, 65519, 65520, 1e-8f, 6e-8f, 5.9604645e-8f / 2,
                           INFINITY, -1.5f, 1.0f + 1.0f / 4096, 1.0f + 1.0f / 2048 + 1e-6f, 3.0e38f };
    uint32_t out[96];
    run(&sample_numbers_entry, 1, 32, 0, in, out, 0, LANES_FORWARD);
    const uint32_t half[] = { 0, 0x8000, 0x3c00, 0x3c00, 0x3c02, 0x7bff, 0x7bff, 0x7c00, 0, 1, 0, 0x7c00, 0xbe00, 0x3c00, 0x3c01, 0x7c00 };
    for (int i = 0; i < 16; i++) EXPECT_INT(out[i], half[i]);
    /* 10 bits of mantissa, ties away from zero */
    EXPECT_INT(out[64 + 3], 0x3f802000u);
    EXPECT_INT(out[64 + 13], 0x3f800000u);
    EXPECT_INT(out[64 + 11], 0x7f800000u);
    EXPECT_INT(out[64 + 2], 0x3f800000u);
}

TEST(copies_are_there_after_their_wait_and_may_not_be_before)
{
    uint32_t in[256], out[256];
    for (int i = 0; i < 256; i++) in[i] = (uint32_t)i;
    for (int o = 0; o < 3; o++) {
        run(&sample_copies_entry, 1, 32, 0, in, out, 0, orders[o]);
        EXPECT(memcmp(in, out, sizeof in) == 0);
        run(&sample_copies_entry, 1, 32, 0, in, out, 1, orders[o]);
        EXPECT(memcmp(in, out, sizeof in / 2) == 0);
        EXPECT((memcmp(in + 128, out + 128, sizeof in / 2) == 0) == (orders[o] == LANES_FORWARD));
        run(&sample_copies_entry, 1, 32, 0, in, out, 2, orders[o]);
        EXPECT((memcmp(in, out, sizeof in) == 0) == (orders[o] == LANES_FORWARD));
    }
}

TEST(matrices_come_from_shared_memory_as_they_lie_and_turned)
{
    uint16_t in[4][8][8];       /* lane 8m + r gives row r of matrix m */
    uint32_t out[32][4];
    for (int i = 0; i < 256; i++) (&in[0][0][0])[i] = (uint16_t)(i * 7);
    for (int turned = 0; turned < 2; turned++) {
        run(&sample_matrices_entry, 1, 32, 0, in, out, turned, LANES_SHUFFLED);
        for (int l = 0; l < 32; l++)
            for (int m = 0; m < 4; m++) {
                const int g = l / 4, i = l % 4;
                const uint32_t a = turned ? in[m][2 * i][g] : in[m][g][2 * i], b = turned ? in[m][2 * i + 1][g] : in[m][g][2 * i + 1];
                EXPECT_INT(out[l][m], a | b << 16);
            }
    }
}

/* What a word of a kind's numbers means. */
static float number(int kind, uint32_t w)
{
    float f;
    if (kind <= MMA_S8_K16) return (float)(int8_t)w;
    if (kind == MMA_F16) return half_to_float((uint16_t)w);
    if (kind == MMA_BF16) w <<= 16;
    memcpy(&f, &w, sizeof f);
    return f;
}

static uint32_t word_of(int kind, float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (kind <= MMA_S8_K16) return (uint32_t)(int)f;
    return kind == MMA_F16 ? float_to_half(f) : kind == MMA_BF16 ? u >> 16 : u;
}

TEST(the_matrix_units_stand_ins_are_plain_products_by_the_documented_layouts)
{
    random_stream r;
    random_seed(&r, test_seed());
    for (int kind = 0; kind < MMA_KINDS; kind++) {
        const int depth = kind == MMA_S8_K32 ? 32 : kind == MMA_TF32 ? 8 : 16;
        uint32_t in[16 * 32 + 32 * 8];
        float out[16 * 8];
        for (int i = 0; i < 24 * depth; i++) in[i] = word_of(kind, (float)((int)random_below(&r, 201) - 100));
        run(&sample_mma_entry, 1, 32, 0, in, out, kind, orders[kind % 3]);
        for (int row = 0; row < 16; row++)
            for (int col = 0; col < 8; col++) {
                double want = 0;
                for (int k = 0; k < depth; k++)
                    want += 2.0 * number(kind, in[row * depth + k]) * number(kind, in[16 * depth + k * 8 + col]);
                if (out[row * 8 + col] == (float)want) continue;
                test_fail(__FILE__, __LINE__, "kind %d: d[%d][%d] is %g, want %g", kind, row, col, out[row * 8 + col], want);
                return;
            }
    }
}

typedef struct { const void *in; int mode; unsigned threads; } wrong_case;

static void run_wrong(void *ctx)
{
    const wrong_case *c = ctx;
    run(&sample_wrong_entry, 1, c->threads, 0, c->in, (void *)(uintptr_t)c->in, c->mode, LANES_FORWARD);
}

TEST(what_cuda_leaves_undefined_ends_the_process)
{
    _Alignas(16) uint8_t bytes[64] = { 0 };
    wrong_case c = { bytes, WRONG_KINDS, 64 };
    run_wrong(&c);                              /* nothing is wrong with this one */
    for (c.mode = 0; c.mode < WRONG_KINDS; c.mode++)
        if (!ends(run_wrong, &c)) test_fail(__FILE__, __LINE__, "wrong kernel %d ran to its end", c.mode);
    c = (wrong_case){ bytes, WRONG_KINDS, 96 };
    EXPECT_ENDS(run_wrong, &c);                 /* more threads than the kernel is made for */
    c.threads = 40;
    EXPECT_ENDS(run_wrong, &c);
}
