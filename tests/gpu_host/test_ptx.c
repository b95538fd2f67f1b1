/* The executor of PTX itself: instructions against values worked out from the manual, by hand, and the
 * mistakes that it must not overlook. With DS4_TEST_PTX: that it understands all of those files. */
#include "ends.h"
#include "ptx_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const lane_order orders[] = { LANES_FORWARD, LANES_BACKWARD, LANES_SHUFFLED };

typedef struct { uint64_t in, out; } ptx_args;

static uint64_t device(const void *p) { return (uint64_t)(uintptr_t)p | LANE_ADDRESS; }

static const char *target = "sm_80";

/* A kernel t(in, out) of `body`: registers of every kind, %in and %out; %t is the thread's number. */
static const char *kernel_file(const char *body)
{
    static int n;
    char name[32];
    snprintf(name, sizeof name, "body%d.ptx", n++);
    const char *path = test_scratch(name);
    FILE *f = fopen(path, "w");
    fprintf(f, "//\n.version 9.0\n.target %s\n.address_size 64\n"
               ".extern .shared .align 16 .b8 dynamic[];\n"
               ".global .align 4 .u16 table[3] = {1, 2, 65535};\n"
               ".visible .entry t(\n\t.param .align 8 .b8 t_param_0[16]\n)\n.maxntid 64, 1, 1\n{\n"
               "\t.reg .pred %%p<8>;\n\t.reg .b16 %%h<8>;\n\t.reg .b32 %%w<24>;\n\t.reg .b64 %%x<8>;\n"
               "\t.reg .b32 %%t;\n\t.reg .b64 %%in;\n\t.reg .b64 %%out;\n"
               "\t.shared .align 16 .b8 room[4096];\n\t.local .align 8 .b8 own[16];\n"
               "\tld.param.u64 %%in, [t_param_0];\n\tld.param.u64 %%out, [t_param_0+8];\n\tmov.u32 %%t, %%tid.x;\n"
               "%s\n\tret;\n}\n", target, body);
    fclose(f);
    return path;
}

static void run(const char *path, unsigned threads, unsigned shared, const void *in, void *out, lane_order order)
{
    const ptx_args a = { device(in), device(out) };
    ptx_run_file(path, "t", (unsigned[]){ 1, 1, 1 }, threads, shared, &a, sizeof a, order);
}

/* ---- one lane's instructions --------------------------------------------------------------------- */

/* a, b, c are in %w1 %w2 %w3 and their low halves in %h1 %h2 %h3, and in %x1 %x2 %x3; the result comes in %w0,
 * or in %x0, %h0 or %p0 where the other two are zero. */
typedef struct { const char *text; uint64_t a, b, c, want; } row;

