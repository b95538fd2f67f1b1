#include "fake_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status.h"
#include "engine/kvc.h"
#include "gguf/gguf.h"
#include "text/json_tree.h"
#include "text/tokenizer.h"

#define MAX_RULES    256
#define MAX_SESSIONS 64
#define MAX_POINTS   32

typedef struct {
    char *user, *prompt, *answer;
    int   turn;
} rule;

struct ds4_engine {
    ds4_engine_options o;
    vocab             *v;
    ds4_shape          shape;
    rule               rules[MAX_RULES];
    int                n_rules;
    ds4_session       *sessions[MAX_SESSIONS];
    int                sleep_us;
    int                fail_on;
    bool               spoil;
    bool               lose, lost;
    int                bad_reopenings;
    uint64_t           reopenings;
    ds4_metrics        metrics;
    pthread_mutex_t    lock;            /* guards what follows, and metrics and the two above */
    pthread_cond_t     gate;
    int                allowed;
    bool               waiting;
};

typedef struct {
    int  length;
    bool has_logits;
} point;

struct ds4_session {
    ds4_engine *e;
    int         length, capacity, in_batch;
    ds4_token  *tokens;                 /* [capacity]                        */
    uint64_t   *state;                  /* [capacity + 1] by length          */
    bool        has_logits, spoilt;
    float      *logits;                 /* [n_vocab]                         */
    bool        logits_made;
    point       points[MAX_POINTS];
    int         n_points, pinned;
    int32_t    *script;                 /* tokens of the answer that begins at script_begin; -1: none */
    int         n_script, script_begin, followed;   /* of them, so many entered */
};

typedef struct {
    ds4_session *s;
    ds4_token   *tokens;
    int          n, first;
    ds4_logits   logits;
} segment_of_batch;

struct ds4_batch {
    ds4_engine      *e;
    segment_of_batch segments[MAX_SESSIONS];
    int              n, rows;
    bool             stepped;
    float           *logits;            /* one row, made on demand           */
};

static _Atomic uint64_t now_ns = UINT64_C(1000000000);

uint64_t fake_now_ns(void) { return atomic_load(&now_ns); }

void fake_pass_ns(uint64_t ns) { atomic_fetch_add(&now_ns, ns); }

static uint64_t chain(uint64_t state, ds4_token t, int pos)
{
    uint64_t x = state ^ ((uint64_t)(uint32_t)t * UINT64_C(0x9e3779b97f4a7c15)) ^ ((uint64_t)pos << 40);
    x = (x ^ (x >> 31)) * UINT64_C(0xbf58476d1ce4e5b9);
    return x ^ (x >> 29);
}

uint64_t fake_state_of(const ds4_token *t, int n)
{
    uint64_t h = 1;
    for (int i = 0; i < n; i++) h = chain(h, t[i], i);
    return h;
}

uint64_t fake_state(const ds4_session *s) { return s->state[s->length]; }
ds4_session *fake_session(ds4_engine *e, int i) { return i < MAX_SESSIONS ? e->sessions[i] : NULL; }

/* ---- engine ------------------------------------------------------------------------------- */

ds4_engine_options ds4_engine_defaults(void)
{
    return (ds4_engine_options){ .backend = "auto", .max_sessions = 1, .max_tokens = 32768, .max_batch_rows = 512,
                                 .rewind_points = 8, .isa_mask = ~0u };
}

ds4_status ds4_engine_plan(const ds4_engine_options *o, ds4_plan *out, ds4_error *err)
{
    (void)err;
    *out = (ds4_plan){ .kv_bytes = 1, .total_bytes = 1, .available_bytes = UINT64_C(1) << 40,
                       .max_tokens_that_fit = o->max_tokens };
    return DS4_OK;
}

static char *copy_text(slice text) { return strndup(text.data ? text.data : "", text.len); }

static void add_rule(ds4_engine *e, slice user, slice prompt, int turn, slice answer)
{
    if (e->n_rules == MAX_RULES) return;
    e->rules[e->n_rules++] = (rule){ .user = copy_text(user), .prompt = copy_text(prompt), .answer = copy_text(answer),
                                     .turn = turn };
}

