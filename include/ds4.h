/* ds4: DeepSeek V4 inference, the public interface.
 *
 *   engine   loaded weights and one backend
 *   session  one timeline of tokens and its KV state
 *   batch    rows that the next step computes, from one or many sessions
 *   step     one forward pass over a batch
 *   sampler  logits in, token out; owns its random stream
 *
 * Threads: one thread at a time may use an engine and everything opened from
 * it (the engine thread); functions marked "any thread" may be called besides.
 * Two engines know nothing of each other.
 *
 * The library never exits, prints or reads the environment. What fails returns
 * a status and, where `err` is not NULL, a sentence for a person. */
#ifndef DS4_H
#define DS4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "ds4_status.h"

typedef struct ds4_engine  ds4_engine;
typedef struct ds4_session ds4_session;
typedef struct ds4_batch   ds4_batch;
typedef struct ds4_sampler ds4_sampler;
typedef int32_t ds4_token;

/* ---- engine ------------------------------------------------------------ */

/* PACKED keeps the rounded rows as codes, about half a byte (indexer) or nine bits
 * (attention) a number; F32 keeps floats. */
typedef enum { DS4_KV_PACKED, DS4_KV_F32 } ds4_kv_type;

typedef struct {
    const char *model_path;
    const char *backend;         /* "auto" "cpu" "cuda", also as "check:cpu" "trace:" "time:"  */
    int         device;          /* which one of several GPUs, from 0                          */
    int         n_threads;       /* 0: one per physical core this process may use              */
    int         max_sessions;    /* live at the same time                                      */
    int         max_tokens;      /* longest session; KV is planned for max_sessions of them    */
    int         other_tokens;    /* of all sessions but one, where they are shorter; 0: as long */
    int         side_tokens;     /* one session more, of this length: for what is asked beside
                                    conversations that should not make room for it; 0: none    */
    int         max_batch_rows;  /* most rows of one step: the prefill chunk; 0: up to 4096, as
                                    memory allows                                              */
    int         rewind_points;   /* most that a session keeps (ds4_session_mark); 0: none      */
    ds4_kv_type kv_type;         /* how attention rows are stored                              */
    bool        no_rounding;     /* leave out the trained FP8/FP4 roundings (docs/model.md);
                                    KV rows are then F32 whatever kv_type says                 */
    bool        exact;           /* float activations instead of 8-bit ones in matrix products */
    bool        warm_weights;    /* read every weight page before ds4_engine_open returns      */
    bool        huge_pages;      /* copy the weights into huge pages of this process           */
    uint32_t    isa_mask;        /* instruction sets the kernels may use; ~0: all that exist   */
    uint64_t    memory_limit;    /* bytes the plan may not pass; 0: what the system has free   */
    /* Bytes for routed experts. They are then read from the file into a cache of this size
     * as steps need them, and all other weights are copied to memory. 0: the whole file is
     * mapped when it fits the limit, else the cache takes what the rest leaves. */
    uint64_t    expert_cache;
    /* Called on the opening thread; false cancels (DS4_ECANCELLED). */
    bool      (*progress)(void *ctx, const char *phase, uint64_t done, uint64_t total);
    void       *progress_ctx;
    /* Asked between the layers of every step; true ends the step with DS4_ECANCELLED
     * and leaves every session where it stood. Engine thread. */
    bool      (*interrupted)(void *ctx);
    void       *interrupted_ctx;
    void      (*log)(void *ctx, int level, const char *line);     /* level: 0 error .. 3 debug */
    void       *log_ctx;
    /* trace: backends send one line per op here (name, layer, shapes, hash of the result). */
    void      (*trace)(void *ctx, const char *line);
    void       *trace_ctx;
} ds4_engine_options;

/* "auto" (a GPU where there is one and the model fits it), 1 session of 32768 tokens, chunks of 512 rows,
 * 8 rewind points, packed KV, all instruction sets. */
ds4_engine_options ds4_engine_defaults(void);

