#include "ptx_watch.h"

namespace ptx {

/* Whether two threads have no barrier between what one did at m and the other does now. */
static bool unordered(const moment &m, unsigned thread, unsigned sync)
{
    return m.thread != thread && (m.thread / 32 != thread / 32 || m.sync == (uint16_t)sync);
}

bool watch::read_meets(uint64_t offset, uint64_t bytes, unsigned thread, unsigned sync)
{
    bool meets = false;
    for (uint64_t i = offset / 4; i <= (offset + bytes - 1) / 4; i++) {
        word &w = words[i];
        meets |= w.write.epoch == epoch && unordered(w.write, thread, sync);
        /* What lanes of this warp read before its latest barrier is behind them. */
        moment &r = w.read;
        const uint16_t all = (uint16_t)(MANY_LANES | thread / 32);
        const bool ours = r.thread == all || (r.thread < MANY_LANES && r.thread / 32 == thread / 32);
        if (r.epoch != epoch || (ours && r.sync != (uint16_t)sync)) r = { epoch, (uint16_t)thread, (uint16_t)sync };
        else if (ours && r.thread != thread) r.thread = all;
        else if (!ours) r.thread = MANY_WARPS;
    }
    return meets;
}

bool watch::write_meets(uint64_t offset, uint64_t bytes, unsigned thread, unsigned sync, bool same)
{
    bool meets = false;
    for (uint64_t i = offset / 4; i <= (offset + bytes - 1) / 4; i++) {
        word &w = words[i];
        if (w.write.epoch == epoch && !same) meets |= w.write.thread / 32 != thread / 32;
        if (w.read.epoch == epoch && !same) {
            if (w.read.thread == MANY_WARPS) meets = true;
            else if (w.read.thread >= MANY_LANES)
                meets |= (w.read.thread & ~MANY_LANES) != thread / 32 || w.read.sync == (uint16_t)sync;
            else meets |= unordered(w.read, thread, sync);
        }
        w.write = { epoch, (uint16_t)thread, (uint16_t)sync };
    }
    return meets;
}

void watch::note_global(uint64_t address, uint64_t bytes)
{
    any_word(address, bytes, [&](uint64_t at, uint64_t word, uint32_t part) {
        wrote &w = written[at];
        const bool more = w.word == word && w.launch == launch && w.block == block;
        w = { word, launch, block, more ? w.part | part : part };
        return false;
    });
}

bool watch::written_lately(uint64_t address, uint64_t bytes, unsigned n) const
{
    return any_word(address, bytes, [&](uint64_t at, uint64_t word, uint32_t part) {
        const wrote &w = written[at];
        return w.word == word && launch - w.launch < n && (w.part & part);
    });
}

bool watch::written_beside(uint64_t address, uint64_t bytes) const
{
    return any_word(address, bytes, [&](uint64_t at, uint64_t word, uint32_t part) {
        const wrote &w = written[at];
        return w.word == word && w.launch == launch && w.block != block && (w.part & part);
    });
}

}
