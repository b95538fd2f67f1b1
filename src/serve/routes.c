#include "serve/routes.h"

#include "base/checked.h"

#define GENERATE(name, d) \
    { .kind = ROUTE_GENERATE, .label = name, .methods = METHOD_POST, .has_dialect = true, .dialect = d }
#define PAGE(k, name, ...) { .kind = k, .label = name, .methods = METHOD_GET, __VA_ARGS__ }
#define HELPER(k, name) { .kind = k, .label = name, .methods = METHOD_POST, .debug = true }

static const route routes[] = {
    { .kind = ROUTE_UNKNOWN, .label = "other" },
    { .kind = ROUTE_UNSUPPORTED, .label = "unsupported" },
    PAGE(ROUTE_ROOT, "/", .open = true, .before_ready = true),
    PAGE(ROUTE_HEALTH, "/health", .open = true, .before_ready = true),
    PAGE(ROUTE_METRICS, "/metrics", .before_ready = true),
    PAGE(ROUTE_PROPS, "/props", .debug = true),
    PAGE(ROUTE_SLOTS, "/slots", .debug = true),
    PAGE(ROUTE_MODELS, "/v1/models", .before_ready = false),
    PAGE(ROUTE_MODEL, "/v1/models/{id}", .before_ready = false),
    GENERATE("/v1/chat/completions", API_CHAT),
    GENERATE("/v1/completions", API_COMPLETIONS),
    GENERATE("/v1/responses", API_RESPONSES),
    GENERATE("/v1/messages", API_MESSAGES),
    { .kind = ROUTE_STORED, .label = "/v1/responses/{id}", .methods = METHOD_GET | METHOD_POST | METHOD_DELETE,
      .has_dialect = true, .dialect = API_RESPONSES },
    { .kind = ROUTE_COUNT_TOKENS, .label = "/v1/messages/count_tokens", .methods = METHOD_POST,
      .has_dialect = true, .dialect = API_MESSAGES },
    HELPER(ROUTE_TOKENIZE, "/tokenize"),
    HELPER(ROUTE_DETOKENIZE, "/detokenize"),
    HELPER(ROUTE_TEMPLATE, "/apply-template"),
};

/* Other spellings of an endpoint. */
static const struct { const char *path, *label; } aliases[] = {
    { "/healthz", "/health" }, { "/livez", "/health" }, { "/readyz", "/health" },
};

/* What other servers have and this one has not: worth a sentence of its own. */
static const char *const unsupported[] = {
    "/embeddings", "/rerank", "/images", "/audio", "/batches", "/files", "/uploads", "/moderations", "/assistants",
    "/threads", "/fine_tuning", "/vector_stores", "/realtime", "/videos", "/conversations", "/containers",
    "/evals", "/messages/batches",
    "/chat/completions",        /* stored completions: /chat/completions/{id} */
};

int          route_count(void)              { return (int)countof(routes); }
const route *route_at(int i)                { return &routes[i]; }
int          route_index(const route *r)    { return (int)(r - routes); }

static bool starts_with(slice s, const char *prefix)
{
    const size_t n = strlen(prefix);
    return s.len >= n && memcmp(s.data, prefix, n) == 0;
}

static slice behind(slice s, size_t n)
{
    return (slice){ s.data + n, s.len - n };
}

/* `/v1/v1/models/` is `/models`; "/" stays. */
static slice normal(slice path)
{
    while (path.len > 1 && path.data[path.len - 1] == '/') path.len--;
    while (starts_with(path, "/v1") && (path.len == 3 || path.data[3] == '/')) path = behind(path, 3);
    return path.len ? path : slice_of("/");
}

static const route *of_kind(route_kind k)
{
    for (size_t i = 0; i < countof(routes); i++) {
        if (routes[i].kind == k) return &routes[i];
    }
    return &routes[0];
}

static const route *of_path(slice path)
{
    for (size_t i = 0; i < countof(aliases); i++) {
        if (slice_is(path, aliases[i].path)) path = slice_of(aliases[i].label);
    }
    for (size_t i = 0; i < countof(routes); i++) {
        const slice label = slice_of(routes[i].label);
        if (label.data[0] == '/' && slice_equal(path, normal(label))) return &routes[i];
    }
    return NULL;
}

/* PREFIX/ID or PREFIX/ID/REST. A model's id may hold slashes: all of it is the id. */
static route_match below(slice path, const char *prefix, route_kind kind)
{
    const slice tail = behind(path, strlen(prefix));
    route_match m = { .route = of_kind(kind), .id = tail };
    const char *slash = kind == ROUTE_STORED ? memchr(tail.data, '/', tail.len) : NULL;
    if (slash) {
        m.id.len = (size_t)(slash - tail.data);
        m.rest = behind(tail, m.id.len + 1);
    }
    return m;
}

static bool is_unsupported(slice path)
{
    for (size_t i = 0; i < countof(unsupported); i++) {
        const size_t n = strlen(unsupported[i]);
        if (starts_with(path, unsupported[i]) && (path.len == n || path.data[n] == '/')) return true;
    }
    return false;
}

route_match route_find(slice path)
{
    path = normal(path);
    const route *r = of_path(path);
    if (r) return (route_match){ .route = r };
    if (starts_with(path, "/models/")) return below(path, "/models/", ROUTE_MODEL);
    if (starts_with(path, "/responses/")) return below(path, "/responses/", ROUTE_STORED);
    return (route_match){ .route = of_kind(is_unsupported(path) ? ROUTE_UNSUPPORTED : ROUTE_UNKNOWN) };
}

unsigned route_method(slice method)
{
    if (slice_is(method, "GET") || slice_is(method, "HEAD")) return METHOD_GET;
    if (slice_is(method, "POST")) return METHOD_POST;
    if (slice_is(method, "DELETE")) return METHOD_DELETE;
    return slice_is(method, "OPTIONS") ? METHOD_OPTIONS : 0;
}

bool route_allows(const route *r, unsigned method)
{
    return method == METHOD_OPTIONS || r->methods == 0 || (r->methods & method);
}

void route_allow_header(const route *r, bytes *out)
{
    bytes_text(out, "Allow: ");
    if (r->methods & METHOD_GET) bytes_text(out, "GET, HEAD, ");
    if (r->methods & METHOD_POST) bytes_text(out, "POST, ");
    if (r->methods & METHOD_DELETE) bytes_text(out, "DELETE, ");
    bytes_text(out, "OPTIONS\r\n");
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void route_decode(slice text, bytes *out)
{
    for (size_t i = 0; i < text.len; i++) {
        const bool room = text.data[i] == '%' && i + 2 < text.len;
        const int high = room ? hex_digit(text.data[i + 1]) : -1, low = room ? hex_digit(text.data[i + 2]) : -1;
        if (high < 0 || low < 0) {
            bytes_char(out, text.data[i]);
            continue;
        }
        bytes_char(out, (char)(high * 16 + low));
        i += 2;
    }
}