void fake_rule(ds4_engine *e, const char *user, int turn, const char *answer)
{
    add_rule(e, slice_of(user), slice_of(""), turn, slice_of(answer));
}

static slice text_member(const json_tree *t, uint32_t node, const char *key)
{
    const uint32_t m = json_tree_find(t, node, key);
    return m && t->nodes[m].kind == JSON_TREE_STRING ? t->nodes[m].text : (slice){ "", 0 };
}

static int int_member(const json_tree *t, uint32_t node, const char *key, int otherwise)
{
    const uint32_t m = json_tree_find(t, node, key);
    return m && t->nodes[m].kind == JSON_TREE_NUMBER ? atoi(t->nodes[m].text.data) : otherwise;
}

static char *read_text(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *text = NULL;
    size_t cap = 0;
    *n = 0;
    do {
        cap = cap ? 2 * cap : 65536;
        text = realloc(text, cap);
        *n += fread(text + *n, 1, cap - *n - 1, f);
    } while (*n == cap - 1);
    fclose(f);
    text[*n] = 0;
    return text;
}

/* The vocabulary's path in `model`. */
static ds4_status read_script(ds4_engine *e, const char *path, char *model, size_t cap, ds4_error *err)
{
    size_t n;
    char *text = read_text(path, &n);
    json_tree t;
    if (!text) return ds4_fail(err, DS4_ENOTFOUND, "no script %s", path);
    const ds4_status st = json_tree_parse(&t, (slice){ text, n }, err);
    if (!st) {
        const slice file = text_member(&t, 1, "vocabulary");
        snprintf(model, cap, "%.*s", (int)file.len, file.data);
        e->sleep_us = int_member(&t, 1, "sleep_us", 0);
        const int context = int_member(&t, 1, "context", 0);
        if (context > 0) e->o.max_tokens = min_int(e->o.max_tokens, context);
        const uint32_t rules = json_tree_find(&t, 1, "rules");
        for (uint32_t r = rules ? t.nodes[rules].first : 0; r; r = t.nodes[r].next)
            add_rule(e, text_member(&t, r, "user"), text_member(&t, r, "prompt"), int_member(&t, r, "turn", 0),
                     text_member(&t, r, "answer"));
        json_tree_free(&t);
    }
    free(text);
    return st;
}

ds4_status ds4_engine_open(ds4_engine **out, const ds4_engine_options *o, ds4_error *err)
{
    *out = NULL;
    ds4_engine *e = calloc(1, sizeof *e);
    e->o = *o;
    e->allowed = e->fail_on = -1;
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->gate, NULL);

    char model[512];
    snprintf(model, sizeof model, "%s", o->model_path);
    const size_t n = strlen(model);
    ds4_status st = DS4_OK;
    if (n > 5 && !strcmp(model + n - 5, ".json")) st = read_script(e, o->model_path, model, sizeof model, err);
    gguf *g = NULL;
    if (!st) st = gguf_open(&g, model, NULL, err);
    if (!st) st = vocab_open(&e->v, g, err);
    gguf_close(g);
    if (st) {
        ds4_engine_close(e);
        return st;
    }
    e->shape = (ds4_shape){ .n_layer = 1, .n_vocab = vocab_size(e->v), .n_swa = 128, .n_ctx_train = o->max_tokens,
                            .max_tokens = e->o.max_tokens, .side_tokens = o->side_tokens,
                            .max_batch_rows = o->max_batch_rows ? o->max_batch_rows : 512,
                            .name = "fake", .backend = "fake", .default_temperature = NAN, .default_top_p = NAN };
    *out = e;
    return DS4_OK;
}

void ds4_engine_close(ds4_engine *e)
{
    if (!e) return;
    for (int i = 0; i < e->n_rules; i++) {
        free(e->rules[i].user);
        free(e->rules[i].prompt);
        free(e->rules[i].answer);
    }
    vocab_close(e->v);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->gate);
    free(e);
}

