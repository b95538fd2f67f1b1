/* Every instruction set of this machine against the scalar definitions.
 *
 * The NEON rungs on an x86-64 machine, with a cross compiler and user-mode
 * emulation (Debian: gcc-aarch64-linux-gnu, qemu-user):
 *
 *   make VARIANT=arm CFLAGS_arm=-O2 CC=aarch64-linux-gnu-gcc EXTRA_LDFLAGS=-static LIBS=-lm \
 *       build/arm/tests/kernels/test_{cpu_kernels,tiles,attention,indexer}
 *   qemu-aarch64 -cpu max build/arm/tests/kernels/test_tiles              # all rungs
 *   qemu-aarch64 -cpu cortex-a76 build/arm/tests/kernels/test_tiles       # dot product, no i8mm
 */
#include "runner.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"
#include "kernels/boxes.h"
#include "kernels/cpu/cpu_kernels.h"
#include "quant/float_formats.h"

/* ---- what is tested ----------------------------------------------------------- */

/* The rungs of all ladders, each with what lies below it. */
static const uint32_t rungs[] = { ISA_AVX2, ISA_AVX2 | ISA_AVX512, ISA_AVX2 | ISA_AVX512 | ISA_AVX512_VBMI, ISA_NEON,
                                  ISA_NEON | ISA_NEON_I8MM };

/* The next rung of this machine from number *i on; 0 ends the list. */
static uint32_t next_rung(uint32_t *i)
{
    while (*i < countof(rungs)) {
        const uint32_t isa = rungs[(*i)++];
        if ((isa & cpu_isa_present()) == isa) return isa;
    }
    return 0;
}

#define FOR_EACH_RUNG(isa) \
    for (uint32_t rung_ = 0, isa; (isa = next_rung(&rung_)) != 0;)

static const quant_type float_types[] = { QUANT_F32, QUANT_F16, QUANT_BF16 };

static const int row_widths[] = { 512, 1024, 2048, 4096, 16384 };       /* of real tensors */
static const int float_widths[] = { 1, 7, 8, 15, 16, 31, 64, 127, 512, 4096, 16384 };

enum { MAX_WIDTH = 16384 };

enum { GUARD = 64 };            /* bytes behind an output */

static size_t bytes_of(quant_type type, int n)
{
    uint64_t bytes = 0;
    if (!quant_row_bytes(type, (uint64_t)n, &bytes)) abort();
    return (size_t)bytes;
}

/* ---- inputs ------------------------------------------------------------------------ */

static void fill_normal(random_stream *r, float *x, int n)
{
    for (int i = 0; i < n; i++) x[i] = (float)random_normal(r);
}

/* Two orders of `terms` float additions. Random signs: the errors walk at random,
 * sqrt(terms) roundings far. Equal ones may round in one direction: terms. */
static double near_of(double terms, bool random_signs)
{
    return (random_signs ? 8.0 + 4.0 * sqrt(terms) : 16.0 + 2.0 * terms) * (FLT_EPSILON / 2.0);
}

static random_stream stream_of(uint64_t salt)
{
    random_stream r;
    random_seed(&r, test_seed() * 1000003u + salt);
    return r;
}

/* ---- the ladder ------------------------------------------------------------------------ */

TEST(no_instruction_set_leaves_the_definitions)
{
    cpu_kernels a, b;
    cpu_kernels_init(&a, 0);
    cpu_kernels_ref(&b);
    EXPECT(memcmp(&a, &b, sizeof a) == 0);
    EXPECT_TEXT(cpu_isa_name(0), "ref");

    for (int t = 0; t < QUANT_COUNT; t++) {
        const quant_info *q = quant_get((uint32_t)t);
        EXPECT_INT(a.dot[t] != NULL, q && q->dot != NULL);
        EXPECT_INT(a.quantise[t] != NULL, t == QUANT_Q8_0 || t == QUANT_Q8_1 || t == QUANT_Q8_K);
    }
}

TEST(rungs_that_this_machine_lacks_change_nothing)
{
    const uint32_t all = ISA_AVX2 | ISA_AVX512 | ISA_AVX512_VBMI | ISA_NEON | ISA_NEON_I8MM;
    cpu_kernels a, b;
    cpu_kernels_init(&a, all);
    cpu_kernels_init(&b, cpu_isa_present());
    EXPECT(memcmp(&a, &b, sizeof a) == 0);
    cpu_kernels_init(&b, all & ~cpu_isa_present());
    cpu_kernels_ref(&a);
    EXPECT(memcmp(&a, &b, sizeof a) == 0);

    if (cpu_isa_present() == 0) test_skip("no instruction set here beyond the definitions");
    FOR_EACH_RUNG(isa) {
        cpu_kernels_init(&b, isa);
        EXPECT(memcmp(&a, &b, sizeof a) != 0);
        EXPECT(strcmp(cpu_isa_name(isa), "ref") != 0);
    }
}

