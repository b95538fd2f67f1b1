/* engines: what tests of whole engines begin with. What does not open fails the test. */
#ifndef TESTS_TINY_ENGINES_H
#define TESTS_TINY_ENGINES_H

#include "base/random.h"
#include "ds4.h"
#include "tiny/model.h"

static inline ds4_engine *open_engine(const ds4_engine_options *o)
{
    ds4_engine *e = NULL;
    ds4_error err;
    EXPECT_OK(ds4_engine_open(&e, o, &err), err);
    return e;
}

static inline ds4_session *open_session(ds4_engine *e, int context)
{
    ds4_session *s = NULL;
    ds4_error err;
    EXPECT_OK(ds4_session_open(&s, e, context, &err), err);
    return s;
}

static inline int vocabulary(const ds4_engine *e)
{
    ds4_shape s;
    ds4_engine_shape(e, &s);
    return s.n_vocab;
}

/* Tokens that any vocabulary has, different for each stream. */
static inline void random_prompt(ds4_token *t, int n, int V, uint64_t stream)
{
    random_stream r;
    random_seed(&r, 1000 + stream);
    for (int i = 0; i < n; i++) t[i] = (ds4_token)random_below(&r, (uint64_t)V);
}

#endif