static const row rows[] = {
    { "add.s32 %w0, %w1, %w2;", 0xffffffff, 2, 0, 1 },
    { "sub.s32 %w0, %w1, %w2;", 1, 3, 0, 0xfffffffe },
    { "mul.lo.s32 %w0, %w1, %w2;", 0x10001, 0x10001, 0, 0x20001 },
    { "mad.lo.s32 %w0, %w1, %w2, %w3;", 3, 0xffffffff, 10, 7 },
    { "mul.wide.s32 %x0, %w1, %w2;", 0xffffffff, 5, 0, 0xfffffffffffffffb },
    { "mul.wide.u32 %x0, %w1, %w2;", 0xffffffff, 5, 0, 0x4fffffffb },
    { "mul.wide.u16 %w0, %h1, %h2;", 0xffff, 0xffff, 0, 0xfffe0001 },
    { "add.s64 %x0, %x1, -1;", 0, 0, 0, 0xffffffffffffffff },
    { "mul.lo.s64 %x0, %x1, %x2;", 0x100000000, 0x300000001, 0, 0x100000000 },
    { "div.s32 %w0, %w1, %w2;", 0xfffffff9, 2, 0, 0xfffffffd },          /* -7 / 2 = -3 */
    { "rem.s32 %w0, %w1, %w2;", 0xfffffff9, 2, 0, 0xffffffff },
    { "div.u32 %w0, %w1, %w2;", 0xfffffff9, 2, 0, 0x7ffffffc },
    { "min.s32 %w0, %w1, %w2;", 0x80000000, 1, 0, 0x80000000 },
    { "max.u32 %w0, %w1, %w2;", 0x80000000, 1, 0, 0x80000000 },
    { "neg.s32 %w0, %w1;", 5, 0, 0, 0xfffffffb },
    { "not.b32 %w0, %w1;", 0xf0f0f0f0, 0, 0, 0x0f0f0f0f },
    { "xor.b32 %w0, %w1, %w2;", 0xff00ff00, 0x0ff00ff0, 0, 0xf0f0f0f0 },
    { "shl.b32 %w0, %w1, %w2;", 3, 31, 0, 0x80000000 },
    { "shl.b32 %w0, %w1, %w2;", 3, 32, 0, 0 },                           /* amounts are not taken modulo 32 */
    { "shr.u32 %w0, %w1, %w2;", 0x80000000, 31, 0, 1 },
    { "shr.u32 %w0, %w1, %w2;", 0x80000000, 40, 0, 0 },
    { "shr.s32 %w0, %w1, %w2;", 0x80000000, 40, 0, 0xffffffff },
    { "shr.s16 %h0, %h1, 4;", 0x8000, 0, 0, 0xf800 },
    { "shr.s64 %x0, %x1, 60;", 0x8000000000000000, 0, 0, 0xfffffffffffffff8 },
    { "popc.b32 %w0, %w1;", 0xf00f0001, 0, 0, 9 },
    { "brev.b32 %w0, %w1;", 0x00000016, 0, 0, 0x68000000 },
    { "bfind.shiftamt.u32 %w0, %w1;", 0x00010000, 0, 0, 15 },
    { "bfind.shiftamt.u32 %w0, %w1;", 0, 0, 0, 0xffffffff },
    { "bfi.b32 %w0, %w1, %w2, 8, 4;", 0xabcdef, 0x11111111, 0, 0x11111f11 },
    { "bfi.b32 %w0, %w1, %w2, 28, 8;", 0xff, 0, 0, 0xf0000000 },         /* what does not fit is lost */
    { "bfi.b64 %x0, %x1, %x2, 32, 32;", 0x12345678, 0x9abcdef0, 0, 0x123456789abcdef0 },
    { "prmt.b32 %w0, %w1, %w2, 0x7531;", 0x33221100, 0x77665544, 0, 0x77553311 },
    { "prmt.b32 %w0, %w1, %w2, %w3;", 0x0080ff01, 0, 0x3a98, 0x00ffff00 },  /* 8 more: the byte's sign, eight times */
    { "dp4a.s32.s32 %w0, %w1, %w2, %w3;", 0x01ff8002, 0x7f028003, 100, 100 + 2 * 3 + 16384 - 2 + 127 },
    { "setp.lt.s32 %p0, %w1, %w2;", 0xffffffff, 0, 0, 1 },
    { "setp.lt.u32 %p0, %w1, %w2;", 0xffffffff, 0, 0, 0 },
    { "setp.eq.s16 %p0, %h1, 7;", 0x10007, 0, 0, 1 },
    { "setp.ne.f32 %p0, %w1, %w2;", 0x7fc00000, 0, 0, 0 },               /* ordered: false with a NaN */
    { "setp.neu.f32 %p0, %w1, %w2;", 0x7fc00000, 0, 0, 1 },
    { "setp.leu.f32 %p0, %w1, %w2;", 0x7fc00000, 0, 0, 1 },
    { "setp.nan.f32 %p0, %w1, %w2;", 0x7fc00000, 0, 0, 1 },
    { "setp.eq.f32 %p0, %w1, %w2;", 0x80000000, 0, 0, 1 },
    { "setp.eq.s32 %p1, %w1, %w2;\n selp.b32 %w0, 7, 9, %p1;", 4, 4, 0, 7 },
    { "setp.eq.s32 %p1, %w1, %w2;\n not.pred %p2, %p1;\n or.pred %p3, %p1, %p2;\n xor.pred %p0, %p3, %p2;", 4, 4, 0, 1 },
    { "mov.pred %p0, -1;", 0, 0, 0, 1 },
    /* 1 + 2^-24 is a tie to even; a fused product keeps what a rounded one loses */
    { "add.f32 %w0, %w1, %w2;", 0x3f800000, 0x33800000, 0, 0x3f800000 },
    { "fma.rn.f32 %w0, %w1, %w2, %w3;", 0x3f800001, 0x3f800001, 0xbf800002, 0x28800000 },
    { "fma.rm.f32 %w0, %w1, %w2, %w3;", 0x3f800000, 0x3f800000, 0xa8800000, 0x3f7fffff },  /* a little below 1 */
    { "add.rz.f32 %w0, %w1, %w2;", 0x3f800000, 0x337fffff, 0, 0x3f800000 },
    { "add.rz.f32 %w0, %w1, %w2;", 0xbf800000, 0x28800000, 0, 0xbf7fffff },
    { "mul.f32 %w0, %w1, %w2;", 0x00800000, 0x3f000000, 0, 0x00400000 }, /* subnormals stay */
    { "mul.f32 %w0, %w1, %w2;", 0x7f800000, 0, 0, 0x7fffffff },          /* a card's NaN */
    { "div.rn.f32 %w0, %w1, %w2;", 0x3f800000, 0x40400000, 0, 0x3eaaaaab },
    { "sqrt.rn.f32 %w0, %w1;", 0x40000000, 0, 0, 0x3fb504f3 },
    { "ex2.approx.ftz.f32 %w0, %w1;", 0xc2fe0000, 0, 0, 0 },             /* 2^-127 is flushed */
    { "max.f32 %w0, %w1, %w2;", 0x7fc00000, 0xc0000000, 0, 0xc0000000 },
    { "max.f32 %w0, %w1, %w2;", 0x80000000, 0, 0, 0 },
    { "copysign.f32 %w0, %w1, %w2;", 0x80000000, 0x40000000, 0, 0xc0000000 },
    { "neg.f32 %w0, %w1;", 0x7fc00000, 0, 0, 0xffc00000 },
    { "fma.rn.f64 %x0, %x1, %x2, %x3;", 0x3ff0000000000001, 0x3ff0000000000001, 0xbff0000000000002, 0x3970000000000000 },
    { "cvt.s64.s32 %x0, %w1;", 0x80000000, 0, 0, 0xffffffff80000000 },
    { "cvt.u64.u32 %x0, %w1;", 0x80000000, 0, 0, 0x80000000 },
    { "cvt.s16.s8 %h0, %h1;", 0x1280, 0, 0, 0xff80 },                    /* the low byte alone is read */
    { "cvt.s32.s8 %w0, %w1;", 0x1280, 0, 0, 0xffffff80 },
    { "cvt.u16.u32 %h0, %w1;", 0x12345678, 0, 0, 0x5678 },
    { "cvt.rn.f32.s32 %w0, %w1;", 0x01000001, 0, 0, 0x4b800000 },        /* 2^24 + 1 ties to even */
    { "cvt.rzi.s32.f32 %w0, %w1;", 0xc0200000, 0, 0, 0xfffffffe },
    { "cvt.rzi.s32.f32 %w0, %w1;", 0x7f000000, 0, 0, 0x7fffffff },
    { "cvt.rzi.s32.f32 %w0, %w1;", 0x7fc00000, 0, 0, 0 },
    { "cvt.rni.f32.f32 %w0, %w1;", 0x40200000, 0, 0, 0x40000000 },       /* 2.5 to 2 */
    { "cvt.sat.f32.f32 %w0, %w1;", 0x7fc00000, 0, 0, 0 },
    { "cvt.sat.f32.f32 %w0, %w1;", 0x40000000, 0, 0, 0x3f800000 },
    { "cvt.f32.f16 %w0, %h1;", 0x0001, 0, 0, 0x33800000 },               /* 2^-24 */
    { "cvt.f32.f16 %w0, %h1;", 0xc500, 0, 0, 0xc0a00000 },               /* -5 */
    { "cvt.rn.f16.f32 %h0, %w1;", 0, 0, 0, 0 },
    { "cvt.rn.f16.f32 %h0, %w1;", 0x3f802000, 0, 0, 0x3c01 },            /* 1 + 2^-10 */
    { "cvt.rn.f16.f32 %h0, %w1;", 0x3f801000, 0, 0, 0x3c00 },            /* a tie */
    { "cvt.rn.f16.f32 %h0, %w1;", 0x387fffff, 0, 0, 0x0400 },            /* up to the smallest normal one */
    { "cvt.rn.f16.f32 %h0, %w1;", 0xc77ff000, 0, 0, 0xfc00 },            /* beyond the largest */
    { "cvt.rna.tf32.f32 %w0, %w1;", 0x3f801000, 0, 0, 0x3f802000 },      /* ties go away from zero */
    { "cvt.rn.f32.f64 %w0, %x1;", 0x3ff0000010000000, 0, 0, 0x3f800000 },
    { "cvt.rzi.s64.f64 %x0, %x1;", 0xc00e000000000000, 0, 0, 0xfffffffffffffffd },
    { "mov.b64 %x0, {%w1, %w2};", 1, 2, 0, 0x200000001 },
    { "mov.b64 {%w4, %w0}, %x1;", 0x1234567800000000, 0, 0, 0x12345678 },
    { "mov.b32 {%h4, %h0}, %w1;", 0x12345678, 0, 0, 0x1234 },
    { "ld.global.u16 %w0, [table+4];", 0, 0, 0, 65535 },
    { "mov.u64 %x4, table;\n ld.global.s16 %w0, [%x4+4];", 0, 0, 0, 0xffffffff },
    { "mov.u64 %x4, own;\n st.local.u64 [%x4+8], %x1;\n ld.local.u32 %w0, [own+12];", 0x700000000, 0, 0, 7 },
    { "{\n .reg .b32 %t;\n mov.u32 %t, 5;\n add.s32 %w0, %t, 1;\n }", 0, 0, 0, 6 },
};
enum { ROWS = sizeof rows / sizeof rows[0] };

