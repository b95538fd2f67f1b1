/* ptx_exchange: branches, barriers, and what the lanes of a warp exchange. */
#include "ptx_warp.h"

namespace ptx {
namespace {

void nothing(warp &, const step &, uint32_t) {}

enum mode { UP, DOWN, BUTTERFLY, INDEX };

/* The manual's pseudocode of shfl: c holds a clamp (bits 4..0) and a mask of segments (12..8). */
template <mode m> void shuffle(warp &w, const step &s, uint32_t lanes)
{
    slot from[LANES];
    memcpy(from, w.at(s.reg[2]), sizeof from);
    slot *d = w.at(s.reg[0]);
    const slot *b = w.at(s.reg[3]), *c = w.at(s.reg[4]);
    uint32_t in_range = 0;
    each_lane(lanes, [&](int lane) {
        const int by = (int)(b[lane] & 31), clamp = (int)(c[lane] & 31), segment = (int)(c[lane] >> 8 & 31);
        const int most = (lane & segment) | (clamp & ~segment), least = lane & segment;
        const int j = m == UP ? lane - by : m == DOWN ? lane + by : m == BUTTERFLY ? lane ^ by : least | (by & ~segment);
        const bool in = m == UP ? j >= most : j <= most;
        const int source = in ? j : lane;
        if (source < 0 || source >= LANES || !(lanes >> source & 1))
            fail(w, s, lane, "a shuffle from lane %d, which takes no part", source);
        d[lane] = put(get<uint32_t>(from[source]));
        in_range |= (uint32_t)in << lane;
    });
    w.set_predicate(s.reg[1], in_range, lanes);
}

void ballot(warp &w, const step &s, uint32_t lanes)
{
    const uint32_t yes = w.predicate(s.reg[1]) & lanes;
    slot *d = w.at(s.reg[0]);
    each_lane(lanes, [=](int l) { d[l] = yes; });
}

}

void add_exchange(opcodes &o)
{
    o.add({ "bra", "L", nothing, FLOW_BRANCH });
    o.add({ "bra.uni", "L", nothing, FLOW_BRANCH });
    o.add({ "ret", "", nothing, FLOW_END });
    o.add({ "bar.sync", "i", nothing, FLOW_BLOCK });
    o.add({ "bar.warp.sync", "w", [](warp &w, const step &, uint32_t) { w.syncs++; }, FLOW_WARP, 0 });
    o.add({ "shfl.sync.up.b32", "W|Pwwww", shuffle<UP>, FLOW_WARP, 5 });
    o.add({ "shfl.sync.down.b32", "W|Pwwww", shuffle<DOWN>, FLOW_WARP, 5 });
    o.add({ "shfl.sync.bfly.b32", "W|Pwwww", shuffle<BUTTERFLY>, FLOW_WARP, 5 });
    o.add({ "shfl.sync.idx.b32", "W|Pwwww", shuffle<INDEX>, FLOW_WARP, 5 });
    o.add({ "vote.sync.ballot.b32", "Wpw", ballot, FLOW_WARP, 2 });
}

}
