/* scheduler_answer: from the prompt's last logits to the end of the answer, one choice after the other.
 *
 * Samples, hands tokens to the state machine of text/answer.h, forces what a request demands, and lets the
 * session follow: a token enters it in the step after it was chosen. */
#include "engine/scheduler_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "text/think_budget.h"

static answer *current(const sched_ticket *t) { return t->answers[t->k]; }

static double seconds(uint64_t from, uint64_t to) { return from && to > from ? (double)(to - from) * 1e-9 : 0.0; }

/* ---- the end of a request ----------------------------------------------------------------- */

static request_end end_of(answer_finish f)
{
    switch (f) {
    case FINISH_LENGTH:
    case FINISH_CONTEXT:    return ENDED_LENGTH;
    case FINISH_TOOL_CALLS: return ENDED_TOOL_CALLS;
    case FINISH_CANCELLED:  return ENDED_ABORT;
    default:                return ENDED_STOP;
    }
}

static const char *finish_word(answer_finish f)
{
    static const char *const words[] = { "stop", "stop-string", "length", "context", "tool-calls", "cancelled" };
    return words[f];
}

static sched_times times_of(const sched_ticket *t, uint64_t now)
{
    const uint64_t prefilled = t->prefilled_ns ? t->prefilled_ns : now;
    return (sched_times){ .queue_s = seconds(t->arrived_ns, t->started_ns),
                          .prefill_s = seconds(t->started_ns, prefilled), .decode_s = seconds(t->prefilled_ns, now) };
}

/* Histograms and the line in the log. */
static void account(scheduler *s, const slot *sl, sched_ticket *t, request_end how, const char *word)
{
    const uint64_t now = sched_now(s);
    const sched_times spent = times_of(t, now);
    const double queue = spent.queue_s, prefill = spent.prefill_s, decode = spent.decode_s;
    const double speed = decode > 0 ? t->usage.completion_tokens / decode : 0;
    log_line(&s->o.log, how == ENDED_ERROR ? LOG_ERROR : LOG_DEBUG,
             "id=%s prompt=%d cached=%d(%s) generated=%d reasoning=%d calls=%d finish=%s queue=%.3fs prefill=%.3fs "
             "decode=%.3fs speed=%.2ft/s slot=%d", t->id, t->usage.prompt_tokens, t->usage.cached_tokens,
             reuse_method_name(t->match.method), t->usage.completion_tokens, t->usage.reasoning_tokens, t->calls, word,
             queue, prefill, decode, speed, sl->index);
    sched_count_seconds(s, seconds(t->arrived_ns, now));

    server_metrics *m = s->o.metrics;
    if (!m) return;
    counter_add(&m->ended[how], 1);
    timing_add(&m->e2e, seconds(t->arrived_ns, now));
    timing_add(&m->queue, queue);
    timing_add(&m->prefill, prefill);
    if (t->prefilled_ns) timing_add(&m->decode, decode);
    if (t->timed_tokens > 1)
        timing_add(&m->per_output_token, seconds(t->first_token_ns, t->last_token_ns) / (t->timed_tokens - 1));
    histogram_add(&m->prompt_sizes, t->usage.prompt_tokens);
    histogram_add(&m->generation_sizes, t->usage.completion_tokens);
}

static void trace(scheduler *s, const sched_ticket *t, const char *what, slice text)
{
    if (s->o.trace) s->o.trace(s->o.trace_ctx, t->id, what, text);
}

/* Before the reader learns of the end: his next request may bring these calls back at once. */
static void keep_calls(scheduler *s, sched_ticket *t, const answer *a)
{
    const answer_turn turn = answer_turn_of(a);
    trace(s, t, "reasoning", turn.reasoning);
    trace(s, t, "text", turn.text);
    if (turn.block.len) trace(s, t, "calls", turn.block);

    if (s->o.metrics) {
        const answer_counts *c = answer_counts_of(a);
        counter_add(&s->o.metrics->tool_calls, (uint64_t)turn.n_calls);
        for (int i = 0; i < REPAIR_KINDS; i++) counter_add(&s->o.metrics->tool_repairs[i], (uint64_t)c->repairs[i]);
        counter_add(&s->o.metrics->tool_failures, (uint64_t)c->failures);
    }
    if (turn.n_calls == 0 || !s->o.replay || !s->o.exact_replay) return;
    slice *lists = malloc(3 * (size_t)turn.n_calls * sizeof *lists);
    if (!lists) return;                             /* the next prompt gets the canonical form */
    slice *names = lists + turn.n_calls, *arguments = names + turn.n_calls;
    for (int i = 0; i < turn.n_calls; i++) {
        lists[i] = turn.calls[i].id;
        names[i] = turn.calls[i].name;
        arguments[i] = turn.calls[i].arguments;
    }
    replay_add(s->o.replay, &(replay_record){ .block = turn.block, .reasoning_closed = turn.reasoning_closed,
                                              .ids = lists, .names = names, .arguments = arguments,
                                              .n_calls = turn.n_calls }, NULL);
    free(lists);
}