TEST(instructions_of_one_lane_have_the_manuals_values)
{
    static char body[128 * 1024];
    static uint64_t in[3 * ROWS], out[ROWS];
    size_t n = 0;
    for (int i = 0; i < ROWS; i++) {
        in[3 * i] = rows[i].a, in[3 * i + 1] = rows[i].b, in[3 * i + 2] = rows[i].c;
        for (int k = 0; k < 3; k++)
            n += (size_t)snprintf(body + n, sizeof body - n, "ld.global.u64 %%x%d, [%%in+%d];\nld.global.u32 %%w%d, [%%in+%d];\n"
                                  "ld.global.u16 %%h%d, [%%in+%d];\n", k + 1, 24 * i + 8 * k, k + 1, 24 * i + 8 * k, k + 1, 24 * i + 8 * k);
        n += (size_t)snprintf(body + n, sizeof body - n, "mov.u32 %%w0, 0;\nmov.u64 %%x0, 0;\n"
                              "mov.u16 %%h0, 0;\nmov.pred %%p0, 0;\n%s\n"
                              "cvt.u64.u32 %%x5, %%w0;\nor.b64 %%x0, %%x0, %%x5;\ncvt.u64.u16 %%x5, %%h0;\nor.b64 %%x0, %%x0, %%x5;\n"
                              "selp.b64 %%x5, 1, 0, %%p0;\nor.b64 %%x0, %%x0, %%x5;\nst.global.u64 [%%out+%d], %%x0;\n",
                              rows[i].text, 8 * i);
    }
    run(kernel_file(body), 32, 0, in, out, LANES_FORWARD);
    for (int i = 0; i < ROWS; i++)
        if (out[i] != rows[i].want)
            test_fail(__FILE__, __LINE__, "%s of %llx, %llx, %llx is %llx, want %llx", rows[i].text,
                      (unsigned long long)rows[i].a, (unsigned long long)rows[i].b, (unsigned long long)rows[i].c,
                      (unsigned long long)out[i], (unsigned long long)rows[i].want);
}

