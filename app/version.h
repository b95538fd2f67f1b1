/* version: what this build is. Any thread. */
#ifndef APP_VERSION_H
#define APP_VERSION_H

#define DS4_VERSION "0.1.0"

/* Short commit, "unknown" outside a repository. */
const char *version_commit(void);

/* Variant, architecture and instruction sets: "release x86_64 avx2 avx512". */
const char *version_flags(void);

/* The lines of --version, without a final newline. */
void version_text(char *out, unsigned long size, const char *program);

#endif
