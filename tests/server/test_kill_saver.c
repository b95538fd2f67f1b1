/* kill -9 while sessions are saved: what lies in the folder afterwards is whole or temporary.
 *
 * A child saves, evicts and replaces without pause and is killed at a random moment; the next
 * start must be clean, and every file that is found must load. */
#include "server/kvstore_case.h"

#include <signal.h>
#include <sys/wait.h>

enum { N_TEXTS = 5, SHORT = 150, LONG = 500 };

typedef struct {
    ds4_engine     *engine;
    ds4_session    *session[2], *loaded;
    server_metrics *metrics;
    char            dir[512], folder[600];
    kvstore_options o;
} arena;

static const char *text_of(int i)
{
    static const char *const texts[N_TEXTS] = { "a", "ab", "abc", "xyz", "other" };
    return texts[i];
}

/* Five texts and room for three: files must go for others to come. */
static bool budget_for_three(arena *a)
{
    kvc *k = NULL;
    const kvc_about about = { .text = slice_of("about as long") };
    if (kvc_take(&k, a->session[1], &about, NULL)) return false;
    a->o.budget_bytes = 3 * kvc_bytes(k) + kvc_bytes(k) / 8;
    kvc_free(k);
    return true;
}

static bool prepare(arena *a, const char *model, const char *dir)
{
    ds4_error err;
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = model;
    o.n_threads = 1;                                /* no thread but ours when we fork */
    o.max_tokens = 1024;
    o.max_sessions = 3;
    memset(a, 0, sizeof *a);
    if (ds4_engine_open(&a->engine, &o, &err)) {
        test_fail(__FILE__, __LINE__, "open: %s", err.message);
        return false;
    }
    for (int i = 0; i < 2; i++) {
        ds4_token t[LONG];
        for (int k = 0; k < LONG; k++) t[k] = (k * 31 + 7) % 500;
        EXPECT_OK(ds4_session_open(&a->session[i], a->engine, 1024, &err), err);
        EXPECT_OK(ds4_session_feed(a->session[i], t, i ? LONG : SHORT, NULL, NULL, &err), err);
    }
    EXPECT_OK(ds4_session_open(&a->loaded, a->engine, 1024, &err), err);
    a->metrics = malloc(sizeof *a->metrics);
    server_metrics_init(a->metrics);
    snprintf(a->dir, sizeof a->dir, "%s", test_scratch(dir));
    engine_folder(a->engine, a->dir, a->folder);
    a->o = (kvstore_options){ .dir = a->dir, .budget_bytes = 1 << 30, .metrics = a->metrics };
    return budget_for_three(a);
}

static void finish(arena *a)
{
    ds4_session_close(a->session[0]);
    ds4_session_close(a->session[1]);
    ds4_session_close(a->loaded);
    ds4_engine_close(a->engine);
    free(a->metrics);
}

/* The child: does not come back, and does not outlive a parent that was killed itself. */
static void save_for_ever(arena *a, int ready, unsigned seed)
{
    kvstore *s = NULL;
    alarm(20);
    if (kvstore_open(&s, &a->o, a->engine, NULL) || write(ready, "r", 1) != 1) _exit(1);
    for (unsigned i = seed;; i++) {
        const kvstore_save_options o = { .reason = (kv_save_reason)(i % METRIC_SAVE_REASONS),
                                         .text = slice_of(text_of((int)(i % N_TEXTS))), .interval = 100 };
        (void)kvstore_save(s, a->session[i / N_TEXTS % 2], &o, NULL);
        if (i % 3) kvstore_wait(s, NULL);
    }
}

/* Loads whatever is found; returns how many files that were. */
static int check(arena *a, int round)
{
    kvstore *s = NULL;
    ds4_error err;
    int n = 0;
    if (kvstore_open(&s, &a->o, a->engine, &err)) {
        test_fail(__FILE__, __LINE__, "round %d: %s", round, err.message);
        return 0;
    }
    for (int i = 0; i < N_TEXTS; i++) {
        kvstore_hit h;
        if (!kvstore_find(s, slice_of(text_of(i)), 1024, 0, &h) || h.text_bytes != strlen(text_of(i))) continue;
        n++;
        if (kvstore_load(s, &h, a->loaded, NULL, &err)) test_fail(__FILE__, __LINE__, "round %d: %s", round, err.message);
        else if (ds4_session_length(a->loaded) != SHORT) EXPECT_INT(ds4_session_length(a->loaded), LONG);
    }
    EXPECT_INT(counter_get(&a->metrics->kv_corrupt), 0);
    EXPECT_INT(case_count(a->folder, ".tmp", NULL), 0);
    EXPECT_INT(case_count(a->folder, ".kv", NULL), n);
    kvstore_close(s);
    return n;
}

static void kill_often(const char *model, const char *dir, int rounds, uint64_t longest_us)
{
    arena a;
    if (!prepare(&a, model, dir)) return;
    uint64_t random = test_seed(), found = 0;
    int temps = 0;
    for (int i = 0; i < rounds; i++) {
        int ready[2];
        char byte;
        REQUIRE(!pipe(ready));
        const pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) save_for_ever(&a, ready[1], (unsigned)i);
        close(ready[1]);
        EXPECT_INT(read(ready[0], &byte, 1), 1);
        random = random * 6364136223846793005u + 1442695040888963407u;
        usleep((useconds_t)((random >> 33) % longest_us));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        close(ready[0]);
        temps += case_count(a.folder, ".tmp", NULL);
        const int n = check(&a, i);
        found += (uint64_t)n;
    }
    printf("%d kills: %d temporary files were left and removed, %llu files were found and loaded\n", rounds, temps,
           (unsigned long long)found);
    EXPECT(temps > 0);
    EXPECT(found > 0);
    finish(&a);
}

/* Sanitizers make a process slow to fork and to start. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FEWER = 20 };
#else
enum { FEWER = 1 };
#endif

TEST(a_thousand_kills_of_quick_saves) { kill_often(tiny_model("q8_0"), "quick", 1000 / FEWER, 6000 * FEWER); }

TEST(two_hundred_kills_with_the_bundled_model)
{
    const char *model = test_data("../../models/tiny/ds4-tiny.gguf");
    if (access(model, R_OK)) {
        test_skip("no %s", model);
        return;
    }
    kill_often(model, "real", 200 / FEWER, 20000 * FEWER);
}
