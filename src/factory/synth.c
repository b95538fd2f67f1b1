#include "factory/synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/pool.h"
#include "base/random.h"
#include "base/status.h"
#include "factory/metadata.h"
#include "factory/synth_blocks.h"
#include "factory/token_table.h"
#include "gguf/gguf.h"

/* A chunk has its own random stream; a multiple of every block length. */
#define CHUNK_VALUES (256 * 1024)
#define CHUNKS_AT_ONCE 64

synth_options synth_defaults(void)
{
    synth_options o = { .mix = "q8_0", .seed = 1, .branch_gain = 1, .name = "synthetic" };
    shape_preset(&o.shape, "tiny");
    return o;
}

ds4_status synth_plan(tensor_plan *p, const synth_options *o, ds4_error *err)
{
    recipe r;
    ds4_status st;
    *p = (tensor_plan){ 0 };
    if ((st = recipe_make(&r, o->mix, o->layout, err))) return st;
    if ((st = shape_check(&o->shape, err))) return st;
    return tensor_plan_make(p, &o->shape, &r, o->alias_layers, &o->log, err);
}

typedef struct {
    const synth_options *o;
    recipe       recipe;
    tensor_plan  plan;
    token_table  tokens;
    pool        *threads;
    gguf_writer *writer;
    uint8_t     *buffer;            /* CHUNKS_AT_ONCE chunks of F32 */
    uint64_t     done;              /* bytes of tensor data         */
} synthesis;

/* ---- one tensor -------------------------------------------------------- */

typedef struct {
    const planned_tensor *t;
    block_maker maker;
    uint64_t    seed;
    uint64_t    n_values;
    uint64_t    first_chunk;        /* of this round                         */
    uint64_t    chunk_bytes;        /* of a full chunk                       */
    int         block_len;
    int         n_expert;
    uint8_t    *buffer;
} tensor_job;

/* A tensor is the same whatever else is in the file. */
static uint64_t name_hash(const char *name) { return hash_bytes(HASH_BEGIN, name, strlen(name)); }

/* n_used different experts for each token. */
static void fill_expert_ids(const tensor_job *j, int32_t *dst, uint64_t n_values, random_stream *r)
{
    const int used = (int)j->t->ne[0];
    for (uint64_t row = 0; row < n_values / (uint64_t)used; row++, dst += used) {
        for (int i = 0; i < used; i++) {
            int same = 0;
            dst[i] = (int32_t)random_below(r, (uint64_t)j->n_expert);
            while (same < i && dst[same] != dst[i]) same++;
            if (same < i) i--;
        }
    }
}

static uint64_t values_of(const tensor_job *j, uint64_t chunk)
{
    const uint64_t size = j->chunk_bytes / (uint64_t)j->maker.block_bytes * (uint64_t)j->block_len;
    const uint64_t left = j->n_values - chunk * size;
    return left < size ? left : size;
}

static void fill_chunk(void *ctx, int index, int thread)
{
    const tensor_job *j = ctx;
    const uint64_t chunk = j->first_chunk + (uint64_t)index;
    const uint64_t n = values_of(j, chunk);
    uint8_t *dst = j->buffer + (uint64_t)index * j->chunk_bytes;
    random_stream r;
    (void)thread;
    random_seed(&r, j->seed + chunk * 0xd1342543de82ef95u);
    if (j->t->def->look == LOOK_EXPERT_IDS) fill_expert_ids(j, (int32_t *)dst, n, &r);
    else block_maker_fill(&j->maker, dst, n / (uint64_t)j->block_len, &r);
}

static ds4_status start_job(tensor_job *j, const synthesis *s, const planned_tensor *t, ds4_error *err)
{
    const float matrix = (float)(1 / sqrt((double)t->ne[0]));
    float mean = 0, deviation = 0;
    switch (t->def->look) {
    case LOOK_MATRIX:     deviation = matrix;                      break;
    case LOOK_BRANCH:     deviation = matrix * s->o->branch_gain;  break;
    case LOOK_EMBEDDING:  deviation = 1;                           break;
    case LOOK_GAIN:       mean = 1; deviation = 0.1f;              break;
    case LOOK_OFFSET:     deviation = 0.5f;                        break;
    case LOOK_BIAS:       deviation = 0.3f;                        break;
    case LOOK_EXPERT_IDS: break;
    }
    *j = (tensor_job){ .t = t, .n_values = t->ne[0] * t->ne[1] * t->ne[2], .buffer = s->buffer,
                       .n_expert = s->o->shape.n_expert };
    j->seed      = s->o->seed * 0x9e3779b97f4a7c15u ^ name_hash(t->name);
    j->block_len = quant_get(t->type)->block_len;

    /* Rows of a table are whole in a chunk; blocks are by its size. */
    uint64_t values = CHUNK_VALUES;
    if (t->def->look == LOOK_EXPERT_IDS) values -= values % t->ne[0];
    j->chunk_bytes = values / (uint64_t)j->block_len * (uint64_t)quant_get(t->type)->block_bytes;
    if (t->def->look != LOOK_EXPERT_IDS) return block_maker_init(&j->maker, t->type, mean, deviation, j->seed, err);
    j->maker.block_bytes = sizeof(int32_t);
    return DS4_OK;
}

