/* The session store: what is saved is found again by its text, and nothing else is. */
#include "server/kvstore_case.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>

#include "base/clock.h"

static bool found(kvstore *s, const char *text, kvstore_hit *h) { return kvstore_find(s, slice_of(text), INT32_MAX, 0, h); }

/* ---- plain use ------------------------------------------------------------------------------------ */

TEST(a_session_comes_back_bit_for_bit)
{
    kv_case c;
    REQUIRE(case_open(&c, "round"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_shape shape;
    ds4_engine_shape(c.engine, &shape);
    case_fill(&c, 0, 700);
    float *want = malloc((size_t)shape.n_vocab * sizeof *want), *later = malloc((size_t)shape.n_vocab * sizeof *want);
    memcpy(want, ds4_session_logits(c.session), (size_t)shape.n_vocab * sizeof *want);

    /* decode goes on while the file is written */
    ds4_error err;
    const kvstore_save_options o = { .reason = KV_SAVE_COLD, .text = slice_of("the prompt") };
    EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
    const ds4_token next = 5;
    for (int i = 0; i < 40; i++) EXPECT_OK(ds4_session_feed(c.session, &next, 1, NULL, NULL, &err), err);
    memcpy(later, ds4_session_logits(c.session), (size_t)shape.n_vocab * sizeof *want);
    kvstore_wait(s, NULL);

    kvstore_hit h;
    REQUIRE(found(s, "the prompt and more", &h));
    EXPECT_INT(h.tokens, 700);
    EXPECT_INT(h.text_bytes, 10);
    EXPECT(!h.visible);
    EXPECT(kvstore_load_seconds(s, &h) > 0);
    ds4_session_reset(c.session);
    EXPECT_OK(kvstore_load(s, &h, c.session, NULL, &err), err);
    EXPECT_INT(ds4_session_length(c.session), 700);
    EXPECT(!memcmp(want, ds4_session_logits(c.session), (size_t)shape.n_vocab * sizeof *want));
    for (int i = 0; i < 40; i++) EXPECT_OK(ds4_session_feed(c.session, &next, 1, NULL, NULL, &err), err);
    EXPECT(!memcmp(later, ds4_session_logits(c.session), (size_t)shape.n_vocab * sizeof *want));
    EXPECT_INT(histogram_below(&c.metrics->kv_save[KV_SAVE_COLD], c.metrics->kv_save[KV_SAVE_COLD].n), 1);
    EXPECT_INT(histogram_below(&c.metrics->kv_load, c.metrics->kv_load.n), 1);
    free(want);
    free(later);
    kvstore_close(s);
    case_close(&c);
}

TEST(the_longest_prefix_wins_and_shorter_ones_can_be_asked_for)
{
    kv_case c;
    REQUIRE(case_open(&c, "longest"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    static const char *const texts[] = { "abc", "abcdef", "abcdefghi", "abX" };
    for (int i = 0; i < 4; i++) {
        case_fill(&c, 0, 20 + 10 * i);
        EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, texts[i]), DS4_OK);
    }
    kvstore_hit h;
    REQUIRE(found(s, "abcdefghijk", &h));
    EXPECT_INT(h.text_bytes, 9);
    EXPECT_INT(h.tokens, 40);
    REQUIRE(kvstore_find(s, slice_of("abcdefghijk"), 1000, h.text_bytes, &h));
    EXPECT_INT(h.text_bytes, 6);
    REQUIRE(kvstore_find(s, slice_of("abcdefghijk"), 1000, h.text_bytes, &h));
    EXPECT_INT(h.text_bytes, 3);
    EXPECT(!kvstore_find(s, slice_of("abcdefghijk"), 1000, h.text_bytes, &h));
    REQUIRE(kvstore_find(s, slice_of("abcdefghijk"), 30, 0, &h));
    EXPECT_INT(h.tokens, 30);
    EXPECT(!kvstore_find(s, slice_of("abcdefghijk"), 19, 0, &h));
    REQUIRE(found(s, "abcdef", &h));                /* the whole text is a prefix too */
    EXPECT_INT(h.text_bytes, 6);
    EXPECT(!found(s, "ab", &h));
    EXPECT(!found(s, "", &h));
    EXPECT_INT(kvstore_covered(s, slice_of("abcdefgh")), 30);
    EXPECT_INT(kvstore_covered(s, slice_of("zzz")), 0);
    EXPECT_INT(kvstore_counts(s).files, 4);
    kvstore_close(s);

    s = case_store(&c);                             /* and after a restart */
    REQUIRE(s);
    EXPECT(found(s, "abXY", &h));
    EXPECT_INT(kvstore_counts(s).files, 4);
    EXPECT_INT(kvstore_counts(s).budget_bytes, CASE_BUDGET);
    kvstore_close(s);
    case_close(&c);
}

TEST(files_and_folders_are_for_their_owner_alone)
{
    kv_case c;
    REQUIRE(case_open(&c, "made/by/us"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    case_fill(&c, 0, 20);
    EXPECT_INT(case_save(&c, s, KV_SAVE_EVICT, "secret"), DS4_OK);
    struct stat st;
    char path[700];
    case_file(&c, "secret", ".kv", path);
    REQUIRE(!stat(path, &st));
    EXPECT_INT(st.st_mode & 0777, 0600);
    *strrchr(path, '/') = 0;
    REQUIRE(!stat(path, &st));
    EXPECT_INT(st.st_mode & 0777, 0700);
    REQUIRE(!stat(c.dir, &st));
    EXPECT_INT(st.st_mode & 0777, 0700);
    kvstore_close(s);
    case_close(&c);
}

TEST(a_visible_transcript_says_so)
{
    kv_case c;
    REQUIRE(case_open(&c, "visible"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_error err;
    case_fill(&c, 0, 20);
    for (int thinking = 0; thinking < 2; thinking++) {
        const char *text = thinking ? "seen with thoughts" : "seen";
        const kvstore_save_options o = { .reason = KV_SAVE_EVICT, .text = slice_of(text), .visible = true,
                                         .thinking = thinking, .wait = true };
        EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
        kvstore_wait(s, NULL);
        kvstore_hit h;
        REQUIRE(found(s, text, &h));
        EXPECT(h.visible);
        char path[700];
        case_file(&c, text, ".kv", path);
        size_t n;
        char *file = test_read(path, &n);
        REQUIRE(file);
        EXPECT_INT(file[5], 3);
        EXPECT_INT(file[6], 8 | (thinking ? 4 : 2));
        EXPECT(!memcmp(file + 52, text, strlen(text)));
        free(file);
    }
    kvstore_close(s);
    case_close(&c);
}

TEST(a_hit_is_counted_in_the_file)
{
    kv_case c;
    REQUIRE(case_open(&c, "hits"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_error err;
    case_fill(&c, 0, 30);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "t"), DS4_OK);
    kvstore_hit h;
    for (int i = 0; i < 3; i++) {
        REQUIRE(found(s, "t", &h));
        EXPECT_OK(kvstore_load(s, &h, c.session, NULL, &err), err);
    }
    char path[700];
    case_file(&c, "t", ".kv", path);
    const int fd = open(path, O_RDONLY);
    kvc_header k;
    EXPECT_OK(kvc_read_header(fd, &k, &err), err);
    EXPECT_INT(k.hits, 3);
    EXPECT(k.used >= k.created && k.used <= clock_unix_seconds());
    close(fd);
    kvstore_close(s);
    case_close(&c);
}

/* ---- who may read what ------------------------------------------------------------------------------ */

TEST(files_of_another_model_or_rounding_are_never_found)
{
    kv_case c;
    REQUIRE(case_open(&c, "models"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    case_fill(&c, 0, 30);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_OK);
    kvstore_close(s);
    static const struct { const char *mix; bool no_rounding, same; } cases[] = {
        { "q8_0", false, true }, { "q8_0", true, false }, { "q4", false, false } };
    for (int i = 0; i < 3; i++) {
        ds4_engine *e = case_engine(cases[i].mix, cases[i].no_rounding, 512);
        kvstore_hit h;
        ds4_error err;
        REQUIRE(e);
        REQUIRE_OK(kvstore_open(&s, &c.o, e, &err), err);
        EXPECT_INT(found(s, "text", &h), cases[i].same);
        EXPECT_INT(kvstore_counts(s).files, 1);     /* it counts for all of them */
        kvstore_close(s);
        ds4_engine_close(e);
    }
    case_close(&c);
}

TEST(two_stores_on_one_folder_find_each_others_files)
{
    kv_case c;
    REQUIRE(case_open(&c, "shared"));
    kvstore *a = case_store(&c), *b = case_store(&c);
    REQUIRE(a && b);
    kvstore_hit h;
    ds4_error err;
    case_fill(&c, 0, 30);
    EXPECT(!found(b, "from a", &h));
    EXPECT_INT(case_save(&c, a, KV_SAVE_COLD, "from a"), DS4_OK);
    EXPECT_INT(case_save(&c, b, KV_SAVE_COLD, "from b"), DS4_OK);
    EXPECT(found(a, "from b", &h));
    REQUIRE(found(b, "from a", &h));
    EXPECT_OK(kvstore_load(b, &h, c.session, NULL, &err), err);
    /* one throws it away while the other still believes in it */
    REQUIRE(found(b, "from a", &h));
    char path[700];
    case_file(&c, "from a", ".kv", path);
    EXPECT(!unlink(path));
    EXPECT_INT(kvstore_load(b, &h, c.session, NULL, &err), DS4_ENOTFOUND);
    EXPECT_INT(ds4_session_length(c.session), 0);
    EXPECT(!found(b, "from a", &h));
    EXPECT_INT(counter_get(&c.metrics->kv_corrupt), 0);
    kvstore_close(a);
    kvstore_close(b);
    case_close(&c);
}

TEST(the_folder_may_vanish_while_it_is_used)
{
    kv_case c;
    REQUIRE(case_open(&c, "vanishing"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    kvstore_hit h;
    case_fill(&c, 0, 30);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "one"), DS4_OK);
    char folder[600], path[700];
    case_folder(&c, folder);
    case_file(&c, "one", ".kv", path);
    EXPECT(!unlink(path) && !rmdir(folder));
    EXPECT(!found(s, "one", &h));
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "two"), DS4_OK);
    EXPECT(found(s, "two", &h));
    kvstore_close(s);
    case_close(&c);
}

/* A process of its own: saves, finds, loads; status 0: nothing was ever damaged. */
static void work_in_a_child(kv_case *c, int which)
{
    kvstore *s = NULL;
    ds4_error err;
    alarm(300);                                     /* not for ever, whatever becomes of the parent */
    bool fine = kvstore_open(&s, &c->o, c->engine, &err) == DS4_OK;
    for (int i = 0; fine && i < 60; i++) {
        char text[32];
        snprintf(text, sizeof text, "text %d", (i * 7 + which * 3) % 8);
        const kvstore_save_options o = { .reason = KV_SAVE_COLD, .text = slice_of(text), .wait = true };
        const ds4_status st = kvstore_save(s, c->session, &o, &err);
        fine = st == DS4_OK || st == DS4_EFULL;
        kvstore_hit h;
        snprintf(text, sizeof text, "text %d", i % 8);
        kvstore_wait(s, c->session);                /* before it is loaded into */
        if (found(s, text, &h)) {
            const ds4_status loaded = kvstore_load(s, &h, c->session, NULL, &err);
            fine = fine && (loaded == DS4_OK || loaded == DS4_ENOTFOUND);
        }
        if (ds4_session_length(c->session) == 0) case_fill(c, 0, 20);
    }
    kvstore_close(s);
    _exit(fine && counter_get(&c->metrics->kv_corrupt) == 0 ? 0 : 1);
}

TEST(two_processes_share_a_folder)
{
    kv_case c;
    REQUIRE(case_open(&c, "processes"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    case_fill(&c, 0, 200);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text 0"), DS4_OK);
    kvstore_close(s);
    char folder[600];
    uint64_t size;
    case_folder(&c, folder);
    case_count(folder, ".kv", &size);
    c.o.budget_bytes = 4 * size + size / 4;
    pid_t child[2];
    for (int i = 0; i < 2; i++)
        if ((child[i] = fork()) == 0) work_in_a_child(&c, i);
    for (int i = 0; i < 2; i++) {
        int status = -1;
        EXPECT(waitpid(child[i], &status, 0) == child[i]);
        EXPECT_INT(status, 0);
    }
    case_count(folder, ".kv", &size);
    EXPECT(size > 0 && size <= c.o.budget_bytes);
    EXPECT_INT(case_count(folder, ".tmp", NULL), 0);
    EXPECT_INT(case_count(folder, ".bad", NULL), 0);
    case_close(&c);
}

/* ---- damage --------------------------------------------------------------------------------------------- */

TEST(damage_anywhere_is_a_miss_and_the_file_is_put_aside)
{
    kv_case c;
    REQUIRE(case_open(&c, "damage"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_error err;
    case_fill(&c, 0, 200);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "damaged text"), DS4_OK);
    kvstore_close(s);
    char path[700];
    size_t n;
    case_file(&c, "damaged text", ".kv", path);
    char *file = test_read(path, &n);
    REQUIRE(file);
    /* header fields, text, payload head, tokens, logits, rows, trailer; the statistics are nobody's concern */
    size_t spots[40] = { 0, 3, 4, 5, 6, 8, 10, 16, 20, 24, 40, 47, 48, 52, 60, 64, 68, 92, 120, 300, 1000, 5000 };
    int n_spots = 22;
    for (; n_spots < 36; n_spots++) spots[n_spots] = 6000 + (size_t)(n_spots - 22) * ((n - 6100) / 14);
    spots[n_spots++] = n - 1;
    spots[n_spots++] = n - 6;
    spots[n_spots++] = n - 16;
    for (int i = 0; i < n_spots; i++) {
        const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        file[spots[i]] ^= 0x11;
        EXPECT(write(fd, file, n) == (ssize_t)n);
        close(fd);
        file[spots[i]] ^= 0x11;
        s = case_store(&c);
        REQUIRE(s);
        kvstore_hit h;
        const bool hit = found(s, "damaged text goes on", &h);
        if (hit) {
            const uint64_t before = counter_get(&c.metrics->kv_corrupt);
            const ds4_status st = kvstore_load(s, &h, c.session, NULL, &err);
            if (!st || ds4_session_length(c.session) != 0)
                test_fail(__FILE__, __LINE__, "byte %zu was changed: status %d", spots[i], st);
            EXPECT_INT(counter_get(&c.metrics->kv_corrupt), before + 1);
            EXPECT(!case_exists(&c, "damaged text", ".kv"));
            EXPECT(case_exists(&c, "damaged text", ".kv.bad"));
            EXPECT(!found(s, "damaged text goes on", &h));
        }
        kvstore_close(s);
    }
    s = case_store(&c);                             /* the next start clears them away */
    char folder[600];
    case_folder(&c, folder);
    EXPECT_INT(case_count(folder, ".bad", NULL), 0);
    kvstore_close(s);
    free(file);
    case_close(&c);
}

TEST(a_file_cut_off_anywhere_is_a_miss)
{
    kv_case c;
    REQUIRE(case_open(&c, "cut"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    case_fill(&c, 0, 60);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "cut text"), DS4_OK);
    char path[700];
    size_t n;
    case_file(&c, "cut text", ".kv", path);
    char *file = test_read(path, &n);
    REQUIRE(file);
    kvstore_hit h, now;
    ds4_error err;
    const size_t lengths[] = { 0, 1, 47, 51, 52, 57, 100, n / 3, n - 17, n - 1, n + 1 };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        EXPECT(write(fd, file, n) == (ssize_t)n);
        close(fd);
        REQUIRE(found(s, "cut text", &h));
        EXPECT(!truncate(path, (off_t)lengths[i])); /* under us, after it was found */
        EXPECT(kvstore_load(s, &h, c.session, NULL, &err) != DS4_OK);
        EXPECT_INT(ds4_session_length(c.session), 0);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        EXPECT(write(fd, file, lengths[i] < n ? lengths[i] : n) >= 0);
        close(fd);
        EXPECT(lengths[i] > n || !found(s, "cut text", &now));
    }
    free(file);
    kvstore_close(s);
    case_close(&c);
}

TEST(a_name_that_is_not_that_of_the_text_is_never_loaded)
{
    kv_case c;
    REQUIRE(case_open(&c, "misnamed"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_error err;
    case_fill(&c, 0, 30);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "mine"), DS4_OK);
    char from[700], to[700];
    case_file(&c, "mine", ".kv", from);
    case_file(&c, "your", ".kv", to);
    EXPECT(!rename(from, to));
    kvstore_hit h;
    REQUIRE(found(s, "your", &h));
    EXPECT_INT(kvstore_load(s, &h, c.session, NULL, &err), DS4_EFORMAT);
    EXPECT(!found(s, "your", &h));
    kvstore_close(s);
    case_close(&c);
}

TEST(what_lies_about_is_neither_found_nor_touched)
{
    kv_case c;
    REQUIRE(case_open(&c, "strangers"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    case_fill(&c, 0, 30);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_OK);
    kvstore_close(s);
    char folder[600], real[700], path[700];
    case_folder(&c, folder);
    case_file(&c, "text", ".kv", real);
    case_file(&c, "link", ".kv", path);
    EXPECT(!symlink(real, path));
    case_file(&c, "fifo", ".kv", path);
    EXPECT(!mkfifo(path, 0600));
    case_file(&c, "folder", ".kv", path);
    EXPECT(!mkdir(path, 0700));
    snprintf(path, sizeof path, "%s/notes.txt", folder);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    s = case_store(&c);
    REQUIRE(s);
    kvstore_hit h;
    EXPECT(found(s, "text", &h));
    EXPECT(!found(s, "link", &h) && !found(s, "fifo", &h) && !found(s, "folder", &h));
    EXPECT_INT(kvstore_counts(s).files, 1);
    EXPECT(!access(path, F_OK));
    kvstore_close(s);
    case_close(&c);
}

/* ---- tool calls ---------------------------------------------------------------------------------------- */

#define BLOCK(path) "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"look\">\n<｜DSML｜parameter name=\"path\" string=\"true\">" path \
                    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"

static bool knows(replay_memory *m, const char *id, const char *block)
{
    const replay_record *r = replay_find(m, slice_of(id));
    const bool same = r && slice_is(r->block, block);
    if (r) replay_release(m, r);
    return same;
}

static void teach(replay_memory *m, const char *id, const char *block)
{
    ds4_error err;
    const slice ids[] = { slice_of(id) }, names[] = { slice_of("look") }, arguments[] = { slice_of("{}") };
    const replay_record r = { .block = slice_of(block), .ids = ids, .names = names, .arguments = arguments, .n_calls = 1 };
    EXPECT_OK(replay_add(m, &r, &err), err);
}

static replay_memory *memory(void)
{
    replay_memory *m = NULL;
    ds4_error err;
    EXPECT_OK(replay_open(&m, 100, 1 << 20, &err), err);
    return m;
}

TEST(sampled_calls_travel_with_the_session)
{
    kv_case c;
    REQUIRE(case_open(&c, "calls"));
    kvstore *s = case_store(&c);
    replay_memory *m = memory();
    REQUIRE(s && m);
    ds4_error err;
    case_fill(&c, 0, 30);
    teach(m, "call_1", BLOCK("first"));
    teach(m, "call_2", BLOCK("second"));
    teach(m, "call_3", BLOCK("of somebody else"));
    kvstore_save_options o = { .reason = KV_SAVE_EVICT, .wait = true, .replay = m,
                               .text = slice_of("hello" BLOCK("first") "result" BLOCK("second")) };
    EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
    o.text = slice_of("no calls here");
    EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
    kvstore_close(s);
    replay_close(m);

    s = case_store(&c);                             /* lazily, from the tails */
    m = memory();
    REQUIRE(s && m);
    kvstore_read_tool_maps(s, m);
    EXPECT(knows(m, "call_1", BLOCK("first")) && knows(m, "call_2", BLOCK("second")));
    EXPECT(!replay_find(m, slice_of("call_3")));
    replay_close(m);
    m = memory();
    kvstore_read_tool_maps(s, m);                   /* once */
    EXPECT_INT(replay_ids(m), 0);
    kvstore_hit h;                                  /* or with the session */
    REQUIRE(found(s, "hello" BLOCK("first") "result" BLOCK("second") " and on", &h));
    EXPECT_OK(kvstore_load(s, &h, c.session, m, &err), err);
    EXPECT(knows(m, "call_1", BLOCK("first")) && knows(m, "call_2", BLOCK("second")));
    EXPECT_INT(replay_ids(m), 2);
    REQUIRE(found(s, "no calls here", &h));
    EXPECT_OK(kvstore_load(s, &h, c.session, m, &err), err);
    EXPECT_INT(replay_ids(m), 2);
    kvstore_close(s);
    replay_close(m);
    case_close(&c);
}

TEST(a_damaged_tool_map_is_put_aside_when_it_is_read)
{
    kv_case c;
    REQUIRE(case_open(&c, "tails"));
    kvstore *s = case_store(&c);
    replay_memory *m = memory();
    REQUIRE(s && m);
    ds4_error err;
    case_fill(&c, 0, 30);
    teach(m, "call_1", BLOCK("here"));
    const kvstore_save_options o = { .reason = KV_SAVE_EVICT, .text = slice_of("a" BLOCK("here")), .wait = true, .replay = m };
    EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
    kvstore_close(s);
    replay_close(m);
    char path[700];
    size_t n;
    case_file(&c, "a" BLOCK("here"), ".kv", path);
    char *file = test_read(path, &n);
    REQUIRE(file);
    char *at = memmem(file + 300, n - 300, ">here<", 6);
    REQUIRE(at);
    const int fd = open(path, O_WRONLY);
    EXPECT(pwrite(fd, ">hear<", 6, at - file) == 6);
    close(fd);
    free(file);
    s = case_store(&c);
    m = memory();
    kvstore_read_tool_maps(s, m);
    EXPECT_INT(replay_ids(m), 0);
    EXPECT_INT(counter_get(&c.metrics->kv_corrupt), 1);
    EXPECT(case_exists(&c, "a" BLOCK("here"), ".kv.bad"));
    kvstore_close(s);
    replay_close(m);
    case_close(&c);
}

/* ---- when, and what goes -------------------------------------------------------------------------------- */

TEST(a_cold_prompt_is_anchored_before_its_last_user_turn_or_at_an_even_length)
{
    const kv_save_policy p = kv_save_policy_defaults();
    static const struct { int n, last_user, want; } cases[] = {
        { 511, -1, 0 }, { 512, -1, 0 }, { 543, -1, 0 }, { 544, -1, 512 }, { 2079, -1, 512 }, { 2080, -1, 2048 },
        { 5000, -1, 4096 }, { 30000, -1, 28672 }, { 30001, -1, 0 }, { 30001, 4000, 0 },
        { 5000, 3000, 3000 }, { 5000, 512, 512 }, { 5000, 511, 4096 }, { 5000, 0, 4096 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (kv_cold_anchor(&p, cases[i].n, cases[i].last_user) != cases[i].want)
            test_fail(__FILE__, __LINE__, "anchor of %d, user %d: %d, want %d", cases[i].n, cases[i].last_user,
                      kv_cold_anchor(&p, cases[i].n, cases[i].last_user), cases[i].want);
    kv_save_policy q = p;
    EXPECT_INT(kv_continued_interval(&q), 10240);
    q.continued_interval_tokens = 2048;
    EXPECT_INT(kv_continued_interval(&q), 2048);
    q.continued_interval_tokens = 1;
    EXPECT_INT(kv_continued_interval(&q), 2048);
    q.continued_interval_tokens = 0;
    EXPECT_INT(kv_continued_interval(&q), 0);
    q.boundary_align_tokens = 0;
    q.boundary_trim_tokens = 0;
    EXPECT_INT(kv_cold_anchor(&q, 700, -1), 700);
}

TEST(a_file_is_worth_its_hits_its_reason_and_its_tokens_per_byte)
{
    const uint64_t hour = 3600;
    EXPECT(kv_score(KV_SAVE_COLD, 0, 0, 100, 1000) == 0.4);
    EXPECT(kv_score(KV_SAVE_EVICT, 0, 0, 100, 1000) == 0.2);
    EXPECT(kv_score(KV_SAVE_SHUTDOWN, 0, 0, 100, 1000) == 0.2);
    EXPECT(kv_score(KV_SAVE_CONTINUED, 0, 0, 100, 1000) == 0.1);
    EXPECT(kv_score(KV_SAVE_AGENT_SYSTEM, 0, 0, 100, 1000) == 0.1);
    EXPECT(kv_score(KV_SAVE_CONTINUED, 3, 0, 100, 1000) == 0.4);
    EXPECT(kv_score(KV_SAVE_CONTINUED, 4, 6 * hour, 100, 1000) == kv_score(KV_SAVE_CONTINUED, 2, 0, 100, 1000));
    EXPECT(kv_score(KV_SAVE_CONTINUED, 8, 18 * hour, 100, 1000) == 0.2);
    EXPECT(kv_score(KV_SAVE_CONTINUED, 1, 48 * hour, 100, 1000) == 0.1);       /* 2^-8 counts as none */
    EXPECT(kv_score(KV_SAVE_COLD, 0, 0, 100, 0) > 0);
}

/* Sets a stored file's statistics. */
static void set_statistics(const kv_case *c, const char *text, uint32_t hits, uint64_t age)
{
    char path[700];
    ds4_error err;
    kvc_header h;
    case_file(c, text, ".kv", path);
    const int fd = open(path, O_RDWR);
    EXPECT_OK(kvc_read_header(fd, &h, &err), err);
    h.hits = hits;
    h.used = clock_unix_seconds() - age;
    EXPECT_OK(kvc_touch(fd, &h, &err), err);
    close(fd);
}

static uint64_t file_bytes(const kv_case *c, const char *text)
{
    struct stat st;
    char path[700];
    case_file(c, text, ".kv", path);
    return stat(path, &st) ? 0 : (uint64_t)st.st_size;
}

TEST(the_least_valuable_goes_first)
{
    kv_case c;
    REQUIRE(case_open(&c, "order"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    static const struct { const char *text; kv_save_reason reason; uint32_t hits; uint64_t age; } files[] = {
        { "c-old", KV_SAVE_CONTINUED, 0, 5000 },    /* lowest first: equal scores, the older use */
        { "c-new", KV_SAVE_CONTINUED, 0, 100 },
        { "evict", KV_SAVE_EVICT, 0, 90 },
        { "faded", KV_SAVE_CONTINUED, 8, 12 * 3600 },       /* 8 hits, two half lives: 3 */
        { "cold!", KV_SAVE_COLD, 0, 100000 },
        { "loved", KV_SAVE_CONTINUED, 9, 0 },
    };
    enum { N = sizeof files / sizeof *files };
    case_fill(&c, 0, 130);
    for (int i = N - 1; i >= 0; i--) EXPECT_INT(case_save(&c, s, files[i].reason, files[i].text), DS4_OK);
    const uint64_t size = file_bytes(&c, "cold!");
    for (int i = 0; i < N; i++) set_statistics(&c, files[i].text, files[i].hits, files[i].age);
    kvstore_close(s);

    c.o.budget_bytes = N * size + size / 2;
    s = case_store(&c);
    REQUIRE(s);
    for (int i = 0; i < N; i++) {
        char text[32];
        snprintf(text, sizeof text, "new %d", i);
        EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, text), DS4_OK);
        set_statistics(&c, text, 100, 0);           /* what another process would do; it stays */
        for (int k = 0; k < N; k++)
            if (case_exists(&c, files[k].text, ".kv") != (k > i))
                test_fail(__FILE__, __LINE__, "after %d more, %s is %s", i + 1, files[k].text, k > i ? "gone" : "still there");
        EXPECT_INT(counter_get(&c.metrics->kv_evictions), i + 1);
    }
    kvstore_close(s);
    case_close(&c);
}

TEST(the_budget_is_never_exceeded_after_a_save)
{
    kv_case c;
    REQUIRE(case_open(&c, "budget"));
    kvstore *probe = case_store(&c);
    REQUIRE(probe);
    case_fill(&c, 0, 100);
    EXPECT_INT(case_save(&c, probe, KV_SAVE_COLD, "probe"), DS4_OK);
    c.o.budget_bytes = 5 * file_bytes(&c, "probe") / 2;
    kvstore_close(probe);
    kvstore *s[2] = { case_store(&c), case_store(&c) };      /* as two processes would */
    REQUIRE(s[0] && s[1]);
    char folder[600];
    case_folder(&c, folder);
    uint64_t size;
    for (int i = 0; i < 40; i++) {
        char text[32];
        snprintf(text, sizeof text, "text %d", i);
        case_fill(&c, i, 5 + i * 37 % 95);
        EXPECT_INT(case_save(&c, s[i % 2], i % 3 ? KV_SAVE_CONTINUED : KV_SAVE_COLD, text), DS4_OK);
        EXPECT(case_exists(&c, text, ".kv"));
        case_count(folder, ".kv", &size);
        if (size > c.o.budget_bytes) test_fail(__FILE__, __LINE__, "%llu bytes after save %d", (unsigned long long)size, i);
        EXPECT_INT(case_count(folder, ".tmp", NULL), 0);
    }
    EXPECT(counter_get(&c.metrics->kv_evictions) > 10);
    EXPECT(kvstore_counts(s[1]).bytes <= c.o.budget_bytes);
    kvstore_close(s[0]);
    kvstore_close(s[1]);
    case_close(&c);
}

TEST(what_the_request_needs_is_not_evicted_for_it)
{
    kv_case c;
    REQUIRE(case_open(&c, "protected"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_error err;
    case_fill(&c, 0, 130);
    EXPECT_INT(case_save(&c, s, KV_SAVE_CONTINUED, "conv"), DS4_OK);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "other"), DS4_OK);
    EXPECT_INT(case_save(&c, s, KV_SAVE_CONTINUED, "hit"), DS4_OK);
    const uint64_t size = file_bytes(&c, "conv");
    kvstore_close(s);
    c.o.budget_bytes = 3 * size + size / 2;
    s = case_store(&c);
    REQUIRE(s);
    kvstore_hit h;
    REQUIRE(found(s, "hit me", &h));
    kvstore_save_options o = { .reason = KV_SAVE_AGENT_SESSION, .text = slice_of("conversation, longer"), .wait = true,
                               .conversation = slice_of("conversation, longer and longer") };
    EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
    kvstore_wait(s, NULL);
    EXPECT(case_exists(&c, "conv", ".kv") && case_exists(&c, "hit", ".kv"));
    EXPECT(!case_exists(&c, "other", ".kv"));       /* worth more, but nobody needs it now */
    o.text = slice_of("conversation, longer and");
    EXPECT_INT(kvstore_save(s, c.session, &o, &err), DS4_EFULL);   /* all that is there is protected */
    EXPECT(!case_exists(&c, "conversation, longer and", ".kv"));
    EXPECT_INT(kvstore_counts(s).files, 3);
    EXPECT(!found(s, "none", &h));                  /* the hit is not needed any more */
    EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
    kvstore_wait(s, NULL);
    EXPECT(case_exists(&c, "conversation, longer and", ".kv"));
    EXPECT(!case_exists(&c, "hit", ".kv"));
    kvstore_close(s);
    case_close(&c);
}

TEST(a_session_larger_than_the_budget_is_not_written)
{
    kv_case c;
    REQUIRE(case_open(&c, "small"));
    c.o.budget_bytes = 50000;
    kvstore *s = case_store(&c);
    REQUIRE(s);
    case_fill(&c, 0, 130);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_EFULL);
    char folder[600];
    case_folder(&c, folder);
    EXPECT_INT(case_count(folder, "", NULL), 2);    /* . and .. */
    kvstore_close(s);
    case_close(&c);
}

TEST(a_chain_of_continued_files_is_thinned)
{
    kv_case c;
    REQUIRE(case_open(&c, "chain"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_error err;
    char text[200];
    memset(text, 'x', sizeof text);
    EXPECT_INT((case_fill(&c, 0, 10), case_save(&c, s, KV_SAVE_COLD, "xxxxx")), DS4_OK);
    for (int n = 10; n <= 120; n += 10) {           /* as many bytes as tokens, an interval of 10 */
        case_fill(&c, 0, n);
        const kvstore_save_options o = { .reason = KV_SAVE_CONTINUED, .text = { text, (size_t)n }, .wait = true, .interval = 10 };
        EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
        kvstore_wait(s, NULL);
    }
    static const int stay[] = { 40, 80, 120 };
    for (int n = 10, k = 0; n <= 120; n += 10) {
        kvstore_hit h;
        const bool here = kvstore_find(s, (slice){ text, (size_t)n }, 1000, 0, &h) && h.tokens == n && h.text_bytes == (size_t)n;
        if (here != (n == stay[k])) test_fail(__FILE__, __LINE__, "the file of %d tokens is %s", n, here ? "there" : "gone");
        k += n == stay[k];
    }
    EXPECT_INT(kvstore_counts(s).files, 4);         /* the cold one is no link of it */
    EXPECT_INT(counter_get(&c.metrics->kv_evictions), 0);
    kvstore_close(s);
    case_close(&c);
}

TEST(what_is_on_disk_is_not_written_again)
{
    kv_case c;
    REQUIRE(case_open(&c, "again"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    struct stat before, after;
    char path[700];
    case_fill(&c, 0, 30);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_OK);
    case_file(&c, "text", ".kv", path);
    EXPECT(!stat(path, &before));
    EXPECT_INT(case_save(&c, s, KV_SAVE_EVICT, "text"), DS4_OK);
    EXPECT(!stat(path, &after));
    EXPECT(before.st_ino == after.st_ino);
    EXPECT_INT(histogram_below(&c.metrics->kv_save[KV_SAVE_EVICT], c.metrics->kv_save[KV_SAVE_EVICT].n), 0);
    case_fill(&c, 0, 31);                           /* other tokens under the same text are another state */
    EXPECT_INT(case_save(&c, s, KV_SAVE_EVICT, "text"), DS4_OK);
    kvstore_hit h;
    REQUIRE(found(s, "text", &h));
    EXPECT_INT(h.tokens, 31);
    EXPECT_INT(kvstore_counts(s).files, 1);
    kvstore_close(s);
    case_close(&c);
}

/* ---- the saving thread ------------------------------------------------------------------------------------- */

TEST(a_second_save_is_skipped_and_the_session_is_free_before_the_file_is_done)
{
    kv_case c;
    REQUIRE(case_open(&c, "busy"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_error err;
    char path[600];
    snprintf(path, sizeof path, "%s/lock", c.dir);
    const int fd = open(path, O_RDWR);
    EXPECT(!flock(fd, LOCK_EX));                    /* another process evicts: ours can not rename now */
    case_fill(&c, 0, 300);
    const kvstore_save_options o = { .reason = KV_SAVE_COLD, .text = slice_of("one") };
    kvstore_save_options two = o;
    two.text = slice_of("two");
    EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
    EXPECT_INT(kvstore_save(s, c.session, &two, &err), DS4_EFULL);
    kvstore_wait(s, c.session);
    ds4_session_reset(c.session);
    case_fill(&c, 1, 40);
    EXPECT(!case_exists(&c, "one", ".kv"));
    kvstore_hit h;
    EXPECT(!found(s, "one", &h));                   /* does not wait */
    EXPECT(!flock(fd, LOCK_UN));
    kvstore_wait(s, NULL);
    EXPECT(found(s, "one", &h));
    EXPECT_INT(h.tokens, 300);
    two.wait = true;
    EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
    EXPECT_OK(kvstore_save(s, c.session, &two, &err), err);
    kvstore_close(s);                               /* waits, too */
    EXPECT(case_exists(&c, "two", ".kv"));
    close(fd);
    case_close(&c);
}

TEST(after_a_failure_of_the_disk_saving_pauses)
{
    kv_case c;
    REQUIRE(case_open(&c, "full"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    struct rlimit old, tight = { 0, 0 };
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    tight.rlim_cur = 100000;                        /* a write beyond it fails, as on a full disk */
    tight.rlim_max = old.rlim_max;
    case_fill(&c, 0, 300);
    EXPECT(!setrlimit(RLIMIT_FSIZE, &tight));
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_OK);
    EXPECT(!setrlimit(RLIMIT_FSIZE, &old));
    char folder[600];
    case_folder(&c, folder);
    EXPECT_INT(case_count(folder, "", NULL), 2);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_EIO);
    EXPECT_INT(case_count(folder, "", NULL), 2);
    kvstore_close(s);
    s = case_store(&c);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_OK);
    EXPECT(case_exists(&c, "text", ".kv"));
    kvstore_close(s);
    case_close(&c);
}

TEST(leftovers_of_the_dead_are_removed_and_those_of_the_living_stay)
{
    kv_case c;
    REQUIRE(case_open(&c, "leftovers"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    kvstore_close(s);
    char folder[600], path[3][700];
    case_folder(&c, folder);
    int fd[3];
    for (int i = 0; i < 3; i++) {
        snprintf(path[i], sizeof path[i], "%s/.0123456789012345678901234567890123456789.%d.%d.tmp", folder, i == 0 ? 99999999 : (int)getpid(), i);
        fd[i] = open(path[i], O_CREAT | O_RDWR, 0600);
        if (i > 0) EXPECT(!flock(fd[i], LOCK_EX));
    }
    const struct timespec long_ago[2] = { { time(NULL) - 90000, 0 }, { time(NULL) - 90000, 0 } };
    EXPECT(!futimens(fd[2], long_ago));
    s = case_store(&c);
    REQUIRE(s);
    EXPECT(access(path[0], F_OK));                  /* its writer is gone  */
    EXPECT(!access(path[1], F_OK));                 /* at work             */
    EXPECT(access(path[2], F_OK));                  /* a day old: forgotten */
    kvstore_close(s);
    for (int i = 0; i < 3; i++) close(fd[i]);
    case_close(&c);
}

TEST(a_file_that_fails_later_can_be_rejected_and_one_that_does_not_fit_stays)
{
    kv_case c;
    REQUIRE(case_open(&c, "reject"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    ds4_error err;
    ds4_session *small;
    kvstore_hit h;
    case_fill(&c, 0, 300);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_OK);
    REQUIRE_OK(ds4_session_open(&small, c.engine, 256, &err), err);
    REQUIRE(found(s, "text", &h));
    EXPECT_INT(kvstore_load(s, &h, small, NULL, &err), DS4_EFULL);
    ds4_session_close(small);
    EXPECT_INT(counter_get(&c.metrics->kv_corrupt), 0);
    REQUIRE(found(s, "text", &h));
    EXPECT_OK(kvstore_load(s, &h, c.session, NULL, &err), err);
    kvstore_reject(s, &h);
    EXPECT_INT(counter_get(&c.metrics->kv_corrupt), 1);
    EXPECT(!found(s, "text", &h));
    EXPECT(case_exists(&c, "text", ".kv.bad"));
    EXPECT_INT(kvstore_counts(s).files, 1);         /* it takes room until the next start */
    kvstore_close(s);
    case_close(&c);
}

TEST(bad_places_are_refused_with_a_sentence)
{
    kv_case c;
    REQUIRE(case_open(&c, "a-file"));
    close(open(c.dir, O_CREAT | O_WRONLY, 0600));
    kvstore *s = NULL;
    ds4_error err = { 0 };
    EXPECT_INT(kvstore_open(&s, &c.o, c.engine, &err), DS4_EIO);
    EXPECT(s == NULL && strstr(err.message, "a-file"));
    c.o.dir = "";
    EXPECT_INT(kvstore_open(&s, &c.o, c.engine, &err), DS4_EARG);
    kvstore_close(NULL);
    case_close(&c);
}

TEST(nothing_to_save_is_said)
{
    kv_case c;
    REQUIRE(case_open(&c, "nothing"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, "text"), DS4_EARG);
    case_fill(&c, 0, 10);
    EXPECT_INT(case_save(&c, s, KV_SAVE_COLD, ""), DS4_EARG);
    EXPECT_INT(case_save(&c, s, (kv_save_reason)99, "text"), DS4_EARG);
    kvstore_close(s);
    case_close(&c);
}

/* ---- many files ------------------------------------------------------------------------------------------------ */

TEST(ten_thousand_files_are_listed_quickly)
{
    enum { N = 10000 };
    kv_case c;
    REQUIRE(case_open(&c, "many"));
    kvstore *s = case_store(&c);
    REQUIRE(s);
    kvstore_close(s);
    char folder[600];
    case_folder(&c, folder);
    for (int i = 0; i < N; i++) {                   /* headers over holes: sizes add up, no trailer */
        char path[700], text[32];
        uint8_t head[64] = "KVC\1\10\1";
        const uint64_t payload = 20000;
        const uint32_t tokens = 100, len = (uint32_t)snprintf(text, sizeof text, "%05d", i);
        memcpy(head + 8, &tokens, 4);
        memcpy(head + 40, &payload, 8);
        memcpy(head + 48, &len, 4);
        memcpy(head + 52, text, len);
        case_file(&c, text, ".kv", path);
        if (i > 10) {                               /* the identity is computed once */
            uint8_t sha[KV_SHA_BYTES];
            char hex[2 * KV_SHA_BYTES + 1];
            EXPECT_INT(kv_text_sha(slice_of(text), sha, NULL), DS4_OK);
            kv_hex(sha, KV_SHA_BYTES, hex);
            snprintf(path, sizeof path, "%s/%s.kv", folder, hex);
        }
        const int fd = open(path, O_CREAT | O_WRONLY, 0600);
        if (pwrite(fd, head, sizeof head, 0) != sizeof head || ftruncate(fd, (off_t)(52 + len + payload)))
            test_fail(__FILE__, __LINE__, "a file can not be made");
        close(fd);
    }
    uint64_t t = clock_ns();
    s = case_store(&c);
    REQUIRE(s);
    printf("opened over %d files in %.3f s\n", N, (double)(clock_ns() - t) / 1e9);
    EXPECT_INT(kvstore_counts(s).files, N);
    kvstore_hit h;
    t = clock_ns();
    EXPECT(found(s, "01234 and so on", &h));
    printf("found one of them in %.4f s\n", (double)(clock_ns() - t) / 1e9);
    EXPECT_INT(h.text_bytes, 5);
    EXPECT(!found(s, "x1234", &h));
    kvstore_close(s);
    case_close(&c);
}
