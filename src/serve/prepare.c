#include "serve/prepare.h"

#include <stdlib.h>

#include "text/tokenizer.h"

#define MAX_PROMPT_BYTES ((size_t)256 << 20)    /* rendered: the largest body and all that replay adds */
enum { MAX_PROMPT_TOKENS = 1 << 26 };           /* counted, so that a refusal can name the number     */

void prepare_init(prepared *p)
{
    *p = (prepared){ 0 };
    bytes_init(&p->answer, MAX_PROMPT_BYTES);
}

void prepare_free(prepared *p)
{
    for (int i = 0; i < p->n_prompts; i++) {
        reuse_prompt_close(&p->prompts[i]);
        free((void *)p->texts[i].data);
    }
    free(p->prompts);
    free(p->texts);
    api_request_free(p->request);
    bytes_free(&p->answer);
    prepare_init(p);
}

/* FNV-1a, 64 bits. */
static uint64_t hash_bytes(uint64_t h, slice s)
{
    for (size_t i = 0; i < s.len; i++) h = (h ^ (unsigned char)s.data[i]) * 1099511628211u;
    return h;
}

uint64_t prepare_hint(slice value)
{
    const uint64_t h = hash_bytes(14695981039346656037u, value);
    return h ? h : 1;
}

/* ---- refusals ----------------------------------------------------------------------- */

/* What a render or the tokenizer said. Sentences of DS4_EARG begin with the field. */
static bool refuse_status(prepared *p, ds4_status st, const ds4_error *err)
{
    if (st == DS4_EARG || st == DS4_EUNSUPPORTED || st == DS4_EFULL) return api_refuse_field(&p->error, err->message);
    return api_refuse_failed(&p->error, err->message);
}

static bool no_memory(prepared *p)
{
    return api_refuse_failed(&p->error, "no memory for this request");
}

static bool fits(prepared *p, size_t n)
{
    const int room = p->context->capacity < p->context->api->ctx ? p->context->capacity : p->context->api->ctx;
    if (n < (size_t)room) return true;
    return api_refuse_too_long(&p->error, p->route->dialect, n > INT32_MAX ? INT32_MAX : (int)n, room);
}

/* ---- chat --------------------------------------------------------------------------- */

static bool remembers(const prepared *p, slice id)
{
    const replay_record *turn = replay_find(p->context->replay, id);
    if (turn) replay_release(p->context->replay, turn);
    return turn != NULL;
}

/* Whether a call was sampled here, now or, as the checkpoints tell, before a restart. */
static bool knows_call(const prepared *p, slice id)
{
    if (!p->context->replay) return false;
    if (remembers(p, id)) return true;
    if (!p->context->store) return false;
    kvstore_read_tool_maps(p->context->store, p->context->replay);
    return remembers(p, id);
}

/* Brings back the calls that the prompt will be written with. The maps hold all there are, so one look is enough. */
static void recall(const prepared *p, const chat_request *r)
{
    for (int i = 0; i < r->n_messages; i++)
        for (int j = 0; j < r->messages[i].n_calls; j++)
            if (!knows_call(p, r->messages[i].calls[j].id)) return;
}

/* The whole prompt as text and tokens. */
static bool render(prepared *p, api_request *r, chat_prompt *prompt, token_list *tokens)
{
    ds4_error err = { 0 };
    r->chat.replay = p->context->replay;
    recall(p, &r->chat);
    ds4_status st = chat_render(prompt, &r->chat, &err);
    if (!st && tokens) st = chat_tokens(prompt, tokens, &err);
    return st ? refuse_status(p, st, &err) : true;
}

static void trace(const prepared *p, const char *what, slice text)
{
    if (p->context->trace) p->context->trace(p->context->trace_ctx, p->id, what, text);
}

/* ---- what reuse wants to know ---------------------------------------------------------- */

static bool copy_slice(slice *out, slice from)
{
    char *data = malloc(from.len + 1);
    if (!data) return false;
    memcpy(data, from.data, from.len);
    data[from.len] = 0;
    *out = (slice){ data, from.len };
    return true;
}

