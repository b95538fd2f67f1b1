/* Checkpoints with a text and a tool map of the caller's, and what a file tells without a session. */
#include "runner.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kvc.h"
#include "tiny/model.h"

enum { CONTEXT = 512, TOKENS = 300 };

typedef struct {
    ds4_engine  *engine;
    ds4_session *session;
    const char  *path;
} fixture;

static bool begin(fixture *f)
{
    ds4_error err;
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model("q8_0");
    o.n_threads = 1;
    o.max_tokens = CONTEXT;
    if (ds4_engine_open(&f->engine, &o, &err) || ds4_session_open(&f->session, f->engine, CONTEXT, &err)) {
        test_fail(__FILE__, __LINE__, "%s", err.message);
        return false;
    }
    ds4_token t[TOKENS];
    for (int i = 0; i < TOKENS; i++) t[i] = (i * 31 + 7) % 500;
    EXPECT_OK(ds4_session_feed(f->session, t, TOKENS, NULL, NULL, &err), err);
    f->path = test_scratch("kvc");
    return true;
}

static void end(fixture *f)
{
    ds4_session_close(f->session);
    ds4_engine_close(f->engine);
}

/* Writes the session; returns the file, open for reading and writing. */
static int save(fixture *f, const kvc_about *a)
{
    kvc *k = NULL;
    ds4_error err;
    const int fd = open(f->path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    EXPECT_OK(kvc_take(&k, f->session, a, &err), err);
    EXPECT_OK(kvc_write(k, fd, &err), err);
    EXPECT_INT(lseek(fd, 0, SEEK_CUR), kvc_bytes(k));
    kvc_free(k);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static char *pattern(size_t n)
{
    char *p = malloc(n);
    for (size_t i = 0; i < n; i++) p[i] = (char)(i * 7 + i / 251);
    return p;
}

static bool holds(const bytes *b, const char *want, size_t n)
{
    return b->len == n && (n == 0 || !memcmp(b->data, want, n));
}

TEST(text_flags_and_tool_map_come_back_whatever_their_size)
{
    fixture f;
    REQUIRE(begin(&f));
    ds4_error err;
    const size_t sizes[] = { 1, 13, 4096, 1 << 20, (5 << 19) + 77 };
    char *map = pattern(sizes[4]), text[] = "what was said";
    for (size_t i = 0; i < 5; i++) {
        const kvc_about a = { .reason = 2, .flags = KVC_VISIBLE, .text = slice_of(text), .tool_map = { map, sizes[i] } };
        const int fd = save(&f, &a);
        kvc_header h;
        EXPECT_OK(kvc_read_header(fd, &h, &err), err);
        EXPECT_INT(h.flags, KVC_TOOL_MAP | KVC_VISIBLE | KVC_INTEGRITY);
        EXPECT_INT(h.reason, 2);
        EXPECT_INT(h.tokens, TOKENS);
        EXPECT_INT(h.context, CONTEXT);
        EXPECT_INT(h.text_bytes, strlen(text));
        EXPECT_INT(h.hits, 0);
        bytes got;
        bytes_init(&got, 8 << 20);
        EXPECT_OK(kvc_tool_map(fd, &got, &err), err);
        EXPECT(holds(&got, map, sizes[i]));
        bytes_clear(&got);
        EXPECT_OK(kvc_load(f.session, fd, &got, &err), err);
        EXPECT(holds(&got, map, sizes[i]));
        EXPECT_INT(ds4_session_length(f.session), TOKENS);
        lseek(fd, 0, SEEK_SET);
        EXPECT_OK(ds4_session_load(f.session, fd, &err), err);      /* without one who wants the map */
        EXPECT_INT(ds4_session_length(f.session), TOKENS);
        bytes_free(&got);
        close(fd);
    }
    free(map);
    end(&f);
}

TEST(statistics_change_in_place_and_harm_no_checksum)
{
    fixture f;
    REQUIRE(begin(&f));
    ds4_error err;
    kvc_header h, again;
    const kvc_about a = { .text = slice_of("t") };
    const int fd = save(&f, &a);
    EXPECT_OK(kvc_read_header(fd, &h, &err), err);
    h.hits = 12345;
    h.used += 777;
    EXPECT_OK(kvc_touch(fd, &h, &err), err);
    EXPECT_OK(kvc_read_header(fd, &again, &err), err);
    EXPECT_INT(again.hits, 12345);
    EXPECT_INT(again.used, h.used);
    EXPECT_INT(again.created, h.created);
    EXPECT_INT(again.file_bytes, h.file_bytes);
    EXPECT_OK(kvc_load(f.session, fd, NULL, &err), err);
    close(fd);
    end(&f);
}

TEST(a_damaged_tool_map_is_not_given_out)
{
    fixture f;
    REQUIRE(begin(&f));
    ds4_error err;
    enum { N = 1500000 };
    char *map = pattern(N);
    const kvc_about a = { .text = slice_of("t"), .tool_map = { map, N } };
    close(save(&f, &a));
    size_t n;
    char *file = test_read(f.path, &n);
    REQUIRE(file);
    const size_t in_map = n - 4 * 4 - 16 - N;       /* about; there are three blocks or four */
    const size_t spots[] = { 6, 40, 48, in_map + 100, in_map + N / 2, n - 100, n - 24, n - 12, n - 8 };
    bytes got;
    bytes_init(&got, 8 << 20);
    bytes_text(&got, "before");
    for (size_t i = 0; i < sizeof spots / sizeof *spots; i++) {
        const int fd = open(f.path, O_RDWR | O_TRUNC);
        file[spots[i]] ^= 4;
        EXPECT(write(fd, file, n) == (ssize_t)n);
        file[spots[i]] ^= 4;
        if (!kvc_tool_map(fd, &got, &err) && !holds(&got, "before", 6) && spots[i] > 52 && spots[i] < n - 24)
            test_fail(__FILE__, __LINE__, "byte %zu was changed and the map given out", spots[i]);
        got.len = 6;
        lseek(fd, 0, SEEK_SET);
        if (!kvc_load(f.session, fd, &got, &err))
            test_fail(__FILE__, __LINE__, "byte %zu was changed and the file loaded", spots[i]);
        EXPECT(holds(&got, "before", 6));
        EXPECT_INT(ds4_session_length(f.session), 0);
        close(fd);
    }
    bytes_free(&got);
    free(file);
    free(map);
    end(&f);
}

TEST(a_snapshot_is_of_the_moment_it_was_taken)
{
    fixture f;
    REQUIRE(begin(&f));
    ds4_error err;
    ds4_shape shape;
    ds4_engine_shape(f.engine, &shape);
    const size_t V = (size_t)shape.n_vocab * sizeof(float);
    float *want = malloc(V), *later = malloc(V);
    memcpy(want, ds4_session_logits(f.session), V);
    kvc *k = NULL;
    const kvc_about a = { .text = slice_of("t") };
    EXPECT_OK(kvc_take(&k, f.session, &a, &err), err);
    ds4_token t[CONTEXT - TOKENS];
    for (int i = 0; i < CONTEXT - TOKENS; i++) t[i] = i % 400;
    EXPECT_OK(ds4_session_feed(f.session, t, CONTEXT - TOKENS, NULL, NULL, &err), err);
    memcpy(later, ds4_session_logits(f.session), V);
    const int fd = open(f.path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    EXPECT_OK(kvc_write(k, fd, &err), err);
    kvc_free(k);
    lseek(fd, 0, SEEK_SET);
    EXPECT_OK(kvc_load(f.session, fd, NULL, &err), err);
    EXPECT_INT(ds4_session_length(f.session), TOKENS);
    EXPECT(!memcmp(want, ds4_session_logits(f.session), V));
    EXPECT_OK(ds4_session_feed(f.session, t, CONTEXT - TOKENS, NULL, NULL, &err), err);
    EXPECT(!memcmp(later, ds4_session_logits(f.session), V));
    close(fd);
    free(want);
    free(later);
    end(&f);
}

TEST(a_header_must_explain_the_whole_file)
{
    fixture f;
    REQUIRE(begin(&f));
    ds4_error err;
    kvc_header h;
    const kvc_about a = { .text = slice_of("t") };
    const int fd = save(&f, &a);
    const off_t n = lseek(fd, 0, SEEK_END);
    EXPECT_OK(kvc_read_header(fd, &h, &err), err);  /* wherever the file stands */
    EXPECT(!ftruncate(fd, n - 1));
    EXPECT_INT(kvc_read_header(fd, &h, &err), DS4_EFORMAT);
    EXPECT(!ftruncate(fd, n + 1));
    EXPECT_INT(kvc_read_header(fd, &h, &err), DS4_EFORMAT);
    EXPECT(!ftruncate(fd, 51));
    EXPECT_INT(kvc_read_header(fd, &h, &err), DS4_EFORMAT);
    close(fd);
    int ends[2];
    REQUIRE(!pipe(ends));
    EXPECT_INT(kvc_read_header(ends[0], &h, &err), DS4_EFORMAT);
    close(ends[0]);
    close(ends[1]);
    for (uint64_t checked = 1; checked < 5u << 20; checked += 7919)
        if (kvc_checked_bytes(checked + kvc_trailer_bytes(checked)) != checked)
            test_fail(__FILE__, __LINE__, "%llu checked bytes", (unsigned long long)checked);
    static const uint64_t edges[] = { 1, KVC_TRAILER_BLOCK - 1, KVC_TRAILER_BLOCK, KVC_TRAILER_BLOCK + 1,
                                      3ull * KVC_TRAILER_BLOCK, 1ull << 40 };
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        EXPECT_INT(kvc_checked_bytes(edges[i] + kvc_trailer_bytes(edges[i])), edges[i]);
    EXPECT_INT(kvc_checked_bytes(15), 0);
    end(&f);
}

TEST(an_engine_is_known_by_its_weights_and_by_what_changes_rows)
{
    static const struct { const char *mix; bool no_rounding, exact; ds4_kv_type rows; } cases[] = {
        { "q8_0", false, false, DS4_KV_PACKED }, { "q8_0", true, false, DS4_KV_PACKED }, { "q8_0", false, true, DS4_KV_PACKED },
        { "q8_0", false, false, DS4_KV_F32 }, { "q4", false, false, DS4_KV_PACKED } };
    uint8_t id[6][KVC_ID_BYTES];
    ds4_error err;
    for (int i = 0; i < 6; i++) {                   /* the last: the first again, with another context */
        ds4_engine *e = NULL;
        ds4_engine_options o = ds4_engine_defaults();
        o.model_path = tiny_model(cases[i % 5].mix);
        o.n_threads = 1;
        o.max_tokens = i < 5 ? 256 : 300;
        o.no_rounding = cases[i % 5].no_rounding;
        o.exact = cases[i % 5].exact;
        o.kv_type = cases[i % 5].rows;
        REQUIRE_OK(ds4_engine_open(&e, &o, &err), err);
        EXPECT_OK(kvc_engine_id(e, id[i], &err), err);
        ds4_engine_close(e);
        for (int k = 0; k < i; k++) EXPECT_INT(!memcmp(id[i], id[k], KVC_ID_BYTES), i == 5 && k == 0);
    }
}
