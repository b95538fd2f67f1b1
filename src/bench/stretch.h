/* stretch: a session as long as wanted, made from a short one that was computed.
 *
 * Filling a context of some thousand tokens by computing them takes minutes on a
 * processor. Decode speed depends on how many rows a session holds and on what
 * kind of numbers is in them, hardly on which; so the rows of the computed tokens
 * are repeated. What such a session answers means nothing. Engine thread only. */
#ifndef BENCH_STRETCH_H
#define BENCH_STRETCH_H

#include "ds4.h"

enum { STRETCH_UNIT = 128 };    /* lengths are multiples of it: the longest compression ratio */

/* s holds some multiple of STRETCH_UNIT tokens, at least a window; `length` is a
 * larger one. Keeps no logits. On failure the session is empty. */
ds4_status stretch_session(ds4_session *s, int length, ds4_error *err);

/* Tokens to compute before stretching sessions of this engine. */
int        stretch_real_tokens(const ds4_engine *e);

#endif
