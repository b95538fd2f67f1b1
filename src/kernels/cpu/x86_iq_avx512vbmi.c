/* IQ types: a panel from a block of each of sixteen rows. The layouts are told in
 * src/quant. Needs AVX-512 VBMI and GFNI beside what x86_q8k_avx512.h needs.
 *
 * An index is looked up 64 at a time and gives the levels of its columns, two bits
 * each, not their bytes: 256 entries of a byte lie in four registers. Then vpmultishiftqb
 * brings a column's level and sign to its byte of the panel, and vpermb makes the
 * code of both. */
#include "kernels/cpu/x86_q8k_avx512.h"
#include "quant/tables.h"

enum { SHIFT = 64 };            /* to unsigned: codes are within -62..62 */

/* The same eight bytes in every quadword. */
INLINE __m512i eight_bytes(int a, int b, int c, int d, int e, int f, int g, int h)
{
    return _mm512_set1_epi64((long long)((uint64_t)(uint8_t)a | (uint64_t)(uint8_t)b << 8 | (uint64_t)(uint8_t)c << 16 |
                                         (uint64_t)(uint8_t)d << 24 | (uint64_t)(uint8_t)e << 32 | (uint64_t)(uint8_t)f << 40 |
                                         (uint64_t)(uint8_t)g << 48 | (uint64_t)(uint8_t)h << 56));
}

/* Bytes 0..3 of each word of x: the eight bits from `at`, at + step, ... on. */
INLINE __m512i spread(__m512i x, int at, int step)
{
    return _mm512_multishift_epi64_epi8(
        eight_bytes(at & 63, (at + step) & 63, (at + 2 * step) & 63, (at + 3 * step) & 63, (at + 32) & 63,
                    (at + step + 32) & 63, (at + 2 * step + 32) & 63, (at + 3 * step + 32) & 63), x);
}

/* The eight bits from `at`, at + 2, at + 8, at + 10 on. */
INLINE __m512i spread_pairs(__m512i x, int at)
{
    return _mm512_multishift_epi64_epi8(
        eight_bytes(at & 63, (at + 2) & 63, (at + 8) & 63, (at + 10) & 63, (at + 32) & 63, (at + 34) & 63,
                    (at + 40) & 63, (at + 42) & 63), x);
}

