/* kernels: the parts of the training forward and backward pass that eager tensor
 * operators do slowly, because they are many small steps per token.
 *
 * Plain float32, one thread, called through ctypes from model.py. All arrays are
 * contiguous, row-major. D is a multiple of 16. Every backward function writes its
 * results (dx) unless the comment says "adds".
 * Formulas: hyper-connections with Sinkhorn mixing, RMS norm, rotary pairs,
 * softmax with a sink logit, clamped SwiGLU, as in the DeepSeek V4 architecture. */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { S = 4, MIX = 24, LANES = 16, MAX_ITERS = 32 };

static const float HC_EPS = 1e-6f, RMS_EPS = 1e-6f;

/* ---- hyper-connections ------------------------------------------------------ */

typedef float lanes[LANES];

/* z[16] -> m[16], the first S*S entries of states are kept for the backward pass.
 * states[k] is the matrix after half-step k: 0 softmax, then column, row, column ... */
static void sinkhorn_lanes(lanes states[][S * S], const lanes z[S * S], int iters)
{
    for (int a = 0; a < S; a++)
        for (int l = 0; l < LANES; l++) {
            float mx = z[a * S][l];
            for (int c = 1; c < S; c++) mx = fmaxf(mx, z[a * S + c][l]);
            float sum = 0, e[S];
            for (int c = 0; c < S; c++) sum += e[c] = expf(z[a * S + c][l] - mx);
            for (int c = 0; c < S; c++) states[0][a * S + c][l] = e[c] / sum + HC_EPS;
        }
    for (int k = 1; k < 2 * iters; k++) {
        const lanes *x = states[k - 1];
        lanes *y = states[k];
        const int outer = k % 2 ? 1 : S, inner = k % 2 ? S : 1;   /* odd: columns */
        for (int i = 0; i < S; i++)
            for (int l = 0; l < LANES; l++) {
                float sum = HC_EPS;
                for (int j = 0; j < S; j++) sum += x[i * outer + j * inner][l];
                for (int j = 0; j < S; j++) y[i * outer + j * inner][l] = x[i * outer + j * inner][l] / sum;
            }
    }
}

/* g: gradient of the last state on entry, gradient of z on return. */
static void sinkhorn_lanes_back(lanes g[S * S], lanes states[][S * S], int iters)
{
    for (int k = 2 * iters - 1; k >= 1; k--) {
        const lanes *x = states[k - 1], *y = states[k];
        const int outer = k % 2 ? 1 : S, inner = k % 2 ? S : 1;
        for (int i = 0; i < S; i++)
            for (int l = 0; l < LANES; l++) {
                float sum = HC_EPS, dot = 0;
                for (int j = 0; j < S; j++) {
                    sum += x[i * outer + j * inner][l];
                    dot += g[i * outer + j * inner][l] * y[i * outer + j * inner][l];
                }
                for (int j = 0; j < S; j++)
                    g[i * outer + j * inner][l] = (g[i * outer + j * inner][l] - dot) / sum;
            }
    }
    for (int a = 0; a < S; a++)
        for (int l = 0; l < LANES; l++) {
            float dot = 0;
            for (int c = 0; c < S; c++) dot += g[a * S + c][l] * (states[0][a * S + c][l] - HC_EPS);
            for (int c = 0; c < S; c++)
                g[a * S + c][l] = (states[0][a * S + c][l] - HC_EPS) * (g[a * S + c][l] - dot);
        }
}

/* raw[n][24] = fn . streams (not normalised), streams[n][S*D], base[24], scale[3]
 * -> r[n] (1/rms), pre[n][4], post[n][4], mix[n][16], x[n][D] = sum_a pre[a]*streams[a] */
