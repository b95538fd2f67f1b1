#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "text/answer.h"

chat_request chat_request_defaults(void)
{
    return (chat_request){ .think_max_min_ctx = CHAT_THINK_MAX_MIN_CTX };
}

/* ---- effort --------------------------------------------------------------- */

static const char prefix_1[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the "
    "root cause, rigorously stress-testing your logic against all potential paths, edge cases, and "
    "adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
    "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n"
    "\n";

static const char prefix_2[] =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively "
    "decompose the problem into its most fundamental components, trace every causal chain to its root, and "
    "resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles and are "
    "certain that no assumption remains unchecked and no error remains undiscovered.\n"
    "\n";

/* The text that stood behind BOS in training, by profile and granted level. */
static const char *const effort_prefix[2][4] = {
    /*                            unset low  high     max   */
    [EFFORT_PROFILE_PREVIEW] = { "", "", "",       prefix_1 },
    [EFFORT_PROFILE_0731]    = { "", "", prefix_1, prefix_2 },
};

chat_effort chat_effort_granted(const chat_request *r)
{
    return r->effort == EFFORT_MAX && r->ctx < r->think_max_min_ctx ? EFFORT_HIGH : r->effort;
}

/* 3, +0.5, -12: what some clients send as a level. */
static bool is_number(slice text)
{
    size_t i = text.len && (text.data[0] == '-' || text.data[0] == '+'), digits = 0, points = 0;
    for (; i < text.len; i++) {
        if (text.data[i] == '.') points++;
        else if (text.data[i] >= '0' && text.data[i] <= '9') digits++;
        else return false;
    }
    return digits > 0 && points <= 1;
}

bool chat_effort_parse(slice text, chat_effort *out)
{
    static const struct { const char *name; chat_effort level; } levels[] = {
        { "minimal", EFFORT_LOW },  { "low", EFFORT_LOW },
        { "medium", EFFORT_HIGH },  { "high", EFFORT_HIGH }, { "xhigh", EFFORT_HIGH },
        { "max", EFFORT_MAX },      { "ultra", EFFORT_MAX },
    };
    for (size_t i = 0; i < countof(levels); i++) {
        if (!slice_is(text, levels[i].name)) continue;
        *out = levels[i].level;
        return true;
    }
    if (!is_number(text)) return false;
    *out = EFFORT_HIGH;
    return true;
}

static bool names_0731(const gguf *g, const char *key)
{
    slice text;
    return gguf_get_string(g, key, &text, NULL) == DS4_OK && memmem(text.data, text.len, "0731", 4);
}

/* The block drafter that came with that release. */
static bool has_dspark(const gguf *g)
{
    for (int i = 0; i < gguf_n_values(g); i++) {
        const slice key = gguf_value_at(g, i)->key;
        if (memmem(key.data, key.len, "dspark", 6)) return true;
    }
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        if (strstr(gguf_tensor_at(g, i)->name, "markov_w1")) return true;
    }
    return false;
}

effort_profile chat_profile_of(const gguf *g)
{
    const bool is_0731 = names_0731(g, "general.name") || names_0731(g, "general.version") || has_dspark(g);
    return is_0731 ? EFFORT_PROFILE_0731 : EFFORT_PROFILE_PREVIEW;
}

/* ---- the parts of a conversation ------------------------------------------ */

/* Messages fall into turns, which are maximal runs of one side. */
typedef enum { SIDE_USER, SIDE_ASSISTANT, SIDE_REMINDER } side;

typedef struct {
    const chat_request   *r;
    chat_prompt          *p;
    const special_tokens *special;
    ds4_error            *err;
    int                   leading;      /* instructions in front of all turns               */
    bool                  keep;         /* reasoning of all turns stays                     */
    int                   last_user;    /* first message of the last user turn, -1: none    */
    int                   calls_begin, calls_end;   /* the last turn with calls, as messages */
} renderer;

static bool is_instruction(chat_role role)
{
    return role == CHAT_SYSTEM || role == CHAT_DEVELOPER;
}

static side side_of(chat_role role)
{
    return role == CHAT_ASSISTANT ? SIDE_ASSISTANT : role == CHAT_LATEST_REMINDER ? SIDE_REMINDER : SIDE_USER;
}

/* System and developer messages in front of all others. */
static int count_leading(const chat_request *r)
{
    int n = 0;
    while (n < r->n_messages && is_instruction(r->messages[n].role)) n++;
    return n;
}

/* End of the turn that begins at message i. A reminder stands alone. */
static int turn_end(const chat_request *r, int i)
{
    const side s = side_of(r->messages[i].role);
    do i++; while (s != SIDE_REMINDER && i < r->n_messages && side_of(r->messages[i].role) == s);
    return i;
}

