/* ptx_arithmetic: integers, bits, comparisons, predicates and floating point of one lane each.
 *
 * Floating point is the host's IEEE 754, to nearest even, with subnormals, fma in one rounding; a NaN
 * that a single-precision operation makes is 7fffffff. The .approx forms are off by about as much as the manual
 * lets a card be (2 ulp for div, 2^-22 for ex2), up, down or not at all as the operands' bits have it: what
 * asks for more than that is found, and equal operands have equal results. */
#include <cfloat>
#include <climits>
#include <cmath>

#include "ptx_warp.h"

namespace ptx {
namespace {

typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef float f32;
typedef double f64;

inline f32 canonical(f32 v) { return v == v ? v : get<f32>(0x7fffffff); }

/* What s, the nearest to an exact sum, is off by (Knuth's two-sum); its sign is all that is asked for. */
inline f64 error_of_sum(f64 a, f64 b, f64 s)
{
    const f64 t = s - a;
    return (a - (s - t)) + (b - t);
}
/* s + e, e smaller than any digit of s, rounded towards minus infinity or zero. */
inline f32 round_down(f64 s, f64 e)
{
    const f32 f = (f32)s;
    return f > s || (f == s && e < 0) ? nextafterf(f, -INFINITY) : f;
}
inline f32 round_to_zero(f64 s, f64 e)
{
    if (s < 0 || (s == 0 && e < 0)) return -round_down(-s, -e);
    return round_down(s, e);
}
inline f32 fma_down(f32 a, f32 b, f32 c)
{
    const f64 p = (f64)a * b, s = p + c;    /* a product of two floats is exact */
    return std::isfinite(s) ? round_down(s, error_of_sum(p, c, s)) : canonical((f32)s);
}
inline f32 add_to_zero(f32 a, f32 b)
{
    const f64 s = (f64)a + b;
    return std::isfinite(s) ? round_to_zero(s, error_of_sum(a, b, s)) : canonical((f32)s);
}
/* -1, 0 or 1, from the operands */
inline int any_way(u32 a, u32 b) { return (int)((a * 2654435761u ^ b * 2246822519u) >> 13) % 3 - 1; }
inline f32 divided_roughly(f32 a, f32 b)
{
    const f32 q = a / b;
    const int way = any_way(get<u32>(put(a)), get<u32>(put(b)));
    if (!(q - q == 0) || q == 0 || !way) return canonical(q);
    return nextafterf(q, way * INFINITY);      /* which was rounded already */
}
inline f32 exp2_flushed(f32 a)
{
    const f64 x = std::fpclassify(a) == FP_SUBNORMAL ? 0.0 : (f64)a;
    const f32 y = (f32)(exp2(x) * (1.0 + 0.7 * any_way(get<u32>(put(a)), 0) * 0x1p-22));
    return std::fpclassify(y) == FP_SUBNORMAL ? 0.0f : canonical(y);
}
/* The one that is a number; plus zero is above minus zero. */
template <class T> inline T larger(T a, T b)
{
    if (a != a) return b != b ? (T)NAN : b;
    if (b != b) return a;
    return a == b ? (std::signbit(a) ? b : a) : a > b ? a : b;
}
template <class T> inline T smaller(T a, T b)
{
    if (a != a) return b != b ? (T)NAN : b;
    if (b != b) return a;
    return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
}

template <class T> inline T shift_left(T a, u32 n) { return n >= 8 * sizeof(T) ? (T)0 : (T)(a << n); }
/* Signed ones fill with the sign. */
template <class T> inline T shift_right(T a, u32 n)
{
    if (n >= 8 * sizeof(T)) n = 8 * sizeof(T) - 1, a = (T)(a >> n), n = std::is_signed<T>::value ? 0 : 1;
    return (T)(a >> n);
}
template <class T> inline T insert_bits(T a, T b, u32 from, u32 n)
{
    const u32 width = 8 * sizeof(T);
    from &= 255, n &= 255;
    for (u32 i = 0; i < n && from + i < width; i++)
        b = (T)((b & ~((T)1 << (from + i))) | (a >> i & 1) << (from + i));
    return b;
}
inline u32 choose_bytes(u32 a, u32 b, u32 c)
{
    const u64 both = (u64)b << 32 | a;
    u32 d = 0;
    for (u32 i = 0; i < 4; i++) {
        const u32 by = c >> 4 * i & 15;
        u32 byte = (u32)(both >> 8 * (by & 7)) & 255;
        if (by & 8) byte = byte & 128 ? 255 : 0;
        d |= byte << 8 * i;
    }
    return d;
}
inline u32 reversed(u32 a)
{
    u32 d = 0;
    for (int i = 0; i < 32; i++) d |= (a >> i & 1) << (31 - i);
    return d;
}
inline s32 dot4(u32 a, u32 b, s32 c)
{
    u32 sum = (u32)c;
    for (int i = 0; i < 4; i++) sum += (u32)((s32)(s8)(a >> 8 * i) * (s32)(s8)(b >> 8 * i));
    return (s32)sum;
}
/* The shift amount that brings the highest one to the top. */
inline u32 shift_to_top(u32 a) { return a ? (u32)__builtin_clz(a) : 0xffffffffu; }

template <class T> inline T quotient(T a, T b) { return b == (T)-1 && std::is_signed<T>::value ? (T)(0 - (u64)a) : (T)(a / b); }
template <class T> inline T remainder(T a, T b) { return b == (T)-1 && std::is_signed<T>::value ? (T)0 : (T)(a % b); }

template <class T, T f(T, T)> void divide(warp &w, const step &s, uint32_t lanes)
{
    slot *d = w.at(s.reg[0]);
    const slot *a = w.at(s.reg[1]), *b = w.at(s.reg[2]);
    each_lane(lanes, [&](int l) {
        if (!get<T>(b[l])) fail(w, s, l, "a division by zero");
        d[l] = put<T>(f(get<T>(a[l]), get<T>(b[l])));
    });
}

template <class T, class F> void compare(warp &w, const step &s, uint32_t lanes, F f)
{
    const slot *a = w.at(s.reg[1]), *b = w.at(s.reg[2]);
    u32 r = 0;
    for (int l = 0; l < LANES; l++) r |= (u32)(f(get<T>(a[l]), get<T>(b[l])) ? 1 : 0) << l;
    w.set_predicate(s.reg[0], r, lanes);
}
template <class T> void choose(warp &w, const step &s, uint32_t lanes)
{
    slot *d = w.at(s.reg[0]);
    const slot *a = w.at(s.reg[1]), *b = w.at(s.reg[2]);
    const u32 c = w.predicate(s.reg[3]);
    each_lane(lanes, [=](int l) { d[l] = c >> l & 1 ? a[l] : b[l]; });
}

#define COMPARE(name, T, formula)                                             \
    o.add({ "setp." name, { 'P', letter<T>(), letter<T>() },                  \
            [](warp &w, const step &s, uint32_t lanes) { compare<T>(w, s, lanes, [](T a, T b) { return formula; }); } })
#define COMPARE_EQUAL(suffix, T) COMPARE("eq." suffix, T, a == b); COMPARE("ne." suffix, T, a != b)
#define COMPARE_ORDER(suffix, T)                                              \
    COMPARE("lt." suffix, T, a < b); COMPARE("le." suffix, T, a <= b);        \
    COMPARE("gt." suffix, T, a > b); COMPARE("ge." suffix, T, a >= b)
/* Without u a NaN makes it false, with u true; that holds for ne and neu too. */
#define COMPARE_FLOAT(suffix, T)                                              \
    COMPARE("eq." suffix, T, a == b); COMPARE("ne." suffix, T, a < b || a > b); COMPARE_ORDER(suffix, T); \
    COMPARE("equ." suffix, T, !(a < b || a > b)); COMPARE("neu." suffix, T, a != b); \
    COMPARE("ltu." suffix, T, !(a >= b)); COMPARE("leu." suffix, T, !(a > b)); \
    COMPARE("gtu." suffix, T, !(a <= b)); COMPARE("geu." suffix, T, !(a < b)); \
    COMPARE("num." suffix, T, a == a && b == b); COMPARE("nan." suffix, T, a != a || b != b)

#define PREDICATE(name, formula)                                              \
    o.add({ name, "Pp", [](warp &w, const step &s, uint32_t lanes) {          \
                const u32 a = w.predicate(s.reg[1]);                          \
                w.set_predicate(s.reg[0], formula, lanes); } })
#define PREDICATES(name, formula)                                             \
    o.add({ name, "Ppp", [](warp &w, const step &s, uint32_t lanes) {          \
                const u32 a = w.predicate(s.reg[1]), b = w.predicate(s.reg[2]); \
                w.set_predicate(s.reg[0], formula, lanes); } })
#define CHOOSE(name, T) o.add({ name, { letter_out<T>(), letter<T>(), letter<T>(), 'p' }, choose<T> })
#define DIVIDE(suffix, T)                                                     \
    o.add({ "div." suffix, { letter_out<T>(), letter<T>(), letter<T>() }, divide<T, quotient<T>> }); \
    o.add({ "rem." suffix, { letter_out<T>(), letter<T>(), letter<T>() }, divide<T, remainder<T>> })
/* Sums and products wrap; U is the unsigned type of the same size. */
#define WRAPPING(suffix, U)                                                   \
    ROW2("add." suffix, U, U, U, (U)(a + b)); ROW2("sub." suffix, U, U, U, (U)(a - b)); \
    ROW2("mul.lo." suffix, U, U, U, (U)((u64)a * b)); ROW3("mad.lo." suffix, U, U, U, U, (U)((u64)a * b + c))
#define EXTREMES(suffix, T) ROW2("min." suffix, T, T, T, a < b ? a : b); ROW2("max." suffix, T, T, T, a > b ? a : b)
#define BITS(suffix, U)                                                       \
    ROW2("and." suffix, U, U, U, (U)(a & b)); ROW2("or." suffix, U, U, U, (U)(a | b)); \
    ROW2("xor." suffix, U, U, U, (U)(a ^ b)); ROW1("not." suffix, U, U, (U)~a)

void add_integers(opcodes &o)
{
    WRAPPING("s16", u16); WRAPPING("u16", u16); WRAPPING("s32", u32); WRAPPING("u32", u32); WRAPPING("s64", u64);
    WRAPPING("u64", u64);
    EXTREMES("s16", s16); EXTREMES("u16", u16); EXTREMES("s32", s32); EXTREMES("u32", u32); EXTREMES("s64", s64);
    EXTREMES("u64", u64);
    DIVIDE("s32", s32); DIVIDE("u32", u32); DIVIDE("s64", s64); DIVIDE("u64", u64);
    ROW2("mul.wide.s16", s32, s16, s16, (s32)a * b);
    ROW2("mul.wide.u16", u32, u16, u16, (u32)a * b);
    ROW2("mul.wide.s32", s64, s32, s32, (s64)a * b);
    ROW2("mul.wide.u32", u64, u32, u32, (u64)a * b);
    ROW3("mad.wide.s32", s64, s32, s32, s64, (s64)((u64)((s64)a * b) + (u64)c));
    ROW3("mad.wide.u32", u64, u32, u32, u64, (u64)a * b + c);
    ROW2("mul.hi.s32", s32, s32, s32, (s32)((s64)a * b >> 32));
    ROW2("mul.hi.u32", u32, u32, u32, (u32)((u64)a * b >> 32));
    ROW1("neg.s16", u16, u16, (u16)(0u - a)); ROW1("neg.s32", u32, u32, 0u - a); ROW1("neg.s64", u64, u64, 0u - a);
    ROW1("abs.s32", u32, s32, a < 0 ? 0u - (u32)a : (u32)a);

    BITS("b16", u16); BITS("b32", u32); BITS("b64", u64);
    ROW2("shl.b16", u16, u16, u32, shift_left(a, b)); ROW2("shl.b32", u32, u32, u32, shift_left(a, b));
    ROW2("shl.b64", u64, u64, u32, shift_left(a, b));
    ROW2("shr.u16", u16, u16, u32, shift_right(a, b)); ROW2("shr.u32", u32, u32, u32, shift_right(a, b));
    ROW2("shr.u64", u64, u64, u32, shift_right(a, b)); ROW2("shr.s16", s16, s16, u32, shift_right(a, b));
    ROW2("shr.s32", s32, s32, u32, shift_right(a, b)); ROW2("shr.s64", s64, s64, u32, shift_right(a, b));
    ROW1("popc.b32", u32, u32, (u32)__builtin_popcount(a));
    ROW1("clz.b32", u32, u32, a ? (u32)__builtin_clz(a) : 32u);
    ROW1("brev.b32", u32, u32, reversed(a));
    ROW1("bfind.shiftamt.u32", u32, u32, shift_to_top(a));
    ROW3("prmt.b32", u32, u32, u32, u32, choose_bytes(a, b, c));
    ROW3("dp4a.s32.s32", s32, u32, u32, s32, dot4(a, b, c));
    o.add({ "bfi.b32", "Wwwww", [](warp &w, const step &s, uint32_t lanes) {
                const slot *n = w.at(s.reg[4]);
                slot *d = w.at(s.reg[0]);
                const slot *a = w.at(s.reg[1]), *b = w.at(s.reg[2]), *c = w.at(s.reg[3]);
                each_lane(lanes, [=](int l) { d[l] = insert_bits((u32)a[l], (u32)b[l], (u32)c[l], (u32)n[l]); }); } });
    o.add({ "bfi.b64", "Xxxww", [](warp &w, const step &s, uint32_t lanes) {
                const slot *n = w.at(s.reg[4]);
                slot *d = w.at(s.reg[0]);
                const slot *a = w.at(s.reg[1]), *b = w.at(s.reg[2]), *c = w.at(s.reg[3]);
                each_lane(lanes, [=](int l) { d[l] = insert_bits((u64)a[l], (u64)b[l], (u32)c[l], (u32)n[l]); }); } });
}

void add_choices(opcodes &o)
{
    COMPARE_EQUAL("b16", u16); COMPARE_EQUAL("b32", u32); COMPARE_EQUAL("b64", u64);
    COMPARE_EQUAL("s16", u16); COMPARE_EQUAL("s32", u32); COMPARE_EQUAL("s64", u64);
    COMPARE_EQUAL("u16", u16); COMPARE_EQUAL("u32", u32); COMPARE_EQUAL("u64", u64);
    COMPARE_ORDER("s16", s16); COMPARE_ORDER("s32", s32); COMPARE_ORDER("s64", s64);
    COMPARE_ORDER("u16", u16); COMPARE_ORDER("u32", u32); COMPARE_ORDER("u64", u64);
    COMPARE_FLOAT("f32", f32); COMPARE_FLOAT("f64", f64);
    PREDICATES("and.pred", a & b); PREDICATES("or.pred", a | b); PREDICATES("xor.pred", a ^ b);
    PREDICATE("not.pred", ~a); PREDICATE("mov.pred", a);
    CHOOSE("selp.b16", u16); CHOOSE("selp.u16", u16); CHOOSE("selp.s16", u16); CHOOSE("selp.b32", u32);
    CHOOSE("selp.u32", u32); CHOOSE("selp.s32", u32); CHOOSE("selp.f32", u32); CHOOSE("selp.b64", u64);
    CHOOSE("selp.u64", u64); CHOOSE("selp.s64", u64); CHOOSE("selp.f64", u64);
}

void add_floats(opcodes &o)
{
    ROW2("add.f32", f32, f32, f32, canonical(a + b)); ROW2("add.rn.f32", f32, f32, f32, canonical(a + b));
    ROW2("sub.f32", f32, f32, f32, canonical(a - b)); ROW2("sub.rn.f32", f32, f32, f32, canonical(a - b));
    ROW2("mul.f32", f32, f32, f32, canonical(a * b)); ROW2("mul.rn.f32", f32, f32, f32, canonical(a * b));
    ROW2("div.rn.f32", f32, f32, f32, canonical(a / b)); ROW2("div.approx.f32", f32, f32, f32, divided_roughly(a, b));
    ROW1("rcp.rn.f32", f32, f32, canonical(1.0f / a)); ROW1("sqrt.rn.f32", f32, f32, canonical(sqrtf(a)));
    ROW3("fma.rn.f32", f32, f32, f32, f32, canonical(fmaf(a, b, c)));
    ROW3("fma.rm.f32", f32, f32, f32, f32, fma_down(a, b, c));
    ROW2("add.rz.f32", f32, f32, f32, add_to_zero(a, b));
    ROW1("ex2.approx.ftz.f32", f32, f32, exp2_flushed(a));
    ROW2("max.f32", f32, f32, f32, canonical(larger(a, b))); ROW2("min.f32", f32, f32, f32, canonical(smaller(a, b)));
    ROW1("neg.f32", u32, u32, a ^ 0x80000000u); ROW1("abs.f32", u32, u32, a & 0x7fffffffu);
    ROW2("copysign.f32", u32, u32, u32, (a & 0x80000000u) | (b & 0x7fffffffu));

    ROW2("add.f64", f64, f64, f64, a + b); ROW2("add.rn.f64", f64, f64, f64, a + b);
    ROW2("sub.f64", f64, f64, f64, a - b); ROW2("sub.rn.f64", f64, f64, f64, a - b);
    ROW2("mul.f64", f64, f64, f64, a * b); ROW2("mul.rn.f64", f64, f64, f64, a * b);
    ROW2("div.rn.f64", f64, f64, f64, a / b); ROW1("rcp.rn.f64", f64, f64, 1.0 / a);
    ROW1("sqrt.rn.f64", f64, f64, sqrt(a)); ROW3("fma.rn.f64", f64, f64, f64, f64, fma(a, b, c));
    ROW1("neg.f64", u64, u64, a ^ 0x8000000000000000u); ROW1("abs.f64", u64, u64, a & 0x7fffffffffffffffu);
}

}

void add_arithmetic(opcodes &o)
{
    add_integers(o);
    add_choices(o);
    add_floats(o);
}

}
