/* call_schema: what a tool's JSON schema says about the kinds of its arguments.
 *
 * Only what choosing between a string and JSON needs: declared properties and the kinds
 * of value that each allows. Whatever it does not understand allows everything. One thread. */
#ifndef TEXT_CALL_SCHEMA_H
#define TEXT_CALL_SCHEMA_H

#include <stdbool.h>
#include "base/slice.h"
#include "ds4_status.h"
#include "text/json_tree.h"

enum {
    KIND_NULL = 1, KIND_BOOLEAN = 2, KIND_INTEGER = 4, KIND_NUMBER = 8, KIND_STRING = 16,
    KIND_ARRAY = 32, KIND_OBJECT = 64, KIND_ANY = 127
};

typedef struct {
    json_tree tree;                     /* empty: no schema that is JSON */
    uint32_t  properties;               /* node; 0: none */
} call_schema;

/* parameters: borrowed while the schema is open. Text that is no JSON makes a schema that knows
 * nothing; DS4_EMEMORY is the only failure. */
ds4_status call_schema_open(call_schema *s, slice parameters);
void       call_schema_close(call_schema *s);           /* a zeroed one too */

bool       call_schema_declares(const call_schema *s, slice key);
unsigned   call_schema_kinds(const call_schema *s, slice key);      /* KIND_ANY where not declared */

/* True when the value is of one of the kinds. */
bool       call_schema_allows(unsigned kinds, const json_tree_node *value);

#endif
