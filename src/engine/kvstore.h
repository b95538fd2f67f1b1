/* kvstore: sessions on disk, found again by what they say.
 *
 * A folder of checkpoints (docs/formats.md 2), named by the SHA-1 of their text; several processes
 * may share it. Owns an index in memory, the budget, and one saving thread. A damaged, foreign or vanished
 * file is a miss, never an error; killing the process at any moment loses nothing but what was being
 * written. Files of another model or rounding are never found: what made the rows
 * is part of the folder's structure (docs/formats.md).
 *
 * Engine thread, except kvstore_counts and kvstore_read_tool_maps (any thread). Log lines also come from the
 * saving thread. */
#ifndef ENGINE_KVSTORE_H
#define ENGINE_KVSTORE_H

#include <stdbool.h>
#include <stdint.h>
#include "base/log.h"
#include "base/slice.h"
#include "ds4.h"
#include "engine/server_metrics.h"
#include "text/replay.h"

typedef struct kvstore kvstore;

typedef enum {
    KV_SAVE_UNKNOWN, KV_SAVE_COLD, KV_SAVE_CONTINUED, KV_SAVE_EVICT, KV_SAVE_SHUTDOWN, KV_SAVE_AGENT_SYSTEM,
    KV_SAVE_AGENT_SESSION
} kv_save_reason;

/* When to save (docs/scheduler.md, Checkpoints); the scheduler asks. */
typedef struct {
    int min_tokens, cold_max_tokens, continued_interval_tokens, boundary_trim_tokens, boundary_align_tokens, turn_tokens;
} kv_save_policy;
kv_save_policy kv_save_policy_defaults(void);           /* 512, 30000, 10000, 32, 2048, 0 */
int  kv_continued_interval(const kv_save_policy *p);    /* rounded up to the alignment; 0: off */
/* The anchor of a cold prompt of n tokens, 0: none. last_user: token index of the last USER token before the first
 * ASSISTANT token, -1: none. */
int  kv_cold_anchor(const kv_save_policy *p, int n, int last_user);
/* What a file is worth keeping for; the lowest goes first. growing_bytes: of its size, what more
 * tokens make more. */
double kv_score(kv_save_reason reason, uint32_t hits, uint64_t age_seconds, int tokens, uint64_t growing_bytes);

typedef struct {
    const char     *dir;
    uint64_t        budget_bytes;
    bool            reject_different_quant;
    server_metrics *metrics;                /* borrowed */
    log_sink        log;
} kvstore_options;

/* Before a model is there: makes the folder (0700) and writes into it, so that a wrong one is told before the weights
 * are read. DS4_EIO, DS4_EARG as below. */
ds4_status kvstore_check(const char *dir, ds4_error *err);

/* Makes the folder (0700), removes what dead processes left, scans. DS4_EIO: it can not be made or written. */
ds4_status kvstore_open(kvstore **out, const kvstore_options *o, ds4_engine *e, ds4_error *err);
void       kvstore_close(kvstore *s);                   /* waits for a save that runs; NULL is fine */

typedef struct {
    int      tokens;
    size_t   text_bytes;        /* of the prompt's text that it covers                        */
    bool     visible;           /* found by a visible transcript: its tokens need not be the prompt's */
    uint64_t bytes;
    uint8_t  sha[20];
} kvstore_hit;

/* The longest entry whose text begins `text` and that holds at most max_tokens; false: none. It is not evicted
 * before the next find. skip: entries of this many text bytes or more are passed over (for trying the next shorter
 * one); 0: none are. */
bool       kvstore_find(kvstore *s, slice text, int max_tokens, size_t skip, kvstore_hit *out);
/* Seconds that loading will take, from what loads took so far. */
double     kvstore_load_seconds(const kvstore *s, const kvstore_hit *h);
/* Replaces the session's content and adds the file's tool map to `replay` (may be NULL). On failure the session is
 * empty and the hit is a miss: DS4_ENOTFOUND: the file went or was replaced; DS4_EFORMAT, DS4_EIO, DS4_EUNSUPPORTED:
 * it was put aside (.bad) and counted; DS4_EFULL, DS4_EMEMORY: this session or machine has no room for it. */
ds4_status kvstore_load(kvstore *s, const kvstore_hit *h, ds4_session *session, replay_memory *replay, ds4_error *err);
/* A load that turned out bad afterwards (logits that are not numbers, a failing first step): put aside too. */
void       kvstore_reject(kvstore *s, const kvstore_hit *h);

/* Tool maps of files whose ids are not in memory: reads the sections of all entries once, lazily. Any thread. */
void       kvstore_read_tool_maps(kvstore *s, replay_memory *replay);

typedef struct {
    kv_save_reason reason;
    slice          text;        /* what is found later: a prefix of prompts to come            */
    bool           visible;     /* text is not what the tokens say                             */
    bool           thinking;    /* of a visible one: which flag (2 or 4)                       */
    bool           wait;        /* evict, shutdown: a running save is waited for; else this one is skipped */
    replay_memory *replay;      /* its records that occur in text go along; NULL: none         */
    int            interval;    /* of continued ones: kv_continued_interval(); 0: as by default */
    slice          conversation;/* text of the request being served: its prefixes are not evicted */
} kvstore_save_options;

/* Begins to write the session as it stands, unless its text is on disk already (DS4_OK); decode may go on: what a
 * step changes is copied before this returns. Rows that only grow are read by the saving thread, so the session must
 * not be reset, rewound, loaded into or closed before kvstore_wait(session). A continued file makes shorter ones of
 * the same text go, where no more than 4 intervals then lie between those that stay. DS4_EFULL: over budget, or a
 * save is running (nothing happens); DS4_EIO: the disk (saving pauses for a minute). */
ds4_status kvstore_save(kvstore *s, ds4_session *session, const kvstore_save_options *o, ds4_error *err);
void       kvstore_wait(kvstore *s, const ds4_session *session);    /* until no save reads it; NULL: until none runs */
/* Tokens of this text's longest prefix on disk. */
int        kvstore_covered(kvstore *s, slice text);

typedef struct { uint64_t bytes, files, budget_bytes; } kvstore_size;
kvstore_size kvstore_counts(const kvstore *s);

#endif