/* What an engine opened with these options will need; reads only the header. */
typedef struct {
    uint64_t weight_bytes;       /* mapped from the file, each shared byte once           */
    uint64_t file_bytes;
    uint64_t kv_bytes;           /* attention memory of all sessions at full length, with
                                    their rewind points                                   */
    uint64_t scratch_bytes;      /* activations of one step                               */
    uint64_t table_bytes;        /* vocabulary, rope and other tables                     */
    uint64_t dense_bytes;        /* of the weights all but routed experts                 */
    uint64_t expert_cache_bytes; /* for routed experts that do not stay; 0: all are mapped*/
    uint64_t total_bytes;        /* of host memory: sum of weights (or dense weights and
                                    expert cache), KV, scratch and tables                 */
    uint64_t available_bytes;    /* memory this process may use, as the system tells      */
    int      max_tokens_that_fit;/* longest session with everything else unchanged        */
    ds4_error no_room;           /* what opening says of the plan where it does not fit; status DS4_OK: it does */
    /* A backend whose device has memory of its own; device[0] 0: none. weight_bytes are then
     * those of the file; kv_bytes and scratch_bytes are what lies there. */
    char     device[96];         /* "NVIDIA H200"                                         */
    bool     device_unified;     /* its memory is the host's                              */
    uint64_t device_total_bytes, device_available_bytes;
    uint64_t device_bytes;       /* of the plan: weights, KV, scratch                     */
    uint64_t device_expert_bytes;/* routed experts among them                             */
    uint64_t host_expert_bytes;  /* routed experts that stay in host memory; 0: none      */
    uint64_t bus_token_bytes;    /* of these a token reads on average                     */
    char     why_cpu[352];       /* "auto" took the CPU: a sentence that says why; else "" */
} ds4_plan;
ds4_status ds4_engine_plan(const ds4_engine_options *o, ds4_plan *out, ds4_error *err);

/* DS4_ENOTFOUND: no such file; DS4_EFORMAT: not a usable model; DS4_EMEMORY:
 * the plan exceeds the limit (the sentence names the largest context that fits). */
ds4_status ds4_engine_open(ds4_engine **out, const ds4_engine_options *o, ds4_error *err);
void       ds4_engine_close(ds4_engine *e);              /* close its sessions first; NULL is fine */

/* A step that fails with DS4_EDEVICE may have lost a device: then nothing works until the engine is open again, and
 * what all sessions held there is gone. Close them, reopen, open new ones; weights are uploaded anew from the file.
 * When reopening fails it may be tried again, as often as wanted. DS4_EARG: sessions are open. */
bool       ds4_engine_lost(const ds4_engine *e);         /* engine thread */
ds4_status ds4_engine_reopen(ds4_engine *e, ds4_error *err);

typedef struct {
    int   n_layer, n_embd, n_head, head_dim, n_expert, n_expert_used, n_vocab, n_swa;
    int   n_ctx_train;           /* longest context the model was made for                */
    int   max_tokens, max_batch_rows;
    int   side_tokens;           /* of one session more; 0: none                          */
    char  name[64];              /* general.name, or the file's name                      */
    char  backend[64];           /* "cpu (avx512, 2 threads)"                             */
    char  why_cpu[352];          /* as in ds4_plan                                        */
    int   expert_bits;           /* rounded bits per weight of the routed experts         */
    int   effort_profile;        /* which prefixes it was trained with (effort_profile of
                                    src/text/chat.h)                                      */
    float default_temperature;   /* general.sampling.*, or NAN where the file has none    */
    float default_top_p;
} ds4_shape;
void ds4_engine_shape(const ds4_engine *e, ds4_shape *out);            /* any thread */

/* Routed experts that are read from the file as steps need them. */
typedef struct {
    uint64_t slots, experts;     /* cached at once; of the model. Both 0: all are mapped  */
    uint64_t hits, misses;       /* experts that a layer of a step wanted: kept from an
                                    earlier use, or read for this one                     */
    uint64_t bytes_read;
    uint64_t ahead, ahead_used;  /* read on a guess; of those, wanted later               */
    uint64_t wait_ns;            /* steps stood still for reads                           */
    uint64_t busy_ns;            /* at least one read was under way                       */
} ds4_expert_metrics;

/* Routed experts of which some stay in host memory while a card computes, by what decode steps read; 0: all
 * lie on the card. They begin anew with the device (ds4_engine_reopen). */
