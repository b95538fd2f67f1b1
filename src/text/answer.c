/* The prose of an answer, its events, and what the caller sees of it. */
#include "text/answer.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "base/utf8.h"
#include "text/answer_state.h"
#include "text/utf8_repair.h"

/* ---- small things ------------------------------------------------------------ */

bool answer_is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

prefix_match answer_prefix(slice s, const char *text)
{
    const size_t n = strlen(text);
    if (s.len == 0) return PREFIX_CUT;
    if (memcmp(s.data, text, min_size(s.len, n)) != 0) return PREFIX_NO;
    return s.len < n ? PREFIX_CUT : PREFIX_WHOLE;
}

bool answer_is_half_tag(slice s)
{
    return s.len && memmem(s.data, s.len, "DSML", 4);
}

void answer_forget(answer *a, bytes *b)
{
    a->no_memory |= b->failed;
    bytes_clear(b);
}

/* ---- events ------------------------------------------------------------------ */

static bytes *record_of(answer *a, answer_kind kind)
{
    return kind == ANSWER_REASONING ? &a->reasoning : kind == ANSWER_TEXT ? &a->text : &a->arguments;
}

void answer_give(answer *a, answer_kind kind, slice data)
{
    answer_event e = { .kind = kind, .choice = a->o.choice, .bytes = data };
    if (kind >= ANSWER_CALL_BEGIN) {
        e.call = a->n_calls;
        e.id = a->open.id;
        e.name = a->open.name;
    }
    a->o.event(a->o.event_ctx, &e);
}

/* Pending bytes become an event, up to the last whole character. */
void answer_flush(answer *a, bool all)
{
    bytes *p = &a->pending;
    const size_t tail = all || !p->len ? 0 : (size_t)utf8_pending(p->data, p->len);
    const size_t n = p->len - tail;
    if (n == 0) return;
    answer_forget(a, &a->clean);
    utf8_append_repaired((slice){ p->data, n }, &a->clean);
    memmove(p->data, p->data + n, tail);
    p->len = tail;

    bytes_append(record_of(a, a->pending_kind), a->clean.data, a->clean.len);
    const bool shown = a->pending_kind != ANSWER_CALL_ARGS || !a->tentative;
    if (shown) answer_give(a, a->pending_kind, (slice){ a->clean.data, a->clean.len });
}

bytes *answer_pending(answer *a, answer_kind kind)
{
    if (a->pending_kind != kind) answer_flush(a, true);
    a->pending_kind = kind;
    return &a->pending;
}

void answer_end(answer *a, answer_finish finish)
{
    answer_flush(a, true);
    a->finish = finish;
    a->state = STATE_DONE;
}

/* ---- prose ------------------------------------------------------------------- */

void answer_put_prose(answer *a, slice text)
{
    if (text.len == 0) return;
    a->last = text.data[text.len - 1];
    if (a->state == STATE_REASONING) {
        bytes_append(answer_pending(a, ANSWER_REASONING), text.data, text.len);
        return;
    }
    bytes *out = answer_pending(a, ANSWER_TEXT);
    stop_filter_push(a->stops, text, out);
    const int stop = stop_filter_seen(a->stops);
    if (stop < 0) return;
    const slice string = stop_filter_string(a->stops, stop);
    if (a->o.include_stop) bytes_append(out, string.data, string.len);
    answer_end(a, FINISH_STOP_STRING);
}

static void put_blanks(answer *a)
{
    answer_put_prose(a, (slice){ a->blanks.data, a->blanks.len });
    answer_forget(a, &a->blanks);
}

static void take_prose(answer *a, size_t n)
{
    put_blanks(a);
    if (a->state == STATE_DONE) return;
    answer_put_prose(a, (slice){ answer_rest(a).data, n });
    a->pos += n;
}

/* What is held is nothing but prose. Of a tag that was cut off nothing is shown. */
static void release_prose(answer *a)
{
    const slice s = answer_rest(a);
    if (a->state == STATE_TEXT && a->markup && answer_is_half_tag(s)) {
        a->counts.repairs[REPAIR_STRAY]++;
        answer_forget(a, &a->blanks);
    } else {
        take_prose(a, s.len);
    }
    a->pos = a->in.len;
    if (a->state == STATE_TEXT) stop_filter_release(a->stops, answer_pending(a, ANSWER_TEXT));
    answer_flush(a, true);
}

