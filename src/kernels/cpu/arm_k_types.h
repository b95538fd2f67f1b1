/* arm_k_types: codes and scales of the types with super-blocks of 256, and their tiles. Included once by
 * each NEON rung, after arm_k.h. Layouts are told in src/quant: kquants.c, iquants.c, iq1.c and iq4.c. */

/* ---- codes and scales of the K types ----------------------------------------------- */

static inline void put_scales(int32_t out[16], int8x16_t s)
{
    const int16x8_t low = vmovl_s8(vget_low_s8(s)), high = vmovl_s8(vget_high_s8(s));
    vst1q_s32(out, vmovl_s16(vget_low_s16(low)));
    vst1q_s32(out + 4, vmovl_s16(vget_high_s16(low)));
    vst1q_s32(out + 8, vmovl_s16(vget_low_s16(high)));
    vst1q_s32(out + 12, vmovl_s16(vget_high_s16(high)));
}

static inline void put_offsets(int16_t out[16], uint8x16_t o)
{
    vst1q_s16(out, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(o))));
    vst1q_s16(out + 8, vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(o))));
}

#define SCALES(type) ALWAYS_INLINE void scales_##type(k_scales *out, const void *block)
#define CODES(type)  ALWAYS_INLINE codes32 codes_##type(const void *block, const k_scales *s, int g)
#define BLOCK(type)  const block_##type *w = block

/* Bits `right` on of 32 bytes. */
static inline codes32 bits_of(const uint8_t bytes[32], int right, int mask)
{
    return signed_codes(bytes_and(shifted(vld1q_u8(bytes), right), mask),
                        bytes_and(shifted(vld1q_u8(bytes + 16), right), mask));
}

/* With the bits `more` where bit number `bit` of 32 bytes is set. */
static inline codes32 or_where_set(codes32 c, const uint8_t bytes[32], int bit, int more)
{
    const uint8x16_t one = vdupq_n_u8((uint8_t)(1 << bit));
    const uint8x16_t low = bytes_and(vtstq_u8(vld1q_u8(bytes), one), more);
    const uint8x16_t high = bytes_and(vtstq_u8(vld1q_u8(bytes + 16), one), more);
    return (codes32){ vorrq_s8(c.low, vreinterpretq_s8_u8(low)), vorrq_s8(c.high, vreinterpretq_s8_u8(high)) };
}

CODES(q2_k)
{
    BLOCK(q2_k);
    (void)s;
    return bits_of(w->codes + g / 4 * 32, g % 4 * 2, 3);
}

SCALES(q2_k)
{
    BLOCK(q2_k);
    const uint8x16_t s = vld1q_u8(w->scales);
    put_scales(out->scale, vreinterpretq_s8_u8(bytes_and(s, 15)));
    put_offsets(out->offset, vshrq_n_u8(s, 4));
}

CODES(q3_k)
{
    BLOCK(q3_k);
    (void)s;
    return less(or_where_set(bits_of(w->codes + g / 4 * 32, g % 4 * 2, 3), w->high, g, 4), 4);
}

SCALES(q3_k)
{
    BLOCK(q3_k);
    uint8_t stored[16];
    unpack_q3_k_scales(stored, w->scales);
    put_scales(out->scale, vreinterpretq_s8_u8(vsubq_u8(vld1q_u8(stored), vdupq_n_u8(32))));
}

CODES(q4_k)
{
    BLOCK(q4_k);
    (void)s;
    return bits_of(w->codes + g / 2 * 32, g % 2 * 4, 15);
}

static inline void put_6bit(k_scales *out, const uint8_t packed[12])
{
    uint8_t all[16];
    unpack_6bit(all, packed);
    const uint8x16_t v = vld1q_u8(all);
    put_scales(out->scale, vreinterpretq_s8_u8(v));
    put_offsets(out->offset, vextq_u8(v, v, 8));
}

SCALES(q4_k) { put_6bit(out, ((const block_q4_k *)block)->scales); }
SCALES(q5_k) { put_6bit(out, ((const block_q5_k *)block)->scales); }

CODES(q5_k)
{
    BLOCK(q5_k);
    (void)s;
    return or_where_set(bits_of(w->codes + g / 2 * 32, g % 2 * 4, 15), w->high, g, 16);
}

