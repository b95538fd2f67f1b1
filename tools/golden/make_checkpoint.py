#!/usr/bin/env python3
"""Writes a small random checkpoint in the released format, with its tokenizer.

    make_checkpoint.py NAME DIR          NAME is one of the models listed below

Every stored value is a multiple of 2^-16 with at most 8 significant bits, so that F32, BF16
and F16 hold it exactly. The same numpy version writes the same bytes every time.
"""

import json
import os
import struct
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TINY_A = os.path.join(HERE, "..", "..", "tests", "data", "golden", "tiny-a")

COMMON = {
    "architectures": ["DeepseekV4ForCausalLM"],
    "model_type": "deepseek_v4",
    "torch_dtype": "bfloat16",
    "num_key_value_heads": 1,
    "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "max_position_embeddings": 4096,
    "use_cache": True,
}

# seed, and what each model is for: see README.md
MODELS = {
    "tiny-b": (2, {
        "rms_norm_eps": 1e-6, "rope_theta": 10000, "compress_rope_theta": 160000,
        "sliding_window": 32, "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6,
        "num_nextn_predict_layers": 1,
        "vocab_size": 300, "hidden_size": 96, "moe_intermediate_size": 48,
        "num_hidden_layers": 6, "num_attention_heads": 6, "head_dim": 96,
        "qk_rope_head_dim": 32, "q_lora_rank": 48, "o_groups": 3, "o_lora_rank": 24,
        "n_routed_experts": 6, "num_experts_per_tok": 3, "routed_scaling_factor": 2.5,
        "num_hash_layers": 2, "index_n_heads": 3, "index_head_dim": 64, "index_topk": 5,
        "swiglu_limit": 2.0,
        "compress_ratios": [128, 128, 4, 128, 4, 0, 0],
        "rope_scaling": {"type": "yarn", "factor": 8, "original_max_position_embeddings": 128,
                         "beta_fast": 32, "beta_slow": 1},
    }),
    "tiny-c": (3, {
        "rms_norm_eps": 1e-3, "rope_theta": 5000, "compress_rope_theta": 40000,
        "sliding_window": 200, "hc_mult": 2, "hc_sinkhorn_iters": 7, "hc_eps": 1e-4,
        "num_nextn_predict_layers": 0,
        "vocab_size": 280, "hidden_size": 64, "moe_intermediate_size": 36,
        "num_hidden_layers": 4, "num_attention_heads": 5, "head_dim": 80,
        "qk_rope_head_dim": 16, "q_lora_rank": 40, "o_groups": 1, "o_lora_rank": 40,
        "n_routed_experts": 7, "num_experts_per_tok": 4, "routed_scaling_factor": 0.75,
        "num_hash_layers": 0, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 40,
        "swiglu_limit": 0.0,
        "compress_ratios": [4, 0, 128, 4],
        "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 1024,
                         "beta_fast": 16, "beta_slow": 2},
    }),
}


def eight_bits(x):
    """The nearest multiples of 2^-16 that have at most 8 significant bits."""
    _, exponent = np.frexp(x)                       # |x| < 2^exponent
    step = np.exp2(np.maximum(exponent - 8, -16))
    return (np.rint(x / step) * step).astype(np.float32)


