/* The session store: what is saved is found again by its text, and nothing else is. */
#include "server/kvstore_case.h"

#include <fcntl.h>
#include <sys/wait.h>

#include "base/clock.h"

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
    const replay_record r = { .block = slice_of(block), .ids = ids, .names = names, .arguments = arguments,
                              .n_calls = 1 };
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
    const kvstore_save_options o = { .reason = KV_SAVE_EVICT, .text = slice_of("a" BLOCK("here")), .wait = true,
                                     .replay = m };
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
