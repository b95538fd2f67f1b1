/* Any order of prompts, answers and cuts: what a slot remembers stays true of its session, and
 * a match is always something the prompt and the session really share. Also any bytes as a key. */
#include "engine/prefix_key.h"
#include "engine/reuse.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const uint8_t *data;
    size_t         n;
    const vocab   *v;
    int32_t        tokens[16];
    reuse_slot     slot;
    int            points[16], n_points;
} machine;

static void require(bool good)
{
    if (!good) abort();
}

static uint8_t next(machine *m)
{
    if (m->n == 0) return 0;
    m->n--;
    return *m->data++;
}

/* The vocabulary of tests tells here when it can not be made. */
void test_fail(const char *file, int line, const char *fmt, ...)
{
    (void)file, (void)line, (void)fmt;
    abort();
}

static int rewind_point(void *ctx, int want)
{
    const machine *m = ctx;
    int best = 0;
    if (want >= m->slot.key.n) return m->slot.key.n;
    for (int i = 0; i < m->n_points; i++) if (m->points[i] <= want && m->points[i] > best) best = m->points[i];
    return best;
}

static bool has_logits(void *ctx, int n)
{
    (void)ctx;
    return n % 2 == 0;
}

static void mark(machine *m)
{
    m->points[m->n_points++ % 16] = m->slot.key.n;
    if (m->n_points > 16) m->n_points = 16;
}

static void drop_points(machine *m)
{
    int n = 0;
    for (int i = 0; i < m->n_points; i++) if (m->points[i] <= m->slot.key.n) m->points[n++] = m->points[i];
    m->n_points = n;
}

/* Outside of gaps the client's spelling is the session's. */
static void check_slot(const reuse_slot *s)
{
    const char *own = s->key.data.data, *told = s->base_key.data;
    size_t at = 0, from = 0;
    require(s->stands <= s->key.n && (s->base < 0 || s->base == s->stands));
    for (int i = 0; i <= s->n_gaps; i++) {
        const bool last = i == s->n_gaps;
        const int n0 = last ? s->stands : s->gaps[i].n0;
        const size_t at0 = last ? s->base_key.len : s->gaps[i].at0;
        const size_t end = prefix_key_end(&s->key, n0);
        require(at0 >= at && end >= from && end - from == at0 - at);
        require(at0 == at || memcmp(own + from, told + at, at0 - at) == 0);
        if (last) break;
        require(s->gaps[i].n1 >= n0 && s->gaps[i].n1 <= s->stands && s->gaps[i].at1 >= at0);
        at = s->gaps[i].at1;
        from = prefix_key_end(&s->key, s->gaps[i].n1);
    }
}

static void take_tokens(machine *m, token_list *out)
{
    for (int n = next(m) % 64; n > 0; n--) token_list_push(out, m->tokens[next(m) % 16]);
}

static void apply(machine *m, const reuse_prompt *p, const reuse_match *match)
{
    token_list rest;
    token_list_init(&rest, 1 << 20);
    const bool good = !reuse_suffix(p, match, m->v, &rest, NULL) && !reuse_slot_take(&m->slot, p, match, m->v, NULL);
    require(good && m->slot.key.n == match->keep && m->slot.base_key.len == match->from);
    check_slot(&m->slot);
    drop_points(m);
    mark(m);
    require(!reuse_slot_push(&m->slot, m->v, rest.ids, (int)rest.n, NULL));
    mark(m);
    const size_t held = prefix_key_end(&m->slot.key, match->keep);
    require(slice_equal(slice_behind(prefix_key_bytes(&m->slot.key), held),
                        slice_behind(prefix_key_bytes(&p->key), match->from)));
    if (match->aligned) require(slice_equal(prefix_key_bytes(&m->slot.key), prefix_key_bytes(&p->key)));
    token_list_free(&rest);
}

static void explain(machine *m, const reuse_prompt *p, const reuse_match *match)
{
    bytes text;
    bytes_init(&text, 1 << 20);
    reuse_explain(p, &m->slot, match, m->v, &text, &text);
    bytes_free(&text);
}

static void sample_turn(machine *m, const reuse_prompt *p)
{
    token_list l;
    bytes text;
    token_list_init(&l, 1 << 20);
    bytes_init(&text, 1 << 20);
    take_tokens(m, &l);
    require(!reuse_slot_push(&m->slot, m->v, l.ids, (int)l.n, NULL));
    mark(m);
    const chat_call call = { slice_of("id"), slice_of("a"), slice_of("{}") };
    const answer_turn turn = { .reasoning = slice_of("a"), .text = slice_of("b"), .block = slice_of("c"), .calls = &call,
                               .n_calls = next(m) % 2 };
    require(!reuse_slot_finish(&m->slot, p, &turn, next(m) % 8 == 0, m->v, NULL));
    check_slot(&m->slot);
    reuse_visible_text(&m->slot, next(m) % 2, m->v, &text);
    token_list_free(&l);
    bytes_free(&text);
}

