/* chat: a conversation becomes the exact bytes and tokens the model was trained on.
 *
 * The renderer writes a list of segments, each a control token or a run of plain
 * text, and never scans text for control tokens: what a user or a tool wrote can
 * not open a turn. Pure functions of the request and the vocabulary; knows no
 * dialect and no model. A chat_prompt belongs to one thread, requests are only read.
 *
 * The format is DeepSeek V4's: BOS, effort prefix, system text, tools, response
 * format, turns, and the tokens that open the answer. */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"
#include "gguf/gguf.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

/* ---- what is asked ------------------------------------------------------ */

typedef enum {
    CHAT_SYSTEM, CHAT_DEVELOPER, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL, CHAT_LATEST_REMINDER
} chat_role;

typedef struct {
    slice id, name;
    slice arguments;            /* JSON text as received; anything else is wrapped       */
} chat_call;

/* All slices are borrowed until the render returns. */
typedef struct {
    chat_role        role;
    slice            text;
    slice            reasoning; /* assistant; empty: the client did not send it          */
    const chat_call *calls;     /* assistant                                             */
    int              n_calls;
    slice            call_id;   /* tool: the call it answers                             */
} chat_message;

typedef struct {
    slice name;                 /* [A-Za-z0-9_.:/-]{1,128}, unique in a request          */
    bool  has_description;
    slice description;
    slice parameters;           /* JSON text of the schema as received; empty: absent    */
} chat_tool;

typedef enum { EFFORT_UNSET, EFFORT_LOW, EFFORT_HIGH, EFFORT_MAX } chat_effort;

/* The spring and the summer checkpoints were trained with different prefixes. */
typedef enum { EFFORT_PROFILE_PREVIEW, EFFORT_PROFILE_0731 } effort_profile;

typedef enum { FORMAT_LAST, FORMAT_FIRST } format_place;    /* behind the tools, before the system text */

#define CHAT_THINK_MAX_MIN_CTX 393216

typedef struct {
    const chat_message *messages;
    int                 n_messages;
    const chat_tool    *tools;
    int                 n_tools;
    bool                no_thinking;
    chat_effort         effort;
    effort_profile      profile;
    int                 ctx;                /* tokens of the session, for the gate of EFFORT_MAX */
    int                 think_max_min_ctx;  /* EFFORT_MAX needs this much; 0: no gate            */
    slice               format_schema;      /* JSON schema of the answer; empty: none            */
    format_place        format_place;
} chat_request;

chat_request chat_request_defaults(void);   /* thinking, no messages, the gate above */

/* auto: 0731 when the model file names it, else preview. */
effort_profile chat_profile_of(const gguf *g);

/* A level as clients spell it ("low", "medium", "ultra", "7", ...); false: none of them. */
bool chat_effort_parse(slice text, chat_effort *out);

/* What EFFORT_MAX becomes in this request: itself or EFFORT_HIGH; others stay. */
chat_effort chat_effort_granted(const chat_request *r);

/* ---- what comes out ----------------------------------------------------- */

typedef struct {
    int32_t control;            /* the token; -1: text                                   */
    size_t  begin, len;         /* its bytes within chat_prompt.text                     */
} chat_segment;

typedef enum { CHAT_STARTS_REASONING, CHAT_STARTS_TEXT } chat_start;

typedef struct {
    const vocab  *v;            /* borrowed                                              */
    bytes         text;         /* the rendered text: bytes of all segments joined       */
    chat_segment *segments;     /* owned; no two text segments are neighbours            */
    size_t        n_segments, cap;
    bool          ambiguous;    /* text of the client spells a control token, so equal
                                   bytes need not mean equal tokens                      */
    bool          failed;       /* no memory for a segment                               */
    chat_start    start;        /* where the answer begins                               */
} chat_prompt;

void chat_prompt_init(chat_prompt *p, const vocab *v, size_t max_bytes);
void chat_prompt_free(chat_prompt *p);
void chat_prompt_clear(chat_prompt *p);     /* keeps the memory */

/* Appends the whole prompt. DS4_EARG: the request makes no sense (the sentence tells
 * what, starting with the field); DS4_EFULL: longer than max_bytes. On failure p's
 * content is undefined until chat_prompt_clear. */
ds4_status chat_render(chat_prompt *p, const chat_request *r, ds4_error *err);

/* Appends one more turn for a timeline that already holds the conversation up to and
 * with the EOS of the last answer: USER, text, ASSISTANT, and the think token. */
ds4_status chat_render_next(chat_prompt *p, slice user_text, bool no_thinking, ds4_error *err);

/* Appends the tokens of all segments: control tokens by id, each text on its own
 * with added tokens switched off. */
ds4_status chat_tokens(const chat_prompt *p, token_list *out, ds4_error *err);

#endif
