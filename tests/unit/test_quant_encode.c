/* Encoders and dot products against the reference library's golden vectors
 * (tests/data/quant-golden/README.md): bytes where the steps are the same, error
 * figures where they may differ. */
#include "runner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/pool.h"
#include "quant/quant.h"

enum { ROWS = 8, COLS = 512, BIG_ROWS = 64, BIG_COLS = 4096 };

static void *golden(const char *name, size_t want)
{
    char path[128];
    size_t n;
    snprintf(path, sizeof path, "quant-golden/%s", name);
    char *data = test_read(test_data(path), &n);
    if (data && want && n != want) {
        test_fail(__FILE__, __LINE__, "%s has %zu bytes, want %zu", name, n, want);
        free(data);
        data = NULL;
    }
    return data;
}

static void *golden_of(quant_type type, const char *suffix, size_t want)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", quant_get(type)->name, suffix);
    for (char *c = name; *c; c++) if (*c >= 'A' && *c <= 'Z') *c = (char)(*c + 32);
    return golden(name, want);
}

static size_t row_bytes(quant_type type, int cols)
{
    uint64_t bytes = 0;
    quant_row_bytes(type, (uint64_t)cols, &bytes);
    return (size_t)bytes;
}

/* The rows every golden file was made of; freed by close_input. */
typedef struct {
    float *x, *importance;
} input;

static bool open_input(input *in)
{
    in->x = golden("input.f32", ROWS * COLS * sizeof(float));
    in->importance = golden("importance.f32", COLS * sizeof(float));
    return in->x && in->importance;
}

static void close_input(input *in)
{
    free(in->x);
    free(in->importance);
}

/* ---- threads ------------------------------------------------------------------- */

enum { ENCODERS = 4 };

typedef struct {
    input   in;
    uint8_t coded[ENCODERS][2048];
} first_use;

static void encode_one(void *ctx, int index, int thread)
{
    (void)thread;
    first_use *u = ctx;
    quant_get(QUANT_IQ2_XXS)->from_float_weighted(u->coded[index], u->in.x, u->in.importance, COLS);
    quant_get(QUANT_IQ1_S)->from_float_weighted(u->coded[index] + 1024, u->in.x, u->in.importance, COLS);
}

/* Stands first: no search table has been built when it starts. */
TEST(search_tables_are_built_once_for_all_threads)
{
    static first_use u;
    ds4_error err = { 0 };
    pool *p;
    REQUIRE_OK(pool_open(&p, ENCODERS, &err), err);
    if (open_input(&u.in)) {
        pool_run(p, encode_one, &u, ENCODERS);
        for (int i = 1; i < ENCODERS; i++) EXPECT_INT(memcmp(u.coded[i], u.coded[0], 2048), 0);
    }
    close_input(&u.in);
    pool_close(p);
}

/* ---- bytes ------------------------------------------------------------------ */

/* Encodes one golden row; false and a failure when that does not work. */
static bool encode(quant_type type, uint8_t *dst, const input *in, int row, bool weighted)
{
    ds4_error err = { 0 };
    const ds4_status st = quant_encode_row(type, dst, in->x + row * COLS,
                                           weighted ? in->importance : NULL, COLS, &err);
    if (st) test_fail(__FILE__, __LINE__, "%s row %d: %s", quant_get(type)->name, row, err.message);
    return !st;
}

/* Blocks of the golden rows (except `skip`, -1: none) whose bytes differ. */
static int blocks_that_differ(quant_type type, bool weighted, int skip)
{
    const quant_info *q = quant_get(type);
    const size_t bytes = row_bytes(type, COLS);
    uint8_t *want = golden_of(type, weighted ? "imat.q" : "q", ROWS * bytes);
    uint8_t *got = malloc(bytes);
    input in;
    int differ = 0;
    if (open_input(&in) && want && got)
        for (int row = 0; row < ROWS; row++) {
            if (row == skip || !encode(type, got, &in, row, weighted)) continue;
            for (size_t at = 0; at < bytes; at += (size_t)q->block_bytes)
                differ += memcmp(got + at, want + (size_t)row * bytes + at, (size_t)q->block_bytes) != 0;
        }
    close_input(&in);
    free(want);
    free(got);
    return differ;
}