typedef struct {
    uint64_t hits, misses;       /* read on the card, and over the bus                    */
    uint64_t bus_bytes;          /* read over the bus                                     */
    uint64_t exchanges;          /* experts that changed places with others               */
} ds4_card_expert_metrics;

typedef struct {
    uint64_t prefill_tokens, decode_tokens, steps;
    uint64_t prefill_ns, decode_ns;
    uint64_t kv_bytes_used;
    int      sessions;
    ds4_expert_metrics experts;
    ds4_card_expert_metrics card_experts;
} ds4_metrics;
void ds4_engine_metrics(const ds4_engine *e, ds4_metrics *out);        /* any thread */

/* The engine's vocabulary (src/text/vocab.h), immutable; any thread. */
struct vocab;
const struct vocab *ds4_engine_vocab(const ds4_engine *e);

/* UTF-8 text to tokens, control tokens recognised only when parse_control.
 * More than cap tokens is DS4_EFULL with *n_out the number needed. Any thread. */
ds4_status ds4_tokenize(const ds4_engine *e, const char *utf8, size_t n, bool parse_control,
                        ds4_token *out, size_t cap, size_t *n_out, ds4_error *err);

/* ---- session ----------------------------------------------------------- */

ds4_status ds4_session_open(ds4_session **out, ds4_engine *e, int max_tokens, ds4_error *err);
void       ds4_session_close(ds4_session *s);
void       ds4_session_reset(ds4_session *s);                 /* back to length 0 */
int        ds4_session_length(const ds4_session *s);
int        ds4_session_capacity(const ds4_session *s);
const ds4_token *ds4_session_tokens(const ds4_session *s);    /* [length], until the next step */
uint64_t   ds4_session_kv_bytes(const ds4_session *s);

/* Logits for the token after the last one, [n_vocab]; NULL when the last step
 * did not ask for them, or when the device they lie on fails. Good until the next call
 * that changes the session. To choose a token ds4_session_sample asks less of a device. */
const float *ds4_session_logits(const ds4_session *s);

/* Compressor state is lossy, so a timeline goes back only to a kept point.
 * mark keeps the present position (with logits if there are any); when the engine's
 * number of points is reached, it gives up the one closest to its neighbours, but
 * never the newest three. rewind goes
 * to the largest kept point that is <= want, or to 0, drops the points beyond
 * it and returns the new length; the caller computes the rest again. */
ds4_status ds4_session_mark(ds4_session *s, ds4_error *err);
int        ds4_session_rewind(ds4_session *s, int want);
int        ds4_session_rewind_point(const ds4_session *s, int want);  /* where rewind would go */
/* Whether a rewind to exactly this length would bring logits back. */
bool       ds4_session_has_logits(const ds4_session *s, int length);
/* The point at this length is not given up for others; one at a time, 0: none. */
void       ds4_session_pin(ds4_session *s, int length);

/* The KVC checkpoint of docs/formats.md, whole. Load replaces the session's
 * content; on failure the session is left empty. reason: 0..6 of that page. */
ds4_status ds4_session_save(const ds4_session *s, int fd, int reason, ds4_error *err);
ds4_status ds4_session_load(ds4_session *s, int fd, ds4_error *err);

/* ---- batch and step ---------------------------------------------------- */

typedef enum {
    DS4_LOGITS_NONE,             /* only fill the KV                                      */
    DS4_LOGITS_LAST,             /* for the last of the added tokens                      */
    DS4_LOGITS_ALL               /* for each of them                                      */
} ds4_logits;

ds4_status ds4_batch_new(ds4_batch **out, ds4_engine *e, ds4_error *err);
void       ds4_batch_free(ds4_batch *b);
void       ds4_batch_clear(ds4_batch *b);

/* Appends n tokens to the rows of the next step. A session may be added once.
 * DS4_EARG: token out of range, session twice; DS4_EFULL: rows or context. */
ds4_status ds4_batch_add(ds4_batch *b, ds4_session *s, const ds4_token *t, int n,
                         ds4_logits logits, ds4_error *err);
int        ds4_batch_rows(const ds4_batch *b);