class Checkpoint:
    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.tensors = {}                           # name: (kind, array)

    def normal(self, name, shape, deviation, mean=0.0, kind="BF16"):
        values = mean + deviation * self.random.standard_normal(shape)
        self.tensors[name] = (kind, eight_bits(values))

    def matrix(self, name, rows, columns, gain=1.0, kind="BF16"):
        """A matrix whose product with a vector of unit entries has entries of size gain."""
        self.normal(name, (rows, columns), gain / np.sqrt(columns), kind=kind)

    def hyper_connection(self, prefix, streams, hidden):
        self.matrix(prefix + "fn", (2 + streams) * streams, streams * hidden, kind="F32")
        base = 0.45 * self.random.standard_normal((2 + streams) * streams)
        base[2 * streams::streams + 1] += 1.7       # a stream mostly continues as itself
        self.tensors[prefix + "base"] = ("F32", eight_bits(base))
        self.tensors[prefix + "scale"] = ("F32", eight_bits(self.random.uniform(0.5, 1, 3)))

    def compressor(self, prefix, ratio, hidden, width, norm):
        columns = 2 * width if ratio == 4 else width
        self.normal(prefix + "ape", (ratio, columns), 0.7, kind="F32")
        self.matrix(prefix + "wkv.weight", columns, hidden)
        self.matrix(prefix + "wgate.weight", columns, hidden, 1.5)
        self.normal(prefix + "norm.weight", (width,), 0.2 * norm, norm)

    def indexer_weights(self, name, heads, hidden):
        """Rows that sum to zero, so that no token weights all heads negatively: its best
        scores would all be exact zeros, and which rows are chosen a matter of ties."""
        rows = self.random.standard_normal((heads, hidden)) / np.sqrt(hidden)
        self.tensors[name] = ("BF16", eight_bits(rows - rows.mean(axis=0)))

    def swiglu(self, prefix, hidden, inner):
        self.matrix(prefix + "w1.weight", inner, hidden, 1.3)
        self.matrix(prefix + "w2.weight", hidden, inner, 1.5)
        self.matrix(prefix + "w3.weight", inner, hidden, 1.3)

    def layer(self, number, c):
        p = "layers.%d." % number
        hidden, streams = c["hidden_size"], c["hc_mult"]
        heads, width, rank = c["num_attention_heads"], c["head_dim"], c["q_lora_rank"]
        groups, out_rank = c["o_groups"], c["o_lora_rank"]
        ratio = c["compress_ratios"][number]

        self.normal(p + "attn_norm.weight", (hidden,), 0.2, 1.0)
        self.normal(p + "ffn_norm.weight", (hidden,), 0.2, 1.0)
        self.hyper_connection(p + "hc_attn_", streams, hidden)
        self.hyper_connection(p + "hc_ffn_", streams, hidden)

        a = p + "attn."
        self.normal(a + "attn_sink", (heads,), 0.8, 0.5, kind="F32")
        self.matrix(a + "wq_a.weight", rank, hidden)
        self.normal(a + "q_norm.weight", (rank,), 0.2, 1.0)
        self.matrix(a + "wq_b.weight", heads * width, rank)
        self.matrix(a + "wkv.weight", width, hidden)
        self.normal(a + "kv_norm.weight", (width,), 0.3, 1.6)
        self.matrix(a + "wo_a.weight", groups * out_rank, heads * width // groups, 1.5)
        self.matrix(a + "wo_b.weight", hidden, groups * out_rank, 1.5)
        if ratio:
            self.compressor(a + "compressor.", ratio, hidden, width, 1.6)
        if ratio == 4:
            indexers, index_width = c["index_n_heads"], c["index_head_dim"]
            self.matrix(a + "indexer.wq_b.weight", indexers * index_width, rank)
            self.indexer_weights(a + "indexer.weights_proj.weight", indexers, hidden)
            self.compressor(a + "indexer.compressor.", ratio, hidden, index_width, 1.0)

        f = p + "ffn."
        experts, used = c["n_routed_experts"], c["num_experts_per_tok"]
        self.matrix(f + "gate.weight", experts, hidden, 2.0)
        if number < c["num_hash_layers"]:
            table = [self.random.permutation(experts)[:used] for _ in range(c["vocab_size"])]
            self.tensors[f + "gate.tid2eid"] = ("I64", np.array(table, np.int64))
        else:
            self.normal(f + "gate.bias", (experts,), 0.25, kind="F32")
        for expert in range(experts):
            self.swiglu(f + "experts.%d." % expert, hidden, c["moe_intermediate_size"])
        self.swiglu(f + "shared_experts.", hidden, c["moe_intermediate_size"])

    def fill(self, c):
        hidden, streams = c["hidden_size"], c["hc_mult"]
        self.normal("embed.weight", (c["vocab_size"], hidden), 1.0)
        for number in range(c["num_hidden_layers"]):
            self.layer(number, c)
        self.matrix("hc_head_fn", streams, streams * hidden, kind="F32")
        self.normal("hc_head_base", (streams,), 0.6, kind="F32")
        self.tensors["hc_head_scale"] = ("F32", eight_bits(self.random.uniform(0.5, 1, 1)))
        self.normal("norm.weight", (hidden,), 0.2, 1.0)
        self.matrix("head.weight", c["vocab_size"], hidden, 3.0)

    def write(self, path):
        header, chunks, offset = {"__metadata__": {"format": "pt"}}, [], 0
        for name, (kind, values) in self.tensors.items():
            if kind == "BF16":
                bits = values.view(np.uint32)
                assert not (bits & 0xffff).any(), name
                data = (bits >> 16).astype("<u2").tobytes()
            else:
                data = values.astype({"F32": "<f4", "I64": "<i8"}[kind]).tobytes()
            header[name] = {"dtype": kind, "shape": list(values.shape),
                            "data_offsets": [offset, offset + len(data)]}
            chunks.append(data)
            offset += len(data)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def write_json(path, value, **options):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, **options)
        f.write("\n")


def write_tokenizer(folder, vocabulary):
    """The tokenizer of tiny-a with fewer merges: markers keep the last ids."""
    with open(os.path.join(TINY_A, "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    full = tokenizer["model"]
    markers = [t for t in tokenizer["added_tokens"] if t["id"] >= len(tokenizer["added_tokens"])]
    first_marker = vocabulary - len(markers)
    merges = len(full["merges"]) - (min(t["id"] for t in markers) - first_marker)
    full["merges"] = full["merges"][:merges]
    full["vocab"] = {text: i for text, i in full["vocab"].items() if i < first_marker}
    for i, t in enumerate(sorted(markers, key=lambda t: t["id"])):
        t["id"] = first_marker + i
    write_json(os.path.join(folder, "tokenizer.json"), tokenizer, indent=1)
    with open(os.path.join(TINY_A, "tokenizer_config.json"), encoding="utf-8") as f:
        write_json(os.path.join(folder, "tokenizer_config.json"), json.load(f), indent=1)


def make(name, folder):
    seed, sizes = MODELS[name]
    config = {**COMMON, **sizes}
    os.makedirs(folder, exist_ok=True)
    checkpoint = Checkpoint(seed)
    checkpoint.fill(config)
    checkpoint.write(os.path.join(folder, "model.safetensors"))
    write_json(os.path.join(folder, "config.json"), config, indent=2)
    write_tokenizer(folder, config["vocab_size"])


def main(args):
    if len(args) != 2 or args[0] not in MODELS:
        sys.stderr.write(__doc__)
        return 2
    make(args[0], args[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