CODES(q6_k)
{
    BLOCK(q6_k);
    (void)s;
    const int h = g / 4, k = g % 4;
    const codes32 low = bits_of(w->low + 64 * h + 32 * (k % 2), k / 2 * 4, 15);
    const codes32 high = bits_of(w->high + 32 * h, 2 * k, 3);
    return less((codes32){ vorrq_s8(low.low, vshlq_n_s8(high.low, 4)), vorrq_s8(low.high, vshlq_n_s8(high.high, 4)) },
                32);
}

SCALES(q6_k) { put_scales(out->scale, vld1q_s8(((const block_q6_k *)block)->scales)); }

/* ---- of the IQ types ------------------------------------------------------------- */

static inline uint8x16_t two_words(uint64_t a, uint64_t b) { return vcombine_u8(vcreate_u8(a), vcreate_u8(b)); }
static inline uint64_t two_fours(uint32_t a, uint32_t b)   { return a | (uint64_t)b << 32; }

/* Magnitudes, negative where a bit of 32 is set. */
static inline codes32 signed_words(uint64_t a, uint64_t b, uint64_t c, uint64_t d, const uint8_t signs[4])
{
    const uint8x16_t all = vreinterpretq_u8_u32(vdupq_n_u32(word_at(signs, 0)));
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
    const uint8x16_t low = vtstq_u8(vqtbl1q_u8(all, two_words(0, 0x0101010101010101)), bit);
    const uint8x16_t high = vtstq_u8(vqtbl1q_u8(all, two_words(0x0202020202020202, 0x0303030303030303)), bit);
    return signed_codes(vsubq_u8(veorq_u8(two_words(a, b), low), low), vsubq_u8(veorq_u8(two_words(c, d), high), high));
}

/* Seven signs and, above them, the one that makes the number of ones even. */
static inline uint8x16_t whole_masks(uint8x16_t seven) { return vsliq_n_u8(seven, vcntq_u8(seven), 7); }

/* Four words of four 7-bit masks and a 4-bit s above them: masks and 2s + 1. */
static inline void put_masks_and_scales(uint8_t signs[16], int32_t scale[4], uint32x4_t x)
{
    const uint32x4_t low = vdupq_n_u32(0x7f);
    uint32x4_t m = vandq_u32(x, low);
    m = vorrq_u32(m, vandq_u32(vshlq_n_u32(x, 1), vshlq_n_u32(low, 8)));
    m = vorrq_u32(m, vandq_u32(vshlq_n_u32(x, 2), vshlq_n_u32(low, 16)));
    m = vorrq_u32(m, vandq_u32(vshlq_n_u32(x, 3), vshlq_n_u32(low, 24)));
    vst1q_u8(signs, whole_masks(vreinterpretq_u8_u32(m)));

    const uint32x4_t one = vdupq_n_u32(1);
    vst1q_s32(scale, vreinterpretq_s32_u32(vsliq_n_u32(one, vshrq_n_u32(x, 28), 1)));
}

/* 2s + 1 for sixteen groups, two 4-bit s to a byte, the low one first. */
static inline void put_odd_scales(int32_t out[16], const uint8_t pairs[8])
{
    const uint8x8_t x = vld1_u8(pairs), low = vand_u8(x, vdup_n_u8(15)), high = vshr_n_u8(x, 4);
    const uint8x16_t s = vcombine_u8(vzip1_u8(low, high), vzip2_u8(low, high));
    put_scales(out, vreinterpretq_s8_u8(vsliq_n_u8(vdupq_n_u8(1), s, 1)));
}

CODES(iq2_xxs)
{
    BLOCK(iq2_xxs);
    const uint8_t *i = (const uint8_t *)(w->groups + 4 * g);
    return signed_words(quant_iq2_xxs_grid[i[0]], quant_iq2_xxs_grid[i[1]], quant_iq2_xxs_grid[i[2]],
                        quant_iq2_xxs_grid[i[3]], s->signs + 4 * g);
}

