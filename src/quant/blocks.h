/* blocks: the bytes of every block format, as structs.
 *
 * Little-endian; `d` and `dmin` are binary16 unless typed float. Element e of
 * a block counts from 0. How codes are packed is told at the decoder of the
 * type. Every struct needs at most 2-byte alignment, Q8_K needs 4. */
#ifndef QUANT_BLOCKS_H
#define QUANT_BLOCKS_H

#ifndef __METAL_VERSION__
#include <stdint.h>
#endif

#define QK 256      /* elements of a super-block (K and IQ formats) */

/* ---- blocks of 32; element j < 16 is the low nibble of byte j, j+16 the high */
typedef struct { uint16_t d;    uint8_t codes[16]; }                              block_q4_0;
typedef struct { uint16_t d, m; uint8_t codes[16]; }                              block_q4_1;
typedef struct { uint16_t d;    uint8_t high[4]; uint8_t codes[16]; }             block_q5_0;
typedef struct { uint16_t d, m; uint8_t high[4]; uint8_t codes[16]; }             block_q5_1;
typedef struct { uint16_t d;    int8_t codes[32]; }                               block_q8_0;
typedef struct { uint16_t d, s; int8_t codes[32]; }  /* s = d * sum of codes */   block_q8_1;
typedef struct { uint16_t d;    uint8_t codes[16]; }                              block_iq4_nl;
typedef struct { uint8_t  e;    uint8_t codes[16]; }                              block_mxfp4;

/* ---- 64 elements: four sub-blocks of 16, each with its own scale ---------- */
typedef struct { uint8_t scales[4]; uint8_t codes[32]; }                          block_nvfp4;

/* ---- super-blocks of 256 -------------------------------------------------- */
typedef struct { float d; int8_t codes[QK]; int16_t sums[16]; }                   block_q8_k;

typedef struct { uint8_t scales[16]; uint8_t codes[64]; uint16_t d, dmin; }       block_q2_k;
typedef struct { uint8_t high[32]; uint8_t codes[64]; uint8_t scales[12]; uint16_t d; } block_q3_k;
typedef struct { uint16_t d, dmin; uint8_t scales[12]; uint8_t codes[128]; }      block_q4_k;
typedef struct { uint16_t d, dmin; uint8_t scales[12]; uint8_t high[32]; uint8_t codes[128]; } block_q5_k;
typedef struct { uint8_t low[128]; uint8_t high[64]; int8_t scales[16]; uint16_t d; } block_q6_k;

typedef struct { uint16_t d; uint16_t groups[32]; }                               block_iq2_xxs;
typedef struct { uint16_t d; uint16_t parts[32]; uint8_t scales[8]; }             block_iq2_xs;
typedef struct { uint16_t d; uint8_t index[32]; uint8_t signs[32]; uint8_t high[8]; uint8_t scales[8]; } block_iq2_s;
typedef struct { uint16_t d; uint8_t index[64]; uint16_t signs[16]; }             block_iq3_xxs;
typedef struct { uint16_t d; uint8_t index[64]; uint8_t high[8]; uint8_t signs[32]; uint8_t scales[4]; } block_iq3_s;
typedef struct { uint16_t d; uint8_t index[32]; uint16_t groups[8]; }             block_iq1_s;
typedef struct { uint16_t d; uint16_t scales_high; uint8_t scales_low[4]; uint8_t codes[128]; } block_iq4_xs;

#endif
