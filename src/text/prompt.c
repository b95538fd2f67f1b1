#include "text/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "text/added.h"
#include "text/tokenizer.h"

void chat_prompt_init(chat_prompt *p, const vocab *v, size_t max_bytes)
{
    *p = (chat_prompt){ .v = v };
    bytes_init(&p->text, max_bytes);
}

void chat_prompt_free(chat_prompt *p)
{
    bytes_free(&p->text);
    free(p->segments);
    chat_prompt_init(p, p->v, p->text.max);
}

static chat_segment *add_segment(chat_prompt *p)
{
    if (p->n_segments == p->cap) {
        size_t n_bytes = 0;
        const size_t cap = p->cap ? p->cap * 2 : 16;
        chat_segment *segments = NULL;
        if (checked_mul_size(cap, sizeof *segments, &n_bytes)) segments = realloc(p->segments, n_bytes);
        if (!segments) {
            p->failed = true;
            return NULL;
        }
        p->segments = segments;
        p->cap = cap;
    }
    return &p->segments[p->n_segments++];
}

static void append(chat_prompt *p, int32_t control, slice text)
{
    const size_t begin = p->text.len;
    chat_segment *last = p->n_segments ? &p->segments[p->n_segments - 1] : NULL;
    if (text.len == 0 || p->full || p->failed) return;
    if (text.len > p->text.max - p->text.len) {
        p->full = true;
        return;
    }
    if (!bytes_append(&p->text, text.data, text.len)) {
        p->failed = true;
        return;
    }
    if (control < 0 && last && last->control < 0) {
        last->len += text.len;
        return;
    }
    chat_segment *s = add_segment(p);
    if (s) *s = (chat_segment){ control, begin, text.len };
}

void chat_prompt_text(chat_prompt *p, slice text)
{
    append(p, -1, text);
}

void chat_prompt_control(chat_prompt *p, int32_t token)
{
    size_t n;
    const char *data = vocab_bytes(p->v, token, &n);
    append(p, token, (slice){ data, n });
}

void chat_prompt_protocol(chat_prompt *p, const char *text)
{
    const special_tokens *special = vocab_special(p->v);
    const int32_t ids[] = { special->think, special->end_think, special->dsml };
    const char *done = text;
    while (*text) {
        size_t len = 0, i = 0;
        for (; i < countof(ids); i++) {
            const char *spelled = vocab_bytes(p->v, ids[i], &len);
            if (strncmp(text, spelled, len) == 0) break;
        }
        if (i == countof(ids)) {
            text++;
            continue;
        }
        chat_prompt_text(p, (slice){ done, (size_t)(text - done) });
        chat_prompt_control(p, ids[i]);
        done = text += len;
    }
    chat_prompt_text(p, (slice){ done, (size_t)(text - done) });
}

void chat_prompt_guarded(chat_prompt *p, slice text, const char *tag, const char *harmless)
{
    const size_t n_tag = strlen(tag);
    const char *at;
    while (text.len && (at = memmem(text.data, text.len, tag, n_tag))) {
        const size_t before = (size_t)(at - text.data);
        chat_prompt_text(p, (slice){ text.data, before });
        chat_prompt_text(p, slice_of(harmless));
        text = (slice){ at + n_tag, text.len - before - n_tag };
    }
    chat_prompt_text(p, text);
}

void chat_prompt_check_spelling(chat_prompt *p, size_t first)
{
    if (p->full || p->failed) return;
    for (size_t i = first; i < p->n_segments && !p->ambiguous; i++) {
        const chat_segment *s = &p->segments[i];
        size_t pos = 0, len = 0;
        if (s->control >= 0) continue;
        const slice text = { p->text.data + s->begin, s->len };
        p->ambiguous = added_find(vocab_added(p->v), text, &pos, &len) >= 0;
    }
}

ds4_status chat_prompt_status(const chat_prompt *p, ds4_error *err)
{
    if (p->failed) return ds4_fail(err, DS4_EMEMORY, "no memory for a prompt");
    if (p->full) return ds4_fail(err, DS4_EFULL, "the prompt is longer than %zu bytes", p->text.max);
    return DS4_OK;
}

ds4_status chat_tokens(const chat_prompt *p, token_list *out, ds4_error *err)
{
    ds4_status st = chat_prompt_status(p, err);
    for (size_t i = 0; !st && i < p->n_segments; i++) {
        const chat_segment *s = &p->segments[i];
        if (s->control >= 0) {
            token_list_push(out, s->control);
            continue;
        }
        st = tokenizer_encode(p->v, (slice){ p->text.data + s->begin, s->len }, false, out, err);
        if (st == DS4_EFULL) st = DS4_OK;       /* go on counting */
    }
    if (!st && out->failed) return ds4_fail(err, DS4_EMEMORY, "no memory for %zu tokens", out->wanted);
    if (!st && out->wanted > out->n) {
        return ds4_fail(err, DS4_EFULL, "the prompt has %zu tokens, and %zu are the most allowed",
                        out->wanted, out->max);
    }
    return st;
}
