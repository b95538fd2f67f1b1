#include "api/turns.h"

#include "api/api_common.h"

void turns_begin(turn_list *t, api_reader *rd)
{
    *t = (turn_list){ .rd = rd };
}

static void add_piece(turn_list *t, turn_text *text, slice piece)
{
    t->open = true;
    if (!piece.len) return;
    slice *pieces = api_grow(t->rd->memory, text->pieces, text->n, &text->cap, sizeof *pieces);
    if (!pieces) return;                /* the memory remembers its failure, and parsing fails by it */
    text->pieces = pieces;
    pieces[text->n++] = piece;
}

void turns_reasoning(turn_list *t, slice piece)
{
    add_piece(t, &t->reasoning, piece);
}

void turns_text(turn_list *t, slice piece)
{
    add_piece(t, &t->text, piece);
}

void turns_call(turn_list *t, slice id, slice name, slice arguments)
{
    t->open = true;
    chat_call *calls = api_grow(t->rd->memory, t->calls, t->n_calls, &t->cap_calls, sizeof *calls);
    if (!calls) return;
    t->calls = calls;
    calls[t->n_calls++] = (chat_call){ .id = id, .name = name, .arguments = arguments };
}

static void add_message(turn_list *t, chat_message m)
{
    chat_message *messages = api_grow(t->rd->memory, t->messages, t->n, &t->cap, sizeof *messages);
    if (!messages) return;
    t->messages = messages;
    messages[t->n++] = m;
}

static void close_turn(turn_list *t)
{
    if (!t->open) return;
    add_message(t, (chat_message){
        .role = CHAT_ASSISTANT,
        .reasoning = api_join(t->rd, t->reasoning.pieces, t->reasoning.n, "\n"),
        .text = api_join(t->rd, t->text.pieces, t->text.n, "\n\n"),
        .calls = t->calls, .n_calls = t->n_calls,
    });
    /* Joined text may still be one of the pieces, but no longer the list of them. */
    t->open = false;
    t->reasoning.n = t->text.n = 0;
    t->calls = NULL;
    t->n_calls = t->cap_calls = 0;
}

void turns_message(turn_list *t, chat_role role, slice text, slice call_id)
{
    close_turn(t);
    add_message(t, (chat_message){ .role = role, .text = text, .call_id = call_id });
}

bool turns_has_turn(const turn_list *t)
{
    for (int i = 0; i < t->n; i++) {
        if (t->messages[i].role != CHAT_SYSTEM && t->messages[i].role != CHAT_DEVELOPER) return true;
    }
    return t->open || api_memory_failed(t->rd->memory);
}

bool turns_end(turn_list *t, const api_value *at)
{
    close_turn(t);
    if (t->n > API_MAX_MESSAGES) return api_wrong(t->rd, at, "at most %d messages are taken", API_MAX_MESSAGES);
    if (!turns_has_turn(t)) return api_wrong(t->rd, at, "at least one message is required");
    t->rd->r->chat.messages = t->messages;
    t->rd->r->chat.n_messages = t->n;
    return true;
}
