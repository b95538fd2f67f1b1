#include "inspect.h"

#include <stdio.h>
#include <string.h>

#include "printer.h"
#include "base/checked.h"
#include "gguf/gguf.h"
#include "model.h"
#include "model/config.h"

/* ---- groups of tensors -------------------------------------------------------- */

/* By the beginning of the name behind "blk.N."; the first that fits. */
static const struct { const char *title, *begins; } groups[] = {
    { "token embedding",       "token_embd" },
    { "output",                "output.weight" },
    { "attention projections", "attn_q_a.|attn_q_b.|attn_kv.|attn_output_" },
    { "shared experts",        "ffn_gate_shexp|ffn_up_shexp|ffn_down_shexp" },
    { "routed gate and up",    "ffn_gate_exps|ffn_up_exps" },
    { "routed down",           "ffn_down_exps" },
    { "router",                "ffn_gate_inp|ffn_gate_tid2eid|exp_probs_b" },
    { "compressors",           "attn_compressor_" },
    { "indexer",               "indexer" },
    { "hyper-connections",     "hc_|output_hc_" },
    { "norms and sinks",       "" },
};

typedef struct {
    int      tensors;
    uint64_t bytes;
    char     types[64];         /* "IQ2_XXS, Q4_K" */
} group_sum;

static bool begins_with_one_of(const char *name, const char *list)
{
    for (;;) {
        const size_t n = strcspn(list, "|");
        if (strncmp(name, list, n) == 0) return true;
        if (!list[n]) return false;
        list += n + 1;
    }
}

static size_t group_of(const char *name)
{
    if (strncmp(name, "blk.", 4) == 0) {
        const char *dot = strchr(name + 4, '.');
        if (dot) name = dot + 1;
    }
    size_t i = 0;
    while (!begins_with_one_of(name, groups[i].begins)) i++;    /* the last fits all */
    return i;
}

static void note_type(group_sum *g, const char *type)
{
    const char *at = strstr(g->types, type);
    const size_t n = strlen(type), len = strlen(g->types);
    if (at && (at[n] == 0 || at[n] == ',')) return;
    snprintf(g->types + len, sizeof g->types - len, "%s%s", len ? ", " : "", type);
}

static void sum_groups(const gguf *g, group_sum sums[])
{
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const gguf_tensor *t = gguf_tensor_at(g, i);
        group_sum *sum = &sums[group_of(t->name)];
        sum->tensors++;
        sum->bytes += t->bytes;
        note_type(sum, quant_get(t->type)->name);
    }
}

/* ---- text --------------------------------------------------------------------- */

static void describe_file(bytes *out, const gguf *g, const char *path)
{
    char size[24];
    slice name = slice_of("");
    console_bytes(size, gguf_file_bytes(g));
    gguf_get_string(g, "general.name", &name, NULL);
    bytes_printf(out, "file        %s (%s, %d tensors", path, size, gguf_n_tensors(g));
    if (gguf_n_shards(g) > 1) bytes_printf(out, " in %d shards", gguf_n_shards(g));
    bytes_printf(out, ")\nname        %.*s\n", (int)name.len, name.data);
}

static void describe_shape(bytes *out, const model_config *m)
{
    int window = 0, csa = 0, hca = 0;
    for (int i = 0; i < m->n_layer; i++) {
        window += m->ratio[i] == 0;
        csa += m->ratio[i] == 4;
        hca += m->ratio[i] == 128;
    }
    bytes_printf(out, "layout      deepseek4: %d layers, width %d, %d streams, %d heads of %d\n",
                 m->n_layer, m->n_embd, m->n_streams, m->n_head, m->head_dim);
    bytes_printf(out, "attention   %d window layers of %d, %d at ratio 4 (top %d), %d at ratio 128\n",
                 window, m->n_swa, csa, m->index_top_k, hca);
    bytes_printf(out, "experts     %d of width %d, %d used and 1 shared, %d layers routed by token\n",
                 m->n_expert, m->expert_width, m->n_expert_used, m->n_hash_layers);
    bytes_printf(out, "vocabulary  %d tokens\ncontext     %d tokens\n", m->n_vocab, m->n_ctx_train);
}

