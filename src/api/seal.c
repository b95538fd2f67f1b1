#include "api/seal.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#define SEALED_PREFIX "ds4:v1:"
#define SIGNED_PREFIX "ds4"

enum {
    PREFIX_BYTES = sizeof SEALED_PREFIX - 1,
    KEY_ID_BYTES = 8,
    HEAD_BYTES   = PREFIX_BYTES + KEY_ID_BYTES,     /* authenticated, not encrypted */
    TAG_BYTES    = 16,
    MAC_BYTES    = 32,
    MAX_TEXT     = INT_MAX / 2                      /* OpenSSL counts in int, base64 adds a third */
};

static bool hmac(const uint8_t key[SEAL_KEY_BYTES], slice text, uint8_t out[MAC_BYTES])
{
    unsigned n = MAC_BYTES;
    return HMAC(EVP_sha256(), key, SEAL_KEY_BYTES, (const unsigned char *)text.data, text.len, out, &n) != NULL;
}

/* Each use has a key of its own, so that no use can speak for another. */
static bool derive(const uint8_t key[SEAL_KEY_BYTES], const char *use, uint8_t out[MAC_BYTES])
{
    return hmac(key, slice_of(use), out);
}

/* ---- base64 ------------------------------------------------------------------------------- */

static bool encode64(const uint8_t *data, size_t n, bytes *out)
{
    const size_t len = (n + 2) / 3 * 4;
    if (!bytes_reserve(out, len + 1)) return false;
    EVP_EncodeBlock((unsigned char *)out->data + out->len, data, (int)n);
    out->len += len;
    return true;
}

/* Fills `out` (bytes_init by the caller). */
static bool decode64(slice text, bytes *out)
{
    if (text.len == 0 || text.len % 4 || text.len > MAX_TEXT) return false;
    if (!bytes_reserve(out, text.len / 4 * 3 + 1)) return false;
    const int n = EVP_DecodeBlock((unsigned char *)out->data, (const unsigned char *)text.data, (int)text.len);
    const int padding = (text.data[text.len - 1] == '=') + (text.data[text.len - 2] == '=');
    if (n < padding) return false;
    out->len = (size_t)(n - padding);
    return true;
}

/* ---- sealing ------------------------------------------------------------------------------ */

static bool write_head(const uint8_t key[SEAL_KEY_BYTES], uint8_t head[HEAD_BYTES])
{
    uint8_t id[MAC_BYTES];
    if (!derive(key, "ds4 key id", id)) return false;
    memcpy(head, SEALED_PREFIX, PREFIX_BYTES);
    memcpy(head + PREFIX_BYTES, id, KEY_ID_BYTES);
    return true;
}

/* One pass of AES-256-GCM either way; `tag` is written or checked. */
static bool crypt(bool encrypt, const uint8_t key[SEAL_KEY_BYTES], const uint8_t *head, const uint8_t *nonce,
                  const uint8_t *in, size_t n, uint8_t *out, uint8_t *tag)
{
    uint8_t cipher_key[MAC_BYTES];
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int len = 0;
    const bool good = c && derive(key, "ds4 seal", cipher_key)
        && EVP_CipherInit_ex(c, EVP_aes_256_gcm(), NULL, cipher_key, nonce, encrypt)
        && (encrypt || EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, tag))
        && EVP_CipherUpdate(c, NULL, &len, head, HEAD_BYTES)
        && (n == 0 || EVP_CipherUpdate(c, out, &len, in, (int)n))
        && EVP_CipherFinal_ex(c, out + n, &len)
        && (!encrypt || EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, tag));
    EVP_CIPHER_CTX_free(c);
    OPENSSL_cleanse(cipher_key, sizeof cipher_key);
    return good;
}

bool seal_text(const uint8_t key[SEAL_KEY_BYTES], const uint8_t nonce[SEAL_NONCE_BYTES], slice text, bytes *out)
{
    if (text.len > MAX_TEXT) return false;
    const size_t n = HEAD_BYTES + SEAL_NONCE_BYTES + text.len + TAG_BYTES;
    bytes plain;
    bytes_init(&plain, n);
    bool good = bytes_reserve(&plain, n);
    if (good) {
        uint8_t *at = (uint8_t *)plain.data, *body = at + HEAD_BYTES + SEAL_NONCE_BYTES;
        memcpy(at + HEAD_BYTES, nonce, SEAL_NONCE_BYTES);
        good = write_head(key, at)
            && crypt(true, key, at, nonce, (const uint8_t *)text.data, text.len, body, body + text.len)
            && encode64(at, n, out);
    }
    bytes_free(&plain);
    return good;
}

bool seal_open(const uint8_t key[SEAL_KEY_BYTES], slice sealed, bytes *out)
{
    uint8_t head[HEAD_BYTES];
    bytes blob;
    bytes_init(&blob, sealed.len);
    bool good = decode64(sealed, &blob) && blob.len >= HEAD_BYTES + SEAL_NONCE_BYTES + TAG_BYTES
             && write_head(key, head) && memcmp(blob.data, head, HEAD_BYTES) == 0;
    if (good) {
        uint8_t *nonce = (uint8_t *)blob.data + HEAD_BYTES, *body = nonce + SEAL_NONCE_BYTES;
        const size_t n = blob.len - HEAD_BYTES - SEAL_NONCE_BYTES - TAG_BYTES;
        good = bytes_reserve(out, n)
            && crypt(false, key, head, nonce, body, n, (uint8_t *)out->data + out->len, body + n);
        if (good) out->len += n;
        if (out->data) out->data[out->len] = 0;     /* also when what was written did not authenticate */
    }
    bytes_free(&blob);
    return good;
}

bool seal_looks_sealed(slice text)
{
    /* base64 of the prefix's first six bytes, which fill eight characters. */
    static const char begin[] = "ZHM0OnYx";
    return text.len > sizeof begin - 1 && memcmp(text.data, begin, sizeof begin - 1) == 0;
}

/* ---- signatures --------------------------------------------------------------------------- */

static bool make_signature(const uint8_t key[SEAL_KEY_BYTES], slice text, uint8_t out[3 + MAC_BYTES])
{
    uint8_t sign_key[MAC_BYTES];
    memcpy(out, SIGNED_PREFIX, 3);
    const bool good = derive(key, "ds4 sign", sign_key) && hmac(sign_key, text, out + 3);
    OPENSSL_cleanse(sign_key, sizeof sign_key);
    return good;
}

bool seal_sign(const uint8_t key[SEAL_KEY_BYTES], slice text, bytes *out)
{
    uint8_t signature[3 + MAC_BYTES];
    return make_signature(key, text, signature) && encode64(signature, sizeof signature, out);
}

bool seal_verify(const uint8_t key[SEAL_KEY_BYTES], slice text, slice signature)
{
    uint8_t want[3 + MAC_BYTES];
    bytes got;
    bytes_init(&got, sizeof want + 2);
    const bool good = signature.len == (sizeof want + 2) / 3 * 4 && decode64(signature, &got)
        && got.len == sizeof want && make_signature(key, text, want)
        && CRYPTO_memcmp(got.data, want, sizeof want) == 0;
    bytes_free(&got);
    return good;
}
