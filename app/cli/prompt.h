/* prompt: where the user's words come from and how they become tokens.
 *
 * Sources: -p, --prompt-file, standard input, or -p with standard input behind
 * it. File bytes are passed on unchanged, save for one newline at the end. */
#ifndef CLI_PROMPT_H
#define CLI_PROMPT_H

#include "options.h"
#include "text/chat.h"

typedef struct {
    char  *text;                /* owned, NUL-terminated */
    size_t len;
    bool   present;             /* false: nothing was given and stdin is a terminal */
    char  *system;              /* owned */
    size_t system_len;
} prompt_source;

ds4_status prompt_read(prompt_source *p, const cli_options *o, ds4_error *err);
void       prompt_free(prompt_source *p);

/* A whole file as a message: its bytes without one trailing newline. */
ds4_status prompt_read_file(const char *path, char **text, size_t *len, ds4_error *err);

/* What the rendering of a conversation depends on besides its words. */
typedef struct {
    think_mode     mode;
    effort_profile profile;
    int            ctx, think_max_min_ctx;
} prompt_mode;

/* The effort that a mode is granted under this context. */
chat_effort prompt_effort(const prompt_mode *m);

/* Appends to out the first prompt of a conversation: header, user turn and the
 * opening of the answer. raw: the text as it stands, control tokens recognised. */
ds4_status prompt_tokens_chat(const vocab *v, const prompt_mode *m, slice system, slice user,
                              token_list *out, ds4_error *err);
ds4_status prompt_tokens_next(const vocab *v, const prompt_mode *m, slice user, token_list *out, ds4_error *err);
ds4_status prompt_tokens_raw(const vocab *v, slice text, token_list *out, ds4_error *err);

#endif
