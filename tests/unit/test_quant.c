/* Golden numbers come from the reference library, version 0.25.1 (baseline
 * x86-64 build); tests/data/quant-golden/README.md tells how they were made. */
#include "runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "quant/float_formats.h"
#include "quant/quant.h"
#include "quant/tables.h"

enum { ROWS = 8, COLS = 512 };

/* ---- golden files ------------------------------------------------------------ */

/* A whole golden file, or NULL (which fails the test). Caller frees. */
static void *golden(const char *name, size_t want)
{
    char path[128];
    size_t n;
    snprintf(path, sizeof path, "quant-golden/%s", name);
    char *data = test_read(test_data(path), &n);
    if (data && n != want) {
        test_fail(__FILE__, __LINE__, "%s has %zu bytes, want %zu", name, n, want);
        free(data);
        data = NULL;
    }
    return data;
}

/* quant-golden/TYPE.SUFFIX, the type in lower case. */
static void *golden_of(quant_type type, const char *suffix, size_t want)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", quant_get(type)->name, suffix);
    for (char *c = name; *c; c++) if (*c >= 'A' && *c <= 'Z') *c = (char)(*c + 32);
    return golden(name, want);
}

static size_t rows_bytes(quant_type type, int rows)
{
    uint64_t row = 0;
    quant_row_bytes(type, COLS, &row);
    return (size_t)rows * row;
}

/* First index where two float arrays differ in a bit, or n. */
static size_t first_bit_difference(const float *a, const float *b, size_t n)
{
    size_t i = 0;
    while (i < n && float_bits(a[i]) == float_bits(b[i])) i++;
    return i;
}

static const quant_type block_types[] = {
    QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1, QUANT_Q8_0, QUANT_Q2_K, QUANT_Q3_K, QUANT_Q4_K,
    QUANT_Q5_K, QUANT_Q6_K, QUANT_IQ2_XXS, QUANT_IQ2_XS, QUANT_IQ2_S, QUANT_IQ3_XXS, QUANT_IQ3_S,
    QUANT_IQ1_S, QUANT_IQ4_NL, QUANT_IQ4_XS, QUANT_MXFP4, QUANT_NVFP4
};

/* ---- the table ----------------------------------------------------------------- */

TEST(every_type_has_the_size_of_the_format)
{
    static const struct { int id; const char *name; int len, bytes; } want[] = {
        { 0, "F32", 1, 4 }, { 1, "F16", 1, 2 }, { 30, "BF16", 1, 2 }, { 2, "Q4_0", 32, 18 },
        { 3, "Q4_1", 32, 20 }, { 6, "Q5_0", 32, 22 }, { 7, "Q5_1", 32, 24 }, { 8, "Q8_0", 32, 34 },
        { 9, "Q8_1", 32, 36 }, { 10, "Q2_K", 256, 84 }, { 11, "Q3_K", 256, 110 },
        { 12, "Q4_K", 256, 144 }, { 13, "Q5_K", 256, 176 }, { 14, "Q6_K", 256, 210 },
        { 15, "Q8_K", 256, 292 }, { 16, "IQ2_XXS", 256, 66 }, { 17, "IQ2_XS", 256, 74 },
        { 18, "IQ3_XXS", 256, 98 }, { 19, "IQ1_S", 256, 50 }, { 20, "IQ4_NL", 32, 18 },
        { 21, "IQ3_S", 256, 110 }, { 22, "IQ2_S", 256, 82 }, { 23, "IQ4_XS", 256, 136 },
        { 24, "I8", 1, 1 }, { 25, "I16", 1, 2 }, { 26, "I32", 1, 4 }, { 27, "I64", 1, 8 },
        { 28, "F64", 1, 8 }, { 29, "IQ1_M", 256, 56 }, { 34, "TQ1_0", 256, 54 },
        { 35, "TQ2_0", 256, 66 }, { 39, "MXFP4", 32, 17 }, { 40, "NVFP4", 64, 36 },
        { 41, "Q1_0", 128, 18 }, { 42, "Q2_0", 64, 18 },
    };
    int known = 0;
    for (uint32_t t = 0; t < QUANT_COUNT; t++) known += quant_get(t) != NULL;
    EXPECT_INT(known, countof(want));

    for (size_t i = 0; i < countof(want); i++) {
        const quant_info *q = quant_get((uint32_t)want[i].id);
        REQUIRE(q);
        EXPECT_TEXT(q->name, want[i].name);
        EXPECT_INT(q->block_len, want[i].len);
        EXPECT_INT(q->block_bytes, want[i].bytes);
        EXPECT_INT(quant_by_name(want[i].name), want[i].id);
    }
}

