/* json_input: JSON files of a checkpoint's folder, parsed and read with suspicion.
 *
 * Parsing is json-c's, in strict mode and with a depth limit; a key that occurs
 * twice in one object is refused, since readers disagree on which one counts.
 * Typed readers name the file and the key when they refuse. Any thread. */
#ifndef FACTORY_JSON_INPUT_H
#define FACTORY_JSON_INPUT_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ds4_status.h"

/* `name` stands in front of messages. Free with json_object_put. */
ds4_status json_input_parse(json_object **out, const char *text, size_t n, const char *name, ds4_error *err);
/* A missing file is DS4_ENOTFOUND. */
ds4_status json_input_file(json_object **out, const char *path, size_t max_bytes, ds4_error *err);

/* NULL when the object has no such key or its value is null. */
json_object *json_input_get(json_object *object, const char *key);

/* An integer, or a float that is one (1e6); false otherwise. */
bool json_input_int(json_object *value, int64_t *out);
/* Any finite number; false otherwise. */
bool json_input_number(json_object *value, double *out);

#endif
