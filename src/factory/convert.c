#include "factory/convert.h"

#include <stdlib.h>
#include <string.h>

#include "base/pool.h"
#include "base/status.h"
#include "factory/checkpoint.h"
#include "factory/metadata.h"
#include "factory/release_config.h"
#include "factory/row_encoder.h"
#include "factory/token_table.h"
#include "gguf/gguf.h"

typedef struct {
    const convert_options *o;
    release_config  config;
    checkpoint     *weights;
    token_table     tokens;
    recipe          recipe;
    tensor_plan     plan;
    pool           *threads;
    row_encoder     encoder;
    gguf_writer    *writer;
    int             tensor;         /* being written          */
    uint64_t        done;           /* bytes of tensor data   */
} conversion;

convert_options convert_defaults(void)
{
    return (convert_options){ .recipe = "q8_0" };
}

/* ---- before anything is written ---------------------------------------- */

static ds4_status open_source(const conversion *c, const planned_tensor *t, int expert, source *s, ds4_error *err)
{
    char name[TENSOR_NAME_MAX];
    tensor_checkpoint_name(t->def, t->layer, expert, name);
    if (t->def->class == CLASS_TABLE) return source_open_table(s, c->weights, name, t->ne[1], t->ne[0], err);
    return source_open(s, c->weights, name, t->n_dims == 1 ? 1 : 2, t->ne[1], t->ne[0], err);
}

typedef struct {
    const stored_tensor **items;    /* [n] that the model uses */
    size_t                n;
} used_list;

static ds4_status check_sources(const conversion *c, used_list *used, ds4_error *err)
{
    for (int i = 0; i < c->plan.n; i++) {
        const planned_tensor *t = &c->plan.items[i];
        for (int e = 0; e < (int)t->ne[2]; e++) {
            source s;
            const ds4_status st = open_source(c, t, e, &s, err);
            if (st) return st;
            used->items[used->n++] = s.values;
            if (s.scales) used->items[used->n++] = s.scales;
        }
    }
    return DS4_OK;
}

static int by_name(const void *a, const void *b)
{
    const stored_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Tells what of the checkpoint is left behind. Both lists are sorted by name. */
static void note_unused(const conversion *c, used_list *used)
{
    const stored_tensor *t, *example = NULL;
    size_t at = 0, drafter = 0, strangers = 0;
    qsort(used->items, used->n, sizeof *used->items, by_name);
    for (int i = 0; (t = checkpoint_at(c->weights, i)); i++) {
        while (at < used->n && strcmp(used->items[at]->name, t->name) < 0) at++;
        if (at < used->n && used->items[at] == t) continue;
        if (!strncmp(t->name, "mtp.", 4)) drafter++;
        else if (!strangers++) example = t;
    }
    if (drafter)
        log_line(&c->o->log, LOG_INFO, "mtp.*: %zu tensors of the drafter are not converted", drafter);
    if (strangers)
        log_line(&c->o->log, LOG_WARNING, "%zu tensors of the checkpoint are not part of the model, such as %s",
                 strangers, example->name);
}

static ds4_status check_checkpoint(const conversion *c, ds4_error *err)
{
    size_t most = 0;
    for (int i = 0; i < c->plan.n; i++) most += 2 * (size_t)c->plan.items[i].ne[2];
    used_list used = { malloc((most + 1) * sizeof *used.items), 0 };
    if (!used.items) return ds4_fail(err, DS4_EMEMORY, "no memory for the list of tensors");
    const ds4_status st = check_sources(c, &used, err);
    if (!st) note_unused(c, &used);
    free(used.items);
    return st;
}

/* ---- writing ----------------------------------------------------------- */

static ds4_status write_block(void *ctx, const void *data, size_t n, ds4_error *err)
{
    conversion *c = ctx;
    const ds4_status st = gguf_writer_data(c->writer, c->tensor, data, n, err);
    if (st) return st;
    c->done += n;
    if (c->o->progress && !c->o->progress(c->o->progress_ctx, c->plan.items[c->tensor].name, c->done, c->plan.data_bytes))
        return ds4_fail(err, DS4_ECANCELLED, "%s: cancelled", c->o->out);
    return DS4_OK;
}

static ds4_status write_tensor(conversion *c, const planned_tensor *t, ds4_error *err)
{
    for (int e = 0; e < (int)t->ne[2]; e++) {
        source s;
        ds4_status st = open_source(c, t, e, &s, err);
        if (st) return st;
        st = t->def->class == CLASS_TABLE
                 ? row_encoder_table(&c->encoder, &s, c->config.shape.n_expert, write_block, c, err)
                 : row_encoder_matrix(&c->encoder, &s, t->type, write_block, c, err);
        if (st) return st;
    }
    return DS4_OK;
}

static ds4_status write_file(conversion *c, ds4_error *err)
{
    const file_metadata m = { &c->config.shape, &c->recipe, &c->tokens, c->config.name,
                              c->config.temperature, c->config.top_p };
    ds4_status st = gguf_writer_open(&c->writer, c->o->out, c->o->overwrite, err);
    if (st) return st;
    metadata_put(c->writer, &m);
    metadata_put_tensors(c->writer, &c->plan);
    if ((st = gguf_writer_begin_data(c->writer, err))) return st;

    for (c->tensor = 0; c->tensor < c->plan.n; c->tensor++)
        if ((st = write_tensor(c, &c->plan.items[c->tensor], err))) return st;
    st = gguf_writer_commit(c->writer, err);
    c->writer = NULL;
    return st;
}

static void finish(conversion *c)
{
    gguf_writer_abort(c->writer);
    row_encoder_free(&c->encoder);
    pool_close(c->threads);
    tensor_plan_free(&c->plan);
    token_table_free(&c->tokens);
    checkpoint_close(c->weights);
}

static ds4_status run(conversion *c, ds4_error *err)
{
    const convert_options *o = c->o;
    ds4_status st;
    if ((st = recipe_make(&c->recipe, o->recipe, o->layout, err))) return st;
    if ((st = release_config_read(&c->config, o->dir, &o->log, err))) return st;
    if ((st = token_table_read(&c->tokens, o->dir, c->config.shape.n_vocab, c->config.bos, c->config.eos, err)))
        return st;
    if ((st = tensor_plan_make(&c->plan, &c->config.shape, &c->recipe, false, &o->log, err))) return st;
    if ((st = checkpoint_open(&c->weights, o->dir, err))) return st;
    if ((st = check_checkpoint(c, err))) return st;

    if ((st = pool_open(&c->threads, o->n_threads > 0 ? o->n_threads : pool_default_threads(), err))) return st;
    row_encoder_init(&c->encoder, c->threads);
    return write_file(c, err);
}

ds4_status convert_run(const convert_options *o, ds4_error *err)
{
    conversion c = { .o = o };
    const ds4_status st = run(&c, err);
    finish(&c);
    return st;
}