TEST(retired_and_unknown_ids_have_no_row)
{
    static const uint32_t ids[] = { 4, 5, 31, 32, 33, 36, 37, 38, 43, 255, UINT32_MAX };
    for (size_t i = 0; i < countof(ids); i++) EXPECT(!quant_get(ids[i]));
}

TEST(names_are_found_in_any_letter_case)
{
    EXPECT_INT(quant_by_name("q8_0"), QUANT_Q8_0);
    EXPECT_INT(quant_by_name("iq2_XXS"), QUANT_IQ2_XXS);
    EXPECT_INT(quant_by_name("Q8"), QUANT_COUNT);
    EXPECT_INT(quant_by_name("Q8_00"), QUANT_COUNT);
    EXPECT_INT(quant_by_name(""), QUANT_COUNT);
}

TEST(row_bytes_refuses_part_blocks_and_overflow)
{
    uint64_t bytes = 7;
    EXPECT(quant_row_bytes(QUANT_Q4_K, 512, &bytes) && bytes == 288);
    EXPECT(quant_row_bytes(QUANT_NVFP4, 64, &bytes) && bytes == 36);
    EXPECT(!quant_row_bytes(QUANT_Q4_K, 255, &bytes));
    EXPECT(!quant_row_bytes((quant_type)4, 256, &bytes));
    EXPECT(!quant_row_bytes(QUANT_F32, UINT64_MAX / 2, &bytes));
    EXPECT_INT(bytes, 36);
}

/* ---- scalar formats -------------------------------------------------------------- */

TEST(every_half_survives_a_round_trip)
{
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = half_to_float((uint16_t)h);
        if (f != f) {
            EXPECT((h & 0x7c00) == 0x7c00 && (h & 0x3ff));
            continue;
        }
        const int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
        const double m = exponent ? 1024 + mantissa : mantissa;
        const double v = exponent == 31 ? INFINITY : ldexp(m, (exponent ? exponent : 1) - 25);
        EXPECT((double)fabsf(f) == v);
        EXPECT_INT(float_to_half(f), h);
    }
}

TEST(half_rounds_to_nearest_even)
{
    EXPECT_INT(float_to_half(2049.0f), float_to_half(2048.0f));     /* tie, even below */
    EXPECT_INT(float_to_half(2051.0f), float_to_half(2052.0f));     /* tie, even above */
    EXPECT_INT(float_to_half(65519.0f), 0x7bff);
    EXPECT_INT(float_to_half(65520.0f), 0x7c00);                    /* overflow is infinity */
    EXPECT_INT(float_to_half(-1e30f), 0xfc00);
    EXPECT_INT(float_to_half(0x1p-25f), 0);                         /* half the least: tie to 0 */
    EXPECT_INT(float_to_half(0x1.8p-25f), 1);
    EXPECT_INT(float_to_half(-0.0f), 0x8000);
    EXPECT_INT(float_to_half(NAN) & 0x7e00, 0x7e00);
}

TEST(bfloat16_rounds_to_nearest_even)
{
    EXPECT_INT(float_to_bf16(float_from_bits(0x3f808000)), 0x3f80);
    EXPECT_INT(float_to_bf16(float_from_bits(0x3f818000)), 0x3f82);
    EXPECT_INT(float_to_bf16(float_from_bits(0x3f808001)), 0x3f81);
    EXPECT_INT(float_to_bf16(float_from_bits(0x7f800001)), 0x7fc0);  /* stays a NaN */
    EXPECT_INT(float_to_bf16(INFINITY), 0x7f80);
    EXPECT(bf16_to_float(0xc040) == -3.0f);
}

/* Runs row(code, columns 2 and 3 as text) over a golden table. */
static void each_row(const char *name, int want, void (*row)(unsigned, const char *, const char *))
{
    char path[64], one[64], two[64], code[64];
    size_t n;
    snprintf(path, sizeof path, "quant-golden/%s", name);
    char *data = test_read(test_data(path), &n);
    REQUIRE(data);
    int rows = 0;
    for (char *line = strchr(data, '\n'); line && line[1]; line = strchr(line + 1, '\n'), rows++) {
        REQUIRE(sscanf(line + 1, "%63s %63s %63s", code, one, two) == 3);
        row((unsigned)strtoul(code, NULL, 16), one, two);
    }
    EXPECT_INT(rows, want);
    free(data);
}

