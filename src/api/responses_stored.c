/* Answers that are kept, looked at and deleted by id (docs/api.md). */
#include <stdio.h>

#include "api/api_common.h"
#include "api/responses_store.h"

bool api_refuse_orphan(api_error *e, slice call_id)
{
    return api_refuse(e, 400, "invalid_request_error", NULL, "input",
                      "No tool call found for function call output with call_id %.*s.",
                      api_shown(call_id, 128), call_id.data);
}

static bool refuse_unknown(api_error *e, slice id)
{
    return api_refuse(e, 404, "invalid_request_error", NULL, "response_id", "Response with id '%.*s' not found.",
                      api_shown(id, 128), id.data);
}

static void write_id(json_writer *w, const json_tree *t, uint32_t item, slice response, int index)
{
    const uint32_t id = item ? json_tree_find(t, item, "id") : 0;
    char made[128];
    if (id && t->nodes[id].kind == JSON_TREE_STRING) {
        json_slice(w, t->nodes[id].text);
        return;
    }
    snprintf(made, sizeof made, "item_%.*s_%d", api_shown(response, 64), response.data, index);
    json_text(w, made);
}

/* An item as it came, with an id where it had none: lists are walked by it. */
static void write_item(json_writer *w, const json_tree *t, uint32_t item, slice response, int index)
{
    bytes value;
    json_object(w);
    json_key(w, "id");
    write_id(w, t, item, response, index);
    for (uint32_t m = t->nodes[item].first; m; m = t->nodes[m].next) {
        const slice key = t->nodes[m].key;
        if (slice_is(key, "id")) continue;
        bytes_init(&value, SIZE_MAX);
        json_tree_write_string(key, &value);
        bytes_char(&value, ':');
        json_tree_write_compact(t, m, &value);
        json_raw(w, value.data, value.len);
        if (value.failed) w->out->failed = true;
        bytes_free(&value);
    }
    json_object_end(w);
}

static void write_list(slice items, slice response, bytes *out)
{
    json_tree t;
    json_writer w;
    uint32_t last = 0;
    int n = 0;
    if (json_tree_parse(&t, items, NULL)) {
        out->failed = true;
        return;
    }
    json_init(&w, out);
    json_object(&w);
    json_put_text(&w, "object", "list");
    json_key(&w, "data");
    json_array(&w);
    for (uint32_t c = t.nodes[1].first; c; c = t.nodes[c].next) {
        write_item(&w, &t, c, response, n++);
        last = c;
    }
    json_array_end(&w);
    json_key(&w, "first_id");
    if (n) write_id(&w, &t, t.nodes[1].first, response, 0);
    else   json_null(&w);
    json_key(&w, "last_id");
    if (n) write_id(&w, &t, last, response, n - 1);
    else   json_null(&w);
    json_put_bool(&w, "has_more", false);
    json_object_end(&w);
    json_tree_free(&t);
}

static void write_deleted(slice id, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_put_slice(&w, "id", id);
    json_put_slice(&w, "object", slice_of("response"));
    json_put_bool(&w, "deleted", true);
    json_object_end(&w);
}

bool api_stored_response(const api_config *c, slice method, slice id, slice rest, bytes *out, api_error *e)
{
    responses_store *s = c->responses;
    const bool deletes = slice_is(method, "DELETE");
    bool found;
    if (!s) {
        return api_refuse(e, 404, "invalid_request_error", "unsupported_endpoint", NULL,
                          "This server does not keep responses (it was started without --responses-store). "
                          "It has POST /v1/responses, /v1/chat/completions, /v1/completions and /v1/messages.");
    }
    if (rest.len && (deletes || !slice_is(rest, "input_items"))) {
        return api_refuse(e, 404, "invalid_request_error", "unknown_url", NULL,
                          "A stored response has GET, DELETE, and GET of its input_items.");
    }
    if (deletes) {
        found = responses_store_delete(s, id);
        if (found) write_deleted(id, out);
    } else if (rest.len) {
        bytes items;
        bytes_init(&items, SIZE_MAX);
        found = responses_store_get(s, id, STORED_INPUT, &items);
        if (found) write_list((slice){ items.data, items.len }, id, out);
        bytes_free(&items);
    } else {
        found = responses_store_get(s, id, STORED_RESPONSE, out);
    }
    if (out->failed) return api_refuse_failed(e, "There is no memory for this answer.");
    return found || refuse_unknown(e, id);
}