static void expect_bytes(quant_type type, bool weighted)
{
    const int n = blocks_that_differ(type, weighted, -1);
    if (n) test_fail(__FILE__, __LINE__, "%s%s: %d blocks differ", quant_get(type)->name,
                     weighted ? " with importance" : "", n);
}

TEST(encoders_without_a_search_give_the_golden_bytes)
{
    static const quant_type types[] = {
        QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1,
        QUANT_MXFP4, QUANT_NVFP4, QUANT_Q8_K
    };
    for (size_t i = 0; i < countof(types); i++) expect_bytes(types[i], false);
}

TEST(searching_encoders_give_the_golden_bytes)
{
    static const quant_type types[] = {
        QUANT_Q2_K, QUANT_Q3_K, QUANT_Q4_K, QUANT_Q5_K, QUANT_Q6_K, QUANT_IQ2_S, QUANT_IQ3_XXS,
        QUANT_IQ4_NL, QUANT_IQ4_XS
    };
    for (size_t i = 0; i < countof(types); i++) {
        expect_bytes(types[i], false);
        expect_bytes(types[i], true);
    }
    static const quant_type weighted_only[] = {
        QUANT_Q4_0, QUANT_Q4_1, QUANT_Q5_0, QUANT_Q5_1, QUANT_IQ2_XS, QUANT_IQ1_S
    };
    for (size_t i = 0; i < countof(weighted_only); i++) expect_bytes(weighted_only[i], true);
}

/* Here a level below 0 is kept at 0; the reference lets it wrap to 255 in a byte. */
TEST(iq2_xxs_differs_only_where_the_reference_wraps)
{
    EXPECT_INT(blocks_that_differ(QUANT_IQ2_XXS, true, -1), 3);
}

/* Row 5 has all-zero groups, after which the reference misplaces its codes. Row 6
 * has zeros, which weigh nothing there when there is no importance. */
TEST(iq3_s_differs_only_where_the_reference_is_worse)
{
    EXPECT_INT(blocks_that_differ(QUANT_IQ3_S, true, 5), 0);
    EXPECT_INT(blocks_that_differ(QUANT_IQ3_S, false, 5), 2);
}

TEST(activations_give_the_golden_bytes)
{
    static const quant_type types[] = { QUANT_Q8_0, QUANT_Q8_1, QUANT_Q8_K };
    float *x = golden("activation.f32", COLS * sizeof *x);
    REQUIRE(x);
    for (size_t i = 0; i < countof(types); i++) {
        const size_t n = row_bytes(types[i], COLS);
        char name[64] = "activation.q8_0";
        name[14] = types[i] == QUANT_Q8_0 ? '0' : types[i] == QUANT_Q8_1 ? '1' : 'k';
        uint8_t *want = golden(name, n), *got = malloc(n);
        if (want && got) {
            quant_get(types[i])->from_float(got, x, COLS);
            EXPECT_INT(memcmp(got, want, n), 0);
        }
        free(want);
        free(got);
    }
    free(x);
}

/* ---- errors ------------------------------------------------------------------- */

/* sqrt(sum w*(a-b)^2 / sum w); w NULL: all 1 */
static double rmse(const float *a, const float *b, const float *w, size_t n)
{
    double sum = 0.0, total = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double d = (double)a[i] - b[i], wi = w ? (double)w[i] : 1.0;
        sum += wi * d * d;
        total += wi;
    }
    return sqrt(sum / total);
}

/* Calls row() for every line after the header (and after lines with '#'). */
static void each_line(const char *name, void (*row)(const char *line))
{
    char *data = golden(name, 0);
    if (!data) return;
    bool header = true;
    for (char *line = strtok(data, "\n"); line; line = strtok(NULL, "\n")) {
        if (line[0] == '#') continue;
        if (!header) row(line);
        header = false;
    }
    free(data);
}

static input rows_in;           /* of the test that is running */

