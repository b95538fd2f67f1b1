#include "text/replay.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

#define BLOCK(body) "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n" body "\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
#define TWO "\n<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"></｜DSML｜invoke><｜DSML｜invoke name=\"g\">" \
            "<｜DSML｜parameter name=\"k\" string=\"false\"> 1 </｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>"

static replay_memory *memory(int max_ids, size_t max_bytes)
{
    ds4_error err;
    replay_memory *m = NULL;
    EXPECT_OK(replay_open(&m, max_ids, max_bytes, &err), err);
    return m;
}

/* One call of "f" without arguments. */
static ds4_status add(replay_memory *m, const char *id, const char *block, bool closed)
{
    const slice ids[] = { slice_of(id) }, names[] = { slice_of("f") }, arguments[] = { slice_of("{}") };
    const replay_record r = { .block = slice_of(block), .reasoning_closed = closed, .ids = ids, .names = names,
        .arguments = arguments, .n_calls = 1 };
    return replay_add(m, &r, NULL);
}

static ds4_status add_two(replay_memory *m, const char *first, const char *second)
{
    const slice ids[] = { slice_of(first), slice_of(second) }, names[] = { slice_of("f"), slice_of("g") };
    const slice arguments[] = { slice_of("{}"), slice_of("{\"k\":1}") };
    const replay_record r = { .block = slice_of(TWO), .ids = ids, .names = names, .arguments = arguments,
        .n_calls = 2 };
    return replay_add(m, &r, NULL);
}

static bool knows(replay_memory *m, const char *id)
{
    const replay_record *r = replay_find(m, slice_of(id));
    replay_release(m, r);
    return r != NULL;
}

TEST(a_turn_is_found_by_any_of_its_ids)
{
    replay_memory *m = memory(100, 1u << 20);
    EXPECT_INT(add_two(m, "a", "b"), DS4_OK);
    EXPECT_INT(add(m, "c", BLOCK(""), true), DS4_OK);
    const replay_record *a = replay_find(m, slice_of("a")), *b = replay_find(m, slice_of("b"));
    EXPECT(a && a == b);
    if (a) {
        EXPECT_INT(a->n_calls, 2);
        EXPECT(slice_is(a->block, TWO) && slice_is(a->ids[1], "b") && slice_is(a->names[1], "g") &&
               slice_is(a->arguments[1], "{\"k\":1}"));
        EXPECT(!a->reasoning_closed);
    }
    EXPECT(!replay_find(m, slice_of("d")));
    EXPECT(!replay_find(m, slice_of("")));
    EXPECT_INT(replay_ids(m), 3);
    replay_release(m, a);
    replay_release(m, b);
    replay_close(m);
}

TEST(the_least_recently_used_turn_goes_first)
{
    replay_memory *m = memory(3, 1u << 20);
    add_two(m, "a", "b");
    add(m, "c", BLOCK(""), true);
    EXPECT(knows(m, "a"));
    add(m, "d", BLOCK(""), true);                       /* c was used longest ago */
    EXPECT(!knows(m, "c") && knows(m, "d") && knows(m, "b"));
    add(m, "e", BLOCK(""), true);                       /* d, then the two */
    add(m, "f", BLOCK(""), true);
    EXPECT(!knows(m, "a") && !knows(m, "b") && knows(m, "e") && knows(m, "f"));
    replay_close(m);
}

TEST(bytes_are_bounded_too)
{
    replay_memory *m = memory(1000, 2000);
    char block[600], id[16];
    memset(block, 'x', sizeof block - 1);
    block[sizeof block - 1] = 0;
    for (int i = 0; i < 20; i++) {
        snprintf(id, sizeof id, "id%d", i);
        EXPECT_INT(add(m, id, block, true), DS4_OK);
    }
    EXPECT(replay_ids(m) >= 1 && replay_ids(m) <= 3);
    EXPECT(knows(m, "id19") && !knows(m, "id0"));
    replay_close(m);
    m = memory(1000, 500);
    EXPECT_INT(add(m, "a", block, true), DS4_EFULL);
    EXPECT_INT(replay_ids(m), 0);
    replay_close(m);
    m = memory(0, 1u << 20);
    EXPECT_INT(add(m, "a", block, true), DS4_EFULL);
    const replay_record none = { .n_calls = 0 };
    EXPECT_INT(replay_add(m, &none, NULL), DS4_EARG);
    EXPECT_INT(add(m, "a", "", true), DS4_EARG);        /* cut off inside of a call */
    replay_close(m);
}

