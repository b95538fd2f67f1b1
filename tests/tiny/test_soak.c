/* A night in short: conversations that grow, fork, come back and are left in the middle, on slots that are too few, with
 * a folder that is too small, over restarts. Greedy answers are those of an engine that computes every prompt from its
 * first token, unless the session keeps what was sampled and the client's text would be spelled otherwise.
 *
 * DS4_TEST_SOAK=N: N rounds instead of the few of `make test`. */
#include "scheduler_rig.h"

#include "base/checked.h"
#include "base/random.h"
#include "text/tokenizer.h"

enum { CONVERSATIONS = 6, LINES = 24, AT_ONCE = 4, ANSWER_TOKENS = 24, CONTEXT = 4608, QUICK_ROUNDS = 4 };

typedef struct {
    line  lines[LINES];
    char *owned[LINES];
    bool  exact[LINES];         /* the text's tokens are those that were sampled */
    int   n;
} conversation;

typedef struct {
    ds4_engine   *reference;
    ds4_session  *cold;
    rig           r;
    bool          open;
    random_stream random;
    conversation  talk[CONVERSATIONS];
    char         *systems[3];
    int           compared, cancelled, passed_over;
    uint64_t      from_disk, live, evictions, computed;
} soak;

static int below(soak *k, int n) { return (int)random_below(&k->random, (uint64_t)n); }

static ds4_engine_options engine_options(int sessions, int tokens)
{
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = test_data("../../models/tiny/ds4-tiny.gguf");
    o.max_sessions = sessions;
    o.max_tokens = tokens;
    o.max_batch_rows = 256;
    o.n_threads = 1;
    return o;
}

/* Another context, other slots and other rounding at each start, in one folder. */
static void open_rig(soak *k)
{
    ds4_error err;
    rig *r = &k->r;
    memset(r, 0, sizeof *r);
    const int slots = 1 + below(k, 3);
    ds4_engine_options eo = engine_options(slots, CONTEXT + 512 * below(k, 4));
    eo.other_tokens = CONTEXT - 2048;
    eo.side_tokens = below(k, 2) ? 2048 : 0;
    eo.rewind_points = 2 + below(k, 15);
    server_metrics_init(&r->metrics);
    ds4_status st = ds4_engine_open(&r->e, &eo, &err);
    if (!st) st = replay_open(&r->replay, 16, 1 << 16, &err);
    const kvstore_options ko = { .dir = test_scratch("soak"), .budget_bytes = 6u << 20, .metrics = &r->metrics };
    if (!st) st = kvstore_open(&r->store, &ko, r->e, &err);
    sched_options o = sched_defaults();
    o.n_slots = slots;
    o.slot_ctx = eo.other_tokens;
    o.store = r->store;
    o.replay = r->replay;
    o.metrics = &r->metrics;
    o.finish_orphans = below(k, 2);
    o.save.min_tokens = 64;
    o.save.boundary_align_tokens = 256;
    o.save.continued_interval_tokens = 512;
    o.save.turn_tokens = below(k, 2) ? 256 : 0;
    if (!st) st = sched_open(&r->s, r->e, &o, &err);
    if (st) test_fail(__FILE__, __LINE__, "opening: %s", err.message);
    r->at = (asked){ r->s, ds4_engine_vocab(k->reference) };
    k->open = !st;
}

static void close_rig(soak *k)
{
    const server_metrics *m = &k->r.metrics;
    k->from_disk += counter_get(&m->cached_tokens[SOURCE_DISK]);
    k->live += counter_get(&m->cached_tokens[SOURCE_LIVE]) + counter_get(&m->cached_tokens[SOURCE_VISIBLE]);
    k->evictions += counter_get(&m->kv_evictions);
    k->computed += counter_get(&m->prefill_tokens);
    EXPECT_INT(counter_get(&m->kv_corrupt), 0);
    EXPECT_INT(counter_get(&m->ended[ENDED_ERROR]), 0);
    rig_close(&k->r);
    k->open = false;
}

static char *sentences(soak *k, int n)
{
    static const char *const words[] = { "cache", "ds4", "session", "What", "is", "the", "a", "12", "+", "30", "model",
                                         "run",
                                         "\xC3\xA9t\xC3\xA9", "{\"a\":1}", "\n", "<b>", "  ", "slot", "?", "and" };
    char *text = malloc((size_t)n * 12 + 1);
    size_t at = 0;
    for (int i = 0; i < n; i++) at += (size_t)sprintf(text + at, "%s ", words[below(k, (int)countof(words))]);
    text[at - 1] = 0;
    return text;
}