static void check_row_error(const char *line)
{
    char type_name[16], variant[16];
    int id, bytes, row;
    double want, want_weighted;
    REQUIRE(sscanf(line, "%15s %d %15s %d %d %lf %lf", type_name, &id, variant, &bytes, &row, &want,
                   &want_weighted) == 7);
    const quant_type type = quant_by_name(type_name);
    const bool weighted = strcmp(variant, "plain") != 0;
    REQUIRE(type != QUANT_COUNT);
    EXPECT_INT(id, type);
    EXPECT_INT(bytes, row_bytes(type, COLS));

    uint8_t coded[COLS * 4];
    float decoded[COLS];
    if (!encode(type, coded, &rows_in, row, weighted)) return;
    quant_get(type)->to_float(decoded, coded, COLS);
    double got = rmse(decoded, rows_in.x + row * COLS, weighted ? rows_in.importance : NULL, COLS);
    if (weighted) want = want_weighted;
    if (type == QUANT_IQ3_S && row == 5) want /= 2;      /* must be far better than the defect */
    if (got > want * 1.02 + 1e-12)
        test_fail(__FILE__, __LINE__, "%s %s row %d: error %.6g, golden %.6g", type_name, variant, row,
                  got, want);
}

TEST(no_golden_row_has_a_larger_error)
{
    if (open_input(&rows_in)) each_line("rmse.tsv", check_row_error);
    close_input(&rows_in);
}

/* ---- the large set -------------------------------------------------------------- *
 * 64 x 4096 numbers with a heavy tail, made by arithmetic. */

