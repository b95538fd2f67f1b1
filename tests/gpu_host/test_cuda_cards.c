/* Steps of the released shape on every kind of card that kernels are built for: what is launched stays within what the
 * card takes, and where sessions stand is in no launch's arguments. Nothing is computed. */
#include "flash_rig.h"
#include "runner.h"

#include "base/checked.h"
#include "base/hash.h"

enum { MILLION = 1 << 20, GRID = 65535, ARGUMENTS = 4096 };

static const gpu_info cards[] = {
    { .name = "as A100",         .arch = 80,  .n_sm = 108, .shared_bytes = 163 * 1024 },
    { .name = "as A6000",        .arch = 86,  .n_sm = 84,  .shared_bytes = 99 * 1024 },
    { .name = "as L40S",         .arch = 89,  .n_sm = 142, .shared_bytes = 99 * 1024 },
    { .name = "as H200",         .arch = 90,  .n_sm = 132, .shared_bytes = 227 * 1024 },
    { .name = "as B200",         .arch = 100, .n_sm = 148, .shared_bytes = 227 * 1024 },
    { .name = "as RTX PRO 6000", .arch = 120, .n_sm = 188, .shared_bytes = 99 * 1024 },
    { .name = "as GB10",         .arch = 121, .n_sm = 48,  .shared_bytes = 99 * 1024, .unified = true },
};

static const gpu_info *card;    /* that is open                                            */
static uint64_t seen;           /* of all launches of a step and their arguments, in order */

/* What lies between fields is whatever was there. Compilers that can not tell it apart compare no arguments. */
#ifndef __has_builtin
#define __has_builtin(x) 0
#endif
static void mix_arguments(const gpu_launch *l)
{
#if __has_builtin(__builtin_clear_padding)
    _Alignas(16) uint8_t own[ARGUMENTS];
    memcpy(own, l->args, l->args_bytes);
#define CLEAR(name, type) case CUDA_##name: __builtin_clear_padding((type *)(void *)own); break;
    switch (l->kernel) { CUDA_KERNELS(CLEAR) }
    seen = hash_bytes(seen, own, l->args_bytes);
#else
    (void)l;
#endif
}

static void look(void *ctx, const gpu_launch *l, counted_work *w)
{
    (void)ctx;
    w->us = 1.0;
    if (!l->grid[0] || !l->grid[1] || !l->grid[2] || l->grid[0] > INT32_MAX || l->grid[1] > GRID || l->grid[2] > GRID ||
        l->block < 1 || l->block > 1024 || l->shared > (unsigned)card->shared_bytes || l->args_bytes > ARGUMENTS)
        test_fail(__FILE__, __LINE__, "%s: kernel %d, (%u, %u, %u) blocks of %u with %u bytes, %zu bytes of arguments",
                  card->name, l->kernel, l->grid[0], l->grid[1], l->grid[2], l->block, l->shared, (size_t)l->args_bytes);
    const int what[] = { l->kernel, w->stream, (int)l->grid[0], (int)l->grid[1], (int)l->grid[2], (int)l->block,
                         (int)l->shared };
    seen = hash_bytes(seen, what, sizeof what);
    if (l->args_bytes <= ARGUMENTS) mix_arguments(l);
}

static rig *open_card(const gpu_info *info)
{
    static char path[512];
    static rig r;
    ds4_error err;
    if (!path[0]) {
        snprintf(path, sizeof path, "%s", test_scratch("holes.gguf"));
        write_model(path, &err);
    }
    r = (rig){ 0 };
    card = info;
    rig_options o = { .info = *info, .sessions = RIG_SESSIONS, .context = MILLION, .cost = look };
    o.info.driver = 13000;
    o.info.total_bytes = UINT64_C(141) << 30;
    o.info.l2_bytes = 40 << 20;
    rig_open(&r, path, &o, &err);
    return &r;
}

TEST(every_card_takes_the_launches_of_every_step)
{
    static const struct { int sessions, length, each; } steps[] = {
        { 1, 0, 1 }, { 1, MILLION - 1, 1 }, { 2, 1500, 1 }, { 16, 65536, 1 }, { 17, 1500, 1 }, { 64, 65536, 1 },
        { 1, 7, 16 }, { 1, 65536, 17 }, { 31, 2040, 33 }, { 1, 0, 4096 }, { 1, MILLION - 4096, 4096 } };
    ds4_error err;
    for (size_t i = 0; i < countof(cards); i++) {
        rig *r = open_card(&cards[i]);
        for (size_t j = 0; j < countof(steps); j++) {
            int n;
            rig_step(r, steps[j].sessions, steps[j].length, steps[j].each, &err);
            counting_work(r->device, &n);
            EXPECT(n > 20 * r->config.n_layer);
        }
        rig_close(r);
    }
}

/* Weights are planned in the pages that a driver gives out, all else to the byte. */
TEST(what_is_planned_is_what_is_taken)
{
    ds4_error err;
    kv *k[RIG_SESSIONS];
    rig *r = open_card(&cards[3]);
    for (int i = 0; i < RIG_SESSIONS; i++) need(kv_open(&k[i], r->pool, MILLION, &err), &err);
    const weights_device_bytes w = weights_on_device(r->file);
    const uint64_t pages = w.dense + w.experts, taken = counting_taken(r->device) - r->weights_taken;
    EXPECT(r->weights_taken <= pages && r->weights_taken > pages / 100 * 98);
    EXPECT(taken <= r->planned && taken + (1 << 20) > r->planned);
    for (int i = 0; i < RIG_SESSIONS; i++) kv_close(k[i]);
    rig_close(r);
}

/* Rows that choose among compressed ones make other steps than rows that see them all; nothing else counts. */
TEST(where_sessions_stand_is_in_no_argument_of_a_decode_step)
{
    static const int rows[] = { 1, 2, 7, 16, 17, 40, 64 }, lengths[2][2] = { { 130, 1900 }, { 2100, MILLION - 1 } };
    ds4_error err;
    rig *r = open_card(&cards[3]);
    for (size_t i = 0; i < countof(rows); i++) {
        uint64_t of[2][2];
        for (int j = 0; j < 4; j++) {
            seen = HASH_BEGIN;
            rig_step(r, rows[i], lengths[j / 2][j % 2], 1, &err);
            of[j / 2][j % 2] = seen;
        }
        for (int j = 0; j < 2; j++)
            if (of[j][0] != of[j][1])
                test_fail(__FILE__, __LINE__, "steps of %d rows differ at %d and %d tokens", rows[i], lengths[j][0],
                          lengths[j][1]);
        EXPECT(of[0][0] != of[1][0]);
    }
    rig_close(r);
}
