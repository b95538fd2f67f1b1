"""The DeepSeek V4 architecture in PyTorch, for training a small model on a CPU.

Shapes come from a config.json of the released form, parameters are a dict whose keys are the
released tensor names, except that the experts of a layer are stacked (`experts.w13`, `experts.w2`)
and gate and up lie in one matrix (`w13`). `split_names` gives the released spelling back.
The model has no roundings and, in training, lets the indexer take every compressed row, which is
what it does below 4 * (index_topk + 1) tokens anyway.

N = tokens of the step, B = sequences, T = tokens per sequence, D = hidden width.
"""

import ctypes
import math
import os

import torch
import torch.nn.functional as F

S = 4                                      # hyper-connection streams
CHUNK = 256                                # query positions per attention matmul
_lib = None


def load_kernels(path):
    global _lib
    _lib = ctypes.CDLL(os.path.abspath(path))


def _ptr(t):
    if t is None:
        return None
    assert t.is_contiguous() and t.dtype == torch.float32
    return ctypes.c_void_p(t.data_ptr())


_f = ctypes.c_float

# The autograd functions below keep tensors in ctx.saved and drop them in backward: an output kept
# there makes a reference cycle, which would hold the memory of every step until a collection.


class Config:
    """config.json with short names."""

    def __init__(self, c):
        self.json = c
        self.V, self.D, self.L = c["vocab_size"], c["hidden_size"], c["num_hidden_layers"]
        self.H, self.hd, self.rot = c["num_attention_heads"], c["head_dim"], c["qk_rope_head_dim"]
        self.QL, self.G, self.OL = c["q_lora_rank"], c["o_groups"], c["o_lora_rank"]
        self.E, self.K, self.F = c["n_routed_experts"], c["num_experts_per_tok"], c["moe_intermediate_size"]
        self.ratios = c["compress_ratios"][:self.L]
        self.n_hash = c["num_hash_layers"]
        self.window, self.limit = c["sliding_window"], c["swiglu_limit"]
        self.route_scale = c["routed_scaling_factor"]
        self.iters = c["hc_sinkhorn_iters"]
        self.IH, self.ID, self.topk = c["index_n_heads"], c["index_head_dim"], c["index_topk"]


