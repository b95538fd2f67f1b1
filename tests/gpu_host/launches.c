/* launches: a step of the released shape, launch by launch, without a card and without weights.
 *
 * Runs forward.c and the CUDA backend over a device that only counts (counting_device.h), with a model file of
 * the q2 mix whose data are holes, and prints Markdown: what each kernel reads and by prediction takes, what
 * lies on the longest chain of launches, which grids are too small for the card. make cuda-launches */
#include "base/checked.h"
#include "flash_rig.h"
#include "launch_cost.h"

enum { SESSIONS = 16, CHUNK = RIG_ROWS, CONTEXT = 80 * 1024, SMS = 132, LARGE = 1 << 20 };

static launch_rows rows;        /* of the step under way */

/* n sessions of `length` tokens each go on by `each` tokens. */
static void run_step(rig *r, int n, int length, int each, ds4_error *err)
{
    rows = (launch_rows){ r->pos, n * each, (length + each) / 4 > r->config.index_top_k, r->config.index_top_k };
    rig_step(r, n, length, each, err);
}

/* ---- tables --------------------------------------------------------------------------------- */

typedef struct {
    int      n, on_chain;
    unsigned blocks, most, block, shared;   /* of the smallest grid and the largest */
    uint64_t bytes, largest;    /* of the largest launch */
    double   us, chain_us;
} line;

typedef struct {
    const counted_work *w;
    int   n;
    bool *chain;                /* [n] owned */
    double us, sum_us;          /* of the chain; of all */
    double bytes;
} told;

static told tell_chain(const rig *r)
{
    told t = { 0 };
    t.w = counting_work(r->device, &t.n);
    t.chain = calloc((size_t)t.n, sizeof *t.chain);
    int at = 0;
    for (int i = 0; i < t.n; i++) {
        if (t.w[i].end > t.w[at].end) at = i;
        t.sum_us += t.w[i].us;
        t.bytes += (double)t.w[i].bytes;
    }
    t.us = t.w[at].end;
    for (; at >= 0; at = t.w[at].after) t.chain[at] = true;
    return t;
}

static void print_kernels(const told *t)
{
    static line lines[CUDA_KERNEL_COUNT + 1];
    memset(lines, 0, sizeof lines);
    for (int i = 0; i < t->n; i++) {
        const counted_work *w = &t->w[i];
        line *l = &lines[w->kernel + 1];
        if (!l->n || w->blocks < l->blocks) l->blocks = w->blocks;
        if (w->blocks > l->most) l->most = w->blocks;
        if (w->bytes > l->largest) l->largest = w->bytes;
        l->n++;
        l->block = w->block;
        if (w->shared > l->shared) l->shared = w->shared;
        l->on_chain += t->chain[i];
        l->bytes += w->bytes;
        l->us += w->us;
        l->chain_us += t->chain[i] ? w->us : 0.0;
    }
    puts("| kernel | launches | on the chain | blocks x threads | largest, MB | all, MB | us | on the chain, us |");
    puts("|---|---|---|---|---|---|---|---|");
    for (int k = 0; k <= CUDA_KERNEL_COUNT; k++) {
        const line *l = &lines[k];
        char blocks[48];
        if (l->n == 0) continue;
        const int at = snprintf(blocks, sizeof blocks, "%u", l->blocks);
        snprintf(blocks + at, sizeof blocks - (size_t)at, l->most > l->blocks ? "..%u" : "", l->most);
        printf("| `%s` | %d | %d | %s x %u | %.2f | %.1f | %.0f | %.0f |\n", launch_name(k - 1), l->n, l->on_chain,
               blocks, l->block, (double)l->largest / 1e6, (double)l->bytes / 1e6, l->us, l->chain_us);
    }
}

