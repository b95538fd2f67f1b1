/* api: wire dialects to one neutral request, and neutral events back to bytes.
 *
 * JSON in, struct out; events in, JSON or SSE out. One file per dialect, pure: no sockets, no engine,
 * no clock beyond what it is told. Immutable requests; an encoder belongs to one thread. The
 * conformance transcripts of tests/conformance stand on this. */
#ifndef API_API_H
#define API_API_H

#include <stdbool.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"
#include "text/answer.h"
#include "text/chat.h"
#include "text/replay.h"
#include "text/vocab.h"

typedef enum { API_CHAT, API_COMPLETIONS, API_RESPONSES, API_MESSAGES } api_dialect;

/* ---- what the server is ------------------------------------------------------------------ */

typedef struct {
    const char  *model;                 /* served id                                             */
    const char *const *aliases;         /* [n_aliases] further ids of it                         */
    int          n_aliases;
    bool         strict_model;          /* other ids are 404                                     */
    const char  *display_name, *quant;
    int          ctx;                   /* tokens a request may have with its answer             */
    int          vocab_size;
    const vocab *vocab;
    int64_t      started;               /* Unix seconds: `created` of models                     */
    int          default_tokens;        /* answer limit when none is given                       */
    int          mode;                  /* 0 think, 1 think at most effort, 2 answer at once     */
    effort_profile profile;
    int          think_max_min_ctx, think_budget;
    float        temperature, top_p, min_p;     /* defaults of the server or the model file       */
    int          top_k;
    bool         official_sampling;     /* --sampling-policy official                            */
    enum { REASONING_FIELD_CONTENT, REASONING_FIELD_REASONING, REASONING_FIELD_BOTH, REASONING_FIELD_NONE }
                 reasoning_field;       /* of chat: reasoning_content, reasoning, both of them       */
    bool         reject_media, responses_summary, anthropic_redact;
    const struct scrub_list *scrubs;    /* --scrub, NULL: none (api/scrub.h)                     */
    uint8_t      state_key[32];         /* encrypts reasoning that clients carry                 */
    struct responses_store *responses;  /* --responses-store, NULL: none                         */
    /* Random bytes for ids and nonces. */
    void       (*random)(void *ctx, uint8_t *out, size_t n);
    void        *random_ctx;
} api_config;

/* ---- refusals ------------------------------------------------------------------------------ */

typedef struct {
    int         status;                 /* HTTP                                                  */
    const char *type, *code;            /* OpenAI's, static; code NULL: null                     */
    char        param[128];             /* dotted path; "": null                                 */
    char        message[512];
    int         n_prompt_tokens, n_ctx; /* > 0: a prompt that does not fit                       */
    int         retry_after;            /* seconds; 0: no header                                 */
} api_error;