static uint32_t hex(const char *text) { return (uint32_t)strtoul(text, NULL, 16); }

static void check_e8m0(unsigned code, const char *bits, const char *halved)
{
    if (code == 255) {
        EXPECT(isnan(e8m0_to_float(255)) && isnan(e8m0_to_float_halved(255)));
        return;
    }
    EXPECT_INT(float_bits(e8m0_to_float((uint8_t)code)), hex(bits));
    EXPECT_INT(float_bits(e8m0_to_float_halved((uint8_t)code)), hex(halved));
}

static void check_e4m3(unsigned code, const char *bits, const char *value)
{
    (void)value;
    const float f = e4m3_to_float((uint8_t)code);
    if ((code & 127) == 127) {
        EXPECT(isnan(f));
        return;
    }
    EXPECT_INT(float_bits(f), hex(bits));
    EXPECT_INT(float_to_e4m3(f), code);
}

static void check_ue4m3(unsigned code, const char *value, const char *halved)
{
    EXPECT((double)ue4m3_to_float((uint8_t)code) == strtod(value, NULL));
    EXPECT((double)ue4m3_to_float((uint8_t)code) / 2 == strtod(halved, NULL));
    if (code != 127) EXPECT_INT(float_to_ue4m3(ue4m3_to_float((uint8_t)code)), code);
}

static void check_e2m1(unsigned code, const char *value, const char *doubled)
{
    EXPECT((double)e2m1_to_float((int)code) == strtod(value, NULL));
    EXPECT_INT(e2m1_doubled((int)code), strtol(doubled, NULL, 10));
    EXPECT_INT(float_to_e2m1(e2m1_to_float((int)code)), code);
}

TEST(small_floats_match_their_tables)
{
    each_row("e8m0.tsv", 256, check_e8m0);
    each_row("fp8_e4m3.tsv", 256, check_e4m3);
    each_row("ue4m3.tsv", 128, check_ue4m3);
    each_row("fp4_e2m1.tsv", 16, check_e2m1);
}

TEST(e4m3_takes_the_nearest_value)
{
    for (unsigned c = 0; c < 126; c++) {
        const float a = e4m3_to_float((uint8_t)c), b = e4m3_to_float((uint8_t)(c + 1));
        const float middle = (a + b) / 2;                           /* exact */
        EXPECT_INT(float_to_e4m3(middle), c + (c & 1));             /* ties to even */
        EXPECT_INT(float_to_e4m3(nextafterf(middle, 0.0f)), c);
        EXPECT_INT(float_to_e4m3(nextafterf(middle, 1e9f)), c + 1);
    }
    EXPECT_INT(float_to_e4m3(449.0f), 0x7e);
    EXPECT_INT(float_to_e4m3(-INFINITY), 0xfe);
    EXPECT_INT(float_to_e4m3(NAN) & 0x7f, 0x7f);
    EXPECT_INT(float_to_e4m3(-0.0f), 0x80);
}

TEST(ue4m3_rounds_halves_up_and_never_leaves_its_range)
{
    EXPECT_INT(float_to_ue4m3(-1.0f), 0);
    EXPECT_INT(float_to_ue4m3(NAN), 0);
    EXPECT_INT(float_to_ue4m3(1.0625f), float_to_ue4m3(1.125f));    /* half a step above 1 */
    EXPECT_INT(float_to_ue4m3(nextafterf(0.015625f, 0.0f)), 7);     /* not up to the normals */
    EXPECT_INT(float_to_ue4m3(1e9f), 0x7e);
    EXPECT_INT(float_to_ue4m3(447.9f), 0x7e);
}

TEST(e2m1_ties_go_to_the_even_code)
{
    static const float value[8] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6 };
    for (int c = 0; c < 7; c++) {
        const float middle = (value[c] + value[c + 1]) / 2;
        EXPECT_INT(float_to_e2m1(middle), c + (c & 1));
        EXPECT_INT(float_to_e2m1(nextafterf(middle, 0.0f)), c);
        EXPECT_INT(float_to_e2m1(-nextafterf(middle, 9.0f)), (c + 1) | 8);
    }
    EXPECT_INT(float_to_e2m1(100.0f), 7);
}

