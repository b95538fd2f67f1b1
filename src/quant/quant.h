/* quant: the block formats that weights and activations are stored in.
 *
 * One row per type in a table; every function here is scalar and meant to be
 * read, since it is the definition that all backends are held to. Rows are
 * independent and a whole number of blocks, laid out as in blocks.h; 4-byte
 * alignment is always enough. Knows no files and no tensor names. Any thread;
 * nothing is mutable after the first use of a search table. */
#ifndef QUANT_QUANT_H
#define QUANT_QUANT_H

#include <stdbool.h>
#include <stdint.h>
#include "ds4_status.h"

/* The numbers are the type ids of GGUF files. */
typedef enum {
    QUANT_F32 = 0, QUANT_F16 = 1, QUANT_Q4_0 = 2, QUANT_Q4_1 = 3,
    QUANT_Q5_0 = 6, QUANT_Q5_1 = 7, QUANT_Q8_0 = 8, QUANT_Q8_1 = 9,
    QUANT_Q2_K = 10, QUANT_Q3_K = 11, QUANT_Q4_K = 12, QUANT_Q5_K = 13,
    QUANT_Q6_K = 14, QUANT_Q8_K = 15, QUANT_IQ2_XXS = 16, QUANT_IQ2_XS = 17,
    QUANT_IQ3_XXS = 18, QUANT_IQ1_S = 19, QUANT_IQ4_NL = 20, QUANT_IQ3_S = 21,
    QUANT_IQ2_S = 22, QUANT_IQ4_XS = 23, QUANT_I8 = 24, QUANT_I16 = 25,
    QUANT_I32 = 26, QUANT_I64 = 27, QUANT_F64 = 28, QUANT_IQ1_M = 29,
    QUANT_BF16 = 30, QUANT_TQ1_0 = 34, QUANT_TQ2_0 = 35, QUANT_MXFP4 = 39,
    QUANT_NVFP4 = 40, QUANT_Q1_0 = 41, QUANT_Q2_0 = 42,
    QUANT_COUNT = 43
} quant_type;

typedef struct {
    const char *name;           /* "Q4_K"                                           */
    int         block_len;      /* elements                                         */
    int         block_bytes;
    quant_type  dot_type;       /* activation type of dot: F32, Q8_0, Q8_1 or Q8_K  */

    /* n is a multiple of block_len everywhere. NULL where the type has none:
     * plain integers, F64 and a few types of which only the size is known. */
    void  (*to_float)(float *dst, const void *src, int64_t n);
    /* src is one whole row (some types look at its mean square) of finite
     * numbers. quant_encode_row checks that, and what comes out. */
    void  (*from_float)(void *dst, const float *src, int64_t n);
    /* importance: one weight >= 0 per column; NULL selects from_float's rule.
     * A type that can not do without has from_float == NULL. */
    void  (*from_float_weighted)(void *dst, const float *src, const float *importance, int64_t n);
    /* sum_i w[i]*x[i], x stored as dot_type: the block sums
     * are exact integers, blocks are added in order in float. F32, F16 and
     * BF16 have no such sums and add in double. NULL for activations only
     * (Q8_1, Q8_K) and where to_float is NULL. */
    float (*dot)(const void *w, const void *x, int64_t n);
} quant_info;

/* NULL for ids that are unknown or retired. */
const quant_info *quant_get(uint32_t type);

/* By name, any letter case ("q8_0"); QUANT_COUNT when there is none. */
quant_type quant_by_name(const char *name);

/* Bytes of a row of n elements; false when n is not a whole number of blocks
 * or the product overflows. */
bool quant_row_bytes(quant_type type, uint64_t n, uint64_t *bytes);

/* Encodes one row and answers for it: DS4_EFORMAT with the column when a source
 * value is not finite or a scale leaves its range, DS4_EARG for a bad
 * importance or a missing one, DS4_EUNSUPPORTED for types without an encoder.
 * dst is written only partly or wrongly when it fails. */
ds4_status quant_encode_row(quant_type type, void *dst, const float *src, const float *importance,
                            int64_t n, ds4_error *err);

#endif
