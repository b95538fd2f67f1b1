/* responses: what the parts of the Responses dialect know of each other.
 *
 * The parser (responses_parse.c) leaves a responses_request for the encoder (responses_encode.c):
 * which names belong to which kind of tool, what was asked for, and the request's fields as JSON
 * text for the response object, which echoes them. All of it lives in the request's memory. */
#ifndef API_RESPONSES_H
#define API_RESPONSES_H

#include "api/api.h"

typedef enum { RESPONSES_FUNCTION, RESPONSES_CUSTOM, RESPONSES_LOCAL_SHELL } responses_tool_kind;

typedef struct {
    slice full;                 /* as the prompt names it: NAMESPACE.NAME, or name               */
    slice name, space;          /* as the client names it; space empty: none                     */
    responses_tool_kind kind;
} responses_tool;

typedef struct {
    const responses_tool *tools;
    int   n_tools;
    bool  encrypt;              /* include: reasoning.encrypted_content                          */
    bool  summary;              /* the client asked for a summary                                */
    bool  logprobs;             /* include: message.output_text.logprobs, or top_logprobs        */
    bool  store;                /* keep the answer                                               */
    /* JSON text, ready to be echoed. */
    slice instructions, max_output_tokens, parallel_tool_calls, previous_response_id, reasoning, temperature, text,
          tool_choice, tools_json, top_p, truncation, metadata;
    slice input_json;           /* array of the items of this request                            */
    slice context_json;         /* array of the items before those (previous_response_id)        */
} responses_request;

#endif
