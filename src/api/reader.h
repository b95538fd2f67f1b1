/* reader: the fields of a JSON body, each with the path that an error names.
 *
 * Internal to src/api. Owns nothing but the memory of a request (api_memory), which
 * keeps all that an api_request points at. A value knows where it stands, so a refusal
 * says "messages[3].content[0].text" without anybody carrying strings around. */
#ifndef API_READER_H
#define API_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "api/api.h"
#include "base/bytes.h"
#include "base/slice.h"
#include "text/json_tree.h"

/* ---- memory of one request ------------------------------------------------------------------ */

typedef struct api_memory api_memory;

api_memory *api_memory_new(void);               /* NULL: no memory */
void        api_memory_free(api_memory *m);     /* NULL is fine    */
bool        api_memory_failed(const api_memory *m);     /* some piece could not be had */

/* n zeroed items; NULL: no memory, which api_memory_failed remembers. */
void *api_take(api_memory *m, size_t n, size_t item_bytes);
slice api_copy(api_memory *m, slice text);      /* NUL-terminated; empty when there is no memory */
/* Room for item n: `items` itself or a larger copy. */
void *api_grow(api_memory *m, void *items, int n, int *cap, size_t item_bytes);
/* Strings of the tree stay good as long as m; the rest of the tree is freed. When there is no memory
 * for that the strings go too, and m has failed. */
void  api_keep_strings(api_memory *m, json_tree *t);

/* ---- reading -------------------------------------------------------------------------------- */

#define API_MAX_VALUES 4000000u     /* JSON values in a body */

typedef struct {
    const json_tree  *tree;
    const api_config *config;
    api_memory       *memory;
    api_request      *r;            /* being filled */
    api_error        *error;
    chat_tool        *tools;        /* see api_add_tool (api_common.h) */
    int               n_tools, cap_tools, cap_hints, cap_warnings;
} api_reader;

/* A value and where it stands. Lives on the stack below the value it stands in. */
typedef struct api_value {
    const struct api_value *up;     /* NULL: the body                          */
    const char *name;               /* as asked for; NULL: the key in the tree */
    uint32_t    node;               /* 0: absent                               */
    int         index;              /* in an array; -1: member of an object    */
} api_value;

/* Reads the body: an object, with all numbers within the range of a double. */
bool api_read_body(json_tree *t, slice body, api_error *e);

api_value api_body(void);
api_value api_field(const api_reader *rd, const api_value *object, const char *name);
/* for (api_value c = api_first(rd, &list); c.node; c = api_after(rd, c)) */
api_value api_first(const api_reader *rd, const api_value *container);
api_value api_after(const api_reader *rd, api_value child);
int       api_count(const api_reader *rd, const api_value *container);
slice     api_key(const api_reader *rd, const api_value *member);

/* Present and not null. */
bool api_given(const api_reader *rd, const api_value *v);
json_tree_kind api_kind(const api_reader *rd, const api_value *v);     /* absent: NULL */
bool api_is_string(const api_reader *rd, const api_value *v);
bool api_is_array(const api_reader *rd, const api_value *v);
bool api_is_object(const api_reader *rd, const api_value *v);
slice api_raw(const api_reader *rd, const api_value *v);    /* of a string or number */

/* How many bytes of a client's text a sentence shows, for %.*s: at most max, no half character. */
int api_shown(slice text, int max);

/* 400 with the value's path; "PATH: sentence". Returns false. */
bool api_wrong(const api_reader *rd, const api_value *v, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The field `name` of `object` into *out; absent and null leave *out as it is. False: refused. */
bool api_get_string(const api_reader *rd, const api_value *object, const char *name, slice *out);
bool api_get_bool(const api_reader *rd, const api_value *object, const char *name, bool *out);
bool api_get_number(const api_reader *rd, const api_value *object, const char *name,
                    double min, double max, double *out);
bool api_get_int(const api_reader *rd, const api_value *object, const char *name,
                 int64_t min, int64_t max, int64_t *out);
/* The same for a value in hand; absent and null are refused. */
bool api_need_string(const api_reader *rd, const api_value *v, slice *out);
bool api_need_array(const api_reader *rd, const api_value *v);
bool api_need_object(const api_reader *rd, const api_value *v);
bool api_to_number(const api_reader *rd, const api_value *v, double min, double max, double *out);
bool api_to_int(const api_reader *rd, const api_value *v, int64_t min, int64_t max, int64_t *out);

/* The value as JSON text without blanks, in the request's memory. */
slice api_json(const api_reader *rd, const api_value *v);

#endif
