/* Any bytes, as what a request says about itself: `path NUL origin NUL host NUL authorization`. A path has one
 * route, whatever is put around it; decoding never grows; nobody gets in with a wrong key or from elsewhere. */
#include <stdint.h>
#include <stdlib.h>
#include "serve/access.h"
#include "serve/routes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool ok)
{
    if (!ok) abort();
}

static slice next_field(slice *rest)
{
    const char *end = rest->len ? memchr(rest->data, 0, rest->len) : NULL;
    const slice field = { rest->data, end ? (size_t)(end - rest->data) : rest->len };
    const size_t taken = field.len + (end != NULL);
    if (taken) *rest = (slice){ rest->data + taken, rest->len - taken };
    return field;
}

static void check_path(slice path)
{
    bytes around, id;
    const route_match m = route_find(path);
    check(route_index(m.route) >= 0 && route_index(m.route) < route_count());
    check(m.id.len + m.rest.len <= path.len);

    bytes_init(&around, path.len + 20);
    bytes_text(&around, path.len && path.data[0] == '/' ? "/v1" : "");
    bytes_append(&around, path.data, path.len);
    bytes_text(&around, "/");
    check(route_find((slice){ around.data, around.len }).route == m.route || path.len == 0 || path.data[0] != '/');

    bytes_init(&id, m.id.len + 1);
    route_decode(m.id, &id);
    check(!id.failed && id.len <= m.id.len);
    bytes_free(&around);
    bytes_free(&id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = { "correct horse" };
    slice rest = { (const char *)data, size };
    const slice path = next_field(&rest), origin = next_field(&rest), host = next_field(&rest),
        authorization = next_field(&rest);
    access_rules rules = { .guard = true };
    check(access_set_keys(&rules, keys, 1, NULL) == DS4_OK);
    check_path(path);

    /* An origin that is let in is an address or a name of this machine. */
    if (origin.data && access_origin_ok(&rules, origin, host)) check(host.len > 0 && origin.len > 3);
    const bool ends = authorization.len >= strlen(keys[0])
        && memcmp(authorization.data + authorization.len - strlen(keys[0]), keys[0], strlen(keys[0])) == 0;
    check(!access_key_ok(&rules, &(access_credentials){ .authorization = authorization }) || ends);
    access_free(&rules);
    return 0;
}
