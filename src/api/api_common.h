/* api_common: what the dialects share, from body to request and from event to answer.
 *
 * Internal to src/api. Readers return false after filling rd->error. */
#ifndef API_API_COMMON_H
#define API_API_COMMON_H

#include "api/api.h"
#include "api/reader.h"
#include "base/json_writer.h"

enum { API_MAX_TOOLS = 512, API_MAX_MESSAGES = 20000, API_MAX_STOPS = 16, API_MAX_CHOICES = 8 };

/* ---- parts of a request --------------------------------------------------------------------- */

/* One part of a message: its text, or "[Unsupported TYPE]" with a warning (400 when the server
 * rejects media). Plain strings are parts too. */
bool  api_part(api_reader *rd, const api_value *part, slice *text);
/* A string, or an array of parts joined by an empty line. */
bool  api_content(api_reader *rd, const api_value *v, slice *text);
slice api_join(api_reader *rd, const slice *parts, int n, const char *between);

/* temperature, top_p, top_k, min_p, seed; and, when `penalties`, those and logit_bias. */
bool  api_sampling(api_reader *rd, bool penalties);
/* A string or a list of at most 16; empty ones are left out. */
bool  api_stops(api_reader *rd, const char *field);
/* The first field of the NULL-terminated list that is given; none: the server's default.
 * min: 0 where an answer may be empty. */
bool  api_max_tokens(api_reader *rd, const char *const *fields, int min);
/* model, also checked under --strict-model; fields that every dialect refuses (mcp_servers). */
bool  api_model(api_reader *rd);
/* True: e is filled, the server is strict about names and this is none. */
bool  api_unknown_model(const api_config *c, slice name, api_error *e);

void  api_hint(api_reader *rd, slice hint);             /* empty: nothing */
void  api_warn(api_reader *rd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Collects into rd->tools; `at` is the tool in the body for refusals, description and parameters may
 * be absent. Checks the name; equal names are found by api_settle. */
bool  api_add_tool(api_reader *rd, const api_value *at, slice name, slice description, bool has_description,
                   slice parameters);
/* The same from an object with name, description, the schema under `schema_field`, and strict. */
bool  api_add_function(api_reader *rd, const api_value *function, const char *schema_field);
/* 400 for strict: true, until tools can be enforced. */
bool  api_no_strict(api_reader *rd, const api_value *tool);

/* 400 for a schema or format that is given: an answer can not be held to one. */
bool  api_no_structured(api_reader *rd, const api_value *v);
/* {type: text|json_object|json_schema, schema or json_schema.schema}; anything but text is refused. */
bool  api_format(api_reader *rd, const api_value *format);

/* ---- tool_choice ---------------------------------------------------------------------------- */

bool  api_choose_tool(api_reader *rd, const api_value *at, slice name);     /* API_TOOLS_NAMED */
/* Only these may be called; from a choice that lists them. Names stand in `names`. */
bool  api_allow_tools(api_reader *rd, const api_value *at, const slice *names, int n);

/* The collected tools become the request's; 400 where two have one name, or a call is required and there are none. */
bool  api_settle_tools(api_reader *rd);

/* ---- thinking ------------------------------------------------------------------------------- */

typedef struct {
    enum { THINK_UNSAID, THINK_YES, THINK_NO } think;   /* said in so many words: decides       */
    bool        effort_none;                            /* an effort of "none" or "off": no     */
    chat_effort effort;                                 /* how much, where it does              */
    bool        structured;                             /* for a program: no, if nobody says so */
} api_wish;

/* An effort level into the wish; null and absent leave it. */
bool  api_effort(api_reader *rd, const api_value *v, api_wish *w);
/* {type: enabled|disabled|adaptive, budget_tokens} or a boolean. */
bool  api_thinking(api_reader *rd, const api_value *v, api_wish *w);

/* ---- fields of chat and completions --------------------------------------------------------- */

bool  api_stream_fields(api_reader *rd, const api_value *body);     /* stream, stream_options  */
bool  api_no_constraints(api_reader *rd, const api_value *body);    /* response_format, guided_* */
bool  api_choices(api_reader *rd, const api_value *body);           /* n */

/* ---- the end of parsing --------------------------------------------------------------------- */

/* What follows from all fields together: tools, mode and effort, sampling policy, result ids, scrubs,
 * side request. messages and n_messages of r->chat must stand. */
bool  api_settle(api_reader *rd, const api_wish *w);

/* The dialects' readers: fill rd->r. */
bool  chat_parse(api_reader *rd);
bool  completions_parse(api_reader *rd);
bool  responses_parse(api_reader *rd);
bool  messages_parse(api_reader *rd);
bool  count_tokens_parse(api_reader *rd);       /* messages without max_tokens */

/* ---- encoders ------------------------------------------------------------------------------- */

/* What a dialect does for each call of api.h; `out` gets stream events only when the request streams.
 * Entries may be NULL: nothing. */
typedef struct {
    void (*start)(api_encoder *e, bytes *out);
    void (*event)(api_encoder *e, const answer_event *event, bytes *out);
    void (*echo)(api_encoder *e, int choice, const answer_token *tokens, int n_tokens, slice text, bytes *out);
    void (*keepalive)(api_encoder *e, bytes *out);
    void (*end)(api_encoder *e, bytes *out);
    void (*failure)(api_encoder *e, const api_error *why, bytes *out);
    void (*free)(api_encoder *e);               /* frees e too */
} api_encoder_form;

/* First member of each dialect's encoder. */
struct api_encoder {
    const api_encoder_form *form;
    const api_request *r;
    const api_config  *c;
    char         request_id[64];
    int64_t      created;
    answer_usage usage;         /* as last told */
    bool         started;       /* api.c calls start before anything else */
    ds4_status   status;
};

/* Allocated with their `form` set; the rest is filled by api_encoder_new. NULL: no memory. */
api_encoder *chat_encoder(const api_request *r, const api_config *c);
api_encoder *completions_encoder(const api_request *r, const api_config *c);
api_encoder *responses_encoder(const api_request *r, const api_config *c);
api_encoder *messages_encoder(const api_request *r, const api_config *c);

#define API_FINGERPRINT "ds4-1"
#define API_TEXT_MAX (64u << 20)        /* bytes that an encoder keeps of one part of an answer */

/* Appends to a kept text; a failure is remembered in e->status. */
void api_keep(api_encoder *e, bytes *kept, slice text);

/* prefix and n random hexadecimal digits (at most 64), NUL-terminated. */
void api_hex_id(const api_config *c, const char *prefix, int n, char *out, size_t cap);

/* {"prompt_tokens":...} of chat and completions. */
void api_write_usage(json_writer *w, const answer_usage *u);
/* The object of api_error_body, as a value. */
void api_write_error(json_writer *w, const api_error *e);
/* One `data:` event with the JSON that was written to `json`, which is cleared. */
void api_data_event(bytes *out, const char *name, bytes *json);
/* The error and [DONE]. */
void api_openai_failure(const api_error *why, bytes *out);

void json_slice(json_writer *w, slice text);
void json_put_slice(json_writer *w, const char *key, slice text);

/* The text of a token as JSON may carry it, and its bytes. */
slice api_token_text(const api_config *c, int32_t token);
double api_logprob(float logprob);      /* -9999 for minus infinity */

#endif