static bool copy_result_ids(reuse_prompt *q, const api_request *r)
{
    if (r->n_results == 0) return true;
    q->result_ids = calloc((size_t)r->n_results, sizeof *q->result_ids);
    if (!q->result_ids) return false;
    for (; q->n_results < r->n_results; q->n_results++) {
        if (!copy_slice(&q->result_ids[q->n_results], r->result_ids[q->n_results])) return false;
    }
    return true;
}

static bool name_tools(reuse_prompt *q, const chat_request *c)
{
    if (c->n_tools == 0) return true;
    bytes names;
    bytes_init(&names, MAX_PROMPT_BYTES);
    for (int i = 0; i < c->n_tools; i++) {
        if (i) bytes_char(&names, '\n');
        bytes_append(&names, c->tools[i].name.data, c->tools[i].name.len);
    }
    const size_t n = names.len;
    char *data = bytes_take(&names);
    if (!data) return false;
    q->tool_names = (slice){ data, n };
    q->tools_hash = prepare_hint(q->tool_names);
    return true;
}

static void add_hint(reuse_prompt *q, uint64_t hint)
{
    for (int i = 0; i < q->n_hints; i++) {
        if (q->hints[i] == hint) return;
    }
    if (q->n_hints < (int)(sizeof q->hints / sizeof *q->hints)) q->hints[q->n_hints++] = hint;
}

static bool describe(const prepared *p, reuse_prompt *q)
{
    const api_request *r = p->request;
    for (int i = 0; i < p->n_hints; i++) add_hint(q, p->hints[i]);
    for (int i = 0; i < r->n_hints; i++) add_hint(q, prepare_hint(r->hints[i]));
    return copy_result_ids(q, r) && name_tools(q, &r->chat);
}

/* Takes the tokens in any case. */
static bool add_prompt(prepared *p, token_list *tokens, bool ambiguous, bool raw)
{
    ds4_error err = { 0 };
    reuse_prompt *q = &p->prompts[p->n_prompts];
    const ds4_status st = reuse_prompt_open(q, p->context->api->vocab, tokens, &err);
    if (st) return refuse_status(p, st, &err);
    p->n_prompts++;
    q->ambiguous = ambiguous;
    q->raw = raw;
    return describe(p, q) || no_memory(p);
}

static bool make_room(prepared *p, int n)
{
    p->prompts = calloc((size_t)n, sizeof *p->prompts);
    p->texts = calloc((size_t)n, sizeof *p->texts);
    return (p->prompts && p->texts) || no_memory(p);
}

static bool prepare_chat(prepared *p)
{
    chat_prompt prompt;
    token_list tokens;
    chat_prompt_init(&prompt, p->context->api->vocab, MAX_PROMPT_BYTES);
    token_list_init(&tokens, MAX_PROMPT_TOKENS);
    bool ok = make_room(p, 1) && render(p, p->request, &prompt, &tokens) && fits(p, tokens.n);
    if (ok) {
        trace(p, "prompt", (slice){ prompt.text.data, prompt.text.len });
        p->start = prompt.start;
        p->lowered = p->request->chat.effort == EFFORT_MAX && chat_effort_granted(&p->request->chat) != EFFORT_MAX;
        ok = add_prompt(p, &tokens, prompt.ambiguous, false);
    }
    token_list_free(&tokens);
    chat_prompt_free(&prompt);
    return ok;
}

/* ---- completions ------------------------------------------------------------------------ */

static bool raw_tokens(prepared *p, const api_prompt *in, token_list *tokens)
{
    const vocab *v = p->context->api->vocab;
    const int32_t bos = vocab_special(v)->bos;
    ds4_error err = { 0 };
    token_list_push(tokens, bos);
    if (in->n_ids < 0) {
        const ds4_status st = tokenizer_encode(v, in->text, true, tokens, &err);
        if (st) return refuse_status(p, st, &err);
    } else {
        for (int i = 0; i < in->n_ids; i++) {
            if (in->ids[i] < 0 || in->ids[i] >= vocab_size(v))
                return api_refuse(&p->error, 400, "invalid_request_error", NULL, "prompt",
                                  "prompt: there is no token %d",
                                  (int)in->ids[i]);
            token_list_push(tokens, in->ids[i]);
        }
    }
    if (tokens->failed) return no_memory(p);
    if (tokens->n > 1 && tokens->ids[1] == bos)
        memmove(tokens->ids, tokens->ids + 1, --tokens->n * sizeof *tokens->ids);
    return fits(p, tokens->n);
}