/* Whether what was sampled last still belongs to the session: a clean end, behind which the client goes on. */
static bool has_tail(const slot *sl, answer_finish how)
{
    return how != FINISH_CANCELLED && how != FINISH_STOP_STRING && sl->fed < sl->feed.n
        && ds4_session_length(sl->session) + (int)(sl->feed.n - sl->fed) <= sl->capacity;
}

/* Nothing of the request is left to do. */
static void leave(scheduler *s, slot *sl)
{
    sched_ticket *t = sl->job;
    if (sl->phase != PHASE_PROMPT) slot_remember(sl, s, t, current(t));
    slot_idle(sl, s);
    ticket_publish(t, true);
}

/* The reader learns of the end at once; the session may need one more step. */
static void end_request(scheduler *s, slot *sl)
{
    sched_ticket *t = sl->job;
    s->answered |= t->finish != FINISH_CANCELLED;
    account(s, sl, t, end_of(t->finish), finish_word(t->finish));
    ticket_stage(t, &(sched_event){ .kind = SCHED_DONE, .usage = t->usage, .times = times_of(t, sched_now(s)) });
    if (sl->phase == PHASE_ANSWER && has_tail(sl, t->finish)) sl->phase = PHASE_TAIL;
    else leave(s, sl);
}

static void begin_choice(scheduler *s, slot *sl);

/* Back to the end of the prompt. Its point holds the logits, unless it had to make room for others. */
static void next_choice(scheduler *s, slot *sl)
{
    sched_ticket *t = sl->job;
    t->k++;
    const int at = slot_rewind(sl, s, t->prompt_end);
    token_list_clear(&sl->feed);
    sl->fed = 0;
    if (at == t->prompt_end && ds4_session_has_logits(sl->session, at)) {
        begin_choice(s, sl);
        return;
    }
    const int from = at < t->prompt_end ? at : slot_rewind(sl, s, t->prompt_end - 1);
    for (int i = from; i < t->prompt_end; i++) token_list_push(&sl->feed, t->prompt_tokens[i]);
    sl->phase = PHASE_PROMPT;
}

static void end_choice(scheduler *s, slot *sl, answer_finish why)
{
    sched_ticket *t = sl->job;
    answer *a = current(t);
    answer_finish_with(a, why);
    keep_calls(s, t, a);
    ds4_sampler_free(t->sampler);
    t->sampler = NULL;

    ds4_error err;
    if (answer_status(a, &err) || t->prompt_lost) {
        if (t->prompt_lost) ds4_fail(&err, DS4_EMEMORY, "no memory for further choices");
        answers_fail(s, sl, &err);
        return;
    }
    if (t->k + 1 < t->n && t->finish != FINISH_CANCELLED) next_choice(s, sl);
    else end_request(s, sl);
}

void answers_end(scheduler *s, slot *sl, answer_finish why)
{
    sched_ticket *t = sl->job;
    if (why == FINISH_CANCELLED) {
        const bool prompt = sl->phase == PHASE_PROMPT;
        log_line(&s->o.log, LOG_INFO, "id=%s cancelled phase=%s tokens=%d", t->id, prompt ? "prefill" : "decode",
                 prompt ? (int)sl->fed : t->usage.completion_tokens);
        if (s->o.metrics) counter_add(&s->o.metrics->cancelled[prompt ? PHASE_PREFILL : PHASE_DECODE], 1);
    }
    t->n = t->k + 1;                                /* no further choice */
    end_choice(s, sl, why);
}

