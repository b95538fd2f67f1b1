/* token_ids: prompts as token ids from a JSON file, one array or an array of
 * arrays, used as they are. This is how other people's checkpoints are checked. */
#ifndef CLI_TOKEN_IDS_H
#define CLI_TOKEN_IDS_H

#include "ds4.h"

typedef struct {
    ds4_token *ids;             /* owned; all sequences one after the other  */
    size_t    *begin;           /* owned; [n + 1], sequence i is [begin[i], begin[i + 1]) */
    size_t     n;
} token_sequences;

/* DS4_EFORMAT: not such a file, or an id outside [0, n_vocab). */
ds4_status token_sequences_read(token_sequences *s, const char *path, int n_vocab, ds4_error *err);
/* One sequence, copied. */
ds4_status token_sequences_single(token_sequences *s, const ds4_token *ids, size_t n, ds4_error *err);
void       token_sequences_free(token_sequences *s);

#endif
