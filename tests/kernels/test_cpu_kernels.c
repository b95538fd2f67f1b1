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
#include "quant/blocks.h"
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

/* A weight type and where its blocks keep binary16 scales; -1: none there. */
typedef struct {
    quant_type type;
    int        d, m;            /* byte offset of the scale; of the one that offsets use */
} weight_type;

static const weight_type weight_types[] = {
    { QUANT_Q4_0, 0, -1 },   { QUANT_Q4_1, 0, 2 },      { QUANT_Q5_0, 0, -1 },   { QUANT_Q5_1, 0, 2 },
    { QUANT_Q8_0, 0, -1 },   { QUANT_Q2_K, 80, 82 },    { QUANT_Q3_K, 108, -1 }, { QUANT_Q4_K, 0, 2 },
    { QUANT_Q5_K, 0, 2 },    { QUANT_Q6_K, 208, -1 },   { QUANT_IQ1_S, 0, -1 },  { QUANT_IQ2_XXS, 0, -1 },
    { QUANT_IQ2_XS, 0, -1 }, { QUANT_IQ2_S, 0, -1 },    { QUANT_IQ3_XXS, 0, -1 },{ QUANT_IQ3_S, 0, -1 },
    { QUANT_IQ4_NL, 0, -1 }, { QUANT_IQ4_XS, 0, -1 },   { QUANT_MXFP4, -1, -1 }, { QUANT_NVFP4, -1, -1 },
};

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

/* Finite, around one, of either sign; every mantissa. */
static uint16_t random_half(random_stream *r)
{
    return (uint16_t)((random_u64(r) & 0x83ff) | (13 + random_below(r, 4)) << 10);
}

static void put_half(uint8_t *at, uint16_t h) { memcpy(at, &h, sizeof h); }

/* Scales that make an element's value its integer (times a power of two). */
static void put_unit_scales(uint8_t *w, const weight_type *t, int n)
{
    const quant_info *q = quant_get(t->type);
    for (int i = 0; i < n / q->block_len; i++, w += q->block_bytes) {
        if (t->d >= 0) put_half(w + t->d, 0x3c00);
        if (t->m >= 0) put_half(w + t->m, 0x3c00);
        if (t->type == QUANT_MXFP4) w[0] = 128;
        if (t->type == QUANT_NVFP4) memset(w, 0x40, 4);
    }
}

/* Every bit pattern of codes and of the scales inside a block; finite block scales. */
static void fill_blocks(random_stream *r, uint8_t *w, const weight_type *t, int n)
{
    const quant_info *q = quant_get(t->type);
    for (int i = 0; i < n / q->block_len; i++, w += q->block_bytes) {
        for (int j = 0; j < q->block_bytes; j++) w[j] = (uint8_t)random_u64(r);
        if (t->d >= 0) put_half(w + t->d, random_half(r));
        if (t->m >= 0) put_half(w + t->m, random_half(r));
        if (t->type == QUANT_MXFP4) w[0] = (uint8_t)(120 + random_below(r, 12));
    }
}

/* Block i of activations with the given codes, its other fields following them. */
static void put_activation(uint8_t *x, quant_type type, int i, const int8_t *codes)
{
    int16_t sums[16] = { 0 };
    const int len = quant_get(type)->block_len;
    int sum = 0;
    for (int e = 0; e < len; e++) {
        sum += codes[e];
        sums[e / 16] = (int16_t)(sums[e / 16] + codes[e]);
    }
    if (type == QUANT_Q8_0) {
        block_q8_0 *b = (block_q8_0 *)x + i;
        b->d = 0x3c00;
        memcpy(b->codes, codes, sizeof b->codes);
    } else if (type == QUANT_Q8_1) {
        block_q8_1 *b = (block_q8_1 *)x + i;
        b->d = 0x3c00;
        b->s = float_to_half((float)sum);
        memcpy(b->codes, codes, sizeof b->codes);
    } else {
        block_q8_k *b = (block_q8_k *)x + i;
        b->d = 1.0f;
        memcpy(b->codes, codes, sizeof b->codes);
        memcpy(b->sums, sums, sizeof b->sums);
    }
}

/* Codes in -amplitude..amplitude-1, scales of one. */
static void fill_activations(random_stream *r, uint8_t *x, quant_type type, int n, int amplitude)
{
    const int len = quant_get(type)->block_len;
    int8_t codes[QK];
    for (int i = 0; i < n / len; i++) {
        for (int e = 0; e < len; e++)
            codes[e] = (int8_t)((int)random_below(r, (uint64_t)(2 * amplitude)) - amplitude);
        put_activation(x, type, i, codes);
    }
}

