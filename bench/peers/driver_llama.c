/* bench-llama: llama.cpp's libraries as a driver (driver.h).
 *
 *   bench-llama LIBRARIES MODEL THREADS
 *
 * LIBRARIES is the folder with libllama and libggml inside the npm package that
 * package.json pins. Declarations are this file's own and hold for that version
 * only; the defaults that the library gives are compared with what they must be,
 * so another layout is refused rather than misread.
 *
 * Weights are used in place: mapped, without the buffer types that would repack
 * them into copies. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "../driver.h"
#include "twin.h"

/* ---- what of llama.cpp is called, release v0.5.0 -------------------------- */

typedef struct {
    void       *devices, *tensor_buft_overrides;
    int32_t     n_gpu_layers;
    int32_t     split_mode, load_mode, lazy_mode, main_gpu;
    const void *tensor_split;
    void       *progress, *progress_data;
    const void *overrides;
    bool        vocab_only, check_tensors, use_extra_bufts, no_host, no_alloc, load_mtp;
} model_params;

typedef struct {
    uint32_t n_ctx, n_batch, n_ubatch, n_seq_max, n_rs_seq, n_outputs_max, n_outputs_max_per_seq;
    int32_t  n_threads, n_threads_batch;
    int32_t  ctx_type, rope_scaling_type, pooling_type, attention_type, flash_attn_type;
    float    rope_freq_base, rope_freq_scale, yarn_ext_factor, yarn_attn_factor, yarn_beta_fast, yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    float    defrag_thold;
    void    *eval, *eval_data;
    int32_t  type_k, type_v;
    void    *abort, *abort_data;
    bool     embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified;
    void    *samplers;
    size_t   n_samplers;
    void    *other;
} context_params;

typedef struct {
    int32_t  n_tokens;
    int32_t *token;
    float   *embd;
    int32_t *pos, *n_seq_id, **seq_id;
    int8_t  *logits;
} llama_batch;

enum { LOAD_MAPPED = 1, LAZY_OFF = 0, LOG_ERROR = 4 };

typedef struct {
    void           (*load_backends)(const char *folder);
    void           (*log_set)(void (*log)(int level, const char *text, void *data), void *data);
    model_params   (*model_defaults)(void);
    context_params (*context_defaults)(void);
    void          *(*load_file)(FILE *f, model_params p);
    void          *(*context_new)(void *model, context_params p);
    llama_batch    (*batch_of)(int32_t *token, int32_t n);
    int32_t        (*decode)(void *ctx, llama_batch b);
    float         *(*logits)(void *ctx, int32_t i);
    void          *(*memory)(const void *ctx);
    void           (*memory_clear)(void *memory, bool data);
    const void    *(*vocab)(const void *model);
    int32_t        (*vocab_size)(const void *vocab);
    void           (*context_free)(void *ctx);
    void           (*model_free)(void *model);
    int            (*tensor_alloc)(void *buffer, void *tensor, void *at);
} library;

typedef struct {
    library lib;
    twin   *file;
    void   *model, *prefill, *decode;       /* contexts */
    void   *last;
    char    variant[48];        /* "libggml-cpu-zen4.so" */
} peer;

/* The two functions below replace the libraries' own and are called by them
 * without an argument of ours. */
static peer the_peer;

/* ---- calls of the libraries that are answered here ------------------------ */

/* This program comes before the libraries in the search for symbols. */
void *mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (fd >= 0 && offset == 0 && twin_is(the_peer.file, fd)) {
        void *base = twin_map(the_peer.file, bytes);
        return base ? base : MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, fd, offset);
}

int ggml_backend_tensor_alloc(void *buffer, void *tensor, void *at)
{
    return the_peer.lib.tensor_alloc(buffer, tensor, twin_place(the_peer.file, at));
}

/* ---- the libraries -------------------------------------------------------- */

static bool failed(const char *what, const char *why)
{
    fprintf(stderr, "bench-llama: %s: %s\n", what, why ? why : "failed");
    return false;
}

/* Opens the one file of the folder whose name begins so: names carry a version. */
static void *open_library(const char *folder, const char *begin)
{
    void *handle = NULL;
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && !handle && (e = readdir(dir)); ) {
        char path[4096];
        if (strncmp(e->d_name, begin, strlen(begin))) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (!handle) failed(path, dlerror());
    }
    if (dir) closedir(dir);
    return handle;
}

static bool find(void *handle, const char *name, void *out)
{
    void *f = dlsym(handle, name);
    memcpy(out, &f, sizeof f);
    return f || failed(name, "not in this version of the library");
}