TEST(approximations_are_as_near_as_the_manual_says_and_no_nearer)
{
    static float in[64], out[64];
    int off = 0;
    for (int i = 0; i < 32; i++) in[i] = -3.0f + 0.21f * (float)i, in[32 + i] = 1.0f + 0.37f * (float)i;
    run(kernel_file("mul.wide.u32 %x1, %t, 4;\nadd.s64 %x2, %in, %x1;\nadd.s64 %x3, %out, %x1;\nld.global.f32 %w1, [%x2];\n"
                    "ld.global.f32 %w2, [%x2+128];\nex2.approx.ftz.f32 %w0, %w1;\nst.global.f32 [%x3], %w0;\n"
                    "div.approx.f32 %w0, %w1, %w2;\nst.global.f32 [%x3+128], %w0;\n"), 32, 0, in, out, LANES_FORWARD);
    for (int i = 0; i < 32; i++) {
        const double e = exp2((double)in[i]), d = (double)in[i] / in[32 + i];
        EXPECT(fabs(out[i] - e) <= 0x1p-22 * e && fabs(out[32 + i] - d) <= 0x1p-22 * fabs(d));
        off += fabs(out[i] - e) > 0x1p-23 * e;
    }
    EXPECT(off > 8);
}

/* ---- a warp's -------------------------------------------------------------------------------------- */

TEST(lanes_exchange_as_the_manual_says)
{
    /* in[l] is 100 + l. Clamps and masks of segments are those that CUDA's functions pass. */
    static const struct { const char *text; int want[4]; } cases[] = {       /* of lanes 0, 7, 8, 31 */
        { "shfl.sync.bfly.b32 %w0|%p1, %w1, 8, 31, -1;", { 108, 115, 100, 123 } },
        { "shfl.sync.up.b32 %w0|%p1, %w1, 2, 0, -1;", { 100, 105, 106, 129 } },
        { "shfl.sync.up.b32 %w0|%p1, %w1, 2, 6144, -1;", { 100, 105, 108, 129 } },    /* segments of 8 */
        { "shfl.sync.down.b32 %w0|%p1, %w1, 2, 6175, -1;", { 102, 107, 110, 131 } },
        { "shfl.sync.idx.b32 %w0|%p1, %w1, 3, 31, -1;", { 103, 103, 103, 103 } },
        { "shfl.sync.idx.b32 %w0|%p1, %w1, 3, 6175, -1;", { 103, 103, 111, 127 } },
        { "shfl.sync.up.b32 %w4|%p1, %w1, 2, 0, -1;\n selp.b32 %w0, 1, 0, %p1;", { 0, 1, 1, 1 } },
        { "setp.gt.u32 %p1, %w1, 107;\n vote.sync.ballot.b32 %w0, %p1, -1;", { -256, -256, -256, -256 } },
    };
    static const int lanes[] = { 0, 7, 8, 31 };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char body[512];
        int in[32], out[32];
        for (int l = 0; l < 32; l++) in[l] = 100 + l;
        snprintf(body, sizeof body, "mul.wide.u32 %%x1, %%t, 4;\nadd.s64 %%x2, %%in, %%x1;\nadd.s64 %%x3, %%out, %%x1;\n"
                 "ld.global.u32 %%w1, [%%x2];\n%s\nst.global.u32 [%%x3], %%w0;\n", cases[i].text);
        run(kernel_file(body), 32, 0, in, out, LANES_SHUFFLED);
        for (int k = 0; k < 4; k++)
            if (out[lanes[k]] != cases[i].want[k])
                test_fail(__FILE__, __LINE__, "%s: lane %d has %d, want %d", cases[i].text, lanes[k], out[lanes[k]],
                          cases[i].want[k]);
    }
}

