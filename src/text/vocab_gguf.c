/* The tokenizer keys of a model file, checked and handed to vocab_from_arrays. */
#include <stdlib.h>

#include "base/status.h"
#include "text/vocab.h"

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES  "tokenizer.ggml.token_type"
#define MERGES "tokenizer.ggml.merges"

/* A model file without one of its keys is broken, not absent. */
static ds4_status needed(ds4_status st)
{
    return st == DS4_ENOTFOUND ? DS4_EFORMAT : st;
}

static ds4_status check_kind(const gguf *g, ds4_error *err)
{
    slice model, pre;
    ds4_status st;
    if ((st = gguf_get_string(g, "tokenizer.ggml.model", &model, err))) return needed(st);
    if ((st = gguf_get_string(g, "tokenizer.ggml.pre", &pre, err))) return needed(st);
    if (!slice_is(model, "gpt2")) {
        return ds4_fail(err, DS4_EUNSUPPORTED, "tokenizer.ggml.model: \"%.*s\" is not gpt2 (byte-level BPE)",
                        (int)model.len, model.data);
    }
    /* Two names for the same rules. */
    if (!slice_is(pre, "joyai-llm") && !slice_is(pre, "deepseek-v3")) {
        return ds4_fail(err, DS4_EUNSUPPORTED,
                        "tokenizer.ggml.pre: \"%.*s\" is neither joyai-llm nor deepseek-v3",
                        (int)pre.len, pre.data);
    }
    return DS4_OK;
}

/* The strings of an array; caller frees. An empty array gives a block too. */
static ds4_status read_strings(const gguf *g, const char *key, slice **out, size_t *n, ds4_error *err)
{
    const gguf_value *value;
    const ds4_status st = needed(gguf_get_array(g, key, &value, err));
    if (st) return st;
    if (value->count > 1u << 24) return ds4_fail(err, DS4_EFORMAT, "%s: more than 16777216 entries", key);

    *n = (size_t)value->count;
    *out = malloc((*n ? *n : 1) * sizeof **out);
    if (!*out) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for %zu entries", key, *n);
    uint64_t cursor = 0;
    for (size_t i = 0; i < *n; i++) {
        if (!gguf_array_string(value, &cursor, &(*out)[i])) {
            return ds4_fail(err, DS4_EFORMAT, "%s: not an array of strings", key);
        }
    }
    return DS4_OK;
}

static ds4_status read_types(const gguf *g, size_t n_tokens, int32_t **out, ds4_error *err)
{
    const gguf_value *value;
    const ds4_status st = needed(gguf_get_array(g, TYPES, &value, err));
    if (st) return st;
    if (value->count != n_tokens) {
        return ds4_fail(err, DS4_EFORMAT, TYPES ": %llu entries for %zu tokens",
                        (unsigned long long)value->count, n_tokens);
    }
    *out = malloc((n_tokens ? n_tokens : 1) * sizeof **out);
    if (!*out) return ds4_fail(err, DS4_EMEMORY, TYPES ": no memory for %zu entries", n_tokens);
    for (size_t i = 0; i < n_tokens; i++) {
        int64_t type;
        if (!gguf_array_int(value, i, &type)) {
            return ds4_fail(err, DS4_EFORMAT, TYPES ": not an array of integers");
        }
        (*out)[i] = type >= 0 && type <= INT32_MAX ? (int32_t)type : 0;    /* 0 is refused as unknown */
    }
    return DS4_OK;
}

/* The file's own idea of a control token, where it has one. */
static ds4_status check_id(const gguf *g, const char *key, int32_t id, ds4_error *err)
{
    int64_t said;
    const ds4_status st = gguf_get_int(g, key, 0, INT32_MAX, &said, err);
    if (st == DS4_ENOTFOUND) return DS4_OK;
    if (st) return st;
    if (said != id) {
        return ds4_fail(err, DS4_EFORMAT, "%s: %lld, but the vocabulary has that token at %d",
                        key, (long long)said, (int)id);
    }
    return DS4_OK;
}

static ds4_status check_ids(const gguf *g, const vocab *v, ds4_error *err)
{
    const ds4_status st = check_id(g, "tokenizer.ggml.bos_token_id", vocab_special(v)->bos, err);
    return st ? st : check_id(g, "tokenizer.ggml.eos_token_id", vocab_special(v)->eos, err);
}

ds4_status vocab_open(vocab **out, const gguf *g, ds4_error *err)
{
    ds4_status st;
    slice *tokens = NULL, *merges = NULL;
    int32_t *types = NULL;
    vocab_source source = { .n_tokens = 0 };
    *out = NULL;

    if ((st = check_kind(g, err))) goto done;
    if ((st = read_strings(g, TOKENS, &tokens, &source.n_tokens, err))) goto done;
    if ((st = read_types(g, source.n_tokens, &types, err))) goto done;
    if ((st = read_strings(g, MERGES, &merges, &source.n_merges, err))) goto done;
    source.tokens = tokens;
    source.types = types;
    source.merges = merges;

    if ((st = vocab_from_arrays(out, &source, err))) goto done;
    if ((st = check_ids(g, *out, err))) {
        vocab_close(*out);
        *out = NULL;
    }
done:
    free(tokens);
    free(types);
    free(merges);
    return st;
}
