/* ptx_matrix: mma and ldmatrix, from the manual's fragment layouts alone.
 *
 * D[16][8] = A[16][k] B[k][8] + C. group is lane / 4, member is lane % 4. A lane's i-th element of A, B
 * and C, low bits of the first register first, is the matrix's (row, column) of
 *
 *   k32 s8        A: group (+ 8 unless i < 4 or 8 <= i < 12), 4 member + i % 4 (+ 16 from i = 8)
 *                 B: 4 member + i % 4 (+ 16 from i = 4), group
 *   k16 s8        A: group (+ 8 from i = 4), 4 member + i % 4             B: 4 member + i, group
 *   k16 16 bits   A: group (+ 8 unless i < 2 or 4 <= i < 6), 2 member + i % 2 (+ 8 from i = 4)
 *                 B: 2 member + i % 2 (+ 8 from i = 2), group
 *   k8 tf32       A: group (+ 8 if i is odd), member (+ 4 from i = 2)     B: member + 4 i, group
 *   all           C, D: group (+ 8 from i = 2), 2 member + i % 2
 *
 * The manual leaves order and rounding of floating sums open, to single precision at least. Here they are in
 * double and then cut, as cards are known to do, so that what counts on rounding to nearest is found. */
#include <cmath>

#include "ptx_warp.h"

