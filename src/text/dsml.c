#include "text/dsml.h"

#include <string.h>
#include <strings.h>

#include "base/checked.h"

enum { IDENT_MAX = 24 };

typedef struct {
    slice  s;
    size_t at;
} cursor;

static int look(const cursor *c)
{
    return c->at < c->s.len ? (unsigned char)c->s.data[c->at] : -1;
}

static bool is_blank(int c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* How far the text goes along with the cursor. */
typedef enum { TEXT_DIFFERS, TEXT_CUT, TEXT_TAKEN } taken;

static taken take(cursor *c, const char *text)
{
    const size_t n = strlen(text), left = c->s.len - c->at;
    if (memcmp(c->s.data + c->at, text, min_size(n, left)) != 0) return TEXT_DIFFERS;
    if (left < n) return TEXT_CUT;
    c->at += n;
    return TEXT_TAKEN;
}

/* One bar or two; TEXT_CUT only where not even one is complete. */
static taken take_bars(cursor *c, bool *exact)
{
    int n = 0;
    taken t = TEXT_DIFFERS;
    while (n < 2) {
        if (look(c) < 0) return n ? TEXT_TAKEN : TEXT_CUT;
        t = take(c, "｜");
        if (t == TEXT_CUT) return TEXT_CUT;
        if (t == TEXT_DIFFERS) {
            if (look(c) != '|') break;
            c->at++;
            *exact = false;
        }
        if (++n == 2) *exact = false;
    }
    return n ? TEXT_TAKEN : TEXT_DIFFERS;
}

static slice take_ident(cursor *c)
{
    const size_t begin = c->at;
    for (int b = look(c); (b >= 'a' && b <= 'z') || b == '_'; b = look(c)) c->at++;
    return (slice){ c->s.data + begin, c->at - begin };
}

static const char *const kind_names[] = { "", "tool_calls", "invoke", "parameter" };

static dsml_kind kind_of(slice ident)
{
    for (int k = DSML_TOOL_CALLS; k <= DSML_PARAMETER; k++) if (slice_is(ident, kind_names[k])) return (dsml_kind)k;
    return DSML_OTHER;
}

static bool begins_kind(slice ident)
{
    for (int k = DSML_TOOL_CALLS; k <= DSML_PARAMETER; k++) {
        if (strncmp(kind_names[k], ident.data, ident.len) == 0) return true;
    }
    return false;
}

/* '<', '/', the marker and the kind's name. */
static dsml_result read_head(cursor *c, bool loose, dsml_tag *tag)
{
    taken t;
    c->at = 1;
    if (look(c) == '/') {
        tag->closing = true;
        c->at++;
    }
    if ((t = take_bars(c, &tag->exact)) == TEXT_CUT) return DSML_PARTIAL;
    tag->marked = t == TEXT_TAKEN;
    if (tag->marked) {
        if ((t = take(c, "DSML")) == TEXT_TAKEN) t = take_bars(c, &tag->exact);
        if (t != TEXT_TAKEN) return t == TEXT_CUT ? DSML_PARTIAL : DSML_NONE;
    } else if (!loose) {
        return DSML_NONE;
    } else {
        tag->exact = false;
    }
    const slice ident = take_ident(c);
    if (ident.len > IDENT_MAX || (!tag->marked && !begins_kind(ident))) return DSML_NONE;
    if (look(c) < 0) return DSML_PARTIAL;
    tag->kind = kind_of(ident);
    return ident.len && (tag->marked || tag->kind) ? DSML_TAG : DSML_NONE;
}

/* A quoted value; the quotes may be any that people and models use. */
static dsml_result read_quoted(cursor *c, bool *exact, slice *value)
{
    static const char *const quotes[][2] = { { "\"", "\"" }, { "'", "'" }, { "“", "”" }, { "”", "”" } };
    size_t q = 0;
    for (; q < countof(quotes); q++) {
        const taken t = take(c, quotes[q][0]);
        if (t == TEXT_CUT) return DSML_PARTIAL;
        if (t == TEXT_TAKEN) break;
    }
    if (q == countof(quotes)) return DSML_BROKEN;
    if (q) *exact = false;
    for (const size_t begin = c->at;; c->at++) {
        if (look(c) < 0) return DSML_PARTIAL;
        if (look(c) == '\n') return DSML_BROKEN;
        const size_t end = c->at;
        const taken t = take(c, quotes[q][1]);
        if (t == TEXT_CUT) return DSML_PARTIAL;
        if (t == TEXT_DIFFERS) continue;
        *value = (slice){ c->s.data + begin, end - begin };
        return DSML_TAG;
    }
}

static void take_attribute(dsml_tag *tag, slice key, slice value)
{
    if (slice_is(key, "name")) {
        tag->name = value;
        tag->has_name = true;
    } else if (slice_is(key, "string") && value.len == 4 && strncasecmp(value.data, "true", 4) == 0) {
        tag->string = DSML_STRING_TRUE;
    } else if (slice_is(key, "string") && value.len == 5 && strncasecmp(value.data, "false", 5) == 0) {
        tag->string = DSML_STRING_FALSE;
    } else {
        tag->exact = false;
    }
}

static size_t skip_blanks(cursor *c)
{
    const size_t begin = c->at;
    while (is_blank(look(c))) c->at++;
    return c->at - begin;
}

/* Behind the head, up to and with '>'. */
static dsml_result read_rest(cursor *c, dsml_tag *tag)
{
    for (;;) {
        slice value = { .len = 0 };
        const size_t blanks = skip_blanks(c);
        if (look(c) < 0) return DSML_PARTIAL;
        if (look(c) == '>') {
            if (blanks) tag->exact = false;
            c->at++;
            return DSML_TAG;
        }
        if (tag->closing || !blanks) return DSML_BROKEN;
        if (blanks != 1) tag->exact = false;
        const slice key = take_ident(c);
        if (look(c) < 0) return DSML_PARTIAL;
        if (key.len == 0 || look(c) != '=') return DSML_BROKEN;
        c->at++;
        if (look(c) < 0) return DSML_PARTIAL;
        const dsml_result r = read_quoted(c, &tag->exact, &value);
        if (r != DSML_TAG) return r;
        take_attribute(tag, key, value);
    }
}

dsml_result dsml_read(slice s, bool loose, dsml_tag *out)
{
    cursor c = { .s = { s.data, min_size(s.len, DSML_TAG_MAX) } };
    *out = (dsml_tag){ .exact = true };
    dsml_result r = read_head(&c, loose, out);
    if (r != DSML_TAG) return r;

    const size_t head = c.at;
    r = read_rest(&c, out);
    if (r == DSML_PARTIAL && s.len >= DSML_TAG_MAX) r = DSML_BROKEN;
    out->len = r == DSML_TAG ? c.at : head;
    if (r == DSML_BROKEN && out->kind == DSML_OTHER) return DSML_NONE;
    return r;
}

void dsml_unescape(slice name, bytes *out)
{
    static const struct { const char *entity; char c; } entities[] = {
        { "&amp;", '&' }, { "&lt;", '<' }, { "&gt;", '>' }, { "&quot;", '"' },
    };
    cursor c = { .s = name };
    while (c.at < name.len) {
        size_t e = 0;
        while (e < countof(entities) && take(&c, entities[e].entity) != TEXT_TAKEN) e++;
        bytes_char(out, e < countof(entities) ? entities[e].c : name.data[c.at++]);
    }
}