void answers_fail(scheduler *s, slot *sl, const ds4_error *why)
{
    sched_ticket *t = sl->job;
    const ds4_error err = *why;
    const bool done = sl->phase == PHASE_TAIL;      /* the answer is whole, only its session is not */
    s->failed_why = err;
    sl->rows = 0;
    if (t->from_disk && !ds4_engine_lost(s->engine)) {
        kvstore_reject(s->o.store, &t->hit);
        if (!slot_begin_cold(sl, s, t, NULL)) return;
    }
    slot_reset(sl, s);
    sl->memory.busy = false;
    sl->phase = PHASE_IDLE;
    sl->job = NULL;
    token_list_clear(&sl->feed);
    sl->fed = 0;
    log_line(&s->o.log, done ? LOG_DEBUG : LOG_ERROR, "id=%s %s: %s", t->id, done ? "is not in its slot" : "failed",
             err.message);
    if (done) {
        ticket_publish(t, true);
        return;
    }
    account(s, sl, t, ENDED_ERROR, "error");
    ticket_stage(t, &(sched_event){ .kind = SCHED_FAILED, .usage = t->usage, .error = err });
    ticket_publish(t, true);
}

/* ---- tokens ------------------------------------------------------------------------------- */

static void time_token(scheduler *s, sched_ticket *t)
{
    const uint64_t now = sched_now(s);
    server_metrics *m = s->o.metrics;
    if (t->timed_tokens++ == 0) {
        t->first_token_ns = now;
        if (m) timing_add(&m->ttft, seconds(t->arrived_ns, now));
    } else if (m) {
        timing_add(&m->inter_token, seconds(t->last_token_ns, now));
    }
    t->last_token_ns = now;
}

static void note_logprob(const slot *sl, answer_section in, ds4_token token, bool forced)
{
    sched_ticket *t = sl->job;
    ds4_logprob top[SCHED_TOP_LOGPROBS];
    float self = 0.0f;                              /* of a forced token */
    const float *logits = forced ? NULL : ds4_session_logits(sl->session);
    const int n = logits ? ds4_sampler_logprobs(t->sampler, logits, token, &self, top, t->top_logprobs) : 0;
    ticket_note_token(t, in, token, self, top, n);
}

/* A token joins the answer and, unless it is the end of turn, what the session is fed next. forced: it was not
 * sampled. */
static answer_verdict take(scheduler *s, slot *sl, ds4_token token, bool forced)
{
    sched_ticket *t = sl->job;
    answer *a = current(t);
    const answer_section in = answer_in(a);
    if (t->logprobs) note_logprob(sl, in, token, forced);
    answer_verdict v = answer_push(a, token);
    if (v == ANSWER_END_THINK) {
        token = s->special->end_think;
        forced = true;
        v = answer_push(a, token);
    }
    if (token == s->special->eos) return ANSWER_END;

    token_list_push(&sl->feed, token);
    ds4_sampler_accept(t->sampler, token);
    t->sampled++;
    t->usage.completion_tokens++;
    if (in == SECTION_REASONING) {
        t->reasoned++;
        t->usage.reasoning_tokens++;
    }
    if (s->o.metrics) {
        counter_add(&s->o.metrics->generation_tokens, 1);
        if (forced) counter_add(&s->o.metrics->forced_tokens, 1);
    }
    return v;
}

/* True: the choice has ended. */
static bool check_end(scheduler *s, slot *sl, answer_verdict v)
{
    const sched_ticket *t = sl->job;
    if (v == ANSWER_END) end_choice(s, sl, FINISH_STOP);
    else if (t->sampled >= t->limit) end_choice(s, sl, t->limit < t->max_tokens ? FINISH_CONTEXT : FINISH_LENGTH);
    else return false;
    return true;
}

static bool force(scheduler *s, slot *sl, const token_list *tokens)
{
    for (size_t i = 0; i < tokens->n; i++)
        if (check_end(s, sl, take(s, sl, tokens->ids[i], true))) return true;
    return false;
}

static bool ends_line(const vocab *v, ds4_token token)
{
    size_t n;
    const char *text = vocab_bytes(v, token, &n);
    return n > 0 && text[n - 1] == '\n';
}

/* What the request demands at this place: a call where the text would begin, the end of the block behind the
 * only call allowed (docs/answers.md). True: the choice has ended. */
static bool force_demanded(scheduler *s, slot *sl, ds4_token last)
{
    sched_ticket *t = sl->job;
    const answer_section in = answer_in(current(t));
    if (t->opening.n && !t->opened && in == SECTION_TEXT) {
        t->opened = true;
        return force(s, sl, &t->opening);
    }
    if (t->one_call && t->calls_ended > 0 && in == SECTION_TOOLS)
        return force(s, sl, &s->closer[last >= 0 && ends_line(s->v, last)]);
    return false;
}