/* One element of A and one of B, which meet in one element of D alone. Places were worked out from the manual's
 * figures: A's element (row, k) and B's (k, column) sit in this lane, register and part of it. */
typedef struct { int lane, word, part; } spot;

TEST(matrix_fragments_lie_where_the_manual_shows_them)
{
    static const struct {
        const char *shape;
        int a_words, b_words, part_bits;
        uint32_t a_value, b_value, want;
        spot a, b, d;
    } cases[] = {
        /* A(9,22) B(22,3) = D(9,3) */
        { "m16n8k32.row.col.s32.s8.s8.s32", 4, 2, 8, 0xfd, 5, (uint32_t)-15, { 5, 3, 2 }, { 13, 1, 2 }, { 5, 3, 0 } },
        /* A(2,13) B(13,6) = D(2,6) */
        { "m16n8k32.row.col.s32.s8.s8.s32", 4, 2, 8, 7, 0x80, (uint32_t)-896, { 11, 0, 1 }, { 27, 0, 1 }, { 11, 0, 0 } },
        /* A(15,0) B(0,7) = D(15,7) */
        { "m16n8k32.row.col.s32.s8.s8.s32", 4, 2, 8, 7, 3, 21, { 28, 1, 0 }, { 28, 0, 0 }, { 31, 3, 0 } },
        /* A(0,31) B(31,0) = D(0,0) */
        { "m16n8k32.row.col.s32.s8.s8.s32", 4, 2, 8, 7, 3, 21, { 3, 2, 3 }, { 3, 1, 3 }, { 0, 0, 0 } },
        /* A(12,6) B(6,1) = D(12,1) */
        { "m16n8k16.row.col.s32.s8.s8.s32", 2, 1, 8, 7, 3, 21, { 17, 1, 2 }, { 5, 0, 2 }, { 16, 3, 0 } },
        /* A(10,3) B(3,4) = D(10,4), 2 * -1.5 */
        { "m16n8k16.row.col.f32.f16.f16.f32", 4, 2, 16, 0x4000, 0xbe00, 0xc0400000, { 9, 1, 1 }, { 17, 0, 1 }, { 10, 2, 0 } },
        /* A(1,12) B(12,7) = D(1,7) */
        { "m16n8k16.row.col.f32.f16.f16.f32", 4, 2, 16, 0x4000, 0xbe00, 0xc0400000, { 6, 2, 0 }, { 30, 1, 0 }, { 7, 1, 0 } },
        { "m16n8k16.row.col.f32.bf16.bf16.f32", 4, 2, 16, 0x4000, 0xbfc0, 0xc0400000, { 6, 2, 0 }, { 30, 1, 0 }, { 7, 1, 0 } },
        /* A(11,6) B(6,2) = D(11,2); 13 bits are not looked at */
        { "m16n8k8.row.col.f32.tf32.tf32.f32", 4, 2, 32, 0x40001fff, 0xbfc00001, 0xc0400000, { 14, 3, 0 }, { 10, 1, 0 }, { 13, 2, 0 } },
        /* A(11,1) B(1,2) = D(11,2) */
        { "m16n8k8.row.col.f32.tf32.tf32.f32", 4, 2, 32, 0x40000000, 0xbfc00000, 0xc0400000, { 13, 1, 0 }, { 9, 0, 0 }, { 13, 2, 0 } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char body[2048], a[64] = "", b[64] = "";
        static uint32_t in[6][32], out[4][32];
        memset(in, 0, sizeof in);
        in[cases[i].a.word][cases[i].a.lane] = cases[i].a_value << cases[i].a.part * cases[i].part_bits % 32;
        in[4 + cases[i].b.word][cases[i].b.lane] = cases[i].b_value << cases[i].b.part * cases[i].part_bits % 32;
        for (int k = 0; k < cases[i].a_words; k++) snprintf(a + strlen(a), 16, "%s%%w%d", k ? "," : "", 4 + k);
        for (int k = 0; k < cases[i].b_words; k++) snprintf(b + strlen(b), 16, "%s%%w%d", k ? "," : "", 8 + k);
        size_t n = (size_t)snprintf(body, sizeof body, "mul.wide.u32 %%x1, %%t, 4;\nadd.s64 %%x2, %%in, %%x1;\nadd.s64 %%x3, %%out, %%x1;\n");
        for (int k = 0; k < 6; k++) n += (size_t)snprintf(body + n, sizeof body - n, "ld.global.u32 %%w%d, [%%x2+%d];\n", 4 + k, 128 * k);
        for (int k = 0; k < 4; k++) n += (size_t)snprintf(body + n, sizeof body - n, "mov.u32 %%w%d, 0;\n", k);
        n += (size_t)snprintf(body + n, sizeof body - n,
                              "mma.sync.aligned.%s {%%w0,%%w1,%%w2,%%w3}, {%s}, {%s}, {%%w0,%%w1,%%w2,%%w3};\n",
                              cases[i].shape, a, b);
        for (int k = 0; k < 4; k++) n += (size_t)snprintf(body + n, sizeof body - n, "st.global.u32 [%%x3+%d], %%w%d;\n", 128 * k, k);
        run(kernel_file(body), 32, 0, in, out, LANES_FORWARD);
        for (int k = 0; k < 4; k++)
            for (int l = 0; l < 32; l++) {
                const uint32_t want = l == cases[i].d.lane && k == cases[i].d.word ? cases[i].want : 0;
                if (out[k][l] != want && (out[k][l] << 1))
                    test_fail(__FILE__, __LINE__, "case %zu: lane %d's register %d is %x, want %x", i, l, k, out[k][l],
                              want);
                else if (want && out[k][l] != want)
                    test_fail(__FILE__, __LINE__, "case %zu: nothing where %x belongs", i, want);
            }
    }
}

TEST(matrices_are_loaded_as_the_manual_shows)
{
    /* Row r of matrix m is 8 numbers 100 m + 10 r + c; rows lie backwards in memory. Lane 6 has row 1, columns 4 and 5;
     * turned, it has rows 4 and 5 of column 1. */
    static uint16_t in[32][8];
    static uint32_t out[8][32];
    for (int i = 0; i < 32; i++)
        for (int c = 0; c < 8; c++) in[31 - i][c] = (uint16_t)(100 * (i / 8) + 10 * (i % 8) + c);
    run(kernel_file("mul.wide.u32 %x1, %t, 16;\nadd.s64 %x2, %in, %x1;\nld.global.v4.u32 {%w4,%w5,%w6,%w7}, [%x2];\n"
                    "mov.u32 %w1, room;\nshl.b32 %w2, %t, 4;\nadd.s32 %w3, %w1, %w2;\n"
                    "st.shared.v4.u32 [%w3], {%w4,%w5,%w6,%w7};\n"
                    "bar.warp.sync -1;\nsub.s32 %w3, %w1, %w2;\n"
                    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%w4,%w5,%w6,%w7}, [%w3+496];\n"
                    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%w8,%w9,%w10,%w11}, [%w3+496];\n"
                    "mul.wide.u32 %x1, %t, 4;\nadd.s64 %x3, %out, %x1;\n"
                    "st.global.u32 [%x3], %w4;\nst.global.u32 [%x3+128], %w5;\n"
                    "st.global.u32 [%x3+256], %w6;\nst.global.u32 [%x3+384], %w7;\n"
                    "st.global.u32 [%x3+512], %w8;\nst.global.u32 [%x3+640], %w9;\n"
                    "st.global.u32 [%x3+768], %w10;\nst.global.u32 [%x3+896], %w11;\n"),
        32, 0, in, out, LANES_FORWARD);
    for (int m = 0; m < 4; m++) {
        const uint32_t base = (uint32_t)(100 * m);
        EXPECT_INT(out[m][6], (base + 14) | (base + 15) << 16);
        EXPECT_INT(out[m][31], (base + 76) | (base + 77) << 16);
        EXPECT_INT(out[4 + m][6], (base + 41) | (base + 51) << 16);
        EXPECT_INT(out[4 + m][31], (base + 67) | (base + 77) << 16);
    }
}

