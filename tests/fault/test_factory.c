/* Making model files without memory: an error with a sentence, no file, no leak. */
#include <stdlib.h>
#include <unistd.h>

#include "factory/convert.h"
#include "factory/synth.h"
#include "fault/alloc.h"
#include "runner.h"
#include "unit/make_checkpoint.h"

typedef struct {
    const char *dir, *out;
} paths;

static ds4_status convert(void *ctx, ds4_error *err)
{
    const paths *p = ctx;
    convert_options o = convert_defaults();
    o.dir = p->dir;
    o.out = p->out;
    o.recipe = "q2";            /* its encoders need importance: all buffers are used */
    o.overwrite = true;
    o.n_threads = 2;
    const ds4_status st = convert_run(&o, err);
    EXPECT((access(p->out, F_OK) == 0) == (st == DS4_OK));
    unlink(p->out);
    return st;
}

TEST(a_conversion_without_memory)
{
    static made_checkpoint m;
    paths p = { test_scratch("model"), test_scratch("out.gguf") };
    model_shape shape = made_shape();
    shape.n_layer = 1;
    made_init_as(&m, &shape);
    made_write(&m, p.dir);
    made_free(&m);
    fault_each(convert, &p);
}

static ds4_status synthesise(void *ctx, ds4_error *err)
{
    const paths *p = ctx;
    synth_options o = synth_defaults();
    o.mix = "q4_0";             /* made from a stock of encoded blocks */
    o.out = p->out;
    o.overwrite = true;
    o.n_threads = 2;
    o.shape.n_vocab = 272;
    o.shape.n_layer = 1;
    o.shape.n_hash = 1;
    o.shape.n_expert = 2;
    shape_default_ratios(&o.shape);
    const ds4_status st = synth_run(&o, err);
    EXPECT((access(p->out, F_OK) == 0) == (st == DS4_OK));
    unlink(p->out);
    return st;
}

TEST(a_synthesis_without_memory)
{
    paths p = { NULL, test_scratch("synth.gguf") };
    fault_each(synthesise, &p);
}
