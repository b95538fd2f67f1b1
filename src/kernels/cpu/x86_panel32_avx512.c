#include "kernels/cpu/x86_panel32_avx512.h"

INLINE int min_of(int a, int b) { return a < b ? a : b; }

INLINE int block_len(panel_kind kind) { return kind == PANEL_SIXTEENS ? 16 : 32; }

INLINE quant_type activation_of(const panel32_type *t) { return t->kind == PANEL_AFFINE ? QUANT_Q8_1 : QUANT_Q8_0; }

/* ---- panel times activations ------------------------------------------------------ */

/* Where activations have the panel's columns: offsets from a row's start to its codes
 * and scales, and the first block's line of panel32.extra. At every block memory is
 * asked for so many lines of 64 bytes from `ahead` on. */
typedef struct {
    size_t         codes, d;
    const int32_t *extra;
    size_t         stride;      /* of lines of extra */
    const uint8_t *ahead;
    int            lines;
} columns;

/* y += panel times `count` activations, for 16 * groups rows */
INLINE void multiply(panel_kind kind, panel32 *p, const uint8_t *const *x, columns at, int first, int count, int groups,
                     int blocks)
{
    enum { MOST = 4 };
    const int steps = kind == PANEL_SIXTEENS ? 4 : 8;
    __m512 y[MOST][2];
    UNROLL
    for (int c = 0; c < count; c++) {
        UNROLL
        for (int g = 0; g < groups; g++) y[c][g] = _mm512_load_ps(p->y[first + c][g]);
    }
    for (int b = 0; b < blocks; b++, at.extra += at.stride) {
        const uint8_t *w = p->codes + b * steps * 128;
        const size_t codes = at.codes + (size_t)(b * steps * 4);
        const size_t d_at = at.d + 4 * (size_t)(kind == PANEL_SIXTEENS ? b / 2 : b);
        for (int i = 0; i < at.lines; i++, at.ahead += 64) _mm_prefetch((const char *)at.ahead, _MM_HINT_T1);
        __m512i sum[MOST][2];
        UNROLL
        for (int c = 0; c < count; c++) {
            const __m512i extra = _mm512_set1_epi32(at.extra[c]);
            const __m512i start = kind == PANEL_AFFINE ? _mm512_setzero_si512() : extra;
            UNROLL
            for (int g = 0; g < groups; g++) sum[c][g] = start;
        }
        UNROLL
        for (int k = 0; k < steps; k++) {
            __m512i code[2];
            UNROLL
            for (int g = 0; g < groups; g++) code[g] = _mm512_load_si512(w + 128 * k + 64 * g);
            UNROLL
            for (int c = 0; c < count; c++) {
                const __m512i a = _mm512_set1_epi32((int)word_at(x[c] + codes, k));
                UNROLL
                for (int g = 0; g < groups; g++) sum[c][g] = _mm512_dpbusd_epi32(sum[c][g], code[g], a);
            }
        }
        UNROLL
        for (int c = 0; c < count; c++) {
            const __m512 d = _mm512_castsi512_ps(_mm512_set1_epi32((int)word_at(x[c] + d_at, 0)));
            UNROLL
            for (int g = 0; g < groups; g++) {
                __m512 term = _mm512_mul_ps(_mm512_mul_ps(_mm512_load_ps(p->d[b][g]), d), _mm512_cvtepi32_ps(sum[c][g]));
                if (kind == PANEL_AFFINE) {
                    const __m512 s = _mm512_castsi512_ps(_mm512_set1_epi32(at.extra[c]));
                    term = _mm512_add_ps(term, _mm512_mul_ps(_mm512_load_ps(p->m[b][g]), s));
                }
                y[c][g] = _mm512_add_ps(y[c][g], term);
            }
        }
    }
    UNROLL
    for (int c = 0; c < count; c++) {
        UNROLL
        for (int g = 0; g < groups; g++) _mm512_store_ps(p->y[first + c][g], y[c][g]);
    }
}

/* A last single activation would leave the adders idle: five are three and two. */
INLINE void multiply_all(panel_kind kind, panel32 *p, const uint8_t *const *x, columns at, int batch, int groups,
                         int blocks)
{
    for (int c = 0; c < batch;) {
        const int left = batch - c, count = left == 5 ? 3 : min_of(left, 4);
        switch (count) {
        case 4:  multiply(kind, p, x + c, at, c, 4, groups, blocks); break;
        case 3:  multiply(kind, p, x + c, at, c, 3, groups, blocks); break;
        case 2:  multiply(kind, p, x + c, at, c, 2, groups, blocks); break;
        default: multiply(kind, p, x + c, at, c, 1, groups, blocks); break;
        }
        c += count;
        at.extra += count;
        at.ahead += 64 * (size_t)(at.lines * blocks);
    }
}

#define MULTIPLY(name, kind)                                                                            \
    static void name(panel32 *p, const uint8_t *const *x, columns at, int batch, int groups, int blocks) \
    {                                                                                                   \
        if (groups == 2) multiply_all(kind, p, x, at, batch, 2, blocks);                                \
        else multiply_all(kind, p, x, at, batch, 1, blocks);                                            \
    }

MULTIPLY(multiply_symmetric, PANEL_SYMMETRIC)
MULTIPLY(multiply_affine, PANEL_AFFINE)
MULTIPLY(multiply_sixteens, PANEL_SIXTEENS)

static void multiply_panel(panel_kind kind, panel32 *p, const uint8_t *const *x, columns at, int batch, int groups,
                           int blocks)
{
    switch (kind) {
    case PANEL_SYMMETRIC: multiply_symmetric(p, x, at, batch, groups, blocks); break;
    case PANEL_AFFINE:    multiply_affine(p, x, at, batch, groups, blocks); break;
    case PANEL_SIXTEENS:  multiply_sixteens(p, x, at, batch, groups, blocks); break;
    }
}