void ds4_engine_shape(const ds4_engine *e, ds4_shape *out) { *out = e->shape; }

void ds4_engine_metrics(const ds4_engine *constant, ds4_metrics *out)
{
    ds4_engine *e = (ds4_engine *)constant;
    pthread_mutex_lock(&e->lock);
    *out = e->metrics;
    pthread_mutex_unlock(&e->lock);
}

uint64_t fake_steps(const ds4_engine *e)
{
    ds4_metrics m;
    ds4_engine_metrics(e, &m);
    return m.steps;
}

const struct vocab *ds4_engine_vocab(const ds4_engine *e) { return e->v; }

ds4_status ds4_tokenize(const ds4_engine *e, const char *utf8, size_t n, bool parse_control, ds4_token *out, size_t cap,
                        size_t *n_out, ds4_error *err)
{
    token_list l;
    token_list_init(&l, cap);
    const ds4_status st = tokenizer_encode(e->v, (slice){ utf8, n }, parse_control, &l, err);
    memcpy(out, l.ids, l.n * sizeof *out);
    *n_out = l.wanted;
    token_list_free(&l);
    return st;
}

/* ---- the gate ----------------------------------------------------------------------------- */

void fake_allow_steps(ds4_engine *e, int n)
{
    pthread_mutex_lock(&e->lock);
    e->allowed = n < 0 ? -1 : max_int(e->allowed, 0) + n;
    pthread_cond_broadcast(&e->gate);
    pthread_mutex_unlock(&e->lock);
}

bool fake_wait_at_gate(ds4_engine *e, int ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (ms % 1000) * 1000000L;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    pthread_mutex_lock(&e->lock);
    while (!(e->waiting && e->allowed == 0))
        if (pthread_cond_timedwait(&e->gate, &e->lock, &until) == ETIMEDOUT) break;
    const bool there = e->waiting && e->allowed == 0;
    pthread_mutex_unlock(&e->lock);
    return there;
}

static void pass_gate(ds4_engine *e)
{
    pthread_mutex_lock(&e->lock);
    e->waiting = true;
    pthread_cond_broadcast(&e->gate);
    while (e->allowed == 0) pthread_cond_wait(&e->gate, &e->lock);
    if (e->allowed > 0) e->allowed--;
    e->waiting = false;
    pthread_mutex_unlock(&e->lock);
}

void fake_fail_on(ds4_engine *e, ds4_token t)
{
    pthread_mutex_lock(&e->lock);
    e->fail_on = t;
    pthread_mutex_unlock(&e->lock);
}

void fake_lose_device(ds4_engine *e, int n)
{
    pthread_mutex_lock(&e->lock);
    e->lose = true;
    e->bad_reopenings = n;
    pthread_mutex_unlock(&e->lock);
}

uint64_t fake_reopenings(const ds4_engine *constant)
{
    ds4_engine *e = (ds4_engine *)constant;
    pthread_mutex_lock(&e->lock);
    const uint64_t n = e->reopenings;
    pthread_mutex_unlock(&e->lock);
    return n;
}

bool ds4_engine_lost(const ds4_engine *e) { return e->lost; }

ds4_status ds4_engine_reopen(ds4_engine *e, ds4_error *err)
{
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (e->sessions[i]) return ds4_fail(err, DS4_EARG, "a session is open");
    pthread_mutex_lock(&e->lock);
    const bool fails = e->bad_reopenings > 0;
    e->bad_reopenings -= fails;
    e->reopenings++;
    e->lost = fails;
    pthread_mutex_unlock(&e->lock);
    return fails ? ds4_fail(err, DS4_EDEVICE, "the fake device does not come back") : DS4_OK;
}

void fake_spoil_loads(ds4_engine *e, bool spoil)
{
    pthread_mutex_lock(&e->lock);
    e->spoil = spoil;
    pthread_mutex_unlock(&e->lock);
}

/* ---- sessions ----------------------------------------------------------------------------- */

