/* access: who may ask: API keys, and browsers' pages by their origin.
 *
 * Keys are compared in time that depends on the keys' lengths only. A server on a loopback
 * address is reachable by every page that the machine's browser shows, so a request that names
 * an Origin must come from the server's own address or be allowed by name. Pure, but for
 * the key list; loop thread. */
#ifndef SERVE_ACCESS_H
#define SERVE_ACCESS_H

#include <stdbool.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"

typedef struct {
    char **keys;                /* owned */
    int    n_keys;
    const char *cors;           /* "*", or one origin; NULL: none           */
    const char *const *origins; /* [n_origins], borrowed: allowed besides    */
    int    n_origins;
    bool   guard;               /* refuse other origins (loopback)          */
} access_rules;

/* Replaces the keys by copies; on failure the former ones stay. */
ds4_status access_set_keys(access_rules *a, const char *const *keys, int n, ds4_error *err);
void       access_free(access_rules *a);

/* The credentials of a request as its headers hold them; data NULL: absent. */
typedef struct { slice authorization, x_api_key, api_key; } access_credentials;
bool access_key_ok(const access_rules *a, const access_credentials *c);

/* origin, host: header values; data NULL: absent. */
bool access_origin_ok(const access_rules *a, slice origin, slice host);

/* Access-Control-* lines of an answer, none without CORS. requested: Access-Control-Request-Headers. */
void access_cors_headers(const access_rules *a, slice requested, bytes *out);

/* "localhost", "127.0.0.1", "::1", ...: only this machine can reach it. */
bool access_is_loopback(slice host);

#endif
