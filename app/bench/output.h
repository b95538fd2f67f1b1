/* output: where results go: standard output, or files that appear complete. */
#ifndef BENCH_OUTPUT_H
#define BENCH_OUTPUT_H

#include "base/bytes.h"
#include "../cli/exit_code.h"
#include "../console.h"

enum { OUTPUT_MAX = 64 << 20 };

/* path NULL: nothing is wanted; "-": standard output. Replaces what was there. */
exit_code output_text(const char *path, const bytes *text, console *c);
exit_code output_standard(const bytes *text, console *c);

#endif