static void cut_to(conversation *c, int n)
{
    while (c->n > n) free(c->owned[--c->n]);
}

static void say(conversation *c, const char *role, char *text, bool exact)
{
    c->owned[c->n] = text;
    c->exact[c->n] = exact;
    c->lines[c->n++] = (line){ .role = role, .text = text };
}

static void begin(soak *k, conversation *c)
{
    cut_to(c, 0);
    say(c, "system", strdup(k->systems[below(k, 3)]), true);
    say(c, "user", sentences(k, 4 + below(k, 40)), true);
}

/* What somebody does before he asks again. */
static void change(soak *k, conversation *c)
{
    const int what = below(k, 8);
    if (c->n + 2 >= LINES || what == 0) begin(k, c);
    else if (what == 1) return;                                 /* the same once more */
    else if (what == 2 && c->n > 2) {                           /* an earlier question, put otherwise */
        cut_to(c, 1 + 2 * below(k, c->n / 2));
        say(c, "user", sentences(k, 4 + below(k, 100)), true);
    } else {
        if (c->n % 2 == 0) say(c, "assistant", sentences(k, 3 + below(k, 20)), true);   /* of another model */
        say(c, "user", sentences(k, 4 + below(k, 150)), true);
    }
}

/* The answer from nothing. False: it holds what an answer does not show as it is. */
static bool answer_of(soak *k, const token_list *prompt, bytes *out, token_list *sampled)
{
    ds4_error err;
    ds4_sampler *sampler = NULL;
    ds4_sampling p = ds4_sampling_defaults();
    p.temperature = 0;
    const vocab *v = k->r.at.v;
    ds4_shape shape;
    ds4_engine_shape(k->reference, &shape);
    bool plain = true;
    ds4_session_reset(k->cold);
    ds4_status st = ds4_session_feed(k->cold, prompt->ids, (int)prompt->n, NULL, NULL, &err);
    if (!st) st = ds4_sampler_new(&sampler, &p, shape.n_vocab, &err);
    for (int i = 0; i < ANSWER_TOKENS && !st; i++) {
        size_t n;
        const ds4_token t = ds4_sample_best(sampler, ds4_session_logits(k->cold));
        if (t == vocab_special(v)->eos) break;
        plain = plain && !vocab_hidden(v, t);
        const char *text = vocab_bytes(v, t, &n);
        bytes_append(out, text, n);
        token_list_push(sampled, t);
        st = ds4_session_feed(k->cold, &t, 1, NULL, NULL, &err);
    }
    if (st) test_fail(__FILE__, __LINE__, "reference: %s", err.message);
    ds4_sampler_free(sampler);
    return plain && !st;
}

static bool retokenises(const vocab *v, const bytes *text, const token_list *sampled)
{
    token_list again;
    token_list_init(&again, 4096);
    const bool same = text->len && !tokenizer_encode(v, (slice){ text->data, text->len }, false, &again, NULL)
                   && again.n == sampled->n && !memcmp(again.ids, sampled->ids, again.n * sizeof *again.ids);
    token_list_free(&again);
    return same;
}

static bool is_exact(const conversation *c)
{
    for (int i = 0; i < c->n; i++) if (!c->exact[i]) return false;
    return true;
}

/* One request that runs. */
typedef struct {
    client        c;
    conversation *talk;
    token_list    prompt;
    int           events;       /* read before the client leaves; -1: all */
    int           n;
} asking;

static bool send(soak *k, asking *a, conversation *talk)
{
    reuse_prompt p;
    chat_start start;
    client_open(&a->c);
    a->talk = talk;
    a->events = below(k, 4) ? -1 : below(k, 12);
    token_list_init(&a->prompt, 1 << 20);
    if (!render(&k->r.at, talk->lines, talk->n, &(render_options){ .hint = below(k, 2) ? (uint64_t)(talk - k->talk) + 1 : 0 },
                &p, &start)) return false;
    for (size_t i = 0; i < p.tokens.n; i++) token_list_push(&a->prompt, p.tokens.ids[i]);
    sched_request q = request(&p, start);
    q.max_tokens = ANSWER_TOKENS;
    q.n = a->n = below(k, 6) ? 1 : 2;
    q.side = below(k, 8) == 0;
    if (submit(&k->r.at, &a->c, &q)) {
        cut_to(talk, 0);                                        /* grown out of the context */
        return false;
    }
    return true;
}

