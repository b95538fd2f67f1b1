/* tools: how offered tools and made calls are spelled in a prompt (DSML).
 *
 * Internal to chat. Writes into a chat_prompt; the markers it writes are control
 * tokens, whatever looks like them in names and values is text. */
#ifndef TEXT_TOOLS_H
#define TEXT_TOOLS_H

#include <stdbool.h>
#include "base/slice.h"
#include "ds4_status.h"
#include "text/prompt.h"

typedef struct {
    slice name;                 /* [A-Za-z0-9_.:/-]{1,128}, unique in a request          */
    bool  has_description;
    slice description;          /* UTF-8                                                 */
    slice parameters;           /* JSON text of the schema as received; empty: absent    */
} chat_tool;

typedef struct {
    slice id, name;
    slice arguments;            /* JSON text as received; anything else is wrapped       */
} chat_call;

/* The tool block. DS4_EARG: a name is not allowed or used twice, a schema is no JSON. */
ds4_status tools_write(chat_prompt *p, const chat_tool *tools, int n, ds4_error *err);

/* The calls of one turn are one DSML block: begin, each call, end. */
void       calls_begin(chat_prompt *p);
ds4_status calls_write(chat_prompt *p, const chat_call *call, bool first, ds4_error *err);
void       calls_end(chat_prompt *p);

/* A block as it was sampled: markers that stand in tags are control tokens. */
void       calls_replay(chat_prompt *p, slice block);

/* The same arguments: as JSON where both are, else byte for byte. Some clients send nothing for {}. */
bool       calls_arguments_equal(slice a, slice b);

/* JSON text in the style of prompts (json_tree.h). `field` begins the error's sentence. */
ds4_status schema_write(chat_prompt *p, slice json, const char *field, ds4_error *err);

#endif
