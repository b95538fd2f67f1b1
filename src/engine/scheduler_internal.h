/* scheduler_internal: what the files of the scheduler share.
 *
 *   scheduler.c            threads: the queue's ends, the engine thread's loop, admission, shutdown
 *   scheduler_ticket.c     a request on its way: what was asked, and the events that go back
 *   scheduler_slot.c       a session and what is known of it: reuse, rewind points, checkpoints
 *   scheduler_step.c       rows of one step, and how many tokens of a prompt it may hold
 *   scheduler_answer.c     sampling one answer after the other
 *   scheduler_device.c     a lost device, and opening it again
 *
 * Locks: `lock` guards the queue and what tickets mark as such; `wake_lock` is held while somebody is woken;
 * `status_lock` guards the copy that sched_status gives out. None is held during a step. All else belongs to
 * the engine thread. */
#ifndef ENGINE_SCHEDULER_INTERNAL_H
#define ENGINE_SCHEDULER_INTERNAL_H

#include <pthread.h>

#include "engine/scheduler.h"

#define SCHED_EVENT_BYTES    ((size_t)4 << 20)  /* unread events of one request     */
#define SCHED_MARK_TOKENS    8192               /* a rewind point at each multiple  */
#define SCHED_MARKS          2
#define SCHED_MARK_WORTH     256                /* tokens that justify a step of their own for a point */
#define SCHED_FORCED_TOKENS  2048               /* room in a feed beside the prompt */
#define SCHED_OVERTAKE       3                  /* short requests before a long one */
#define SCHED_SHORT_TOKENS   2048               /* uncached tokens of a short one   */
#define SCHED_SHORT_ANSWER   1024
#define SCHED_DISK_GAIN      512                /* tokens a checkpoint must save over a live session */
#define SCHED_EVICT_TOKENS   2048               /* worth a checkpoint before they are lost           */
#define SCHED_TOP_LOGPROBS   20
#define SCHED_EVENT_TOKENS   64                 /* logprobs in one event            */

typedef struct event {
    struct event *next;
    sched_event   e;            /* its slices point behind this struct */
    size_t        size;
} event;

typedef struct {
    event  *first, *last;
    size_t  size;               /* bytes */
} event_list;

/* A token whose bytes have not been given out yet. */
typedef struct {
    answer_logprob  self, top[SCHED_TOP_LOGPROBS];
    int             n_top;
    size_t          bytes;
    answer_section  in;
} pending_token;

struct sched_ticket {
    scheduler *s;

    /* What was asked; set by sched_submit, then only read. */
    char             id[40];
    reuse_prompt     prompt;
    bool             one_call, raw, logprobs, prompt_logprobs, side;
    ds4_sampling     sampling;
    ds4_logit_bias  *bias;              /* owned                                             */
    int              n_answers, max_tokens, think_budget, top_logprobs;
    answer         **answers;           /* [n_answers] owned                                 */
    token_list       opening;           /* forced where a call is required                   */
    uint64_t         arrived_ns;

    /* Under wake_lock. */
    void           (*wake)(void *ctx);
    void            *wake_ctx;

    /* Under lock. */
    sched_ticket    *next;              /* in the queue                                      */
    bool             queued, ended, released, cancelled;
    int              overtaken;
    bool             waits_for_side;    /* no other slot may be taken for it                 */
    int              uncached;          /* tokens, as far as known; -1: not looked at        */
    event_list       events;
    bool             told_end;          /* the reader had the last event                     */
    event           *current;           /* what sched_next gave last; the reader's           */

    /* Engine thread. */
    event_list       staged;            /* events of this step                               */
    bool             lost_events;       /* no memory for one                                 */
    answer_usage     usage;
    uint64_t         started_ns, prefilled_ns, first_token_ns, last_token_ns;
    int              timed_tokens;
    reuse_match      match;
    bytes            text;              /* the prompt's, while there are checkpoints         */
    kvstore_hit      hit;               /* the checkpoint it stands on                       */
    bool             from_disk;         /* and no token proved it sound yet                  */
    bool             retried;
    int              prompt_end;        /* session length behind the prompt                  */
    int32_t         *prompt_tokens;     /* owned [prompt_end], for further choices           */
    bool             prompt_lost;       /* no memory for them                                */
    answer_token    *echo;              /* owned [prompt.tokens.n], followed by their tops   */

    /* Of the choice in work. */
    int              k, n;              /* its number, of how many                           */
    ds4_sampler     *sampler;           /* owned                                             */
    int              limit;             /* tokens it may have                                */
    int              sampled, reasoned;
    int              calls_ended;
    bool             opened;            /* `opening` was forced                              */
    answer_finish    finish;
    int              calls;             /* of all choices                                    */
    pending_token   *pending;           /* owned                                             */
    int              n_pending, cap_pending;
    size_t           given;             /* bytes given out of pending[0] and on              */
};

/* TAIL: the answer is finished, its last token goes into the session. */
typedef enum { PHASE_IDLE, PHASE_PROMPT, PHASE_ANSWER, PHASE_TAIL } slot_phase;

typedef struct {
    int           index;
    ds4_session  *session;
    int           capacity;
    bool          side;         /* for side requests only; never saved                   */
    reuse_slot    memory;
    slot_phase    phase;
    sched_ticket *job;          /* NULL while IDLE                                       */
    bool          orphan;       /* the prompt is finished for whoever asks again         */
    token_list    feed;         /* tokens that go into the session                       */
    size_t        fed;          /* of them, those that did                               */
    int           marks[SCHED_MARKS];   /* lengths that become rewind points             */
    int           anchor;       /* length that is saved as cold; -1: none                */
    int           rows;         /* in the step at work; 0: not in it                     */
    int           first_row;
    bool          passed;       /* its prompt was offered room in this step              */
} slot;

