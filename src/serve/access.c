#include "serve/access.h"

#include <stdlib.h>
#include <strings.h>

#include "base/status.h"

/* ---- keys ------------------------------------------------------------------------- */

static void free_keys(char **keys, int n)
{
    for (int i = 0; i < n; i++) free(keys[i]);
    free(keys);
}

ds4_status access_set_keys(access_rules *a, const char *const *keys, int n, ds4_error *err)
{
    char **copy = calloc((size_t)n + 1, sizeof *copy);
    bool whole = copy != NULL;
    for (int i = 0; whole && i < n; i++) whole = (copy[i] = strdup(keys[i])) != NULL;
    if (!whole) {
        if (copy) free_keys(copy, n);
        return ds4_fail(err, DS4_EMEMORY, "no memory for %d API keys", n);
    }
    free_keys(a->keys, a->n_keys);
    a->keys = copy;
    a->n_keys = n;
    return DS4_OK;
}

void access_free(access_rules *a)
{
    free_keys(a->keys, a->n_keys);
    a->keys = NULL;
    a->n_keys = 0;
}

/* Looks at every byte of the key whatever was sent. */
static bool same_key(const char *key, slice sent)
{
    const size_t n = strlen(key);
    size_t differs = n ^ sent.len;
    for (size_t i = 0; i < n; i++) differs |= (size_t)(unsigned char)(key[i] ^ (i < sent.len ? sent.data[i] : 0));
    return differs == 0;
}

static bool known_key(const access_rules *a, slice sent)
{
    bool found = false;
    for (int i = 0; i < a->n_keys; i++) found |= same_key(a->keys[i], sent);
    return found;
}

static slice bearer(slice value)
{
    static const char scheme[] = "bearer ";
    const size_t n = sizeof scheme - 1;
    if (value.len < n || strncasecmp(value.data, scheme, n) != 0) return (slice){ 0 };
    value = (slice){ value.data + n, value.len - n };
    while (value.len && *value.data == ' ') value = (slice){ value.data + 1, value.len - 1 };
    return value;
}

bool access_key_ok(const access_rules *a, const access_credentials *c)
{
    if (a->n_keys == 0) return true;
    const slice forms[] = { c->authorization.data ? bearer(c->authorization) : c->authorization, c->x_api_key,
                            c->api_key };
    bool ok = false;
    for (int i = 0; i < 3; i++) {
        if (forms[i].data) ok |= known_key(a, forms[i]);
    }
    return ok;
}

/* ---- origins ---------------------------------------------------------------------- */

/* The host of "host", "host:port", "[v6]:port"; without brackets. */
static slice host_of(slice authority)
{
    if (authority.len && authority.data[0] == '[') {
        const char *end = memchr(authority.data, ']', authority.len);
        if (!end) return (slice){ 0 };
        return (slice){ authority.data + 1, (size_t)(end - authority.data) - 1 };
    }
    const char *colon = memchr(authority.data, ':', authority.len);
    if (colon) authority.len = (size_t)(colon - authority.data);
    return authority;
}

/* "https://host:port" to its host; anything else ("null") to nothing. */
static slice origin_host(slice origin)
{
    for (size_t i = 0; i + 2 < origin.len; i++) {
        if (memcmp(origin.data + i, "://", 3) == 0) return host_of((slice){ origin.data + i + 3, origin.len - i - 3 });
    }
    return (slice){ 0 };
}

static bool same_text(slice a, slice b)
{
    return a.len == b.len && a.len > 0 && strncasecmp(a.data, b.data, a.len) == 0;
}

/* Only digits and dots, or a colon: no name that somebody's DNS could lead here. */
static bool is_address(slice host)
{
    bool v4 = host.len > 0;
    for (size_t i = 0; i < host.len; i++) {
        if (host.data[i] == ':') return true;
        if (!(host.data[i] == '.' || (host.data[i] >= '0' && host.data[i] <= '9'))) v4 = false;
    }
    return v4;
}

bool access_is_loopback(slice host)
{
    static const char tail[] = ".localhost";
    const size_t n = sizeof tail - 1;
    if (same_text(host, slice_of("localhost")) || slice_is(host, "::1")) return true;
    if (host.len > n && strncasecmp(host.data + host.len - n, tail, n) == 0) return true;
    return host.len >= 4 && memcmp(host.data, "127.", 4) == 0 && is_address(host);
}

/* A page of another site, whose name was made to lead to this machine, sends equal names in Origin and
 * Host. So equal is not enough: the name must be an address or localhost. */
bool access_origin_ok(const access_rules *a, slice origin, slice host)
{
    if (!a->guard || !origin.data) return true;
    if (a->cors && (strcmp(a->cors, "*") == 0 || same_text(origin, slice_of(a->cors)))) return true;
    for (int i = 0; i < a->n_origins; i++) {
        if (strcmp(a->origins[i], "*") == 0 || same_text(origin, slice_of(a->origins[i]))) return true;
    }
    if (!host.data) return false;
    const slice asked = host_of(host), from = origin_host(origin);
    return same_text(from, asked) && (is_address(from) || access_is_loopback(from));
}

void access_cors_headers(const access_rules *a, slice requested, bytes *out)
{
    if (!a->cors) return;
    bytes_printf(out, "Access-Control-Allow-Origin: %s\r\n", a->cors);
    if (strcmp(a->cors, "*") != 0) bytes_text(out, "Vary: Origin\r\n");
    bytes_text(out, "Access-Control-Allow-Methods: GET, POST, OPTIONS, HEAD\r\n");
    if (requested.len) bytes_printf(out, "Access-Control-Allow-Headers: %.*s\r\n", (int)requested.len, requested.data);
    bytes_text(out, "Access-Control-Max-Age: 86400\r\nAccess-Control-Expose-Headers: X-Request-Id\r\n");
}
