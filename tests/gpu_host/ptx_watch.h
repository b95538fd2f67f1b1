/* ptx_watch: who wrote and read what, and since when it may be read.
 *
 * Block-local memory: between two barriers of the block no warp reads or changes a word that another one
 * writes, nor a lane what another lane of its warp writes, unless bar.warp.sync stands between. Nothing else is
 * a barrier. Lanes of one warp that write one word are not looked at, nor warps that write what is there.
 *
 * Global memory: what a kernel reads before griddepcontrol.wait is nothing that one of the latest kernels wrote,
 * since they may still run; ld.global.nc never reads what its own launch wrote, which a card may have in a
 * cache from before; no block reads or changes what another block of its launch wrote. Blocks run in several
 * orders, so one that reads what another is yet to write is found in one of them. Of a million words the latest
 * writes are known, so that a mistake may be overlooked and none is made up. */
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
    void begin_block() { block++, epoch++; }
    void begin_epoch() { epoch++; }         /* a barrier of the block */
    void settle() { launch += 256; }        /* kernels so far are over */

    /* Whether the access meets another one; `same`: it writes what is there. */
    bool read_meets(uint64_t offset, uint64_t bytes, unsigned thread, unsigned sync);
    bool write_meets(uint64_t offset, uint64_t bytes, unsigned thread, unsigned sync, bool same);

    void note_global(uint64_t address, uint64_t bytes);
    /* Whether one of the latest n launches wrote there, this one included. */
    bool written_lately(uint64_t address, uint64_t bytes, unsigned n) const;
    /* Whether another block of this launch wrote there. */
    bool written_beside(uint64_t address, uint64_t bytes) const;

private:
    enum : uint32_t { KNOWN = 1u << 20 };
    static const uint16_t MANY_WARPS = 0xffff, MANY_LANES = 0x8000;     /* | warp */
    struct word { moment write, read; };
    struct wrote { uint64_t word; uint32_t launch, block, part; };      /* part: a bit a byte */

    /* f(what is known of a word, its number, the bytes of it) until it says true. */
    template <class F> static bool any_word(uint64_t address, uint64_t bytes, F f)
    {
        for (uint64_t a = address / 4; a <= (address + bytes - 1) / 4; a++) {
            const uint64_t from = a * 4 < address ? address - a * 4 : 0, to = address + bytes - a * 4;
            if (f(slot_of(a), a, (uint32_t)((to < 4 ? (1u << to) - 1 : 15u) & ~((1u << from) - 1)))) return true;
        }
        return false;
    }

    static uint64_t slot_of(uint64_t a) { return (a ^ a >> 20) & (KNOWN - 1); }

    uint32_t launch = 0, epoch = 0, block = 0;
    std::vector<word>  words;
    std::vector<wrote> written;
};

}

#endif
