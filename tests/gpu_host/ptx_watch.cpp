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
            else if (w.read.thread >= MANY_LANES) meets |= (w.read.thread & ~MANY_LANES) != thread / 32 || w.read.sync == (uint16_t)sync;
            else meets |= unordered(w.read, thread, sync);
        }
        w.write = { epoch, (uint16_t)thread, (uint16_t)sync };
    }
    return meets;
}

}