def rope_freqs(cfg, ratio):
    c, n = cfg.json, cfg.rot
    k = torch.arange(n // 2, dtype=torch.float64)
    if ratio == 0:
        return (c["rope_theta"] ** (-2 * k / n)).float()
    y, theta = c["rope_scaling"], c["compress_rope_theta"]

    def dim(turns):
        return n * math.log(y["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (2 * math.log(theta))

    lo, hi = max(math.floor(dim(y["beta_fast"])), 0), min(math.ceil(dim(y["beta_slow"])), n - 1)
    ramp = ((k - lo) / (hi - lo if hi != lo else 0.001)).clamp(0, 1)
    g = theta ** (-2 * k / n)
    return (g / y["factor"] * ramp + g * (1 - ramp)).float()


def rope_table(cfg, ratio, n):
    angle = torch.arange(n, dtype=torch.float32)[:, None] * rope_freqs(cfg, ratio)[None]
    return angle.cos().contiguous(), angle.sin().contiguous()


class HCMix(torch.autograd.Function):
    """streams [N,4D] -> sublayer input x [N,D], post [N,4], mix [N,16], and the streams again: whoever
    uses them after this must take that output, so that both gradients meet here without a further sum"""

    @staticmethod
    def forward(ctx, streams, fn, base, scale, iters):
        n, d = streams.shape[0], streams.shape[1] // S
        raw = streams @ fn.t()
        r, pre, post = streams.new_empty(n), streams.new_empty(n, S), streams.new_empty(n, S)
        mix, x = streams.new_empty(n, S * S), streams.new_empty(n, d)
        _lib.hc_mix(n, d, iters, _ptr(raw), _ptr(streams), _ptr(base), _ptr(scale),
                    _ptr(r), _ptr(pre), _ptr(post), _ptr(mix), _ptr(x))
        ctx.saved = (streams, fn, base, scale, raw, r, pre, post, iters)
        return x, post, mix, streams.view_as(streams)

    @staticmethod
    def backward(ctx, dx, dpost, dmix, ds):
        streams, fn, base, scale, raw, r, pre, post, iters = ctx.saved
        ctx.saved = None
        n, d = dx.shape
        draw = torch.empty_like(raw)
        dbase, dscale = torch.zeros_like(base), torch.zeros_like(scale)
        _lib.hc_mix_back(n, d, iters, _ptr(raw), _ptr(streams), _ptr(base), _ptr(scale), _ptr(r), _ptr(pre), _ptr(post),
                         _ptr(dx.contiguous()), _ptr(dpost.contiguous()), _ptr(dmix.contiguous()),
                         _ptr(draw), _ptr(ds), _ptr(dbase), _ptr(dscale))
        ds.addmm_(draw, fn)
        return ds, draw.t() @ streams, dbase, dscale, None


class HCPost(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, streams, post, mix):
        n, d = y.shape
        out = torch.empty_like(streams)
        _lib.hc_post(n, d, _ptr(y), _ptr(streams), _ptr(post), _ptr(mix), _ptr(out))
        ctx.saved = (y, streams, post, mix)
        return out

    @staticmethod
    def backward(ctx, dout):
        y, streams, post, mix = ctx.saved
        ctx.saved = None
        n, d = y.shape
        dy, ds, dp, dm = (torch.empty_like(t) for t in (y, streams, post, mix))
        _lib.hc_post_back(n, d, _ptr(y), _ptr(streams), _ptr(post), _ptr(mix), _ptr(dout.contiguous()),
                          _ptr(dy), _ptr(ds), _ptr(dp), _ptr(dm))
        return dy, ds, dp, dm


class NormRope(torch.autograd.Function):
    """RMS norm of rows, optional weight, then rotation of the last `rot` channels.
    place = (rows per position, positions, stride of positions)"""

    @staticmethod
    def forward(ctx, x, weight, rot, table, place):
        y = torch.empty_like(x)
        cs, sn = table if rot else (None, None)
        _lib.norm_rope(x.shape[0], x.shape[1], rot, _ptr(x), _ptr(weight), _ptr(cs), _ptr(sn), *place, _ptr(y))
        ctx.saved = (x, weight, rot, cs, sn, place)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, rot, cs, sn, place = ctx.saved
        ctx.saved = None
        dx = torch.empty_like(x)
        dw = None if weight is None else torch.zeros_like(weight)
        _lib.norm_rope_back(x.shape[0], x.shape[1], rot, _ptr(x), _ptr(weight), _ptr(cs), _ptr(sn), *place,
                            _ptr(dy.contiguous()), _ptr(dx), _ptr(dw))
        return dx, dw, None, None, None


def norm(x, weight):
    return NormRope.apply(x, weight, 0, None, (1, 1, 1))


class Attend(torch.autograd.Function):
    """q [B*T*H,hd], raw [B*T,hd], comp [B*R,hd] -> heads [B*T*H,hd] after the inverse rotation.
    Query rows are ordered (token, head), so one matmul serves all heads. `mask` [B,T,R] is true for
    the compressed rows an indexer kept, or None for all."""

    @staticmethod
    def forward(ctx, q, raw, comp, sink, shape, ratio, window, rot, table, mask):
        B, T, H = shape
        scale = q.shape[1] ** -0.5
        out = torch.empty_like(q)
        parts = []
        for b in range(B):
            nb = comp.shape[0] // B
            for t0 in range(0, T, CHUNK):
                t1 = min(T, t0 + CHUNK)
                nc = min(nb, t1 // ratio) if ratio else 0
                keys = torch.cat([raw[b * T:b * T + t1], comp[b * nb:b * nb + nc]])
                rows = slice((b * T + t0) * H, (b * T + t1) * H)
                s = q[rows] @ keys.t()
                if mask is not None:
                    keep = mask[b, t0:t1, :nc].repeat_interleave(H, 0)
                    s[:, t1:].masked_fill_(~keep, -1e30)
                psink = q.new_empty(s.shape[0])
                _lib.sink_softmax(s.shape[0], H, t0, t1, nc, ratio, window, _f(scale), _ptr(sink), _ptr(s), _ptr(psink))
                torch.mm(s, keys, out=out[rows])
                parts.append((b, t1, nc, rows, keys, s, psink))
        _lib.rope_rows(out.shape[0], out.shape[1], rot, *map(_ptr, table), H, T, _f(-1), _ptr(out))
        ctx.saved = (q, raw, comp, sink, shape, scale, rot, table, parts)
        return out

    @staticmethod
    def backward(ctx, dout):
        q, raw, comp, sink, (B, T, H), scale, rot, table, parts = ctx.saved
        ctx.saved = None
        g = dout.clone(memory_format=torch.contiguous_format)
        _lib.rope_rows(g.shape[0], g.shape[1], rot, *map(_ptr, table), H, T, _f(1), _ptr(g))
        dq, draw, dcomp, dsink = (torch.zeros_like(t) for t in (q, raw, comp, sink))
        nb = comp.shape[0] // B
        for b, t1, nc, rows, keys, p, psink in parts:
            ds = g[rows] @ keys.t()
            dkeys = p.t() @ g[rows]
            _lib.sink_softmax_back(p.shape[0], H, p.shape[1], _f(scale), _ptr(p), _ptr(psink), _ptr(ds), _ptr(dsink))
            torch.mm(ds, keys, out=dq[rows])
            dkeys.addmm_(ds.t(), q[rows])
            draw[b * T:b * T + t1] += dkeys[:t1]
            dcomp[b * nb:b * nb + nc] += dkeys[t1:]
        return dq, draw, dcomp, dsink, None, None, None, None, None, None


class Experts(torch.autograd.Function):
    """y[N,D] = sum over the K chosen experts of weight * expert(h); ids [N,K], w [N,K]"""

    @staticmethod
    def forward(ctx, h, ids, w, w13, w2, limit):
        n, k = ids.shape
        order = ids.flatten().argsort(stable=True)
        counts = torch.bincount(ids.flatten(), minlength=w13.shape[0]).tolist()
        xs = h.index_select(0, order // k)
        ws = w.flatten().index_select(0, order)
        gu, m = xs.new_empty(n * k, w13.shape[1]), xs.new_empty(n * k, w2.shape[2])
        ys = torch.empty_like(xs)
        spans, at = [], 0
        for e, c in enumerate(counts):
            if c:
                spans.append((e, slice(at, at + c)))
                torch.mm(xs[at:at + c], w13[e].t(), out=gu[at:at + c])
            at += c
        _lib.swiglu(n * k, w2.shape[2], _f(limit), _ptr(gu), _ptr(ws), _ptr(m))
        for e, rows in spans:
            torch.mm(m[rows], w2[e].t(), out=ys[rows])
        back = torch.empty_like(order)
        back[order] = torch.arange(n * k)
        ctx.saved = (xs, ws, gu, m, w13, w2, limit, order, back, spans, k)
        return ys.index_select(0, back).view(n, k, -1).sum(1)

    @staticmethod
    def backward(ctx, dy):
        xs, ws, gu, m, w13, w2, limit, order, back, spans, k = ctx.saved
        ctx.saved = None
        dys = dy.index_select(0, order // k)
        dm, dgu, dws, dxs = torch.empty_like(m), torch.empty_like(gu), torch.empty_like(ws), torch.empty_like(xs)
        d13, d2 = torch.zeros_like(w13), torch.zeros_like(w2)
        for e, rows in spans:
            torch.mm(dys[rows], w2[e], out=dm[rows])
            torch.mm(dys[rows].t(), m[rows], out=d2[e])
        _lib.swiglu_back(m.shape[0], m.shape[1], _f(limit), _ptr(gu), _ptr(ws), _ptr(dm), _ptr(dgu), _ptr(dws))
        for e, rows in spans:
            torch.mm(dgu[rows], w13[e], out=dxs[rows])
            torch.mm(dgu[rows].t(), xs[rows], out=d13[e])
        n = dy.shape[0]
        return (dxs.index_select(0, back).view(n, k, -1).sum(1), None,
                dws.index_select(0, back).view(n, k), d13, d2, None)


class SharedExpert(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, w13, w2, limit):
        gu = h @ w13.t()
        m = h.new_empty(h.shape[0], w2.shape[1])
        _lib.swiglu(h.shape[0], w2.shape[1], _f(limit), _ptr(gu), None, _ptr(m))
        ctx.saved = (h, w13, w2, limit, gu, m)
        return m @ w2.t()

    @staticmethod
    def backward(ctx, dy):
        h, w13, w2, limit, gu, m = ctx.saved
        ctx.saved = None
        dm, dgu = dy @ w2, torch.empty_like(gu)
        _lib.swiglu_back(m.shape[0], m.shape[1], _f(limit), _ptr(gu), None, _ptr(dm), _ptr(dgu), None)
        return dgu @ w13, dgu.t() @ h, dy.t() @ m, None


def pool(kv, score, ratio, B, T, d):
    """compressor pooling: projected kv and score [B*T, ov*d] -> [B*(T//ratio), d]"""
    nb = T // ratio
    kv, score = (t.view(B, T, -1)[:, :nb * ratio].reshape(B, nb, ratio, -1) for t in (kv, score))
    if ratio == 4:                                   # series A of the previous block, series B of this one
        first = kv.new_zeros(B, 1, ratio, d)
        kv = torch.cat([torch.cat([first, kv[:, :-1, :, :d]], 1), kv[..., d:]], 2)
        score = torch.cat([torch.cat([first - 1e30, score[:, :-1, :, :d]], 1), score[..., d:]], 2)
    return (score.softmax(2) * kv).sum(2).view(B * nb, d)


class Model:
    def __init__(self, cfg, params, max_len=2048):
        self.cfg, self.p = cfg, params
        self.tables = {r: rope_table(cfg, r, max_len) for r in set(cfg.ratios)}
        self.loads = {}                              # layer -> tokens per expert of the last forward

    def compress(self, prefix, h, ratio, B, T, d, table):
        p = self.p
        score = h @ p[prefix + "wgate.weight"].t()
        score = score + p[prefix + "ape"].repeat(T // ratio + 1, 1)[:T].repeat(B, 1)
        z = pool(h @ p[prefix + "wkv.weight"].t(), score, ratio, B, T, d)
        return NormRope.apply(z, p[prefix + "norm.weight"], self.cfg.rot, table, (1, max(T // ratio, 1), ratio))

    def indexer_mask(self, prefix, h, qr, B, T, table):
        """the rows the indexer keeps, [B,T,T//4]; used only where it drops any"""
        c, p, nb = self.cfg, self.p, T // 4
        k = self.compress(prefix + "compressor.", h, 4, B, T, c.ID, table).view(B, nb, c.ID)
        iq = (qr @ p[prefix + "wq_b.weight"].t()).view(B * T * c.IH, c.ID).contiguous()
        _lib.rope_rows(iq.shape[0], c.ID, c.rot, *map(_ptr, table), c.IH, T, _f(1), _ptr(iq))
        w = (h @ p[prefix + "weights_proj.weight"].t()).view(B, T, c.IH) * (c.ID * c.IH) ** -0.5
        score = torch.einsum("bthc,bkc->bthk", iq.view(B, T, c.IH, c.ID), k).clamp(min=0)
        score = (score * w[..., None]).sum(2)
        seen = torch.arange(nb)[None] < (torch.arange(T)[:, None] + 1) // 4
        score = score.masked_fill(~seen, -math.inf)
        best = score.topk(min(c.topk, nb), -1).indices
        return torch.zeros(B, T, nb, dtype=torch.bool).scatter_(2, best, True) & seen

    def attention(self, l, h, B, T):
        c, p, pre, ratio = self.cfg, self.p, f"layers.{l}.attn.", self.cfg.ratios[l]
        table = self.tables[ratio]
        qr = norm(h @ p[pre + "wq_a.weight"].t(), p[pre + "q_norm.weight"])
        q = (qr @ p[pre + "wq_b.weight"].t()).view(B * T * c.H, c.hd)
        q = NormRope.apply(q, None, c.rot, table, (c.H, T, 1))
        raw = NormRope.apply(h @ p[pre + "wkv.weight"].t(), p[pre + "kv_norm.weight"], c.rot, table, (1, T, 1))
        comp, mask = raw.new_empty(0, c.hd), None
        if ratio and T >= ratio:
            comp = self.compress(pre + "compressor.", h, ratio, B, T, c.hd, table)
            if ratio == 4 and T // 4 > c.topk:
                mask = self.indexer_mask(pre + "indexer.", h, qr, B, T, table)
        o = Attend.apply(q, raw, comp, p[pre + "attn_sink"], (B, T, c.H), ratio, c.window, c.rot, table, mask)
        width = c.H // c.G * c.hd
        o = o.view(B * T, c.G, width)
        wo_a = p[pre + "wo_a.weight"].view(c.G, c.OL, width)
        a = torch.cat([o[:, g] @ wo_a[g].t() for g in range(c.G)], 1)
        return a @ p[pre + "wo_b.weight"].t()

    def ffn(self, l, h, ids):
        c, p, pre = self.cfg, self.p, f"layers.{l}.ffn."
        score = F.softplus(h @ p[pre + "gate.weight"].t()).sqrt()
        if l < c.n_hash:
            chosen = p[pre + "gate.tid2eid"][ids]
        else:
            chosen = (score.detach() + p[pre + "gate.bias"]).topk(c.K, -1).indices
        self.loads[l] = chosen
        w = score.gather(1, chosen)
        w = w / (w.sum(1, keepdim=True) + 1e-20) * c.route_scale
        y = Experts.apply(h, chosen, w, p[pre + "experts.w13"], p[pre + "experts.w2"], c.limit)
        return y + SharedExpert.apply(h, p[pre + "shared_experts.w13"], p[pre + "shared_experts.w2"], c.limit)

    def sublayer(self, x, l, name, run):
        p, pre = self.p, f"layers.{l}."
        y, post, mix, x = HCMix.apply(x, p[pre + f"hc_{name}_fn"], p[pre + f"hc_{name}_base"],
                                      p[pre + f"hc_{name}_scale"], self.cfg.iters)
        return HCPost.apply(run(norm(y, p[pre + f"{name}_norm.weight"])), x, post, mix)

    def logits(self, ids):
        """ids [B,T] -> [B*T,V]"""
        c, p = self.cfg, self.p
        B, T = ids.shape
        flat = ids.flatten()
        x = F.embedding(flat, p["embed.weight"]).repeat(1, S)
        for l in range(c.L):
            x = self.sublayer(x, l, "attn", lambda h: self.attention(l, h, B, T))
            x = self.sublayer(x, l, "ffn", lambda h: self.ffn(l, h, flat))
        m = (x @ p["hc_head_fn"].t()) * x.square().mean(1, keepdim=True).add(1e-6).rsqrt()
        pre = torch.sigmoid(m * p["hc_head_scale"] + p["hc_head_base"]) + 1e-6
        h = (pre[:, :, None] * x.view(-1, S, c.D)).sum(1)
        return norm(h, p["norm.weight"]) @ p["head.weight"].t()


def init_params(cfg, seed):
    """Random start. The streams must not start symmetric, or they stay copies of each other for long."""
    g = torch.Generator().manual_seed(seed)
    c, p = cfg, {}

    def normal(name, rows, cols, std=None, scale=1.0):
        p[name] = torch.randn(rows, cols, generator=g) * (std or scale / math.sqrt(cols))

    def compressor(pre, ratio, d):
        ov = 2 if ratio == 4 else 1
        p[pre + "ape"] = torch.randn(ratio, ov * d, generator=g) * 0.3
        normal(pre + "wkv.weight", ov * d, c.D)
        normal(pre + "wgate.weight", ov * d, c.D, std=0.02)
        p[pre + "norm.weight"] = torch.full((d,), 2.0)

    p["embed.weight"] = torch.randn(c.V, c.D, generator=g) * 0.7
    normal("head.weight", c.V, c.D)
    p["norm.weight"] = torch.ones(c.D)
    normal("hc_head_fn", S, S * c.D)
    p["hc_head_base"], p["hc_head_scale"] = torch.full((S,), -1.1), torch.full((1,), 0.1)
    out = 1 / math.sqrt(2 * c.L)
    for l, ratio in enumerate(c.ratios):
        pre = f"layers.{l}."
        for i, name in enumerate(("attn", "ffn")):
            sub = 2 * l + i
            base = torch.zeros(24)
            base[:4] = -2.0
            base[sub % 4] = 0.5
            base[4:8] = 0.8 * torch.cos(torch.arange(4) * 1.7 + sub * 2.3)
            base[8:].view(4, 4).fill_diagonal_(5.0)
            p[pre + f"hc_{name}_base"], p[pre + f"hc_{name}_scale"] = base, torch.full((3,), 0.1)
            normal(pre + f"hc_{name}_fn", 24, S * c.D)
            p[pre + f"{name}_norm.weight"] = torch.ones(c.D)
        a = pre + "attn."
        normal(a + "wq_a.weight", c.QL, c.D)
        p[a + "q_norm.weight"] = torch.ones(c.QL)
        normal(a + "wq_b.weight", c.H * c.hd, c.QL)
        normal(a + "wkv.weight", c.hd, c.D)
        p[a + "kv_norm.weight"] = torch.full((c.hd,), 2.0)
        p[a + "attn_sink"] = torch.zeros(c.H)
        normal(a + "wo_a.weight", c.G * c.OL, c.H // c.G * c.hd)
        normal(a + "wo_b.weight", c.D, c.G * c.OL, scale=out)
        if ratio:
            compressor(a + "compressor.", ratio, c.hd)
        if ratio == 4:
            normal(a + "indexer.wq_b.weight", c.IH * c.ID, c.QL)
            normal(a + "indexer.weights_proj.weight", c.IH, c.D)
            compressor(a + "indexer.compressor.", 4, c.ID)
        f = pre + "ffn."
        normal(f + "gate.weight", c.E, c.D)
        if l < c.n_hash:
            p[f + "gate.tid2eid"] = torch.rand(c.V, c.E, generator=g).argsort(1)[:, :c.K].contiguous()
        else:
            p[f + "gate.bias"] = torch.zeros(c.E)
        p[f + "experts.w13"] = torch.randn(c.E, 2 * c.F, c.D, generator=g) / math.sqrt(c.D)
        p[f + "experts.w2"] = torch.randn(c.E, c.D, c.F, generator=g) * out / math.sqrt(c.F)
        normal(f + "shared_experts.w13", 2 * c.F, c.D)
        normal(f + "shared_experts.w2", c.D, c.F, scale=out)
    return p


def split_names(params):
    """(released name, tensor) for every parameter"""
    for name, t in params.items():
        if name.endswith("experts.w13") or name.endswith("experts.w2"):
            pre = name.rsplit(".", 1)[0]
            rows = [(pre, t)] if t.dim() == 2 else [(f"{pre}.{e}", t[e]) for e in range(t.shape[0])]
            for stem, w in rows:
                if name.endswith("w2"):
                    yield stem + ".w2.weight", w
                else:
                    half = w.shape[0] // 2
                    yield stem + ".w1.weight", w[:half]
                    yield stem + ".w3.weight", w[half:]
        else:
            yield name, t


def join_names(tensors, cfg):
    """released tensors -> parameters, the reverse of split_names"""
    p = {k: v for k, v in tensors.items() if ".experts." not in k and ".shared_experts." not in k}
    for l in range(cfg.L):
        pre = f"layers.{l}.ffn."
        get = lambda stem, w: tensors[f"{pre}{stem}.{w}.weight"]
        pair = lambda stem: torch.cat([get(stem, "w1"), get(stem, "w3")])
        p[pre + "experts.w13"] = torch.stack([pair(f"experts.{e}") for e in range(cfg.E)])
        p[pre + "experts.w2"] = torch.stack([get(f"experts.{e}", "w2") for e in range(cfg.E)])
        p[pre + "shared_experts.w13"] = pair("shared_experts")
        p[pre + "shared_experts.w2"] = get("shared_experts", "w2")
    return p
