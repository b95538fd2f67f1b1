/* The rows of `make bench` and where their bars lie (docs/measure.md).
 *
 * pp N: N tokens into an empty session; tg N D S: N steps of S sessions that were
 * D tokens long (driver.h). */
#include "compare.h"

#include <stddef.h>

#define OURS(n, c) { ENGINE_DS4, n, c }
#define PEER(n, c) { ENGINE_PEER, n, c }
#define ALONE      { ENGINE_DS4, 0, NULL }

const row bench_rows[] = {
    { "decode", "decode, short context, 2 threads", FILE_Q2,
      OURS(2, "tg 16 64 1"), PEER(2, "tg 16 64 1"), .reach = 2.5, .aim = 2.9, .reach_ratio = 1.6, .aim_ratio = 1.85,
      .limit = LIMIT_READ, .reach_share = 0.75, .aim_share = 0.85 },
    { "decode-1", "decode, short context, 1 thread", FILE_Q2,
      OURS(1, "tg 12 64 1"), PEER(1, "tg 12 64 1"), .reach = 1.5, .aim = 1.9 },
    { "prefill-128", "prefill of 128 tokens, 2 threads", FILE_Q2,
      OURS(2, "pp 128"), PEER(2, "pp 128"), .reach = 7.5, .aim = 10, .reach_ratio = 2.3, .aim_ratio = 3,
      .limit = LIMIT_INT8, .reach_share = 0.50, .aim_share = 0.65 },
    { "prefill-512", "prefill of 512 tokens, 2 threads", FILE_Q2,
      OURS(2, "pp 512"), ALONE, .reach = 9, .aim = 12, .limit = LIMIT_INT8, .reach_share = 0.50, .aim_share = 0.65 },
    { "deep", "decode at 2k against 64 tokens of context", FILE_Q2,
      OURS(2, "tg 16 2048 1"), OURS(2, "tg 16 64 1"), .ratio_only = true, .reach = 0.92, .aim = 0.96 },
    { "sessions", "8 sessions decoding together, total against one", FILE_Q2,
      OURS(2, "tg 12 64 8"), OURS(2, "tg 12 64 1"), .ratio_only = true, .reach = 2, .aim = 3 },
    { "busy", "one core busy: 2 threads against 1", FILE_Q2,
      OURS(2, "tg 12 64 1"), OURS(1, "tg 12 64 1"), .busy = true, .ratio_only = true, .reach = 1, .aim = 1 },
    { "busy-peer", "one core busy, 2 threads: against the peer", FILE_Q2,
      OURS(2, "tg 6 64 1"), PEER(2, "tg 6 64 1"), .busy = true },
    { "q4", "decode of the q4 file, 2 threads", FILE_Q4,
      OURS(2, "tg 16 64 1"), PEER(2, "tg 16 64 1"), .reach = 2.1, .aim = 2.5 },
    { .key = NULL }
};
