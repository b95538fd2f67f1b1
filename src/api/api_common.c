#include "api/api_common.h"

#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"

/* ---- lists that grow ------------------------------------------------------------------------ */

void api_hint(api_reader *rd, slice hint)
{
    api_request *r = rd->r;
    if (!hint.len) return;
    slice *hints = api_grow(rd->memory, (slice *)r->hints, r->n_hints, &rd->cap_hints, sizeof hint);
    if (!hints) return;
    hints[r->n_hints++] = api_copy(rd->memory, hint);
    r->hints = hints;
}

void api_warn(api_reader *rd, const char *fmt, ...)
{
    api_request *r = rd->r;
    char text[200];
    va_list ap;
    if (r->n_warnings == 8) return;             /* for a log line, not for a client to fill */
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    slice *warnings = api_grow(rd->memory, (slice *)r->warnings, r->n_warnings, &rd->cap_warnings, sizeof *warnings);
    if (!warnings) return;
    warnings[r->n_warnings++] = api_copy(rd->memory, slice_of(text));
    r->warnings = warnings;
}

/* ---- content -------------------------------------------------------------------------------- */

slice api_join(api_reader *rd, const slice *parts, int n, const char *between)
{
    const size_t gap = strlen(between);
    size_t total = 0;
    if (n == 0) return (slice){ "", 0 };
    if (n == 1) return parts[0];
    for (int i = 0; i < n; i++) total += parts[i].len + (i ? gap : 0);
    char *text = api_take(rd->memory, total + 1, 1);
    if (!text) return (slice){ "", 0 };
    char *at = text;
    for (int i = 0; i < n; i++) {
        if (i) at = mempcpy(at, between, gap);
        if (parts[i].len) at = mempcpy(at, parts[i].data, parts[i].len);
    }
    return (slice){ text, total };
}

static slice unsupported(api_reader *rd, slice type)
{
    const int n = api_shown(type, 64);
    api_warn(rd, "a part of type %.*s is not supported", n, type.data);
    const slice parts[3] = { slice_of("[Unsupported "), { type.data, (size_t)n }, slice_of("]") };
    return api_join(rd, parts, 3, "");
}

bool api_part(api_reader *rd, const api_value *part, slice *text)
{
    static const char *const text_types[] = { "text", "input_text", "output_text", "refusal" };
    slice type = slice_of("text");
    if (api_is_string(rd, part)) {
        *text = api_raw(rd, part);
        return true;
    }
    if (!api_is_object(rd, part)) return api_wrong(rd, part, "a string or an object with a type is expected");
    if (!api_get_string(rd, part, "type", &type)) return false;
    for (size_t i = 0; i < countof(text_types); i++) {
        if (!slice_is(type, text_types[i])) continue;
        const api_value v = api_field(rd, part, slice_is(type, "refusal") ? "refusal" : "text");
        return api_need_string(rd, &v, text);
    }
    if (rd->config->reject_media) {
        const api_value v = api_field(rd, part, "type");
        return api_wrong(rd, &v, "this server reads text only");
    }
    *text = unsupported(rd, type);
    return true;
}

bool api_content(api_reader *rd, const api_value *v, slice *text)
{
    if (api_is_string(rd, v)) {
        *text = api_raw(rd, v);
        return true;
    }
    if (!v->node) return api_wrong(rd, v, "this field is required");
    if (!api_is_array(rd, v)) return api_wrong(rd, v, "a string or an array of parts is expected");
    const int n = api_count(rd, v);
    slice *parts = api_take(rd->memory, (size_t)n, sizeof *parts);
    if (!parts) return true;                    /* api_parse answers for the memory */
    int i = 0;
    for (api_value part = api_first(rd, v); part.node; part = api_after(rd, part)) {
        if (!api_part(rd, &part, &parts[i++])) return false;
    }
    *text = api_join(rd, parts, n, "\n\n");
    return true;
}

/* ---- sampling ------------------------------------------------------------------------------- */

static bool read_float(api_reader *rd, const char *name, double min, double max, float *out)
{
    const api_value body = api_body();
    double v = *out;
    if (!api_get_number(rd, &body, name, min, max, &v)) return false;
    *out = (float)v;
    return true;
}

/* Above 0: a top_p of 0 would leave nothing, a repetition penalty of 0 divides by it. */
static bool read_positive(api_reader *rd, const char *name, double max, float *out)
{
    const api_value body = api_body(), v = api_field(rd, &body, name);
    if (!read_float(rd, name, 0, max, out)) return false;
    return *out > 0 || api_wrong(rd, &v, "a number above 0 is expected");
}

static bool digits_value(slice token, uint64_t *out)
{
    uint64_t v = 0;
    for (size_t i = 0; i < token.len; i++) {
        const unsigned digit = (unsigned)(token.data[i] - '0');
        if (digit > 9 || v > (UINT64_MAX - digit) / 10) return false;
        v = v * 10 + digit;
    }
    *out = v;
    return true;
}

/* All of int64 and uint64: clients draw seeds from either. */
static bool read_seed(api_reader *rd)
{
    const api_value body = api_body(), v = api_field(rd, &body, "seed");
    if (!api_given(rd, &v)) return true;
    if (api_kind(rd, &v) != JSON_TREE_NUMBER || !digits_value(api_raw(rd, &v), &rd->r->seed)) {
        int64_t seed;
        if (!api_to_int(rd, &v, INT64_MIN, INT64_MAX, &seed)) return false;
        rd->r->seed = (uint64_t)seed;
    }
    rd->r->has_seed = true;
    return true;
}