void hc_mix(int n, int d, int iters, const float *raw, const float *streams, const float *base,
            const float *scale, float *r, float *pre, float *post, float *mix, float *x)
{
    static _Thread_local lanes states[2 * MAX_ITERS][S * S];
    for (int t = 0; t < n; t++) {
        const float *u = streams + (size_t)t * S * d;
        float sum = 0;
        for (int i = 0; i < S * d; i++) sum += u[i] * u[i];
        r[t] = 1.0f / sqrtf(sum / (S * d) + RMS_EPS);
    }
    for (int t0 = 0; t0 < n; t0 += LANES) {
        const int m = n - t0 < LANES ? n - t0 : LANES;
        lanes z[S * S] = {{0}};
        for (int l = 0; l < m; l++) {
            const float *w = raw + (size_t)(t0 + l) * MIX, rr = r[t0 + l];
            for (int a = 0; a < S; a++) {
                pre[(t0 + l) * S + a] = 1.0f / (1.0f + expf(-(w[a] * rr * scale[0] + base[a]))) + HC_EPS;
                post[(t0 + l) * S + a] = 2.0f / (1.0f + expf(-(w[S + a] * rr * scale[1] + base[S + a])));
            }
            for (int k = 0; k < S * S; k++) z[k][l] = w[2 * S + k] * rr * scale[2] + base[2 * S + k];
        }
        sinkhorn_lanes(states, z, iters);
        for (int l = 0; l < m; l++)
            for (int k = 0; k < S * S; k++) mix[(size_t)(t0 + l) * S * S + k] = states[2 * iters - 1][k][l];
    }
    for (int t = 0; t < n; t++) {
        const float *u = streams + (size_t)t * S * d, *p = pre + t * S;
        float *y = x + (size_t)t * d;
        for (int i = 0; i < d; i++)
            y[i] = p[0] * u[i] + p[1] * u[d + i] + p[2] * u[2 * d + i] + p[3] * u[3 * d + i];
    }
}

/* From dx, dpost, dmix: draw[n][24]; adds to dstreams[n][S*D], dbase[24], dscale[3]. */
void hc_mix_back(int n, int d, int iters, const float *raw, const float *streams, const float *base,
                 const float *scale, const float *r, const float *pre, const float *post,
                 const float *dx, const float *dpost, const float *dmix,
                 float *draw, float *dstreams, float *dbase, float *dscale)
{
    static _Thread_local lanes states[2 * MAX_ITERS][S * S];
    for (int t0 = 0; t0 < n; t0 += LANES) {
        const int m = n - t0 < LANES ? n - t0 : LANES;
        lanes z[S * S] = {{0}}, g[S * S] = {{0}};
        for (int l = 0; l < m; l++) {
            const float *w = raw + (size_t)(t0 + l) * MIX, rr = r[t0 + l];
            for (int k = 0; k < S * S; k++) {
                z[k][l] = w[2 * S + k] * rr * scale[2] + base[2 * S + k];
                g[k][l] = dmix[(size_t)(t0 + l) * S * S + k];
            }
        }
        sinkhorn_lanes(states, z, iters);
        sinkhorn_lanes_back(g, states, iters);
        for (int l = 0; l < m; l++) {
            const int t = t0 + l;
            const float *u = streams + (size_t)t * S * d, *w = raw + (size_t)t * MIX, *y = dx + (size_t)t * d;
            float *du = dstreams + (size_t)t * S * d, *dw = draw + (size_t)t * MIX, dz[MIX], dr = 0;
            for (int a = 0; a < S; a++) {
                float dp = 0;
                const float *ua = u + a * d, p = pre[t * S + a];
                float *da = du + a * d;
                for (int i = 0; i < d; i++) {
                    dp += y[i] * ua[i];
                    da[i] += p * y[i];
                }
                const float sp = p - HC_EPS, so = post[t * S + a] * 0.5f;
                dz[a] = dp * sp * (1 - sp);
                dz[S + a] = dpost[t * S + a] * 2.0f * so * (1 - so);
            }
            for (int k = 0; k < S * S; k++) dz[2 * S + k] = g[k][l];
            for (int k = 0; k < MIX; k++) {
                const int part = k < S ? 0 : k < 2 * S ? 1 : 2;
                dbase[k] += dz[k];
                dscale[part] += dz[k] * w[k] * r[t];
                dw[k] = dz[k] * scale[part] * r[t];
                dr += dz[k] * scale[part] * w[k];
            }
            const float c = -dr * r[t] * r[t] * r[t] / (S * d);
            for (int i = 0; i < S * d; i++) du[i] += c * u[i];
        }
    }
}

/* out[c] = post[c]*y + sum_a mix[a][c]*streams[a] */
void hc_post(int n, int d, const float *y, const float *streams, const float *post, const float *mix, float *out)
{
    for (int t = 0; t < n; t++) {
        const float *u = streams + (size_t)t * S * d, *v = y + (size_t)t * d, *m = mix + (size_t)t * S * S;
        for (int c = 0; c < S; c++) {
            float *o = out + (size_t)t * S * d + c * d;
            const float p = post[t * S + c];
            for (int i = 0; i < d; i++)
                o[i] = p * v[i] + m[c] * u[i] + m[S + c] * u[d + i] + m[2 * S + c] * u[2 * d + i] +
                       m[3 * S + c] * u[3 * d + i];
        }
    }
}

