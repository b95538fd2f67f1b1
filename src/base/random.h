/* random: reproducible streams (xoshiro256**, Blackman & Vigna 2018, seeded by
 * splitmix64). Not for secrets. A stream belongs to one thread. */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

typedef struct {
    uint64_t s[4];
} random_stream;

void     random_seed(random_stream *r, uint64_t seed);
uint64_t random_u64(random_stream *r);
double   random_double(random_stream *r);       /* uniform in [0, 1), 53 bits        */
double   random_normal(random_stream *r);       /* mean 0, deviation 1 (Box-Muller)  */
uint64_t random_below(random_stream *r, uint64_t n);   /* uniform in [0, n), n > 0   */

#endif
