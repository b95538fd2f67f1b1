/* answer_state: the inside of an answer, shared by its two halves.
 *
 * answer.c reads prose and makes events; answer_tools.c reads tool blocks. */
#ifndef TEXT_ANSWER_STATE_H
#define TEXT_ANSWER_STATE_H

#include "text/answer.h"
#include "text/call_args.h"
#include "text/stop_filter.h"

#define ANSWER_MAX_BYTES ((size_t)64 << 20)     /* of one section */

typedef enum { STATE_REASONING, STATE_TEXT, STATE_TOOLS, STATE_DONE } answer_state;
typedef enum { BETWEEN_CALLS, IN_CALL, IN_VALUE } tools_place;

typedef struct {
    slice       name, parameters;       /* owned by answer.tool_text */
    call_schema schema;
    bool        is_open;                /* the schema was read       */
} offered_tool;

struct answer {
    const vocab          *v;            /* NULL when a block is read again */
    const special_tokens *special;
    answer_options        o;
    offered_tool         *tools;        /* owned, [o.n_tools]                                       */
    char                 *tool_text;    /* owned                                                    */
    stop_filter          *stops;

    bool         markup;                /* tool blocks are more than text */
    answer_state state;
    size_t       pos;                   /* in `in`                                                  */
    char         last;                  /* byte of prose given out last; '\n' at a section's start  */
    bool         reasoning_closed;
    size_t       pass;                  /* where in `reasoning` the present pass began              */

    answer_kind  pending_kind;

    /* the block */
    tools_place  place;
    bool         tentative;             /* began in reasoning: not shown before a call is complete  */
    bool         in_junk;
    size_t       separator;             /* bytes of block in front of the markup                    */
    size_t       junk;                  /* bytes that belong to nothing                             */
    answer_counts counts, counts_before;
    call_args    args;
    bool         call_open;
    chat_call    open;                  /* owned texts; its arguments are in `arguments`            */
    chat_call   *calls;                 /* owned, with their texts                                  */
    int          n_calls, cap_calls;

    union {
        struct {
            bytes in;                   /* sampled and not yet understood, from pos on              */
            bytes blanks;               /* of prose, held: they may stand before a block            */
            bytes pending;              /* the event being made                                     */
            bytes clean, name;          /* scratch                                                  */
            bytes reasoning, text, block;
            bytes arguments;            /* of the open call                                         */
        };
        bytes    buffers[9];            /* all of them                                              */
    };

    answer_finish finish;               /* as the machine found it, in STATE_DONE                   */
    bool         finished, no_memory;
};

static inline slice answer_rest(const answer *a)
{
    return a->in.data ? (slice){ a->in.data + a->pos, a->in.len - a->pos } : (slice){ NULL, 0 };
}

typedef enum { PREFIX_NO, PREFIX_CUT, PREFIX_WHOLE } prefix_match;
prefix_match answer_prefix(slice s, const char *text);
bool         answer_is_blank(char c);
bool         answer_is_half_tag(slice s);       /* held bytes in which the marker is already seen */

/* ---- answer.c --------------------------------------------------------------- */

void answer_forget(answer *a, bytes *b);        /* clears it, but not that memory failed       */
void answer_give(answer *a, answer_kind kind, slice data);      /* an event without held bytes */
void answer_flush(answer *a, bool all);                         /* all: a cut character, too   */
bytes *answer_pending(answer *a, answer_kind kind);             /* to append to                */
void answer_put_prose(answer *a, slice text);
void answer_end(answer *a, answer_finish finish);

/* ---- answer_tools.c --------------------------------------------------------- */

/* From prose into a block; the blanks in front go along. */
void tools_enter(answer *a, bool tentative);
/* Takes n bytes of the input into the block. */
void tools_take(answer *a, size_t n);
/* One step through the input; false: more bytes are needed. */
bool tools_scan(answer *a);
/* The model ended its turn: closes what is open. A tentative block goes back to reasoning. */
void tools_end_of_turn(answer *a);
/* A tentative block was none: all of it, and what was held, is reasoning. */
void tools_roll_back(answer *a);
void tools_free_call(chat_call *c);
/* At '<' of prose: does a block begin here that closes the reasoning? */
dsml_result tools_begin_in(const answer *a, slice s);

#endif
