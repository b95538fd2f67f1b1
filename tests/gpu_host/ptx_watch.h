/* ptx_watch: who wrote and read what, and since when it may be read.
 *
 * Block-local memory: between two barriers of the block no warp reads or changes a word that another one
 * writes, nor a lane what another lane of its warp writes, unless bar.warp.sync stands between. Nothing else is
 * a barrier. Lanes of one warp that write one word are not looked at, nor warps that write what is there.
 *
 * Global memory: what a kernel reads before griddepcontrol.wait is nothing that one of the latest kernels wrote,
 * since they may still run; and ld.global.nc never reads what its own launch wrote, which a card may have
 * in a cache from before. Of some millions of words the latest writes are known, so that a mistake may be
 * overlooked and none is made up. */
#ifndef TESTS_GPU_HOST_PTX_WATCH_H
#define TESTS_GPU_HOST_PTX_WATCH_H

#include <cstdint>
#include <vector>

namespace ptx {

/* A thread at a point of time. `sync` counts its warp's bar.warp.sync. */
struct moment { uint32_t epoch; uint16_t thread, sync; };

class watch {
public:
    void begin_launch(uint64_t shared_bytes)
    {
        launch++;
        if (words.size() < shared_bytes / 4 + 1) words.resize(shared_bytes / 4 + 1);
        if (written.empty()) written.resize(KNOWN);
        begin_epoch();
    }
    void begin_epoch() { epoch++; }         /* a barrier of the block, or another block */
    void settle() { launch += 256; }        /* kernels so far are over */

    /* Whether the access meets another one; `same`: it writes what is there. */
    bool read_meets(uint64_t offset, uint64_t bytes, unsigned thread, unsigned sync);
    bool write_meets(uint64_t offset, uint64_t bytes, unsigned thread, unsigned sync, bool same);

    void note_global(uint64_t address, uint64_t bytes)
    {
        for (uint64_t a = address / 4; a <= (address + bytes - 1) / 4; a++) written[slot_of(a)] = { a, launch };
    }
    /* Whether one of the latest n launches wrote there, this one included. */
    bool written_lately(uint64_t address, uint64_t bytes, unsigned n) const
    {
        for (uint64_t a = address / 4; a <= (address + bytes - 1) / 4; a++) {
            const wrote &w = written[slot_of(a)];
            if (w.word == a && launch - w.launch < n) return true;
        }
        return false;
    }

private:
    enum : uint32_t { KNOWN = 1u << 20 };
    static const uint16_t MANY_WARPS = 0xffff, MANY_LANES = 0x8000;     /* | warp */
    struct word { moment write, read; };
    struct wrote { uint64_t word; uint32_t launch; };

    static uint64_t slot_of(uint64_t a) { return (a ^ a >> 20) & (KNOWN - 1); }

    uint32_t launch = 0, epoch = 0;
    std::vector<word>  words;
    std::vector<wrote> written;
};

}

#endif
