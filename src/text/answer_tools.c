/* The tool block of an answer: what each tag does, and what is made of tags that are
 * missing or wrong. */
#include <stdlib.h>
#include <string.h>

#include "text/answer_state.h"
#include "text/utf8_repair.h"

enum {
    JUNK_MAX  = 4096,           /* bytes in a block that belong to nothing; then it is over      */
    AHEAD_MAX = 256             /* bytes looked at behind what may be a wrong closer             */
};

static const char unparsable[] = "[tool call could not be parsed]";

void tools_take(answer *a, size_t n)
{
    bytes_append(&a->block, a->in.data + a->pos, n);
    a->pos += n;
}

static void repaired(answer *a, answer_repair r)
{
    a->counts.repairs[r]++;
}

/* ---- one call ---------------------------------------------------------------- */

static slice keep(answer *a, slice text)
{
    char *copy = malloc(text.len + 1);
    if (!copy) {
        a->no_memory = true;
        return (slice){ NULL, 0 };
    }
    if (text.len) memcpy(copy, text.data, text.len);
    copy[text.len] = 0;
    return (slice){ copy, text.len };
}

void tools_free_call(chat_call *c)
{
    free((char *)c->id.data);
    free((char *)c->name.data);
    free((char *)c->arguments.data);
    *c = (chat_call){ .id = { NULL, 0 } };
}

static slice make_id(answer *a)
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    static const char hex[] = "0123456789abcdef";
    char id[40];
    size_t n = 0;
    uint8_t random[32];
    a->o.random(a->o.random_ctx, random);
    if (a->o.ids == CALL_ID_OPENAI) {
        memcpy(id, "call_", n = 5);
        for (int i = 0; i < 16; i++) {
            id[n++] = hex[random[i] >> 4];
            id[n++] = hex[random[i] & 15];
        }
    } else {
        a->o.random(a->o.random_ctx, random + 16);
        memcpy(id, "toolu_", n = 6);
        for (int i = 0; i < 24; i++) id[n++] = digits[random[i] % 62];
    }
    return keep(a, (slice){ id, n });
}

/* The name between the quotes, as valid UTF-8; good until the next one. */
static slice plain_name(answer *a, slice written)
{
    answer_forget(a, &a->name);
    dsml_unescape(written, &a->name);
    utf8_repair(&a->name);
    return (slice){ a->name.data, a->name.len };
}

static const call_schema *schema_of(answer *a, slice name)
{
    for (int i = 0; i < a->o.n_tools; i++) {
        offered_tool *t = &a->tools[i];
        if (!slice_equal(t->name, name)) continue;
        if (!t->is_open && call_schema_open(&t->schema, t->parameters)) a->no_memory = true;
        t->is_open = true;
        return &t->schema;
    }
    return NULL;
}

static void begin_call(answer *a, slice written_name)
{
    answer_flush(a, true);
    a->open = (chat_call){ .name = keep(a, plain_name(a, written_name)), .id = make_id(a) };
    a->call_open = true;
    a->place = IN_CALL;
    answer_forget(a, &a->arguments);
    call_args_begin(&a->args, schema_of(a, a->open.name));
    if (!a->tentative) answer_give(a, ANSWER_CALL_BEGIN, (slice){ NULL, 0 });
}

static void drop_call(answer *a)
{
    if (a->call_open) tools_free_call(&a->open);
    a->call_open = false;
}

static bool add_call(answer *a)
{
    if (a->n_calls == a->cap_calls) {
        const int cap = a->cap_calls ? a->cap_calls * 2 : 4;
        chat_call *calls = realloc(a->calls, (size_t)cap * sizeof *calls);
        if (!calls) {
            a->no_memory = true;
            return false;
        }
        a->calls = calls;
        a->cap_calls = cap;
    }
    a->open.arguments = keep(a, (slice){ a->arguments.data, a->arguments.len });
    a->calls[a->n_calls++] = a->open;
    return true;
}