static void describe_groups(bytes *out, const gguf *g)
{
    group_sum sums[countof(groups)] = { 0 };
    char size[24];
    sum_groups(g, sums);
    bytes_printf(out, "\n%-24s%8s  %12s  types\n", "group", "tensors", "size");
    for (size_t i = 0; i < countof(groups); i++) {
        if (!sums[i].tensors) continue;
        console_bytes(size, sums[i].bytes);
        bytes_printf(out, "%-24s%8d  %12s  %s\n", groups[i].title, sums[i].tensors, size, sums[i].types);
    }
    console_bytes(size, gguf_tensor_bytes(g));
    bytes_printf(out, "%-24s%8d  %12s\n", "total", gguf_n_tensors(g), size);
}

/* What a context leaves for routed experts, behind its line. */
static void describe_device(bytes *out, const ds4_plan *p)
{
    char experts[24], room[24];
    console_bytes(experts, p->host_expert_bytes);
    console_bytes(room, p->device_available_bytes);
    bytes_printf(out, "            on %s, %s available", p->device, room);
    if (p->host_expert_bytes) bytes_printf(out, "; routed experts in host memory %s", experts);
    bytes_printf(out, "\n");
}

/* The same where the CPU computes; why: of the line before. */
static void describe_host(bytes *out, const ds4_plan *p, char *why)
{
    char cache[24];
    console_bytes(cache, p->expert_cache_bytes);
    if (p->expert_cache_bytes)
        bytes_printf(out, "            expert cache %s; other experts are read from the file\n", cache);
    if (strcmp(why, p->why_cpu) != 0) bytes_printf(out, "            %s\n", p->why_cpu);
    memcpy(why, p->why_cpu, sizeof p->why_cpu);
}

/* Contexts people ask about. */
static ds4_status describe_memory(bytes *out, const cli_options *o, const char *path, console *c, ds4_error *err)
{
    static const int contexts[] = { 32768, 100000, 1000000 };
    char why[sizeof (ds4_plan){ 0 }.why_cpu] = "";
    for (size_t i = 0; i < countof(contexts); i++) {
        char weights[24], kv[24], work[24], total[24];
        ds4_plan p;
        const ds4_engine_options e = model_engine_options(&o->flags, path, (model_room){ .ctx = contexts[i] }, c);
        const ds4_status st = ds4_engine_plan(&e, &p, err);
        if (st) return st;
        if (i == 0) bytes_printf(out, "\n%-12s%12s%12s%14s%12s\n", "context", "weights", "KV", "work space", "total");
        console_bytes(weights, p.weight_bytes);
        console_bytes(kv, p.kv_bytes);
        console_bytes(work, p.scratch_bytes + p.table_bytes);
        console_bytes(total, p.device[0] ? p.device_bytes : p.total_bytes);
        bytes_printf(out, "%-12d%12s%12s%14s%12s\n", contexts[i], weights, kv, work, total);
        if (p.device[0]) describe_device(out, &p);
        else describe_host(out, &p, why);
        if (p.no_room.status) bytes_printf(out, "            no room: %s\n", p.no_room.message);
    }
    return DS4_OK;
}

exit_code inspect_run(const cli_options *o, console *c)
{
    model_path path;
    ds4_error err = { 0 };
    gguf *g = NULL;
    model_config shape;
    bytes out;
    exit_code code = model_find(&path, &o->flags, c);
    if (code) return code;

    bytes_init(&out, (size_t)1 << 20);
    ds4_status st = gguf_open(&g, path.path, NULL, &err);
    if (!st) st = config_read(&shape, g, &err);
    if (!st) {
        describe_file(&out, g, path.path);
        describe_shape(&out, &shape);
        describe_groups(&out, g);
        st = describe_memory(&out, o, path.path, c, &err);
    }
    if (st) console_error(c, "%s", err.message);
    code = st ? model_exit_code(st) : output_finish(output_write(out.data, out.len), c);
    bytes_free(&out);
    gguf_close(g);
    return code;
}