/* The session's first tokens, as if they came from disk under the text of the prompt's first bytes. */
static void load(machine *m, const reuse_prompt *p)
{
    reuse_slot other;
    reuse_match match;
    token_list l;
    token_list_init(&l, 1 << 20);
    reuse_slot_init(&other);
    require(!prefix_key_tokens(prefix_key_bytes(&m->slot.key), 0, m->v, &l, NULL));
    const size_t n = next(m);
    require(!reuse_slot_push(&other, m->v, l.ids, (int)(n < l.n ? n : l.n), NULL));
    if (reuse_match_loaded(p, &other, next(m), m->v, &match)) {
        require(!reuse_slot_take(&other, p, &match, m->v, NULL));
        check_slot(&other);
    }
    token_list_free(&l);
    reuse_slot_free(&other);
}

static void serve(machine *m)
{
    token_list l;
    reuse_prompt p;
    token_list_init(&l, 1 << 20);
    const int same = next(m);
    if (same % 4) {                         /* goes on from what the client said, or the session holds */
        const bytes *from = same % 4 == 1 ? &m->slot.key.data : &m->slot.base_key;
        const slice before = { from->data, from->len };
        require(!prefix_key_tokens(before, 0, m->v, &l, NULL));
        if (l.n > (size_t)same) l.n = l.wanted = (size_t)same;
    }
    take_tokens(m, &l);
    require(!reuse_prompt_open(&p, m->v, &l, NULL));
    p.raw = next(m) % 8 == 0;
    slice id = { strdup("id"), 2 };
    p.result_ids = malloc(sizeof id);
    p.result_ids[p.n_results++] = id;

    const reuse_session session = { rewind_point, has_logits, m, next(m) % 4 == 0 };
    const reuse_match match = reuse_match_slot(&p, &m->slot, &session, m->v);
    require(match.keep >= 0 && match.keep <= m->slot.key.n && match.from <= p.key.data.len);
    require(rewind_point(m, match.keep) == match.keep);
    explain(m, &p, &match);
    load(m, &p);
    apply(m, &p, &match);
    if (next(m) % 4) sample_turn(m, &p);
    reuse_prompt_close(&p);
}

static void check_key(slice key, const vocab *v)
{
    token_list l;
    bytes text;
    prefix_key k;
    token_list_init(&l, 1 << 20);
    bytes_init(&text, 1 << 20);
    prefix_key_init(&k);
    if (!prefix_key_tokens(key, 0, v, &l, NULL)) {
        require(!prefix_key_text(key, v, &text, NULL) && !prefix_key_push(&k, v, l.ids, (int)l.n, NULL));
        require(slice_equal(prefix_key_bytes(&k), key));
        const slice part = { key.data, key.len - key.len / 3 };
        const size_t common = prefix_key_common(key, part);
        require(common <= part.len && part.len - common < PREFIX_KEY_MARK_BYTES);
        token_list_clear(&l);
        require(!prefix_key_tokens(key, common, v, &l, NULL));
    }
    prefix_key_find(key, 0, 1);
    prefix_key_find_back(key, key.len, 1);
    token_list_free(&l);
    bytes_free(&text);
    prefix_key_free(&k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static vocab *v;
    if (!v) v = text_tiny_vocab();
    if (size > 4096) return 0;
    const special_tokens *special = vocab_special(v);
    machine m = { .data = data, .n = size, .v = v,
        .tokens = { special->user, special->assistant, special->think, special->end_think, special->dsml, special->eos,
                    special->bos,
                    vocab_find(v, " ", 1), vocab_find(v, "\n", 1), vocab_find(v, "a", 1), vocab_find(v, "b", 1),
                    vocab_find(v, "c", 1),
                    vocab_find(v, "ab", 2), vocab_find(v, "abc", 3), vocab_find(v, "\xFF", 1), special->eos } };
    check_key((slice){ (const char *)data, size }, v);
    reuse_slot_init(&m.slot);
    while (m.n > 0) {
        serve(&m);
        if (next(&m) % 8 == 0) {
            reuse_slot_cut(&m.slot, next(&m));
            drop_points(&m);
            check_slot(&m.slot);
        }
    }
    reuse_slot_free(&m.slot);
    return 0;
}