TEST(copies_land_when_their_group_was_waited_for_and_not_before)
{
    /* Two groups; one may be under way: the first is there. */
    static uint32_t in[8] __attribute__((aligned(16))) = { 1, 2, 3, 4, 5, 6, 7, 8 };
    static const char *const body =
        "setp.ne.s32 %p1, %t, 0;\n@%p1 bra done;\nmov.u32 %w1, room;\n"
        "cp.async.cg.shared.global [%w1], [%in], 16;\ncp.async.commit_group;\n"
        "add.s32 %w2, %w1, 16;\nadd.s64 %x1, %in, 16;\ncp.async.ca.shared.global [%w2], [%x1], 8;\ncp.async.commit_group;\n"
        "ld.shared.u32 %w3, [room+12];\nst.global.u32 [%out], %w3;\n"
        "cp.async.wait_group 1;\nld.shared.v2.u32 {%w3,%w4}, [room+8];\nst.global.v2.u32 [%out+8], {%w3,%w4};\n"
        "ld.shared.u32 %w3, [room+20];\nst.global.u32 [%out+4], %w3;\n"
        "cp.async.wait_group 0;\nld.shared.v2.u32 {%w3,%w4}, [room+16];\nst.global.v2.u32 [%out+16], {%w3,%w4};\ndone:";
    for (int o = 0; o < 3; o++) {
        static uint32_t out[6] __attribute__((aligned(16)));
        run(kernel_file(body), 32, 0, in, out, orders[o]);
        if (orders[o] == LANES_FORWARD) EXPECT(out[0] == 0xffffffff && out[1] == 0xffffffff);
        if (orders[o] == LANES_BACKWARD) EXPECT(out[0] == 4 && out[1] == 6);
        EXPECT(out[2] == 3 && out[3] == 4 && out[4] == 5 && out[5] == 6);
    }
}