/* table[i] for 64 bytes i. */
INLINE __m512i look_up_256(const uint8_t table[256], __m512i i)
{
    const __m512i low = _mm512_permutex2var_epi8(load64(table), i, load64(table + 64));
    const __m512i high = _mm512_permutex2var_epi8(load64(table + 128), i, load64(table + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(i), low, high);
}

/* Words of four 7-bit sign indices (bits 7k) to four sign masks: bit 7 makes the number
 * of ones even, which is one linear map of the bits. */
INLINE __m512i masks_of_indices(__m512i words)
{
    return _mm512_gf2p8affine_epi64_epi8(spread(words, 0, 7), _mm512_set1_epi64(0x010204081020407f), 0);
}

/* Codes by an index of two columns: levels of the first and second in bits 0, 1 and
 * 2, 3, their signs in bits 4 and 5. */
#define LEVELS(sign) SHIFT sign 8, SHIFT sign 25, SHIFT sign 43, 0,
#define IN_TURN(sign) LEVELS(sign) LEVELS(sign) LEVELS(sign) LEVELS(sign)
#define FOUR(x)       x, x, x, x,
#define IN_RUNS(sign) FOUR(SHIFT sign 8) FOUR(SHIFT sign 25) FOUR(SHIFT sign 43) FOUR(0)

static const uint8_t iq2_first[64]  = { IN_TURN(+) IN_TURN(-) IN_TURN(+) IN_TURN(-) };
static const uint8_t iq2_second[64] = { IN_RUNS(+) IN_RUNS(+) IN_RUNS(-) IN_RUNS(-) };

/* 2s + 1 */
INLINE __m512i twice_plus_1(__m512i s)
{
    return _mm512_or_si512(_mm512_add_epi32(s, s), _mm512_set1_epi32(1));
}

/* A group of 32 columns, looked up. */
typedef struct {
    __m512i levels[2];          /* of columns 8k + 4h .. + 3 in byte k of [h] */
    __m512i masks, scale;
} iq2_group;

INLINE iq2_group look_up_iq2_xxs(__m512i index, __m512i rest)
{
    return (iq2_group){ { look_up_256(quant_iq2_xxs_levels[0], index), look_up_256(quant_iq2_xxs_levels[1], index) },
                        masks_of_indices(rest), twice_plus_1(_mm512_srli_epi32(rest, 28)) };
}

/* Pairs of columns share an index, so a vector of indices gives two of codes: columns
 * c, c + 2, c + 8, c + 10 and those after them, which is how few activations lie
 * (in_pairs); a panel has four neighbours in a word. */
INLINE void take_iq2_group(q8k_sink *s, int n_x, int g, iq2_group group)
{
    q8k_dots sum = q8k_begin(s, n_x, g, SHIFT), other = q8k_zero(n_x);
    UNROLL
    for (int i = 0; i < 4; i++) {
        const int k = i / 2 * 2, h = i % 2, unit = 8 * g + 2 * k + h;       /* c = 8k + 4h */
        const __m512i level = spread(group.levels[h], 8 * k, 4);
        const __m512i sign = spread_pairs(h ? _mm512_srli_epi16(group.masks, 4) : group.masks, 8 * k - 4);
        const __m512i pair = _mm512_ternarylogic_epi64(_mm512_set1_epi8(0x30), sign, level, 0xca);  /* 30h ? sign : level */
        const __m512i first = _mm512_permutexvar_epi8(pair, load64(iq2_first));
        const __m512i second = _mm512_permutexvar_epi8(pair, load64(iq2_second));
        if (n_x == 0) {
            const __m512 low = _mm512_castsi512_ps(_mm512_unpacklo_epi8(first, second));
            const __m512 high = _mm512_castsi512_ps(_mm512_unpackhi_epi8(first, second));
            q8k_take(s, n_x, &sum, unit, _mm512_castps_si512(_mm512_shuffle_ps(low, high, 0x88)));
            q8k_take(s, n_x, &sum, unit + 2, _mm512_castps_si512(_mm512_shuffle_ps(low, high, 0xdd)));
        } else {
            q8k_take(s, n_x, &sum, 8 * g + 2 * i, first);
            q8k_take(s, n_x, n_x == 1 ? &other : &sum, 8 * g + 2 * i + 1, second);     /* a shorter chain */
        }
    }
    if (n_x == 1) sum.of[0] = _mm512_add_epi32(sum.of[0], other.of[0]);
    q8k_end(s, n_x, &sum, g, group.scale);
}

/* Every group is looked up while the one before it is multiplied. */
INLINE void spread_iq2_xxs(q8k_sink *s, int n_x, const uint8_t *const row[16])
{
    __m512i word[4];                    /* indices, signs and scale; the same of the next group */
    s->d = low_halves(dwords16(row, 0));
    words_of_rows(word, row, 2);
    iq2_group now = look_up_iq2_xxs(word[0], word[1]);
    for (int g = 0; g < 8; g += 2) {
        const iq2_group then = look_up_iq2_xxs(word[2], word[3]);
        take_iq2_group(s, n_x, g, now);
        words_of_rows(word, row, 2 + 8 * (g < 6 ? g + 2 : g));
        now = look_up_iq2_xxs(word[0], word[1]);
        take_iq2_group(s, n_x, g + 1, then);
    }
}

/* A copy of an activation, the columns of every 16 in the order of take_iq2_group. */
static void put_in_pairs(block_q8_k *dst, const uint8_t *src, int blocks)
{
    const __m128i order = _mm_setr_epi8(0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15);
    memcpy(dst, src, (size_t)blocks * sizeof *dst);
    for (int i = 0; i < blocks; i++)
        for (int e = 0; e < QK; e += 64) {
            int8_t *codes = dst[i].codes + e;
            _mm512_storeu_si512(codes, _mm512_shuffle_epi8(load64(codes), _mm512_broadcast_i32x4(order)));
        }
}

Q8K_FUNCTIONS(iq2_xxs, 32, SHIFT, false, 0.125f)

static void tile_iq2_xxs(const cpu_kernels *k, const tile_args *a)
{
    (void)k;
    const int blocks = a->n / QK;
    const size_t bytes = (size_t)blocks * sizeof(block_q8_k);
    if (a->batch > Q8K_FEW || (size_t)a->batch * bytes > TILE_SCRATCH) {
        q8k_tile_by_panels(&type_iq2_xxs, a);
        return;
    }
    const uint8_t *x[Q8K_FEW];
    tile_args few = *a;
    few.x = x;
    for (int m = 0; m < a->batch; m++) {
        x[m] = a->scratch + (size_t)m * bytes;
        put_in_pairs((block_q8_k *)(void *)(a->scratch + (size_t)m * bytes), a->x[m], blocks);
    }
    few_iq2_xxs(&few);
}

void cpu_kernels_avx512vbmi(cpu_kernels *k)
{
    k->tile[QUANT_IQ2_XXS] = tile_iq2_xxs;
}