/* Reasoning of turns that led to calls belongs to the calls; without any calls in sight
 * only the answer counts. */
static bool keeps_reasoning(const chat_request *r)
{
    if (r->n_tools > 0) return true;
    for (int i = 0; i < r->n_messages; i++) {
        if (r->messages[i].role == CHAT_TOOL || r->messages[i].n_calls > 0) return true;
    }
    return false;
}

static int last_user_turn(const chat_request *r, int leading)
{
    int last = -1;
    for (int i = leading; i < r->n_messages; i = turn_end(r, i)) {
        if (side_of(r->messages[i].role) == SIDE_USER) last = i;
    }
    return last;
}

/* Appends what is not empty, with `between` in front of all but the first. */
static void join(chat_prompt *p, slice text, const char *between, bool *any)
{
    if (text.len == 0) return;
    if (*any) chat_prompt_text(p, slice_of(between));
    chat_prompt_text(p, text);
    *any = true;
}

/* ---- head ----------------------------------------------------------------- */

static ds4_status render_format(renderer *w)
{
    static const char heading[] =
        "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";
    chat_prompt_text(w->p, slice_of(heading));
    return schema_write(w->p, w->r->format_schema, "schema", w->err);
}

/* BOS, effort, [format], system text, tools, [format]. */
static ds4_status render_head(renderer *w)
{
    const chat_request *r = w->r;
    chat_prompt *p = w->p;
    ds4_status st;
    bool any = false;

    chat_prompt_control(p, w->special->bos);
    if (!r->no_thinking) chat_prompt_text(p, slice_of(effort_prefix[r->profile][chat_effort_granted(r)]));
    if (r->format_schema.len && r->format_place == FORMAT_FIRST) {
        if ((st = render_format(w))) return st;
        chat_prompt_text(p, slice_of("\n\n"));
    }
    for (int i = 0; i < w->leading; i++) join(p, r->messages[i].text, "\n\n", &any);
    if (r->n_tools > 0) {
        chat_prompt_text(p, slice_of("\n\n"));
        if ((st = tools_write(p, r->tools, r->n_tools, w->err))) return st;
    }
    if (r->format_schema.len && r->format_place == FORMAT_LAST) {
        chat_prompt_text(p, slice_of("\n\n"));
        if ((st = render_format(w))) return st;
    }
    return DS4_OK;
}

/* ---- user turns ----------------------------------------------------------- */

typedef struct {
    slice id;
    int   place;            /* of the call among the calls of its turn    */
} call_place;

typedef struct {
    int place, message;
} result;