void hc_post_back(int n, int d, const float *y, const float *streams, const float *post, const float *mix,
                  const float *dout, float *dy, float *dstreams, float *dpost, float *dmix)
{
    for (int t = 0; t < n; t++) {
        const float *u = streams + (size_t)t * S * d, *v = y + (size_t)t * d, *m = mix + (size_t)t * S * S;
        const float *g = dout + (size_t)t * S * d, *p = post + t * S;
        float *du = dstreams + (size_t)t * S * d, *dv = dy + (size_t)t * d;
        for (int i = 0; i < d; i++)
            dv[i] = p[0] * g[i] + p[1] * g[d + i] + p[2] * g[2 * d + i] + p[3] * g[3 * d + i];
        for (int c = 0; c < S; c++) {
            float dp = 0, m0 = 0, m1 = 0, m2 = 0, m3 = 0;
            const float *gc = g + c * d;
            for (int i = 0; i < d; i++) {
                dp += gc[i] * v[i];
                m0 += gc[i] * u[i];
                m1 += gc[i] * u[d + i];
                m2 += gc[i] * u[2 * d + i];
                m3 += gc[i] * u[3 * d + i];
            }
            dpost[t * S + c] = dp;
            float *dm = dmix + (size_t)t * S * S;
            dm[c] = m0, dm[S + c] = m1, dm[2 * S + c] = m2, dm[3 * S + c] = m3;
        }
        for (int a = 0; a < S; a++) {
            float *da = du + a * d;
            for (int i = 0; i < d; i++)
                da[i] = m[a * S] * g[i] + m[a * S + 1] * g[d + i] + m[a * S + 2] * g[2 * d + i] +
                        m[a * S + 3] * g[3 * d + i];
        }
    }
}

/* ---- RMS norm, with an optional rotation of the last `rot` channels ---------- */

/* pairs (2k, 2k+1) of the tail; cos/sin tables are [position][rot/2]; sign -1 undoes it */
static void rotate(float *x, int rot, const float *cs, const float *sn, float sign)
{
    for (int k = 0; k < rot / 2; k++) {
        const float a = x[2 * k], b = x[2 * k + 1], s = sign * sn[k];
        x[2 * k] = a * cs[k] - b * s;
        x[2 * k + 1] = a * s + b * cs[k];
    }
}

/* Row i stands at position (i / per_pos) % n_pos * stride. weight may be NULL; rot may be 0. */
void norm_rope(int n, int d, int rot, const float *x, const float *weight, const float *cs, const float *sn,
               int per_pos, int n_pos, int stride, float *y)
{
    for (int t = 0; t < n; t++) {
        const float *u = x + (size_t)t * d;
        float *v = y + (size_t)t * d, sum = 0;
        for (int i = 0; i < d; i++) sum += u[i] * u[i];
        const float r = 1.0f / sqrtf(sum / d + RMS_EPS);
        if (weight) for (int i = 0; i < d; i++) v[i] = u[i] * r * weight[i];
        else        for (int i = 0; i < d; i++) v[i] = u[i] * r;
        if (rot) {
            const size_t p = (size_t)(t / per_pos % n_pos) * stride * (rot / 2);
            rotate(v + d - rot, rot, cs + p, sn + p, 1);
        }
    }
}

/* adds to dweight when weight is given */
void norm_rope_back(int n, int d, int rot, const float *x, const float *weight, const float *cs, const float *sn,
                    int per_pos, int n_pos, int stride, const float *dy, float *dx, float *dweight)
{
    float g[1024];
    for (int t = 0; t < n; t++) {
        const float *u = x + (size_t)t * d;
        float *v = dx + (size_t)t * d, sum = 0, dot = 0;
        memcpy(g, dy + (size_t)t * d, sizeof(float) * d);
        if (rot) {
            const size_t p = (size_t)(t / per_pos % n_pos) * stride * (rot / 2);
            rotate(g + d - rot, rot, cs + p, sn + p, -1);
        }
        for (int i = 0; i < d; i++) sum += u[i] * u[i];
        const float r = 1.0f / sqrtf(sum / d + RMS_EPS);
        if (weight)
            for (int i = 0; i < d; i++) {
                dweight[i] += g[i] * u[i] * r;
                g[i] *= weight[i];
            }
        for (int i = 0; i < d; i++) dot += g[i] * u[i];
        const float c = dot * r * r * r / d;
        for (int i = 0; i < d; i++) v[i] = g[i] * r - u[i] * c;
    }
}

