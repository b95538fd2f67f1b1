#include "quant/search.h"

#include <math.h>
#include "quant/formats.h"

static const float tiny = 1e-15f;   /* a block below it counts as zero */

/* Numerator and denominator of the least-squares scale for given levels. */
typedef struct {
    float wxl, wll;     /* sum w*x*l, sum w*l*l */
} fit;

static float weight_at(const float *w, const float *x, int i)
{
    return w ? w[i] : x[i] * x[i];
}

static fit fit_levels(int n, const float *x, const float *w, const int *level)
{
    fit f = { 0.0f, 0.0f };
    for (int i = 0; i < n; i++) {
        const float wi = weight_at(w, x, i), l = (float)level[i];
        f.wxl += wi * x[i] * l;
        f.wll += wi * l * l;
    }
    return f;
}

static float fit_scale(fit f)
{
    return f.wll > 0.0f ? f.wxl / f.wll : 0.0f;
}

static void levels_at(int n, float s, const float *x, int lo, int hi, int *level)
{
    for (int i = 0; i < n; i++) level[i] = level_of(s * x[i], lo, hi);
}

static void store_shifted(int n, const int *level, int shift, uint8_t *out)
{
    for (int i = 0; i < n; i++) out[i] = (uint8_t)(level[i] + shift);
}

float search_symmetric(int n, int nmax, const float *x, const float *w, uint8_t *shifted)
{
    const float v = signed_max(x, n);
    int level[SEARCH_MAX] = { 0 };

    if (fabsf(v) < tiny) {
        store_shifted(n, level, 0, shifted);    /* -nmax: harmless, as the scale is 0 */
        return 0.0f;
    }
    levels_at(n, -(float)nmax / v, x, -nmax, nmax - 1, level);
    store_shifted(n, level, nmax, shifted);
    const fit first = fit_levels(n, x, w, level);
    float scale = fit_scale(first), best = scale * first.wxl;

    for (int k = -9; k <= 9; k++) {
        if (k == 0) continue;
        levels_at(n, -((float)nmax + 0.1f * (float)k) / v, x, -nmax, nmax - 1, level);
        const fit f = fit_levels(n, x, w, level);
        if (f.wll > 0.0f && f.wxl * f.wxl > best * f.wll) {
            store_shifted(n, level, nmax, shifted);
            scale = f.wxl / f.wll;
            best = scale * f.wxl;
        }
    }
    return scale;
}

/* Moves one level at a time to where the others' scale puts it, while that
 * raises wxl^2 / wll; at most five sweeps. */
static fit descend(int n, const float *x, const float *w, int lo, int hi, int *level, fit f)
{
    for (int sweep = 0; sweep < 5; sweep++) {
        int changed = 0;
        for (int i = 0; i < n; i++) {
            const float wi = weight_at(w, x, i), l = (float)level[i];
            fit g = { f.wxl - wi * x[i] * l, f.wll - wi * l * l };
            if (!(g.wxl > 0.0f) || !(g.wll > 0.0f)) continue;

            const int t = level_of(x[i] * g.wll / g.wxl, lo, hi);
            if (t == level[i]) continue;
            g.wxl += wi * x[i] * (float)t;
            g.wll += wi * (float)t * (float)t;
            if (g.wll > 0.0f && g.wxl * g.wxl * f.wll > f.wxl * f.wxl * g.wll) {
                level[i] = t;
                f = g;
                changed = 1;
            }
        }
        if (!changed) break;
    }
    return f;
}

float search_symmetric_descent(int n, int nmax, const float *x, uint8_t *shifted)
{
    const float v = signed_max(x, n);
    int level[SEARCH_MAX] = { 0 };

    if (fabsf(v) < tiny) {
        store_shifted(n, level, 0, shifted);
        return 0.0f;
    }
    levels_at(n, -(float)nmax / v, x, -nmax, nmax - 1, level);
    const fit f = descend(n, x, NULL, -nmax, nmax - 1, level, fit_levels(n, x, NULL, level));
    store_shifted(n, level, nmax, shifted);
    return fit_scale(f);
}

