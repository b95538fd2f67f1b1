#include "prompt.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"
#include "text/tokenizer.h"

#define DEFAULT_SYSTEM "You are a helpful assistant"

/* More than any context holds; keeps `ds4 < /dev/zero` finite. */
#define MAX_PROMPT_BYTES ((size_t)256 << 20)

/* ---- reading --------------------------------------------------------------- */

ds4_status prompt_read_file(const char *path, char **text, size_t *len, ds4_error *err)
{
    const ds4_status st = file_read_all(path, MAX_PROMPT_BYTES, text, len, err);
    if (st) return st;
    if (*len && (*text)[*len - 1] == '\n') (*text)[--*len] = 0;
    return DS4_OK;
}

static ds4_status copy_text(const char *from, char **text, size_t *len, ds4_error *err)
{
    *text = strdup(from);
    *len = strlen(from);
    return *text ? DS4_OK : ds4_fail(err, DS4_EMEMORY, "the prompt: no memory to keep it");
}

/* "Summarise:" + blank line + what was piped in. */
static ds4_status add_input(prompt_source *p, ds4_error *err)
{
    char *input;
    size_t n;
    ds4_status st = prompt_read_file("-", &input, &n, err);
    if (st) return st;
    if (n) {
        char *joined = realloc(p->text, p->len + n + 3);
        if (joined) {
            p->text = joined;
            memcpy(joined + p->len, "\n\n", 2);
            memcpy(joined + p->len + 2, input, n + 1);
            p->len += n + 2;
        } else {
            st = ds4_fail(err, DS4_EMEMORY, "standard input: no memory to read it");
        }
    }
    free(input);
    return st;
}

static ds4_status read_user(prompt_source *p, const cli_options *o, ds4_error *err)
{
    const bool piped = !isatty(STDIN_FILENO);
    p->present = true;
    if (o->token_ids) return copy_text("", &p->text, &p->len, err);     /* stands for the prompt */
    if (o->prompt_file) return prompt_read_file(o->prompt_file, &p->text, &p->len, err);
    if (o->prompt) {
        const ds4_status st = copy_text(o->prompt, &p->text, &p->len, err);
        return st || !piped ? st : add_input(p, err);
    }
    if (piped) {
        const ds4_status st = prompt_read_file("-", &p->text, &p->len, err);
        if (st || p->len) return st;
        return ds4_fail(err, DS4_EARG, "the prompt on standard input is empty; give one with -p");
    }
    p->present = false;
    return copy_text("", &p->text, &p->len, err);
}

ds4_status prompt_read(prompt_source *p, const cli_options *o, ds4_error *err)
{
    *p = (prompt_source){ 0 };
    ds4_status st = read_user(p, o, err);
    if (!st && o->system_file) st = prompt_read_file(o->system_file, &p->system, &p->system_len, err);
    else if (!st) st = copy_text(o->system ? o->system : DEFAULT_SYSTEM, &p->system, &p->system_len, err);
    if (st) prompt_free(p);
    return st;
}

void prompt_free(prompt_source *p)
{
    free(p->text);
    free(p->system);
    *p = (prompt_source){ 0 };
}

/* ---- rendering ------------------------------------------------------------- */

static chat_request request_of(const prompt_mode *m)
{
    chat_request r = chat_request_defaults();
    r.no_thinking = m->mode == MODE_NOTHINK;
    r.effort = m->mode == MODE_THINK_MAX ? EFFORT_MAX : EFFORT_UNSET;
    r.profile = m->profile;
    r.ctx = m->ctx;
    r.think_max_min_ctx = m->think_max_min_ctx;
    return r;
}

chat_effort prompt_effort(const prompt_mode *m)
{
    const chat_request r = request_of(m);
    return chat_effort_granted(&r);
}

/* Room for the control tokens and the effort prefix around the user's bytes. */
static size_t render_limit(size_t text_bytes)
{
    return text_bytes + 65536;
}

static ds4_status finish_render(chat_prompt *p, ds4_status st, token_list *out, ds4_error *err)
{
    if (!st) st = chat_tokens(p, out, err);
    chat_prompt_free(p);
    return st;
}

ds4_status prompt_tokens_chat(const vocab *v, const prompt_mode *m, slice system, slice user,
                              token_list *out, ds4_error *err)
{
    const chat_message messages[] = {
        { .role = CHAT_SYSTEM, .text = system },
        { .role = CHAT_USER, .text = user },
    };
    chat_request r = request_of(m);
    const bool has_system = system.len > 0;
    r.messages = messages + !has_system;
    r.n_messages = 1 + has_system;

    chat_prompt p;
    chat_prompt_init(&p, v, render_limit(system.len + user.len));
    return finish_render(&p, chat_render(&p, &r, err), out, err);
}

ds4_status prompt_tokens_next(const vocab *v, const prompt_mode *m, slice user, token_list *out, ds4_error *err)
{
    chat_prompt p;
    chat_prompt_init(&p, v, render_limit(user.len));
    return finish_render(&p, chat_render_next(&p, user, m->mode == MODE_NOTHINK, err), out, err);
}

ds4_status prompt_tokens_raw(const vocab *v, slice text, token_list *out, ds4_error *err)
{
    return tokenizer_encode(v, text, true, out, err);
}