/* ---- ways that part and meet ------------------------------------------------------------------------- */

TEST(lanes_that_go_different_ways_meet_again_at_a_barrier)
{
    /* Lane l goes round l % 5 + 1 times and adds l each time, odd ones by another way; a neighbour's sum is read
     * behind a barrier of the block. */
    static uint32_t out[64];
    const char *path = kernel_file(
        "and.b32 %w1, %t, 1;\nsetp.eq.s32 %p1, %w1, 1;\nrem.u32 %w2, %t, 5;\nmov.u32 %w3, 0;\n"
        "again:\n@!%p1 bra even;\nadd.s32 %w3, %w3, %t;\nbra.uni next;\neven:\nmad.lo.s32 %w3, %t, 1, %w3;\n"
        "next:\nadd.s32 %w2, %w2, -1;\nsetp.ge.s32 %p2, %w2, 0;\n@%p2 bra again;\n"
        "mov.u32 %w4, room;\nshl.b32 %w5, %t, 2;\nadd.s32 %w6, %w4, %w5;\nst.shared.u32 [%w6], %w3;\nbar.sync 0;\n"
        "xor.b32 %w5, %w5, 252;\nadd.s32 %w6, %w4, %w5;\nld.shared.u32 %w7, [%w6];\nbar.warp.sync -1;\n"
        "mul.wide.u32 %x1, %t, 4;\nadd.s64 %x2, %out, %x1;\nst.global.u32 [%x2], %w7;");
    for (int o = 0; o < 3; o++) {
        run(path, 64, 0, out, out, orders[o]);
        for (int t = 0; t < 64; t++) EXPECT_INT(out[t], (63 - t) * ((63 - t) % 5 + 1));
    }
}

/* ---- what must end --------------------------------------------------------------------------------------- */

static void try_body(void *body)
{
    static uint32_t in[64] __attribute__((aligned(16))), out[64];
    run(kernel_file(body), 64, 0, in, out, LANES_FORWARD);
}
static void try_all(const char *const *bodies, int n, bool bad)
{
    for (int i = 0; i < n; i++)
        if (ends(try_body, (void *)(uintptr_t)bodies[i]) != bad)
            test_fail(__FILE__, __LINE__, "%s ends at: %s", bad ? "nothing" : "something", bodies[i]);
}
#define TRY_ALL(bodies, bad) try_all(bodies, (int)(sizeof bodies / sizeof bodies[0]), bad)

TEST(what_a_card_would_not_do_ends_with_a_sentence)
{
    static const char *const bodies[] = {
        "add.s31 %w0, %w1, %w2;", "add.s32 %w0, %w1;", "add.s32 %w0, %x1, %w2;", "ld.global.v3.u32 {%w0,%w1,%w2}, [%in];",
        "ld.shared.u32 %w0, [table];", "ld.global.evict.u32 %w0, [%in];", "bra nowhere;",
        "ld.global.u32 %w0, [%in+2];",                                      /* not aligned */
        "ld.global.v4.u32 {%w0,%w1,%w2,%w3}, [%in+8];",
        "ld.global.u32 %w0, [4096];", "ld.shared.u32 %w0, [room+4096];",    /* outside */
        "mov.u64 %x1, 16;\nld.global.u32 %w0, [%x1];",
        "ld.param.u32 %w0, [t_param_0+16];",
        "mov.u32 %w1, 0;\ndiv.s32 %w0, %w1, %w1;",
        "setp.eq.s32 %p1, %t, 3;\n@%p1 bra out;\nshfl.sync.bfly.b32 %w0|%p2, %t, 1, 31, -1;\n"
        "bar.warp.sync -1;\nout:\nbar.warp.sync -1;",
        "setp.eq.s32 %p1, %t, 3;\n@%p1 ret;\nbar.sync 0;\n"
        "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%w0,%w1,%w2,%w3}, {%w4,%w5}, {%w6}, {%w0,%w1,%w2,%w3};",
        "bar.warp.sync 1;",
    };
    TRY_ALL(bodies, true);
}

/* Each thread writes its word of `room` and reads a neighbour's. */
#define OWN "mov.u32 %w4, room;\nshl.b32 %w5, %t, 2;\nadd.s32 %w6, %w4, %w5;\n"
#define PARTNER(n) "xor.b32 %w5, %w5, " #n ";\nadd.s32 %w7, %w4, %w5;\n"

