/* ptx_block: who runs when.
 *
 * A warp is groups of lanes that are at the same step. A branch that lanes take differently splits a
 * group; groups that come to the same step are one again. Which of them runs is the launch's order to
 * choose: CUDA promises nothing between two warp operations. A step that waits for lanes stops a group
 * until all of them are there. */
#include "ptx_block.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "ptx_warp.h"

namespace ptx {

enum { MAX_THREADS = 1024, MAX_STATIC = 48 * 1024, MAX_SHARED = 227 * 1024 };
static const uint64_t MAX_STEPS = 1ull << 32;       /* of one warp: more is a loop without end */

void fail(const warp &w, const step &s, int lane, const char *format, ...)
{
    char why[256];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    fprintf(stderr, "ptx: kernel %s, block %u,%u,%u, thread %u%s:\n", w.b->p->kernel->name.c_str(), w.b->place[0],
            w.b->place[1], w.b->place[2], w.first + (unsigned)(lane < 0 ? 0 : lane), lane < 0 ? " and its warp" : "");
    fail_at(*w.b->p->text, s.line, why);
}

namespace {

enum result { TURN_OVER, AT_BARRIER, DONE };

struct scheduler {
    warp &w;
    const std::vector<step> &steps;

    explicit scheduler(warp &the) : w(the), steps(the.b->p->steps) {}

    /* Joins the groups that are at the same step and in the same state. */
    void merge()
    {
        std::vector<group> &g = w.groups;
        for (size_t i = 0; i < g.size(); i++)
            for (size_t j = g.size(); j-- > i + 1;)
                if (g[i].pc == g[j].pc && g[i].waiting == g[j].waiting) {
                    g[i].lanes |= g[j].lanes;
                    g.erase(g.begin() + (long)j);
                }
    }

    /* The next group to run, or the number of groups where all of them wait. */
    size_t choose()
    {
        const std::vector<group> &g = w.groups;
        size_t best = g.size();
        unsigned seen = 0;
        for (size_t i = 0; i < g.size(); i++) {
            if (g[i].waiting) continue;
            seen++;
            if (best == g.size() || (w.b->order == LANES_FORWARD && g[i].pc < g[best].pc) ||
                (w.b->order == LANES_BACKWARD && g[i].pc > g[best].pc) ||
                (w.b->order == LANES_SHUFFLED && w.b->random_below(seen) == 0))
                best = i;
        }
        return best;
    }

    /* Where the group meets another; in LANES_FORWARD only, the other orders keep them apart. */
    uint32_t limit(size_t at) const
    {
        uint32_t least = UINT32_MAX;
        if (w.b->order == LANES_FORWARD)
            for (size_t i = 0; i < w.groups.size(); i++)
                if (i != at && !w.groups[i].waiting && w.groups[i].pc < least) least = w.groups[i].pc;
        return least;
    }

    /* Whether all lanes that this step waits for are these. */
    bool complete(const step &s, uint32_t lanes) const
    {
        uint32_t named = ALL;
        if (s.follows == FLOW_WARP && s.op->mask >= 0) {
            const slot *mask = w.at(s.reg[s.op->mask]);
            named = (uint32_t)mask[__builtin_ctz(lanes)];
            for (int l = 0; l < LANES; l++)
                if (lanes >> l & 1 && ((uint32_t)mask[l] != named || !(named >> l & 1)))
                    fail(w, s, l, "lanes that name themselves as %x and %x", named, (unsigned)mask[l]);
        } else if (s.follows == FLOW_WARP && w.alive() != ALL) {
            fail(w, s, -1, "an operation of the whole warp after a lane has ended");
        }
        return lanes == (named & w.alive());
    }

