/* lanes: the runner behind lanes.h: fibres and their scheduler.
 *
 * A lane that waits hands on to the next of its warp without a way through the scheduler; only the last of a
 * turn goes there. A lane that ends without ever having waited leaves its stack to the next, which begins on it
 * as on a plain call. */
#include "lanes.h"

#include <stdio.h>
#include <stdlib.h>
#include <vector>
#include <sys/mman.h>

#include "lane_runner.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

enum { MAX_BLOCK = 1024, STACK_BYTES = 256 * 1024, PAGE = 4096 };
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
#define LANES_ARE_THREADS true
#define UNSEEN __attribute__((no_sanitize_thread, noinline))
#define GIVE(token) __tsan_release(token)
#define TAKE(token) __tsan_acquire(token)
#else
#define LANES_ARE_THREADS false
#define UNSEEN
#define GIVE(token) (void)(token)
#define TAKE(token) (void)(token)
#endif

UNSEEN static inline void copy_unseen(uint8_t *to, const void *from, size_t n)
{
#if defined(__SANITIZE_THREAD__)
    for (size_t i = 0; i < n; i++) static_cast<volatile uint8_t *>(to)[i] = static_cast<const uint8_t *>(from)[i];
#else
    if (n == 4) memcpy(to, from, 4);            /* nearly all of them; no call */
    else memcpy(to, from, n);
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

enum lane_state { LANE_AT_WARP, LANE_AT_BARRIER, LANE_DONE };

/* A copy that is under way; `group` counts the lane's commits before it. */
struct lane_copy { void *to; const void *from; int group; size_t bytes; };

struct fibre {
    void    *sp;
    uint8_t *stack;
    std::vector<lane_copy> copies;
    int      groups;            /* of copies, committed */
    void    *fake_stack;        /* ASan's */
    void    *tsan;
};

struct site_place { const void *site; void *at; size_t bytes; };

struct runner {
    fibre    lane[MAX_BLOCK];
    /* The turn of a warp: each lane of it runs until it waits or ends. */
    unsigned first, place;      /* the warp's first lane; how many were before the running one */
    bool     fresh;             /* none of them has begun yet */
    lane_state  state;          /* where the first of the turn came to, and so must all others */
    const char *what;
    /* What lanes give at a warp operation, and what was made of it for all of them. Two in turn: a lane may be
     * a whole operation ahead of one that still reads. */
    unsigned parity;
    uint8_t  slot[2][32][LANE_SLOT];
    alignas(16) uint8_t made[2][LANE_MADE];
    bool     is_made[2];

    unsigned n, round;          /* threads of the block; barriers so far */
    void    *main_sp;
    void    *main_fake;
    const void *main_stack;
    size_t   main_stack_bytes;
    void    *main_tsan;
    uint8_t *idle[MAX_BLOCK];   /* stacks, the latest used last */
    unsigned n_idle, n_stacks;
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

UNSEEN static inline fibre *running(runner *r) { return &r->lane[lane_now.thread.x]; }

extern "C" void lane_entry(void);

/* A lane that begins: its stack, which is the one that was left last. */
UNSEEN static inline void begin(runner *r, fibre *f)
{
    f->fake_stack = nullptr;
#if defined(__SANITIZE_THREAD__)
    if (!f->tsan) f->tsan = __tsan_create_fiber(0);
#endif
    if (LANES_ARE_THREADS && f->stack) return;      /* what another lane had on it would look like a race */
    if (r->n_idle) {
        f->stack = r->idle[--r->n_idle];
        return;
    }
    void *p = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) lane_fail("no memory for a lane's stack");
    /* Stacks begin at different lines of a page, else 32 of them would meet in a few sets of the cache. */
    f->stack = static_cast<uint8_t *>(p) + STACK_BYTES - r->n_stacks++ * 704 % PAGE;
}

/* A stack as lane_switch leaves it, from which it returns into lane_entry. */
UNSEEN static inline void prepare(fibre *f)
{
    void **sp = reinterpret_cast<void **>(f->stack);
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
}

/* Leaves the stack whose place goes to `save` for a lane, or for the scheduler's where there is none. */
UNSEEN static inline void leave_for(runner *r, fibre *to, void **save, void **fake)
{
    (void)fake;
#if defined(__SANITIZE_ADDRESS__)
    if (to) __sanitizer_start_switch_fiber(fake, to->stack - (STACK_BYTES - PAGE), STACK_BYTES - PAGE);
    else __sanitizer_start_switch_fiber(fake, r->main_stack, r->main_stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to ? to->tsan : r->main_tsan, __tsan_switch_to_fiber_no_sync);
#endif
    lane_switch(save, to ? to->sp : r->main_sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(*fake, nullptr, nullptr);
#endif
}

/* Makes the warp's next lane the running one. Lanes go up by one or down by one, around once. */
UNSEEN static inline fibre *next_lane(runner *r)
{
    const unsigned step = r->order == LANES_BACKWARD ? 31 : 1;
    r->place++;
    lane_now.thread.x = r->first + (lane_now.thread.x + step) % 32;
    return running(r);
}

/* On to the next of the warp, behind the last to the scheduler; comes back in the lane's next turn. */
UNSEEN static inline void hand_on(runner *r, bool ended)
{
    fibre *f = running(r), *next = nullptr;
    if (r->place < 31) {
        next = next_lane(r);
        if (r->fresh) {
            begin(r, next);
            prepare(next);
        }
    }
    leave_for(r, next, &f->sp, ended ? nullptr : &f->fake_stack);
}

/* Where the running lane came to in this turn; all lanes of a warp go one way. */
UNSEEN static inline void arrive(runner *r, lane_state state, const char *what)
{
    if (r->place == 0) {
        r->state = state;
        r->what = what;
        return;
    }
    if (what == r->what || (state == r->state && strcmp(what, r->what) == 0)) return;
    fprintf(stderr, "lanes: a lane before this one is at %s, this one at %s\n", r->what, what);
    lane_fail("the lanes of a warp went different ways");
}

extern "C" UNSEEN void lane_entry(void)
{
    runner *r = R;
#if defined(__SANITIZE_ADDRESS__)
    const bool from_main = r->place == 0;
    __sanitizer_finish_switch_fiber(nullptr, from_main ? &r->main_stack : nullptr, from_main ? &r->main_stack_bytes : nullptr);
#endif
    for (;;) {
        TAKE(&r->begun);
        running(r)->copies.clear();
        running(r)->groups = 0;
        r->kernel->run(r->args);
        GIVE(&r->ended);
        arrive(r, LANE_DONE, "its end");
        if (LANES_ARE_THREADS) break;
        r->idle[r->n_idle++] = running(r)->stack;
        if (!r->fresh || r->place == 31) break;
        begin(r, next_lane(r));                     /* which takes this stack */
    }
    hand_on(r, true);
    lane_fail("a finished lane was run again");
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

UNSEEN void lane_barrier(void)
{
    runner *r = R;
    char *token = &r->at_barrier[r->round & 1];
    arrive(r, LANE_AT_BARRIER, "__syncthreads");
    GIVE(token);
    hand_on(r, false);
    TAKE(token);
}

UNSEEN const uint8_t *lane_exchange(const char *what, const void *value, size_t bytes, bool orders)
{
    runner *r = R;
    if (bytes > LANE_SLOT) lane_fail("a warp operation of more than 32 bytes");
    const unsigned parity = r->parity;
    char *token = &r->at_warp[lane_now.thread.x / 32][parity];
    copy_unseen(r->slot[parity][lane_now.thread.x % 32], value, bytes);
    r->is_made[parity] = false;
    arrive(r, LANE_AT_WARP, what);
    if (orders) GIVE(token);
    hand_on(r, false);
    if (orders) TAKE(token);
    return r->slot[parity][0];
}

UNSEEN const void *lane_exchange_once(const char *what, const void *value, size_t bytes,
                                      void (*make)(const uint8_t *slots, void *made), size_t made_bytes)
{
    runner *r = R;
    const unsigned parity = r->parity;
    const uint8_t *slots = lane_exchange(what, value, bytes);
    if (!r->is_made[parity]) {
        alignas(16) uint8_t made[LANE_MADE];
        make(slots, made);
        copy_unseen(r->made[parity], made, made_bytes);
        r->is_made[parity] = true;
    }
    return r->made[parity];
}

/* A copy may be done at once or as late as its wait: at once in order, late backward, either in the
 * shuffled order. What is not there yet is garbage. */
static void async_copy(void *shared, const void *global, size_t bytes)
{
    if (reinterpret_cast<uintptr_t>(shared) % bytes || reinterpret_cast<uintptr_t>(global) % bytes)
        lane_fail("async_copy16 or 8 of addresses that are not aligned to 16 or 8 bytes");
    fibre *f = running(R);
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

void async_commit(void) { running(R)->groups++; }

void lane_async_wait(int n)
{
    fibre *f = running(R);
    size_t left = 0;
    for (const lane_copy &c : f->copies) {
        if (c.group < f->groups - n) memcpy(c.to, c.from, c.bytes);
        else f->copies[left++] = c;
    }
    f->copies.resize(left);
}

void lane_misaligned(void) { lane_fail("load_once of an address that is not aligned to 16 bytes"); }

/* ---- the scheduler ------------------------------------------------------------------- */

/* Runs a warp until all of its lanes are at the block's barrier, or done; says which. */
UNSEEN static lane_state run_warp(runner *r, unsigned first, bool fresh)
{
    r->first = first;
    r->fresh = fresh;
    do {
        const unsigned start = r->order == LANES_SHUFFLED ? random_below(32) : r->order == LANES_BACKWARD ? 31 : 0;
        r->place = 0;
        r->parity ^= 1;
        lane_now.thread = { first + start, 0, 0 };
        fibre *f = running(r);
        if (r->fresh) {
            begin(r, f);
            prepare(f);
        }
        leave_for(r, f, &r->main_sp, &r->main_fake);
        r->fresh = false;
    } while (r->state == LANE_AT_WARP);
    return r->state;
}

UNSEEN static unsigned turn_of(const runner *r, unsigned i, unsigned n, unsigned start)
{
    return r->order == LANES_BACKWARD ? n - 1 - i : r->order == LANES_SHUFFLED ? (i + start) % n : i;
}

UNSEEN static void run_block(runner *r)
{
    const unsigned warps = r->n / 32;
    r->n_sites = 0;
    r->shared_used = 0;
    if (r->dynamic) garbage(r->dynamic, r->dynamic_bytes);
    GIVE(&r->begun);

    lane_state all = LANE_AT_BARRIER;
    for (bool fresh = true; all == LANE_AT_BARRIER; fresh = false) {
        const unsigned start = r->order == LANES_SHUFFLED ? random_below(warps) : 0;
        for (unsigned w = 0; w < warps; w++) {
            const lane_state s = run_warp(r, 32 * turn_of(r, w, warps, start), fresh);
            if (w == 0) all = s;
            if (s != all) lane_fail("a thread ended while others wait at __syncthreads");
        }
        r->round++;
    }
    TAKE(&r->ended);
}

/* A thread that ran lanes ends: a server's has its own. */
struct thread_end {
    bool wanted = false;
    ~thread_end()
    {
        if (!R) return;
        for (unsigned i = 0; i < R->n_idle; i++) {
            const uintptr_t end = (reinterpret_cast<uintptr_t>(R->idle[i]) + PAGE - 1) / PAGE * PAGE;
            munmap(reinterpret_cast<void *>(end - STACK_BYTES), STACK_BYTES);
        }
        free(R->shared);
        delete R;
        R = nullptr;
    }
};
static thread_local thread_end at_end;

void lane_run(const lane_kernel_entry *kernel, const unsigned grid[3], unsigned block, unsigned shared,
              const void *args, lane_order order)
{
    if (!R) {
        at_end.wanted = true;                       /* one that nobody mentions is never made */
        R = new runner();
        R->shared = static_cast<uint8_t *>(aligned_alloc(256, MAX_SHARED));
        R->random = 1;
    }
    runner *r = R;
    r->kernel = kernel;
    if (block == 0 || block > MAX_BLOCK || block % 32) lane_fail("a block has 32 to 1024 threads, whole warps");
    if (!grid[0] || !grid[1] || !grid[2]) lane_fail("an empty grid");
    if (shared > MAX_SHARED) lane_fail("too much dynamic shared memory");
    r->args = args;
    r->n = block;
    r->order = order;
    r->dynamic_bytes = shared;
    r->dynamic = shared ? static_cast<uint8_t *>(aligned_alloc(16, (shared + 15u) & ~15u)) : nullptr;
#if defined(__SANITIZE_THREAD__)
    r->main_tsan = __tsan_get_current_fiber();
#endif
    lane_now.dim = { block, 1, 1 };
    lane_now.grid = { grid[0], grid[1], grid[2] };
    const unsigned n = grid[0] * grid[1] * grid[2];
    const unsigned start = order == LANES_SHUFFLED ? random_below(n) : 0;
    for (unsigned i = 0; i < n; i++) {
        const unsigned b = turn_of(r, i, n, start);
        lane_now.block = { b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1] };
        run_block(r);
    }
    free(r->dynamic);
    r->dynamic = nullptr;
}