/* Random scales of either sign instead. */
static void put_random_scales(random_stream *r, uint8_t *x, quant_type type, int n)
{
    for (int i = 0; i < n / quant_get(type)->block_len; i++) {
        const uint16_t h = random_half(r);
        if (type == QUANT_Q8_0) ((block_q8_0 *)x)[i].d = h;
        if (type == QUANT_Q8_K) ((block_q8_k *)x)[i].d = half_to_float(h);
        if (type == QUANT_Q8_1) {
            block_q8_1 *b = (block_q8_1 *)x + i;
            b->d = h;
            b->s = float_to_half(half_to_float(h) * half_to_float(b->s));
        }
    }
}

/* sum |w*x|, scale and offset parts apart: what rounding errors are measured by. */
static double product_sum(const weight_type *t, const uint8_t *w, const uint8_t *x, int n)
{
    const quant_info *q = quant_get(t->type);
    const size_t bytes = bytes_of(t->type, n);
    static float value[MAX_WIDTH], act[MAX_WIDTH];
    double sum = 0.0;

    quant_get(q->dot_type)->to_float(act, x, n);
    for (int part = 0; part < (t->m >= 0 ? 2 : 1); part++) {
        uint8_t *copy = malloc(bytes);
        if (!copy) abort();
        memcpy(copy, w, bytes);
        for (size_t i = 0; t->m >= 0 && i < bytes; i += (size_t)q->block_bytes)
            put_half(copy + i + (part ? t->d : t->m), 0);
        q->to_float(value, copy, n);
        for (int i = 0; i < n; i++) sum += fabs((double)value[i] * act[i]);
        free(copy);
    }
    return sum;
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

/* All rungs against the definition; equal to the bit where `exact`. */
static void compare_dots(const weight_type *t, const box *w, const box *x, int n, bool exact,
                         bool random_signs, const char *what)
{
    const quant_info *q = quant_get(t->type);
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    const double sum = product_sum(t, w->data, x->data, n);
    const double tol = exact ? 0.0 : sum * near_of(n / q->block_len, random_signs);
    const float want = ref.dot[t->type](w->data, x->data, n);

    FOR_EACH_RUNG(isa) {
        cpu_kernels_init(&fast, isa);
        const float got = fast.dot[t->type](w->data, x->data, n);
        if (!(fabs((double)got - want) <= tol))
            test_fail(__FILE__, __LINE__, "%s isa %s width %d, %s: %.9g, want %.9g, off by %.3g, allowed %.3g",
                      q->name, cpu_isa_name(isa), n, what, (double)got, (double)want,
                      fabs((double)got - want), tol);
    }
}

/* Weights and activations of one width. */
static void boxes_for(const weight_type *t, int n, box *w, box *x)
{
    *w = box_new(bytes_of(t->type, n), 0);
    *x = box_new(bytes_of(quant_get(t->type)->dot_type, n), 0);
}

/* Row widths of a type: one block, two, three, then real rows. */
static int width_of(const quant_info *q, size_t i)
{
    return i < 3 ? q->block_len * (int)(i + 1) : row_widths[i - 3];
}

enum { N_WIDTHS = 3 + countof(row_widths) };

static void encode_row(const quant_info *q, void *dst, const float *src, int n)
{
    static float ones[MAX_WIDTH];
    for (int i = 0; i < n; i++) ones[i] = 1.0f;
    if (q->from_float) q->from_float(dst, src, n);
    else q->from_float_weighted(dst, src, ones, n);
}

TEST(dots_of_encoded_rows_match_the_definition)
{
    static float row[MAX_WIDTH];
    for (size_t k = 0; k < countof(weight_types); k++) {
        const weight_type *t = &weight_types[k];
        const quant_info *q = quant_get(t->type);
        random_stream r = stream_of(k);
        for (size_t i = 0; i < N_WIDTHS; i++) {
            const int n = width_of(q, i);
            box w, x;
            boxes_for(t, n, &w, &x);
            fill_normal(&r, row, n);
            encode_row(q, w.data, row, n);
            fill_normal(&r, row, n);
            quant_get(q->dot_type)->from_float(x.data, row, n);
            compare_dots(t, &w, &x, n, false, true, "encoded");
            box_free(&w);
            box_free(&x);
        }
    }
}

TEST(dots_of_random_bits_match_the_definition)
{
    for (size_t k = 0; k < countof(weight_types); k++) {
        const weight_type *t = &weight_types[k];
        const quant_info *q = quant_get(t->type);
        random_stream r = stream_of(100 + k);
        for (size_t i = 0; i < N_WIDTHS; i++)
            for (int round = 0; round < 8; round++) {
                const int n = width_of(q, i);
                box w, x;
                boxes_for(t, n, &w, &x);
                fill_blocks(&r, w.data, t, n);
                fill_activations(&r, x.data, q->dot_type, n, 128);
                put_random_scales(&r, x.data, q->dot_type, n);
                compare_dots(t, &w, &x, n, false, true, "random bits");
                box_free(&w);
                box_free(&x);
            }
    }
}

/* With scales of one a block's value is its integer, or an eighth of it: floats
 * are exact below 2^24 and all orders of addition agree to the bit. */
TEST(integer_parts_are_those_of_the_definition)
{
    static const int amplitudes[] = { 128, 40, 12, 3, 1 };
    for (size_t k = 0; k < countof(weight_types); k++) {
        const weight_type *t = &weight_types[k];
        const quant_info *q = quant_get(t->type);
        random_stream r = stream_of(200 + k);
        int exact = 0;
        for (int round = 0; round < 400; round++) {
            const int n = q->block_len * (1 + round % 3);
            box w, x;
            boxes_for(t, n, &w, &x);
            fill_blocks(&r, w.data, t, n);
            put_unit_scales(w.data, t, n);
            fill_activations(&r, x.data, q->dot_type, n, amplitudes[round % 5]);
            if (product_sum(t, w.data, x.data, n) * 8.0 < 0x1p24) {
                compare_dots(t, &w, &x, n, true, true, "scales of one");
                exact++;
            }
            box_free(&w);
            box_free(&x);
        }
        if (exact < 50) test_fail(__FILE__, __LINE__, "%s: only %d exact cases", q->name, exact);
    }
}

static void fill_constant(uint8_t *x, quant_type type, int n, int code)
{
    int8_t codes[QK];
    memset(codes, code, sizeof codes);
    for (int i = 0; i < n / quant_get(type)->block_len; i++) put_activation(x, type, i, codes);
}

/* Where 16-bit sums would saturate and where a negated -128 would overflow. */
TEST(extreme_codes_match_the_definition)
{
    static const uint8_t bytes[] = { 0x00, 0xff, 0x80, 0x7f, 0x88, 0x77, 0x0f, 0xf0, 0xaa, 0x55 };
    static const int codes[] = { -128, -127, 127, 1, 0 };
    for (size_t k = 0; k < countof(weight_types); k++) {
        const weight_type *t = &weight_types[k];
        const quant_info *q = quant_get(t->type);
        for (size_t i = 0; i < countof(bytes) * countof(codes); i++) {
            const int n = q->block_len * 2;
            char what[64];
            box w, x;
            boxes_for(t, n, &w, &x);
            memset(w.data, bytes[i / countof(codes)], w.n);
            put_unit_scales(w.data, t, n);
            fill_constant(x.data, q->dot_type, n, codes[i % countof(codes)]);
            snprintf(what, sizeof what, "bytes %02x against %d", bytes[i / countof(codes)],
                     codes[i % countof(codes)]);
            const bool exact = product_sum(t, w.data, x.data, n) * 8.0 < 0x1p24;
            compare_dots(t, &w, &x, n, exact, false, what);
            box_free(&w);
            box_free(&x);
        }
    }
}

/* Each sign mix of the ends of the byte range, so that no lane is special. */
TEST(mixed_ends_of_the_byte_range_match_the_definition)
{
    static const int8_t ends[] = { -128, 127, -127, 0 };
    for (size_t k = 0; k < countof(weight_types); k++) {
        const weight_type *t = &weight_types[k];
        const quant_info *q = quant_get(t->type);
        random_stream r = stream_of(300 + k);
        for (int round = 0; round < 32; round++) {
            const int n = q->block_len, len = quant_get(q->dot_type)->block_len;
            int8_t codes[QK];
            box w, x;
            boxes_for(t, n, &w, &x);
            for (size_t i = 0; i < w.n; i++) w.data[i] = (uint8_t)ends[random_below(&r, 4)];
            put_unit_scales(w.data, t, n);
            for (int i = 0; i < n / len; i++) {
                for (int e = 0; e < len; e++) codes[e] = ends[random_below(&r, 2)];
                put_activation(x.data, q->dot_type, i, codes);
            }
            compare_dots(t, &w, &x, n, false, false, "mixed ends");
            box_free(&w);
            box_free(&x);
        }
    }
}

/* Q8_K's d is negative whenever its largest element is positive. */
TEST(a_negative_activation_scale_keeps_its_sign)
{
    static float row[QK];
    for (size_t k = 0; k < countof(weight_types); k++) {
        const weight_type *t = &weight_types[k];
        const quant_info *q = quant_get(t->type);
        if (q->dot_type != QUANT_Q8_K) continue;
        random_stream r = stream_of(400 + k);
        box w, x;
        boxes_for(t, QK, &w, &x);
        fill_blocks(&r, w.data, t, QK);
        fill_normal(&r, row, QK);
        row[17] = 9.0f;
        quant_get(QUANT_Q8_K)->from_float(x.data, row, QK);
        EXPECT(((block_q8_k *)x.data)->d < 0.0f);
        compare_dots(t, &w, &x, QK, false, true, "negative d");
        box_free(&w);
        box_free(&x);
    }
}

/* Halved scales 2^-128 and 2^-127 are below the normal range of a float. The
 * activation's 2^15 brings the product back up, so nothing is lost to flushing. */
TEST(subnormal_mxfp4_scales_count)
{
    static const weight_type mxfp4 = { QUANT_MXFP4, -1, -1 };
    random_stream r = stream_of(500);
    cpu_kernels ref;
    cpu_kernels_init(&ref, 0);
    for (int e = 0; e < 4; e++) {
        box w, x;
        boxes_for(&mxfp4, 64, &w, &x);
        fill_blocks(&r, w.data, &mxfp4, 64);
        fill_activations(&r, x.data, QUANT_Q8_0, 64, 128);
        for (int i = 0; i < 2; i++) {
            w.data[17 * i] = (uint8_t)e;
            put_half(x.data + 34 * i, 0x7800);
        }
        EXPECT(ref.dot[QUANT_MXFP4](w.data, x.data, 64) != 0.0f);
        compare_dots(&mxfp4, &w, &x, 64, true, true, "subnormal scale");
        box_free(&w);
        box_free(&x);
    }
}

/* Results are a function of the bytes, not of where they lie. */
TEST(dots_do_not_depend_on_addresses)
{
    FOR_EACH_RUNG(isa)
        for (size_t k = 0; k < countof(weight_types); k++) {
            const weight_type *t = &weight_types[k];
            const quant_info *q = quant_get(t->type);
            random_stream r = stream_of(600 + k);
            cpu_kernels fast;
            cpu_kernels_init(&fast, isa);
            box w, x;
            boxes_for(t, 1024, &w, &x);
            fill_blocks(&r, w.data, t, 1024);
            fill_activations(&r, x.data, q->dot_type, 1024, 128);
            put_random_scales(&r, x.data, q->dot_type, 1024);
            const float want = fast.dot[t->type](w.data, x.data, 1024);
            for (size_t shift = 0; shift < 64; shift += 12) {
                box w2 = box_new(w.n, shift), x2 = box_new(x.n, 60 - shift);
                memcpy(w2.data, w.data, w.n);
                memcpy(x2.data, x.data, x.n);
                const float got = fast.dot[t->type](w2.data, x2.data, 1024);
                if (float_bits(got) != float_bits(want))
                    test_fail(__FILE__, __LINE__, "%s isa %s shift %zu: %.9g, was %.9g", q->name,
                              cpu_isa_name(isa), shift, (double)got, (double)want);
                box_free(&w2);
                box_free(&x2);
            }
            box_free(&w);
            box_free(&x);
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
            if (type == QUANT_F16)
                check_float_dot(type, "dot_f16", fast.dot_f16((uint16_t *)w.data, a, n),
                                ref.dot_f16((uint16_t *)w.data, a, n), sum, n, isa);
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
                fast.dot_f16(h, b, n) != want || fast.sum_squares(a, n) != squares)
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
    if (!box_guarded(got, used)) test_fail(__FILE__, __LINE__, "%s isa %s width %d: wrote beyond", what, cpu_isa_name(isa), n);
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
            box x = box_new(used, 0), h = box_new(used / 2, 0);
            box got = box_new(used + GUARD, 0), want = box_new(used + GUARD, 0);
            fill_normal(&r, (float *)x.data, n);
            ref.f32_to_f16((uint16_t *)h.data, (float *)x.data, n);
            fill_normal(&r, (float *)got.data, n);
            memcpy(want.data, got.data, used);

            ref.axpy_f32((float *)want.data, a, (float *)x.data, n);
            fast.axpy_f32((float *)got.data, a, (float *)x.data, n);
            check_outputs("axpy_f32", isa, n, &got, &want, sizeof(float), used);

            ref.axpy_f16((float *)want.data, -a, (uint16_t *)h.data, n);
            fast.axpy_f16((float *)got.data, -a, (uint16_t *)h.data, n);
            check_outputs("axpy_f16", isa, n, &got, &want, sizeof(float), used);
            box_free(&x);
            box_free(&h);
            box_free(&got);
            box_free(&want);
        }
}

