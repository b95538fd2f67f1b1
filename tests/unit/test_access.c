#include <string.h>
#include "runner.h"
#include "serve/access.h"

static access_rules with_keys(void)
{
    static const char *const keys[] = { "alpha", "beta-2" };
    access_rules a = { 0 };
    ds4_error err;
    EXPECT_OK(access_set_keys(&a, keys, 2, &err), err);
    return a;
}

static bool bearer(const access_rules *a, const char *value)
{
    return access_key_ok(a, &(access_credentials){ .authorization = slice_of(value) });
}

TEST(a_key_is_accepted_in_three_headers)
{
    access_rules a = with_keys();
    EXPECT(bearer(&a, "Bearer alpha"));
    EXPECT(bearer(&a, "bearer  beta-2"));
    EXPECT(access_key_ok(&a, &(access_credentials){ .x_api_key = slice_of("alpha") }));
    EXPECT(access_key_ok(&a, &(access_credentials){ .api_key = slice_of("beta-2") }));
    EXPECT(access_key_ok(&a, &(access_credentials){ .authorization = slice_of("Bearer dummy"),
                                                    .x_api_key = slice_of("alpha") }));
    access_free(&a);
}

TEST(anything_else_is_no_key)
{
    access_rules a = with_keys();
    EXPECT(!bearer(&a, "Bearer alph"));
    EXPECT(!bearer(&a, "Bearer alphaa"));
    EXPECT(!bearer(&a, "Bearer "));
    EXPECT(!bearer(&a, "Basic alpha"));
    EXPECT(!bearer(&a, "alpha"));
    EXPECT(!access_key_ok(&a, &(access_credentials){ 0 }));
    EXPECT(!access_key_ok(&a, &(access_credentials){ .x_api_key = { "alpha\0", 6 } }));
    access_free(&a);
}

TEST(without_keys_everybody_may_ask)
{
    const access_rules a = { 0 };
    EXPECT(bearer(&a, "Bearer anything"));
    EXPECT(access_key_ok(&a, &(access_credentials){ 0 }));
}

TEST(new_keys_replace_the_former)
{
    access_rules a = with_keys();
    static const char *const keys[] = { "gamma" };
    ds4_error err;
    EXPECT_OK(access_set_keys(&a, keys, 1, &err), err);
    EXPECT(!bearer(&a, "Bearer alpha"));
    EXPECT(bearer(&a, "Bearer gamma"));
    access_free(&a);
}

static bool origin_ok(const access_rules *a, const char *origin, const char *host)
{
    return access_origin_ok(a, origin ? slice_of(origin) : (slice){ 0 }, host ? slice_of(host) : (slice){ 0 });
}

TEST(pages_of_other_sites_are_refused)
{
    const access_rules a = { .guard = true };
    EXPECT(origin_ok(&a, NULL, "127.0.0.1:8000"));
    EXPECT(origin_ok(&a, "http://127.0.0.1:8000", "127.0.0.1:8000"));
    EXPECT(origin_ok(&a, "http://localhost:3000", "localhost:8000"));
    EXPECT(origin_ok(&a, "http://[::1]:9", "[::1]:8000"));
    EXPECT(!origin_ok(&a, "https://evil.example", "127.0.0.1:8000"));
    EXPECT(!origin_ok(&a, "null", "127.0.0.1:8000"));
    EXPECT(!origin_ok(&a, "http://127.0.0.1", NULL));
    EXPECT(!origin_ok(&a, "http://[", "[::1]:8000"));
}

TEST(a_name_that_was_led_here_is_refused_though_host_and_origin_agree)
{
    const access_rules a = { .guard = true };
    EXPECT(!origin_ok(&a, "http://evil.example:8000", "evil.example:8000"));
}

TEST(an_allowed_origin_passes)
{
    static const char *const origins[] = { "https://chat.example" };
    const access_rules a = { .guard = true, .origins = origins, .n_origins = 1 };
    EXPECT(origin_ok(&a, "https://chat.example", "127.0.0.1:8000"));
    EXPECT(!origin_ok(&a, "https://chat.example.evil", "127.0.0.1:8000"));
}

TEST(cors_for_one_origin_lets_no_other_in)
{
    const access_rules one = { .cors = "http://a.example", .guard = true }, all = { .cors = "*", .guard = true };
    const slice here = slice_of("127.0.0.1:8000"), other = slice_of("http://b.example");
    EXPECT(access_origin_ok(&one, slice_of("http://a.example"), here));
    EXPECT(!access_origin_ok(&one, other, here));
    EXPECT(access_origin_ok(&all, other, here));
}

TEST(cors_headers_echo_what_was_asked)
{
    const access_rules off = { 0 }, on = { .cors = "*", .guard = true };
    bytes out;
    bytes_init(&out, 1000);
    access_cors_headers(&off, slice_of("x-a"), &out);
    EXPECT_INT(out.len, 0);
    access_cors_headers(&on, slice_of("x-a, x-b"), &out);
    EXPECT(strstr(out.data, "Access-Control-Allow-Origin: *\r\n") != NULL);
    EXPECT(strstr(out.data, "Access-Control-Allow-Headers: x-a, x-b\r\n") != NULL);
    EXPECT(origin_ok(&on, "https://evil.example", "127.0.0.1:8000"));
    bytes_free(&out);
}

TEST(loopback_names)
{
    EXPECT(access_is_loopback(slice_of("127.0.0.1")));
    EXPECT(access_is_loopback(slice_of("::1")));
    EXPECT(access_is_loopback(slice_of("LocalHost")));
    EXPECT(!access_is_loopback(slice_of("0.0.0.0")));
    EXPECT(!access_is_loopback(slice_of("127.evil.example")));
    EXPECT(!access_is_loopback(slice_of("192.168.1.2")));
}
