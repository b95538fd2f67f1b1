/* replay: runs a fuzz target over stored inputs, without a fuzzer.
 *
 *   fuzz_gguf_replay [FILE|FOLDER]...       default: tests/fuzz/corpus/gguf
 *
 * Inputs of a folder are taken in order of name; the empty input always comes
 * first. Each lies in memory of exactly its size, so that a sanitizer sees the
 * first byte read beyond it. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int complain(const char *path)
{
    printf("FAIL %s: %s\n", path, strerror(errno));
    return -1;
}

static int replay_file(const char *path, size_t size)
{
    FILE *f = fopen(path, "rb");
    if (!f) return complain(path);
    uint8_t *data = malloc(size ? size : 1);
    if (!data) abort();
    const size_t got = fread(data, 1, size, f);
    fclose(f);

    if (got == size) LLVMFuzzerTestOneInput(data, size);
    free(data);
    return got == size ? 1 : complain(path);
}

static int visible(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* Returns the inputs replayed under path, or -1. */
static int replay(const char *path)
{
    struct stat s;
    if (stat(path, &s)) return complain(path);
    if (!S_ISDIR(s.st_mode)) return replay_file(path, (size_t)s.st_size);

    struct dirent **names;
    const int n = scandir(path, &names, visible, alphasort);
    if (n < 0) return complain(path);
    int sum = 0;
    for (int i = 0; i < n; i++) {
        char inner[4096];
        snprintf(inner, sizeof inner, "%s/%s", path, names[i]->d_name);
        const int got = sum < 0 ? -1 : replay(inner);
        sum = got < 0 ? -1 : sum + got;
        free(names[i]);
    }
    free(names);
    return sum;
}

/* build/release/tests/fuzz/fuzz_gguf_replay -> tests/fuzz/corpus/gguf */
static const char *default_corpus(const char *program, char *out, size_t size)
{
    const char *slash = strrchr(program, '/');
    const char *name = slash ? slash + 1 : program;
    if (strncmp(name, "fuzz_", 5) == 0) name += 5;
    const char *end = strstr(name, "_replay");
    snprintf(out, size, "tests/fuzz/corpus/%.*s", (int)(end ? (size_t)(end - name) : strlen(name)), name);
    return out;
}

int main(int argc, char **argv)
{
    char corpus[1024];
    setvbuf(stdout, NULL, _IOLBF, 0);
    const uint8_t nothing = 0;
    LLVMFuzzerTestOneInput(&nothing, 0);

    int sum = 1;
    for (int i = 1; i < argc || i == 1; i++) {
        const int got = replay(argc > 1 ? argv[i] : default_corpus(argv[0], corpus, sizeof corpus));
        if (got < 0) return 1;
        sum += got;
    }
    printf("%d inputs replayed\n", sum);
    return 0;
}
