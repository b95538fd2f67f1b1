/* lanes: the runner behind lanes.h: fibres, their scheduler, the matrix unit's stand-ins. */
#include "lanes.h"

#include <stdio.h>
#include <stdlib.h>
#include <vector>
#include <sys/mman.h>

#include "lane_runner.h"

#include "quant/float_formats.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

enum { MAX_BLOCK = 1024, STACK_BYTES = 256 * 1024, SLOT_BYTES = 64 };
enum { MAX_STATIC = 48 * 1024, MAX_SHARED = 227 * 1024 };      /* of a block, on the largest card */

thread_local lane_place lane_now;

/* ---- fibres ----------------------------------------------------------------------- */

/* Saves what a call keeps, leaves this stack for that one. */
extern "C" void lane_switch(void **save, void *to);
#if defined(__x86_64__)
asm(".text\n.type lane_switch,@function\nlane_switch:\n"
    " pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    " movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
    " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n"
    ".size lane_switch,.-lane_switch\n");
enum { SAVED_WORDS = 6 };
#elif defined(__aarch64__)
asm(".text\n.p2align 2\n"
#if defined(__APPLE__)
    ".globl _lane_switch\n_lane_switch:\n"
#else
    ".type lane_switch,%function\nlane_switch:\n"
#endif
    " sub sp, sp, #160\n"
    " stp x19, x20, [sp, #0]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n"
    " stp x25, x26, [sp, #48]\n stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n"
    " stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
    " mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
    " ldp x19, x20, [sp, #0]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n"
    " ldp x25, x26, [sp, #48]\n ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n"
    " ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
    " add sp, sp, #160\n ret\n");
#else
#error "the lane runner knows x86-64 and 64-bit Arm"
#endif

/* ---- who sees whose writes --------------------------------------------------------
 *
 * Under TSan every lane is a thread of its own, which sees another's writes only behind a barrier of both:
 * what lanes or warps exchange through memory without one is a race, however the runner orders them. The
 * runner's own books are not looked at. Two tokens in turn, since a lane may be at the next barrier before
 * another has left this one. */
#if defined(__SANITIZE_THREAD__)
#define UNSEEN __attribute__((no_sanitize_thread, noinline))
#define GIVE(token) __tsan_release(token)
#define TAKE(token) __tsan_acquire(token)
#else
#define UNSEEN
#define GIVE(token) (void)(token)
#define TAKE(token) (void)(token)
#endif

UNSEEN static void copy_unseen(uint8_t *to, const void *from, size_t n)
{
#if defined(__SANITIZE_THREAD__)
    for (size_t i = 0; i < n; i++) static_cast<volatile uint8_t *>(to)[i] = static_cast<const uint8_t *>(from)[i];
#else
    memcpy(to, from, n);
#endif
}

/* NaN, -1 */
UNSEEN static uint8_t *garbage(uint8_t *p, size_t n)
{
#if defined(__SANITIZE_THREAD__)
    for (size_t i = 0; i < n; i++) static_cast<volatile uint8_t *>(p)[i] = 0xff;
#else
    memset(p, 0xff, n);
#endif
    return p;
}

enum lane_state { LANE_READY, LANE_AT_WARP, LANE_AT_BARRIER, LANE_DONE };

/* A copy that is under way; `group` counts the lane's commits before it. */
struct lane_copy { void *to; const void *from; int group; size_t bytes; };

struct fibre {
    void       *sp;
    uint8_t    *stack;
    lane_state  state;
    const char *what;           /* the warp operation that it waits at */
    unsigned    turns;          /* warp operations so far              */
    unsigned    barriers;       /* of the block, so far                */
    std::vector<lane_copy> copies;
    int         groups;         /* of copies, committed                */
    void       *fake_stack;     /* ASan's */
    void       *tsan;
};

struct site_place { const void *site; void *at; size_t bytes; };