static void close_reasoning(answer *a)
{
    put_blanks(a);
    answer_flush(a, true);
    a->state = STATE_TEXT;
    a->reasoning_closed = true;
    a->last = '\n';
}

static void reopen_reasoning(answer *a)
{
    release_prose(a);
    if (a->state == STATE_DONE) return;
    a->state = STATE_REASONING;
    a->reasoning_closed = false;
    a->pass = a->reasoning.len;
    a->last = '\n';
}

/* At '<' of reasoning; false: more bytes are needed. */
static bool scan_reasoning_mark(answer *a, slice s)
{
    static const char mark[] = "</think>";
    const char before = a->blanks.len ? a->blanks.data[a->blanks.len - 1] : a->last;
    const prefix_match p = answer_prefix(s, mark);
    if (p == PREFIX_CUT) return false;
    if (p == PREFIX_WHOLE) {
        close_reasoning(a);
        a->pos += strlen(mark);
        return true;
    }
    const dsml_result r = a->markup && before == '\n' ? tools_begin_in(a, s) : DSML_NONE;
    if (r == DSML_PARTIAL) return false;
    if (r == DSML_NONE) {
        take_prose(a, 1);
        return true;
    }
    dsml_tag tag;
    dsml_read(s, false, &tag);
    tools_enter(a, true);
    if (!tag.exact) a->counts.repairs[REPAIR_SPELLING]++;
    tools_take(a, tag.len);
    return true;
}

/* At '<' of text. */
static bool scan_text_mark(answer *a, slice s)
{
    dsml_tag tag;
    const dsml_result r = a->markup ? dsml_read(s, false, &tag) : DSML_NONE;
    if (r == DSML_PARTIAL) return false;
    if (r == DSML_NONE || (tag.kind == DSML_OTHER && !tag.closing)) {
        take_prose(a, 1);
        return true;
    }
    if (!tag.closing && tag.kind != DSML_PARAMETER) {
        stop_filter_release(a->stops, answer_pending(a, ANSWER_TEXT));
        tools_enter(a, false);
        if (tag.kind == DSML_INVOKE) {
            a->counts.repairs[REPAIR_OUTER_TAG]++;
            return true;                /* the block reads it */
        }
        if (r == DSML_BROKEN || !tag.exact) a->counts.repairs[REPAIR_SPELLING]++;
        tools_take(a, tag.len);
        return true;
    }
    /* A tag without a block goes, and the newline in front of it. */
    a->counts.repairs[REPAIR_STRAY]++;
    if (a->blanks.len && a->blanks.data[a->blanks.len - 1] == '\n') a->blanks.len--;
    a->pos += tag.len;
    return true;
}

static bool scan_prose(answer *a)
{
    const slice s = answer_rest(a);
        size_t n = 0;
    while (n < s.len && s.data[n] != '<' && !(a->markup && answer_is_blank(s.data[n]))) n++;
    if (n) {
        take_prose(a, n);
        return true;
    }
    if (s.data[0] == '<') return a->state == STATE_REASONING ? scan_reasoning_mark(a, s) : scan_text_mark(a, s);
    while (n < s.len && answer_is_blank(s.data[n])) n++;
    bytes_append(&a->blanks, s.data, n);
    a->pos += n;
    return true;
}

/* ---- tokens ------------------------------------------------------------------ */

static bool is_out_of_memory(const answer *a)
{
    bool failed = a->no_memory || call_args_failed(&a->args);
    for (size_t i = 0; i < countof(a->buffers); i++) failed |= a->buffers[i].failed;
    return failed;
}

static void scan(answer *a)
{
    while (a->state != STATE_DONE && a->pos < a->in.len && !is_out_of_memory(a)) {
        if (!(a->state == STATE_TOOLS ? tools_scan(a) : scan_prose(a))) break;
    }
    memmove(a->in.data, a->in.data + a->pos, a->in.len - a->pos);
    a->in.len -= a->pos;
    a->pos = 0;
}

static void take_bytes(answer *a, slice data)
{
    if (data.len == 0) return;
    if (a->o.raw) {
        answer_put_prose(a, data);
        return;
    }
    bytes_append(&a->in, data.data, data.len);
    if (!is_out_of_memory(a)) scan(a);
}

static void take_token(answer *a, int32_t token)
{
    size_t n;
    const char *data = vocab_bytes(a->v, token, &n);
    take_bytes(a, (slice){ data, n });
}