static bool among_best(const float *logits, int n, ds4_token id, int places)
{
    int better = 0;
    for (int i = 0; i < n && better < places; i++) better += logits[i] > logits[id];
    return better < places;
}

static bool end_think_is_near(const scheduler *s, const slot *sl)
{
    const float *logits = ds4_session_logits(sl->session);
    return logits && among_best(logits, s->n_vocab, s->special->end_think, 3);
}

/* *forced: the token was not sampled. *token -1: nothing can be. */
static ds4_status choose(scheduler *s, slot *sl, ds4_token *token, bool *forced, ds4_error *err)
{
    sched_ticket *t = sl->job;
    *forced = false;
    if (!t->raw && answer_in(current(t)) == SECTION_REASONING) {
        const think_phase phase = think_phase_of(t->think_budget, t->reasoned, t->limit - t->sampled, t->limit);
        *forced = phase == THINK_OVER || (phase == THINK_CLOSING && end_think_is_near(s, sl));
        *token = s->special->end_think;
        if (*forced) return DS4_OK;
    }
    return ds4_session_sample(sl->session, t->sampler, answer_wants_greedy(current(t)), token, err);
}

static bool all_numbers(const float *logits, int n)
{
    for (int i = 0; i < n; i++)
        if (isnan(logits[i])) return false;
    return true;
}

static void fail_without_numbers(scheduler *s, slot *sl)
{
    ds4_error err;
    ds4_fail(&err, DS4_EDEVICE, "the model's logits are not numbers");
    answers_fail(s, sl, &err);
}

static void sample_next(scheduler *s, slot *sl)
{
    sched_ticket *t = sl->job;
    token_list_clear(&sl->feed);
    sl->fed = 0;
    ds4_error err;
    ds4_token token;
    bool forced;
    if (choose(s, sl, &token, &forced, &err)) {
        answers_fail(s, sl, &err);
        return;
    }
    if (token < 0) {
        fail_without_numbers(s, sl);
        return;
    }
    time_token(s, t);
    const answer_verdict v = take(s, sl, token, forced);
    if (check_end(s, sl, v)) return;
    force_demanded(s, sl, token);
}

static void begin_choice(scheduler *s, slot *sl)
{
    sched_ticket *t = sl->job;
    ds4_sampling params = t->sampling;
    params.seed += (uint64_t)t->k;
    ds4_error err;
    if (ds4_sampler_new(&t->sampler, &params, s->n_vocab, &err)) {
        answers_fail(s, sl, &err);
        return;
    }
    t->sampled = t->reasoned = t->calls_ended = t->n_pending = 0;
    t->given = 0;
    t->opened = false;
    t->limit = min_int(t->max_tokens, sl->capacity - t->prompt_end);
    sl->phase = PHASE_ANSWER;
    token_list_clear(&sl->feed);
    sl->fed = 0;
    if (t->limit <= 0) {
        end_choice(s, sl, t->max_tokens <= 0 ? FINISH_LENGTH : FINISH_CONTEXT);
        return;
    }
    if (force_demanded(s, sl, -1)) return;
    if (sl->feed.n == 0) sample_next(s, sl);
}

static void begin(scheduler *s, slot *sl)
{
    sched_ticket *t = sl->job;
    const float *logits = ds4_session_logits(sl->session);
    if (t->from_disk && !(logits && all_numbers(logits, s->n_vocab))) {
        fail_without_numbers(s, sl);
        return;
    }
    t->from_disk = false;                           /* from here on tokens are given out: no second start */
    slot_mark(sl);
    if (t->k == 0) {
        t->prefilled_ns = sched_now(s);
        ticket_stage_echo(t);
        if (t->n > 1) {
            const size_t size = (size_t)t->prompt_end * sizeof *t->prompt_tokens;
            t->prompt_tokens = malloc(size);
            if (t->prompt_tokens) memcpy(t->prompt_tokens, ds4_session_tokens(sl->session), size);
            else t->prompt_lost = true;
        }
    }
    begin_choice(s, sl);
}

void answers_advance(scheduler *s, slot *sl)
{
    if (sl->phase == PHASE_TAIL) leave(s, sl);
    else if (sl->phase == PHASE_ANSWER) sample_next(s, sl);
    else if (sl->orphan) answers_end(s, sl, FINISH_CANCELLED);
    else begin(s, sl);
}
