"""Reading and writing the safetensors format: 8 bytes header length, JSON header, data."""

import json
import struct

import torch

TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}
NAMES = {v: k for k, v in TYPES.items()}


def read(path):
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(size))
        data = bytearray(f.read())
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            start, end = t["data_offsets"]
            flat = torch.frombuffer(data[start:end], dtype=torch.uint8).clone()
            out[name] = flat.view(TYPES[t["dtype"]]).reshape(t["shape"])
    return out


def write(path, tensors):
    header, blobs, at = {}, [], 0
    for name in sorted(tensors):
        t = tensors[name].detach().contiguous()
        blob = (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()
        header[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for blob in blobs:
            f.write(blob)