/* Where a turn ends, whatever is open. */
static void end_turn(answer *a, bool repeat_reasoning)
{
    if (a->state == STATE_TOOLS) tools_end_of_turn(a);
    if (a->state == STATE_DONE) return;
    release_prose(a);
    if (a->state == STATE_DONE) return;         /* a stop string came out of what was held */
    if (a->state == STATE_REASONING && repeat_reasoning && a->reasoning.len > a->pass) {
        bytes_append(answer_pending(a, ANSWER_TEXT), a->reasoning.data + a->pass, a->reasoning.len - a->pass);
    }
    answer_end(a, FINISH_STOP);
}

static answer_verdict take_eos(answer *a)
{
    if (a->state == STATE_TOOLS && a->tentative) tools_roll_back(a);
    if (a->state == STATE_REASONING && a->o.unclosed == UNCLOSED_FORCE) {
        answer_flush(a, false);
        return ANSWER_END_THINK;
    }
    end_turn(a, a->o.unclosed == UNCLOSED_TEXT);
    return ANSWER_END;
}

static void take_end_think(answer *a)
{
    if (a->state == STATE_TOOLS && a->tentative) tools_roll_back(a);
    if (a->state == STATE_TOOLS) {
        take_token(a, a->special->end_think);
    } else if (a->state == STATE_REASONING) {
        release_prose(a);
        close_reasoning(a);
    }
}

answer_verdict answer_push(answer *a, int32_t token)
{
    if (a->state == STATE_DONE || a->finished || is_out_of_memory(a)) return ANSWER_END;
    if (token == a->special->eos) return take_eos(a);
    if (!vocab_hidden(a->v, token)) take_token(a, token);
    else if (a->o.raw) return ANSWER_MORE;
    else if (token == a->special->end_think) take_end_think(a);
    else if (a->state == STATE_TOOLS) take_token(a, token);             /* part of a value */
    else if (token == a->special->think && a->state == STATE_TEXT) reopen_reasoning(a);

    answer_flush(a, false);
    return a->state == STATE_DONE || is_out_of_memory(a) ? ANSWER_END : ANSWER_MORE;
}

/* The caller ended it: what is held comes out, an open call stays as far as it was sent. */
static void cut(answer *a)
{
    if (a->state == STATE_TOOLS && a->tentative) tools_roll_back(a);
    if (a->state != STATE_TOOLS) release_prose(a);
    else if (a->call_open) answer_forget(a, &a->block);      /* half a call is nothing to replay */
    answer_flush(a, true);
}

void answer_finish_with(answer *a, answer_finish why)
{
    if (a->finished) return;
    if (a->state != STATE_DONE) {
        const bool cut_off = why == FINISH_LENGTH || why == FINISH_CONTEXT || why == FINISH_CANCELLED;
        if (cut_off) cut(a);
        else end_turn(a, a->o.unclosed == UNCLOSED_TEXT);
    }
    answer_event e = { .kind = ANSWER_FINISH, .choice = a->o.choice, .finish = why };
    if (a->state == STATE_DONE && why != FINISH_CANCELLED) e.finish = a->finish;
    if (e.finish == FINISH_STOP_STRING) e.stop = stop_filter_string(a->stops, stop_filter_seen(a->stops));
    a->finished = true;
    a->o.event(a->o.event_ctx, &e);
}

/* ---- what the caller sees ---------------------------------------------------- */

ds4_status answer_status(const answer *a, ds4_error *err)
{
    if (!is_out_of_memory(a)) return DS4_OK;
    return ds4_fail(err, DS4_EMEMORY, "no memory for the answer, or it is longer than %zu bytes", ANSWER_MAX_BYTES);
}

answer_section answer_in(const answer *a)
{
    return a->state == STATE_REASONING ? SECTION_REASONING : a->state == STATE_TOOLS ? SECTION_TOOLS : SECTION_TEXT;
}

bool answer_wants_greedy(const answer *a)
{
    if (a->state == STATE_DONE || a->o.raw) return false;
    if (a->markup && answer_is_half_tag(answer_rest(a))) return true;
    return a->state == STATE_TOOLS && !(a->place == IN_VALUE && call_args_in_payload(&a->args));
}

answer_turn answer_turn_of(const answer *a)
{
    return (answer_turn){
        .reasoning = { a->reasoning.data, a->reasoning.len }, .text = { a->text.data, a->text.len },
        .block = { a->block.data, a->n_calls ? a->block.len : 0 },
        .reasoning_closed = a->reasoning_closed, .calls = a->calls, .n_calls = a->n_calls,
    };
}

