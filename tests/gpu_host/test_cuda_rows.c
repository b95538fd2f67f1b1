/* Kernels of rows.cu on the lane runner, against the scalar definitions. */
#include "checked.h"

static const backend_limits limits = { .max_rows = 8, .max_cols = 4096, .max_pairs = 16, .max_expert_width = 512,
                                       .n_experts = 8, .max_head_width = 64, .index_top_k = 8 };

TEST(rms_norm_agrees_with_its_definition_in_every_order_of_lanes)
{
    for (int order = LANES_FORWARD; order <= LANES_SHUFFLED; order++) {
        backend *b = checked_open(&limits, false, (lane_order)order);
        const int widths[] = { 64, 100, 1024, 4096 };
        for (int i = 0; i < 4; i++) {
            const view x = checked_random(b, 3, widths[i], 2.0f, 1), y = checked_view(b, 3, widths[i], QUANT_F32);
            const view w = checked_random(b, 1, widths[i], 1.0f, 2);
            CHECKED(b, rms_norm, .x = x, .y = y, .weight = w, .eps = 1e-6f, .name = "test");
            CHECKED(b, rms_norm, .x = x, .y = x, .eps = 1e-6f, .name = "in place");
            checked_free(b, x);
            checked_free(b, y);
            checked_free(b, w);
        }
        b->close(b);
    }
}
