/* turns: the message list of a request, from dialects that cut an assistant's turn into pieces.
 *
 * Reasoning, text and calls that follow each other become one assistant message; any
 * other message ends it. Lives in the request's memory. */
#ifndef API_TURNS_H
#define API_TURNS_H

#include "api/reader.h"

typedef struct {
    slice *pieces;
    int    n, cap;
} turn_text;

typedef struct {
    api_reader   *rd;
    chat_message *messages;
    int           n, cap;
    /* The assistant turn being collected. */
    bool          open;
    turn_text     reasoning, text;
    chat_call    *calls;
    int           n_calls, cap_calls;
} turn_list;

void turns_begin(turn_list *t, api_reader *rd);

/* Pieces of the assistant's turn; empty ones only open it. */
void turns_reasoning(turn_list *t, slice piece);
void turns_text(turn_list *t, slice piece);
void turns_call(turn_list *t, slice id, slice name, slice arguments);

/* Any other message. call_id: of CHAT_TOOL. */
void turns_message(turn_list *t, chat_role role, slice text, slice call_id);

/* Whether anything but system texts is there. */
bool turns_has_turn(const turn_list *t);

/* The list becomes the request's. `at` is the field that a refusal names: of too many messages, and of none beside
 * system texts in front, with which nobody could answer. */
bool turns_end(turn_list *t, const api_value *at);

#endif
