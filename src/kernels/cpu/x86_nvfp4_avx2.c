/* x86_nvfp4_avx2: tiles of NVFP4 against Q8_0 activations: blocks of 64 with a scale
 * for every 16 columns, so that each 16 are a float term of their own. The layout is
 * told in src/quant/fp4.c. */
#include "kernels/cpu/x86_tiles_avx2.h"

enum { GROUPS = 4, VECTORS = 4 };       /* groups of 16 in a block, vectors of four columns in one */

/* A block of eight rows: values, and half the scales, for values are doubled. */
typedef struct {
    __m256i value[GROUPS][VECTORS];
    __m256  d[GROUPS];
} nvfp4_panel;

/* Unsigned E4M3 of eight rows, halved: exponent 0 counts in steps of 2^-9, and 127 is 0. */
static inline __m256 halved_ue4m3(const uint8_t *const row[SIDE], size_t at)
{
    const __m256i c = _mm256_and_si256(bytes_at(row, at), _mm256_set1_epi32(0x7f));
    const __m256i normal = _mm256_add_epi32(_mm256_slli_epi32(c, 20), _mm256_set1_epi32(120 << 23));
    const __m256 small = _mm256_mul_ps(_mm256_cvtepi32_ps(c), _mm256_set1_ps(0x1p-9f));
    const __m256i is_normal = _mm256_cmpgt_epi32(c, _mm256_set1_epi32(7));
    const __m256i is_nan = _mm256_cmpeq_epi32(c, _mm256_set1_epi32(0x7f));
    const __m256 d = _mm256_blendv_ps(small, _mm256_castsi256_ps(normal), _mm256_castsi256_ps(is_normal));
    return _mm256_mul_ps(_mm256_set1_ps(0.5f), _mm256_andnot_ps(_mm256_castsi256_ps(is_nan), d));
}

/* Two groups of eight bytes: low nibbles are the first half of a group. */
static inline __m256i two_groups(const uint8_t bytes[16])
{
    const __m128i x = load16(bytes), low = _mm_set1_epi8(15);
    const __m128i a = _mm_and_si128(x, low), b = _mm_and_si128(_mm_srli_epi16(x, 4), low);
    const __m128i level = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    return _mm256_shuffle_epi8(twice(level), _mm256_set_m128i(_mm_unpackhi_epi64(a, b), _mm_unpacklo_epi64(a, b)));
}

static void fill_panel(nvfp4_panel *p, const uint8_t *const row[SIDE], int block)
{
    const size_t at = (size_t)block * sizeof(block_nvfp4);
    for (int half_block = 0; half_block < 2; half_block++) {
        __m256i v[SIDE];
        UNROLL
        for (int r = 0; r < SIDE; r++) v[r] = two_groups(row[r] + at + 4 + 16 * half_block);
        transpose8(v);
        for (int j = 0; j < 8; j++) p->value[2 * half_block + j / VECTORS][j % VECTORS] = v[j];
    }
    for (int g = 0; g < GROUPS; g++) p->d[g] = halved_ue4m3(row, at + (size_t)g);
}

/* y += the panel times 64 columns. */
static inline __m256 multiply(const nvfp4_panel *p, const int8_t *codes, const float *d, __m256 y)
{
    for (int g = 0; g < GROUPS; g++) {
        __m256i sum = _mm256_setzero_si256();       /* at most 4 * 2*12*128 a lane */
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            sum = _mm256_add_epi16(sum, pairs(p->value[g][v], word_of(codes + 16 * g + 4 * v)));
        const __m256 D = _mm256_mul_ps(p->d[g], _mm256_set1_ps(d[g / 2]));
        y = _mm256_add_ps(y, _mm256_mul_ps(D, _mm256_cvtepi32_ps(unscaled(sum))));
    }
    return y;
}

/* Faster: 32 products an instruction, whatever the number of activations. */
static void some_activations(const tile_args *a, int c0, int batch)
{
    const uint8_t *row[SIDE];
    activation_planes x[PANEL_BATCH];
    __m256 y[PANEL_BATCH];
    nvfp4_panel p;

    for (int c = 0; c < batch; c++) x[c] = activation_planes_of(a->x[c0 + c], QUANT_Q8_0, a->n);
    for (int first = 0; first < a->rows; first += SIDE) {
        const uint8_t *ahead = rows_after(a, first);
        rows_at(row, a, first);
        for (int c = 0; c < batch; c++) y[c] = _mm256_setzero_ps();
        for (int i = 0; i < a->n / 64; i++, ahead += SIDE * sizeof(block_nvfp4)) {
            ask_for(ahead, SIDE * sizeof(block_nvfp4));
            fill_panel(&p, row, i);
            for (int c = 0; c < batch; c++) y[c] = multiply(&p, x[c].codes + 64 * i, x[c].d + 2 * i, y[c]);
        }
        for (int c = 0; c < batch; c++) store_rows(a, first, c0 + c, y[c]);
    }
}

static void tile_nvfp4(const cpu_kernels *k, const tile_args *a)
{
    (void)k;
    for (int c = 0; c < a->batch; c += PANEL_BATCH)
        some_activations(a, c, a->batch - c < PANEL_BATCH ? a->batch - c : PANEL_BATCH);
}

void cpu_tiles_nvfp4_avx2(cpu_kernels *k) { k->tile[QUANT_NVFP4] = tile_nvfp4; }