namespace ptx {
namespace {

struct place { int row, column; };

struct s8_k32 {
    typedef int32_t sum;
    enum { K = 32, A_WORDS = 4, B_WORDS = 2, IN_WORD = 4 };
    static place of_a(int g, int m, int i)
    {
        return { g + (i < 4 || (i >= 8 && i < 12) ? 0 : 8), 4 * m + (i & 3) + (i < 8 ? 0 : 16) };
    }
    static place of_b(int g, int m, int i) { return { 4 * m + (i & 3) + (i < 4 ? 0 : 16), g }; }
};
struct s8_k16 {
    typedef int32_t sum;
    enum { K = 16, A_WORDS = 2, B_WORDS = 1, IN_WORD = 4 };
    static place of_a(int g, int m, int i) { return { i < 4 ? g : g + 8, 4 * m + (i & 3) }; }
    static place of_b(int g, int m, int i) { return { 4 * m + i, g }; }
};
struct pairs_k16 {
    typedef float sum;
    enum { K = 16, A_WORDS = 4, B_WORDS = 2, IN_WORD = 2 };
    static place of_a(int g, int m, int i)
    {
        return { g + (i < 2 || (i >= 4 && i < 6) ? 0 : 8), 2 * m + (i & 1) + (i < 4 ? 0 : 8) };
    }
    static place of_b(int g, int m, int i) { return { 2 * m + (i & 1) + (i < 2 ? 0 : 8), g }; }
};
struct tf32_k8 {
    typedef float sum;
    enum { K = 8, A_WORDS = 4, B_WORDS = 2, IN_WORD = 1 };
    static place of_a(int g, int m, int i) { return { i % 2 ? g + 8 : g, i < 2 ? m : m + 4 }; }
    static place of_b(int g, int m, int i) { return { m + 4 * i, g }; }
};

int32_t s8_of(uint32_t w, int i) { return (int8_t)(w >> 8 * i); }
double bf16_of(uint32_t w, int i) { return get<float>((slot)(w >> 16 * i << 16)); }
double tf32_of(uint32_t w, int) { return get<float>(w & 0xffffe000u); }
double f16_of(uint32_t w, int i) { return of_half((uint16_t)(w >> 16 * i)); }

int32_t total(int32_t c, const int32_t *a, const int32_t *b, int k)
{
    uint32_t sum = (uint32_t)c;             /* wraps */
    for (int i = 0; i < k; i++) sum += (uint32_t)(a[i] * b[8 * i]);
    return (int32_t)sum;
}
float total(float c, const double *a, const double *b, int k)
{
    double sum = c;
    for (int i = 0; i < k; i++) sum += a[i] * b[8 * i];
    const float f = (float)sum;
    if (f != f) return get<float>(0x7fffffff);
    return fabs((double)f) > fabs(sum) ? nextafterf(f, 0.0f) : f;
}

template <class S, class N, N number(uint32_t, int)> void multiply(warp &w, const step &s, uint32_t)
{
    N a[16][S::K], b[S::K][8];
    typename S::sum d[4][LANES];
    const int32_t *ra = s.reg + 4, *rb = ra + S::A_WORDS, *rc = rb + S::B_WORDS;
    for (int lane = 0; lane < LANES; lane++) {
        const int g = lane >> 2, m = lane % 4;
        for (int i = 0; i < S::A_WORDS * S::IN_WORD; i++) {
            const place p = S::of_a(g, m, i);
            a[p.row][p.column] = number((uint32_t)w.at(ra[i / S::IN_WORD])[lane], i % S::IN_WORD);
        }
        for (int i = 0; i < S::B_WORDS * S::IN_WORD; i++) {
            const place p = S::of_b(g, m, i);
            b[p.row][p.column] = number((uint32_t)w.at(rb[i / S::IN_WORD])[lane], i % S::IN_WORD);
        }
    }
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) {
            const int row = (lane >> 2) + (i < 2 ? 0 : 8), column = 2 * (lane % 4) + (i & 1);
            d[i][lane] = total(get<typename S::sum>(w.at(rc[i])[lane]), a[row], &b[0][column], S::K);
        }
    for (int i = 0; i < 4; i++)
        for (int lane = 0; lane < LANES; lane++) w.at(s.reg[i])[lane] = put(d[i][lane]);
}

/* Four 8x8 matrices of 16 bits: lane 8 m + r has the address of row r of matrix m; a lane gets of each the
 * elements (lane / 4, 2 (lane % 4)) and the one right of it; turned, the matrix is transposed as it comes. */
template <bool turned> void load_matrices(warp &w, const step &s, uint32_t)
{
    uint16_t x[4][8][8];
    const slot *base = w.at(s.reg[4]);
    for (int lane = 0; lane < LANES; lane++)
        memcpy(x[lane / 8][lane % 8], to_read(w, s, lane, SPACE_SHARED, (uint32_t)base[lane] + (uint64_t)s.number, 16), 16);
    for (int m = 0; m < 4; m++)
        for (int lane = 0; lane < LANES; lane++) {
            const int r = lane / 4, c = 2 * (lane % 4);
            const uint32_t low = turned ? x[m][c][r] : x[m][r][c], high = turned ? x[m][c + 1][r] : x[m][r][c + 1];
            w.at(s.reg[m])[lane] = low | high << 16;
        }
}

}

void add_matrix(opcodes &o)
{
    const std::string mma = "mma.sync.aligned.", four = "{WWWW}{wwww}{ww}{wwww}";
    o.add({ mma + "m16n8k32.row.col.s32.s8.s8.s32", four, multiply<s8_k32, int32_t, s8_of>, FLOW_WARP });
    o.add({ mma + "m16n8k16.row.col.s32.s8.s8.s32", "{WWWW}{ww}{w}{wwww}", multiply<s8_k16, int32_t, s8_of>, FLOW_WARP });
    o.add({ mma + "m16n8k16.row.col.f32.f16.f16.f32", four, multiply<pairs_k16, double, f16_of>, FLOW_WARP });
    o.add({ mma + "m16n8k16.row.col.f32.bf16.bf16.f32", four, multiply<pairs_k16, double, bf16_of>, FLOW_WARP });
    o.add({ mma + "m16n8k8.row.col.f32.tf32.tf32.f32", four, multiply<tf32_k8, double, tf32_of>, FLOW_WARP });
    o.add({ "ldmatrix.sync.aligned.m8n8.x4.shared.b16", "{WWWW}[s]", load_matrices<false>, FLOW_WARP });
    o.add({ "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", "{WWWW}[s]", load_matrices<true>, FLOW_WARP });
}

}
