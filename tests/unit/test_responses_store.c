#include "api/responses_store.h"

#include <pthread.h>
#include <stdio.h>

#include "runner.h"

static bool put(responses_store *s, const char *id, const char *context, const char *input, const char *output)
{
    const stored_response r = { .id = slice_of(id), .response = slice_of("{}"), .context = slice_of(context),
                                .input = slice_of(input), .output = slice_of(output) };
    return responses_store_put(s, &r);
}

static void expect_part(responses_store *s, const char *id, stored_part part, const char *want)
{
    bytes out;
    bytes_init(&out, 1000);
    EXPECT(responses_store_get(s, slice_of(id), part, &out) == (want != NULL));
    EXPECT_TEXT(out.data ? out.data : "(none)", want ? want : "(none)");
    bytes_free(&out);
}

static responses_store *opened(int max, size_t max_bytes)
{
    responses_store *s = NULL;
    ds4_error err = { .message = "" };
    EXPECT_OK(responses_store_open(&s, max, max_bytes, &err), err);
    return s;
}

TEST(a_stored_answer_comes_back_with_what_led_to_it)
{
    responses_store *s = opened(4, 1000);
    REQUIRE(s);
    EXPECT(put(s, "resp_1", "[]", "[1]", "[2]"));
    EXPECT(put(s, "resp_2", "[1,2]", "[3,4]", "[]"));
    expect_part(s, "resp_1", STORED_RESPONSE, "{}");
    expect_part(s, "resp_1", STORED_INPUT, "[1]");
    expect_part(s, "resp_1", STORED_CONVERSATION, "[1,2]");
    expect_part(s, "resp_2", STORED_INPUT, "[3,4]");
    expect_part(s, "resp_2", STORED_CONVERSATION, "[1,2,3,4]");
    expect_part(s, "resp_3", STORED_RESPONSE, NULL);
    expect_part(s, "", STORED_RESPONSE, NULL);
    responses_store_close(s);
}

TEST(the_oldest_answers_go_first)
{
    responses_store *s = opened(2, 1000);
    REQUIRE(s);
    EXPECT(put(s, "a", "[]", "[1]", "[]"));
    EXPECT(put(s, "b", "[]", "[2]", "[]"));
    EXPECT(put(s, "c", "[]", "[3]", "[]"));
    expect_part(s, "a", STORED_INPUT, NULL);
    expect_part(s, "b", STORED_INPUT, "[2]");
    expect_part(s, "c", STORED_INPUT, "[3]");
    EXPECT(put(s, "b", "[]", "[4]", "[]"));     /* the same id again is one answer, now the newest */
    EXPECT(put(s, "d", "[]", "[5]", "[]"));
    expect_part(s, "c", STORED_INPUT, NULL);
    expect_part(s, "b", STORED_INPUT, "[4]");
    responses_store_close(s);
}

TEST(a_store_keeps_its_limit_of_bytes)
{
    responses_store *s = opened(100, 30);
    REQUIRE(s);
    EXPECT(put(s, "a", "[]", "[1]", "[]"));     /* 10 bytes each */
    EXPECT(put(s, "b", "[]", "[2]", "[]"));
    EXPECT(put(s, "c", "[]", "[3]", "[]"));
    EXPECT(put(s, "d", "[]", "[45678]", "[]"));
    expect_part(s, "a", STORED_INPUT, NULL);
    expect_part(s, "b", STORED_INPUT, NULL);
    expect_part(s, "c", STORED_INPUT, "[3]");
    EXPECT(!put(s, "e", "[]", "[0123456789012345678901234567890]", "[]"));
    expect_part(s, "d", STORED_INPUT, "[45678]");
    responses_store_close(s);
}

TEST(a_deleted_answer_is_gone)
{
    responses_store *s = opened(3, 1000);
    REQUIRE(s);
    EXPECT(!responses_store_delete(s, slice_of("a")));
    EXPECT(put(s, "a", "[]", "[1]", "[]"));
    EXPECT(put(s, "b", "[]", "[2]", "[]"));
    EXPECT(responses_store_delete(s, slice_of("b")));       /* the newest: the next put goes behind a */
    EXPECT(!responses_store_delete(s, slice_of("b")));
    EXPECT(put(s, "c", "[]", "[3]", "[]"));
    expect_part(s, "a", STORED_INPUT, "[1]");
    expect_part(s, "b", STORED_INPUT, NULL);
    expect_part(s, "c", STORED_INPUT, "[3]");
    responses_store_close(s);
    responses_store_close(NULL);

    ds4_error err = { .message = "" };
    EXPECT_INT(responses_store_open(&s, 0, 1000, &err), DS4_EARG);
}

static void *busy(void *arg)
{
    responses_store *s = arg;
    for (int i = 0; i < 500; i++) {
        char id[16];
        snprintf(id, sizeof id, "%d", i % 7);
        put(s, id, "[]", "[1]", "[2]");
        bytes out;
        bytes_init(&out, 1000);
        responses_store_get(s, slice_of(id), STORED_CONVERSATION, &out);
        bytes_free(&out);
        if (i % 3 == 0) responses_store_delete(s, slice_of(id));
    }
    return NULL;
}

TEST(two_threads_share_a_store)
{
    responses_store *s = opened(5, 1000);
    REQUIRE(s);
    pthread_t other;
    REQUIRE(pthread_create(&other, NULL, busy, s) == 0);
    busy(s);
    pthread_join(other, NULL);
    EXPECT(put(s, "end", "[]", "[1]", "[2]"));
    expect_part(s, "end", STORED_CONVERSATION, "[1,2]");
    responses_store_close(s);
}