struct scheduler {
    ds4_engine           *engine;
    const vocab          *v;
    const special_tokens *special;
    int                   n_vocab, chunk;
    sched_options         o;
    ds4_batch            *batch;
    slot                 *slots;        /* [n_slots]                                         */
    int                   n_slots;      /* with the side slot, the last                      */
    slot                 *side;         /* NULL: none                                        */
    int                   capacity;     /* of the largest                                    */
    int                   interval;     /* of continued saves; 0: off                        */
    token_list            closer[2];    /* the end of a block, behind an open line or a whole one */
    const reuse_slot    **memories;     /* scratch of admission, [n_slots] each              */
    reuse_session        *sessions;
    int                  *eligible;
    int                   turns;        /* steps, for taking the oldest prompt now and then  */
    uint64_t              decode_ns;    /* a step without prompts; 0: not known              */
    uint64_t              row_ns;       /* a prompt's row; 0: not known                      */
    uint64_t              sum_ns, sum_rows;     /* of recent prompts' rows                   */

    pthread_t             thread;
    bool                  started;      /* and not joined                                    */
    pthread_mutex_t       lock, wake_lock, status_lock;     /* wake_lock before lock         */
    pthread_cond_t        work;
    sched_ticket         *first, *last; /* the queue                                         */
    int                   waiting;
    sched_ticket         *alone;        /* whose step is at work, if it is one request's     */
    bool                  gives_way;    /* that step is long, and a short request finds a slot */
    bool                  gave_way;     /* and no step was finished since                    */
    bool                  draining;
    uint64_t              deadline_ns;
    bool                  lost;         /* the device; written by the engine thread          */
    ds4_error             lost_why;
    ds4_error             failed_why;   /* of the last request that failed in this step; engine thread */
    int                   retry_s, pause_ms;    /* for clients; before the next attempt      */
    bool                  answered;     /* a request, since the device was opened; engine thread */
    double                mean_seconds; /* of finished requests                              */
    sched_slot_status    *status;       /* [n_slots]                                         */
};

uint64_t   sched_now(const scheduler *s);
void       sched_count_seconds(scheduler *s, double seconds);

/* ---- tickets ------------------------------------------------------------------------------ */

ds4_status ticket_open(sched_ticket **out, scheduler *s, const sched_request *r, ds4_error *err);
void       ticket_free(sched_ticket *t);
bool       ticket_cancelled(sched_ticket *t);
void       ticket_leave_queue(sched_ticket *t);         /* the lock is held */
void       ticket_stage(sched_ticket *t, const sched_event *e);
/* Hands over what was staged and wakes the reader. last: nothing follows, and t may be gone. */
void       ticket_publish(sched_ticket *t, bool last);
/* The token goes with the event that gives out its last byte. */
void       ticket_note_token(sched_ticket *t, answer_section in, int32_t token, float logprob, const ds4_logprob *top,
                             int n);
/* Token `i` of the prompt under the logits before it. */
void       ticket_note_echo(sched_ticket *t, int i, const float *logits);
void       ticket_stage_echo(sched_ticket *t);

/* ---- slots -------------------------------------------------------------------------------- */

ds4_status slot_open(slot *sl, scheduler *s, int index, int capacity, ds4_error *err);
void       slot_close(slot *sl, scheduler *s);
/* Finds what of the session, or of a checkpoint, serves t and plans the rest. */
ds4_status slot_begin(slot *sl, scheduler *s, sched_ticket *t, const reuse_choice *c, ds4_error *err);
/* Once more without the checkpoint that failed. */
ds4_status slot_begin_cold(slot *sl, scheduler *s, sched_ticket *t, ds4_error *err);
void       slot_reset(slot *sl, scheduler *s);
int        slot_rewind(slot *sl, scheduler *s, int want);
void       slot_mark(slot *sl);
int        slot_next_stop(const slot *sl, const scheduler *s);  /* a length that a step must not pass */
/* The next n tokens of feed have entered the session. */
ds4_status slot_fed(slot *sl, scheduler *s, int n, ds4_error *err);
/* The turn is complete and in the session. */
void       slot_remember(slot *sl, scheduler *s, sched_ticket *t, const answer *a);
void       slot_idle(slot *sl, scheduler *s);
/* When more than `worth` tokens are not on disk. */
void       slot_save_whole(slot *sl, scheduler *s, kv_save_reason reason, int worth, bool wait);
reuse_session slot_reuse_session(slot *sl, const scheduler *s);

/* ---- a lost device ------------------------------------------------------------------------ */

/* Ends what runs. From now on device_recover is called until it succeeds. */
void       device_lost(scheduler *s, const ds4_error *why);
void       device_recover(scheduler *s);
/* What who comes meanwhile is told. Engine thread, or with the lock. */
ds4_status device_lost_error(const scheduler *s, ds4_error *out);
/* Ends everything that waits. */
void       queue_refuse(scheduler *s, const ds4_error *why);

/* ---- steps and answers -------------------------------------------------------------------- */

void       step_run(scheduler *s);
/* feed is in the session: the answer begins, or goes on. */
void       answers_advance(scheduler *s, slot *sl);
/* Ends the request: FINISH_CANCELLED, or by length. */
void       answers_end(scheduler *s, slot *sl, answer_finish why);
void       answers_fail(scheduler *s, slot *sl, const ds4_error *why);

#endif
