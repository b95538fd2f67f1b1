"""Compares model.py with the stored logits of a golden directory, and the hand-written gradients
with directional differences.

    check_golden.py GOLDEN_DIR KERNELS.so
"""

import json
import os
import struct
import sys

import torch

import model
import safetensors_io


def golden_tensor(folder, ref):
    count = 1
    for n in ref["shape"]:
        count *= n
    with open(os.path.join(folder, ref["file"]), "rb") as f:
        f.seek(4 * ref["offset"])
        return torch.tensor(struct.unpack(f"<{count}f", f.read(4 * count))).view(ref["shape"])


def check_logits(folder):
    cfg = model.Config(json.load(open(os.path.join(folder, "config.json"))))
    tensors = {k: v if v.dtype == torch.int64 else v.float()
               for k, v in safetensors_io.read(os.path.join(folder, "model.safetensors")).items()}
    m = model.Model(cfg, model.join_names(tensors, cfg))
    golden = json.load(open(os.path.join(folder, "golden.json")))
    worst = 0.0
    for seq in golden["sequences"]:
        with torch.no_grad():
            got = m.logits(torch.tensor([seq["ids"]]))[seq["positions"]]
        diff = (got - golden_tensor(folder, seq["logits"])).abs().max().item()
        worst = max(worst, diff)
        print(f"length {len(seq['ids']):4d}: largest difference {diff:.2e}")
    return worst < 8.8e-4


def check_gradients():
    """directional derivative of a random loss, against central differences in float32"""
    cfg = model.Config({
        "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 48,
        "qk_rope_head_dim": 16, "q_lora_rank": 32, "o_groups": 2, "o_lora_rank": 32, "n_routed_experts": 4,
        "num_experts_per_tok": 4, "moe_intermediate_size": 32, "compress_ratios": [0, 4, 128, 4],
        "num_hash_layers": 1, "sliding_window": 40, "swiglu_limit": 10.0, "routed_scaling_factor": 1.5,
        "hc_sinkhorn_iters": 20, "index_n_heads": 2, "index_head_dim": 32, "index_topk": 512,
        "rope_theta": 10000, "compress_rope_theta": 160000,
        "rope_scaling": {"factor": 16, "original_max_position_embeddings": 65536, "beta_fast": 32, "beta_slow": 1}})
    torch.manual_seed(1)
    p = model.init_params(cfg, 1)
    for t in p.values():
        if t.dtype == torch.float32:
            t.requires_grad_()
    m, ids, probe = model.Model(cfg, p), torch.randint(0, 64, (2, 260)), torch.randn(520, 64) / 100

    def loss():
        return (m.logits(ids) * probe).sum()

    loss().backward()
    worst = 0.0
    for name, t in p.items():
        if t.grad is None:
            continue
        d = torch.randn_like(t)
        d *= 1e-2 * (t.detach().norm() + 0.1) / d.norm()
        with torch.no_grad():
            t += d
            up = loss().item()
            t -= 2 * d
            down = loss().item()
            t += d
        want, got = (up - down) / 2, (t.grad * d).sum().item()
        err = abs(want - got) / (abs(want) + 2e-3)
        worst = max(worst, err)
        if err > 0.05:
            print(f"gradient of {name}: {got:.5f}, differences say {want:.5f}")
    print(f"gradients: largest relative error {worst:.3f}")
    return worst < 0.05


if __name__ == "__main__":
    model.load_kernels(sys.argv[2])
    ok = check_logits(sys.argv[1])
    ok = check_gradients() and ok
    print("ok" if ok else "FAILED")
    sys.exit(not ok)
