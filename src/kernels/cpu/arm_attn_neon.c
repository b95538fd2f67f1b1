/* arm_attn_neon: attention's and the indexer's inner loops in 128-bit registers. */
#include <arm_neon.h>
#include <string.h>

#include "kernels/cpu/attn_kernels.h"

#define LANES       4
#define FMA(a, b, c) ((vec)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define BLOCK_HEADS 4
#define BLOCK_ROWS  4
#define MIX_HEADS   4
#define MIX_VECS    4

/* s is a constant once the loop around it is written out. */
static inline __attribute__((always_inline)) float32x4_t xor_lanes(float32x4_t v, int s)
{
    return s == 1 ? vrev64q_f32(v) : vextq_f32(v, v, 2);
}

#include "kernels/cpu/attn_loops.h"

/* An E4M3 code is the upper half of a half float with 8 less in the exponent, so the
 * processor's conversion does it, subnormals too. NaN and scales at the ends of
 * their range are left to the definition. */
static void unpack(kv_row r, float *restrict y, const void *restrict row)
{
    const uint8_t *codes = row, *scales = codes + kv_row_scales(r), *tail = codes + kv_row_tail(r);
    if (r.kind != KV_ROW_FP8 || r.n_round % KV_FP8_GROUP || (r.width - r.n_round) % 4) {
        kv_row_unpack(r, y, row);
        return;
    }
    for (int i = 0; i < r.n_round; i += 8) {
        const uint8x8_t c = vld1_u8(codes + i);
        const int e = scales[i / KV_FP8_GROUP];
        if (vmaxv_u8(vceq_u8(vorr_u8(c, vdup_n_u8(128)), vdup_n_u8(255))) || e < 1 || e > 240) {
            kv_row_unpack(r, y, row);
            return;
        }
        const float32x4_t scale = vreinterpretq_f32_u32(vdupq_n_u32((uint32_t)(e + 8) << 23));
        const uint16x8_t w = vmovl_u8(c);
        const uint16x8_t half = vorrq_u16(vandq_u16(vshlq_n_u16(w, 7), vdupq_n_u16(0x3f80)),
                                          vandq_u16(vshlq_n_u16(w, 8), vdupq_n_u16(0x8000)));
        vst1q_f32(y + i, vmulq_f32(scale, vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(half)))));
        vst1q_f32(y + i + 4, vmulq_f32(scale, vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(half)))));
    }
    for (int i = r.n_round; i < r.width; i += 4, tail += 8)
        vst1q_f32(y + i, vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(tail))));
}

/* Four rows at a time: a group's 16 bytes of each are turned so that four numbers of
 * one row stand beside the same four of the next, then codes become numbers by a
 * table of 16. */
static void index_unpack(const index_keys *to, kv_row r, const uint8_t *rows, uint64_t stride, int n)
{
    static const uint8_t numbers[16] = { 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0 }, nothing[16];
    const uint8x16_t table = vld1q_u8(numbers);
    const int groups = r.width / KV_FP4_GROUP, words = r.width / 4;

    for (int k = 0; k < (n + 15) / 16 * 16; k += 4) {
        const uint8_t *row[4];
        for (int j = 0; j < 4; j++) row[j] = k + j < n ? rows + (uint64_t)(k + j) * stride : NULL;
        uint8_t *codes = to->codes + ((size_t)(k / 16 * words) * 16 + (size_t)(k % 16)) * 4;
        for (int g = 0; g < groups; g++) {
            uint32x4_t x[4];
            for (int j = 0; j < 4; j++) x[j] = vreinterpretq_u32_u8(vld1q_u8(row[j] ? row[j] + 16 * g : nothing));
            const uint64x2_t a = vreinterpretq_u64_u32(vzip1q_u32(x[0], x[1]));
            const uint64x2_t b = vreinterpretq_u64_u32(vzip1q_u32(x[2], x[3]));
            const uint64x2_t c = vreinterpretq_u64_u32(vzip2q_u32(x[0], x[1]));
            const uint64x2_t d = vreinterpretq_u64_u32(vzip2q_u32(x[2], x[3]));
            const uint64x2_t word[4] = { vzip1q_u64(a, b), vzip2q_u64(a, b), vzip1q_u64(c, d), vzip2q_u64(c, d) };
            for (int w = 0; w < 4; w++) {
                uint8_t *out = codes + 64 * (8 * g + w);
                const uint8x16_t bytes = vreinterpretq_u8_u64(word[w]);
                vst1q_u8(out, vqtbl1q_u8(table, vandq_u8(bytes, vdupq_n_u8(15))));
                vst1q_u8(out + 4 * 64, vqtbl1q_u8(table, vshrq_n_u8(bytes, 4)));
            }
        }
        for (int j = 0; j < 4; j++)
            for (int g = 0; g < groups; g++) {
                const uint32_t bits = row[j] ? (uint32_t)row[j][kv_row_scales(r) + g] << 23 : 0;
                memcpy(&to->scale[(k / 16 * groups + g) * 16 + (k + j) % 16], &bits, 4);
            }
    }
}

