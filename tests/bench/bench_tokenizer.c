/* Speed of the tokenizer on one thread, with the published vocabulary of tests/data.
 *
 *   bench_tokenizer FILE...        from the repository's root
 *
 * Per file the best of nine runs: MB/s, and bytes per token. */
#include <stdio.h>

#include "base/clock.h"
#include "text/tokenizer.h"
#include "text_vocab.h"

enum { RUNS = 9 };

static uint64_t time_encode(const vocab *v, slice text, token_list *ids)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < RUNS; i++) {
        token_list_clear(ids);
        const uint64_t start = clock_ns();
        if (tokenizer_encode(v, text, false, ids, NULL)) return UINT64_MAX;
        const uint64_t took = clock_ns() - start;
        if (took < best) best = took;
    }
    return best;
}

static int bench_file(const vocab *v, const char *path)
{
    char *data;
    size_t n;
    ds4_error err;
    token_list ids;
    if (file_read_all(path, 1u << 30, &data, &n, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    token_list_init(&ids, SIZE_MAX);
    const uint64_t ns = time_encode(v, (slice){ data, n }, &ids);
    printf("%8.1f MB/s  %5.2f bytes/token  %9zu bytes  %s\n", (double)n * 1e3 / (double)ns,
           (double)n / (double)(ids.n ? ids.n : 1), n, path);
    token_list_free(&ids);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    text_source s = { .n = 0 };
    ds4_error err;
    vocab *v;
    if (!text_v3_base(&s, "tests/data/text-v3-merges.bin") || !text_v3_added(&s, "tests/data/text-v4-added.tsv")) {
        fprintf(stderr, "tests/data/text-*: not found or incomplete\n");
        return 1;
    }
    const uint64_t start = clock_ns();
    if (text_source_open(&v, &s, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("%8.1f ms to load %d tokens, %.1f MB\n", (double)(clock_ns() - start) / 1e6, (int)vocab_size(v),
           (double)vocab_memory_bytes(v) / 1e6);
    text_source_free(&s);

    int failed = 0;
    for (int i = 1; i < argc; i++) failed |= bench_file(v, argv[i]);
    vocab_close(v);
    return failed;
}
