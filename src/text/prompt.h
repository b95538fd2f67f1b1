/* prompt: what the model will read, as segments of control tokens and plain text.
 *
 * Always true: the segments' bytes joined are `text`; no segment is empty; no two text
 * segments are neighbours, because text must be tokenized in one go between control
 * tokens. Text is never scanned for control tokens: only chat_prompt_control and
 * chat_prompt_protocol make them. A prompt belongs to one thread. */
#ifndef TEXT_PROMPT_H
#define TEXT_PROMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"
#include "text/token_list.h"
#include "text/vocab.h"

typedef struct {
    int32_t control;            /* the token; -1: text                                   */
    size_t  begin, len;         /* its bytes within chat_prompt.text                     */
} chat_segment;

typedef enum { CHAT_STARTS_REASONING, CHAT_STARTS_TEXT } chat_start;

typedef struct {
    const vocab  *v;            /* borrowed                                              */
    bytes         text;         /* the rendered text                                     */
    chat_segment *segments;     /* owned, [n_segments]                                   */
    size_t        n_segments, cap;
    bool          ambiguous;    /* a text segment spells an added token, so equal bytes
                                   need not mean equal tokens (set by chat_render*)      */
    bool          full;         /* text would have passed its limit                      */
    bool          failed;       /* no memory                                             */
    chat_start    start;        /* where the answer begins (set by chat_render*)         */
    int           replayed;     /* turns written as they were sampled (set by chat_render)   */
} chat_prompt;

void chat_prompt_init(chat_prompt *p, const vocab *v, size_t max_bytes);
void chat_prompt_free(chat_prompt *p);

void chat_prompt_text(chat_prompt *p, slice text);
void chat_prompt_control(chat_prompt *p, int32_t token);

/* Text of our own, in which <think>, </think> and the DSML marker are the tokens: the
 * model was trained on prompts where they are. */
void chat_prompt_protocol(chat_prompt *p, const char *text);

/* Client text in which every `tag` is written as `harmless`. */
void chat_prompt_guarded(chat_prompt *p, slice text, const char *tag, const char *harmless);

/* Looks for added tokens spelled in the text segments from `first` on. */
void chat_prompt_check_spelling(chat_prompt *p, size_t first);

/* DS4_EFULL or DS4_EMEMORY when an append failed. */
ds4_status chat_prompt_status(const chat_prompt *p, ds4_error *err);

/* Appends the tokens of all segments. */
ds4_status chat_tokens(const chat_prompt *p, token_list *out, ds4_error *err);

#endif
