#include "base/hash.h"
#include "runner.h"

/* The authors' own test values of 64-bit FNV-1a. */
TEST(known_texts_have_their_published_hashes)
{
    EXPECT(hash_bytes(HASH_BEGIN, "", 0) == UINT64_C(0xcbf29ce484222325));
    EXPECT(hash_bytes(HASH_BEGIN, "a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
    EXPECT(hash_bytes(HASH_BEGIN, "foobar", 6) == UINT64_C(0x85944171f73967e8));
}

TEST(a_text_in_pieces_has_the_hash_of_the_whole)
{
    EXPECT(hash_bytes(hash_bytes(HASH_BEGIN, "foo", 3), "bar", 3) == hash_bytes(HASH_BEGIN, "foobar", 6));
}