static bool open_libraries(library *l, const char *folder)
{
    void *base = open_library(folder, "libggml-base.");
    void *ggml = base ? open_library(folder, "libggml.") : NULL;
    void *llama = ggml ? open_library(folder, "libllama.") : NULL;
    if (!llama) return failed(folder, "no llama.cpp libraries here");
    return find(base, "ggml_backend_tensor_alloc", &l->tensor_alloc) &&
           find(ggml, "ggml_backend_load_all_from_path", &l->load_backends) &&
           find(llama, "llama_log_set", &l->log_set) &&
           find(llama, "llama_model_default_params", &l->model_defaults) &&
           find(llama, "llama_context_default_params", &l->context_defaults) &&
           find(llama, "llama_model_load_from_file_ptr", &l->load_file) &&
           find(llama, "llama_init_from_model", &l->context_new) &&
           find(llama, "llama_batch_get_one", &l->batch_of) &&
           find(llama, "llama_decode", &l->decode) &&
           find(llama, "llama_get_logits_ith", &l->logits) &&
           find(llama, "llama_get_memory", &l->memory) &&
           find(llama, "llama_memory_clear", &l->memory_clear) &&
           find(llama, "llama_model_get_vocab", &l->vocab) &&
           find(llama, "llama_vocab_n_tokens", &l->vocab_size) &&
           find(llama, "llama_free", &l->context_free) &&
           find(llama, "llama_model_free", &l->model_free);
}

/* Errors, and which of the CPU libraries was taken. */
static void log_line(int level, const char *text, void *data)
{
    (void)data;
    const char *name = strstr(text, "libggml-cpu-");
    if (name && strstr(text, "loaded"))
        snprintf(the_peer.variant, sizeof the_peer.variant, "%.*s", (int)strcspn(name, "\n"), name);
    if (level == LOG_ERROR) fputs(text, stderr);
}

static bool layouts_hold(const model_params *m, const context_params *c)
{
    return m->n_gpu_layers == -1 && m->split_mode == 1 && m->load_mode == -1 && m->lazy_mode == 1 &&
           m->main_gpu == 0 && m->use_extra_bufts && !m->vocab_only && !m->no_alloc &&
           c->n_ctx == 512 && c->n_batch == 2048 && c->n_ubatch == 512 && c->n_seq_max == 1 &&
           c->n_threads == 4 && c->n_threads_batch == 4 && c->flash_attn_type == -1 &&
           c->type_k == 1 && c->type_v == 1 && c->offload_kqv && c->swa_full && !c->other;
}

static void *new_context(const peer *p, context_params params, int threads)
{
    params.n_ctx = DRIVER_CONTEXT;
    params.n_batch = params.n_ubatch = DRIVER_CHUNK;
    params.n_threads = params.n_threads_batch = threads;
    return p->lib.context_new(p->model, params);
}

static bool open_peer(peer *p, const char *folder, const char *model, int threads)
{
    ds4_error err;
    if (!open_libraries(&p->lib, folder)) return false;
    p->lib.log_set(log_line, NULL);
    p->lib.load_backends(folder);
    model_params m = p->lib.model_defaults();
    const context_params c = p->lib.context_defaults();
    if (!layouts_hold(&m, &c)) return failed(folder, "its structs are not those of the pinned version");

    if (twin_open(&p->file, model, &err)) return failed("model", err.message);
    m.n_gpu_layers = 0;
    m.load_mode = LOAD_MAPPED;
    m.lazy_mode = LAZY_OFF;
    m.use_extra_bufts = false;
    if (!(p->model = p->lib.load_file(twin_file(p->file), m))) return failed(model, "llama.cpp does not load it");
    if (!(p->prefill = new_context(p, c, threads)) || !(p->decode = new_context(p, c, threads)))
        return failed(model, "llama.cpp makes no context");
    return true;
}

static void close_peer(peer *p)
{
    if (p->decode) p->lib.context_free(p->decode);
    if (p->prefill) p->lib.context_free(p->prefill);
    if (p->model) p->lib.model_free(p->model);
    twin_close(p->file);
}

/* ---- the driver ----------------------------------------------------------- */

static bool decode_rows(peer *p, void *ctx, const int32_t *token, int n)
{
    int32_t copy[DRIVER_CHUNK];
    memcpy(copy, token, (size_t)n * sizeof *copy);
    p->last = ctx;
    if (p->lib.decode(ctx, p->lib.batch_of(copy, n))) return failed("llama_decode", NULL);
    return p->lib.logits(ctx, -1) || failed("llama_decode", "no logits");
}

static bool feed(void *self, int slot, bool empty, const int32_t *token, int n)
{
    peer *p = self;
    void *ctx = slot < 0 ? p->prefill : p->decode;
    if (empty) p->lib.memory_clear(p->lib.memory(ctx), true);
    return decode_rows(p, ctx, token, n);
}

static bool step(void *self, int first, int n, const int32_t *token)
{
    (void)first, (void)n;
    return decode_rows(self, ((peer *)self)->decode, token, 1);
}

static const float *logits(void *self)
{
    peer *p = self;
    return p->lib.logits(p->last, -1);
}

int main(int argc, char **argv)
{
    const int threads = argc == 4 ? atoi(argv[3]) : 0;
    if (threads < 1) {
        fprintf(stderr, "usage: bench-llama LIBRARIES MODEL THREADS\n");
        return 2;
    }
    peer *p = &the_peer;
    int status = 1;
    if (open_peer(p, argv[1], argv[2], threads)) {
        const int n_vocab = p->lib.vocab_size(p->lib.vocab(p->model));
        const driver d = { "llama.cpp", p->variant, threads, n_vocab, 1, p, feed, step, logits };
        status = driver_run(&d);
    }
    close_peer(p);
    return status;
}
