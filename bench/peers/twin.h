/* twin: an aliased model file in the shape that a reader without aliases accepts.
 *
 * Layers of an aliased file (`ds4-gguf synth --alias-layers`) share their bytes;
 * ggml's reader wants every tensor right behind the one before it. The twin is an
 * anonymous file with the same header in which only the offsets differ, as long
 * as such a file has to be and empty behind the header. When it is mapped, the
 * real file is mapped in its place, and twin_place says where in that mapping a
 * tensor's bytes are. No byte is copied, and both engines read the same pages. */
#ifndef BENCH_PEERS_TWIN_H
#define BENCH_PEERS_TWIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "ds4_status.h"

typedef struct twin twin;

ds4_status twin_open(twin **out, const char *path, ds4_error *err);
void       twin_close(twin *t);             /* after everything that maps it */

FILE *twin_file(twin *t);                   /* owned by the twin */
bool  twin_is(const twin *t, int fd);

/* What mmap of the twin's first `bytes` bytes gives instead; NULL: errno tells. */
void *twin_map(twin *t, size_t bytes);

/* Where a tensor is that the reader places at `at` of the mapping: its address in
 * the real file. Other addresses come back unchanged. */
void *twin_place(const twin *t, void *at);

#endif
