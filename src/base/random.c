#include "base/random.h"

#include <math.h>

static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

/* splitmix64: spreads one word over the state, which must not be all zero. */
void random_seed(random_stream *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += 0x9E3779B97F4A7C15u;
        uint64_t z = seed;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        r->s[i] = z ^ z >> 31;
    }
}

/* xoshiro256** 1.0 */
uint64_t random_u64(random_stream *r)
{
    uint64_t *s = r->s;
    const uint64_t result = rotl(s[1] * 5, 7) * 9;
    const uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

double random_double(random_stream *r)
{
    return (double)(random_u64(r) >> 11) * 0x1p-53;
}

double random_normal(random_stream *r)
{
    const double u = 1.0 - random_double(r);      /* (0, 1]: the logarithm is finite */
    const double v = random_double(r);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

uint64_t random_below(random_stream *r, uint64_t n)
{
    /* The first 2^64 mod n values would be drawn once too often. */
    const uint64_t skip = (0 - n) % n;
    uint64_t x;
    do x = random_u64(r); while (x < skip);
    return x % n;
}
