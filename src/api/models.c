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
    json_put_text(w, "id", id);
    json_put_text(w, "object", "model");
    json_put_text(w, "type", "model");
    json_put_int(w, "created", c->started);
    json_put_text(w, "created_at", when);
    json_put_text(w, "owned_by", "ds4");
    json_put_text(w, "display_name", c->display_name ? c->display_name : c->model);
    json_put_int(w, "context_length", c->ctx);
    json_put_int(w, "max_model_len", c->ctx);
    json_put_int(w, "max_output_tokens", c->ctx);
    json_key(w, "meta");
    json_object(w);
    json_put_text(w, "quant", c->quant ? c->quant : "");
    json_put_int(w, "vocab_size", c->vocab_size);
    json_object_end(w);
    json_object_end(w);
}

void api_models_body(const api_config *c, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_put_text(&w, "object", "list");
    json_key(&w, "data");
    json_array(&w);
    write_model(&w, c, c->model);
    for (int i = 0; i < c->n_aliases; i++) write_model(&w, c, c->aliases[i]);
    json_array_end(&w);
    json_put_text(&w, "first_id", c->model);
    json_put_text(&w, "last_id", c->n_aliases ? c->aliases[c->n_aliases - 1] : c->model);
    json_put_bool(&w, "has_more", false);
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
