/* experts_wide: gate and up of the types that most bytes of a model have, made for the card.
 *
 * IQ2_XXS: 8 weights are a codebook entry and a sign index. Random reads of one codebook by 32 lanes meet in
 * the banks of shared memory, and signs take a dozen instructions; together that is slower than the card's
 * memory. Here every lane has a copy in its own bank, and both tables hold selectors: the nibble of
 * a weight is its level (0..2) | its sign << 2, which picks a byte of eight. Blocks are large, since each
 * fills 48 KB of tables first, while the launch before still runs. */
#include "kernels/cuda/experts_ffn.cuh"

struct wide_IQ2_XXS : weight_IQ2_XXS {
    typedef uint32_t entry;
    static constexpr int signs = 256 * WARP, entries = (256 + 128) * WARP;     /* [entry][lane] */

    DEVICE_MEMBER void fill(entry *room)
    {
        for (int i = (int)threadIdx.x / WARP; i < 256; i += (int)blockDim.x / WARP) {
            const uint64_t levels = codebook_iq2_xxs[i];        /* bytes 8, 25, 43 */
            uint32_t sel = 0;
#pragma unroll
            for (int j = 0; j < 8; j++) sel |= (uint32_t)(levels >> (8 * j + 4) & 3u) << 4 * j;
            room[i * WARP + lane_id()] = sel;
        }
        for (int i = (int)threadIdx.x / WARP; i < 128; i += (int)blockDim.x / WARP) {
            const uint32_t mask = even_signs((uint32_t)i);
            uint32_t sel = 0;
#pragma unroll
            for (int j = 0; j < 8; j++) sel |= (mask >> j & 1u) << (4 * j + 2);
            room[signs + i * WARP + lane_id()] = sel;
        }
    }
    DEVICE_MEMBER weights32 load(const planes &at, int block, int sub, const entry *book)
    {
        const uint2 v = load_8(at.p[0] + 64 * block + 8 * sub);
        const entry *mine = book + lane_id();
        weights32 w;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint32_t sel = mine[(v.x >> 8 * k & 255u) * WARP] | mine[signs + (v.y >> 7 * k & 127u) * WARP];
            w.code[2 * k] = __byte_perm(0x002b1908u, 0x00d5e7f8u, sel);
            w.code[2 * k + 1] = __byte_perm(0x002b1908u, 0x00d5e7f8u, sel >> 16);
        }
        odd_scales(w, v.y >> 28, v.y >> 28, 0.125f * load_half(at.p[1] + 2 * block));
        return w;
    }
};

KERNEL_RESIDENT(experts_up_wide_IQ2_XXS, experts_up_args, EXPERTS_WIDE_WARPS * WARP, 2)
{
    SHARED(uint32_t, room, wide_IQ2_XXS::entries);
    wide_IQ2_XXS::fill(room);
    __syncthreads();
    launch_wait();
    launch_next();
    experts_up<wide_IQ2_XXS, 1>(a, room);
}
