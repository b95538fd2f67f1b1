/* scheduler: many requests on a few sessions, one step at a time.
 *
 * Owns the engine thread, the slots (a session each; where the engine has a side session, one slot more that only side
 * requests use) and the queue. Each step holds one token of every
 * decoding slot and at most one quantum of prompts, sized so that the decoders do not wait for it longer than twice
 * their own step (docs/scheduler.md). Events of a request wait in a bounded queue of its own; a reader
 * that does not come delays nobody and is cancelled when its queue is full.
 *
 * sched_submit, sched_cancel, sched_next, sched_release, sched_status: any thread. `wake` is called on the
 * engine thread and must only signal; sched_release waits for one that is under way, so nothing that wake
 * takes may be held there. */
#ifndef ENGINE_SCHEDULER_H
#define ENGINE_SCHEDULER_H

#include <stdatomic.h>

#include "base/log.h"
#include "ds4.h"
#include "engine/kvstore.h"
#include "engine/reuse.h"
#include "engine/server_metrics.h"
#include "text/answer.h"
#include "text/replay.h"

typedef struct scheduler    scheduler;
typedef struct sched_ticket sched_ticket;   /* one submitted request; freed by sched_release */

typedef struct {
    int             n_slots;
    int             slot_ctx;               /* tokens of slots >= 1; 0: as slot 0                          */
    int             max_queue;              /* waiting requests                                            */
    int             prefill_quantum;        /* tokens beside decoders; 0: auto                             */
    bool            strict_drop_reasoning, finish_orphans, exact_replay;
    kvstore        *store;                  /* NULL: none; borrowed                                        */
    kv_save_policy  save;
    replay_memory  *replay;                 /* borrowed                                                    */
    server_metrics *metrics;                /* borrowed                                                    */
    log_sink        log;
    void          (*trace)(void *ctx, const char *id, const char *what, slice text);   /* NULL: none       */
    void           *trace_ctx;
    uint64_t      (*now_ns)(void);          /* NULL: clock_ns; another one in tests                        */
    /* Set while the step at work should be broken off, because its request was cancelled or because it is long and
     * a short request has come; the engine's `interrupted` looks at it. NULL: steps run to their end. */
    _Atomic bool   *abandon;
    void          (*tried)(void *ctx);      /* to open a lost device again, well or not; engine thread. NULL: none */
    void           *tried_ctx;
} sched_options;
sched_options sched_defaults(void);

ds4_status sched_open(scheduler **out, ds4_engine *e, const sched_options *o, ds4_error *err);
/* Ends the queue (503), lets running requests finish until deadline_ns, then stops them by length; saves what the
 * policy says; joins the thread. NULL is fine. */
void       sched_drain(scheduler *s, uint64_t deadline_ns);
void       sched_close(scheduler *s);

typedef enum { CHOOSE_AUTO, CHOOSE_NONE, CHOOSE_REQUIRED, CHOOSE_NAMED } tool_choice;

/* Everything is copied or taken; the caller keeps nothing but the ticket. */
typedef struct {
    const char     *id;                     /* "req_...", for logs                                         */
    reuse_prompt   *prompt;                 /* its content is taken, also on failure; *prompt is zeroed    */
    chat_start      start;
    const chat_tool *tools;                 /* offered                                                     */
    int             n_tools;
    tool_choice     choice;
    slice           forced_tool;            /* CHOOSE_NAMED                                                */
    bool            one_call;               /* no parallel calls                                           */
    bool            raw;                    /* completions                                                 */
    ds4_sampling    sampling;               /* bias is copied; mask is the seam of constrained decoding    */
    int             n;                      /* choices                                                     */
    int             first_choice;           /* number of the first                                         */
    int             max_tokens;             /* capped by the free context                                  */
    int             think_budget;           /* 0: none                                                     */
    const slice    *stops;
    int             n_stops;
    bool            include_stop;
    unclosed_think  unclosed;
    call_id_form    ids;
    bool            logprobs, prompt_logprobs;  /* prompt_logprobs: of the prompt's own tokens (echo)      */
    int             top_logprobs;
    bool            side;                   /* a title, a summary, a probe (docs/scheduler.md)             */
    void          (*wake)(void *ctx);       /* something is there for sched_next                           */
    void           *wake_ctx;
} sched_request;

/* DS4_EFULL: the queue is full; *retry_s is set to the estimated wait, 1..60. DS4_ECANCELLED: shutting down.
 * DS4_EDEVICE: the device was lost and is not open again; *retry_s likewise.
 * DS4_EARG: the prompt does not fit (sched_capacity), or a sampling value makes no sense. */
ds4_status sched_submit(scheduler *s, const sched_request *r, sched_ticket **out, int *retry_s, ds4_error *err);

typedef enum {
    SCHED_NOTHING,              /* wait for the next wake                                                   */
    SCHED_ADMITTED,             /* usage.prompt_tokens and cached_tokens are known                          */
    SCHED_PREFILL,              /* done, total                                                              */
    SCHED_ECHO,                 /* answer.tokens: the prompt's, before the first answer; the first has no logprob (NAN) */
    SCHED_ANSWER,               /* answer, and usage up to the token before                                 */
    SCHED_DONE,                 /* all choices are finished; usage is final; the last event                 */
    SCHED_FAILED                /* error; the last event                                                    */
} sched_kind;

/* Where a request's time went, in seconds. */
typedef struct { double queue_s, prefill_s, decode_s; } sched_times;

typedef struct {
    sched_kind   kind;
    answer_event answer;        /* slices good until the next sched_next of this ticket                     */
    answer_usage usage;
    int          done, total;
    reuse_method method;        /* SCHED_ADMITTED: where the cached tokens come from                        */
    sched_times  times;         /* SCHED_DONE                                                               */
    ds4_error    error;
} sched_event;

sched_kind sched_next(sched_ticket *t, sched_event *out);
/* Ends within one step: leaves the queue, the prefill at the next chunk, the decode at the next token. */
void       sched_cancel(sched_ticket *t);
/* Cancels if it still runs; t is gone. All tickets are released before sched_close. NULL is fine. */
void       sched_release(sched_ticket *t);

/* The device, and it is not open again. *retry_s, unless NULL: as sched_submit would say. */
bool       sched_lost(const scheduler *s, int *retry_s);
int        sched_capacity(const scheduler *s);          /* tokens of the largest slot; a prompt needs one fewer */

/* For /slots and /health: a copy, without the engine's locks. */
typedef struct {
    int      slot;
    bool     side;              /* the one beside the conversations: not counted as a slot                  */
    enum { SLOT_EMPTY, SLOT_PREFILL, SLOT_DECODE, SLOT_IDLE } state;
    int      n_past, n_ctx;
    int      done, total;       /* SLOT_PREFILL                                                             */
    double   tokens_per_second;
    char     request_id[40];
    uint64_t session;           /* its first hint, 0: none                                                  */
    uint64_t last_used_ns;
} sched_slot_status;
int        sched_status(const scheduler *s, sched_slot_status *out, int cap);

#endif
