/* custom_input: the text for a custom tool, out of the arguments of the function that stands for it.
 *
 * The model fills {"input":"..."}; the client wants the string, as it comes. What has another shape
 * is given whole at its end, as the model wrote it, so that the client's complaint reaches the
 * model. The text only grows. One thread. */
#ifndef API_CUSTOM_INPUT_H
#define API_CUSTOM_INPUT_H

#include "base/bytes.h"
#include "base/slice.h"

typedef struct {
    bytes  json, text;      /* what came, what it means so far         */
    size_t at;              /* bytes of json that are in text          */
    enum { INPUT_HEAD, INPUT_STRING, INPUT_CLOSED, INPUT_OTHER } state;
} custom_input;

void custom_input_init(custom_input *c, size_t max_bytes);
void custom_input_free(custom_input *c);
void custom_input_clear(custom_input *c);

/* Takes a piece of the arguments; returns what it adds to the text. */
slice custom_input_push(custom_input *c, slice json);
/* The arguments are complete; returns the rest of the text. */
slice custom_input_end(custom_input *c);

#endif
