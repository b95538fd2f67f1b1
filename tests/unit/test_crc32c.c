#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/random.h"
#include "runner.h"

/* One bit at a time, from the polynomial 1EDC6F41 alone. */
static uint32_t by_bits(uint32_t crc, const unsigned char *p, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

/* RFC 3720, appendix B.4. */
TEST(vectors_of_rfc_3720)
{
    unsigned char b[32];
    memset(b, 0, 32);
    EXPECT_INT(crc32c(0, b, 32), 0x8A9136AAu);
    memset(b, 0xFF, 32);
    EXPECT_INT(crc32c(0, b, 32), 0x62A8AB43u);
    for (int i = 0; i < 32; i++) b[i] = (unsigned char)i;
    EXPECT_INT(crc32c(0, b, 32), 0x46DD794Eu);
    for (int i = 0; i < 32; i++) b[i] = (unsigned char)(31 - i);
    EXPECT_INT(crc32c(0, b, 32), 0x113FDB5Cu);

    static const unsigned char command[48] = {      /* an iSCSI read command */
        0x01, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
        0, 0, 0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
    };
    EXPECT_INT(crc32c(0, command, 48), 0xD9963A56u);
}

/* The catalogue's check value (CRC RevEng, CRC-32/ISCSI). */
TEST(check_value)
{
    EXPECT_INT(crc32c(0, "123456789", 9), 0xE3069283u);
    EXPECT_INT(crc32c(0, "", 0), 0);
    EXPECT_INT(crc32c(0x12345678u, NULL, 0), 0x12345678u);
}

TEST(every_length_and_alignment_agrees_with_the_definition)
{
    unsigned char b[300];
    random_stream r;
    random_seed(&r, test_seed());
    for (size_t i = 0; i < sizeof b; i++) b[i] = (unsigned char)random_u64(&r);
    for (size_t from = 0; from < 9; from++)
        for (size_t n = 0; n + from <= sizeof b; n++)
            EXPECT_INT(crc32c(0, b + from, n), by_bits(0, b + from, n));
}

TEST(long_input_in_one_piece_or_many)
{
    enum { N = 100003 };
    unsigned char *b = malloc(N);
    REQUIRE(b);
    random_stream r;
    random_seed(&r, test_seed());
    for (int i = 0; i < N; i++) b[i] = (unsigned char)random_u64(&r);

    const uint32_t want = by_bits(0, b, N);
    EXPECT_INT(crc32c(0, b, N), want);
    EXPECT_INT(crc32c(crc32c(0, b, 16383), b + 16383, N - 16383), want);
    static const size_t pieces[] = { 1, 7, 4096, 16384, 20001, 50000 };
    for (size_t k = 0; k < countof(pieces); k++) {
        uint32_t crc = 0;
        for (size_t at = 0; at < N; at += pieces[k]) crc = crc32c(crc, b + at, min_size(pieces[k], N - at));
        EXPECT_INT(crc, want);
    }
    b[N / 2] ^= 1;
    EXPECT(crc32c(0, b, N) != want);
    free(b);
}