static ds4_status write_chunks(synthesis *s, tensor_job *j, int number, ds4_error *err)
{
    const uint64_t chunk_values = j->chunk_bytes / (uint64_t)j->maker.block_bytes * (uint64_t)j->block_len;
    const uint64_t n_chunks = (j->n_values + chunk_values - 1) / chunk_values;
    for (j->first_chunk = 0; j->first_chunk < n_chunks; j->first_chunk += CHUNKS_AT_ONCE) {
        const uint64_t left = n_chunks - j->first_chunk;
        const int n = left < CHUNKS_AT_ONCE ? (int)left : CHUNKS_AT_ONCE;
        const uint64_t at = j->first_chunk * j->chunk_bytes, most = (uint64_t)n * j->chunk_bytes;
        const uint64_t bytes = j->t->bytes - at < most ? j->t->bytes - at : most;

        pool_run(s->threads, fill_chunk, j, n);
        const ds4_status st = gguf_writer_data(s->writer, number, s->buffer, (size_t)bytes, err);
        if (st) return st;
        s->done += bytes;
        if (s->o->progress && !s->o->progress(s->o->progress_ctx, j->t->name, s->done, s->plan.data_bytes))
            return ds4_fail(err, DS4_ECANCELLED, "%s: cancelled", s->o->out);
    }
    return DS4_OK;
}

static ds4_status write_tensor(synthesis *s, int number, ds4_error *err)
{
    tensor_job j;
    const planned_tensor *t = &s->plan.items[number];
    if (t->alias_of >= 0) return DS4_OK;
    ds4_status st = start_job(&j, s, t, err);
    if (!st) st = write_chunks(s, &j, number, err);
    block_maker_free(&j.maker);
    return st;
}

/* ---- the file ---------------------------------------------------------- */

static ds4_status write_file(synthesis *s, ds4_error *err)
{
    const file_metadata m = { &s->o->shape, &s->recipe, &s->tokens, s->o->name, NAN, NAN };
    ds4_status st = gguf_writer_open(&s->writer, s->o->out, s->o->overwrite, err);
    if (st) return st;
    metadata_put(s->writer, &m);
    metadata_put_tensors(s->writer, &s->plan);
    if ((st = gguf_writer_begin_data(s->writer, err))) return st;

    for (int i = 0; i < s->plan.n; i++)
        if ((st = write_tensor(s, i, err))) return st;
    st = gguf_writer_commit(s->writer, err);
    s->writer = NULL;
    return st;
}

static ds4_status run(synthesis *s, ds4_error *err)
{
    const synth_options *o = s->o;
    ds4_status st;
    if (!(o->branch_gain >= 0) || o->branch_gain > 100)
        return ds4_fail(err, DS4_EARG, "a branch gain of %g is not between 0 and 100", (double)o->branch_gain);
    if ((st = recipe_make(&s->recipe, o->mix, o->layout, err))) return st;
    if ((st = synth_plan(&s->plan, o, err))) return st;
    if ((st = token_table_synth(&s->tokens, o->shape.n_vocab, err))) return st;
    if ((st = pool_open(&s->threads, o->n_threads > 0 ? o->n_threads : pool_default_threads(), err))) return st;
    s->buffer = malloc(CHUNKS_AT_ONCE * (size_t)CHUNK_VALUES * sizeof(float));
    if (!s->buffer) return ds4_fail(err, DS4_EMEMORY, "no memory for the synthesiser");
    return write_file(s, err);
}

ds4_status synth_run(const synth_options *o, ds4_error *err)
{
    synthesis s = { .o = o };
    const ds4_status st = run(&s, err);
    gguf_writer_abort(s.writer);
    free(s.buffer);
    pool_close(s.threads);
    token_table_free(&s.tokens);
    tensor_plan_free(&s.plan);
    return st;
}