/* Fills e (may be NULL) and returns false. */
bool api_refuse(api_error *e, int status, const char *type, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

/* Situations that several callers meet, so that all use the same words (docs/api.md, Errors). */
bool api_refuse_too_long(api_error *e, api_dialect d, int n_prompt, int n_ctx);
bool api_refuse_queue_full(api_error *e, api_dialect d, int retry_s);
bool api_refuse_unavailable(api_error *e, bool loading);
bool api_refuse_lost(api_error *e, int retry_s, const char *message);   /* the device, for a while */
bool api_refuse_failed(api_error *e, const char *message);      /* 500 */
bool api_refuse_orphan(api_error *e, slice call_id);            /* an output without its call */
/* 400 of a sentence that begins with its field ("messages: ..."), as chat_render makes them. */
bool api_refuse_field(api_error *e, const char *sentence);

/* The body of a refusal in the dialect's form; request_id for Anthropic's. */
void api_error_body(api_dialect d, const api_error *e, const char *request_id, bytes *out);

/* ---- requests ------------------------------------------------------------------------------ */

typedef enum { API_TOOLS_AUTO, API_TOOLS_NONE, API_TOOLS_REQUIRED, API_TOOLS_NAMED } api_tool_choice;

/* A raw prompt of completions. */
typedef struct {
    slice    text;                      /* with control tokens spelled out                       */
    int32_t *ids;                       /* or token ids                                          */
    int      n_ids;                     /* -1: text                                              */
} api_prompt;

typedef struct { int32_t token; float bias; } api_bias;

typedef struct api_request {
    api_dialect  dialect;
    chat_request chat;                  /* API_COMPLETIONS: unused                               */
    const api_prompt *prompts;          /* API_COMPLETIONS                                       */
    int          n_prompts;
    bool         echo;

    slice        model;                 /* as the client wrote it, echoed                        */
    bool         stream, include_usage, continuous_usage;

    float        temperature, top_p, min_p, repetition_penalty, frequency_penalty, presence_penalty;
    int          top_k;
    uint64_t     seed;
    bool         has_seed;
    const api_bias *bias;
    int          n_bias;
    int          max_tokens;            /* the client's, else the server's default               */
    bool         max_tokens_given;
    int          n;
    bool         logprobs;
    int          top_logprobs;
    const slice *stops;
    int          n_stops;
    bool         include_stop;

    api_tool_choice choice;
    slice        chosen_tool;           /* API_TOOLS_NAMED                                       */
    const chat_tool *callable;          /* tools that the answer may call: chat.tools, or those of them that
                                           the choice lists (allowed_tools)                      */
    int          n_callable;
    bool         one_call;
    bool         legacy_functions;      /* chat: answer with function_call                       */
    int          think_budget;          /* 0: none                                               */
    bool         side;                  /* a title, a summary, a probe (docs/scheduler.md), as far as the body tells */

    const slice *hints;                 /* session hints in the body                             */
    int          n_hints;
    const slice *result_ids;            /* call ids answered by the messages after the last assistant turn */
    int          n_results;
    const slice *orphans;               /* responses: ids of outputs whose call is not in the input; one that nobody
                                           remembers either is refused, see api_refuse_orphan    */
    int          n_orphans;
    const slice *warnings;              /* for the log: unsupported parts, tools left out        */
    int          n_warnings;

    struct api_memory *memory;          /* owns all of the above                                 */
    void        *own;                   /* the dialect's own data for its encoder                */
} api_request;

/* False: e says why, and nothing is left. `body` may be freed afterwards. */
bool api_parse(api_request **out, api_dialect d, slice body, const api_config *c, api_error *e);
void api_request_free(api_request *r);

/* /v1/messages/count_tokens: a request without max_tokens whose answer is only a number. */
bool api_parse_count_tokens(api_request **out, slice body, const api_config *c, api_error *e);
void api_count_tokens_body(int n, bytes *out);

/* The same body rules for what is only rendered: /apply-template (a chat body). */
bool api_parse_template(api_request **out, slice body, const api_config *c, api_error *e);
void api_template_body(slice prompt, bytes *out);

/* {content, add_special, parse_special} and {tokens}; out is the whole answer. */
bool api_tokenize(slice body, const api_config *c, bytes *out, api_error *e);
bool api_detokenize(slice body, const api_config *c, bytes *out, api_error *e);

void api_models_body(const api_config *c, bytes *out);
bool api_model_body(const api_config *c, slice id, bytes *out, api_error *e);

/* Stored responses (docs/api.md); without a store they are 404. */
bool api_stored_response(const api_config *c, slice method, slice id, slice rest, bytes *out, api_error *e);

/* ---- answers ------------------------------------------------------------------------------- */

typedef struct {
    const char *request_id;             /* "req_..."                                             */
    int64_t     created;                /* Unix seconds                                          */
} api_answer_info;

typedef struct api_encoder api_encoder;

/* The request must outlive it. NULL: no memory. The form (stream or not) is the request's. */
api_encoder *api_encoder_new(const api_request *r, const api_config *c, const api_answer_info *info);
void         api_encoder_free(api_encoder *e);

/* Streams: what opens it (message_start, response.created, ...); once, as soon as anything is to be sent.
 * usage: prompt and cached tokens as far as known. */
void api_encode_start(api_encoder *e, const answer_usage *usage, bytes *out);
/* What the request has cost so far; before api_encode, for streams with continuous usage. */
void api_encode_usage(api_encoder *e, const answer_usage *usage);
/* Streams: the bytes of an event (may be none). Not streaming: only collected. */
void api_encode(api_encoder *e, const answer_event *event, bytes *out);
/* Completions with echo: the prompt's text comes first; with logprobs its tokens' (NaN: the first token of a
 * prompt has none). */
void api_encode_echo(api_encoder *e, int choice, const answer_token *tokens, int n_tokens, slice text, bytes *out);
/* Streams: sent when nothing else was for a while. */
void api_encode_keepalive(api_encoder *e, bytes *out);
/* Streams: progress of the prefill as a comment, for clients that asked for it. */
void api_encode_progress(api_encoder *e, int done, int total, bytes *out);
/* All choices are finished: the terminal events of a stream, or the whole body. */
void api_encode_end(api_encoder *e, const answer_usage *usage, bytes *out);
/* A failure after the start of a stream: the dialect's error event and end. */
void api_encode_failure(api_encoder *e, const api_error *why, bytes *out);
/* DS4_EMEMORY or DS4_EFULL once anything could not be kept. */
ds4_status api_encoder_status(const api_encoder *e);

#endif
