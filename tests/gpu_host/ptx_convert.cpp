/* ptx_convert: mov in its forms, and cvt. */
#include <cmath>
#include <limits>

#include "ptx_warp.h"

namespace ptx {

float of_half(uint16_t h)
{
    const int e = h >> 10 & 31, m = h & 1023;
    const float x = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf((float)(1024 + m), e - 25) : ldexpf((float)m, -24);
    if (x != x) return get<float>(0x7fffffff);
    return h & 0x8000 ? -x : x;
}

namespace {

/* To nearest even, from the format's definition: 10 bits of mantissa, exponents -14..15, steps of 2^-24 below. */
uint16_t half_of(float f)
{
    const uint32_t u = get<uint32_t>(put(f));
    const uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    if (f != f) return 0x7fff;
    const double x = fabs((double)f);
    if (x >= 65520.0) return (uint16_t)(sign | 0x7c00u);
    if (x == 0.0) return sign;
    int e = 0;
    frexp(x, &e);                                       /* x is below 2^e */
    const int digit = (e - 1 < -14 ? -14 : e - 1) - 10; /* the last one's power */
    const double n = nearbyint(ldexp(x, -digit));       /* exact but for the rounding that is meant */
    /* A mantissa that rounds up to the next power carries into the exponent by itself. */
    return (uint16_t)(sign | ((unsigned)(digit + 24) * 1024u + (unsigned)n));
}
/* Nearest, ties away from zero, with 10 bits of mantissa; the unit does not look at the other 13. */
uint32_t tf32_of(uint32_t u)
{
    if ((u & 0x7f800000u) == 0x7f800000u) return u & 0x7fffffu ? 0x7fffffffu : u;
    return (u + 0x1000u) & 0xffffe000u;
}
/* Out of range: the nearest there is; NaN: zero, or the smallest where there are 64 bits. */
template <class I, class F> I to_integer(F x)
{
    const F low = (F)std::numeric_limits<I>::min(), high = (F)std::numeric_limits<I>::max();
    if (x != x) return sizeof(I) == 8 ? (I)0x8000000000000000u : (I)0;
    if (x <= low) return std::numeric_limits<I>::min();
    return x >= high ? std::numeric_limits<I>::max() : (I)x;
}
inline float saturated(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
inline float known_nan(float a) { return a == a ? a : get<float>(0x7fffffff); }

/* The source's register may be longer than what is read of it; a result is of its register's length. */
#define CONVERT(name, D, A, formula)                                          \
    o.add({ "cvt." name, { letter_out<D>(), letter<A>(), '+' },               \
            [](warp &w, const step &s, uint32_t lanes) { each1<D, A>(w, s, lanes, [](A a) -> D { return formula; }); } })
/* Results of 8 and 16 bits may go to longer registers, extended: all of the slot is written. */
#define WIDEN(name, D, A)                                                     \
    o.add({ "cvt." name, { letter_out<D>(), '+', letter<A>(), '+' },          \
            [](warp &w, const step &s, uint32_t lanes) {                      \
                each1<int64_t, A>(w, s, lanes, [](A a) -> int64_t { return (int64_t)(D)a; }); } })

template <class T> void join(warp &w, const step &s, uint32_t lanes)
{
    slot *d = w.at(s.reg[0]);
    const slot *a = w.at(s.reg[1]), *b = w.at(s.reg[2]);
    each_lane(lanes, [=](int l) { d[l] = put<T>(get<T>(a[l])) | put<T>(get<T>(b[l])) << 8 * sizeof(T); });
}
template <class T> void split(warp &w, const step &s, uint32_t lanes)
{
    slot *low = w.at(s.reg[0]), *high = w.at(s.reg[1]);
    const slot *a = w.at(s.reg[2]);
    each_lane(lanes, [=](int l) {
        const slot v = a[l];
        low[l] = put<T>(get<T>(v));
        high[l] = put<T>(get<T>(v >> 8 * sizeof(T)));
    });
}

void add_moves(opcodes &o)
{
    for (const char *type : { "b16", "u16", "s16" }) ROW1(std::string("mov.") + type, uint16_t, uint16_t, a);
    for (const char *type : { "b32", "u32", "s32", "f32" }) ROW1(std::string("mov.") + type, uint32_t, uint32_t, a);
    for (const char *type : { "b64", "u64", "s64", "f64" }) ROW1(std::string("mov.") + type, uint64_t, uint64_t, a);
    o.add({ "mov.b32", "W{hh}", join<uint16_t> });
    o.add({ "mov.b32", "{HH}w", split<uint16_t> });
    o.add({ "mov.b64", "X{ww}", join<uint32_t> });
    o.add({ "mov.b64", "{WW}x", split<uint32_t> });
    /* Device addresses are generic ones here too. */
    ROW1("cvta.to.global.u64", uint64_t, uint64_t, a);
}

}

void add_conversions(opcodes &o)
{
    add_moves(o);
    WIDEN("u16.u32", uint16_t, uint32_t); WIDEN("u16.u64", uint16_t, uint64_t); WIDEN("s16.s8", int16_t, int8_t);
    WIDEN("u16.u8", uint16_t, uint8_t);
    CONVERT("s32.s8", int32_t, int8_t, a); CONVERT("s32.s16", int32_t, int16_t, a); CONVERT("u32.u16", uint32_t, uint16_t, a);
    CONVERT("u32.u8", uint32_t, uint8_t, a); CONVERT("u32.u64", uint32_t, uint64_t, (uint32_t)a);
    CONVERT("s64.s32", int64_t, int32_t, a); CONVERT("s64.s16", int64_t, int16_t, a); CONVERT("s64.s8", int64_t, int8_t, a);
    CONVERT("u64.u32", uint64_t, uint32_t, a); CONVERT("u64.u16", uint64_t, uint16_t, a);

    CONVERT("rn.f32.s8", float, int8_t, (float)a); CONVERT("rn.f32.u8", float, uint8_t, (float)a);
    CONVERT("rn.f32.s16", float, int16_t, (float)a); CONVERT("rn.f32.u16", float, uint16_t, (float)a);
    CONVERT("rn.f32.s32", float, int32_t, (float)a); CONVERT("rn.f32.u32", float, uint32_t, (float)a);
    CONVERT("rn.f32.s64", float, int64_t, (float)a); CONVERT("rn.f64.s32", double, int32_t, a);
    CONVERT("rni.f32.f32", float, float, known_nan(nearbyintf(a))); CONVERT("rzi.f32.f32", float, float, known_nan(truncf(a)));
    CONVERT("rmi.f32.f32", float, float, known_nan(floorf(a))); CONVERT("rpi.f32.f32", float, float, known_nan(ceilf(a)));
    CONVERT("rni.f64.f64", double, double, nearbyint(a)); CONVERT("rzi.f64.f64", double, double, trunc(a));
    CONVERT("rzi.s32.f32", int32_t, float, to_integer<int32_t>(a));
    CONVERT("rni.s32.f32", int32_t, float, to_integer<int32_t>(nearbyintf(a)));
    CONVERT("rzi.u32.f32", uint32_t, float, to_integer<uint32_t>(a));
    CONVERT("rzi.s64.f64", int64_t, double, to_integer<int64_t>(a));
    CONVERT("sat.f32.f32", float, float, saturated(a));
    CONVERT("f64.f32", double, float, (double)a); CONVERT("rn.f32.f64", float, double, known_nan((float)a));
    CONVERT("f32.f16", float, uint16_t, of_half(a)); CONVERT("rn.f16.f32", uint16_t, float, half_of(a));
    CONVERT("rna.tf32.f32", uint32_t, uint32_t, tf32_of(a));
}

}
