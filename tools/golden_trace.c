/* golden_trace: names the first tensor of a run that leaves its golden values.
 *
 *   build/release/bin/golden-trace MODEL.gguf GOLDEN_DIR
 *
 * Prints one line and exits with 0 (all agree), 1 (a tensor differs) or 2. */
#include <stdio.h>

#include "golden/golden.h"

int main(int argc, char **argv)
{
    ds4_error err = { 0 };
    golden g;
    gguf *model = NULL;
    golden_verdict v;
    if (argc != 3) {
        fprintf(stderr, "usage: golden-trace MODEL.gguf GOLDEN_DIR\n");
        return 2;
    }
    ds4_status st = golden_open(&g, argv[2], &err);
    if (!st) st = gguf_open(&model, argv[1], NULL, &err);
    if (!st) st = golden_trace(&g, model, ~0u, &v, &err);
    gguf_close(model);
    golden_close(&g);
    if (st) {
        fprintf(stderr, "golden-trace: %s\n", err.message);
        return 2;
    }
    if (v.agrees) printf("all %d comparisons agree\n", v.compared);
    else printf("%s differs first: by %.3g, tolerance %.3g\n", v.tensor, v.difference, v.tolerance);
    return v.agrees ? 0 : 1;
}