/* ---- dot products of blocks --------------------------------------------------------------- */

/* Blocks are multiplied in tiles (test_tiles.c); what judges those is the definition. */
TEST(no_rung_has_a_dot_of_blocks_of_its_own)
{
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    FOR_EACH_RUNG(isa) {
        cpu_kernels_init(&fast, isa);
        for (int t = 0; t < QUANT_COUNT; t++) {
            if (!ref.dot[t] || quant_get((uint32_t)t)->dot_type == QUANT_F32) continue;
            EXPECT(fast.dot[t] == ref.dot[t]);
            EXPECT(fast.tile[t] != NULL);
        }
    }
}

/* ---- float rows -------------------------------------------------------------------------- */

static double float_product_sum(quant_type type, const uint8_t *w, const float *x, int n)
{
    static float value[MAX_WIDTH];
    double sum = 0.0;
    quant_get(type)->to_float(value, w, n);
    for (int i = 0; i < n; i++) sum += fabs((double)value[i] * x[i]);
    return sum;
}

/* The narrowest lanes are four floats: a lane adds n/4 terms at most. */
static void check_float_dot(quant_type type, const char *what, float got, float want, double sum,
                            int n, uint32_t isa)
{
    const double tol = sum * near_of(n / 4.0, true);
    if (!(fabs((double)got - want) <= tol))
        test_fail(__FILE__, __LINE__, "%s %s isa %s width %d: %.9g, want %.9g, off by %.3g, allowed %.3g",
                  what, quant_get(type)->name, cpu_isa_name(isa), n, (double)got, (double)want,
                  fabs((double)got - want), tol);
}

TEST(float_dots_match_the_definition)
{
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    FOR_EACH_RUNG(isa)
        for (size_t k = 0; k < countof(float_types) * countof(float_widths); k++) {
            const quant_type type = float_types[k / countof(float_widths)];
            const int n = float_widths[k % countof(float_widths)];
            random_stream r = stream_of(700 + k);
            cpu_kernels_init(&fast, isa);
            box x = box_new(sizeof(float) * (size_t)n, 0), w = box_new(bytes_of(type, n), 0);
            float *a = (float *)x.data;
            fill_normal(&r, a, n);
            quant_get(type)->from_float(w.data, a, n);
            fill_normal(&r, a, n);

            const double sum = float_product_sum(type, w.data, a, n);
            check_float_dot(type, "dot", fast.dot[type](w.data, a, n), ref.dot[type](w.data, a, n), sum, n, isa);
            if (type == QUANT_F32)
                check_float_dot(type, "dot_f32", fast.dot_f32((float *)w.data, a, n),
                                ref.dot_f32((float *)w.data, a, n), sum, n, isa);
            box_free(&w);
            box_free(&x);
        }
}

/* Small whole numbers: every sum is exact, so a term lost or counted twice shows. */
TEST(float_dots_of_whole_numbers_are_exact)
{
    cpu_kernels fast;
    FOR_EACH_RUNG(isa)
        for (int n = 0; n <= 130; n++) {
            random_stream r = stream_of(800 + (uint64_t)n);
            cpu_kernels_init(&fast, isa);
            float a[130], b[130];
            uint16_t h[130], bf[130];
            double want = 0.0, squares = 0.0;
            for (int i = 0; i < n; i++) {
                a[i] = (float)random_below(&r, 100) - 50.0f;
                b[i] = (float)random_below(&r, 100) - 50.0f;
                h[i] = float_to_half(a[i]);
                bf[i] = float_to_bf16(a[i]);
                want += (double)a[i] * b[i];
                squares += (double)a[i] * a[i];
            }
            if (fast.dot[QUANT_F32](a, b, n) != want || fast.dot[QUANT_F16](h, b, n) != want ||
                fast.dot[QUANT_BF16](bf, b, n) != want || fast.dot_f32(a, b, n) != want ||
                fast.sum_squares(a, n) != squares)
                test_fail(__FILE__, __LINE__, "isa %s width %d: a sum of whole numbers is off",
                          cpu_isa_name(isa), n);
        }
}

TEST(sum_squares_matches_the_definition)
{
    static float x[MAX_WIDTH];
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    FOR_EACH_RUNG(isa)
        for (size_t k = 0; k < countof(float_widths); k++) {
            const int n = float_widths[k];
            random_stream r = stream_of(900 + k);
            cpu_kernels_init(&fast, isa);
            fill_normal(&r, x, n);
            const double got = fast.sum_squares(x, n), want = ref.sum_squares(x, n);
            /* n positive terms in two orders, in double: n roundings at worst */
            if (!(fabs(got - want) <= want * (n + 2) * DBL_EPSILON))
                test_fail(__FILE__, __LINE__, "sum_squares isa %s width %d: %.17g, want %.17g",
                          cpu_isa_name(isa), n, got, want);
        }
}

/* ---- rows in, rows out: equal to the bit ---------------------------------------------------- */