TEST(a_found_turn_stays_until_it_is_released)
{
    replay_memory *m = memory(1, 1u << 20);
    add(m, "a", BLOCK("first"), true);
    const replay_record *r = replay_find(m, slice_of("a"));
    add(m, "b", BLOCK(""), true);
    EXPECT(!knows(m, "a"));
    EXPECT(r && slice_is(r->block, BLOCK("first")));
    replay_release(m, r);
    add(m, "b", BLOCK("again"), true);                  /* a known id is replaced */
    r = replay_find(m, slice_of("b"));
    EXPECT(r && slice_is(r->block, BLOCK("again")));
    EXPECT_INT(replay_ids(m), 1);
    replay_release(m, r);
    replay_close(m);
}

TEST(an_id_twice_in_one_turn)
{
    replay_memory *m = memory(10, 1u << 20);
    EXPECT_INT(add_two(m, "a", "a"), DS4_OK);
    EXPECT_INT(replay_ids(m), 1);
    EXPECT(knows(m, "a"));
    EXPECT_INT(add_two(m, "a", "b"), DS4_OK);
    EXPECT_INT(replay_ids(m), 2);
    replay_close(m);
}

/* ---- the section ---------------------------------------------------------------- */

static bytes section_of(replay_memory *m, const char *text)
{
    bytes out;
    ds4_error err;
    bytes_init(&out, 1u << 20);
    EXPECT_OK(replay_section_write(m, slice_of(text), &out, &err), err);
    return out;
}

TEST(a_section_brings_its_turns_back)
{
    replay_memory *m = memory(100, 1u << 20), *n = memory(100, 1u << 20);
    ds4_error err;
    add_two(m, "a", "b");
    add_two(m, "c", "d");
    add(m, "e", BLOCK(""), true);
    add(m, "elsewhere", BLOCK("x"), true);
    bytes out = section_of(m, "text" TWO "more" BLOCK(""));
    EXPECT_OK(replay_section_read(n, (slice){ out.data, out.len }, &err), err);
    EXPECT_INT(replay_ids(n), 5);
    EXPECT(knows(n, "e") && !knows(n, "elsewhere"));
    const replay_record *a = replay_find(n, slice_of("a")), *b = replay_find(n, slice_of("b")), *c = replay_find(n,
        slice_of("c"));
    EXPECT(a && a == b && a != c);
    if (a) {
        EXPECT(slice_is(a->block, TWO) && slice_is(a->ids[0], "a") && slice_is(a->ids[1],
               "b") && slice_is(a->names[1], "g"));
        EXPECT(slice_is(a->arguments[0], "{}") && slice_is(a->arguments[1], "{\"k\":1}") && !a->reasoning_closed);
    }
    replay_release(n, a);
    replay_release(n, b);
    replay_release(n, c);

    add(n, "e", BLOCK("newer"), true);                  /* what is known is not replaced */
    EXPECT_OK(replay_section_read(n, (slice){ out.data, out.len }, &err), err);
    const replay_record *e = replay_find(n, slice_of("e"));
    EXPECT(e && slice_is(e->block, BLOCK("newer")) && e->reasoning_closed);
    replay_release(n, e);
    bytes_free(&out);

    out = section_of(m, "nothing of it");
    EXPECT_INT(out.len, 0);
    bytes_free(&out);
    replay_close(m);
    replay_close(n);
}