static void check(soak *k, asking *a)
{
    bytes want;
    token_list sampled;
    bytes_init(&want, 1 << 20);
    token_list_init(&sampled, 4096);
    client *c = &a->c;
    if (c->end != SCHED_DONE) test_fail(__FILE__, __LINE__, "failed: %s", c->error.message);
    const bool plain = answer_of(k, &a->prompt, &want, &sampled);
    const bool whole = a->prompt.n + ANSWER_TOKENS < CONTEXT - 2048;   /* no slot was too short for it */
    if (!plain || !whole || !is_exact(a->talk)) {
        k->passed_over++;
    } else {
        k->compared++;
        for (int i = 0; i < a->n; i++) EXPECT_TEXT(c->text[i].data ? c->text[i].data : "", want.data ? want.data : "");
    }
    const bool exact = plain && retokenises(k->r.at.v, &want, &sampled);
    if (a->talk->n + 2 < LINES && below(k, 3))
        say(a->talk, "assistant", strdup(c->text[0].data ? c->text[0].data : ""), exact);
    bytes_free(&want);
    token_list_free(&sampled);
}

/* Reads the answer, or leaves. */
static void receive(soak *k, asking *a)
{
    sched_event e;
    while (a->events > 0 && a->c.end == SCHED_NOTHING) {
        if (sched_next(a->c.t, &e) == SCHED_NOTHING) nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
        else client_take(&a->c, &e);
        a->events--;
    }
    if (a->events < 0 && client_wait(&a->c)) check(k, a);
    else k->cancelled++;
}

static void run_round(soak *k)
{
    asking at[AT_ONCE];
    int n = 0, first = below(k, CONVERSATIONS);
    for (int i = 0; i < AT_ONCE; i++) {
        conversation *c = &k->talk[(first + i) % CONVERSATIONS];
        if (c->n == 0) begin(k, c);
        change(k, c);
        if (send(k, &at[n], c)) n++;
        else {
            client_close(&at[n].c);
            token_list_free(&at[n].prompt);
        }
    }
    for (int i = 0; i < n; i++) {
        receive(k, &at[i]);
        client_close(&at[i].c);
        token_list_free(&at[i].prompt);
    }
}

/* Nothing of a request is left once it was released. */
static void expect_free_slots(soak *k)
{
    sched_slot_status st[8];
    int busy = 1;
    for (int tries = 0; tries < 5000 && busy; tries++) {
        const int n = sched_status(k->r.s, st, 8);
        busy = 0;
        for (int i = 0; i < n; i++) busy += st[i].state == SLOT_PREFILL || st[i].state == SLOT_DECODE;
        if (busy) nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    }
    EXPECT(busy == 0);
    EXPECT(kvstore_counts(k->r.store).bytes <= 6u << 20);
}

TEST(whatever_is_kept_or_loaded_the_answers_are_those_of_a_cold_start)
{
    soak k = { .open = false };
    ds4_error err;
    const char *wanted = getenv("DS4_TEST_SOAK");
    const int rounds = wanted ? atoi(wanted) : QUICK_ROUNDS;
    random_seed(&k.random, test_seed());
    const ds4_engine_options eo = engine_options(1, 8192);
    if (ds4_engine_open(&k.reference, &eo, &err) || ds4_session_open(&k.cold, k.reference, 8192, &err)) {
        test_fail(__FILE__, __LINE__, "reference: %s", err.message);
        return;
    }
    for (int i = 0; i < 3; i++) k.systems[i] = sentences(&k, 20 + 200 * i);
    for (int i = 0; i < rounds; i++) {
        if (!k.open) open_rig(&k);
        if (!k.open) break;
        run_round(&k);
        if (below(&k, 8) == 0) {
            expect_free_slots(&k);
            close_rig(&k);
        }
    }
    if (k.open) {
        expect_free_slots(&k);
        close_rig(&k);
    }
    EXPECT(k.compared > rounds / 2);
    EXPECT(k.live > 0);
    if (wanted)
        fprintf(stderr, "%d compared, %d left, %d not comparable; %llu tokens computed, %llu live, %llu from disk; %llu evictions\n",
                k.compared, k.cancelled, k.passed_over, (unsigned long long)k.computed, (unsigned long long)k.live,
                (unsigned long long)k.from_disk, (unsigned long long)k.evictions);
    for (int i = 0; i < 3; i++) free(k.systems[i]);
    for (int i = 0; i < CONVERSATIONS; i++) cut_to(&k.talk[i], 0);
    ds4_session_close(k.cold);
    ds4_engine_close(k.reference);
}