/* All or nothing: after a failure every session stands where it stood. */
ds4_status ds4_engine_step(ds4_engine *e, ds4_batch *b, ds4_error *err);

/* Logits of row i of the batch (rows count from 0 in order of adding), [n_vocab];
 * NULL where none were asked for. Good until the next step or clear. */
const float *ds4_batch_logits(const ds4_batch *b, int i);

/* Feeds n tokens to one session in chunks of the engine's max_batch_rows and
 * leaves the last one's logits in ds4_session_logits. on_chunk (may be NULL) is
 * told the tokens done; false stops between chunks with DS4_ECANCELLED. */
ds4_status ds4_session_feed(ds4_session *s, const ds4_token *t, int n,
                            bool (*on_chunk)(void *ctx, int done, int total), void *ctx,
                            ds4_error *err);

/* ---- sampling ---------------------------------------------------------- */

typedef struct {
    ds4_token token;
    float     bias;
} ds4_logit_bias;

/* Order: mask and bias, penalties, temperature, top_k, top_p, min_p, draw. */
typedef struct {
    float    temperature;        /* 0: greedy (also top_k == 1): no truncation, no draw   */
    int      top_k;              /* 0: off                                                */
    float    top_p;              /* 1: off; on the softmax after temperature              */
    float    min_p;              /* relative to the best; 0: off                          */
    float    repetition_penalty; /* 1: off                                                */
    float    frequency_penalty, presence_penalty;   /* 0: off                             */
    uint64_t seed;
    const ds4_logit_bias *bias;  /* borrowed; n_bias entries                              */
    int      n_bias;
    /* Tokens the next answer byte may come from: word i bit b allows token 32*i+b.
     * NULL: all. The seam where constrained decoding enters. */
    const uint32_t *(*mask)(void *ctx);
    void    *mask_ctx;
} ds4_sampling;

ds4_sampling ds4_sampling_defaults(void);   /* temperature 1, top_p 1, min_p 0.05, top_k off */

ds4_status ds4_sampler_new(ds4_sampler **out, const ds4_sampling *params, int n_vocab, ds4_error *err);
void       ds4_sampler_free(ds4_sampler *s);
/* Chooses; the caller's logits are not changed. Ties go to the lowest id. -1 when
 * no token is allowed or every logit is NaN. One draw of the stream per sampled
 * (not greedy) token. */
ds4_token  ds4_sample(ds4_sampler *s, const float *logits);
/* The likeliest allowed token, without penalties and without a draw: for markup, which penalties would bend. */
ds4_token  ds4_sample_best(ds4_sampler *s, const float *logits);
/* The largest logits of a row, largest first and equal ones by id, none of them NaN. */
typedef struct {
    const ds4_token *token;      /* [n]                                                   */
    const float     *logit;      /* [n]                                                   */
    int              n;
    float            sum;        /* of exp(logit - logit[0]) over the whole row, within
                                    one part in 10,000                                    */
} ds4_top_logits;
/* As ds4_sample (best: ds4_sample_best) with the whole row, where its largest logits decide: the same token, the
 * same use of the stream. False: they do not, nothing has happened, and the row has to be asked. */
bool       ds4_sample_top(ds4_sampler *s, const ds4_top_logits *top, bool best, ds4_token *out);
/* What ds4_sample, or ds4_sample_best, chooses with the session's logits. Where they lie on a device, the row only
 * comes to the host when its largest do not decide. DS4_EARG: the session has no logits. */
ds4_status ds4_session_sample(ds4_session *s, ds4_sampler *sampler, bool best, ds4_token *out, ds4_error *err);
/* Natural logs of probabilities after mask, bias and penalties, before temperature and truncation: of `chosen`, and
 * of the n likeliest (at most n; returns how many). Call before ds4_sampler_accept(chosen). */
typedef struct {
    ds4_token token;
    float     logprob;
} ds4_logprob;
int        ds4_sampler_logprobs(ds4_sampler *s, const float *logits, ds4_token chosen, float *self, ds4_logprob *top,
                                int n);
/* Tells the sampler that a token entered the timeline (for penalties). */
void       ds4_sampler_accept(ds4_sampler *s, ds4_token t);

#endif
