#include "api/seal.h"

#include "runner.h"

static const uint8_t key[SEAL_KEY_BYTES] = { 1, 2, 3 }, other_key[SEAL_KEY_BYTES] = { 1, 2, 4 };
static const uint8_t nonce[SEAL_NONCE_BYTES] = { 9, 8, 7 };

static slice all(const bytes *b)
{
    return (slice){ b->data, b->len };
}

TEST(what_was_sealed_opens_with_the_same_key_only)
{
    static const char *texts[] = { "", "x", "Need the weather.", "\xE2\x82\xAC and more", "0123456789abcdef0" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        bytes sealed, opened;
        bytes_init(&sealed, 1000);
        bytes_init(&opened, 1000);
        bytes_text(&opened, "kept ");
        REQUIRE(seal_text(key, nonce, slice_of(texts[i]), &sealed));
        EXPECT(seal_looks_sealed(all(&sealed)));
        EXPECT(!seal_open(other_key, all(&sealed), &opened));
        EXPECT_TEXT(opened.data, "kept ");
        EXPECT(seal_open(key, all(&sealed), &opened));
        EXPECT_TEXT(opened.data + 5, texts[i]);
        bytes_free(&sealed);
        bytes_free(&opened);
    }
}

TEST(a_sealed_text_that_was_touched_does_not_open)
{
    bytes sealed, opened;
    bytes_init(&sealed, 1000);
    bytes_init(&opened, 1000);
    REQUIRE(seal_text(key, nonce, slice_of("Need the weather."), &sealed));
    const size_t n = sealed.len;
    for (size_t i = 0; i < n; i++) {
        const char was = sealed.data[i];
        if (was == '=') continue;
        sealed.data[i] = was == 'A' ? 'B' : 'A';
        /* In the last character two or four bits are padding and carry nothing. */
        if (i + 1 < n && sealed.data[i + 1] != '=') EXPECT(!seal_open(key, all(&sealed), &opened));
        sealed.data[i] = was;
    }
    for (size_t len = 0; len < n; len++) EXPECT(!seal_open(key, (slice){ sealed.data, len }, &opened));
    EXPECT_INT(opened.len, 0);
    EXPECT(!seal_open(key, slice_of("no base64, *"), &opened));
    EXPECT(!seal_open(key, slice_of("===="), &opened));
    EXPECT(!seal_open(key, slice_of("    "), &opened));
    EXPECT(!seal_looks_sealed(slice_of("ZHM0OnYx")));
    EXPECT(seal_open(key, all(&sealed), &opened));
    bytes_free(&sealed);
    bytes_free(&opened);
}

/* Computed with Python's hmac module: base64("ds4" + hmac(hmac(key, "ds4 sign"), "Need the weather.")). */
TEST(a_signature_is_an_hmac_of_the_reasoning)
{
    bytes sig;
    bytes_init(&sig, 1000);
    REQUIRE(seal_sign(key, slice_of("Need the weather."), &sig));
    EXPECT_TEXT(sig.data, "ZHM0tfnm0oY+ySZ7K8UpGBwgKUDL6yi3ZV4hIxg43mDrbSk=");
    EXPECT(seal_verify(key, slice_of("Need the weather."), all(&sig)));
    EXPECT(!seal_verify(key, slice_of("Need the weather!"), all(&sig)));
    EXPECT(!seal_verify(other_key, slice_of("Need the weather."), all(&sig)));
    EXPECT(!seal_verify(key, slice_of("Need the weather."), slice_of("")));
    EXPECT(!seal_verify(key, slice_of("Need the weather."), slice_of("ZHM0LXNpZw==")));
    bytes_free(&sig);
}

TEST(a_buffer_that_is_too_small_is_told)
{
    bytes sealed;
    bytes_init(&sealed, 20);
    EXPECT(!seal_text(key, nonce, slice_of("Need the weather."), &sealed));
    EXPECT(!seal_sign(key, slice_of("Need the weather."), &sealed));
    bytes_free(&sealed);
}
