/* Any bytes, as JSON: what is read and written reads and writes the same again. */
#include <stdlib.h>

#include "text/json_tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool rewrite(slice text, bytes *out)
{
    json_tree t;
    bytes_init(out, SIZE_MAX);
    const bool good = json_tree_parse(&t, text, NULL) == DS4_OK;
    if (good) json_tree_write(&t, 1, out);
    json_tree_free(&t);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bytes once, twice;
    if (rewrite((slice){ (const char *)data, size }, &once)) {
        if (once.failed || !rewrite((slice){ once.data, once.len }, &twice)) abort();
        if (!slice_equal((slice){ once.data, once.len }, (slice){ twice.data, twice.len })) abort();
        bytes_free(&twice);
    }
    bytes_free(&once);
    return 0;
}
