/* cells: which measurements a run consists of, and how a command line says it.
 *
 * Knows numbers and names; measures nothing. Any thread. */
#ifndef BENCH_CELLS_H
#define BENCH_CELLS_H

#include "ds4_status.h"

enum { CELLS_MAX = 256, CELL_LIST_MAX = 64, CELL_NAME_BYTES = 64 };

/* prompt tokens into a session that is `depth` tokens long, then gen more one by
 * one, in `sessions` sessions together. */
typedef struct {
    int prompt, gen, depth, sessions;
} bench_cell;

typedef struct {
    int n;
    int at[CELL_LIST_MAX];
} int_list;

/* "128", "1,2", "0-4096+1024" and "1-8*2", and any of them with commas between.
 * Replaces *out. DS4_EARG: the sentence begins with the option's name. */
ds4_status int_list_parse(int_list *out, const char *option, const char *text, int least, ds4_error *err);

typedef struct {
    int_list prompt, gen;       /* cells of their own      */
    int_list pair;              /* prompt, gen, prompt ... */
    int_list depth, sessions;
} cell_lists;

/* "512,128" is added to the pairs. */
ds4_status cell_pair_parse(cell_lists *l, const char *text, ds4_error *err);

/* Every combination, depth by depth; returns how many. */
ds4_status cells_make(const cell_lists *l, bench_cell out[CELLS_MAX], int *n, ds4_error *err);

/* "pp512", "tg128@d4096", "pp512+tg128", "tg128x8" */
void cell_name(const bench_cell *c, char out[CELL_NAME_BYTES]);

/* Tokens that a session of this cell holds in the end. */
int  cell_tokens(const bench_cell *c);

#endif
