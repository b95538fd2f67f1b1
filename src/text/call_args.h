/* call_args: the parameters of a sampled call become the JSON object of its arguments.
 *
 * Values arrive in pieces; what is certain is written at once, and what a repair might
 * still change is held until it is complete. Knows no markup: the caller finds where
 * values begin and end. Bytes that are not UTF-8 pass through. One thread. */
#ifndef TEXT_CALL_ARGS_H
#define TEXT_CALL_ARGS_H

#include <stdbool.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "text/answer.h"
#include "text/call_schema.h"
#include "text/dsml.h"

typedef enum { VALUE_STREAMED, VALUE_HELD, VALUE_DROPPED } value_mode;

typedef struct {
    const call_schema *schema;          /* NULL: nobody offered this tool                       */
    int         *repairs;               /* borrowed, [REPAIR_KINDS]                              */
    bytes        keys;                  /* of the parameters so far: u32 length, bytes           */
    bytes        value;                 /* of the open parameter, when held                      */
    bytes        wrapped;               /* the value of what may be a wrapper; see has_wrapper   */
    size_t       key;                   /* of the open parameter: where its record begins in keys */
    int          n_parameters, n_members;
    unsigned     kinds;                 /* that the schema allows to the open parameter          */
    dsml_string  string;
    value_mode   mode;
    bool         may_wrap, has_wrapper;
    bool         in_string, escaped;    /* of a JSON value                                       */
    bool         no_memory;
} call_args;

void call_args_init(call_args *a, int *repairs, size_t max_bytes);
void call_args_free(call_args *a);

/* What these append to out, joined, is one JSON object. */
void call_args_begin(call_args *a, const call_schema *schema);
void call_args_parameter(call_args *a, slice key, dsml_string string, bytes *out);
void call_args_value(call_args *a, slice part, bytes *out);
void call_args_value_end(call_args *a, bytes *out);
void call_args_end(call_args *a, bytes *out);

/* A declared parameter that has not come yet. */
bool call_args_awaits(const call_args *a, slice key);

/* The open value is free text here, no JSON punctuation. */
bool call_args_in_payload(const call_args *a);

bool call_args_failed(const call_args *a);

#endif