struct runner {
    fibre    lane[MAX_BLOCK];
    uint8_t  slot[MAX_BLOCK / 32][2][32][SLOT_BYTES];
    unsigned n, now;
    void    *main_sp;
    void    *main_fake;
    const void *main_stack;
    size_t   main_stack_bytes;
    void    *main_tsan;
    const lane_kernel_entry *kernel;
    const void *args;
    lane_order order;
    uint64_t random;
    site_place site[64];
    int      n_sites;
    uint8_t *shared;            /* [MAX_SHARED]: static arrays, from the front */
    size_t   shared_used;
    uint8_t *dynamic;
    unsigned dynamic_bytes;
    char     begun, ended, at_barrier[2], at_warp[MAX_BLOCK / 32][2];       /* tokens */
};

static thread_local runner *R;

UNSEEN static unsigned random_below(unsigned n)
{
    R->random = R->random * 6364136223846793005u + 1442695040888963407u;
    return static_cast<unsigned>(R->random >> 33) % n;
}

void lane_fail(const char *why)
{
    fprintf(stderr, "lanes: kernel %s, block %u,%u,%u, thread %u: %s\n", R && R->kernel ? R->kernel->name : "?",
            lane_now.block.x, lane_now.block.y, lane_now.block.z, lane_now.thread.x, why);
    abort();
}

UNSEEN static void to_main(bool last)
{
    fibre *f = &R->lane[R->now];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &f->fake_stack, R->main_stack, R->main_stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(R->main_tsan, __tsan_switch_to_fiber_no_sync);
#endif
    (void)last;
    lane_switch(&f->sp, R->main_sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake_stack, nullptr, nullptr);
#endif
}

extern "C" UNSEEN void lane_entry(void)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &R->main_stack, &R->main_stack_bytes);
#endif
    TAKE(&R->begun);
    R->kernel->run(R->args);
    GIVE(&R->ended);
    R->lane[R->now].state = LANE_DONE;
    to_main(true);
    lane_fail("a finished lane was run again");
}

UNSEEN static void begin(fibre *f)
{
    if (!f->stack) {
        void *p = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) lane_fail("no memory for a lane's stack");
        f->stack = static_cast<uint8_t *>(p);
    }
    void **sp = reinterpret_cast<void **>(f->stack + STACK_BYTES);
#if defined(__x86_64__)
    *--sp = nullptr;                            /* keeps the stack aligned as after a call */
    *--sp = reinterpret_cast<void *>(&lane_entry);
    for (int i = 0; i < SAVED_WORDS; i++) *--sp = nullptr;
#else
    sp -= 20;
    memset(sp, 0, 160);
    sp[11] = reinterpret_cast<void *>(&lane_entry);    /* x30 */
#endif
    f->sp = sp;
    f->state = LANE_READY;
    f->turns = f->barriers = 0;
    f->copies.clear();
    f->groups = 0;
    f->what = "";
    f->fake_stack = nullptr;
#if defined(__SANITIZE_THREAD__)
    if (!f->tsan) f->tsan = __tsan_create_fiber(0);
#endif
}

UNSEEN static void resume(unsigned i)
{
    fibre *f = &R->lane[i];
    R->now = i;
    lane_now.thread = { i, 0, 0 };
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&R->main_fake, f->stack, STACK_BYTES);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(f->tsan, __tsan_switch_to_fiber_no_sync);
#endif
    lane_switch(&R->main_sp, f->sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(R->main_fake, nullptr, nullptr);
#endif
}

/* ---- what kernels call -------------------------------------------------------------- */

void lane_block_limit(unsigned threads, const char *kernel)
{
    if (lane_now.dim.x <= threads) return;
    fprintf(stderr, "lanes: %s is made for blocks of %u threads at most\n", kernel, threads);
    lane_fail("the block is too large");
}

UNSEEN void *lane_shared(const void *site, size_t bytes, size_t align)
{
    for (int i = 0; i < R->n_sites; i++)
        if (R->site[i].site == site) return R->site[i].at;
    if (align < 16) align = 16;
    R->shared_used = (R->shared_used + align - 1) / align * align;
    if (R->n_sites == 64 || R->shared_used + bytes > MAX_STATIC) lane_fail("block-local arrays of more than 48 KB");
    if (R->shared_used + bytes + R->dynamic_bytes > MAX_SHARED) lane_fail("more than 227 KB of shared memory");
    void *at = garbage(R->shared + R->shared_used, bytes);
    R->shared_used += bytes;
    R->site[R->n_sites++] = { site, at, bytes };
    return at;
}

