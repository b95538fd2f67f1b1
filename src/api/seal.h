/* seal: reasoning that a client carries for the server, and knows it by.
 *
 * Two forms, both base64 and both under keys derived from one state key:
 *
 *   sealed     "ds4:v1:" | key id, 8 bytes | nonce, 12 bytes | AES-256-GCM of the reasoning | tag, 16 bytes
 *   signature  "ds4" | HMAC-SHA256 of the reasoning, 32 bytes
 *
 * What comes back is hostile until it authenticates; a blob of another key or of another server is
 * simply not ours. Pure functions; any thread. */
#ifndef API_SEAL_H
#define API_SEAL_H

#include <stdbool.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"

#define SEAL_KEY_BYTES   32
#define SEAL_NONCE_BYTES 12

/* Appends the sealed text. The nonce must be random: no two texts under one key may share it. False: no
 * memory, or out is full. */
bool seal_text(const uint8_t key[SEAL_KEY_BYTES], const uint8_t nonce[SEAL_NONCE_BYTES], slice text, bytes *out);

/* Appends what was sealed. False: not sealed with this key, or damaged; out is as before. */
bool seal_open(const uint8_t key[SEAL_KEY_BYTES], slice sealed, bytes *out);

/* Whether it looks sealed, by whatever key. */
bool seal_looks_sealed(slice text);

bool seal_sign(const uint8_t key[SEAL_KEY_BYTES], slice text, bytes *out);
bool seal_verify(const uint8_t key[SEAL_KEY_BYTES], slice text, slice signature);

#endif
