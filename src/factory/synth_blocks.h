/* synth_blocks: random numbers made directly in the blocks of a quant type.
 *
 * Codes are uniform bits and scales are chosen so that decoded values have a
 * wanted deviation; no encoder searches, so a file grows as fast as memory can
 * be written. Formulas stand at each type in the .c. Types without a formula
 * are drawn from a small stock of blocks that an encoder made.
 *
 * A maker is immutable once made: any thread may fill, with its own stream. */
#ifndef FACTORY_SYNTH_BLOCKS_H
#define FACTORY_SYNTH_BLOCKS_H

#include <stdint.h>
#include "base/random.h"
#include "ds4_status.h"
#include "quant/quant.h"

typedef struct {
    quant_type type;
    int        block_bytes;
    float      mean, deviation;     /* a mean only for F32, F16, BF16            */
    uint16_t   d[16], offset[16];   /* block scales to choose from, binary16     */
    int        exponent;            /* MXFP4: the lower of two block exponents   */
    uint32_t   upper;               /* of 65536 blocks, those with the higher one */
    uint8_t   *stock;               /* [STOCK_BLOCKS] encoded blocks, or NULL; owned */
} block_maker;

/* DS4_EUNSUPPORTED: no way to make this type. */
ds4_status block_maker_init(block_maker *m, quant_type type, float mean, float deviation, uint64_t seed,
                            ds4_error *err);
void       block_maker_free(block_maker *m);
void       block_maker_fill(const block_maker *m, void *dst, uint64_t n_blocks, random_stream *r);

/* About normal, mean 0 and deviation 1, within 3.46: the sum of four uniform
 * 16-bit numbers. Whole-number arithmetic, so equal on every machine. */
float synth_normal(random_stream *r);

#endif