SCALES(iq2_xxs)
{
    BLOCK(iq2_xxs);
    const uint8_t *bytes = (const uint8_t *)w->groups;
    for (int h = 0; h < 2; h++, bytes += 32)
        put_masks_and_scales(out->signs + 16 * h, out->scale + 4 * h,
                             vuzp2q_u32(vreinterpretq_u32_u8(vld1q_u8(bytes)),
                                        vreinterpretq_u32_u8(vld1q_u8(bytes + 16))));
}

CODES(iq2_xs)
{
    BLOCK(iq2_xs);
    const uint16_t *p = w->parts + 4 * g;
    return signed_words(quant_iq2_xs_grid[p[0] & 511], quant_iq2_xs_grid[p[1] & 511], quant_iq2_xs_grid[p[2] & 511],
                        quant_iq2_xs_grid[p[3] & 511], s->signs + 4 * g);
}

SCALES(iq2_xs)
{
    BLOCK(iq2_xs);
    for (int h = 0; h < 2; h++) {
        const uint16x8_t low = vshrq_n_u16(vld1q_u16(w->parts + 16 * h), 9);
        const uint16x8_t high = vshrq_n_u16(vld1q_u16(w->parts + 16 * h + 8), 9);
        vst1q_u8(out->signs + 16 * h, whole_masks(vcombine_u8(vmovn_u16(low), vmovn_u16(high))));
    }
    put_odd_scales(out->scale, w->scales);
}

CODES(iq2_s)
{
    BLOCK(iq2_s);
    (void)s;
    const uint8_t *i = w->index + 4 * g;
    const unsigned h = w->high[g];
    return signed_words(quant_iq2_s_grid[i[0] | (h & 3) << 8], quant_iq2_s_grid[i[1] | (h >> 2 & 3) << 8],
                        quant_iq2_s_grid[i[2] | (h >> 4 & 3) << 8], quant_iq2_s_grid[i[3] | h >> 6 << 8],
                        w->signs + 4 * g);
}

SCALES(iq2_s) { put_odd_scales(out->scale, ((const block_iq2_s *)block)->scales); }

CODES(iq3_xxs)
{
    BLOCK(iq3_xxs);
    const uint8_t *i = w->index + 8 * g;
    const uint32_t *grid = quant_iq3_xxs_grid;
    return signed_words(two_fours(grid[i[0]], grid[i[1]]), two_fours(grid[i[2]], grid[i[3]]),
                        two_fours(grid[i[4]], grid[i[5]]), two_fours(grid[i[6]], grid[i[7]]),
                        s->signs + 4 * g);
}

SCALES(iq3_xxs)
{
    BLOCK(iq3_xxs);
    const uint8_t *bytes = (const uint8_t *)w->signs;
    put_masks_and_scales(out->signs, out->scale, vreinterpretq_u32_u8(vld1q_u8(bytes)));
    put_masks_and_scales(out->signs + 16, out->scale + 4, vreinterpretq_u32_u8(vld1q_u8(bytes + 16)));
}

CODES(iq3_s)
{
    BLOCK(iq3_s);
    (void)s;
    const uint8_t *i = w->index + 8 * g;
    const uint32_t *grid = quant_iq3_s_grid;
    const unsigned h = (unsigned)w->high[g] << 8;
    return signed_words(two_fours(grid[i[0] | (h & 256)], grid[i[1] | (h >> 1 & 256)]),
                        two_fours(grid[i[2] | (h >> 2 & 256)], grid[i[3] | (h >> 3 & 256)]),
                        two_fours(grid[i[4] | (h >> 4 & 256)], grid[i[5] | (h >> 5 & 256)]),
                        two_fours(grid[i[6] | (h >> 6 & 256)], grid[i[7] | (h >> 7 & 256)]), w->signs + 4 * g);
}

SCALES(iq3_s)
{
    BLOCK(iq3_s);
    for (int g = 0; g < 8; g++) out->scale[g] = 2 * (w->scales[g / 2] >> g % 2 * 4 & 15) + 1;
}

CODES(iq1_s)
{
    BLOCK(iq1_s);
    (void)s;
    const uint8_t *i = w->index + 4 * g;
    const unsigned word = w->groups[g];
    return signed_codes(two_words(quant_iq1_s_grid[i[0] | (word & 7) << 8],
                                  quant_iq1_s_grid[i[1] | (word >> 3 & 7) << 8]),
                        two_words(quant_iq1_s_grid[i[2] | (word >> 6 & 7) << 8],
                                  quant_iq1_s_grid[i[3] | (word >> 9 & 7) << 8]));
}