static uint64_t mix(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;     /* SplitMix64 */
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static double uniform(uint64_t seed, uint64_t i)
{
    return (double)(mix(seed, i) >> 40) * 0x1p-24;
}

static float big_value(uint64_t k)
{
    double g = 0.0;
    for (uint64_t j = 0; j < 12; j++) g += uniform(1, 12 * k + j);
    const double v = uniform(2, k);
    return (float)((g - 6.0) * (0.0078125 * (1.0 + 3.0 * v * v * v * v)));
}

static float big_importance(uint64_t column)
{
    const double k = uniform(1 ^ 0x5555, column);
    return (float)(0.015625 + k * k * k * 4.0);
}

static float *big, *big_weights;    /* of the test that is running */

static void check_big_error(const char *line)
{
    char type_name[16], variant[16];
    double want, relative, want_weighted;
    REQUIRE(sscanf(line, "%15s %15s %lf %lf %lf", type_name, variant, &want, &relative,
                   &want_weighted) == 5);
    const quant_type type = quant_by_name(type_name);
    const bool weighted = strcmp(variant, "plain") != 0;
    REQUIRE(type != QUANT_COUNT);

    static uint8_t coded[BIG_COLS * 4];
    static float decoded[BIG_COLS];
    double sum = 0.0;           /* rows have equal total weight */
    for (int row = 0; row < BIG_ROWS; row++) {
        const float *x = big + row * BIG_COLS;
        ds4_error err = { 0 };
        REQUIRE_OK(quant_encode_row(type, coded, x, weighted ? big_weights : NULL, BIG_COLS, &err), err);
        quant_get(type)->to_float(decoded, coded, BIG_COLS);
        const double e = rmse(decoded, x, weighted ? big_weights : NULL, BIG_COLS);
        sum += e * e;
    }
    const double got = sqrt(sum / BIG_ROWS);
    if (weighted) want = want_weighted;
    if (got > want * 1.002)
        test_fail(__FILE__, __LINE__, "%s %s: error %.6g, golden %.6g", type_name, variant, got, want);
}

TEST(the_large_set_meets_the_error_figures)
{
    big = malloc((size_t)BIG_ROWS * BIG_COLS * sizeof *big);
    big_weights = malloc(BIG_COLS * sizeof *big_weights);
    REQUIRE(big && big_weights);
    for (uint64_t k = 0; k < (uint64_t)BIG_ROWS * BIG_COLS; k++) big[k] = big_value(k);
    for (uint64_t c = 0; c < BIG_COLS; c++) big_weights[c] = big_importance(c);
    /* CRC-32C of the arrays whose SHA-256 the file's first line has. */
    EXPECT_INT(crc32c(0, big, (size_t)BIG_ROWS * BIG_COLS * sizeof *big), 37903082);
    EXPECT_INT(crc32c(0, big_weights, BIG_COLS * sizeof *big_weights), 2037384406);
    each_line("rmse-large.tsv", check_big_error);
    free(big);
    free(big_weights);
}

/* ---- dot products ------------------------------------------------------------------ */

static void check_dot(const char *line)
{
    char type_name[16], variant[16], activation[16], suffix[24];
    int row;
    double want, unused, scale;
    REQUIRE(sscanf(line, "%15s %15s %15s %d %lf %lf %lf %lf", type_name, variant, activation, &row,
                   &want, &unused, &unused, &scale) == 8);
    const quant_type type = quant_by_name(type_name);
    REQUIRE(type != QUANT_COUNT);
    const quant_info *q = quant_get(type);
    EXPECT_INT(q->dot_type, quant_by_name(activation));

    snprintf(suffix, sizeof suffix, "%s", strcmp(variant, "plain") ? "imat.q" : "q");
    const size_t bytes = row_bytes(type, COLS);
    uint8_t *w = golden_of(type, suffix, ROWS * bytes);
    char name[64];
    snprintf(name, sizeof name, "activation.%s",
             q->dot_type == QUANT_Q8_0 ? "q8_0" : q->dot_type == QUANT_Q8_1 ? "q8_1" : "q8_k");
    void *a = golden(name, row_bytes(q->dot_type, COLS));
    if (w && a) {
        const double got = (double)q->dot(w + (size_t)row * bytes, a, COLS);
        /* blocks are added in float; the golden sum is rounded to 9 digits */
        if (fabs(got - want) > 2e-6 * scale)
            test_fail(__FILE__, __LINE__, "%s %s row %d: dot %.9g, golden %.9g", type_name, variant,
                      row, got, want);
    }
    free(w);
    free(a);
}

TEST(dot_products_agree_with_the_golden_ones)
{
    each_line("dot.tsv", check_dot);
}

TEST(plain_dot_products_are_exact_sums)
{
    const float x[4] = { 1e8f, 1.0f, -1e8f, 2.0f }, one[4] = { 1, 1, 1, 1 };
    uint16_t half[4], brain[4];
    quant_get(QUANT_F16)->from_float(half, one, 4);
    quant_get(QUANT_BF16)->from_float(brain, one, 4);
    EXPECT(quant_get(QUANT_F32)->dot(one, x, 4) == 3.0f);
    EXPECT(quant_get(QUANT_F16)->dot(half, x, 4) == 3.0f);
    EXPECT(quant_get(QUANT_BF16)->dot(brain, x, 4) == 3.0f);
}

/* Worst magnitudes: every bracket must stay inside 32 bits. */
TEST(extreme_blocks_do_not_overflow)
{
    static const quant_type types[] = {
        QUANT_Q2_K, QUANT_Q3_K, QUANT_Q4_K, QUANT_Q5_K, QUANT_Q6_K, QUANT_IQ1_S, QUANT_IQ2_XXS,
        QUANT_IQ2_XS, QUANT_IQ2_S, QUANT_IQ3_XXS, QUANT_IQ3_S, QUANT_IQ4_NL, QUANT_IQ4_XS,
        QUANT_MXFP4, QUANT_NVFP4, QUANT_Q8_0, QUANT_Q5_1
    };
    float x[256];
    uint8_t a[512], w[512];
    for (int sign = 0; sign < 2; sign++)
        for (size_t i = 0; i < countof(types); i++) {
            const quant_info *q = quant_get(types[i]);
            for (int e = 0; e < 256; e++) x[e] = sign ? -1.0f : 1.0f;
            quant_get(q->dot_type)->from_float(a, x, 256);
            for (int fill = 0; fill < 256; fill += 85) {     /* 00 55 aa ff */
                memset(w, fill, sizeof w);
                (void)q->dot(w, a, 256);                     /* the sanitizer watches */
            }
        }
}

/* ---- edges --------------------------------------------------------------------------- */

TEST(zeros_encode_to_zeros_or_nearly)
{
    static const float zero[256], one[256] = { 1.0f };
    uint8_t coded[1024];
    float decoded[256];
    for (uint32_t t = 0; t < QUANT_COUNT; t++) {
        const quant_info *q = quant_get(t);
        if (!q || !q->from_float_weighted) continue;
        q->from_float_weighted(coded, zero, one, 256);
        q->to_float(decoded, coded, 256);
        for (int e = 0; e < 256; e++) if (decoded[e] != 0.0f) {
            test_fail(__FILE__, __LINE__, "%s: element %d of zeros is %g", q->name, e,
                      (double)decoded[e]);
            break;
        }
    }
}

/* Whatever finite numbers come in, the encoder stays inside its types. */
TEST(absurd_magnitudes_do_not_break_an_encoder)
{
    static const float size[] = { 1e-45f, 1e-40f, 1e-38f, 1e-20f, 1e-12f, 1e4f, 1e20f, 3e38f };
    float x[256], importance[256];
    uint8_t coded[1024];
    for (size_t s = 0; s < countof(size); s++) {
        for (int e = 0; e < 256; e++) {
            x[e] = size[s] * ((float)(e % 17 - 8) / 8.0f);
            importance[e] = (float)(e % 5);
        }
        for (uint32_t t = 0; t < QUANT_COUNT; t++) {
            const quant_info *q = quant_get(t);
            if (!q || !q->from_float_weighted) continue;
            q->from_float_weighted(coded, x, importance, 256);
            if (q->from_float) q->from_float(coded, x, 256);
        }
    }
}

TEST(encode_row_tells_what_is_wrong)
{
    float x[256] = { 0 }, importance[256] = { 0 };
    uint8_t coded[1024];
    ds4_error err = { 0 };
    EXPECT_INT(quant_encode_row(QUANT_I32, coded, x, NULL, 256, &err), DS4_EUNSUPPORTED);
    EXPECT_INT(quant_encode_row((quant_type)4, coded, x, NULL, 256, &err), DS4_EUNSUPPORTED);
    EXPECT_INT(quant_encode_row(QUANT_Q4_K, coded, x, NULL, 128, &err), DS4_EARG);
    EXPECT_INT(quant_encode_row(QUANT_IQ2_XXS, coded, x, NULL, 256, &err), DS4_EARG);
    EXPECT(strstr(err.message, "importance"));
    EXPECT_OK(quant_encode_row(QUANT_IQ2_XXS, coded, x, importance, 256, &err), err);

    x[17] = NAN;
    EXPECT_INT(quant_encode_row(QUANT_Q8_0, coded, x, NULL, 256, &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "column 17"));
    x[17] = -INFINITY;
    EXPECT_INT(quant_encode_row(QUANT_F16, coded, x, NULL, 256, &err), DS4_EFORMAT);
    x[17] = 1e8f;                                       /* d leaves binary16 */
    EXPECT_INT(quant_encode_row(QUANT_Q8_0, coded, x, NULL, 256, &err), DS4_EFORMAT);
    EXPECT(strstr(err.message, "range"));
    EXPECT_OK(quant_encode_row(QUANT_BF16, coded, x, NULL, 256, &err), err);

    x[17] = 0.0f;
    importance[3] = -1.0f;
    EXPECT_INT(quant_encode_row(QUANT_Q4_K, coded, x, importance, 256, &err), DS4_EARG);
    EXPECT(strstr(err.message, "column 3"));
    importance[3] = INFINITY;
    EXPECT_INT(quant_encode_row(QUANT_Q4_K, coded, x, importance, 256, &err), DS4_EARG);
}

TEST(exact_fp4_comes_back_exactly)
{
    static const float value[16] = { 0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6 };
    float x[256], back[256];
    uint8_t coded[256];
    for (int e = 0; e < 256; e++) x[e] = value[e % 16] * ldexpf(1.0f, e / 32 * 30 - 100);
    quant_get(QUANT_MXFP4)->from_float(coded, x, 256);
    quant_get(QUANT_MXFP4)->to_float(back, coded, 256);
    for (int e = 0; e < 256; e++) EXPECT(back[e] == x[e]);
}
