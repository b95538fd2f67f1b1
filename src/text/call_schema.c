#include "text/call_schema.h"

#include <string.h>

#include "base/checked.h"

enum { SCHEMAS_MAX = 256 };             /* looked at for one property */

ds4_status call_schema_open(call_schema *s, slice parameters)
{
    *s = (call_schema){ .properties = 0 };
    if (parameters.len == 0) return DS4_OK;
    const ds4_status st = json_tree_parse(&s->tree, parameters, NULL);
    if (st) return st == DS4_EMEMORY ? st : DS4_OK;
    const uint32_t properties = json_tree_find(&s->tree, 1, "properties");
    if (properties && s->tree.nodes[properties].kind == JSON_TREE_OBJECT) s->properties = properties;
    return DS4_OK;
}

void call_schema_close(call_schema *s)
{
    json_tree_free(&s->tree);
    s->properties = 0;
}

/* The member of an object, or 0. */
static uint32_t member(const json_tree *t, uint32_t object, slice key)
{
    if (!object || t->nodes[object].kind != JSON_TREE_OBJECT) return 0;
    uint32_t child = t->nodes[object].first;
    while (child && !slice_equal(t->nodes[child].key, key)) child = t->nodes[child].next;
    return child;
}

static unsigned kind_named(slice name)
{
    static const char *const names[] = { "null", "boolean", "integer", "number", "string", "array", "object" };
    for (size_t i = 0; i < countof(names); i++) if (slice_is(name, names[i])) return 1u << i;
    return KIND_ANY;
}

/* "type": a name or a list of names. */
static unsigned kinds_of_type(const json_tree *t, uint32_t type)
{
    unsigned kinds = 0;
    if (t->nodes[type].kind == JSON_TREE_STRING) return kind_named(t->nodes[type].text);
    if (t->nodes[type].kind != JSON_TREE_ARRAY) return KIND_ANY;
    for (uint32_t c = t->nodes[type].first; c; c = t->nodes[c].next) kinds |= kind_named(t->nodes[c].text);
    return kinds ? kinds : KIND_ANY;
}

static bool is_integer(slice number)
{
    for (size_t i = 0; i < number.len; i++) if (strchr(".eE", number.data[i])) return false;
    return true;
}

/* An integer is a number as well. */
static unsigned kind_of_value(const json_tree_node *value)
{
    static const unsigned kinds[] = {
        [JSON_TREE_NULL] = KIND_NULL, [JSON_TREE_FALSE] = KIND_BOOLEAN, [JSON_TREE_TRUE] = KIND_BOOLEAN,
        [JSON_TREE_NUMBER] = KIND_NUMBER, [JSON_TREE_STRING] = KIND_STRING,
        [JSON_TREE_ARRAY] = KIND_ARRAY, [JSON_TREE_OBJECT] = KIND_OBJECT,
    };
    const unsigned integer = value->kind == JSON_TREE_NUMBER && is_integer(value->text) ? KIND_INTEGER : 0;
    return kinds[value->kind] | integer;
}

/* "#/$defs/name": the node it points to, 0: elsewhere. */
static uint32_t refers_to(const json_tree *t, slice pointer)
{
    uint32_t at = 1;
    if (pointer.len < 2 || memcmp(pointer.data, "#/", 2) != 0) return 0;
    slice rest = { pointer.data + 2, pointer.len - 2 };
    while (at) {
        const char *end = memchr(rest.data, '/', rest.len);
        const size_t n = end ? (size_t)(end - rest.data) : rest.len;
        at = member(t, at, (slice){ rest.data, n });
        if (!end) return at;
        rest = (slice){ end + 1, rest.len - n - 1 };
    }
    return 0;
}

static unsigned kinds_at(const json_tree *t, uint32_t node, int *left);

static unsigned kinds_of_any(const json_tree *t, uint32_t list, int *left)
{
    unsigned kinds = 0;
    for (uint32_t c = t->nodes[list].first; c; c = t->nodes[c].next) kinds |= kinds_at(t, c, left);
    return kinds ? kinds : KIND_ANY;
}

static unsigned kinds_of_enum(const json_tree *t, uint32_t list)
{
    unsigned kinds = 0;
    for (uint32_t c = t->nodes[list].first; c; c = t->nodes[c].next) kinds |= kind_of_value(&t->nodes[c]);
    return kinds ? kinds : KIND_ANY;
}

/* left: schemas that may still be looked at, for references go round in circles. */
static unsigned kinds_at(const json_tree *t, uint32_t node, int *left)
{
    unsigned kinds = KIND_ANY;
    uint32_t at;
    if (--*left < 0 || t->nodes[node].kind != JSON_TREE_OBJECT) return KIND_ANY;
    if ((at = json_tree_find(t, node, "type")))  kinds &= kinds_of_type(t, at);
    if ((at = json_tree_find(t, node, "const"))) kinds &= kind_of_value(&t->nodes[at]);
    if ((at = json_tree_find(t, node, "enum")))  kinds &= kinds_of_enum(t, at);
    if ((at = json_tree_find(t, node, "anyOf"))) kinds &= kinds_of_any(t, at, left);
    if ((at = json_tree_find(t, node, "oneOf"))) kinds &= kinds_of_any(t, at, left);
    if ((at = json_tree_find(t, node, "$ref"))) {
        const uint32_t target = refers_to(t, t->nodes[at].text);
        if (target) kinds &= kinds_at(t, target, left);
    }
    return kinds;
}

bool call_schema_declares(const call_schema *s, slice key)
{
    return member(&s->tree, s->properties, key) != 0;
}

unsigned call_schema_kinds(const call_schema *s, slice key)
{
    int left = SCHEMAS_MAX;
    const uint32_t node = member(&s->tree, s->properties, key);
    const unsigned kinds = node ? kinds_at(&s->tree, node, &left) : KIND_ANY;
    return kinds ? kinds : KIND_ANY;
}

bool call_schema_allows(unsigned kinds, const json_tree_node *value)
{
    return (kinds & kind_of_value(value)) != 0;
}