TEST(threads_that_meet_in_shared_memory_without_a_barrier_end)
{
    static const char *const races[] = {
        OWN PARTNER(4) "st.shared.u32 [%w6], 1;\nld.shared.u32 %w0, [%w7];",               /* a lane and its neighbour */
        OWN PARTNER(4) "ld.shared.u32 %w0, [%w7];\nst.shared.u32 [%w6], 1;",
        OWN PARTNER(4) "st.shared.u32 [%w6], 1;\nshfl.sync.bfly.b32 %w0|%p1, %t, 1, 31, -1;\nld.shared.u32 %w0, [%w7];",
        OWN PARTNER(128) "st.shared.u32 [%w6], 1;\nbar.warp.sync -1;\nld.shared.u32 %w0, [%w7];",     /* two warps */
        OWN PARTNER(128) "ld.shared.u32 %w0, [%w7];\nbar.warp.sync -1;\nst.shared.u32 [%w6], 1;",
        "mov.u32 %w4, room;\nst.shared.u32 [%w4], %t;",
        OWN "mov.u32 %w1, 0;\nld.shared.u32 %w0, [%w4];\nbar.warp.sync -1;\n"
        "setp.ne.s32 %p1, %t, 40;\n@%p1 bra no;\nst.shared.u32 [%w4], 1;\nno:",
        /* what a copy brings is not the neighbour's to read when its own thread has waited */
        OWN "and.b32 %w1, %t, 1;\nsetp.eq.s32 %p1, %w1, 1;\nshl.b32 %w2, %t, 4;\nadd.s32 %w3, %w4, %w2;\n"
        "cp.async.cg.shared.global [%w3], [%in], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\n"
        "xor.b32 %w2, %w2, 16;\nadd.s32 %w3, %w4, %w2;\nld.shared.u32 %w0, [%w3];",
    };
    static const char *const orderly[] = {
        OWN PARTNER(4) "st.shared.u32 [%w6], 1;\nbar.warp.sync -1;\nld.shared.u32 %w0, [%w7];\n"
        "bar.warp.sync -1;\nst.shared.u32 [%w6], 2;",
        OWN PARTNER(128) "st.shared.u32 [%w6], 1;\nbar.sync 0;\nld.shared.u32 %w0, [%w7];\nbar.sync 0;\nst.shared.u32 [%w6], 2;",
        OWN "ld.shared.u32 %w0, [%w4];\nbar.sync 0;\nst.shared.u32 [%w4], 7;\nld.shared.u32 %w0, [%w6+1024];",
        "mov.u32 %w4, room;\natom.shared.add.u32 %w0, [%w4], 1;",
    };
    TRY_ALL(races, true);
    TRY_ALL(orderly, false);
}

/* %w2 is the block's number. */
static void two_blocks(void *text)
{
    static uint32_t out[64];
    char body[512];
    const ptx_args a = { device(out), device(out) };
    snprintf(body, sizeof body, "mov.u32 %%w2, %%ctaid.x;\ngriddepcontrol.wait;\n%s", (const char *)text);
    ptx_run_file(kernel_file(body), "t", (unsigned[]){ 2, 1, 1 }, 32, 0, &a, sizeof a, LANES_FORWARD);
}

static const uint32_t *early_read_from;
static void early_read(void *ctx)
{
    static uint32_t out[64];
    (void)ctx;
    run(kernel_file("ld.global.nc.u32 %w0, [%in];\ngriddepcontrol.wait;"), 32, 0, early_read_from, out, LANES_FORWARD);
}

TEST(what_another_kernel_or_block_may_still_write_is_not_read)
{
    static uint32_t room[2][64];
    target = "sm_90a";
    static const char *const bad[] = { "st.global.u32 [%out], 1;\ngriddepcontrol.wait;", "mov.u32 %w0, 1;",
        "griddepcontrol.wait;\nst.global.u32 [%out], 1;\nld.global.nc.u32 %w0, [%out];" };
    static const char *const good[] = { "ld.global.nc.u32 %w0, [%in];\ngriddepcontrol.wait;\nst.global.u32 [%out], 1;",
        "griddepcontrol.wait;\nst.global.u32 [%out], 1;\nld.global.u32 %w0, [%out];" };
    TRY_ALL(bad, true);
    TRY_ALL(good, false);

    EXPECT(!ends(two_blocks, "mad.lo.s32 %w1, %t, 2, %w2;\ncvt.u64.u32 %x1, %w1;\n"
                             "add.s64 %x1, %x1, %out;\nst.global.u8 [%x1], %t;"));
    EXPECT(!ends(two_blocks, "st.global.u32 [%out], 5;"));
    EXPECT(ends(two_blocks, "st.global.u32 [%out], %w2;"));
    EXPECT(ends(two_blocks, "setp.eq.s32 %p1, %w2, 0;\n@%p1 st.global.u32 [%out], 5;\nld.global.u32 %w0, [%out];"));

    /* The second launch reads what the first one wrote: with somebody's wait between them it may. */
    run(kernel_file("griddepcontrol.wait;\nst.global.u32 [%out], 1;"), 32, 0, room[0], room[1], LANES_FORWARD);
    early_read_from = room[1];
    EXPECT(ends(early_read, NULL));
    ptx_settled();
    EXPECT(!ends(early_read, NULL));
    target = "sm_80";
}

TEST(every_kernel_of_the_given_files_is_understood)
{
    if (!getenv("DS4_TEST_PTX")) return;
    EXPECT(ptx_decode_all() > 200);
}
