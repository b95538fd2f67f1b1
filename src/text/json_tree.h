/* json_tree: JSON text read into a tree that can be written again byte for byte.
 *
 * json-c reads JSON for the rest of the house. Prompts need what it gives up: numbers
 * in their own spelling, members in the order received with a repeated key at its
 * first place and with its last value, and one fixed style of escapes. So this reader
 * is strict (RFC 8259, valid UTF-8, nothing behind the value), keeps number tokens
 * verbatim and bounds the nesting; a value costs 48 bytes, so the caller bounds the text
 * or their number.
 * A tree belongs to one thread; number tokens point into the text that was read,
 * strings are decoded into memory of the tree. */
#ifndef TEXT_JSON_TREE_H
#define TEXT_JSON_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/slice.h"
#include "ds4_status.h"

#define JSON_TREE_DEPTH 256         /* arrays and objects inside each other */

typedef enum {
    JSON_TREE_NULL, JSON_TREE_FALSE, JSON_TREE_TRUE, JSON_TREE_NUMBER,
    JSON_TREE_STRING, JSON_TREE_ARRAY, JSON_TREE_OBJECT
} json_tree_kind;

typedef struct {
    json_tree_kind kind;
    slice          text;    /* NUMBER: as written; STRING: decoded bytes, may hold NUL */
    slice          key;     /* of an object's member, decoded                          */
    uint32_t       first;   /* ARRAY, OBJECT: the first child, 0: none                 */
    uint32_t       next;    /* the next child of the same parent, 0: none              */
} json_tree_node;

typedef struct {
    json_tree_node *nodes;      /* owned; nodes[1] is the root, there is no node 0 */
    uint32_t        n, cap;
    char           *strings;    /* owned; never longer than the text               */
    size_t          n_strings;
} json_tree;

/* DS4_EFORMAT with "byte N: what is wrong"; t is then empty. A lone surrogate in an
 * escape becomes U+FFFD. The text must outlive the tree. */
ds4_status json_tree_parse(json_tree *t, slice text, ds4_error *err);
/* The same; more than max_values values are DS4_EFORMAT. */
ds4_status json_tree_parse_bounded(json_tree *t, slice text, uint32_t max_values, ds4_error *err);
void       json_tree_free(json_tree *t);            /* frees a zeroed one too */

/* The member of an object; 0: none. */
uint32_t   json_tree_find(const json_tree *t, uint32_t object, const char *key);

/* True for values that mean the same: members in any order, numbers of equal value however they are
 * spelled (as doubles, which is what most clients make of them). Without memory: false. */
bool       json_tree_equal(const json_tree *a, uint32_t at_a, const json_tree *b, uint32_t at_b);

/* Appends a value in the style of prompts: ", " and ": " between, all characters raw
 * but \" \\ \n \r \t \b \f and \u00xx for other controls. */
void       json_tree_write(const json_tree *t, uint32_t node, bytes *out);
void       json_tree_escape(slice text, bytes *out);            /* the inside of a string; text may come in parts */
void       json_tree_write_string(slice text, bytes *out);      /* with its quotes */
/* The same without blanks, as APIs spell it. */
void       json_tree_write_compact(const json_tree *t, uint32_t node, bytes *out);

#endif
