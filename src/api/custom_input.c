#include "api/custom_input.h"

#include <stdint.h>

#include "text/json_tree.h"

#define HEAD "{\"input\":\""

void custom_input_init(custom_input *c, size_t max_bytes)
{
    *c = (custom_input){ .state = INPUT_HEAD };
    bytes_init(&c->json, max_bytes);
    bytes_init(&c->text, max_bytes);
}

void custom_input_free(custom_input *c)
{
    bytes_free(&c->json);
    bytes_free(&c->text);
}

void custom_input_clear(custom_input *c)
{
    bytes_clear(&c->json);
    bytes_clear(&c->text);
    c->at = 0;
    c->state = INPUT_HEAD;
}

/* The end of the string's bytes that are there: its quote, or the end of all. */
static size_t string_end(const custom_input *c)
{
    size_t i = c->at;
    while (i < c->json.len && c->json.data[i] != '"') i += c->json.data[i] == '\\' ? 2 : 1;
    return i < c->json.len ? i : c->json.len;
}

/* Appends what the bytes from `at` to `end` of the string mean. An escape that was cut waits for its rest. */
static void take(custom_input *c, size_t end)
{
    bytes quoted;
    json_tree t;
    bytes_init(&quoted, SIZE_MAX);
    bytes_char(&quoted, '"');
    bytes_append(&quoted, c->json.data + c->at, end - c->at);
    bytes_char(&quoted, '"');
    if (quoted.failed) {
        c->text.failed = true;
    } else if (json_tree_parse(&t, (slice){ quoted.data, quoted.len }, NULL) == DS4_OK) {
        bytes_append(&c->text, t.nodes[1].text.data, t.nodes[1].text.len);
        c->at = end;
        json_tree_free(&t);
    }
    bytes_free(&quoted);
}

static slice from(const custom_input *c, size_t begin)
{
    return (slice){ c->text.data ? c->text.data + begin : "", c->text.len - begin };
}

slice custom_input_push(custom_input *c, slice json)
{
    const size_t head = sizeof HEAD - 1, before = c->text.len;
    bytes_append(&c->json, json.data, json.len);
    if (c->state == INPUT_HEAD && c->json.len >= head) {
        c->state = memcmp(c->json.data, HEAD, head) == 0 ? INPUT_STRING : INPUT_OTHER;
        c->at = head;
    }
    if (c->state == INPUT_STRING) {
        const size_t end = string_end(c);
        if (end > c->at) take(c, end);
        if (end < c->json.len) c->state = INPUT_CLOSED;
    }
    return from(c, before);
}

slice custom_input_end(custom_input *c)
{
    const size_t before = c->text.len;
    if (c->state == INPUT_CLOSED) return from(c, before);

    json_tree t;
    slice input = { c->json.data, c->json.len };
    const bool good = json_tree_parse(&t, input, NULL) == DS4_OK;
    const uint32_t at = good && t.nodes[1].kind == JSON_TREE_OBJECT ? json_tree_find(&t, 1, "input") : 0;
    if (at && t.nodes[at].kind == JSON_TREE_STRING) input = t.nodes[at].text;
    if (c->state != INPUT_STRING) bytes_append(&c->text, input.data, input.len);
    if (good) json_tree_free(&t);
    c->state = INPUT_CLOSED;
    return from(c, before);
}
