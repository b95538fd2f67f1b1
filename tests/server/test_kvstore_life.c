/* The session store over time: what is saved when, what goes, the thread that saves, many files. */
#include "server/kvstore_case.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <time.h>

#include "base/clock.h"

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
                test_fail(__FILE__, __LINE__, "after %d more, %s is %s", i + 1, files[k].text,
                          k > i ? "gone" : "still there");
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
        if (size > c.o.budget_bytes)
            test_fail(__FILE__, __LINE__, "%llu bytes after save %d", (unsigned long long)size, i);
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
        const kvstore_save_options o = { .reason = KV_SAVE_CONTINUED, .text = { text, (size_t)n }, .wait = true,
                                         .interval = 10 };
        EXPECT_OK(kvstore_save(s, c.session, &o, &err), err);
        kvstore_wait(s, NULL);
    }
    static const int stay[] = { 40, 80, 120 };
    for (int n = 10, k = 0; n <= 120; n += 10) {
        kvstore_hit h;
        const bool here = kvstore_find(s, (slice){ text, (size_t)n }, 1000, 0, &h) && h.tokens == n &&
            h.text_bytes == (size_t)n;
        if (here != (n == stay[k]))
            test_fail(__FILE__, __LINE__, "the file of %d tokens is %s", n, here ? "there" : "gone");
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
        snprintf(path[i], sizeof path[i], "%s/.0123456789012345678901234567890123456789.%d.%d.tmp", folder,
                 i == 0 ? 99999999 : (int)getpid(), i);
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