TEST(a_section_holds_turns_whose_tags_are_spelled_wrong)
{
    static const char *const blocks[] = {
        "\n\n<｜?SML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        "\n\n<|DSML|tool_calls>\n<|DSML|invoke name=\"f\">\n</|DSML|invoke>\n</|DSML|tool_calls>",
    };
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        char text[400];
        replay_memory *m = memory(100, 1u << 20);
        add(m, "a", blocks[i], true);
        snprintf(text, sizeof text, "before%sbehind", blocks[i]);
        bytes out = section_of(m, text);
        EXPECT(out.len > strlen(blocks[i]));
        bytes_free(&out);
        out = section_of(m, "something else");
        EXPECT_INT(out.len, 0);
        bytes_free(&out);
        replay_close(m);
    }
}

static void put(bytes *out, uint32_t v)
{
    for (int i = 0; i < 4; i++) bytes_char(out, (char)(v >> 8 * i));
}

/* A section with one entry. */
static bytes section(int version, uint32_t entries, uint32_t id_len, const char *id, const char *block)
{
    bytes out;
    bytes_init(&out, 1u << 16);
    bytes_text(&out, "KTM");
    bytes_char(&out, (char)version);
    put(&out, entries);
    put(&out, id_len);
    put(&out, (uint32_t)strlen(block));
    if (version == 2) bytes_char(&out, 0);
    bytes_text(&out, id);
    bytes_text(&out, block);
    return out;
}

static void expect_section(bytes out, ds4_status want, size_t ids)
{
    replay_memory *m = memory(10, 1u << 20);
    EXPECT_INT(replay_section_read(m, (slice){ out.data, out.len }, NULL), want);
    EXPECT_INT(replay_ids(m), ids);
    replay_close(m);
    bytes_free(&out);
}

TEST(old_and_hostile_sections)
{
    expect_section(section(1, 1, 1, "a", BLOCK("")), DS4_OK, 1);
    expect_section(section(2, 1, 1, "a", BLOCK("")), DS4_OK, 1);
    expect_section(section(2, 1, 1, "a", "no block at all"), DS4_OK, 0);
    expect_section(section(2, 1, 1, "a", TWO), DS4_OK, 0);              /* an id is missing */
    expect_section(section(3, 1, 1, "a", BLOCK("")), DS4_EFORMAT, 0);
    expect_section(section(2, 2, 1, "a", BLOCK("")), DS4_EFORMAT, 0);
    expect_section(section(2, 0, 1, "a", BLOCK("")), DS4_EFORMAT, 0);
    expect_section(section(2, 1, 0, "", BLOCK("")), DS4_EFORMAT, 0);
    expect_section(section(2, 1, 0xFFFFFFFF, "a", BLOCK("")), DS4_EFORMAT, 0);
    expect_section(section(2, 0xFFFFFFFF, 1, "a", BLOCK("")), DS4_EFORMAT, 0);
    expect_section(section(2, 1, 2, "a", BLOCK("")), DS4_EFORMAT, 0);
    bytes good = section(2, 1, 1, "a", BLOCK(""));
    for (size_t n = 0; n < good.len; n++) {
        bytes cut;
        bytes_init(&cut, 1u << 16);
        bytes_append(&cut, good.data, n);
        expect_section(cut, DS4_EFORMAT, 0);
    }
    bytes_free(&good);
}

/* ---- threads ---------------------------------------------------------------------- */

static void *use(void *ctx)
{
    replay_memory *m = ctx;
    char id[16];
    for (int i = 0; i < 2000; i++) {
        snprintf(id, sizeof id, "%d", i * 7 % 50);
        add(m, id, BLOCK(""), true);
        const replay_record *r = replay_find(m, slice_of(id));
        if (r) EXPECT(slice_is(r->block, BLOCK("")));
        replay_release(m, r);
    }
    return NULL;
}

TEST(threads_share_a_memory)
{
    replay_memory *m = memory(10, 1u << 20);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) EXPECT_INT(pthread_create(&threads[i], NULL, use, m), 0);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    EXPECT(replay_ids(m) <= 10);
    replay_close(m);
}