UNSEEN void *lane_shared_dynamic(void)
{
    if (!R->dynamic) lane_fail("the launch has no dynamic shared memory");
    return R->dynamic;
}

UNSEEN int lane_of_warp(void) { return static_cast<int>(R->now % 32); }

UNSEEN void lane_barrier(void)
{
    fibre *f = &R->lane[R->now];
    char *token = &R->at_barrier[f->barriers++ & 1];
    f->state = LANE_AT_BARRIER;
    f->what = "__syncthreads";
    GIVE(token);
    to_main(false);
    TAKE(token);
}

UNSEEN const uint8_t *lane_exchange(const char *what, const void *value, size_t bytes, bool orders)
{
    fibre *f = &R->lane[R->now];
    if (bytes > SLOT_BYTES) lane_fail("a warp operation of more than 64 bytes");
    /* Two slots in turn: a lane may be a whole operation ahead of one that still reads. */
    const unsigned turn = f->turns++ & 1;
    char *token = &R->at_warp[R->now / 32][turn];
    copy_unseen(R->slot[R->now / 32][turn][R->now % 32], value, bytes);
    f->state = LANE_AT_WARP;
    f->what = what;
    if (orders) GIVE(token);
    to_main(false);
    if (orders) TAKE(token);
    return R->slot[R->now / 32][turn][0];
}

/* A copy may be done at once or as late as its wait: at once in order, late backward, either in the
 * shuffled order. What is not there yet is garbage. */
static void async_copy(void *shared, const void *global, size_t bytes)
{
    if (reinterpret_cast<uintptr_t>(shared) % bytes || reinterpret_cast<uintptr_t>(global) % bytes)
        lane_fail("async_copy16 or 8 of addresses that are not aligned to 16 or 8 bytes");
    fibre *f = &R->lane[R->now];
    const bool late = R->order == LANES_BACKWARD || (R->order == LANES_SHUFFLED && random_below(2));
    if (!late) {
        memcpy(shared, global, bytes);
        return;
    }
    memset(shared, 0xff, bytes);
    f->copies.push_back({ shared, global, f->groups, bytes });
}

void async_copy16(void *shared, const void *global) { async_copy(shared, global, 16); }
void async_copy8(void *shared, const void *global) { async_copy(shared, global, 8); }

void async_commit(void) { R->lane[R->now].groups++; }

void lane_async_wait(int n)
{
    fibre *f = &R->lane[R->now];
    size_t left = 0;
    for (const lane_copy &c : f->copies) {
        if (c.group < f->groups - n) memcpy(c.to, c.from, c.bytes);
        else f->copies[left++] = c;
    }
    f->copies.resize(left);
}

void lane_misaligned(void) { lane_fail("load_once of an address that is not aligned to 16 bytes"); }

/* ---- the scheduler ------------------------------------------------------------------- */

UNSEEN static unsigned turn_of(unsigned i, unsigned n, unsigned start)
{
    return R->order == LANES_BACKWARD ? n - 1 - i : R->order == LANES_SHUFFLED ? (i + start) % n : i;
}

/* Runs a warp until all of its lanes are at the block's barrier, or done. */
UNSEEN static void run_warp(unsigned first)
{
    const unsigned n = R->n - first < 32 ? R->n - first : 32;
    for (;;) {
        const unsigned start = R->order == LANES_SHUFFLED ? random_below(n) : 0;
        for (unsigned i = 0; i < n; i++) resume(first + turn_of(i, n, start));

        const fibre *f = &R->lane[first];
        for (unsigned i = 1; i < n; i++) {
            if (f[i].state == f->state && (f->state != LANE_AT_WARP || strcmp(f[i].what, f->what) == 0)) continue;
            lane_now.thread.x = first + i;
            fprintf(stderr, "lanes: thread %u is at %s, thread %u at %s\n", first, f->state == LANE_DONE ? "its end" : f->what,
                    first + i, f[i].state == LANE_DONE ? "its end" : f[i].what);
            lane_fail("the lanes of a warp went different ways");
        }
        if (f->state == LANE_AT_WARP && n < 32) lane_fail("a warp operation in a warp of fewer than 32 lanes");
        if (f->state != LANE_AT_WARP) return;
    }
}

