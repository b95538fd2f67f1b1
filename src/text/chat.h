/* chat: a conversation becomes the exact bytes and tokens the model was trained on.
 *
 * The renderer writes segments (prompt.h) and never scans text for control tokens:
 * what a user or a tool wrote can not open a turn. Pure functions of the request and
 * the vocabulary; knows no dialect and no model. Requests are only read; any thread.
 *
 * The format is DeepSeek V4's: BOS, effort prefix, system text, tools, response format,
 * turns, and the tokens that open the answer. */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include <stdbool.h>
#include "base/slice.h"
#include "ds4_status.h"
#include "gguf/gguf.h"
#include "text/prompt.h"
#include "text/replay.h"
#include "text/tools.h"

typedef enum {
    CHAT_SYSTEM, CHAT_DEVELOPER, CHAT_USER, CHAT_ASSISTANT, CHAT_TOOL, CHAT_LATEST_REMINDER
} chat_role;

/* All slices are borrowed until the render returns. */
typedef struct {
    chat_role        role;
    slice            text;
    slice            reasoning; /* assistant; empty: the client did not send it          */
    const chat_call *calls;     /* assistant                                             */
    int              n_calls;
    slice            call_id;   /* tool: the call it answers                             */
} chat_message;

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
    replay_memory      *replay;             /* turns whose calls it knows are written as sampled; NULL: none */
} chat_request;

chat_request chat_request_defaults(void);   /* thinking, no messages, the gate above */

/* auto: 0731 when the model file names it or brings that release's drafter, else preview. */
effort_profile chat_profile_of(const gguf *g);

/* A level as clients spell it ("low", "medium", "ultra", "7", ...); false: none of them. */
bool chat_effort_parse(slice text, chat_effort *out);

/* What EFFORT_MAX becomes in this request: itself or EFFORT_HIGH; others stay. */
chat_effort chat_effort_granted(const chat_request *r);

/* Appends the whole prompt. A list that ends with an assistant message is continued
 * there. DS4_EARG: the request makes no sense (the sentence begins with the field);
 * DS4_EUNSUPPORTED: this vocabulary has no token for it; DS4_EFULL: longer than
 * max_bytes. On failure p is good for chat_prompt_free alone. */
ds4_status chat_render(chat_prompt *p, const chat_request *r, ds4_error *err);

/* Appends one more turn for a timeline that already holds the conversation up to and
 * with the EOS of the last answer: USER, text, ASSISTANT, and the think token. */
ds4_status chat_render_next(chat_prompt *p, slice user_text, bool no_thinking, ds4_error *err);

#endif