/* rotation alone, in place, with the sign given */
void rope_rows(int n, int d, int rot, const float *cs, const float *sn, int per_pos, int n_pos, float sign, float *x)
{
    for (int t = 0; t < n; t++) {
        const size_t p = (size_t)(t / per_pos % n_pos) * (rot / 2);
        rotate(x + (size_t)t * d + d - rot, rot, cs + p, sn + p, sign);
    }
}

/* ---- attention: scores to probabilities, in place ---------------------------- */

/* s[n][ld], row i: position first + i / heads, head i % heads. Columns 0..n_raw-1 are positions,
 * then compressed rows. A row sees positions (pos - window, pos] and compressed rows below
 * (pos+1)/ratio. sink[heads]; psink[n] gets the sink's share. */
void sink_softmax(int n, int heads, int first, int n_raw, int n_comp, int ratio, int window, float scale,
                  const float *sink, float *s, float *psink)
{
    const int ld = n_raw + n_comp;
    for (int t = 0; t < n; t++) {
        float *row = s + (size_t)t * ld;
        const int pos = first + t / heads, lo = pos - window + 1 > 0 ? pos - window + 1 : 0, hi = pos + 1;
        int nc = ratio ? (pos + 1) / ratio : 0;
        if (nc > n_comp) nc = n_comp;
        float *comp = row + n_raw, k = sink[t % heads], mx = k, sum = 0;
        for (int i = lo; i < hi; i++) mx = fmaxf(mx, row[i] * scale);
        for (int i = 0; i < nc; i++) mx = fmaxf(mx, comp[i] * scale);
        for (int i = lo; i < hi; i++) sum += row[i] = expf(row[i] * scale - mx);
        for (int i = 0; i < nc; i++) sum += comp[i] = expf(comp[i] * scale - mx);
        const float e = expf(k - mx), inv = 1.0f / (sum + e);
        memset(row, 0, sizeof(float) * lo);
        memset(row + hi, 0, sizeof(float) * (n_raw - hi));
        memset(comp + nc, 0, sizeof(float) * (n_comp - nc));
        for (int i = lo; i < hi; i++) row[i] *= inv;
        for (int i = 0; i < nc; i++) comp[i] *= inv;
        psink[t] = e * inv;
    }
}

/* g: gradient of the probabilities on entry, of the unscaled scores on return; adds to dsink */
void sink_softmax_back(int n, int heads, int ld, float scale, const float *p, const float *psink, float *g, float *dsink)
{
    for (int t = 0; t < n; t++) {
        const float *pr = p + (size_t)t * ld;
        float *gr = g + (size_t)t * ld, dot = 0;
        for (int i = 0; i < ld; i++) dot += pr[i] * gr[i];
        for (int i = 0; i < ld; i++) gr[i] = pr[i] * (gr[i] - dot) * scale;
        dsink[t % heads] -= psink[t] * dot;
    }
}

/* ---- clamped SwiGLU ---------------------------------------------------------- */

/* gu[n][2F]: gate then up; weight[n] or NULL; m = weight * silu(min(g, limit)) * clamp(u) */
void swiglu(int n, int f, float limit, const float *gu, const float *weight, float *m)
{
    for (int t = 0; t < n; t++) {
        const float *g = gu + (size_t)t * 2 * f, *u = g + f, w = weight ? weight[t] : 1.0f;
        for (int i = 0; i < f; i++) {
            const float a = fminf(g[i], limit), b = fmaxf(-limit, fminf(u[i], limit));
            m[(size_t)t * f + i] = w * a / (1.0f + expf(-a)) * b;
        }
    }
}

/* dweight[n] is written when weight is given */
void swiglu_back(int n, int f, float limit, const float *gu, const float *weight, const float *dm,
                 float *dgu, float *dweight)
{
    for (int t = 0; t < n; t++) {
        const float *g = gu + (size_t)t * 2 * f, *u = g + f, *d = dm + (size_t)t * f, w = weight ? weight[t] : 1.0f;
        float *dg = dgu + (size_t)t * 2 * f, *du = dg + f, dw = 0;
        for (int i = 0; i < f; i++) {
            const float a = fminf(g[i], limit), b = fmaxf(-limit, fminf(u[i], limit));
            const float s = 1.0f / (1.0f + expf(-a)), h = a * s;
            dw += d[i] * h * b;
            dg[i] = g[i] < limit ? w * d[i] * b * s * (1 + a * (1 - s)) : 0;
            du[i] = u[i] > -limit && u[i] < limit ? w * d[i] * h : 0;
        }
        if (weight) dweight[t] = dw;
    }
}