ds4_status ds4_session_open(ds4_session **out, ds4_engine *e, int max_tokens, ds4_error *err)
{
    *out = NULL;
    if (e->lost) return ds4_fail(err, DS4_EDEVICE, "the fake device is lost");
    int i = 0;
    while (i < MAX_SESSIONS && e->sessions[i]) i++;
    const int most = min_int(MAX_SESSIONS, e->o.max_sessions + (e->o.side_tokens > 0));
    if (i >= most) return ds4_fail(err, DS4_EFULL, "%d sessions are open", i);
    ds4_session *s = calloc(1, sizeof *s);
    s->e = e;
    s->capacity = max_tokens;
    s->tokens = malloc((size_t)max_tokens * sizeof *s->tokens);
    s->state = malloc(((size_t)max_tokens + 1) * sizeof *s->state);
    s->logits = malloc((size_t)e->shape.n_vocab * sizeof *s->logits);
    s->state[0] = 1;
    s->script_begin = -1;
    *out = e->sessions[i] = s;
    return DS4_OK;
}

void ds4_session_close(ds4_session *s)
{
    if (!s) return;
    for (int i = 0; i < MAX_SESSIONS; i++)
        if (s->e->sessions[i] == s) s->e->sessions[i] = NULL;
    free(s->tokens);
    free(s->state);
    free(s->logits);
    free(s->script);
    free(s);
}

static void forget(ds4_session *s)
{
    s->logits_made = false;
    s->script_begin = -1;
}

void ds4_session_reset(ds4_session *s)
{
    s->length = s->n_points = s->pinned = 0;
    s->has_logits = s->spoilt = false;
    forget(s);
}

int              ds4_session_length(const ds4_session *s)   { return s->length; }
int              ds4_session_capacity(const ds4_session *s) { return s->capacity; }
const ds4_token *ds4_session_tokens(const ds4_session *s)   { return s->tokens; }
uint64_t         ds4_session_kv_bytes(const ds4_session *s) { return (uint64_t)s->length * 64; }

ds4_status ds4_session_mark(ds4_session *s, ds4_error *err)
{
    const int most = min_int(s->e->o.rewind_points, MAX_POINTS);
    if (most == 0) return ds4_fail(err, DS4_EFULL, "this engine keeps no rewind points");
    if (s->length == 0) return DS4_OK;
    if (s->n_points && s->points[s->n_points - 1].length == s->length) s->n_points--;
    if (s->n_points == most) {
        int worst = 0, least = INT32_MAX;
        for (int i = 0; i < max_int(1, s->n_points - 3); i++) {
            if (s->points[i].length == s->pinned) continue;
            const int before = i ? s->points[i - 1].length : 0;
            const int after = i + 1 < s->n_points ? s->points[i + 1].length : s->length;
            if (after - before < least) {
                least = after - before;
                worst = i;
            }
        }
        memmove(&s->points[worst], &s->points[worst + 1], (size_t)(s->n_points - worst - 1) * sizeof *s->points);
        s->n_points--;
    }
    s->points[s->n_points++] = (point){ s->length, s->has_logits };
    return DS4_OK;
}

static int point_at(const ds4_session *s, int want)
{
    int i = s->n_points - 1;
    while (i >= 0 && s->points[i].length > want) i--;
    return i;
}

int ds4_session_rewind_point(const ds4_session *s, int want)
{
    if (want >= s->length) return s->length;
    const int i = point_at(s, want);
    return i < 0 ? 0 : s->points[i].length;
}

void ds4_session_pin(ds4_session *s, int length) { s->pinned = length; }

bool ds4_session_has_logits(const ds4_session *s, int length)
{
    if (length == s->length) return s->has_logits;
    const int i = point_at(s, length);
    return i >= 0 && s->points[i].length == length && s->points[i].has_logits;
}

