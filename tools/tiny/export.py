"""Writes a training state as a checkpoint directory in the released form.

    export.py RUN_DIR CHECKPOINT_DIR

RUN_DIR is what train.py filled. Matrices and norms become BF16, hyper-connections, position bias,
sinks and router bias stay F32, the hash tables are I64.
"""

import json
import os
import shutil
import sys

import torch

import model
import safetensors_io
import tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))


def stored_type(name):
    if name.endswith("tid2eid"):
        return torch.int64
    return torch.bfloat16 if name.endswith(".weight") else torch.float32


def export(run, out):
    os.makedirs(out, exist_ok=True)
    state = torch.load(os.path.join(run, "state.pt"))
    params = {**state["params"], **state["mean"]}
    tensors = {n: t.detach().to(stored_type(n)) for n, t in model.split_names(params)}
    safetensors_io.write(os.path.join(out, "model.safetensors"), tensors)
    shutil.copy(os.path.join(HERE, "config.json"), out)
    shutil.copy(os.path.join(run, "tokenizer.json"), out)
    config = json.load(open(os.path.join(HERE, "config.json")))
    write_json(os.path.join(out, "tokenizer_config.json"), {
        "add_bos_token": True, "add_eos_token": False, "bos_token": tokenizer.FIRST[0], "eos_token": tokenizer.FIRST[1],
        "pad_token": tokenizer.FIRST[2], "model_max_length": config["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast"})
    write_json(os.path.join(out, "generation_config.json"), {
        "bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"],
        "do_sample": False, "temperature": 0.0})
    print(f"{out}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M values")


def write_json(path, data):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False, indent=1)
        f.write("\n")


if __name__ == "__main__":
    export(sys.argv[1], sys.argv[2])