UNSEEN static void run_block(void)
{
    const unsigned warps = (R->n + 31) / 32;
    R->n_sites = 0;
    R->shared_used = 0;
    if (R->dynamic) garbage(R->dynamic, R->dynamic_bytes);
    for (unsigned i = 0; i < R->n; i++) begin(&R->lane[i]);
    GIVE(&R->begun);

    for (bool more = true; more;) {
        const unsigned start = R->order == LANES_SHUFFLED ? random_below(warps) : 0;
        for (unsigned w = 0; w < warps; w++) run_warp(32 * turn_of(w, warps, start));
        more = R->lane[0].state == LANE_AT_BARRIER;
        for (unsigned i = 0; i < R->n; i++)
            if (R->lane[i].state != R->lane[0].state) lane_fail("a thread ended while others wait at __syncthreads");
    }
    TAKE(&R->ended);
}

void lane_run(const lane_kernel_entry *kernel, const unsigned grid[3], unsigned block, unsigned shared,
              const void *args, lane_order order)
{
    if (!R) {
        R = new runner();
        R->shared = static_cast<uint8_t *>(aligned_alloc(256, MAX_SHARED));
        R->random = 1;
    }
    R->kernel = kernel;
    if (block == 0 || block > MAX_BLOCK || block % 32) lane_fail("a block has 32 to 1024 threads, whole warps");
    if (!grid[0] || !grid[1] || !grid[2]) lane_fail("an empty grid");
    if (shared > MAX_SHARED) lane_fail("too much dynamic shared memory");
    R->args = args;
    R->n = block;
    R->order = order;
    R->dynamic_bytes = shared;
    R->dynamic = shared ? static_cast<uint8_t *>(aligned_alloc(16, (shared + 15u) & ~15u)) : nullptr;
#if defined(__SANITIZE_THREAD__)
    R->main_tsan = __tsan_get_current_fiber();
#endif
    lane_now.dim = { block, 1, 1 };
    lane_now.grid = { grid[0], grid[1], grid[2] };
    const unsigned n = grid[0] * grid[1] * grid[2];
    const unsigned start = order == LANES_SHUFFLED ? random_below(n) : 0;
    for (unsigned i = 0; i < n; i++) {
        const unsigned b = turn_of(i, n, start);
        lane_now.block = { b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1] };
        run_block();
    }
    free(R->dynamic);
    R->dynamic = nullptr;
}

/* ---- numbers and matrices ------------------------------------------------------------- */

float half_bits_to_float(uint16_t h) { return half_to_float(h); }
uint16_t float_to_half_bits(float f) { return float_to_half(f); }

struct fragments { uint32_t a[4], b[2]; };

static const uint8_t *give(const char *what, const uint32_t *a, int na, const uint32_t *b, int nb)
{
    fragments f = {};
    memcpy(f.a, a, sizeof(uint32_t) * static_cast<size_t>(na));
    memcpy(f.b, b, sizeof(uint32_t) * static_cast<size_t>(nb));
    return lane_exchange(what, &f, sizeof f);
}

static uint32_t word_a(const uint8_t *s, int lane, int reg) { return lane_slot<fragments>(s, lane).a[reg]; }
static uint32_t word_b(const uint8_t *s, int lane, int reg) { return lane_slot<fragments>(s, lane).b[reg]; }

static int byte_of(uint32_t w, int i) { return static_cast<int8_t>(w >> (8 * i)); }