static void end_call(answer *a)
{
    call_args_end(&a->args, answer_pending(a, ANSWER_CALL_ARGS));
    answer_flush(a, true);
    if (a->tentative) {
        a->tentative = false;
        answer_give(a, ANSWER_CALL_BEGIN, (slice){ NULL, 0 });
        answer_give(a, ANSWER_CALL_ARGS, (slice){ a->arguments.data, a->arguments.len });
    }
    answer_give(a, ANSWER_CALL_END, (slice){ NULL, 0 });
    if (!add_call(a)) tools_free_call(&a->open);
    a->call_open = false;
    a->place = BETWEEN_CALLS;
}

/* ---- values ------------------------------------------------------------------ */

static void begin_value(answer *a, const dsml_tag *tag)
{
    const slice key = plain_name(a, tag->name);
    call_args_parameter(&a->args, key, tag->string, answer_pending(a, ANSWER_CALL_ARGS));
    answer_flush(a, true);
    a->place = IN_VALUE;
}

static void value_part(answer *a, slice part)
{
    call_args_value(&a->args, part, answer_pending(a, ANSWER_CALL_ARGS));
}

static void end_value(answer *a)
{
    answer_flush(a, true);
    call_args_value_end(&a->args, answer_pending(a, ANSWER_CALL_ARGS));
    answer_flush(a, true);
    a->place = IN_CALL;
}

/* The tag that follows blanks. */
static dsml_result next_tag(slice s, dsml_tag *out, slice *at)
{
    size_t n = 0;
    while (n < s.len && n <= AHEAD_MAX && answer_is_blank(s.data[n])) n++;
    *at = slice_behind(s, n);
    if (n > AHEAD_MAX) return DSML_NONE;
    if (at->len == 0) return DSML_PARTIAL;
    const dsml_result r = at->data[0] == '<' ? dsml_read(*at, false, out) : DSML_NONE;
    return r == DSML_BROKEN ? DSML_NONE : r;
}

/* </parameter>, without the marker, is part of many a file; it closes a value only where a
 * tag of ours follows. */
static dsml_result plain_closer(slice s, const dsml_tag *closer)
{
    dsml_tag next;
    slice at;
    const dsml_result r = next_tag(slice_behind(s, closer->len), &next, &at);
    if (r != DSML_TAG) return r;
    const bool goes_on = next.closing ? next.kind == DSML_INVOKE : next.kind == DSML_PARAMETER && next.has_name;
    return goes_on ? DSML_TAG : DSML_NONE;
}

/* </invoke> in a value is a part of it, unless nothing but the end of the block and of the
 * turn follows: then the value's own closer was forgotten. */
static dsml_result forgotten_closer(slice s, const dsml_tag *closer)
{
    dsml_tag next;
    slice at;
    const dsml_result r = next_tag(slice_behind(s, closer->len), &next, &at);
    if (r != DSML_TAG) return r;
    if (!next.closing || next.kind != DSML_TOOL_CALLS) return DSML_NONE;
    return next_tag(slice_behind(at, next.len), &next, &at) == DSML_PARTIAL && at.len == 0 ? DSML_PARTIAL : DSML_NONE;
}

/* Does the value end at s, which begins with '<' or with a newline? DSML_TAG: yes, and *skip
 * bytes of s go with it. DSML_BROKEN: the whole block was none. */