/* Layers of one ratio are alike but for how they route. */
static void print_layers(const rig *r, const told *t)
{
    static const int ratios[] = { 0, 4, 128 };
    puts("\n| layer | launches | streams 0, 1, 2 | on the chain | us of the chain | us of the bytes |");
    puts("|---|---|---|---|---|---|");
    for (size_t k = 0; k < countof(ratios); k++) {
        int layer = 0, n[GPU_STREAMS] = { 0 }, chain = 0;
        double us = 0.0, bytes = 0.0;
        for (int l = 0; l < r->config.n_layer - 1; l++)     /* the last one is followed by the head */
            if (l > 0 && r->config.ratio[l] == ratios[k]) layer = l;
        for (int i = 0; i < t->n; i++) {
            if (t->w[i].layer != layer) continue;
            n[t->w[i].stream]++;
            chain += t->chain[i];
            us += t->chain[i] ? t->w[i].us : 0.0;
            bytes += (double)t->w[i].bytes;
        }
        printf("| ratio %d | %d | %d, %d, %d | %d | %.1f | %.1f |\n", ratios[k], n[0] + n[1] + n[2], n[0], n[1], n[2],
               chain, us, bytes / LAUNCH_BANDWIDTH);
    }
}

static void print_chain(const told *t, int layer)
{
    printf("\nThe chain of layer %d:", layer);
    for (int i = 0; i < t->n; i++)
        if (t->w[i].layer == layer && t->chain[i])
            printf(" %s%s %.1f", launch_name(t->w[i].kernel), t->w[i].joins ? "*" : "", t->w[i].us);
    puts("");
}

static void print_small(const told *t)
{
    bool told_of[CUDA_KERNEL_COUNT] = { false };
    for (int i = 0; i < t->n; i++) {
        const counted_work *w = &t->w[i];
        if (w->kernel < 0 || w->blocks >= SMS || w->bytes < LARGE || told_of[w->kernel]) continue;
        told_of[w->kernel] = true;
        printf("\nSmall grid: `%s` reads %.2f MB in %u blocks.\n", launch_name(w->kernel), (double)w->bytes / 1e6,
               w->blocks);
    }
}

static void print_step(const rig *r, const char *title, bool decode)
{
    told t = tell_chain(r);
    int on_chain = 0;
    for (int i = 0; i < t.n; i++) on_chain += t.chain[i];
    const double bytes_us = t.bytes / LAUNCH_BANDWIDTH, us = decode ? fmax(t.us, bytes_us) : t.sum_us;
    printf("\n### %s\n\n%d launches, %d of them on the longest chain, which takes %.0f us; %.2f GB in all, %.0f us. "
           "Predicted: %.2f ms, %.0f tokens/s.\n\n", title, t.n, on_chain, t.us, t.bytes / 1e9, bytes_us, us / 1e3,
           rows.n / us * 1e6);
    print_kernels(&t);
    if (decode) {
        print_layers(r, &t);
        print_chain(&t, 20);
        print_chain(&t, 21);
        print_small(&t);
    }
    free(t.chain);
}

int main(void)
{
    ds4_error err;
    static rig r;
    char path[] = "build/launches.XXXXXX";
    const int fd = mkstemp(path);
    if (fd < 0) need(ds4_fail(&err, DS4_EIO, "no file can be made in build/"), &err);
    close(fd);
    const rig_options o = { .info = { .name = "counting, as H200", .arch = 90, .driver = 13000, .n_sm = SMS,
                                      .shared_bytes = 227 * 1024, .total_bytes = UINT64_C(141) << 30,
                                      .l2_bytes = 60 << 20 },
                            .sessions = SESSIONS, .context = CONTEXT, .cost = launch_cost, .ctx = &rows };
    write_model(path, &err);
    rig_open(&r, path, &o, &err);
    unlink(path);
    run_step(&r, 1, 1500, 1, &err);
    print_step(&r, "One row, 1,500 tokens", true);
    run_step(&r, 1, 65536, 1, &err);
    print_step(&r, "One row, 64k tokens", true);
    run_step(&r, SESSIONS, 1500, 1, &err);
    print_step(&r, "Sixteen rows, 1,500 tokens each", true);
    run_step(&r, 1, 0, CHUNK, &err);
    print_step(&r, "A chunk of 4,096 rows", false);
    run_step(&r, 1, 65536, CHUNK, &err);
    print_step(&r, "A chunk of 4,096 rows behind 64k tokens", false);
    rig_close(&r);
    return 0;
}