/* Sixteen keys with one head at a time; numbers up to 24 are signed bytes as well. */
static void index_scores(float *restrict score, const index_query *q, const index_keys *keys, int n)
{
    for (int k = 0; k < n; k += 16) {
        const int8_t *codes = (const int8_t *)keys->codes + (size_t)k * (size_t)q->width;
        const float *scale = keys->scale + k * q->groups;
        float32x4_t total[4] = { vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0) };
        for (int h = 0; h < q->n_heads; h++) {
            float32x4_t dot[4] = { vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0) };
            for (int g = 0; g < q->groups; g++) {
                const int at = h * q->groups + g;
                int32x4_t sum[4];
                UNROLL
                for (int j = 0; j < 4; j++) sum[j] = vdupq_n_s32(q->start[at]);
                UNROLL
                for (int w = 0; w < 8; w++) {
                    const int8x16_t x = vreinterpretq_s8_u32(vdupq_n_u32(word_at(q->codes + 32 * at, w)));
                    UNROLL
                    for (int j = 0; j < 4; j++)
                        sum[j] = vdotq_s32(sum[j], vld1q_s8(codes + 64 * (8 * g + w) + 16 * j), x);
                }
                UNROLL
                for (int j = 0; j < 4; j++) {
                    const float32x4_t part = vmulq_f32(vcvtq_f32_s32(sum[j]), vld1q_f32(scale + 16 * g + 4 * j));
                    dot[j] = vaddq_f32(dot[j], vmulq_f32(part, vdupq_n_f32(q->scale[at])));
                }
            }
            UNROLL
            for (int j = 0; j < 4; j++) {               /* maxnm: NaN becomes 0, as in the definition */
                const float32x4_t positive = vmaxnmq_f32(dot[j], vdupq_n_f32(0));
                total[j] = vaddq_f32(total[j], vmulq_f32(vdupq_n_f32(q->weight[h]), positive));
            }
        }
        float sixteen[16];
        for (int j = 0; j < 4; j++) vst1q_f32(sixteen + 4 * j, total[j]);
        memcpy(score + k, sixteen, (size_t)(n - k < 16 ? n - k : 16) * sizeof *score);
    }
}

static int above(int32_t *restrict index, const float *restrict x, int first, int end, float least)
{
    int count = 0, i = first;
    for (; i + 8 <= end; i += 8) {                      /* few are: most eights have none */
        const uint32x4_t low = vcgtq_f32(vld1q_f32(x + i), vdupq_n_f32(least));
        const uint32x4_t high = vcgtq_f32(vld1q_f32(x + i + 4), vdupq_n_f32(least));
        if (!vmaxvq_u32(vorrq_u32(low, high))) continue;
        for (int j = i; j < i + 8; j++)
            if (x[j] > least) index[count++] = j;
    }
    for (; i < end; i++)
        if (x[i] > least) index[count++] = i;
    return count;
}

void attn_kernels_neon(attn_kernels *k)
{
    k->round = round_row;
    k->unpack = unpack;
    k->scores = scores;
    k->weigh = weigh;
    k->mix = mix;
    k->pool = pool;
    k->index_fill = index_fill;
    k->index_unpack = index_unpack;
    k->index_scores = index_scores;
    k->above = above;
    k->scale = scale_row;
}