int ds4_session_rewind(ds4_session *s, int want)
{
    if (want >= s->length) return s->length;
    const int i = point_at(s, want);
    if (i < 0) {
        ds4_session_reset(s);
        return 0;
    }
    s->length = s->points[i].length;
    s->has_logits = s->points[i].has_logits;
    s->n_points = i + 1;
    forget(s);
    return s->length;
}

/* ---- scripts ------------------------------------------------------------------------------ */

static int last_of(const ds4_token *t, int n, ds4_token what)
{
    while (n > 0 && t[n - 1] != what) n--;
    return n - 1;
}

static bool decode(const vocab *v, const ds4_token *t, int n, bytes *out)
{
    bytes_clear(out);
    return n <= 0 || !tokenizer_decode(v, t, (size_t)n, true, out, NULL);
}

static bool occurs(const bytes *in, const char *what)
{
    const size_t n = strlen(what);
    return n == 0 || (in->len >= n && memmem(in->data, in->len, what, n));
}

static const char *answer_for(const ds4_session *s, int assistant)
{
    const special_tokens *special = vocab_special(s->e->v);
    int turns = 0;
    for (int i = 0; i < assistant; i++) turns += s->tokens[i] == special->user;
    const int user = max_int(0, last_of(s->tokens, assistant, special->user));
    bytes last, all;
    bytes_init(&last, SIZE_MAX);
    bytes_init(&all, SIZE_MAX);
    decode(s->e->v, s->tokens + user, assistant - user, &last);
    decode(s->e->v, s->tokens, assistant, &all);
    const char *answer = "ok";
    for (int i = 0; i < s->e->n_rules; i++) {
        const rule *r = &s->e->rules[i];
        if ((r->turn && r->turn != turns) || !occurs(&last, r->user) || !occurs(&all, r->prompt)) continue;
        answer = r->answer;
        break;
    }
    bytes_free(&last);
    bytes_free(&all);
    return answer;
}

/* The answer's text for a turn whose prompt ends before token `begin`. */
static void script_text(const ds4_session *s, int assistant, int begin, bytes *out)
{
    const char *answer = answer_for(s, assistant), *end_think = strstr(answer, "</think>"), *state;
    const bool in_text = begin > 0 && s->tokens[begin - 1] != vocab_special(s->e->v)->think;
    if (in_text && end_think) answer = end_think + strlen("</think>");
    else if (!in_text && !end_think) bytes_text(out, "</think>");
    while ((state = strstr(answer, "$STATE"))) {
        bytes_append(out, answer, (size_t)(state - answer));
        bytes_printf(out, "%016llx", (unsigned long long)s->state[begin]);
        answer = state + strlen("$STATE");
    }
    bytes_text(out, answer);
}

/* Bytes of the script that lie behind what was generated. */
static size_t script_offset(const bytes *script, const bytes *generated)
{
    if (generated->len == 0) return 0;
    if (generated->len <= script->len && !memcmp(script->data, generated->data, generated->len)) return generated->len;
    for (size_t n = min_size(generated->len, 200); n >= 4; n--) {
        const char *tail = generated->data + generated->len - n;
        const char *at = script->len >= n ? memmem(script->data, script->len, tail, n) : NULL;
        if (at) return (size_t)(at - script->data) + n;
    }
    return script->len;
}

/* The script's tokens from what was generated on. */
static void read_on(ds4_session *s, int assistant, int begin)
{
    bytes script, generated;
    token_list rest;
    bytes_init(&script, SIZE_MAX);
    bytes_init(&generated, SIZE_MAX);
    script_text(s, max_int(assistant, 0), begin, &script);
    decode(s->e->v, s->tokens + begin, s->length - begin, &generated);
    const size_t at = script_offset(&script, &generated);
    token_list_init(&rest, script.len + 1);
    if (at < script.len) tokenizer_encode(s->e->v, (slice){ script.data + at, script.len - at }, true, &rest, NULL);
    free(s->script);
    s->script = rest.ids;
    s->n_script = (int)rest.n;
    s->script_begin = s->length;
    s->followed = 0;
    bytes_free(&script);
    bytes_free(&generated);
}

