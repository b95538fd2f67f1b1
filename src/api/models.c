/* GET /v1/models and /v1/models/ID: one form that both families of SDKs read. */
#include <time.h>

#include "api/api_common.h"

static void write_model(json_writer *w, const api_config *c, const char *id)
{
    char when[32] = "1970-01-01T00:00:00Z";
    const time_t started = (time_t)c->started;
    struct tm parts;
    if (gmtime_r(&started, &parts)) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &parts);

    json_object(w);
    json_key(w, "id");
    json_text(w, id);
    json_key(w, "object");
    json_text(w, "model");
    json_key(w, "type");
    json_text(w, "model");
    json_key(w, "created");
    json_int(w, c->started);
    json_key(w, "created_at");
    json_text(w, when);
    json_key(w, "owned_by");
    json_text(w, "ds4");
    json_key(w, "display_name");
    json_text(w, c->display_name ? c->display_name : c->model);
    json_key(w, "context_length");
    json_int(w, c->ctx);
    json_key(w, "max_model_len");
    json_int(w, c->ctx);
    json_key(w, "max_output_tokens");
    json_int(w, c->ctx);
    json_key(w, "meta");
    json_object(w);
    json_key(w, "quant");
    json_text(w, c->quant ? c->quant : "");
    json_key(w, "vocab_size");
    json_int(w, c->vocab_size);
    json_object_end(w);
    json_object_end(w);
}

void api_models_body(const api_config *c, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_key(&w, "object");
    json_text(&w, "list");
    json_key(&w, "data");
    json_array(&w);
    write_model(&w, c, c->model);
    for (int i = 0; i < c->n_aliases; i++) write_model(&w, c, c->aliases[i]);
    json_array_end(&w);
    json_key(&w, "first_id");
    json_text(&w, c->model);
    json_key(&w, "last_id");
    json_text(&w, c->n_aliases ? c->aliases[c->n_aliases - 1] : c->model);
    json_key(&w, "has_more");
    json_bool(&w, false);
    json_object_end(&w);
}

bool api_model_body(const api_config *c, slice id, bytes *out, api_error *e)
{
    const char *name = c->model;
    json_writer w;
    if (api_unknown_model(c, id, e)) return false;
    for (int i = 0; i < c->n_aliases; i++) {
        if (slice_is(id, c->aliases[i])) name = c->aliases[i];
    }
    json_init(&w, out);
    write_model(&w, c, name);
    return true;
}
