/* routes: which endpoint a path names.
 *
 * Pure. Forgiving where clients differ: `/v1` may be missing or doubled, a slash may trail. */
#ifndef SERVE_ROUTES_H
#define SERVE_ROUTES_H

#include <stdbool.h>
#include "api/api.h"
#include "base/bytes.h"
#include "base/slice.h"

typedef enum {
    ROUTE_UNKNOWN, ROUTE_UNSUPPORTED, ROUTE_ROOT, ROUTE_HEALTH, ROUTE_METRICS, ROUTE_PROPS, ROUTE_SLOTS,
    ROUTE_MODELS, ROUTE_MODEL, ROUTE_GENERATE, ROUTE_STORED, ROUTE_COUNT_TOKENS, ROUTE_TOKENIZE, ROUTE_DETOKENIZE,
    ROUTE_TEMPLATE
} route_kind;

enum { METHOD_GET = 1, METHOD_POST = 2, METHOD_DELETE = 4, METHOD_OPTIONS = 8 };     /* HEAD counts as GET */

typedef struct {
    route_kind  kind;
    const char *label;          /* for metrics: one of few                                  */
    unsigned    methods;        /* METHOD_*; 0: any                                         */
    bool        has_dialect;    /* else errors are told in OpenAI's form                    */
    api_dialect dialect;
    bool        open;           /* needs no key                                             */
    bool        debug;          /* hidden by --no-debug-endpoints                           */
    bool        before_ready;   /* answers while the model loads and during the shutdown    */
} route;

typedef struct {
    const route *route;         /* never NULL                                               */
    slice        id, rest;      /* ROUTE_MODEL, ROUTE_STORED: behind the endpoint's name, still %-encoded;
                                   rest without its first slash                             */
} route_match;

route_match route_find(slice path);
int         route_count(void);
const route *route_at(int i);               /* [0, route_count), for tables over all of them */
int         route_index(const route *r);

unsigned route_method(slice method);        /* 0: another one */
bool     route_allows(const route *r, unsigned method);
void     route_allow_header(const route *r, bytes *out);    /* "Allow: GET, HEAD, OPTIONS\r\n" */

/* %XX decoded; a broken one stays as it is. */
void     route_decode(slice text, bytes *out);

#endif