/* ---- tiles ------------------------------------------------------------------------- */

INLINE int32_t sum16_codes(const int8_t *codes)
{
    __m128i s = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), load16(codes));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Lines of panel32.extra are padded so that four of them by four activations can be
 * written at a time. */
INLINE size_t extra_stride(int batch) { return (size_t)((batch + 3) / 4 * 4); }

/* -offset * sum a of four activations, turned so that a block's are neighbours. */
INLINE void fill_starts(panel32 *p, const uint8_t *const x[4], int offset, int n, int c, size_t stride)
{
    const int32_t *sums[4];
    for (int i = 0; i < 4; i++) sums[i] = activation_planes_of(x[i], QUANT_Q8_0, n).sums;
    for (int b = 0; b < n / 32; b += 4) {
        __m512i t[4], z[4];
        for (int i = 0; i < 4; i++) z[i] = _mm512_castsi128_si512(load16(sums[i] + b));
        transpose_quarters(t, z);
        for (int i = 0; i < 4; i++)
            _mm_storeu_si128((__m128i *)(p->extra.start + (size_t)(b + i) * stride + c),
                             _mm_mullo_epi32(_mm512_castsi512_si128(t[i]), _mm_set1_epi32(-offset)));
    }
}

static void fill_extra(const panel32_type *t, panel32 *p, const uint8_t *const *x, int batch, int n)
{
    const size_t stride = extra_stride(batch);
    if (t->kind == PANEL_SYMMETRIC) {
        for (int c = 0; c < batch; c += 4) {
            const uint8_t *four[4];
            for (int i = 0; i < 4; i++) four[i] = x[min_of(c + i, batch - 1)];
            fill_starts(p, four, t->offset, n, c, stride);
        }
        return;
    }
    for (int c = 0; c < batch; c++) {
        const block_q8_1 *block = (const block_q8_1 *)(const void *)x[c];
        const int8_t *codes = activation_planes_of(x[c], activation_of(t), n).codes;
        for (int b = 0; b < n / block_len(t->kind); b++) {
            const size_t to = (size_t)b * stride + (size_t)c;
            if (t->kind == PANEL_AFFINE) p->extra.s[to] = half(block[b].s);
            else p->extra.start[to] = -t->offset * sum16_codes(codes + 16 * b);
        }
    }
}

/* 16 * groups rows from r on times activations first .. first + batch - 1. */
static void rows_times_batch(const panel32_type *t, const tile_args *a, int r, int groups, int first, int batch)
{
    panel32 *p = (panel32 *)(void *)a->scratch;
    const int len = block_len(t->kind), n_blocks = a->n / len, at_once = PANEL_COLS / len;
    const int stored = t->len / len;        /* the panel's blocks in one of the type */
    const uint8_t *const *x = a->x + first;
    const activation_planes plane = activation_planes_of(x[0], activation_of(t), a->n);
    const size_t codes = (size_t)((const uint8_t *)plane.codes - x[0]), d = (size_t)((const uint8_t *)plane.d - x[0]);
    memset(p->y, 0, (size_t)batch * sizeof p->y[0]);

    /* The rows after these are fetched while these are multiplied. */
    const int after = min_of(16 * groups, a->rows - r - 16 * groups);
    const uint8_t *ahead = a->w + (uint64_t)(r + 16 * groups) * a->w_stride;
    const size_t ahead_bytes = (size_t)after * a->w_stride;
    const int calls = (batch + 3) / 4, turns = n_blocks * calls;
    const int lines = (int)((ahead_bytes / 64 + (size_t)turns - 1) / (size_t)turns);

    for (int b = 0; b < n_blocks; b += at_once) {
        const int blocks = min_of(at_once, n_blocks - b);
        const uint8_t *w = a->w + (uint64_t)r * a->w_stride + (size_t)(b / stored) * (size_t)t->bytes;
        for (int g = 0; g < groups; g++)
            t->unpack(p, w + (uint64_t)(16 * g) * a->w_stride, a->w_stride, g, blocks / stored, r == 0);
        const columns at = { codes + (size_t)(b * len), d + (size_t)(b * len / 8),
                             p->extra.start + (size_t)b * extra_stride(batch), extra_stride(batch),
                             ahead + 64 * (size_t)(lines * calls * b), lines };
        multiply_panel(t->kind, p, x, at, batch, groups, blocks);
    }
    for (int c = 0; c < batch; c++) {
        float *y = a->y + (uint64_t)(first + c) * a->y_stride + (uint64_t)r;
        for (int g = 0; g < groups; g++) _mm512_storeu_ps(y + 16 * g, _mm512_load_ps(p->y[c][g]));
    }
}

/* All rows, sixteen at least. The last ones may be done twice: their bits are the same. */
static void all_rows(const panel32_type *t, const tile_args *a, int first, int batch)
{
    fill_extra(t, (panel32 *)(void *)a->scratch, a->x + first, batch, a->n);
    for (int r = 0; r < a->rows;) {
        const int groups = a->rows - r > 16 && a->rows >= 32 ? 2 : 1;
        rows_times_batch(t, a, min_of(r, a->rows - 16 * groups), groups, first, batch);
        r += 16 * groups;
    }
}

void panel32_tile(const panel32_type *t, const tile_args *a)
{
    const int by_scratch = PANEL_EXTRA / (a->n / block_len(t->kind) + 3) / 4 * 4;
    const int at_once = min_of(PANEL_BATCH, by_scratch);
    for (int c = 0; c < a->batch; c += at_once) all_rows(t, a, c, min_of(at_once, a->batch - c));
}
