/* attn_ref: the definitions of attn_kernels.h. */
#include "kernels/cpu/attn_kernels.h"

#include <math.h>

static void scores(float *restrict s, const float *restrict q, int n_heads, const float *restrict rows, int n_rows, int K)
{
    for (int h = 0; h < n_heads; h++)
        for (int r = 0; r < n_rows; r++) {
            double sum = 0.0;
            for (int i = 0; i < K; i++) sum += (double)q[h * K + i] * rows[r * attn_row_stride(K) + i];
            s[h * ATTN_TILE + r] = (float)sum;
        }
}

static void weigh(float *restrict s, int n_heads, int n_rows, float scale, float *restrict top, float *restrict sum,
                  float *restrict keep)
{
    for (int h = 0; h < n_heads; h++, s += ATTN_TILE) {
        const float before = top[h];
        for (int r = 0; r < n_rows; r++) top[h] = fmaxf(top[h], scale * s[r]);
        keep[h] = expf(before - top[h]);

        double total = (double)sum[h] * keep[h];
        for (int r = 0; r < n_rows; r++) total += s[r] = expf(scale * s[r] - top[h]);
        sum[h] = (float)total;
    }
}

static void mix(float *restrict acc, const float *restrict keep, const float *restrict s, int n_heads,
                const float *restrict rows, int n_rows, int K)
{
    for (int h = 0; h < n_heads; h++)
        for (int i = 0; i < K; i++) {
            double sum = (double)keep[h] * acc[h * K + i];
            for (int r = 0; r < n_rows; r++) sum += (double)s[h * ATTN_TILE + r] * rows[r * attn_row_stride(K) + i];
            acc[h * K + i] = (float)sum;
        }
}

static void scale_row(float *y, float a, const float *x, int n)
{
    for (int i = 0; i < n; i++) y[i] = a * x[i];
}

void attn_kernels_ref(attn_kernels *k)
{
    *k = (attn_kernels){ .unpack = kv_row_unpack, .scores = scores, .weigh = weigh, .mix = mix, .scale = scale_row };
}