static bool follows_script(ds4_session *s)
{
    if (s->script_begin < 0) return false;
    while (s->script_begin + s->followed < s->length) {
        if (s->followed >= s->n_script || s->tokens[s->script_begin + s->followed] != s->script[s->followed])
            return false;
        s->followed++;
    }
    return true;
}

static ds4_token next_token(ds4_session *s)
{
    const special_tokens *special = vocab_special(s->e->v);
    if (!follows_script(s)) {
        const int assistant = last_of(s->tokens, s->length, special->assistant);
        int begin = assistant + 1;
        const ds4_token first = assistant >= 0 && begin < s->length ? s->tokens[begin] : -1;
        begin += first == special->think || first == special->end_think;
        read_on(s, assistant, begin);
    }
    return s->followed < s->n_script ? s->script[s->followed] : special->eos;
}

static void fill_logits(ds4_session *s, float *logits)
{
    const ds4_token best = s->spoilt ? -1 : next_token(s);
    for (int i = 0; i < s->e->shape.n_vocab; i++) logits[i] = s->spoilt ? NAN : i == best ? 20.0f : 0.0f;
}

const float *ds4_session_logits(const ds4_session *constant)
{
    ds4_session *s = (ds4_session *)constant;
    if (!s->has_logits) return NULL;
    if (!s->logits_made) fill_logits(s, s->logits);
    s->logits_made = true;
    return s->logits;
}

ds4_status ds4_session_sample(ds4_session *s, ds4_sampler *sampler, bool best, ds4_token *out, ds4_error *err)
{
    const float *logits = ds4_session_logits(s);
    *out = -1;
    if (!logits) return ds4_fail(err, DS4_EARG, "no logits");
    *out = best ? ds4_sample_best(sampler, logits) : ds4_sample(sampler, logits);
    return DS4_OK;
}

/* ---- files -------------------------------------------------------------------------------- */

/* A KVC file without trailer whose payload is the tokens and whether there were logits. */
struct kvc {
    uint8_t *data;
    size_t   n;
};

static void put(kvc *k, const void *data, size_t n)
{
    if (n) memcpy(k->data + k->n, data, n);
    k->n += n;
}

ds4_status kvc_take(kvc **out, const ds4_session *s, const kvc_about *a, ds4_error *err)
{
    bytes own;
    bytes_init(&own, SIZE_MAX);
    decode(s->e->v, s->tokens, s->length, &own);
    const slice text = a->text.data ? a->text : (slice){ own.data, own.len };
    const uint64_t payload = 8 + (uint64_t)s->length * sizeof *s->tokens, logits = s->has_logits;
    const uint64_t now = clock_unix_seconds();
    const uint32_t numbers[4] = { (uint32_t)s->length, 0, (uint32_t)s->capacity, 0 }, text_bytes = (uint32_t)text.len;
    const uint8_t flags = (uint8_t)(a->flags | (a->tool_map.len ? KVC_TOOL_MAP : 0));
    const uint8_t head[8] = { 'K', 'V', 'C', 1, 2, (uint8_t)a->reason, flags };

    kvc *k = calloc(1, sizeof *k);
    k->data = malloc(52 + text.len + payload + a->tool_map.len);
    put(k, head, sizeof head);
    put(k, numbers, sizeof numbers);
    put(k, &now, sizeof now);
    put(k, &now, sizeof now);
    put(k, &payload, sizeof payload);
    put(k, &text_bytes, sizeof text_bytes);
    put(k, text.data, text.len);
    put(k, &logits, sizeof logits);
    put(k, s->tokens, (size_t)s->length * sizeof *s->tokens);
    put(k, a->tool_map.data, a->tool_map.len);
    bytes_free(&own);
    (void)err;
    *out = k;
    return DS4_OK;
}

uint64_t   kvc_bytes(const kvc *c) { return c->n; }
ds4_status kvc_write(const kvc *c, int fd, ds4_error *err)
{
    return file_write_all(fd, c->data, c->n, "fake checkpoint", err);
}

