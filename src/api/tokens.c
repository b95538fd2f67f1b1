/* /tokenize, /detokenize and the answer of /apply-template. */
#include <stdlib.h>

#include "api/api_common.h"
#include "text/tokenizer.h"

/* Reads a body for a call that needs no api_request. */
typedef bool body_reader(api_reader *rd, bytes *out);

static bool with_body(slice body, const api_config *c, body_reader *read, bytes *out, api_error *e)
{
    json_tree tree;
    if (!api_read_body(&tree, body, e)) return false;
    api_reader rd = { .tree = &tree, .config = c, .error = e };
    const bool good = read(&rd, out);
    json_tree_free(&tree);
    return good;
}

static bool no_memory(api_reader *rd)
{
    return api_refuse_failed(rd->error, "There is no memory for this request.");
}

static void write_tokens(const int32_t *ids, size_t n, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_key(&w, "tokens");
    json_array(&w);
    for (size_t i = 0; i < n; i++) json_int(&w, ids[i]);
    json_array_end(&w);
    json_object_end(&w);
}

static bool tokenize(api_reader *rd, bytes *out)
{
    const api_value body = api_body(), at = api_field(rd, &body, "content");
    slice content;
    bool add_special = false, parse_special = true;
    if (!api_need_string(rd, &at, &content) || !api_get_bool(rd, &body, "add_special", &add_special)
        || !api_get_bool(rd, &body, "parse_special", &parse_special)) {
        return false;
    }
    token_list tokens;
    ds4_error err;
    token_list_init(&tokens, content.len + 1);      /* a token is a byte or more */
    const int32_t bos = vocab_special(rd->config->vocab)->bos;
    bool good = !add_special || token_list_push(&tokens, bos);
    good = good && tokenizer_encode(rd->config->vocab, content, parse_special, &tokens, &err) == DS4_OK;
    if (good) write_tokens(tokens.ids, tokens.n, out);
    token_list_free(&tokens);
    return good || no_memory(rd);
}

bool api_tokenize(slice body, const api_config *c, bytes *out, api_error *e)
{
    return with_body(body, c, tokenize, out, e);
}

static void write_member(const char *key, slice text, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_put_slice(&w, key, text);
    json_object_end(&w);
}

static bool detokenize(api_reader *rd, bytes *out)
{
    const api_value body = api_body(), list = api_field(rd, &body, "tokens");
    bytes text;
    if (!api_need_array(rd, &list)) return false;
    bytes_init(&text, API_TEXT_MAX);
    for (api_value v = api_first(rd, &list); v.node; v = api_after(rd, v)) {
        int64_t id;
        if (!api_to_int(rd, &v, 0, rd->config->vocab_size - 1, &id)) {
            bytes_free(&text);
            return false;
        }
        const slice token = api_token_text(rd->config, (int32_t)id);
        bytes_append(&text, token.data, token.len);
    }
    const bool full = text.failed;
    if (!full) write_member("content", (slice){ text.data ? text.data : "", text.len }, out);
    bytes_free(&text);
    return !full || api_wrong(rd, &list, "the text would be longer than this server gives out");
}

bool api_detokenize(slice body, const api_config *c, bytes *out, api_error *e)
{
    return with_body(body, c, detokenize, out, e);
}

void api_template_body(slice prompt, bytes *out)
{
    write_member("prompt", prompt, out);
}
