/* Any bytes as the arguments of a custom tool's call, in pieces as long as the first byte says: the text only grows
 * and is whole characters whenever the arguments are; one piece and many give the same. */
#include <stdlib.h>

#include "api/custom_input.h"
#include "base/utf8.h"
#include "text/json_tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good) abort();
}

static void feed(custom_input *c, slice json, size_t piece)
{
    custom_input_init(c, 1u << 20);
    size_t told = 0;
    for (size_t at = 0; at < json.len; at += piece) {
        const size_t n = json.len - at < piece ? json.len - at : piece;
        told += custom_input_push(c, (slice){ json.data + at, n }).len;
        check(told == c->text.len && !c->text.failed);
    }
    told += custom_input_end(c).len;
    check(told == c->text.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    custom_input many, one;
    if (size < 2 || size > 4096) return 0;          /* each piece looks at the whole string so far */
    const slice json = { (const char *)data + 1, size - 1 };
    feed(&many, json, (size_t)data[0] % 16 + 1);
    feed(&one, json, json.len);
    if (utf8_valid(json.data, json.len)) check(utf8_valid(many.text.data ? many.text.data : "", many.text.len));
    /* The same for what an answer's arguments are: JSON, in which no escaped pair of halves can be divided. */
    json_tree t;
    const bool good = json_tree_parse(&t, json, NULL) == DS4_OK;
    if (good) json_tree_free(&t);
    if (good && !memmem(json.data, json.len, "\\u", 2)) {
        check(slice_equal((slice){ many.text.data, many.text.len }, (slice){ one.text.data, one.text.len }));
    }
    custom_input_free(&many);
    custom_input_free(&one);
    return 0;
}