void kvc_free(kvc *c)
{
    if (!c) return;
    free(c->data);
    free(c);
}

static ds4_status read_all(int fd, void *data, size_t n, ds4_error *err)
{
    return file_read_exact(fd, data, n, "fake checkpoint", err);
}

ds4_status kvc_load(ds4_session *s, int fd, bytes *tool_map, ds4_error *err)
{
    uint8_t head[52];
    uint64_t logits;
    ds4_session_reset(s);
    ds4_status st = read_all(fd, head, sizeof head, err);
    if (st) return st;
    uint32_t n, text;
    memcpy(&n, head + 8, sizeof n);
    memcpy(&text, head + 48, sizeof text);
    if (memcmp(head, "KVC", 3) || n > (uint32_t)s->capacity) return ds4_fail(err, DS4_EFORMAT, "no fake checkpoint");
    char *skipped = malloc(text + 1);
    st = read_all(fd, skipped, text, err);
    free(skipped);
    if (!st) st = read_all(fd, &logits, sizeof logits, err);
    if (!st) st = read_all(fd, s->tokens, n * sizeof *s->tokens, err);
    if (st) return st;
    char part[4096];
    const bool map = tool_map && head[6] & KVC_TOOL_MAP;
    for (ssize_t got; map && (got = read(fd, part, sizeof part)) > 0;) bytes_append(tool_map, part, (size_t)got);

    for (int i = 0; i < (int)n; i++) s->state[i + 1] = chain(s->state[i], s->tokens[i], i);
    s->length = (int)n;
    s->has_logits = logits != 0;
    pthread_mutex_lock(&s->e->lock);
    s->spoilt = s->e->spoil;
    pthread_mutex_unlock(&s->e->lock);
    return DS4_OK;
}

uint64_t kvc_constant_bytes(const ds4_engine *e, int tokens)
{
    (void)e;
    (void)tokens;
    return 60;
}

ds4_status kvc_engine_id(const ds4_engine *e, uint8_t out[KVC_ID_BYTES], ds4_error *err)
{
    (void)e;
    (void)err;
    memset(out, 0xfa, KVC_ID_BYTES);
    return DS4_OK;
}

ds4_status ds4_session_save(const ds4_session *s, int fd, int reason, ds4_error *err)
{
    kvc *k;
    ds4_status st = kvc_take(&k, s, &(kvc_about){ .reason = reason }, err);
    if (!st) st = kvc_write(k, fd, err);
    kvc_free(k);
    return st;
}

ds4_status ds4_session_load(ds4_session *s, int fd, ds4_error *err) { return kvc_load(s, fd, NULL, err); }

/* ---- steps -------------------------------------------------------------------------------- */

ds4_status ds4_batch_new(ds4_batch **out, ds4_engine *e, ds4_error *err)
{
    (void)err;
    *out = calloc(1, sizeof **out);
    (*out)->e = e;
    (*out)->logits = malloc((size_t)e->shape.n_vocab * sizeof(float));
    return DS4_OK;
}

void ds4_batch_clear(ds4_batch *b)
{
    for (int i = 0; i < b->n; i++) {
        free(b->segments[i].tokens);
        if (!b->stepped) b->segments[i].s->in_batch = 0;
    }
    b->n = b->rows = 0;
    b->stepped = false;
}

void ds4_batch_free(ds4_batch *b)
{
    if (!b) return;
    ds4_batch_clear(b);
    free(b->logits);
    free(b);
}

int ds4_batch_rows(const ds4_batch *b) { return b->rows; }