    /* No group can run: the first one that waits for nobody else may go on. */
    void release()
    {
        for (group &g : w.groups)
            if (complete(steps[g.pc], g.lanes)) {
                g.waiting = false;
                return;
            }
        const step &s = steps[w.groups[0].pc];
        fail(w, s, __builtin_ctz(w.groups[0].lanes),
             "the lanes of a warp went different ways: some are here, others at line %d",
             w.groups.size() > 1 ? steps[w.groups[1].pc].line : 0);
    }

    result run(uint64_t turn)
    {
        while (!w.groups.empty()) {
            merge();
            const size_t g = choose();
            if (g == w.groups.size()) {
                release();
                continue;
            }
            const result r = run_group(g, turn);
            if (r == AT_BARRIER) return r;
            if (turn == 0) return TURN_OVER;
        }
        return DONE;
    }

    /* Until it splits, meets, waits or ends, or the turn is over. */
    result run_group(size_t at, uint64_t &turn)
    {
        const uint32_t lanes = w.groups[at].lanes, meets = limit(at);
        uint32_t pc = w.groups[at].pc;
        for (;; turn--) {
            if (pc >= meets || turn == 0) break;
            const step &s = steps[pc];
            uint32_t m = lanes;
            if (s.guard >= 0) m &= s.unless ? ~w.predicate(s.guard) : w.predicate(s.guard);
            if (++w.steps > MAX_STEPS) fail(w, s, -1, "a warp that does not come to its end");
            if (s.follows == FLOW_NEXT) {
                if (m) s.run(w, s, m);
                pc++;
            } else if (s.follows == FLOW_BRANCH && (m == lanes || !m)) {
                pc = m ? s.target : pc + 1;
            } else if (s.follows == FLOW_BRANCH) {
                w.groups[at] = { pc + 1, lanes & ~m, false };
                w.groups.push_back({ s.target, m, false });
                return TURN_OVER;
            } else if (s.follows == FLOW_END) {
                w.groups[at] = { pc + 1, lanes & ~m, false };
                if (m == lanes) w.groups.erase(w.groups.begin() + (long)at);
                return TURN_OVER;
            } else if (m != lanes) {
                if (m) fail(w, s, -1, "a warp operation of which a predicate excludes lanes");
                pc++;
            } else if (!complete(s, lanes)) {
                w.groups[at] = { pc, lanes, true };
                merge();
                for (group &g : w.groups)
                    if (g.waiting && complete(steps[g.pc], g.lanes)) g.waiting = false;
                return TURN_OVER;
            } else {
                s.run(w, s, m);
                pc++;
                if (s.follows == FLOW_BLOCK) {
                    w.groups[at].pc = pc;
                    return AT_BARRIER;
                }
            }
        }
        w.groups[at].pc = pc;
        return TURN_OVER;
    }
};

/* Cards before Hopper start no kernel early. */
bool starts_early(const program &p) { return p.text->target >= "sm_90"; }

/* What a launch needs once, kept from one to the next. */
struct room { std::vector<slot> regs; std::vector<warp> warps; block b; };

void fill_warp(warp &w, const unsigned value[SPECIALS], bool all)
{
    const program &p = *w.b->p;
    if (all)
        for (const constant &c : p.constants)
            for (int l = 0; l < LANES; l++) w.at(c.reg)[l] = c.value;
    for (int i = 0; i < SPECIALS; i++)
        if (p.specials[i] >= 0)
            for (int l = 0; l < LANES; l++)
                w.at(p.specials[i])[l] = i == TID_X ? w.first + (unsigned)l : i == LANEID ? (unsigned)l : value[i];
}

void begin(warp &w)
{
    w.groups.assign(1, { 0, ALL, false });
    w.at_barrier = false;
    w.waited = !starts_early(*w.b->p);
    w.syncs = 0;
    w.copies.clear();
    memset(w.committed, 0, sizeof w.committed);
    w.local.assign(LANES * w.b->p->local_bytes, 0xff);
    w.steps = 0;
}

void run_block(room &r)
{
    block &b = r.b;
    std::fill(b.shared.begin(), b.shared.end(), (uint8_t)0xff);     /* NaN, -1 */
    b.seen.begin_block();
    for (warp &w : r.warps) begin(w);
    const unsigned n = (unsigned)r.warps.size();
    for (unsigned running = n; running;) {
        unsigned at_barrier = 0;
        const unsigned start = b.order == LANES_SHUFFLED ? b.random_below(n) : 0;
        running = 0;
        for (unsigned i = 0; i < n; i++) {
            warp &w = r.warps[b.order == LANES_BACKWARD ? n - 1 - i : (i + start) % n];
            if (!w.at_barrier && !w.groups.empty()) {
                const uint64_t turn = b.order == LANES_SHUFFLED ? 1 + b.random_below(200) : UINT64_MAX;
                w.at_barrier = scheduler(w).run(turn) == AT_BARRIER;
            }
            running += !w.groups.empty();
            at_barrier += w.at_barrier;
        }
        if (!at_barrier || at_barrier < running) continue;
        b.seen.begin_epoch();
        for (warp &w : r.warps) {
            if (w.groups.empty()) fail(r.warps[0], b.p->steps.back(), -1, "a warp that ended while others wait at bar.sync");
            w.at_barrier = false;
        }
    }
}

room &own_room(void)
{
    static thread_local std::unique_ptr<room> kept;
    if (!kept) {
        kept.reset(new room());
        kept->b.random = 1;
    }
    return *kept;
}

}

void settle(void) { own_room().b.seen.settle(); }

void run_grid(const program &p, const unsigned grid[3], unsigned threads, unsigned dynamic, const void *args, lane_order order)
{
    room &r = own_room();
    block &b = r.b;
    b.p = &p;
    b.order = order;
    b.param = static_cast<const uint8_t *>(args);
    const std::string name = "kernel " + p.kernel->name;
    if (!threads || threads % LANES || threads > MAX_THREADS || threads > p.kernel->max_threads)
        fail_at(*p.text, p.kernel->line, name + ": blocks of " + std::to_string(threads) + " threads");
    if (p.static_bytes > MAX_STATIC || p.static_bytes + dynamic > MAX_SHARED)
        fail_at(*p.text, p.kernel->line, name + ": more shared memory than a card has");
    b.shared.resize(p.static_bytes + dynamic);
    b.seen.begin_launch(p.static_bytes + dynamic);

    const unsigned warps = threads / LANES;
    const size_t slots = (size_t)p.registers * LANES;
    if (r.regs.size() < warps * slots) r.regs.resize(warps * slots, 0xee1dee1dee1dee1du);
    unsigned value[SPECIALS] = {};
    value[NTID_X] = threads;
    value[NTID_Y] = value[NTID_Z] = 1;
    for (int i = 0; i < 3; i++) value[NCTAID_X + i] = grid[i];
    r.warps.resize(warps);
    for (unsigned i = 0; i < warps; i++) {
        r.warps[i].b = &b;
        r.warps[i].first = i * LANES;
        r.warps[i].regs = &r.regs[i * slots];
    }

    const unsigned n = grid[0] * grid[1] * grid[2];
    bool waited = false;
    const unsigned start = order == LANES_SHUFFLED ? b.random_below(n) : 0;
    for (unsigned i = 0; i < n; i++) {
        const unsigned at = order == LANES_BACKWARD ? n - 1 - i : (i + start) % n;
        const unsigned place[3] = { at % grid[0], at / grid[0] % grid[1], at / grid[0] / grid[1] };
        for (int d = 0; d < 3; d++) value[CTAID_X + d] = b.place[d] = place[d];
        for (warp &w : r.warps) fill_warp(w, value, i == 0);
        run_block(r);
        for (const warp &w : r.warps) waited |= w.waited;
    }
    /* A grid is over when all of it is: one warp that waits makes the grid wait. */
    if (!waited) fail(r.warps[0], p.steps.back(), -1, "a launch of which no warp waits for the kernel before it");
}

}
