#include "generate.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/status.h"
#include "signals.h"
#include "text/think_budget.h"

/* One run of the loop. */
typedef struct {
    timeline               *timeline;
    const vocab            *vocab;
    const special_tokens   *special;
    ds4_sampler            *sampler;
    const generate_options *options;
    printer                *out;
    generate_result        *result;
    stream                 *streams[2];     /* by printer_section */
    printer_section         section;
    int                     limit;          /* tokens this answer could have at its start */
    bytes                   piece;
    ds4_error              *err;
} generation;

/* ---- text ------------------------------------------------------------------- */

/* Reasoning also ends at a </think> that the model spells out; user's stop
 * strings count in the answer only. */
static ds4_status open_streams(generation *g)
{
    slice stops[STOPS_MAX];
    const slice end_think = slice_of("</think>");
    const option_list *given = g->options->stops;
    const int n = given ? min_int(given->n, STOPS_MAX) : 0;     /* the flags allow no more */
    for (int i = 0; i < n; i++) stops[i] = slice_of(given->items[i]);

    /* A pipe gets the model's bytes as they are; terminals and JSON valid UTF-8. */
    const bool raw = !g->out->terminal && !g->out->collect;
    const stream_options reasoning = { .show_control = true, .raw = raw, .stops = &end_think, .n_stops = 1 };
    const stream_options text      = { .show_control = true, .raw = raw, .stops = stops, .n_stops = n };
    const ds4_status st = stream_open(&g->streams[PRINT_REASONING], g->vocab, &reasoning, g->err);
    return st ? st : stream_open(&g->streams[PRINT_TEXT], g->vocab, &text, g->err);
}

static void give(generation *g)
{
    printer_write(g->out, g->section, g->piece.data, g->piece.len);
    bytes_clear(&g->piece);
}

static ds4_status flush_section(generation *g)
{
    const ds4_status st = stream_flush(g->streams[g->section], &g->piece, g->err);
    if (!st) give(g);
    return st;
}

static ds4_status enter(generation *g, printer_section to)
{
    const ds4_status st = g->section == to ? DS4_OK : flush_section(g);
    if (g->section != to) stream_reset(g->streams[to]);
    g->section = to;
    return st;
}

/* The DSML marker is text where no tools are offered; other control tokens have
 * no place in an answer and are not shown. */
static bool is_shown(const generation *g, ds4_token id)
{
    return vocab_type(g->vocab, id) != TOKEN_CONTROL || id == g->special->dsml;
}

/* Sends one token to where it belongs and notices the change of section. */
static ds4_status emit(generation *g, ds4_token id)
{
    if (id == g->special->think)     return enter(g, PRINT_REASONING);
    if (id == g->special->end_think) return enter(g, PRINT_TEXT);
    if (!is_shown(g, id)) return DS4_OK;

    stream *s = g->streams[g->section];
    const ds4_status st = stream_push(s, id, &g->piece, g->err);
    if (st) return st;
    give(g);
    if (g->section == PRINT_REASONING && stream_stopped(s) >= 0) return enter(g, PRINT_TEXT);
    return DS4_OK;
}

/* ---- choosing --------------------------------------------------------------- */

static bool among_best(const float *logits, int n, ds4_token id, int places)
{
    int better = 0;
    for (int i = 0; i < n && better < places; i++) better += logits[i] > logits[id];
    return better < places;
}

static int tokens_left(const generation *g)
{
    const int room = ds4_session_capacity(g->timeline->session) - (int)g->timeline->tokens.n;
    return min_int(g->options->max_tokens - g->result->tokens, room);
}

static bool end_is_near(const generation *g)
{
    const float *logits = ds4_session_logits(g->timeline->session);
    return logits && among_best(logits, vocab_size(g->vocab), g->special->end_think, 3);
}

/* The next token. Reasoning that ends without </think>, or takes too long, gets
 * one; so every answer has a text part. */
