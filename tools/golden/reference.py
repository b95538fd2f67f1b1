#!/usr/bin/env python3
"""Plain numpy evaluation of a DeepSeek V4 checkpoint, and its comparison with golden vectors.

    reference.py check GOLDEN_DIR              compare with every number stored there
    reference.py logits GOLDEN_DIR ID ...      best tokens after the given token ids

The model is written down as the formulas are, one whole sequence at a time: there is no
cache, no state and no rounding of weights, rows or activations. Everything is computed in
the element type given to Model: float64 for the stored numbers, float32 to see how far a
float32 program may be expected to differ from them.

Array names: n tokens, S streams, D hidden width, H heads, T compressed rows.
"""

import json
import os
import struct
import sys

import numpy as np


# ---------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------

def read_safetensors(path):
    """All tensors of a file as {name: array}; BF16 and F16 are widened to float32."""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        raw = data[start:end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            kind = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}[entry["dtype"]]
            values = np.frombuffer(raw, kind)
            if entry["dtype"] == "F16":
                values = values.astype(np.float32)
        tensors[name] = values.reshape(entry["shape"])
    return tensors


# ---------------------------------------------------------------------------------------
# Small formulas
# ---------------------------------------------------------------------------------------

def sigmoid(x):
    return np.where(x >= 0, 1, np.exp(np.minimum(x, 0))) / (1 + np.exp(-np.abs(x)))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def rms_norm(x, eps, weight=None):
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    return y if weight is None else y * weight


def rotate(x, positions, frequencies, inverse=False):
    """Rotates neighbouring pairs of the last 2*len(frequencies) channels.

    x is [n, channels] or [n, heads, channels]; row i is at positions[i].
    """
    angle = positions.astype(x.dtype)[:, None] * frequencies
    cos, sin = np.cos(angle), np.sin(angle)
    if inverse:
        sin = -sin
    if x.ndim == 3:
        cos, sin = cos[:, None, :], sin[:, None, :]
    first = x.shape[-1] - 2 * len(frequencies)
    a, b = x[..., first::2], x[..., first + 1::2]
    y = x.copy()
    y[..., first::2] = a * cos - b * sin
    y[..., first + 1::2] = a * sin + b * cos
    return y