/* First byte at which two outputs differ, in elements of `size` bytes; -1: none. */
static int first_difference(const box *a, const box *b, size_t size)
{
    for (size_t i = 0; i < a->n; i++) if (a->data[i] != b->data[i]) return (int)(i / size);
    return -1;
}

static void check_outputs(const char *what, uint32_t isa, int n, const box *got, const box *want,
                          size_t size, size_t used)
{
    const int at = first_difference(got, want, size);
    if (at >= 0) test_fail(__FILE__, __LINE__, "%s isa %s width %d: differs at [%d]", what, cpu_isa_name(isa), n, at);
    if (!box_guarded(got, used))
        test_fail(__FILE__, __LINE__, "%s isa %s width %d: wrote beyond", what, cpu_isa_name(isa), n);
}

TEST(axpy_gives_the_bits_of_the_definition)
{
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    FOR_EACH_RUNG(isa)
        for (size_t k = 0; k < countof(float_widths); k++) {
            const int n = float_widths[k];
            const size_t used = sizeof(float) * (size_t)n;
            random_stream r = stream_of(1000 + k);
            const float a = (float)random_normal(&r);
            cpu_kernels_init(&fast, isa);
            box x = box_new(used, 0);
            box got = box_new(used + GUARD, 0), want = box_new(used + GUARD, 0);
            fill_normal(&r, (float *)x.data, n);
            fill_normal(&r, (float *)got.data, n);
            memcpy(want.data, got.data, used);

            ref.axpy_f32((float *)want.data, a, (float *)x.data, n);
            fast.axpy_f32((float *)got.data, a, (float *)x.data, n);
            check_outputs("axpy_f32", isa, n, &got, &want, sizeof(float), used);

            box_free(&x);
            box_free(&got);
            box_free(&want);
        }
}

/* ---- activations -------------------------------------------------------------------------------- */

/* Rows that a rounding rule is seen in. */
typedef enum { NORMAL, HALVES, ZERO, TIED_ENDS, SPIKE, TINY, HUGE_VALUES, N_ROWS } row_kind;

static void fill_row(random_stream *r, float *x, int n, row_kind kind)
{
    fill_normal(r, x, n);
    for (int i = 0; i < n; i++) {
        switch (kind) {
        case NORMAL:
            break;
        case HALVES:        /* d = 1: codes k + 1/2, and the floats beside them */
            x[i] = (float)random_below(r, 254) - 126.5f;
            if (random_below(r, 2)) x[i] = nextafterf(x[i], random_below(r, 2) ? 1e9f : -1e9f);
            if (i % 32 == 5) x[i] = 127.0f;
            if (i % 32 == 9) x[i] = 0.49999997f;
            break;
        case ZERO:
            x[i] = i % 3 ? 0.0f : -0.0f;
            break;
        case TIED_ENDS:     /* the first of equal magnitudes decides the sign */
            x[i] = random_below(r, 2) ? 3.0f : -3.0f;
            break;
        case SPIKE:
            x[i] = i % 256 == 200 ? 1000.0f : x[i] * 1e-3f;
            break;
        case TINY:          /* scales that underflow, inverses that overflow */
            x[i] *= i / 32 % 2 ? 1e-38f : 3e-45f;
            break;
        default:
            x[i] *= 5e37f;
            break;
        }
    }
}

/* Row widths of a type: one block, two, three, then real rows. */
static int width_of(const quant_info *q, size_t i)
{
    return i < 3 ? q->block_len * (int)(i + 1) : row_widths[i - 3];
}

enum { N_WIDTHS = 3 + countof(row_widths) };

TEST(quantised_rows_are_those_of_the_definition)
{
    static const quant_type types[] = { QUANT_Q8_0, QUANT_Q8_1, QUANT_Q8_K };
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    FOR_EACH_RUNG(isa)
        for (size_t k = 0; k < countof(types) * N_WIDTHS * N_ROWS; k++) {
            const row_kind kind = (row_kind)(k % N_ROWS);
            const quant_type type = types[k / N_ROWS % countof(types)];
            const quant_info *q = quant_get(type);
            const int n = width_of(q, k / N_ROWS / countof(types));
            random_stream r = stream_of(1200 + k);
            cpu_kernels_init(&fast, isa);

            box x = box_new(sizeof(float) * (size_t)n, 0);
            const size_t bytes = activation_bytes(type, n);
            box got = box_new(bytes + GUARD, 0), want = box_new(bytes + GUARD, 0);
            fill_row(&r, (float *)x.data, n, kind);
            ref.quantise[type](want.data, (float *)x.data, n);
            fast.quantise[type](got.data, (float *)x.data, n);

            char what[32];
            snprintf(what, sizeof what, "%s row kind %d", q->name, (int)kind);
            check_outputs(what, isa, n, &got, &want, 1, bytes);
            box_free(&x);
            box_free(&got);
            box_free(&want);
        }
}
