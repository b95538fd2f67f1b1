#include "runner.h"
#include "serve/routes.h"

static route_kind kind_of(const char *path) { return route_find(slice_of(path)).route->kind; }

TEST(paths_name_their_endpoints)
{
    EXPECT_INT(kind_of("/"), ROUTE_ROOT);
    EXPECT_INT(kind_of("/health"), ROUTE_HEALTH);
    EXPECT_INT(kind_of("/healthz"), ROUTE_HEALTH);
    EXPECT_INT(kind_of("/livez"), ROUTE_HEALTH);
    EXPECT_INT(kind_of("/readyz"), ROUTE_HEALTH);
    EXPECT_INT(kind_of("/metrics"), ROUTE_METRICS);
    EXPECT_INT(kind_of("/v1/models"), ROUTE_MODELS);
    EXPECT_INT(kind_of("/v1/messages/count_tokens"), ROUTE_COUNT_TOKENS);
    EXPECT_INT(kind_of("/apply-template"), ROUTE_TEMPLATE);
    EXPECT_INT(kind_of("/nothing"), ROUTE_UNKNOWN);
    EXPECT_INT(kind_of(""), ROUTE_ROOT);
}

TEST(dialects_follow_the_path)
{
    EXPECT_INT(route_find(slice_of("/v1/chat/completions")).route->dialect, API_CHAT);
    EXPECT_INT(route_find(slice_of("/v1/completions")).route->dialect, API_COMPLETIONS);
    EXPECT_INT(route_find(slice_of("/v1/responses")).route->dialect, API_RESPONSES);
    EXPECT_INT(route_find(slice_of("/v1/messages")).route->dialect, API_MESSAGES);
}

TEST(the_version_may_be_missing_or_doubled_and_a_slash_may_trail)
{
    EXPECT_INT(kind_of("/chat/completions"), ROUTE_GENERATE);
    EXPECT_INT(kind_of("/v1/v1/chat/completions"), ROUTE_GENERATE);
    EXPECT_INT(kind_of("/v1/messages/"), ROUTE_GENERATE);
    EXPECT_INT(kind_of("/v1"), ROUTE_ROOT);
    EXPECT_INT(kind_of("/v1x/models"), ROUTE_UNKNOWN);
    EXPECT_INT(kind_of("/v1/v1/health/"), ROUTE_HEALTH);
}

TEST(ids_stand_behind_their_endpoint)
{
    route_match m = route_find(slice_of("/v1/models/org/name"));
    EXPECT_INT(m.route->kind, ROUTE_MODEL);
    EXPECT(slice_is(m.id, "org/name"));
    m = route_find(slice_of("/v1/responses/resp_1/input_items"));
    EXPECT_INT(m.route->kind, ROUTE_STORED);
    EXPECT(slice_is(m.id, "resp_1") && slice_is(m.rest, "input_items"));
    m = route_find(slice_of("/responses/resp_1"));
    EXPECT(slice_is(m.id, "resp_1") && m.rest.len == 0);
}

TEST(what_others_have_is_told_apart_from_what_nobody_has)
{
    static const char *const paths[] = {
        "/v1/embeddings", "/rerank", "/v1/images/generations", "/v1/audio/speech", "/v1/batches", "/v1/files/x", "/v1/moderations",
        "/v1/assistants", "/v1/fine_tuning/jobs", "/v1/messages/batches", "/v1/chat/completions/x"
    };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) EXPECT_INT(kind_of(paths[i]), ROUTE_UNSUPPORTED);
    EXPECT_INT(kind_of("/v1/embeddingsx"), ROUTE_UNKNOWN);
}

TEST(methods_are_told_to_who_uses_another)
{
    const route *chat = route_find(slice_of("/v1/chat/completions")).route;
    EXPECT(route_allows(chat, route_method(slice_of("POST"))));
    EXPECT(route_allows(chat, route_method(slice_of("OPTIONS"))));
    EXPECT(!route_allows(chat, route_method(slice_of("GET"))));
    EXPECT(!route_allows(chat, route_method(slice_of("BREW"))));
    EXPECT(route_allows(route_find(slice_of("/")).route, route_method(slice_of("HEAD"))));
    bytes out;
    bytes_init(&out, 200);
    route_allow_header(chat, &out);
    EXPECT_TEXT(out.data, "Allow: POST, OPTIONS\r\n");
    bytes_clear(&out);
    route_allow_header(route_find(slice_of("/health")).route, &out);
    EXPECT_TEXT(out.data, "Allow: GET, HEAD, OPTIONS\r\n");
    bytes_free(&out);
}

TEST(percent_signs_are_decoded_and_broken_ones_stay)
{
    bytes out;
    bytes_init(&out, 100);
    route_decode(slice_of("a%2Fb%zz%4"), &out);
    EXPECT_TEXT(out.data, "a/b%zz%4");
    bytes_free(&out);
}