const char *answer_repair_name(answer_repair r)
{
    static const char *const names[REPAIR_KINDS] = {
        "string_attribute", "json_literal", "type", "duplicate", "wrapper", "spelling", "closer", "outer_tag", "stray",
    };
    return (unsigned)r < REPAIR_KINDS ? names[r] : "";
}

const answer_counts *answer_counts_of(const answer *a)
{
    return &a->counts;
}

/* ---- opening ----------------------------------------------------------------- */

/* Names and schemas in one block. */
static ds4_status copy_tools(answer *a, const chat_tool *tools, int n, ds4_error *err)
{
    size_t total = 1, at = 0;
    for (int i = 0; i < n; i++) total += tools[i].name.len + tools[i].parameters.len;
    a->tools = calloc(n ? (size_t)n : 1, sizeof *a->tools);
    a->tool_text = malloc(total);
    if (!a->tools || !a->tool_text) return ds4_fail(err, DS4_EMEMORY, "no memory for %d tools", n);
    for (int i = 0; i < n; i++) {
        const slice from[2] = { tools[i].name, tools[i].parameters };
        slice *const to[2] = { &a->tools[i].name, &a->tools[i].parameters };
        for (int k = 0; k < 2; k++) {
            *to[k] = (slice){ a->tool_text + at, from[k].len };
            if (from[k].len) memcpy(a->tool_text + at, from[k].data, from[k].len);
            at += from[k].len;
        }
    }
    return DS4_OK;
}

ds4_status answer_open(answer **out, const vocab *v, const answer_options *o, ds4_error *err)
{
    *out = NULL;
    answer *a = calloc(1, sizeof *a);
    if (!a) return ds4_fail(err, DS4_EMEMORY, "no memory for an answer");
    a->v = v;
    a->special = v ? vocab_special(v) : NULL;
    a->o = *o;
    a->o.stops = NULL;
    a->o.tools = NULL;
    if (o->raw) a->o.n_tools = 0;
    a->markup = a->o.n_tools > 0;
    a->state = !o->raw && o->start == CHAT_STARTS_REASONING ? STATE_REASONING : STATE_TEXT;
    a->reasoning_closed = a->state == STATE_TEXT;
    a->last = '\n';
    a->pending_kind = ANSWER_TEXT;
    for (size_t i = 0; i < countof(a->buffers); i++) bytes_init(&a->buffers[i], ANSWER_MAX_BYTES);
    call_args_init(&a->args, a->counts.repairs, ANSWER_MAX_BYTES);

    ds4_status st = copy_tools(a, o->tools, a->o.n_tools, err);
    if (!st) st = stop_filter_open(&a->stops, o->stops, o->n_stops, err);
    if (st) answer_close(a);
    else *out = a;
    return st;
}

void answer_close(answer *a)
{
    if (!a) return;
    if (a->call_open) tools_free_call(&a->open);
    for (int i = 0; i < a->n_calls; i++) tools_free_call(&a->calls[i]);
    for (int i = 0; i < a->o.n_tools && a->tools; i++) call_schema_close(&a->tools[i].schema);
    for (size_t i = 0; i < countof(a->buffers); i++) bytes_free(&a->buffers[i]);
    call_args_free(&a->args);
    stop_filter_close(a->stops);
    free(a->tools);
    free(a->tool_text);
    free(a->calls);
    free(a);
}

/* ---- reading a block again ---------------------------------------------------- */

static void no_random(void *ctx, uint8_t out[16])
{
    (void)ctx;
    memset(out, 0, 16);
}

static void no_event(void *ctx, const answer_event *e)
{
    (void)ctx;
    (void)e;
}

ds4_status answer_read_block(answer **out, slice block, const chat_tool *tools, int n_tools, ds4_error *err)
{
    const answer_options o = {
        .start = CHAT_STARTS_TEXT, .tools = tools, .n_tools = n_tools, .random = no_random, .event = no_event,
    };
    ds4_status st = answer_open(out, NULL, &o, err);
    if (st) return st;
    (*out)->markup = true;
    take_bytes(*out, block);
    answer_finish_with(*out, FINISH_STOP);
    if ((st = answer_status(*out, err))) {
        answer_close(*out);
        *out = NULL;
    }
    return st;
}
