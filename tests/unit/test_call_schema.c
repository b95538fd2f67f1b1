#include "text/call_schema.h"

#include <stdlib.h>
#include <string.h>

#include "runner.h"

static unsigned kinds_of(const char *property)
{
    char text[4096] = "{\"properties\":{\"k\":";
    call_schema s;
    strncat(text, property, sizeof text - 200);
    strcat(text, "},\"$defs\":{\"n\":{\"type\":\"number\"},\"loop\":{\"$ref\":\"#/$defs/loop\"}}}");
    EXPECT_INT(call_schema_open(&s, slice_of(text)), DS4_OK);
    EXPECT(call_schema_declares(&s, slice_of("k")) && !call_schema_declares(&s, slice_of("j")));
    EXPECT_INT(call_schema_kinds(&s, slice_of("j")), KIND_ANY);
    const unsigned kinds = call_schema_kinds(&s, slice_of("k"));
    call_schema_close(&s);
    return kinds;
}

TEST(kinds_that_a_property_allows)
{
    EXPECT_INT(kinds_of("{\"type\":\"string\"}"), KIND_STRING);
    EXPECT_INT(kinds_of("{\"type\":[\"string\",\"null\"]}"), KIND_STRING | KIND_NULL);
    EXPECT_INT(kinds_of("{\"enum\":[\"a\",1,true]}"), KIND_STRING | KIND_INTEGER | KIND_NUMBER | KIND_BOOLEAN);
    EXPECT_INT(kinds_of("{\"type\":\"integer\",\"enum\":[1,2.5]}"), KIND_INTEGER);
    EXPECT_INT(kinds_of("{\"const\":{}}"), KIND_OBJECT);
    EXPECT_INT(kinds_of("{\"anyOf\":[{\"type\":\"array\"},{\"$ref\":\"#/$defs/n\"}]}"), KIND_ARRAY | KIND_NUMBER);
    EXPECT_INT(kinds_of("{\"oneOf\":[{\"type\":\"array\"},{\"type\":\"null\"}]}"), KIND_ARRAY | KIND_NULL);
}

TEST(what_is_not_understood_allows_everything)
{
    static const char *const odd[] = {
        "{}", "true", "5", "{\"type\":\"unheard\"}", "{\"type\":7}", "{\"type\":[]}", "{\"enum\":[]}", "{\"$ref\":\"elsewhere#/x\"}",
        "{\"$ref\":\"#/$defs/none\"}", "{\"$ref\":5}", "{\"$ref\":\"#/$defs/loop\"}", "{\"type\":\"string\",\"const\":1}",
    };
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) EXPECT_INT(kinds_of(odd[i]), KIND_ANY);
    static const char *const schemas[] = { "", "no JSON", "[]", "{\"properties\":[]}", "null" };
    for (size_t i = 0; i < sizeof schemas / sizeof schemas[0]; i++) {
        call_schema s;
        EXPECT_INT(call_schema_open(&s, slice_of(schemas[i])), DS4_OK);
        EXPECT(!call_schema_declares(&s, slice_of("k")));
        EXPECT_INT(call_schema_kinds(&s, slice_of("k")), KIND_ANY);
        call_schema_close(&s);
    }
}

/* Sixteen choices sixteen deep would take longer than the world has been. */
TEST(references_that_multiply_are_left)
{
    char text[4096] = "{\"properties\":{\"k\":{\"$ref\":\"#/$defs/a\"}},\"$defs\":{\"a\":{\"anyOf\":[";
    for (int i = 0; i < 16; i++) strcat(text, i ? ",{\"$ref\":\"#/$defs/a\"}" : "{\"$ref\":\"#/$defs/a\"}");
    strcat(text, "]}}}");
    call_schema s;
    EXPECT_INT(call_schema_open(&s, slice_of(text)), DS4_OK);
    EXPECT_INT(call_schema_kinds(&s, slice_of("k")), KIND_ANY);
    call_schema_close(&s);
}