def yarn_frequencies(width, theta, scaling):
    """Pair frequencies of a compressed layer: slow pairs are divided by the factor."""
    pair = np.arange(width // 2)
    plain = theta ** (-2.0 * pair / width)

    def pair_turning(turns):
        length = scaling["original_max_position_embeddings"]
        return width * np.log(length / (turns * 2 * np.pi)) / (2 * np.log(theta))

    low = max(np.floor(pair_turning(scaling["beta_fast"])), 0)
    high = min(np.ceil(pair_turning(scaling["beta_slow"])), width - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((pair - low) / (high - low), 0, 1)
    return plain / scaling["factor"] * ramp + plain * (1 - ramp)


def largest(scores, count):
    """Indices of the `count` largest along the last axis, the lower index first on a tie."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :count]


class Closest:
    """Smallest distance, per token, between the last entry chosen and the first one left."""

    def __init__(self, n):
        self.gap = {"router": np.full(n, np.inf), "indexer": np.full(n, np.inf)}
        self.all = {"router": [], "indexer": []}

    def note(self, what, scores, count, rows=slice(None)):
        """scores [rows, candidates]; entries that cannot be chosen are -infinity."""
        ordered = -np.sort(-scores, axis=-1)
        gap = (ordered[:, count - 1] - ordered[:, count]).astype(np.float64)
        self.gap[what][rows] = np.minimum(self.gap[what][rows], gap)
        self.all[what] += gap.tolist()


# ---------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------

class Model:
    def __init__(self, folder, dtype=np.float64):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        self.dtype = np.dtype(dtype)
        self.weights = {
            name: t if t.dtype.kind == "i" else t.astype(dtype)
            for name, t in read_safetensors(os.path.join(folder, "model.safetensors")).items()}

        c = self.config
        self.eps = c["rms_norm_eps"]
        self.hc_eps = self.dtype.type(c["hc_eps"])
        rotary = c["qk_rope_head_dim"]
        self.plain = (float(c["rope_theta"])
                      ** (-2.0 * np.arange(rotary // 2) / rotary)).astype(dtype)
        self.yarn = yarn_frequencies(rotary, float(c["compress_rope_theta"]),
                                     c["rope_scaling"]).astype(dtype)

    def run(self, ids, trace=None):
        """Logits [n, vocabulary] of a sequence, and how close its discrete choices were.

        trace: a dictionary that receives the intermediate results by name.
        """
        ids = np.asarray(ids)
        trace = {} if trace is None else trace
        closest = Closest(len(ids))
        embedded = self.weights["embed.weight"][ids]
        trace["embed"] = embedded
        streams = np.repeat(embedded[:, None, :], self.config["hc_mult"], axis=1)
        for layer in range(self.config["num_hidden_layers"]):
            streams = self.layer(layer, streams, ids, trace, closest)
        return self.head(streams, trace), closest

    def layer(self, number, streams, ids, trace, closest):
        prefix = "layers.%d." % number
        name = "L%d/" % number

        def w(suffix):
            return self.weights[prefix + suffix]

        def note(suffix, value):
            trace[name + suffix] = value

        note("attn_streams_in", streams)
        pre, post, comb = self.hc_mix(streams, w("hc_attn_fn"), w("hc_attn_base"),
                                      w("hc_attn_scale"))
        x = np.einsum("ns,nsd->nd", pre, streams)
        h = rms_norm(x, self.eps, w("attn_norm.weight"))
        note("attn_post", post)
        note("attn_comb", comb)
        note("attn_in", x)
        note("attn_normed", h)
        y = self.attention(self.config["compress_ratios"][number], w, h, note, closest)
        note("attn_out", y)
        streams = post[:, :, None] * y[:, None, :] + np.einsum("nac,nad->ncd", comb, streams)

        note("ffn_streams_in", streams)
        pre, post, comb = self.hc_mix(streams, w("hc_ffn_fn"), w("hc_ffn_base"),
                                      w("hc_ffn_scale"))
        x = np.einsum("ns,nsd->nd", pre, streams)
        h = rms_norm(x, self.eps, w("ffn_norm.weight"))
        note("ffn_post", post)
        note("ffn_comb", comb)
        note("ffn_in", x)
        note("ffn_normed", h)
        y = self.ffn(number, w, h, ids, note, closest)
        note("ffn_out", y)
        streams = post[:, :, None] * y[:, None, :] + np.einsum("nac,nad->ncd", comb, streams)
        note("streams_out", streams)
        note("streams_out_norms", np.sqrt(np.sum(streams * streams, axis=-1)))
        return streams

    # -- hyper-connections ---------------------------------------------------------------

    def hc_mix(self, streams, fn, base, scale):
        """Weights that collapse the streams (pre), spread the result (post) and mix (comb).

        comb[.., a, c] leads from stream a to stream c.
        """
        n, s, _ = streams.shape
        m = rms_norm(streams.reshape(n, -1), self.eps) @ fn.T
        pre = sigmoid(m[:, :s] * scale[0] + base[:s]) + self.hc_eps
        post = 2 * sigmoid(m[:, s:2 * s] * scale[1] + base[s:2 * s])
        z = (m[:, 2 * s:] * scale[2] + base[2 * s:]).reshape(n, s, s)
        e = np.exp(z - z.max(axis=2, keepdims=True))
        comb = e / e.sum(axis=2, keepdims=True) + self.hc_eps
        comb = comb / (comb.sum(axis=1, keepdims=True) + self.hc_eps)
        for _ in range(self.config["hc_sinkhorn_iters"] - 1):
            comb = comb / (comb.sum(axis=2, keepdims=True) + self.hc_eps)
            comb = comb / (comb.sum(axis=1, keepdims=True) + self.hc_eps)
        return pre, post, comb

    def head(self, streams, trace):
        w = self.weights
        m = rms_norm(streams.reshape(len(streams), -1), self.eps) @ w["hc_head_fn"].T
        weight = sigmoid(m * w["hc_head_scale"][0] + w["hc_head_base"]) + self.hc_eps
        x = np.einsum("ns,nsd->nd", weight, streams)
        h = rms_norm(x, self.eps, w["norm.weight"])
        logits = h @ w["head.weight"].T
        trace["head_in"] = x
        trace["final_normed"] = h
        trace["logits"] = logits
        return logits

    # -- attention -----------------------------------------------------------------------

    def attention(self, ratio, w, h, note, closest):
        c = self.config
        n = len(h)
        heads, width, window = c["num_attention_heads"], c["head_dim"], c["sliding_window"]
        frequencies = self.yarn if ratio else self.plain
        p = np.arange(n)

        q_lora = rms_norm(h @ w("attn.wq_a.weight").T, self.eps, w("attn.q_norm.weight"))
        q = rms_norm((q_lora @ w("attn.wq_b.weight").T).reshape(n, heads, width), self.eps)
        q = rotate(q, p, frequencies)
        kv = rms_norm(h @ w("attn.wkv.weight").T, self.eps, w("attn.kv_norm.weight"))
        kv = rotate(kv, p, frequencies)
        note("q_lora", q_lora)
        note("q", q)
        note("kv", kv)

        rows = kv
        visible = (p[None, :] <= p[:, None]) & (p[None, :] > p[:, None] - window)
        if ratio:
            comp = self.compress(ratio, width, w, "attn.compressor.", h, frequencies)
            note("kv_comp", comp)
            chosen = np.arange(n // ratio)[None, :] < ((p + 1) // ratio)[:, None]
            if ratio == 4:
                chosen = self.index(w, h, q_lora, chosen, frequencies, note, closest)
            rows = np.concatenate([kv, comp])
            visible = np.concatenate([visible, chosen], axis=1)

        scores = q @ rows.T / np.sqrt(self.dtype.type(width))
        scores = np.where(visible[:, None, :], scores, -np.inf)
        sink = w("attn.attn_sink")[None, :, None]
        peak = np.maximum(scores.max(axis=2, keepdims=True), sink)
        e = np.exp(scores - peak)
        share = e / (np.exp(sink - peak) + e.sum(axis=2, keepdims=True))
        out = share @ rows
        note("heads", out)
        out = rotate(out, p, frequencies, inverse=True)

        groups, rank = c["o_groups"], c["o_lora_rank"]
        grouped = out.reshape(n, groups, heads // groups * width)
        wo_a = w("attn.wo_a.weight").reshape(groups, rank, -1)
        low = np.einsum("ngi,gri->ngr", grouped, wo_a).reshape(n, groups * rank)
        return low @ w("attn.wo_b.weight").T

    def compress(self, ratio, width, w, prefix, h, frequencies):
        """One row per complete block of `ratio` tokens: [T, width], normed and rotated.

        With ratio 4 blocks overlap: the projections have two halves, the first pools the
        tokens of the previous block and the second those of the block itself.
        """
        blocks = len(h) // ratio
        if blocks == 0:
            return np.zeros((0, width), self.dtype)
        used = h[:blocks * ratio]
        value = (used @ w(prefix + "wkv.weight").T).reshape(blocks, ratio, -1)
        score = (used @ w(prefix + "wgate.weight").T).reshape(blocks, ratio, -1)
        score = score + w(prefix + "ape")
        if ratio == 4:
            before_value = np.zeros((blocks, ratio, width), self.dtype)
            before_score = np.full((blocks, ratio, width), -np.inf, self.dtype)
            before_value[1:] = value[:-1, :, :width]
            before_score[1:] = score[:-1, :, :width]
            value = np.concatenate([before_value, value[:, :, width:]], axis=1)
            score = np.concatenate([before_score, score[:, :, width:]], axis=1)
        e = np.exp(score - score.max(axis=1, keepdims=True))
        row = (e * value).sum(axis=1) / e.sum(axis=1)
        row = rms_norm(row, self.eps, w(prefix + "norm.weight"))
        return rotate(row, np.arange(blocks) * ratio, frequencies)

    def index(self, w, h, q_lora, visible, frequencies, note, closest):
        """Which of the visible compressed rows each token attends to: [n, T] booleans."""
        c = self.config
        heads, width, keep = c["index_n_heads"], c["index_head_dim"], c["index_topk"]
        n, rows = visible.shape
        keys = self.compress(4, width, w, "attn.indexer.compressor.", h, frequencies)
        q = (q_lora @ w("attn.indexer.wq_b.weight").T).reshape(n, heads, width)
        q = rotate(q, np.arange(n), frequencies)
        weight = h @ w("attn.indexer.weights_proj.weight").T / np.sqrt(
            self.dtype.type(width * heads))
        dots = np.maximum(q @ keys.T, 0)
        scores = np.einsum("nh,nht->nt", weight, dots)
        note("index_q", q)
        note("index_k", keys)
        note("index_scores", scores)

        chosen = visible.copy()
        many = np.flatnonzero(visible.sum(axis=1) > keep)
        if len(many):
            seen = np.where(visible[many], scores[many], -np.inf)
            closest.note("indexer", seen, keep, many)
            chosen[many] = False
            for token, best in zip(many, largest(seen, keep)):
                chosen[token, best] = True
        listed = np.full((n, keep), -1)
        for token in range(n):
            found = np.flatnonzero(chosen[token])
            listed[token, keep - len(found):] = found
        note("index_rows", listed[:, -min(keep, rows):] if rows else listed[:, :0])
        return chosen

    # -- feed forward --------------------------------------------------------------------

    def ffn(self, number, w, h, ids, note, closest):
        c = self.config
        used = c["num_experts_per_tok"]
        logits = h @ w("ffn.gate.weight").T
        score = np.sqrt(softplus(logits))
        if number < c["num_hash_layers"]:
            experts = w("ffn.gate.tid2eid")[ids]
        else:
            biased = score + w("ffn.gate.bias")
            experts = largest(biased, used)
            closest.note("router", biased, used)
        experts = np.sort(experts, axis=1)
        share = np.take_along_axis(score, experts, axis=1)
        share = share / share.sum(axis=1, keepdims=True) * self.dtype.type(
            c["routed_scaling_factor"])
        note("router_logits", logits)
        note("expert_ids", experts)
        note("expert_weights", share)

        shared = self.swiglu(w, "ffn.shared_experts.", h)
        note("shared_out", shared)
        out = shared.copy()
        for expert in range(c["n_routed_experts"]):
            token, slot = np.nonzero(experts == expert)
            if len(token):
                y = self.swiglu(w, "ffn.experts.%d." % expert, h[token])
                np.add.at(out, token, share[token, slot][:, None] * y)
        return out

    def swiglu(self, w, prefix, h):
        gate = h @ w(prefix + "w1.weight").T
        up = h @ w(prefix + "w3.weight").T
        limit = self.config["swiglu_limit"]
        if limit > 0:
            gate = np.minimum(gate, self.dtype.type(limit))
            up = np.clip(up, self.dtype.type(-limit), self.dtype.type(limit))
        return (gate * sigmoid(gate) * up) @ w(prefix + "w2.weight").T

    # -- use -----------------------------------------------------------------------------

    def greedy(self, prompt, count):
        """The tokens greedy decoding appends, the smallest lead of a best token over the
        second best, and the closest discrete choices of the whole run."""
        ids, lead = list(prompt), np.inf
        for _ in range(count):
            logits, closest = self.run(ids)
            second, first = np.sort(logits[-1])[-2:]
            lead = min(lead, first - second)
            ids.append(int(np.argmax(logits[-1])))
        return ids[len(prompt):], lead, closest


# ---------------------------------------------------------------------------------------
# Comparison with stored vectors
# ---------------------------------------------------------------------------------------

PER_ROW = ("kv_comp", "index_k", "streams_out_norms")    # trace tensors stored in full


def stored(folder, entry):
    kind = "<i4" if entry["file"].endswith(".i32") else "<f4"
    count = int(np.prod(entry["shape"]))
    values = np.fromfile(os.path.join(folder, entry["file"]), kind, count,
                         offset=4 * entry["offset"])
    return values.reshape(entry["shape"])


def check(folder, limit):
    with open(os.path.join(folder, "golden.json"), encoding="utf-8") as f:
        golden = json.load(f)
    model = Model(folder)
    failures = 0

    worst = 0.0
    for s in golden["sequences"]:
        logits, closest = model.run(s["ids"])
        diff = np.abs(logits[s["positions"]] - stored(folder, s["logits"])).max()
        wrong = int((np.argmax(logits, axis=1) != s["argmax_all_positions"]).sum())
        bad = not diff < limit or wrong > 0
        failures += bad
        worst = max(worst, diff)
        print("sequence %4d: max %.2e, best tokens that differ %d, closest router %.1e "
              "indexer %.1e%s" % (s["length"], diff, wrong, closest.gap["router"].min(),
                                  closest.gap["indexer"].min(), "  FAILED" if bad else ""))
    print("all logits: max %.2e" % worst)

    for g in golden["greedy"]:
        tokens, lead, _ = model.greedy(g["prompt"], len(g["tokens"]))
        same = tokens == g["tokens"]
        failures += not same
        print("greedy after %3d: %s, smallest lead %.4f" %
              (len(g["prompt"]), "equal" if same else "DIFFERENT", lead))

    if "trace" in golden:
        t = golden["trace"]
        ids = next(s["ids"] for s in golden["sequences"] if s["length"] == t["length"])
        trace, worst = {}, (0.0, "")
        model.run(ids, trace)
        for name, entry in t["tensors"].items():
            got = trace[name]
            if name.rpartition("/")[2] not in PER_ROW:
                got = got[t["positions"]]
            want = stored(folder, entry)
            if got.shape != want.shape:
                print("trace %s: shape %s, stored %s  FAILED" % (name, got.shape, want.shape))
                failures += 1
                continue
            diff = np.abs(got - want).max() if got.size else 0.0
            worst = max(worst, (diff, name))
            allowed = entry.get("tol", 0)
            if diff > allowed or diff > limit:
                print("trace %s: max %.2e, allowed %.2e  FAILED" % (name, diff, allowed))
                failures += 1
        print("trace: %d tensors, max %.2e (%s)" % ((len(t["tensors"]),) + worst))

    print("failures: %d" % failures)
    return failures


def main(args):
    if len(args) == 2 and args[0] == "check":
        return 1 if check(args[1], limit=5e-6) else 0
    if len(args) >= 3 and args[0] == "logits":
        logits, _ = Model(args[1]).run([int(a) for a in args[2:]])
        for token in largest(logits[-1], 10):
            print("%6d %12.6f" % (token, logits[-1, token]))
        return 0
    sys.stderr.write(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