static ds4_status choose(generation *g, ds4_token *id)
{
    const ds4_token end = g->special->end_think;
    *id = end;
    if (g->section == PRINT_REASONING) {
        const think_phase phase = think_phase_of(g->options->think_budget, g->result->reasoning_tokens,
                                                 tokens_left(g), g->limit);
        if (phase == THINK_OVER || (phase == THINK_CLOSING && end_is_near(g))) return DS4_OK;
    }
    const ds4_status st = ds4_session_sample(g->timeline->session, g->sampler, false, id, g->err);
    if (st) return st;
    if (*id < 0) return ds4_fail(g->err, DS4_EDEVICE, "the model's logits are not numbers");
    if (*id == g->special->eos && g->section == PRINT_REASONING) *id = end;
    return DS4_OK;
}

/* ---- the loop --------------------------------------------------------------- */

static finish_reason failed(ds4_status st)
{
    return st == DS4_ECANCELLED ? FINISH_INTERRUPTED : FINISH_ERROR;
}

static finish_reason decode(generation *g)
{
    timeline *t = g->timeline;
    for (;;) {
        if (g->result->tokens >= g->options->max_tokens) return FINISH_LENGTH;
        if (tokens_left(g) <= 0) return FINISH_CONTEXT;
        ds4_status st = timeline_advance(t, g->err);
        if (st) return failed(st);
        if (signals_interrupted()) return FINISH_INTERRUPTED;

        ds4_token id;
        if ((st = choose(g, &id))) return failed(st);
        if (id == g->special->eos) return FINISH_STOP;
        token_list_push(&t->tokens, id);
        ds4_sampler_accept(g->sampler, id);
        g->result->tokens++;
        g->result->reasoning_tokens += g->section == PRINT_REASONING;

        if ((st = emit(g, id))) return failed(st);
        if (g->out->write_error) return FINISH_OUTPUT;
        if (g->section == PRINT_TEXT && stream_stopped(g->streams[PRINT_TEXT]) >= 0) return FINISH_STOP_STRING;
    }
}

static ds4_metrics metrics_now(const timeline *t)
{
    ds4_metrics m;
    ds4_engine_metrics(t->engine, &m);
    return m;
}

/* What was counted since `before`. */
static ds4_expert_metrics counted_since(ds4_expert_metrics now, const ds4_expert_metrics *before)
{
    now.hits -= before->hits;
    now.misses -= before->misses;
    now.bytes_read -= before->bytes_read;
    now.ahead -= before->ahead;
    now.ahead_used -= before->ahead_used;
    now.wait_ns -= before->wait_ns;
    now.busy_ns -= before->busy_ns;
    return now;
}

static ds4_card_expert_metrics card_counted_since(ds4_card_expert_metrics now, const ds4_card_expert_metrics *before)
{
    now.hits -= before->hits;
    now.misses -= before->misses;
    now.bus_bytes -= before->bus_bytes;
    now.exchanges -= before->exchanges;
    return now;
}

void generate_answer(timeline *t, const vocab *v, ds4_sampler *sampler, const generate_options *o,
                     printer *out, generate_result *r, ds4_error *err)
{
    generation g = {
        .timeline = t, .vocab = v, .special = vocab_special(v), .sampler = sampler,
        .options = o, .out = out, .result = r, .section = o->start, .err = err,
    };
    const ds4_metrics before = metrics_now(t);
    residency_counts pages;
    residency_now(&pages);
    const uint64_t start = clock_ns();
    *r = (generate_result){ 0 };
    bytes_init(&g.piece, (size_t)1 << 20);
    g.limit = tokens_left(&g);

    printer_begin(out);
    const ds4_status st = open_streams(&g);
    r->finish = st ? FINISH_ERROR : decode(&g);
    if (!st && r->finish != FINISH_ERROR) flush_section(&g);
    printer_end(out);

    r->ended_in = g.section;
    r->ns = clock_ns() - start;
    const ds4_metrics after = metrics_now(t);
    r->experts = counted_since(after.experts, &before.experts);
    r->card_experts = card_counted_since(after.card_experts, &before.card_experts);
    r->pages = residency_since(&pages);
    stream_close(g.streams[PRINT_REASONING]);
    stream_close(g.streams[PRINT_TEXT]);
    bytes_free(&g.piece);
}

const char *finish_name(finish_reason f)
{
    switch (f) {
    case FINISH_LENGTH:
    case FINISH_CONTEXT: return "length";
    case FINISH_INTERRUPTED: return "interrupted";
    default: return "stop";
    }
}