static bool is_nan16(uint16_t h) { return (h & 0x7fff) > 0x7c00; }

/* All 65536 patterns; which NaN a NaN becomes is left open. */
TEST(every_half_widens_like_the_definition)
{
    static uint16_t h[65536];
    static float want[65536], got[65536];
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    for (int i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    ref.f16_to_f32(want, h, 65536);
    FOR_EACH_RUNG(isa) {
        cpu_kernels_init(&fast, isa);
        fast.f16_to_f32(got, h, 65536);
        for (int i = 0; i < 65536; i++) {
            if (is_nan16(h[i]) ? isnan(got[i]) : float_bits(got[i]) == float_bits(want[i])) continue;
            test_fail(__FILE__, __LINE__, "isa %s: half %04x is %.9g, want %.9g", cpu_isa_name(isa), h[i],
                      (double)got[i], (double)want[i]);
            break;
        }
    }
}

/* Every half, the midpoint to the next one, and the floats around both. */
TEST(narrowing_rounds_like_the_definition)
{
    enum { N = 0x7c00 };
    static float x[N * 10];
    static uint16_t want[N * 10], got[N * 10];
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    for (int i = 0; i < N; i++) {
        const float v = half_to_float((uint16_t)i), above = i + 1 < N ? half_to_float((uint16_t)(i + 1)) : 65536.0f;
        const float mid = 0.5f * (v + above);
        const float five[] = { v, nextafterf(v, 1e9f), nextafterf(mid, 0.0f), mid, nextafterf(mid, 1e9f) };
        for (int k = 0; k < 5; k++) {
            x[10 * i + k] = five[k];
            x[10 * i + 5 + k] = -five[k];
        }
    }
    ref.f32_to_f16(want, x, N * 10);
    FOR_EACH_RUNG(isa) {
        cpu_kernels_init(&fast, isa);
        fast.f32_to_f16(got, x, N * 10);
        for (int i = 0; i < N * 10; i++) {
            if (got[i] == want[i]) continue;
            test_fail(__FILE__, __LINE__, "isa %s: %a is %04x, want %04x", cpu_isa_name(isa), (double)x[i],
                      got[i], want[i]);
            break;
        }
    }
}

TEST(half_rows_stop_at_their_end)
{
    cpu_kernels ref, fast;
    cpu_kernels_init(&ref, 0);
    FOR_EACH_RUNG(isa)
        for (int n = 0; n <= 67; n++) {
            const size_t wide = sizeof(float) * (size_t)n, narrow = wide / 2;
            random_stream r = stream_of(1100 + (uint64_t)n);
            cpu_kernels_init(&fast, isa);
            box x = box_new(wide, 0), h = box_new(narrow + GUARD, 0), h2 = box_new(narrow + GUARD, 0);
            box y = box_new(wide + GUARD, 0), y2 = box_new(wide + GUARD, 0);
            fill_normal(&r, (float *)x.data, n);

            ref.f32_to_f16((uint16_t *)h.data, (float *)x.data, n);
            fast.f32_to_f16((uint16_t *)h2.data, (float *)x.data, n);
            check_outputs("f32_to_f16", isa, n, &h2, &h, sizeof(uint16_t), narrow);

            ref.f16_to_f32((float *)y.data, (uint16_t *)h.data, n);
            fast.f16_to_f32((float *)y2.data, (uint16_t *)h.data, n);
            check_outputs("f16_to_f32", isa, n, &y2, &y, sizeof(float), wide);
            box_free(&x);
            box_free(&h);
            box_free(&h2);
            box_free(&y);
            box_free(&y2);
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
