/* Stored rows: what packing may not change, and what any bytes may not do. */
#include "runner.h"

#include <math.h>
#include <string.h>

#include "base/random.h"
#include "kernels/backend.h"
#include "kernels/kv_row.h"
#include "model/kv.h"

#define WIDEST 1024

static const kv_row formats[] = {
    { KV_ROW_FP8, 512, 448 }, { KV_ROW_FP8, 64, 48 }, { KV_ROW_FP8, 96, 80 }, { KV_ROW_FP8, 16, 0 }, { KV_ROW_FP8, 3, 1 },
    { KV_ROW_FP8, 130, 66 }, { KV_ROW_FP4, 128, 0 }, { KV_ROW_FP4, 32, 0 }, { KV_ROW_FP4, 16, 0 }, { KV_ROW_FP4, 2, 0 },
    { KV_ROW_FP4, 1024, 0 }, { KV_ROW_F32, 7, 0 },
};

/* Magnitudes from the smallest floats to beyond any activation, zeros of both signs. */
static void any_numbers(random_stream *r, float *x, int n)
{
    const int spread = (int)random_below(r, 4);
    const double centre = spread == 3 ? (double)random_below(r, 240) - 126 : 0;
    for (int i = 0; i < n; i++) {
        const double wide = spread == 0 ? 0 : spread == 1 ? (double)random_below(r, 40) - 20 : (double)random_below(r, 6);
        x[i] = (float)ldexp(random_normal(r), (int)(centre + wide));
        if (random_below(r, 20) == 0) x[i] = random_below(r, 2) ? 0.0f : -0.0f;
    }
}

static void round_rows(backend *b, float *x, kv_row f)
{
    if (f.kind == KV_ROW_F32) return;
    ds4_error err;
    buf *m;
    EXPECT_OK(b->buf_map(b, x, (uint64_t)f.width * sizeof *x, &m, &err), err);
    const view v = { .buf = m, .rows = 1, .cols = f.width, .type = QUANT_F32, .stride = (uint64_t)f.width * 4 };
    EXPECT(!b->ops.kv_round(&b->queue, &(kv_round_args){ .x = v, .n_round = f.n_round,
                                                         .kind = f.kind == KV_ROW_FP8 ? ROUND_FP8 : ROUND_HADAMARD_FP4 }));
    b->buf_free(b, m);
}

TEST(packing_rounded_rows_loses_nothing)
{
    backend *b;
    ds4_error err;
    const backend_options o = { .name = "cpu", .n_threads = 1, .limits = { .max_rows = 1, .max_cols = WIDEST, .max_pairs = 1,
                                .max_expert_width = 256, .n_experts = 1, .max_head_width = 8 } };
    REQUIRE_OK(backend_open(&b, &o, &err), err);
    random_stream r;
    random_seed(&r, test_seed());
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++)
        for (int round = 0; round < 200; round++) {
            const kv_row k = formats[f];
            const int bytes = kv_row_bytes(k);
            float x[WIDEST], y[WIDEST + 1];
            uint8_t row[WIDEST * 4 + 1];
            any_numbers(&r, x, k.width);
            round_rows(b, x, k);
            row[bytes] = 0xa5;
            y[k.width] = 0.5f;
            kv_row_pack(k, row, x);
            kv_row_unpack(k, y, row);
            EXPECT(row[bytes] == 0xa5 && y[k.width] == 0.5f);
            for (int i = 0; i < k.width; i++) {
                const bool coded = k.kind != KV_ROW_FP8 || i < k.n_round;
                if (coded ? !memcmp(&x[i], &y[i], 4) : fabsf(y[i] - x[i]) <= kv_row_step(k, row, i) ||
                    fabsf(x[i]) > 65504) continue;
                test_fail(__FILE__, __LINE__, "format %zu, number %d of %d: %.9g became %.9g", f, i, k.width,
                          (double)x[i], (double)y[i]);
                break;
            }
        }
    b->close(b);
}

TEST(any_bytes_unpack_and_pack_again_to_the_same_numbers)
{
    random_stream r;
    random_seed(&r, test_seed());
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++)
        for (int round = 0; round < 200; round++) {
            const kv_row k = formats[f];
            float y[WIDEST], again[WIDEST];
            uint8_t row[WIDEST * 4], packed[WIDEST * 4];
            for (int i = 0; i < kv_row_bytes(k); i++) {
                row[i] = (uint8_t)random_below(&r, 256);
                if (round % 2) continue;            /* half of the rows hold finite numbers only */
                if (i >= kv_row_scales(k)) row[i] = (uint8_t)(60 + random_below(&r, 50));
                else if ((row[i] & 127) == 127) row[i] = 0;
            }
            kv_row_unpack(k, y, row);
            kv_row_pack(k, packed, y);              /* total, whatever came */
            if (round % 2 || k.kind == KV_ROW_F32) continue;
            kv_row_unpack(k, again, packed);
            /* A row that no rounding made may have another scale than packing takes: the
             * same numbers, but for those below the smallest scale. */
            for (int i = 0; i < k.width; i++)
                if (memcmp(&y[i], &again[i], 4) && (k.kind == KV_ROW_FP4 || fabsf(y[i]) > 1e-6f)) {
                    test_fail(__FILE__, __LINE__, "format %zu, number %d: %.9g became %.9g", f, i, (double)y[i],
                              (double)again[i]);
                    break;
                }
        }
}

TEST(a_flash_session_of_100k_tokens_grows_to_350_megabytes_at_most)
{
    static model_config c;
    c = (model_config){ .n_layer = 43, .head_dim = 512, .n_rot = 64, .n_swa = 128, .index_dim = 128 };
    for (int l = 2; l < 43; l++) c.ratio[l] = l % 2 ? 128 : 4;
    EXPECT_INT(kv_row_bytes(kv_row_format(&c, true, false)), 584);
    EXPECT_INT(kv_row_bytes(kv_row_format(&c, true, true)), 68);

    const kv_options o = { .max_sessions = 1, .max_tokens = 100000, .max_step = 512, .packed = true };
    const double mib = 1024.0 * 1024.0, growing = (double)kv_growing_bytes(&c, &o) / mib;
    const double all = (double)kv_bytes(&c, &o) / mib;
    if (growing > 350) test_fail(__FILE__, __LINE__, "compressed and indexer rows take %.1f MiB", growing);
    if (all - growing > 50) test_fail(__FILE__, __LINE__, "rings and compressor states take %.1f MiB", all - growing);
}