static int by_id(const void *pa, const void *pb)
{
    const call_place *a = pa, *b = pb;
    const size_t n = min_size(a->id.len, b->id.len);
    const int order = n ? memcmp(a->id.data, b->id.data, n) : 0;
    if (order) return order;
    if (a->id.len != b->id.len) return a->id.len < b->id.len ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

static int by_place(const void *pa, const void *pb)
{
    const result *a = pa, *b = pb;
    if (a->place != b->place) return a->place < b->place ? -1 : 1;
    return a->message < b->message ? -1 : a->message > b->message;
}

/* Where the first call with this id stands; 0 for an id that nobody used. */
static int place_of(const call_place *calls, size_t n, slice id)
{
    size_t lo = 0, hi = n;
    const call_place want = { id, -1 };
    while (lo < hi) {
        const size_t mid = lo + (hi - lo) / 2;
        if (by_id(&calls[mid], &want) < 0) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && slice_equal(calls[lo].id, id) ? calls[lo].place : 0;
}

static size_t count_calls(const renderer *w)
{
    size_t n = 0;
    for (int i = w->calls_begin; i < w->calls_end; i++) n += (size_t)w->r->messages[i].n_calls;
    return n;
}

static void list_calls(const renderer *w, call_place *calls)
{
    int place = 0;
    for (int i = w->calls_begin; i < w->calls_end; i++) {
        const chat_message *m = &w->r->messages[i];
        for (int k = 0; k < m->n_calls; k++, place++) calls[place] = (call_place){ m->calls[k].id, place };
    }
}

/* The tool messages of [begin, end) in the order of their calls: the model expects its
 * results that way, however the client's tools finished. `results` holds n of them. */
static ds4_status sort_results(const renderer *w, int begin, int end, result *results, size_t n)
{
    const size_t n_calls = count_calls(w);
    call_place *calls = malloc((n_calls ? n_calls : 1) * sizeof *calls);
    if (!calls) return ds4_fail(w->err, DS4_EMEMORY, "no memory for %zu calls", n_calls);
    list_calls(w, calls);
    qsort(calls, n_calls, sizeof *calls, by_id);

    result *next = results;
    for (int i = begin; i < end; i++) {
        const chat_message *m = &w->r->messages[i];
        if (m->role == CHAT_TOOL) *next++ = (result){ place_of(calls, n_calls, m->call_id), i };
    }
    qsort(results, n, sizeof *results, by_place);
    free(calls);
    return DS4_OK;
}

static void render_block(chat_prompt *p, const chat_message *m)
{
    if (m->role == CHAT_USER) {
        chat_prompt_text(p, m->text);
    } else if (m->role == CHAT_TOOL) {
        chat_prompt_text(p, slice_of("<tool_result>"));
        chat_prompt_guarded(p, m->text, "</tool_result>", "&lt;/tool_result>");
        chat_prompt_text(p, slice_of("</tool_result>"));
    } else {
        chat_prompt_text(p, slice_of("<system-reminder>\n"));
        chat_prompt_text(p, m->text);
        chat_prompt_text(p, slice_of("\n</system-reminder>"));
    }
}

/* USER and the blocks of messages [begin, end). The places of tool results are filled
 * with them in the order of their calls. */
static ds4_status render_user_turn(renderer *w, int begin, int end)
{
    const chat_message *messages = w->r->messages;
    size_t n = 0;
    for (int i = begin; i < end; i++) n += messages[i].role == CHAT_TOOL;

    result *results = malloc((n ? n : 1) * sizeof *results);
    if (!results) return ds4_fail(w->err, DS4_EMEMORY, "no memory for %zu tool results", n);
    const ds4_status st = n ? sort_results(w, begin, end, results, n) : DS4_OK;

    chat_prompt_control(w->p, w->special->user);
    const result *next = results;
    for (int i = begin; i < end && !st; i++) {
        if (i > begin) chat_prompt_text(w->p, slice_of("\n\n"));
        render_block(w->p, &messages[messages[i].role == CHAT_TOOL ? next++->message : i]);
    }
    free(results);
    return st;
}

/* ---- assistant turns ------------------------------------------------------ */

static ds4_status render_calls(renderer *w, int begin, int end)
{
    bool first = true;
    calls_begin(w->p);
    for (int i = begin; i < end; i++) {
        const chat_message *m = &w->r->messages[i];
        for (int k = 0; k < m->n_calls; k++, first = false) {
            const ds4_status st = calls_write(w->p, &m->calls[k], first, w->err);
            if (st) return st;
        }
    }
    calls_end(w->p);
    return DS4_OK;
}

/* A record that comes from disk was read without schemas; with those of the request a value may have
 * another type. */
static bool are_arguments_by_schema(const chat_request *r, const replay_record *known, int i, slice arguments)
{
    answer *a;
    if (r->n_tools == 0 || answer_read_block(&a, known->block, r->tools, r->n_tools, NULL)) return false;
    const answer_turn turn = answer_turn_of(a);
    const bool equal = turn.n_calls == known->n_calls && calls_arguments_equal(turn.calls[i].arguments, arguments);
    answer_close(a);
    return equal;
}

/* The call is one of the record's, with its name and arguments. */
static bool is_call_of(const chat_request *r, const replay_record *known, const chat_call *call)
{
    int i = 0;
    while (i < known->n_calls && !slice_equal(known->ids[i], call->id)) i++;
    if (i == known->n_calls || !slice_equal(known->names[i], call->name)) return false;
    return calls_arguments_equal(known->arguments[i], call->arguments) ||
           are_arguments_by_schema(r, known, i, call->arguments);
}

/* The turn as it was sampled, if its calls are those of one record and no other; NULL: it is not known, or
 * the client changed it. */
static const replay_record *find_sampled(const renderer *w, int begin, int end)
{
    const replay_record *known = NULL;
    bool same = true;
    int n = 0;
    if (!w->r->replay) return NULL;
    for (int i = begin; i < end && same; i++) {
        const chat_message *m = &w->r->messages[i];
        for (int k = 0; k < m->n_calls && same; k++, n++) {
            const replay_record *r = replay_find(w->r->replay, m->calls[k].id);
            same = r && (!known || r == known) && is_call_of(w->r, r, &m->calls[k]);
            if (known || !same) replay_release(w->r->replay, r);
            else known = r;
        }
    }
    if (known && same && n == known->n_calls) return known;
    replay_release(w->r->replay, known);
    return NULL;
}

/* Neighbouring assistant messages are one turn. The last turn of the list, when it is
 * the assistant's, stays open: no EOS, and reasoning alone is not even closed. */
static ds4_status render_assistant_turn(renderer *w, int begin, int end)
{
    const chat_request *r = w->r;
    chat_prompt *p = w->p;
    const bool open = end == r->n_messages;
    const bool think = !r->no_thinking && (w->keep || begin > w->last_user);
    bool any = false, has_text = false, has_calls = false;
    ds4_status st;

    for (int i = begin; i < end; i++) {
        has_text  |= r->messages[i].text.len > 0;
        has_calls |= r->messages[i].n_calls > 0;
    }
    chat_prompt_control(p, w->special->assistant);
    if (think) {
        chat_prompt_control(p, w->special->think);
        for (int i = begin; i < end; i++) join(p, r->messages[i].reasoning, "\n", &any);
    }
    if (open && think && !has_text && !has_calls) {
        p->start = CHAT_STARTS_REASONING;
        return DS4_OK;
    }
    const replay_record *sampled = has_calls ? find_sampled(w, begin, end) : NULL;
    const bool unclosed = sampled && think && !has_text && !sampled->reasoning_closed;
    if (!unclosed) chat_prompt_control(p, w->special->end_think);

    any = false;
    for (int i = begin; i < end; i++) join(p, r->messages[i].text, "\n\n", &any);
    if (has_calls) {
        w->calls_begin = begin;
        w->calls_end = end;
    }
    if (sampled) {
        calls_replay(p, sampled->block);
        replay_release(r->replay, sampled);
        p->replayed++;
    } else if (has_calls && (st = render_calls(w, begin, end))) {
        return st;
    }
    if (open) p->start = CHAT_STARTS_TEXT;
    else chat_prompt_control(p, w->special->eos);
    return DS4_OK;
}

/* ---- the whole ------------------------------------------------------------ */

static ds4_status render_reminder(renderer *w, int i)
{
    const chat_request *r = w->r;
    const bool between = i == w->leading || r->messages[i - 1].role == CHAT_ASSISTANT;
    if (!between || i + 1 == r->n_messages || side_of(r->messages[i + 1].role) != SIDE_USER) {
        return ds4_fail(w->err, DS4_EARG,
                        "messages[%d]: latest_reminder is allowed only directly before a user turn", i);
    }
    if (w->special->reminder < 0) {
        return ds4_fail(w->err, DS4_EUNSUPPORTED,
                        "messages[%d]: this model has no token for latest_reminder", i);
    }
    chat_prompt_control(w->p, w->special->reminder);
    chat_prompt_text(w->p, r->messages[i].text);
    return DS4_OK;
}

static ds4_status render_turn(renderer *w, int begin, int end)
{
    switch (side_of(w->r->messages[begin].role)) {
    case SIDE_USER:      return render_user_turn(w, begin, end);
    case SIDE_ASSISTANT: return render_assistant_turn(w, begin, end);
    case SIDE_REMINDER:  return render_reminder(w, begin);
    }
    return DS4_OK;
}

/* The tokens that make the model answer. */
static void open_answer(chat_prompt *p, bool no_thinking)
{
    const special_tokens *special = vocab_special(p->v);
    chat_prompt_control(p, special->assistant);
    chat_prompt_control(p, no_thinking ? special->end_think : special->think);
    p->start = no_thinking ? CHAT_STARTS_TEXT : CHAT_STARTS_REASONING;
}

static ds4_status render_all(renderer *w)
{
    const chat_request *r = w->r;
    ds4_status st = render_head(w);
    for (int i = w->leading, end; i < r->n_messages && !st; i = end) {
        end = turn_end(r, i);
        st = render_turn(w, i, end);
    }
    if (!st && r->messages[r->n_messages - 1].role != CHAT_ASSISTANT) open_answer(w->p, r->no_thinking);
    return st;
}

ds4_status chat_render(chat_prompt *p, const chat_request *r, ds4_error *err)
{
    const size_t first = p->n_segments;
    const int leading = count_leading(r);
    if (leading >= r->n_messages) return ds4_fail(err, DS4_EARG, "messages: at least one message is required");

    renderer w = { .r = r, .p = p, .special = vocab_special(p->v), .err = err, .leading = leading,
                   .keep = keeps_reasoning(r), .last_user = last_user_turn(r, leading) };
    p->replayed = 0;
    const ds4_status st = render_all(&w);
    if (st) return st;
    chat_prompt_check_spelling(p, first);
    return chat_prompt_status(p, err);
}

ds4_status chat_render_next(chat_prompt *p, slice user_text, bool no_thinking, ds4_error *err)
{
    const size_t first = p->n_segments;
    chat_prompt_control(p, vocab_special(p->v)->user);
    chat_prompt_text(p, user_text);
    open_answer(p, no_thinking);
    chat_prompt_check_spelling(p, first);
    return chat_prompt_status(p, err);
}
