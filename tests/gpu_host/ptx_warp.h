/* ptx_warp: a block at work, as instructions see it. */
#ifndef TESTS_GPU_HOST_PTX_WARP_H
#define TESTS_GPU_HOST_PTX_WARP_H

#include <cstring>

#include "lane_runner.h"
#include "ptx_program.h"
#include "ptx_watch.h"

namespace ptx {

/* A copy that is under way; `group` counts its lane's commits before it. */
struct copy { uint32_t lane, to; const uint8_t *from; uint32_t bytes, group; };

/* Lanes that are at one step. */
struct group { uint32_t pc, lanes; bool waiting; };

struct block {
    const program *p;
    lane_order     order;
    uint64_t       random;
    unsigned       place[3];
    const uint8_t *param;
    std::vector<uint8_t> shared;
    watch          seen;

    /* 0 .. n-1 */
    unsigned random_below(unsigned n)
    {
        random = random * 6364136223846793005u + 1442695040888963407u;
        return (unsigned)(random >> 33) % n;
    }
};

struct warp {
    block    *b;
    unsigned  first;                        /* its first thread */
    slot     *regs;
    std::vector<group> groups;
    bool      at_barrier;
    bool      waited;                       /* for the kernel before this one */
    unsigned  syncs;                        /* bar.warp.sync so far           */
    std::vector<uint8_t> local;             /* of all lanes, one behind the other */
    std::vector<copy>    copies;
    uint32_t  committed[LANES];
    uint64_t  steps;

    slot     *at(int32_t r) { return regs + (size_t)r * LANES; }
    uint32_t  predicate(int32_t r) { return (uint32_t)*at(r); }
    void      set_predicate(int32_t r, uint32_t value, uint32_t lanes)
    {
        slot *d = at(r);
        *d = ((uint32_t)*d & ~lanes) | (value & lanes);
    }
    uint32_t alive() const
    {
        uint32_t all = 0;
        for (const group &g : groups) all |= g.lanes;
        return all;
    }
};

[[noreturn]] void fail(const warp &w, const step &s, int lane, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Where the bytes at an address are; ends the process where a card would fault. */
uint8_t *locate(warp &w, const step &s, int lane, space where, uint64_t address, uint64_t bytes);
/* The same to read them, or to write these; ends the process where that races (ptx_watch.h). */
const uint8_t *to_read(warp &w, const step &s, int lane, space where, uint64_t address, uint64_t bytes);
void write(warp &w, const step &s, int lane, space where, uint64_t address, uint64_t bytes, const void *from);

float of_half(uint16_t bits);               /* binary16 */

template <class T> static inline T get(slot v)
{
    T t;
    memcpy(&t, &v, sizeof t);               /* the low bytes: hosts are little-endian, as cards are */
    return t;
}
template <class T> static inline slot put(T t)
{
    slot v = 0;
    memcpy(&v, &t, sizeof t);
    return v;
}

/* f over the lanes; results of one lane never depend on another's, so d may be one of the sources. */
template <class F> static inline void each_lane(uint32_t lanes, F f)
{
    if (lanes == ALL) {
#pragma GCC ivdep
        for (int l = 0; l < LANES; l++) f(l);
    } else {
        for (uint32_t left = lanes; left; left &= left - 1) f(__builtin_ctz(left));
    }
}

template <class T> static inline char letter(void)
{
    return sizeof(T) == 1 ? 'b' : sizeof(T) == 2 ? 'h' : sizeof(T) == 4 ? 'w' : 'x';
}
template <class T> static inline char letter_out(void) { return (char)(letter<T>() - 'a' + 'A'); }

/* d = f(a), d = f(a, b), d = f(a, b, c) */
template <class D, class A, class F> static inline void each1(warp &w, const step &s, uint32_t lanes, F f)
{
    slot *d = w.at(s.reg[0]);
    const slot *a = w.at(s.reg[1]);
    each_lane(lanes, [=](int l) { d[l] = put<D>(f(get<A>(a[l]))); });
}
template <class D, class A, class B, class F> static inline void each2(warp &w, const step &s, uint32_t lanes, F f)
{
    slot *d = w.at(s.reg[0]);
    const slot *a = w.at(s.reg[1]), *b = w.at(s.reg[2]);
    each_lane(lanes, [=](int l) { d[l] = put<D>(f(get<A>(a[l]), get<B>(b[l]))); });
}
template <class D, class A, class B, class C, class F> static inline void each3(warp &w, const step &s, uint32_t lanes, F f)
{
    slot *d = w.at(s.reg[0]);
    const slot *a = w.at(s.reg[1]), *b = w.at(s.reg[2]), *c = w.at(s.reg[3]);
    each_lane(lanes, [=](int l) { d[l] = put<D>(f(get<A>(a[l]), get<B>(b[l]), get<C>(c[l]))); });
}

/* Rows of the table of instructions: types of result and operands, and a formula of a, b, c. */
#define ROW1(name, D, A, formula)                                             \
    o.add({ name, { letter_out<D>(), letter<A>() },                           \
            [](warp &w, const step &s, uint32_t lanes) { each1<D, A>(w, s, lanes, [](A a) -> D { return formula; }); } })
#define ROW2(name, D, A, B, formula)                                          \
    o.add({ name, { letter_out<D>(), letter<A>(), letter<B>() },              \
            [](warp &w, const step &s, uint32_t lanes) {                      \
                each2<D, A, B>(w, s, lanes, [](A a, B b) -> D { return formula; }); } })
#define ROW3(name, D, A, B, C, formula)                                       \
    o.add({ name, { letter_out<D>(), letter<A>(), letter<B>(), letter<C>() }, \
            [](warp &w, const step &s, uint32_t lanes) {                      \
                each3<D, A, B, C>(w, s, lanes, [](A a, B b, C c) -> D { return formula; }); } })

}

#endif