/* Offsets are the scales with the sign of the shift. */
SCALES(iq1_s)
{
    BLOCK(iq1_s);
    for (int g = 0; g < 8; g++) {
        const int s = 2 * (w->groups[g] >> 12 & 7) + 1;
        out->scale[g] = s;
        out->offset[g] = (int16_t)(w->groups[g] >> 15 ? -s : s);
    }
}

CODES(iq4_xs)
{
    (void)s;
    return looked_up(quant_iq4_levels, ((const block_iq4_xs *)block)->codes + 16 * g);
}

SCALES(iq4_xs)
{
    BLOCK(iq4_xs);
    for (int g = 0; g < 8; g++) out->scale[g] = iq4_xs_scale(w, g);
}

/* ---- tiles ------------------------------------------------------------------------- */

#define K_TILE(name, ...)                                                                               \
    static const k_type type_##name = { scales_##name, codes_##name, sizeof(block_##name), __VA_ARGS__ };\
    static void fill_##name(k_panel *p, const uint8_t *const row[SIDE], int block)                      \
    {                                                                                                   \
        k_fill(p, &type_##name, row, block);                                                            \
    }                                                                                                   \
    static void tile_##name(const cpu_kernels *k, const tile_args *a)                                   \
    {                                                                                                   \
        (void)k;                                                                                        \
        if (a->batch == 1) k_rows(a, &type_##name);                                                     \
        else k_panels(a, &type_##name, fill_##name);                                                    \
    }

K_TILE(q2_k, offsetof(block_q2_k, d), offsetof(block_q2_k, dmin), AFFINE, 16, 1.0f)
K_TILE(q3_k, offsetof(block_q3_k, d), 0, SIGNED, 16, 1.0f)
K_TILE(q4_k, offsetof(block_q4_k, d), offsetof(block_q4_k, dmin), AFFINE, 32, 1.0f)
K_TILE(q5_k, offsetof(block_q5_k, d), offsetof(block_q5_k, dmin), AFFINE, 32, 1.0f)
K_TILE(q6_k, offsetof(block_q6_k, d), 0, SIGNED, 16, 1.0f)
K_TILE(iq2_xxs, offsetof(block_iq2_xxs, d), 0, SIGNED, 32, 0.125f)
K_TILE(iq2_xs, offsetof(block_iq2_xs, d), 0, SIGNED, 16, 0.125f)
K_TILE(iq2_s, offsetof(block_iq2_s, d), 0, SIGNED, 16, 0.125f)
K_TILE(iq3_xxs, offsetof(block_iq3_xxs, d), 0, SIGNED, 32, 0.25f)
K_TILE(iq3_s, offsetof(block_iq3_s, d), 0, SIGNED, 32, 1.0f)
K_TILE(iq1_s, offsetof(block_iq1_s, d), 0, SHIFTED, 32, 1.0f)
K_TILE(iq4_xs, offsetof(block_iq4_xs, d), 0, SIGNED, 32, 1.0f)

static void k_tiles(cpu_kernels *k)
{
    k->tile[QUANT_Q2_K] = tile_q2_k;
    k->tile[QUANT_Q3_K] = tile_q3_k;
    k->tile[QUANT_Q4_K] = tile_q4_k;
    k->tile[QUANT_Q5_K] = tile_q5_k;
    k->tile[QUANT_Q6_K] = tile_q6_k;
    k->tile[QUANT_IQ2_XXS] = tile_iq2_xxs;
    k->tile[QUANT_IQ2_XS] = tile_iq2_xs;
    k->tile[QUANT_IQ2_S] = tile_iq2_s;
    k->tile[QUANT_IQ3_XXS] = tile_iq3_xxs;
    k->tile[QUANT_IQ3_S] = tile_iq3_s;
    k->tile[QUANT_IQ1_S] = tile_iq1_s;
    k->tile[QUANT_IQ4_XS] = tile_iq4_xs;
}
