/* driver: one engine behind lines of text, so that two engines stay loaded and
 * are measured in turn.
 *
 * When it is ready, and then for every line of standard input, a driver writes one
 * JSON object on a line; sentences for a person go to standard error:
 *
 *   pp N            N tokens into an empty session
 *   tg N D S        N steps of S sessions that were D tokens long
 *   logits F T...   tokens T into an empty session, last logits as floats to file F
 *   quit
 *
 * Tokens are the same for every engine: a fixed sequence, never sampled. What
 * prepares a measurement (the D tokens, one step to wake up) is not timed. */
#ifndef BENCH_DRIVER_H
#define BENCH_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

enum {
    DRIVER_SLOTS    = 10,       /* decode sessions: short, deep and eight together      */
    DRIVER_CHUNK    = 512,      /* most tokens of one prefill call                      */
    DRIVER_GROWTH   = 192,      /* a decode session grows by so much before it is begun again */
    DRIVER_CONTEXT  = 2048 + 256
};

typedef struct {
    const char *engine;         /* "ds4", "llama.cpp"                                   */
    const char *build;          /* which kernels it runs: "cpu (avx512, 2 threads)"     */
    int         threads, n_vocab, slots;
    void       *self;
    /* n tokens to the end of a slot's session, after emptying it if `empty`; slot -1
     * is the session for prefill. Asks for the logits of the last token. */
    bool (*feed)(void *self, int slot, bool empty, const int32_t *token, int n);
    /* One token to each of n sessions in slots first, first + 1, ... and their logits. */
    bool (*step)(void *self, int first, int n, const int32_t *token);
    const float *(*logits)(void *self);     /* of the last feed, [n_vocab] */
} driver;

int driver_run(const driver *d);            /* until quit or end of input; exit status */

#endif
