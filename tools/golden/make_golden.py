#!/usr/bin/env python3
"""Writes golden.json, golden.f32 and golden.i32 for a checkpoint directory.

    make_golden.py NAME DIR [SEED]

The numbers are those of reference.py in float64, rounded to float32. Token sequences are
random, but a token is drawn again while it leads to a close decision: a router or indexer
choice, or a best token, that a correct float32 program might take differently.
"""

import hashlib
import json
import os
import sys

import numpy as np

import reference

LENGTHS = (1, 3, 4, 5, 8, 31, 33, 64, 129, 200, 300)
LONG_POSITIONS = (0, 3, 4, 7, 30, 31, 32, 63, 127, 128, 199, 255, 299)
TRACE_LENGTH, TRACE_POSITIONS = 300, (4, 130, 299)
PROMPT_LENGTHS, GREEDY_TOKENS = (1, 8, 120, 190), 32
CHOICE_GAP, LEAD = 2e-4, 1e-3


class Writer:
    def __init__(self):
        self.parts = {"golden.f32": [], "golden.i32": []}
        self.count = {"golden.f32": 0, "golden.i32": 0}

    def add(self, values):
        values = np.asarray(values)
        file = "golden.i32" if values.dtype.kind == "i" else "golden.f32"
        entry = {"file": file, "offset": self.count[file], "shape": list(values.shape)}
        self.parts[file].append(values.astype("<i4" if file == "golden.i32" else "<f4").tobytes())
        self.count[file] += values.size
        return entry

    def write(self, folder):
        for file, parts in self.parts.items():
            with open(os.path.join(folder, file), "wb") as f:
                f.write(b"".join(parts))


def leads(logits):
    """Distance between the best and the second-best logit of every row."""
    two = np.partition(logits, -2, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


def close_positions(logits, closest):
    close = leads(logits) <= LEAD
    for gap in closest.gap.values():
        close |= gap <= CHOICE_GAP
    return np.flatnonzero(close)


def find_sequence(model, random, length, start=()):
    """Random ids without close decisions; `start` is kept."""
    vocabulary = model.config["vocab_size"]
    ids = list(start) + random.integers(0, vocabulary, length - len(start)).tolist()
    end = min(32, length)                   # repair a short beginning first: it is cheap
    while True:
        logits, closest = model.run(ids[:end])
        close = close_positions(logits, closest)
        if len(close):
            if close[0] < len(start):
                raise SystemExit("a given token leads to a close decision: try another seed")
            ids[close[0]] = int(random.integers(0, vocabulary))
        elif end == length:
            return ids, logits, closest
        else:
            end = min(end + end // 2, length)


def find_greedy(model, random, length):
    """A prompt whose greedy continuation has no close decisions."""
    while True:
        prompt, logits, closest = find_sequence(model, random, length)
        ids, smallest = list(prompt), np.inf
        while not len(close_positions(logits, closest)):
            if len(ids) == length + GREEDY_TOKENS:
                return {"prompt": prompt, "tokens": ids[length:], "gap_min": significant(smallest)}
            smallest = min(smallest, leads(logits)[-1])
            ids.append(int(np.argmax(logits[-1])))
            logits, closest = model.run(ids)


def significant(x):
    return float("%.3g" % x)


def make_trace(model, single, ids, writer):
    exact, rough = {}, {}
    model.run(ids, exact)
    single.run(ids, rough)
    tensors = {}
    for name, value in exact.items():
        other = rough[name]
        if name.rpartition("/")[2] not in reference.PER_ROW:
            value, other = value[list(TRACE_POSITIONS)], other[list(TRACE_POSITIONS)]
        entry = writer.add(value)
        if value.dtype.kind == "i":
            assert (value == other).all(), name
        else:
            noise = np.abs(other - value)
            entry["noise_max"] = significant(noise.max())
            entry["noise_rms"] = significant(np.sqrt(np.mean(noise ** 2)))
            entry["rms"] = significant(np.sqrt(np.mean(value ** 2)))
            entry["tol"] = max(significant(8 * noise.max()), 1e-6)
        tensors[name] = entry
    return {"length": len(ids), "positions": list(TRACE_POSITIONS), "tensors": tensors}


def make(name, folder, seed):
    model = reference.Model(folder)
    single = reference.Model(folder, np.float32)
    random = np.random.default_rng(seed)
    writer = Writer()
    sequences, closest_all, squares, count = [], {"router": [], "indexer": []}, 0.0, 0

    for number, length in enumerate(LENGTHS):
        ids, logits, closest = find_sequence(model, random, length, [0] * (number % 2 == 0))
        noise = np.abs(single.run(ids)[0] - logits)
        squares += float(np.sum(noise.astype(np.float64) ** 2))
        count += noise.size
        positions = list(range(length)) if length <= 8 else sorted(
            {p for p in LONG_POSITIONS if p < length} | {length - 1})
        for what, gaps in closest.all.items():
            closest_all[what] += gaps
        sequences.append({
            "length": length, "ids": ids, "positions": positions,
            "logits": writer.add(logits[positions]),
            "argmax_all_positions": np.argmax(logits, axis=1).tolist(),
            "top1_top2_gap_min": significant(leads(logits).min()),
            "noise_max": significant(noise.max()),
            "noise_rms": significant(np.sqrt(np.mean(noise ** 2)))})
        print("sequence %3d: noise %.1e, smallest lead %.4f, closest router %.1e indexer %.1e"
              % (length, noise.max(), leads(logits).min(), closest.gap["router"].min(),
                 closest.gap["indexer"].min()), flush=True)

    greedy = []
    for length in PROMPT_LENGTHS:
        greedy.append(find_greedy(model, random, length))
        print("greedy after %3d: smallest lead %.4f, %d different tokens"
              % (length, greedy[-1]["gap_min"], len(set(greedy[-1]["tokens"]))), flush=True)

    traced = next(s["ids"] for s in sequences if s["length"] == TRACE_LENGTH)
    trace = make_trace(model, single, traced, writer)
    writer.write(folder)

    largest_noise, rms = max(s["noise_max"] for s in sequences), np.sqrt(squares / count)
    golden = {
        "model": name, "layout_version": 1, "sequences": sequences, "trace": trace,
        "greedy": greedy,
        "noise": {"logits_max": largest_noise, "logits_rms": significant(rms)},
        "tolerance": {"logits_max": significant(8 * largest_noise),
                      "logits_rms": significant(8 * rms)},
        "closest_decisions": {
            what: [significant(g) for g in sorted(gaps)[:5]] for what, gaps in closest_all.items()},
        "sha256": {}}
    golden["closest_decisions"].update({what + "_decisions": len(gaps)
                                        for what, gaps in closest_all.items()})
    for file in ("config.json", "model.safetensors", "golden.f32", "golden.i32"):
        with open(os.path.join(folder, file), "rb") as f:
            golden["sha256"][file] = hashlib.sha256(f.read()).hexdigest()
    with open(os.path.join(folder, "golden.json"), "w", encoding="utf-8") as f:
        json.dump(golden, f, separators=(",", ":"))
        f.write("\n")


def main(args):
    if len(args) not in (2, 3):
        sys.stderr.write(__doc__)
        return 2
    make(args[0], args[1], int(args[2]) if len(args) == 3 else 1)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
