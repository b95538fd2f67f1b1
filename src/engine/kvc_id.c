/* kvc_id: telling which engines may read each other's rows.
 *
 * A digest of every key and tensor description of the model file, of a sample from the
 * middle of each tensor (weights that differ at all differ nearly everywhere; reading them
 * whole would take minutes), and of the options that change what a row holds. */
#include "engine/kvc.h"

#include <openssl/evp.h>
#include <string.h>

#include "base/checked.h"
#include "base/status.h"
#include "engine/engine.h"

#define SAMPLE_BYTES 256u

typedef struct {
    EVP_MD_CTX *md;
    bool        failed;
} digest;

static void add(digest *d, const void *data, size_t n)
{
    if (n > 0 && EVP_DigestUpdate(d->md, data, n) != 1) d->failed = true;
}

static void add_number(digest *d, uint64_t v) { add(d, &v, sizeof v); }

static void add_keys(digest *d, const gguf *g)
{
    for (int i = 0; i < gguf_n_values(g); i++) {
        const gguf_value *v = gguf_value_at(g, i);
        add_number(d, v->key.len);
        add(d, v->key.data, v->key.len);
        add_number(d, (uint64_t)v->kind);
        add_number(d, v->bytes);
        add(d, v->data, (size_t)v->bytes);
    }
}

static void add_tensors(digest *d, const gguf *g)
{
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        add(d, t->name, strlen(t->name) + 1);
        add_number(d, (uint64_t)t->type);
        for (int k = 0; k < 4; k++) add_number(d, t->ne[k]);
        const uint64_t n = min_u64(t->bytes, SAMPLE_BYTES);
        add(d, t->data + (t->bytes - n) / 2, (size_t)n);
    }
}

ds4_status kvc_engine_id(const ds4_engine *e, uint8_t out[KVC_ID_BYTES], ds4_error *err)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    digest d = { .md = EVP_MD_CTX_new() };
    d.failed = !d.md || EVP_DigestInit_ex(d.md, EVP_sha256(), NULL) != 1;
    if (!d.failed) {
        const char rows[] = { 1, e->o.no_rounding, e->o.exact, e->o.kv_type == DS4_KV_PACKED && !e->o.no_rounding };
        add(&d, rows, sizeof rows);                 /* the first: version of this recipe */
        add_keys(&d, e->file);
        add_tensors(&d, e->file);
        d.failed = d.failed || EVP_DigestFinal_ex(d.md, sum, NULL) != 1;
    }
    EVP_MD_CTX_free(d.md);
    if (d.failed) return ds4_fail(err, DS4_EMEMORY, "the model's identity can not be computed");
    memcpy(out, sum, KVC_ID_BYTES);
    return DS4_OK;
}