float search_positive(int n, int nmax, const float *x, const float *w, uint8_t *out)
{
    int level[SEARCH_MAX] = { 0 };
    float hi = 0.0f;
    for (int i = 0; i < n; i++) if (x[i] > hi) hi = x[i];

    store_shifted(n, level, 0, out);
    if (hi < tiny) return 0.0f;

    float best = 0.0f, winner = 0.0f;
    for (int c = 0; c <= 8; c++) {              /* 0 first, then -4..4 without 0 */
        const int k = c == 0 ? 0 : c <= 4 ? c - 5 : c - 4;
        const float s = (0.1f * (float)k + (float)nmax) / hi, step = 1.0f / s;
        float error = 0.0f;
        for (int i = 0; i < n; i++) {
            const float d = x[i] - step * (float)level_of(s * x[i], 0, nmax);
            error += w[i] * d * d;
        }
        if (c == 0 || error < best) {
            best = error;
            winner = s;
        }
    }
    levels_at(n, winner, x, 0, nmax, level);
    const fit f = descend(n, x, w, 0, nmax, level, fit_levels(n, x, w, level));
    store_shifted(n, level, 0, out);
    return fit_scale(f);
}

static float affine_error(int n, const float *x, const float *w, const int *level,
                          float scale, float low, int absolute)
{
    float error = 0.0f;
    for (int i = 0; i < n; i++) {
        const float d = scale * (float)level[i] + low - x[i];
        error += w[i] * (absolute ? fabsf(d) : d * d);
    }
    return error;
}

/* Scale and low end of the weighted regression of x on the levels, the low end
 * kept at or below 0. False when all levels are equal. */
static int affine_fit(int n, const float *x, const float *w, const int *level,
                      float sum_w, float sum_x, float *scale, float *low)
{
    float wl = 0.0f, wll = 0.0f, wlx = 0.0f;
    for (int i = 0; i < n; i++) {
        const float l = (float)level[i];
        wl += w[i] * l;
        wll += w[i] * l * l;
        wlx += w[i] * l * x[i];
    }
    const float det = sum_w * wll - wl * wl;
    if (!(det > 0.0f)) return 0;

    *scale = (sum_w * wlx - sum_x * wl) / det;
    *low = (wll * sum_x - wl * wlx) / det;
    if (*low > 0.0f) {
        *low = 0.0f;
        *scale = wlx / wll;
    }
    return 1;
}

float search_affine(int n, int nmax, const float *x, const float *w, affine_grid grid,
                    uint8_t *out, float *offset)
{
    int level[SEARCH_MAX] = { 0 };
    float low = x[0], high = x[0], sum_w = w[0], sum_x = w[0] * x[0];
    for (int i = 1; i < n; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    if (low > 0.0f) low = 0.0f;
    if (high <= low) {
        store_shifted(n, level, 0, out);
        *offset = -low;
        return 0.0f;
    }

    const float s0 = (float)nmax / (high - low);
    float scale = 1.0f / s0;
    for (int i = 0; i < n; i++) level[i] = level_of(s0 * (x[i] - low), 0, nmax);
    store_shifted(n, level, 0, out);
    float best = affine_error(n, x, w, level, scale, low, grid.absolute);

    for (int k = 0; k <= grid.steps; k++) {
        const float s = (grid.first + grid.step * (float)k + (float)nmax) / (high - low);
        for (int i = 0; i < n; i++) level[i] = level_of(s * (x[i] - low), 0, nmax);

        float new_scale, new_low;
        if (!affine_fit(n, x, w, level, sum_w, sum_x, &new_scale, &new_low)) continue;
        const float error = affine_error(n, x, w, level, new_scale, new_low, grid.absolute);
        if (error < best) {
            store_shifted(n, level, 0, out);
            best = error;
            scale = new_scale;
            low = new_low;      /* later candidates start from the accepted low end */
        }
    }
    *offset = -low;
    return scale;
}