static bool read_token_id(slice key, int vocab_size, int32_t *out)
{
    int32_t id = 0;
    if (key.len < 1 || key.len > 8) return false;
    for (size_t i = 0; i < key.len; i++) {
        if (key.data[i] < '0' || key.data[i] > '9') return false;
        id = id * 10 + (key.data[i] - '0');
    }
    *out = id;
    return id < vocab_size;
}

static bool read_bias(api_reader *rd)
{
    const api_value body = api_body(), v = api_field(rd, &body, "logit_bias");
    if (!api_given(rd, &v)) return true;
    if (!api_need_object(rd, &v)) return false;
    const int n = api_count(rd, &v);
    if (n > rd->config->vocab_size) return api_wrong(rd, &v, "there are only %d tokens", rd->config->vocab_size);
    api_bias *bias = api_take(rd->memory, (size_t)n, sizeof *bias);
    if (!bias) return true;
    int i = 0;
    for (api_value m = api_first(rd, &v); m.node; m = api_after(rd, m), i++) {
        double strength;
        if (!read_token_id(api_key(rd, &m), rd->config->vocab_size, &bias[i].token)) {
            return api_wrong(rd, &m, "the key is no token id below %d", rd->config->vocab_size);
        }
        if (!api_to_number(rd, &m, -100, 100, &strength)) return false;
        bias[i].bias = (float)strength;
    }
    rd->r->bias = bias;
    rd->r->n_bias = n;
    return true;
}

bool api_sampling(api_reader *rd, bool penalties)
{
    const api_value body = api_body();
    api_request *r = rd->r;
    int64_t top_k = r->top_k;
    if (!read_float(rd, "temperature", 0, 2, &r->temperature) || !read_positive(rd, "top_p", 1, &r->top_p)
        || !read_float(rd, "min_p", 0, 1, &r->min_p) || !read_seed(rd)
        || !api_get_int(rd, &body, "top_k", -1, INT32_MAX, &top_k)) {
        return false;
    }
    r->top_k = top_k < 0 ? 0 : (int)top_k;
    if (!penalties) return true;
    return read_float(rd, "presence_penalty", -2, 2, &r->presence_penalty)
        && read_float(rd, "frequency_penalty", -2, 2, &r->frequency_penalty)
        && read_positive(rd, "repetition_penalty", FLT_MAX, &r->repetition_penalty)
        && read_bias(rd);
}

bool api_stops(api_reader *rd, const char *field)
{
    const api_value body = api_body(), v = api_field(rd, &body, field);
    api_request *r = rd->r;
    if (!api_given(rd, &v)) return true;
    if (!api_is_string(rd, &v) && !api_is_array(rd, &v)) {
        return api_wrong(rd, &v, "a string or an array of strings is expected");
    }
    const int n = api_is_array(rd, &v) ? api_count(rd, &v) : 1;
    if (n > API_MAX_STOPS) return api_wrong(rd, &v, "at most %d strings are possible", API_MAX_STOPS);
    slice *stops = api_take(rd->memory, (size_t)n, sizeof *stops);
    if (!stops) return true;
    r->stops = stops;
    if (api_is_string(rd, &v)) {
        stops[0] = api_raw(rd, &v);
        r->n_stops = stops[0].len > 0;
        return true;
    }
    for (api_value s = api_first(rd, &v); s.node; s = api_after(rd, s)) {
        if (!api_need_string(rd, &s, &stops[r->n_stops])) return false;
        r->n_stops += stops[r->n_stops].len > 0;
    }
    return true;
}

bool api_max_tokens(api_reader *rd, const char *const *fields, int min)
{
    const api_value body = api_body();
    api_request *r = rd->r;
    for (; *fields; fields++) {
        const api_value v = api_field(rd, &body, *fields);
        int64_t n;
        if (!api_given(rd, &v)) continue;
        if (!api_to_int(rd, &v, min, INT64_C(1) << 53, &n)) return false;
        r->max_tokens = n > INT32_MAX ? INT32_MAX : (int)n;
        r->max_tokens_given = true;
        return true;
    }
    return true;
}

/* ---- structured output ---------------------------------------------------------------------- */

bool api_no_structured(api_reader *rd, const api_value *v)
{
    if (!api_given(rd, v)) return true;
    api_wrong(rd, v, "answers can not be held to a schema by this version; ask for plain text and check the answer");
    if (rd->error) rd->error->code = "unsupported_schema";
    return false;
}

bool api_format(api_reader *rd, const api_value *format)
{
    slice type;
    if (!api_given(rd, format)) return true;
    if (!api_need_object(rd, format)) return false;
    const api_value type_at = api_field(rd, format, "type"), inner = api_field(rd, format, "json_schema");
    const api_value schema = api_field(rd, api_given(rd, &inner) ? &inner : format, "schema");
    if (!api_need_string(rd, &type_at, &type)) return false;
    if (slice_is(type, "text")) return true;
    if (slice_is(type, "json_object")) return api_no_structured(rd, format);
    if (!slice_is(type, "json_schema")) return api_wrong(rd, &type_at, "text, json_object or json_schema is expected");
    return api_need_object(rd, &schema) && api_no_structured(rd, &schema);
}
