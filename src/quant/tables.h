/* tables: the constants of the IQ formats, as a decoder wants them.
 *
 * A grid entry is a word whose lowest byte is coordinate 0. */
#ifndef QUANT_TABLES_H
#define QUANT_TABLES_H

#include <stdint.h>

extern const uint64_t quant_iq2_xxs_grid[256];      /* bytes 8, 25, 43                 */
extern const uint64_t quant_iq2_xs_grid[512];
extern const uint64_t quant_iq2_s_grid[1024];
extern const uint64_t quant_iq1_s_grid[2048];       /* signed bytes -1, 0, 1           */
extern const uint32_t quant_iq3_xxs_grid[256];      /* bytes 4, 12, 20, ... 52, 62     */
extern const uint32_t quant_iq3_s_grid[512];        /* bytes 1, 3, 5, ... 15           */

/* The same entries as levels, two bits each: [0] coordinates 0..3, [1] 4..7. */
extern const uint8_t quant_iq2_xxs_levels[2][256];

extern const int8_t quant_iq4_levels[16];

/* The sign mask of eight elements for a 7-bit sign index: bit j negates element
 * j, and bit 7 is set so that the number of ones is even. */
static inline uint8_t quant_sign_mask(unsigned index)
{
    const unsigned p = index ^ index >> 4, q = p ^ p >> 2, odd = (q ^ q >> 1) & 1;
    return (uint8_t)(index | odd << 7);
}

#endif
