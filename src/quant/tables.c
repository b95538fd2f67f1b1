#include "quant/tables.h"
#include "quant/grids.h"

/* Level of coordinate j of a packed entry. */
#define LEVEL2(u, j) (UINT64_C(0x##u) >> 2 * (j) & 3)
#define LEVEL3(u, j) (UINT32_C(0x##u) >> 3 * (j) & 7)

/* The byte of a level, in its place: 8 25 43; -1 0 1; 4 12 ... 52 62; 1 3 ... 15. */
#define IQ2_BYTE(u, j)     (8 + 17 * LEVEL2(u, j) + LEVEL2(u, j) / 2) << 8 * (j)
#define IQ1_BYTE(u, j)     ((LEVEL2(u, j) + 255) & 255) << 8 * (j)
#define IQ3_XXS_BYTE(u, j) (4 + 8 * LEVEL3(u, j) + LEVEL3(u, j) / 7 * 2) << 8 * (j)
#define IQ3_S_BYTE(u, j)   (1 + 2 * LEVEL3(u, j)) << 8 * (j)

#define FOUR(B, u)  (B(u, 0) | B(u, 1) | B(u, 2) | B(u, 3))
#define EIGHT(B, u) (FOUR(B, u) | B(u, 4) | B(u, 5) | B(u, 6) | B(u, 7))

#define IQ2(u)     EIGHT(IQ2_BYTE, u),
#define IQ1(u)     EIGHT(IQ1_BYTE, u),
#define IQ3_XXS(u) FOUR(IQ3_XXS_BYTE, u),
#define IQ3_S(u)   FOUR(IQ3_S_BYTE, u),

const uint64_t quant_iq2_xxs_grid[256] = { GRID_IQ2_XXS(IQ2) };
const uint64_t quant_iq2_xs_grid[512]  = { GRID_IQ2_XS(IQ2) };
const uint64_t quant_iq2_s_grid[1024]  = { GRID_IQ2_S(IQ2) };
const uint64_t quant_iq1_s_grid[2048]  = { GRID_IQ1_S(IQ1) };
const uint32_t quant_iq3_xxs_grid[256] = { GRID_IQ3_XXS(IQ3_XXS) };
const uint32_t quant_iq3_s_grid[512]   = { GRID_IQ3_S(IQ3_S) };

#define LOW(u)  0x##u & 255,
#define HIGH(u) 0x##u >> 8,

const uint8_t quant_iq2_xxs_levels[2][256] = { { GRID_IQ2_XXS(LOW) }, { GRID_IQ2_XXS(HIGH) } };

const int8_t quant_iq4_levels[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
};