/* What `echo` gives back: the client's text, not the BOS in front of it. */
static bool echo_text(prepared *p, const api_prompt *in, slice *out)
{
    if (in->n_ids < 0) return copy_slice(out, in->text) || no_memory(p);
    bytes text;
    ds4_error err = { 0 };
    bytes_init(&text, MAX_PROMPT_BYTES);
    const ds4_status st = tokenizer_decode(p->context->api->vocab, in->ids, (size_t)in->n_ids, true, &text, &err);
    const size_t n = text.len;
    if (st) {
        bytes_free(&text);
        return refuse_status(p, st, &err);
    }
    char *data = bytes_take(&text);
    *out = (slice){ data, n };
    return data || no_memory(p);
}

static bool prepare_raw(prepared *p)
{
    const api_request *r = p->request;
    if (!make_room(p, r->n_prompts)) return false;
    for (int i = 0; i < r->n_prompts; i++) {
        token_list tokens;
        token_list_init(&tokens, MAX_PROMPT_TOKENS);
        const bool ok = raw_tokens(p, &r->prompts[i], &tokens) && add_prompt(p, &tokens, false, true);
        token_list_free(&tokens);
        if (!ok || (r->echo && !echo_text(p, &r->prompts[i], &p->texts[i]))) return false;
        if (r->prompts[i].n_ids < 0) trace(p, "prompt", r->prompts[i].text);
    }
    return true;
}

/* ---- the helpers -------------------------------------------------------------------------- */

static bool count_tokens(prepared *p)
{
    chat_prompt prompt;
    token_list tokens;
    if (!api_parse_count_tokens(&p->request, p->body, p->context->api, &p->error)) return false;
    chat_prompt_init(&prompt, p->context->api->vocab, MAX_PROMPT_BYTES);
    token_list_init(&tokens, MAX_PROMPT_TOKENS);
    const bool ok = render(p, p->request, &prompt, &tokens);
    if (ok) api_count_tokens_body((int)tokens.n, &p->answer);
    token_list_free(&tokens);
    chat_prompt_free(&prompt);
    return ok;
}

static bool apply_template(prepared *p)
{
    chat_prompt prompt;
    if (!api_parse_template(&p->request, p->body, p->context->api, &p->error)) return false;
    chat_prompt_init(&prompt, p->context->api->vocab, MAX_PROMPT_BYTES);
    const bool ok = render(p, p->request, &prompt, NULL);
    if (ok) api_template_body((slice){ prompt.text.data, prompt.text.len }, &p->answer);
    chat_prompt_free(&prompt);
    return ok;
}

/* An output whose call is not in the input is one of a turn that this server remembers, or it is refused. */
static bool outputs_are_known(prepared *p)
{
    for (int i = 0; i < p->request->n_orphans; i++) {
        const slice id = p->request->orphans[i];
        if (!knows_call(p, id)) return api_refuse_orphan(&p->error, id);
    }
    return true;
}

static bool generate(prepared *p)
{
    if (!api_parse(&p->request, p->route->dialect, p->body, p->context->api, &p->error)) return false;
    if (!outputs_are_known(p)) return false;
    return p->route->dialect == API_COMPLETIONS ? prepare_raw(p) : prepare_chat(p);
}

static bool run(prepared *p)
{
    switch (p->route->kind) {
    case ROUTE_GENERATE:     return generate(p);
    case ROUTE_COUNT_TOKENS: return count_tokens(p);
    case ROUTE_TEMPLATE:     return apply_template(p);
    case ROUTE_TOKENIZE:     return api_tokenize(p->body, p->context->api, &p->answer, &p->error);
    default:                 return api_detokenize(p->body, p->context->api, &p->answer, &p->error);
    }
}

void prepare_run(prepared *p)
{
    p->refused = !run(p);
    if (!p->refused && p->answer.failed) p->refused = !no_memory(p);
}