static dsml_result value_end(answer *a, slice s, size_t *skip)
{
    dsml_tag tag;
    const size_t newline = s.data[0] == '\n';
    const slice t = slice_behind(s, newline);
    if (t.len == 0) return DSML_PARTIAL;
    if (t.data[0] != '<') return DSML_NONE;
    if (a->tentative) {
        const dsml_result again = newline ? tools_begin_in(a, t) : DSML_NONE;
        if (again != DSML_NONE) return again == DSML_TAG ? DSML_BROKEN : again;
    }
    dsml_result r = dsml_read(t, true, &tag);
    if (r != DSML_TAG) return r == DSML_PARTIAL ? r : DSML_NONE;

    *skip = newline;
    if (!tag.closing) {
        const bool whole = tag.marked && tag.has_name && tag.string != DSML_STRING_MISSING;
        if (tag.kind != DSML_PARAMETER || !whole) return DSML_NONE;
        if (!call_args_awaits(&a->args, plain_name(a, tag.name))) return DSML_NONE;
        repaired(a, REPAIR_CLOSER);
        return DSML_TAG;
    }
    if (tag.kind == DSML_TOOL_CALLS) return DSML_NONE;
    if (tag.kind == DSML_INVOKE) return tag.marked ? forgotten_closer(t, &tag) : DSML_NONE;
    if (!tag.marked && (r = plain_closer(t, &tag)) != DSML_TAG) return r;
    if (newline) return DSML_NONE;                      /* belongs to the value */
    if (tag.kind == DSML_OTHER || !tag.marked) repaired(a, REPAIR_CLOSER);
    else if (!tag.exact) repaired(a, REPAIR_SPELLING);
    *skip = tag.len;
    return DSML_TAG;
}

static bool scan_value(answer *a)
{
    static const char closer[] = "</" DSML_MARKER "parameter>";
    const slice s = answer_rest(a);
    size_t n = 0, skip = 0;
    while (n < s.len && s.data[n] != '<' && s.data[n] != '&' && s.data[n] != '\n') n++;
    if (n == 0 && s.data[0] == '&') {
        const prefix_match p = a->args.string == DSML_STRING_FALSE ? PREFIX_NO
                             : answer_prefix(s, "&lt;/" DSML_MARKER "parameter>");
        if (p == PREFIX_CUT) return false;
        if (p == PREFIX_WHOLE) {
            value_part(a, slice_of(closer));
            tools_take(a, strlen("&lt;/" DSML_MARKER "parameter>"));
            return true;
        }
        n = 1;
    } else if (n == 0) {
        const dsml_result r = value_end(a, s, &skip);
        if (r == DSML_PARTIAL) return false;
        if (r == DSML_BROKEN) {
            tools_roll_back(a);
            return true;
        }
        if (r == DSML_TAG) {
            end_value(a);
            tools_take(a, skip);
            return true;
        }
        n = 1;
    }
    value_part(a, (slice){ s.data, n });
    tools_take(a, n);
    return true;
}

/* ---- structure --------------------------------------------------------------- */

void tools_enter(answer *a, bool tentative)
{
    answer_flush(a, true);
    a->state = STATE_TOOLS;
    a->place = BETWEEN_CALLS;
    a->tentative = tentative;
    a->counts_before = a->counts;
    a->junk = 0;
    a->in_junk = false;
    answer_forget(a, &a->block);
    bytes_append(&a->block, a->blanks.data, a->blanks.len);
    a->separator = a->blanks.len;
    answer_forget(a, &a->blanks);
}

void tools_roll_back(answer *a)
{
    size_t n = a->block.len;
    while (n && answer_is_blank(a->block.data[n - 1])) n--;
    drop_call(a);
    answer_forget(a, &a->pending);
    a->counts = a->counts_before;
    a->tentative = false;
    a->state = STATE_REASONING;
    answer_put_prose(a, (slice){ a->block.data, n });
    bytes_append(&a->blanks, a->block.data + n, a->block.len - n);
    answer_forget(a, &a->block);
}

static void end_block(answer *a)
{
    if (a->place == IN_VALUE) end_value(a);
    if (a->call_open) {
        repaired(a, REPAIR_CLOSER);
        end_call(a);
    }
    if (a->tentative) {
        tools_roll_back(a);
        return;
    }
    tools_take(a, a->in.len - a->pos);  /* the rest of the token belongs to what was sampled */
    if (a->n_calls > 0) {
        answer_end(a, FINISH_TOOL_CALLS);
        return;
    }
    a->counts.failures++;
    if (a->text.len) bytes_append(answer_pending(a, ANSWER_TEXT), a->block.data, a->separator);
    bytes_text(answer_pending(a, ANSWER_TEXT), unparsable);
    answer_end(a, FINISH_STOP);
}

