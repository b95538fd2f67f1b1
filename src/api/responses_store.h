/* responses_store: the last answers of the Responses dialect, for clients that send only an id back.
 *
 * Owns at most max_responses answers and max_bytes of them; the oldest go first. An answer is three JSON
 * texts: the response object, the items that led to it (all of them, also those of earlier responses),
 * and the items that its own request brought. In memory only. Any thread: one lock. */
#ifndef API_RESPONSES_STORE_H
#define API_RESPONSES_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"

typedef struct responses_store responses_store;

ds4_status responses_store_open(responses_store **out, int max_responses, size_t max_bytes, ds4_error *err);
void       responses_store_close(responses_store *s);       /* NULL is fine */

typedef struct {
    slice id;
    slice response;             /* the response object                                           */
    slice context;              /* array: items of the conversation before this request          */
    slice input;                /* array: items of this request                                  */
    slice output;               /* array: items of the answer                                    */
} stored_response;

/* Copies. False: no memory, or larger than the store; the store is as before. */
bool responses_store_put(responses_store *s, const stored_response *r);

typedef enum { STORED_RESPONSE, STORED_INPUT, STORED_CONVERSATION } stored_part;

/* Appends the response object, the request's items (array), or all items up to and with the answer's (array). False:
 * unknown id, or out is full. */
bool responses_store_get(responses_store *s, slice id, stored_part part, bytes *out);
bool responses_store_delete(responses_store *s, slice id);

#endif