TEST(pow2_ceil_is_the_smallest_power_not_below)
{
    EXPECT(pow2_ceil(1.0f) == 1.0f);
    EXPECT(pow2_ceil(nextafterf(1.0f, 2.0f)) == 2.0f);
    EXPECT(pow2_ceil(3.0f) == 4.0f);
    EXPECT(pow2_ceil(0.3f) == 0.5f);
    EXPECT(pow2_ceil(0x1p-126f) == 0x1p-126f);
}

/* ---- codebooks --------------------------------------------------------------------- */

/* CRC-32C of a grid written as text: its bytes in hex, coordinate 0 first, one
 * entry a line. */
static uint32_t text_crc(const void *grid, int entries, int width)
{
    const uint8_t *byte = grid;
    uint32_t crc = 0;
    char text[3];
    for (int i = 0; i < entries * width; i++) {
        snprintf(text, sizeof text, "%02x", byte[i]);
        crc = crc32c(crc, text, 2);
        if (i % width == width - 1) crc = crc32c(crc, "\n", 1);
    }
    return crc;
}

TEST(codebooks_are_those_of_the_format)
{
    /* Sums of the golden .hex files, whose origin NOTICE names. */
    EXPECT_INT(text_crc(quant_iq2_xxs_grid, 256, 8), 0xa49b372d);
    EXPECT_INT(text_crc(quant_iq2_xs_grid, 512, 8), 0xe33ac8c9);
    EXPECT_INT(text_crc(quant_iq2_s_grid, 1024, 8), 0x59ce2b96);
    EXPECT_INT(text_crc(quant_iq1_s_grid, 2048, 8), 0x2e98e317);
    EXPECT_INT(text_crc(quant_iq3_xxs_grid, 256, 4), 0x48a83911);
    EXPECT_INT(text_crc(quant_iq3_s_grid, 512, 4), 0x644d4168);
    EXPECT_INT(text_crc(quant_iq4_levels, 16, 1), 0x093d0e6c);
}

TEST(sign_masks_have_even_parity)
{
    uint8_t mask[128];
    for (unsigned i = 0; i < 128; i++) {
        mask[i] = quant_sign_mask(i);
        EXPECT_INT(mask[i] & 127, i);
        EXPECT_INT(__builtin_popcount(mask[i]) % 2, 0);
    }
    EXPECT_INT(text_crc(mask, 128, 1), 0x1e8c7ea4);
}

/* ---- decoding ------------------------------------------------------------------------ */

static void expect_decodes(quant_type type, const char *coded, const char *decoded)
{
    const size_t n = ROWS * COLS;
    void *q = golden_of(type, coded, rows_bytes(type, ROWS));
    float *want = golden_of(type, decoded, n * sizeof *want);
    float *got = malloc(n * sizeof *got);
    if (q && want && got) {
        quant_get(type)->to_float(got, q, (int64_t)n);
        const size_t at = first_bit_difference(got, want, n);
        if (at < n)
            test_fail(__FILE__, __LINE__, "%s %s: element %zu is %.9g, want %.9g",
                      quant_get(type)->name, coded, at, (double)got[at], (double)want[at]);
    }
    free(q);
    free(want);
    free(got);
}

TEST(decoders_agree_bit_for_bit_on_random_blocks)
{
    for (size_t i = 0; i < countof(block_types); i++)
        expect_decodes(block_types[i], "rand.q", "rand.f32");
    expect_decodes(QUANT_F16, "q", "f32");
    expect_decodes(QUANT_BF16, "q", "f32");
    expect_decodes(QUANT_Q8_K, "q", "f32");
}

TEST(decoding_blocks_one_by_one_changes_nothing)
{
    float whole[COLS], part[COLS];
    for (size_t i = 0; i < countof(block_types); i++) {
        const quant_info *q = quant_get(block_types[i]);
        uint8_t *row = golden_of(block_types[i], "rand.q", rows_bytes(block_types[i], ROWS));
        REQUIRE(row);
        q->to_float(whole, row, COLS);
        for (int at = 0; at < COLS; at += q->block_len)
            q->to_float(part + at, row + at / q->block_len * q->block_bytes, q->block_len);
        EXPECT_INT(first_bit_difference(part, whole, COLS), COLS);
        free(row);
    }
}
