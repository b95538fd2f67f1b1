#include "bench/classes.h"

#include <math.h>
#include <string.h>

#include "base/checked.h"

typedef struct {
    const char *op, *name;      /* name: how it begins; "" takes every one */
    const char *class;
} class_rule;

/* The first that fits. */
static const class_rule rules[] = {
    { "matmul",       "attn_compressor", "compressors" },
    { "matmul",       "indexer",         "indexer" },
    { "matmul",       "attn_",           "attention projections" },
    { "matmul",       "ffn_gate_inp",    "router" },
    { "matmul",       "ffn_",            "shared expert" },
    { "matmul",       "output",          "output head" },
    { "expert_ffn",   "",                "routed experts" },
    { "moe_block",    "",                "experts and router" },
    { "shared_ffn",   "",                "shared expert" },
    { "router",       "",                "router" },
    { "q_path",       "",                "attention projections" },
    { "kv_path",      "",                "attention projections" },
    { "attn_out",     "",                "attention projections" },
    { "attend",       "",                "attention over rows" },
    { "select_rows",  "",                "indexer" },
    { "index_scores", "",                "indexer" },
    { "top_k",        "",                "indexer" },
    { "compress",     "",                "compressors" },
    { "hc_",          "",                "hyper-connections" },
    { "head",         "",                "output head" },
};

static bool begins(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

const char *class_of_op(const char *op, const char *name)
{
    for (size_t i = 0; i < countof(rules); i++)
        if (begins(op, rules[i].op) && begins(name, rules[i].name)) return rules[i].class;
    return "norms and the rest";
}

double classes_experts(const class_times *t)
{
    uint64_t experts = 0, calls = 0;
    for (int i = 0; i < t->n; i++) {
        if (!t->time[i].experts) continue;
        experts += t->time[i].experts;
        calls += t->time[i].calls;
    }
    return calls ? (double)experts / (double)calls : 0;
}

/* ---- table ------------------------------------------------------------------ */

typedef struct {
    const char *class;
    double      ns, bytes, macs;
} class_sum;

enum { MOST_CLASSES = 24 };

static int sum_up(const class_times *t, class_sum s[MOST_CLASSES])
{
    int n = 0;
    for (int i = 0; i < t->n; i++) {
        const char *class = class_of_op(t->time[i].op, t->time[i].name);
        int k = 0;
        while (k < n && strcmp(s[k].class, class) != 0) k++;
        if (k == n && n < MOST_CLASSES) s[n++] = (class_sum){ .class = class };
        k = min_int(k, MOST_CLASSES - 1);
        s[k].ns += (double)t->time[i].ns;
        s[k].bytes += (double)t->time[i].read_bytes;
        s[k].macs += (double)t->time[i].macs;
    }
    for (int i = 1; i < n; i++)                 /* the slowest first */
        for (int k = i; k > 0 && s[k].ns > s[k - 1].ns; k--) {
            const class_sum kept = s[k];
            s[k] = s[k - 1];
            s[k - 1] = kept;
        }
    return n;
}

static void share_or_dash(bytes *out, double v, double of)
{
    if (v > 0 && of > 0) bytes_printf(out, " %7.1f", 100 * v / of);
    else                 bytes_printf(out, " %7s", "-");
}

static void class_line(const class_times *t, const class_sum *s, bytes *out)
{
    const double gbs = s->ns > 0 ? s->bytes / s->ns : 0, gmacs = s->ns > 0 ? s->macs / s->ns : 0;
    bytes_printf(out, "  %-24s %9.3f %6.1f %9.2f", s->class, s->ns * 1e-6 / t->tokens, s->ns * 1e-7 / t->seconds,
                 s->bytes * 1e-6 / t->tokens);
    bytes_printf(out, " %8.2f", gbs);
    share_or_dash(out, gbs, t->read_gbs);
    bytes_printf(out, " %8.1f", gmacs);
    share_or_dash(out, gmacs, t->dot_peak);
    bytes_char(out, '\n');
}

void classes_table(const class_times *t, bytes *out)
{
    class_sum s[MOST_CLASSES], all = { .class = "sum" };
    const int n = sum_up(t, s);
    bytes_printf(out, "  %-24s %9s %6s %9s %8s %7s %8s %7s\n", "class", "ms/token", "time %", "MB/token", "GB/s",
                 "read %", "G mac/s", "peak %");
    for (int i = 0; i < n; i++) {
        class_line(t, &s[i], out);
        all.ns += s[i].ns, all.bytes += s[i].bytes, all.macs += s[i].macs;
    }
    const class_sum rest = { .class = "between the operations", .ns = fmax(0, t->seconds * 1e9 - all.ns) };
    class_line(t, &rest, out);
    class_line(t, &all, out);
    const double experts = classes_experts(t);
    if (experts > 0) bytes_printf(out, "  %.1f distinct experts a layer and step\n", experts);
}

/* ---- JSON --------------------------------------------------------------------- */

void classes_json(const class_times *t, json_writer *w)
{
    json_array(w);
    for (int i = 0; i < t->n; i++) {
        const op_time *o = &t->time[i];
        json_object(w);
        json_put_text(w, "op", o->op);
        json_put_text(w, "name", o->name);
        json_put_text(w, "class", class_of_op(o->op, o->name));
        json_put_int(w, "calls", (int64_t)o->calls);
        json_put_double(w, "ms_per_token", (double)o->ns * 1e-6 / t->tokens, 6);
        json_put_double(w, "bytes_per_token", (double)o->read_bytes / t->tokens, 10);
        json_put_double(w, "macs_per_token", (double)o->macs / t->tokens, 10);
        json_put_int(w, "experts", (int64_t)o->experts);
        json_object_end(w);
    }
    json_array_end(w);
}
