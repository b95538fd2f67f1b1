/* prepare: a request's bytes become what the engine takes, or a refusal. On a worker's thread.
 *
 * Everything that can be refused for what the client sent is refused here: bad JSON, bad fields, tools
 * that make no sense, prompts that do not fit. Nothing in here waits for the engine. */
#ifndef SERVE_PREPARE_H
#define SERVE_PREPARE_H

#include "api/api.h"
#include "base/bytes.h"
#include "engine/kvstore.h"
#include "engine/reuse.h"
#include "serve/routes.h"
#include "text/replay.h"

/* What all requests of a model share. */
typedef struct {
    const api_config *api;
    replay_memory    *replay;       /* NULL: calls are written anew                    */
    kvstore          *store;        /* remembers calls of earlier runs; NULL: none     */
    int               capacity;     /* tokens of the largest slot                      */
    void            (*trace)(void *ctx, const char *id, const char *what, slice text);
    void             *trace_ctx;
} prepare_context;

typedef struct {
    /* in */
    const prepare_context *context;
    const route *route;
    const char  *id;
    slice        body;
    uint64_t     hints[8];          /* of the headers, strongest first                 */
    int          n_hints;
    /* out */
    bool         refused;
    api_error    error;
    bytes        answer;            /* of what needs no engine: counts, tokens, prompts */
    api_request *request;           /* ROUTE_GENERATE                                   */
    reuse_prompt *prompts;          /* [n_prompts]                                      */
    int          n_prompts;
    slice       *texts;             /* [n_prompts], owned: text of prompts to echo      */
    chat_start   start;
    bool         lowered;           /* effort max became high: the context is too short */
} prepared;

void prepare_init(prepared *p);
void prepare_run(prepared *p);
void prepare_free(prepared *p);

/* A session hint as it is compared: never 0. */
uint64_t prepare_hint(slice value);

#endif
