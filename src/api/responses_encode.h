/* responses_encode: an answer in the making of the Responses dialect, and its parts as JSON.
 *
 * responses_encode.c sends the events, responses_object.c writes the objects that they carry. */
#ifndef API_RESPONSES_ENCODE_H
#define API_RESPONSES_ENCODE_H

#include "api/api_common.h"
#include "api/custom_input.h"
#include "api/responses.h"

typedef enum { ITEM_NONE, ITEM_REASONING, ITEM_TEXT, ITEM_FUNCTION, ITEM_CUSTOM, ITEM_LOCAL_SHELL } item_kind;

/* How much of an item is written: as announced (empty), as far as it has come, or whole. */
typedef enum { ANNOUNCED, SO_FAR, DONE } item_stage;

typedef struct {
    api_encoder   base;
    const responses_request *q;
    char          id[48];           /* resp_ and HEX                                             */
    char          item_id[64];      /* of the open item: PREFIX_HEX_INDEX                        */
    int           sequence;         /* of the next event                                         */
    item_kind     open;
    int           index;            /* of the open item, or of the next one                      */
    bytes         text;             /* of the open item: text, reasoning or arguments            */
    bytes         logprobs;         /* of the open text: entries joined with commas              */
    bytes         call_id, call_name;
    custom_input  input;            /* of the open custom tool call                              */
    bytes         items;            /* done items, joined with commas                            */
    answer_finish finish;
    /* The event being written. */
    json_writer   w;
    bytes         event;
    const char   *event_name;
} encoder;

static inline slice held_in(const bytes *b)
{
    return (slice){ b->data, b->len };
}

static inline void put_raw(json_writer *w, const char *key, slice json)
{
    json_key(w, key);
    if (json.len) json_raw(w, json.data, json.len);
    else          json_null(w);
}

static inline void put_array(json_writer *w, const char *key, const bytes *items)
{
    json_key(w, key);
    json_array(w);
    if (items) json_raw(w, items->data, items->len);
    json_array_end(w);
}

/* ---- responses_object.c -------------------------------------------------------------------- */

typedef enum { IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED } response_status;

void responses_write(encoder *e, json_writer *w, response_status status, const api_error *why);
/* The open item. */
void responses_write_item(encoder *e, json_writer *w, const char *status, item_stage stage);

/* Reasoning is shown as a summary. */
bool responses_summarises(const encoder *e);
/* The tool of the open call; a name that was not offered is a function of that name. */
responses_tool responses_tool_of_call(const encoder *e);
void responses_put_tool_name(const encoder *e, json_writer *w);
void responses_put_reasoning(const encoder *e, json_writer *w);
void responses_put_text(const encoder *e, json_writer *w);

#endif