ds4_status ds4_batch_add(ds4_batch *b, ds4_session *s, const ds4_token *t, int n, ds4_logits logits, ds4_error *err)
{
    if (b->stepped) ds4_batch_clear(b);
    if (n < 1 || s->in_batch) return ds4_fail(err, DS4_EARG, "no tokens, or a session twice");
    if (n > b->e->shape.max_batch_rows - b->rows)
        return ds4_fail(err, DS4_EFULL, "%d rows do not fit a step that holds %d", n, b->rows);
    if (n > s->capacity - s->length) return ds4_fail(err, DS4_EFULL, "the context is full");
    for (int i = 0; i < n; i++)
        if (t[i] < 0 || t[i] >= b->e->shape.n_vocab) return ds4_fail(err, DS4_EARG, "token id %d is out of range", t[i]);
    segment_of_batch *g = &b->segments[b->n++];
    *g = (segment_of_batch){ .s = s, .n = n, .first = b->rows, .logits = logits, .tokens = malloc((size_t)n * sizeof *t) };
    memcpy(g->tokens, t, (size_t)n * sizeof *t);
    s->in_batch = 1;
    b->rows += n;
    return DS4_OK;
}

static bool contains(const ds4_batch *b, int token)
{
    for (int i = 0; i < b->n; i++)
        for (int j = 0; j < b->segments[i].n; j++)
            if (b->segments[i].tokens[j] == token) return true;
    return false;
}

ds4_status ds4_engine_step(ds4_engine *e, ds4_batch *b, ds4_error *err)
{
    if (b->n == 0) return ds4_fail(err, DS4_EARG, "the batch is empty");
    pass_gate(e);
    if (e->sleep_us) usleep((useconds_t)e->sleep_us);
    if (e->o.interrupted && e->o.interrupted(e->o.interrupted_ctx)) return ds4_fail(err, DS4_ECANCELLED, "interrupted");
    pthread_mutex_lock(&e->lock);
    e->lost |= e->lose;
    e->lose = false;
    const bool fail = e->lost || (e->fail_on >= 0 && contains(b, e->fail_on));
    e->metrics.steps += !fail;
    pthread_mutex_unlock(&e->lock);
    if (fail) return ds4_fail(err, DS4_EDEVICE, "the fake device failed");

    atomic_fetch_add(&now_ns, FAKE_STEP_NS + FAKE_ROW_NS * (uint64_t)b->rows);
    for (int i = 0; i < b->n; i++) {
        const segment_of_batch *g = &b->segments[i];
        ds4_session *s = g->s;
        for (int j = 0; j < g->n; j++) {
            s->tokens[s->length] = g->tokens[j];
            s->state[s->length + 1] = chain(s->state[s->length], g->tokens[j], s->length);
            s->length++;
        }
        s->has_logits = g->logits != DS4_LOGITS_NONE;
        s->in_batch = 0;
        s->logits_made = false;
    }
    b->stepped = true;
    return DS4_OK;
}

/* Only rows of a prompt ask for these: a flat distribution but for the token that really followed. */
const float *ds4_batch_logits(const ds4_batch *b, int row)
{
    for (int i = 0; i < b->n && b->stepped; i++) {
        const segment_of_batch *g = &b->segments[i];
        const int at = row - g->first;
        if (at < 0 || at >= g->n || g->logits == DS4_LOGITS_NONE || (g->logits == DS4_LOGITS_LAST && at != g->n - 1))
            continue;
        for (int t = 0; t < b->e->shape.n_vocab; t++)
            b->logits[t] = at + 1 < g->n && t == g->tokens[at + 1] ? 10.0f : 0.0f;
        return b->logits;
    }
    return NULL;
}

ds4_status ds4_session_feed(ds4_session *s, const ds4_token *t, int n, bool (*on_chunk)(void *ctx, int done, int total),
                            void *ctx, ds4_error *err)
{
    ds4_batch *b;
    ds4_status st = ds4_batch_new(&b, s->e, err);
    for (int done = 0; done < n && !st;) {
        const int count = min_int(n - done, s->e->shape.max_batch_rows);
        st = ds4_batch_add(b, s, t + done, count, DS4_LOGITS_LAST, err);
        if (!st) st = ds4_engine_step(s->e, b, err);
        done += count;
        if (!st && on_chunk && !on_chunk(ctx, done, n) && done < n) st = ds4_fail(err, DS4_ECANCELLED, "stopped");
    }
    ds4_batch_free(b);
    return st;
}
