/* answer_event: what an answer is made of, on its way from the model to a client.
 *
 * The neutral form between the state machine that makes it (answer.h) and the
 * dialects that spell it (src/api). For one choice the kinds come in this order:
 *
 *   (REASONING | TEXT)* (CALL_BEGIN CALL_ARGS* CALL_END)*  ...  FINISH
 *
 * Bytes are valid UTF-8, never cut inside a character; CALL_ARGS joined are the JSON
 * object of the arguments, never cut inside an escape. */
#ifndef TEXT_ANSWER_EVENT_H
#define TEXT_ANSWER_EVENT_H

#include <stdint.h>
#include "base/slice.h"

typedef enum {
    ANSWER_REASONING,           /* bytes                                          */
    ANSWER_TEXT,                /* bytes                                          */
    ANSWER_CALL_BEGIN,          /* call, id, name                                 */
    ANSWER_CALL_ARGS,           /* call, bytes                                    */
    ANSWER_CALL_END,            /* call                                           */
    ANSWER_FINISH               /* finish, stop                                   */
} answer_kind;

typedef enum {
    FINISH_STOP,                /* the model ended its turn                       */
    FINISH_STOP_STRING,         /* one of the client's; see stop                  */
    FINISH_LENGTH,              /* the client's limit, or the server's            */
    FINISH_CONTEXT,             /* the session is full                            */
    FINISH_TOOL_CALLS,
    FINISH_CANCELLED            /* nobody listens any more, or a shutdown         */
} answer_finish;

typedef struct {
    int32_t token;              /* its bytes: vocab_bytes                         */
    float   logprob;            /* natural log, before temperature and truncation */
} answer_logprob;

/* Of one sampled token: itself and the likeliest. */
typedef struct {
    answer_logprob        self;
    const answer_logprob *top;
    int                   n_top;
} answer_token;

typedef struct {
    answer_kind   kind;
    int           choice;       /* of `n` choices, or of several prompts          */
    int           call;         /* counts from 0 in a choice                      */
    slice         bytes;
    slice         id, name;
    answer_finish finish;
    slice         stop;         /* FINISH_STOP_STRING: the string                 */
    const answer_token *tokens; /* REASONING, TEXT, when logprobs were asked for: tokens that
                                   completed since the last event                 */
    int           n_tokens;
} answer_event;

/* What a request cost. */
typedef struct {
    int prompt_tokens;          /* of the rendered prompt(s)                      */
    int cached_tokens;          /* of those, not computed for this request        */
    int stored_tokens;          /* of those, newly in a checkpoint on disk        */
    int completion_tokens;      /* sampled and forced, without the end of turn    */
    int reasoning_tokens;       /* of those                                       */
} answer_usage;

#endif
