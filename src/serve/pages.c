#include "serve/pages.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/json_writer.h"

void page_root(bytes *out)
{
    bytes_text(out, "{\"name\":\"ds4-server\",\"status\":\"ok\"}");
}

void page_health(serve_state s, double progress, bytes *out)
{
    switch (s) {
    case SERVE_READY:    bytes_text(out, "{\"status\":\"ok\"}"); break;
    case SERVE_DRAINING: bytes_text(out, "{\"status\":\"shutting_down\"}"); break;
    case SERVE_LOST:     bytes_printf(out, "{\"status\":\"device_lost\",\"progress\":%.2f}", progress); break;
    case SERVE_LOADING:  bytes_printf(out, "{\"status\":\"loading\",\"progress\":%.2f}", progress); break;
    }
}

static const char *const states[] = { "empty", "prefill", "decode", "idle" };

static void one_slot(json_writer *w, const sched_slot_status *s, uint64_t now_ns, int64_t now_unix)
{
    char session[24];
    snprintf(session, sizeof session, "%016" PRIx64, s->session);
    json_object(w);
    json_put_int(w, "id", s->slot);
    json_put_bool(w, "side", s->side);
    json_put_text(w, "state", states[s->state]);
    json_put_text(w, "session", s->session ? session : NULL);
    json_put_int(w, "n_past", s->n_past);
    json_put_int(w, "n_ctx", s->n_ctx);
    json_put_double(w, "tokens_per_second", s->tokens_per_second, 6);
    json_put_text(w, "phase", s->state == SLOT_PREFILL || s->state == SLOT_DECODE ? states[s->state] : NULL);
    json_key(w, "progress");
    if (s->state == SLOT_PREFILL && s->total > 0) json_double(w, (double)s->done / s->total, 4);
    else json_null(w);
    json_put_text(w, "request_id", s->request_id[0] ? s->request_id : NULL);
    json_key(w, "last_used");
    if (s->last_used_ns) json_int(w, now_unix - (int64_t)((now_ns - s->last_used_ns) / 1000000000u));
    else json_null(w);
    json_object_end(w);
}

void page_slots(const sched_slot_status *slots, int n, uint64_t now_ns, int64_t now_unix, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_array(&w);
    for (int i = 0; i < n; i++) one_slot(&w, &slots[i], now_ns, now_unix);
    json_array_end(&w);
}

void page_props(const props_view *v, bytes *out)
{
    json_writer w;
    json_init(&w, out);
    json_object(&w);
    json_put_text(&w, "model", v->model);
    json_put_text(&w, "display_name", v->display_name);
    json_put_text(&w, "quant", v->quant);
    json_put_text(&w, "backend", v->backend);
    json_put_text(&w, "build", v->version);
    json_put_text(&w, "effort_profile", v->effort_profile);
    json_put_int(&w, "ctx", v->ctx);
    json_put_int(&w, "slots", v->slots);
    json_put_int(&w, "vocab_size", v->vocab_size);
    json_put_text(&w, "kv_dir", v->kv_dir);
    json_put_int(&w, "kv_bytes", (int64_t)v->disk.bytes);
    json_put_int(&w, "kv_files", (int64_t)v->disk.files);
    json_put_int(&w, "kv_budget_bytes", (int64_t)v->disk.budget_bytes);
    json_put_double(&w, "uptime_seconds", v->uptime_s, 6);
    json_put_double(&w, "load_seconds", v->load_s, 6);
    json_object_end(&w);
}