/* The tag's effect; its bytes are in the block already. False: it has no place here. */
static bool apply(answer *a, const dsml_tag *tag)
{
    if (tag->kind == DSML_TOOL_CALLS && tag->closing) {
        end_block(a);
        return true;
    }
    if (tag->kind == DSML_INVOKE && tag->closing) {
        if (!a->call_open) return false;
        end_call(a);
        return true;
    }
    if (tag->kind == DSML_INVOKE) {
        if (tag->name.len == 0) return false;
        if (a->call_open) {
            repaired(a, REPAIR_CLOSER);
            end_call(a);
        }
        begin_call(a, tag->name);
        return true;
    }
    if (tag->kind != DSML_PARAMETER || tag->closing || !tag->has_name || !a->call_open) return false;
    begin_value(a, tag);
    return true;
}

static void take_junk(answer *a, size_t n)
{
    if (!a->in_junk) repaired(a, REPAIR_STRAY);
    a->in_junk = true;
    a->junk += n;
    tools_take(a, n);
    if (a->junk > JUNK_MAX) end_block(a);
}

static bool scan_tag(answer *a, slice s)
{
    dsml_tag tag;
    if (a->tentative) {
        const prefix_match think = answer_prefix(s, "</think>");
        if (think == PREFIX_CUT) return false;
        if (think == PREFIX_WHOLE) {
            tools_roll_back(a);
            return true;
        }
    }
    const dsml_result r = dsml_read(s, true, &tag);
    if (r == DSML_PARTIAL) return false;
    if (r != DSML_TAG) {
        take_junk(a, 1);
        return true;
    }
    if (a->tentative && tag.kind == DSML_TOOL_CALLS && !tag.closing) {
        tools_roll_back(a);             /* what came before was talk; this may be the real one */
        return true;
    }
    tools_take(a, tag.len);
    if (!tag.exact) repaired(a, REPAIR_SPELLING);
    a->in_junk = false;
    if (!apply(a, &tag)) repaired(a, REPAIR_STRAY);
    return true;
}

static bool scan_structure(answer *a)
{
    const slice s = answer_rest(a);
    size_t n = 0;
    while (n < s.len && answer_is_blank(s.data[n])) n++;
    if (n) {
        tools_take(a, n);
        return true;
    }
    if (s.data[0] == '<') return scan_tag(a, s);
    while (n < s.len && s.data[n] != '<') n++;
    take_junk(a, n);
    return true;
}

bool tools_scan(answer *a)
{
    return a->place == IN_VALUE ? scan_value(a) : scan_structure(a);
}

dsml_result tools_begin_in(const answer *a, slice s)
{
    dsml_tag block, call;
    dsml_result r = dsml_read(s, false, &block);
    if (r != DSML_TAG) return r == DSML_PARTIAL ? r : DSML_NONE;
    if (block.kind != DSML_TOOL_CALLS || block.closing) return DSML_NONE;

    slice at;
    const slice behind = slice_behind(s, block.len);
    if (behind.len && behind.data[0] != '\n') return DSML_NONE;
    if ((r = next_tag(behind, &call, &at)) != DSML_TAG) return r;
    if (call.kind != DSML_INVOKE || call.closing) return DSML_NONE;
    for (int i = 0; i < a->o.n_tools; i++) if (slice_equal(a->tools[i].name, call.name)) return DSML_TAG;
    return DSML_NONE;
}

void tools_end_of_turn(answer *a)
{
    const slice s = answer_rest(a);
    if (a->tentative) {
        tools_roll_back(a);
        return;
    }
    /* Half a tag at the end is no part of the value, nor is the newline in front of it. */
    if (a->place == IN_VALUE && !answer_is_half_tag(s)) value_part(a, s);
    end_block(a);
}