/* Calls f(row, col, index in d) for the four results of this lane. */
template <class F> static void each_result(F f)
{
    const int g = lane_of_warp() / 4, i = lane_of_warp() % 4;
    for (int k = 0; k < 4; k++) f(g + 8 * (k / 2), 2 * i + k % 2, k);
}

static void mma_s8(const uint8_t *s, int32_t d[4], int depth)
{
    each_result([&](int row, int col, int at) {
        for (int k = 0; k < depth; k++) {
            const int reg = row / 8 + 2 * (k / 16);
            d[at] += byte_of(word_a(s, row % 8 * 4 + k % 16 / 4, reg), k % 4) *
                     byte_of(word_b(s, col * 4 + k % 16 / 4, k / 16), k % 4);
        }
    });
}

void mma_s8_k32(int32_t d[4], const uint32_t a[4], const uint32_t b[2]) { mma_s8(give("mma s8 k32", a, 4, b, 2), d, 32); }
void mma_s8_k16(int32_t d[4], const uint32_t a[2], const uint32_t b[1]) { mma_s8(give("mma s8 k16", a, 2, b, 1), d, 16); }

template <class F> static void mma_pairs(const uint8_t *s, float d[4], F number)
{
    each_result([&](int row, int col, int at) {
        float sum = 0.0f;
        for (int k = 0; k < 16; k++) {
            const uint32_t a = word_a(s, row % 8 * 4 + k % 8 / 2, row / 8 + 2 * (k / 8));
            const uint32_t b = word_b(s, col * 4 + k % 8 / 2, k / 8);
            sum += number(static_cast<uint16_t>(a >> (16 * (k % 2)))) * number(static_cast<uint16_t>(b >> (16 * (k % 2))));
        }
        d[at] += sum;
    });
}

static float float_of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

void mma_f16_k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_pairs(give("mma f16", a, 4, b, 2), d, [](uint16_t h) { return half_bits_to_float(h); });
}
void mma_bf16_k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    mma_pairs(give("mma bf16", a, 4, b, 2), d, [](uint16_t h) { return float_of_bits(static_cast<uint32_t>(h) << 16); });
}
void mma_tf32_k8(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    const uint8_t *s = give("mma tf32", a, 4, b, 2);
    each_result([&](int row, int col, int at) {
        float sum = 0.0f;
        for (int k = 0; k < 8; k++) {
            const uint32_t x = word_a(s, row % 8 * 4 + k % 4, row / 8 + 2 * (k / 4)) & 0xffffe000u;
            const uint32_t y = word_b(s, col * 4 + k % 4, k / 4) & 0xffffe000u;
            sum += float_of_bits(x) * float_of_bits(y);
        }
        d[at] += sum;
    });
}

/* A lane gives its row's bytes as they are when it comes here. */
static const uint8_t *rows_of_matrices(const char *what, const void *row)
{
    if (reinterpret_cast<uintptr_t>(row) % 16) lane_fail("a matrix row that is not aligned to 16 bytes");
    uint8_t own[16];
    memcpy(own, row, sizeof own);
    return lane_exchange(what, own, sizeof own);
}

static uint32_t matrix_number(const uint8_t *s, int matrix, int row, int col)
{
    uint16_t n;
    memcpy(&n, s + 64 * (8 * matrix + row) + 2 * col, sizeof n);
    return n;
}

void load_matrices(uint32_t d[4], const void *row)
{
    const uint8_t *s = rows_of_matrices("load_matrices", row);
    const int g = lane_of_warp() / 4, i = lane_of_warp() % 4;
    for (int m = 0; m < 4; m++) d[m] = matrix_number(s, m, g, 2 * i) | matrix_number(s, m, g, 2 * i + 1) << 16;
}
void load_matrices_turned(uint32_t d[4], const void *row)
{
    const uint8_t *s = rows_of_matrices("load_matrices_turned", row);
    const int g = lane_of_warp() / 4, i = lane_of_warp() % 4;
    for (int m = 0; m < 4; m++) d[m] = matrix_number(s, m, 2 * i, g) | matrix_number(s, m, 2 * i + 1, g) << 16;
}
