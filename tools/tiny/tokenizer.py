"""Byte-level BPE with the DeepSeek pre-tokenizer, for ASCII text and the control tokens.

Training text is ASCII apart from the control tokens, so the Unicode classes of the three
pre-tokenizer passes shrink to ASCII ranges. No merge touches a digit: arithmetic needs
every digit as its own token.
"""

import heapq
import json
import re
from collections import Counter, defaultdict

FIRST = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
LAST = ["<think>", "</think>", "｜DSML｜", "<｜User｜>", "<｜Assistant｜>",
        "<｜fim▁hole｜>", "<｜fim▁begin｜>", "<｜fim▁end｜>"]

_PUNCT = r"!-/:-@\[-`{-~｜▁"
_PIECES = re.compile(rf"[!-/:-@\[-`{{-~][A-Za-z]+|[^\r\nA-Za-z{_PUNCT}]?[A-Za-z]+"
                     rf"| ?[{_PUNCT}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
_DIGITS = re.compile(r"([0-9]{1,3})")
CONTROLS = re.compile("(" + "|".join(re.escape(t) for t in FIRST + LAST) + ")")

PATTERNS = ["\\p{N}{1,3}",
            "[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+",
            "[!\\\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"]


def byte_alphabet():
    """byte -> the printable character that stands for it in the vocabulary"""
    own = set(range(33, 127)) | set(range(161, 173)) | set(range(174, 256))
    extra = iter(range(0x100, 0x200))
    return [chr(b) if b in own else chr(next(extra)) for b in range(256)]


def split_pieces(text):
    out = []
    for part in _DIGITS.split(text):
        if part.isdigit():
            out.append(part)
        else:
            found = _PIECES.findall(part)
            assert "".join(found) == part, part
            out.extend(found)
    return out


def train_merges(texts, n_merges):
    """texts: (text, weight) pairs without control tokens -> list of (left, right) byte strings"""
    counts = Counter()
    for text, weight in texts:
        for piece in split_pieces(text):
            if not piece.isdigit():
                counts[piece.encode()] += weight
    words = [[[bytes([b]) for b in w], n] for w, n in counts.items()]
    pairs, where = Counter(), defaultdict(set)
    for i, (symbols, n) in enumerate(words):
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] += n
            where[pair].add(i)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    merges, made = [], set()
    while len(merges) < n_merges:
        n, pair = heapq.heappop(heap)
        if pairs[pair] != -n:
            continue                                  # an outdated entry: the true count is queued too
        joined = pair[0] + pair[1]
        if joined not in made:                        # a second spelling of a token would waste an id
            merges.append(pair)
            made.add(joined)
        changed = set()
        for i in where.pop(pair):
            symbols, weight = words[i]
            for p in zip(symbols, symbols[1:]):
                pairs[p] -= weight
                changed.add(p)
            merged, k = [], 0
            while k < len(symbols):
                if k + 1 < len(symbols) and (symbols[k], symbols[k + 1]) == pair:
                    merged.append(joined)
                    k += 2
                else:
                    merged.append(symbols[k])
                    k += 1
            words[i][0] = merged
            for p in zip(merged, merged[1:]):
                pairs[p] += weight
                where[p].add(i)
                changed.add(p)
        for p in changed:
            if pairs[p] > 0:
                heapq.heappush(heap, (-pairs[p], p))
    return merges


class Tokenizer:
    def __init__(self, merges, vocab_size):
        tokens = [t.encode() for t in FIRST] + [bytes([b]) for b in range(256)] + [a + b for a, b in merges]
        assert len(tokens) + len(LAST) == vocab_size
        self.merges = merges
        self.tokens = tokens + [t.encode() for t in LAST]
        base = range(len(FIRST), len(tokens))
        self.ids = {self.tokens[i]: i for i in base}
        self.control = {t: i for i, t in enumerate(FIRST)}
        self.control.update({t: len(tokens) + i for i, t in enumerate(LAST)})
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.cache = {}

    def piece(self, piece):
        got = self.cache.get(piece)
        if got is None:
            s = [bytes([b]) for b in piece.encode()]
            while len(s) > 1:
                rank, at = min((self.rank.get(p, 1 << 30), i) for i, p in enumerate(zip(s, s[1:])))
                if rank == 1 << 30:
                    break
                s[at:at + 2] = [s[at] + s[at + 1]]
            got = [self.ids[t] for t in s]
            if len(self.cache) < 200000:
                self.cache[piece] = got
        return got

    def encode(self, text, controls=True):
        out = []
        for part in CONTROLS.split(text) if controls else [text]:
            if controls and part in self.control:
                out.append(self.control[part])
            else:
                for piece in split_pieces(part):
                    out.extend(self.piece(piece))
        return out

    def decode(self, ids):
        return b"".join(self.tokens[i] for i in ids).decode(errors="replace")

    def letter_tokens(self):
        """the letters of every vocabulary entry that is letters with at most one other character before"""
        found = set()
        for i in range(len(FIRST) + 256, len(self.tokens) - len(LAST)):
            text = self.tokens[i].decode(errors="replace")
            letters = text if text[0].isalpha() else text[1:]
            if letters.isascii() and letters.isalpha():
                found.add(letters)
        return sorted(found)

    def save(self, path):
        alphabet = byte_alphabet()
        spell = lambda raw: "".join(alphabet[b] for b in raw)

        def added(text, special):
            return {"id": self.control[text], "content": text, "single_word": False, "lstrip": False,
                    "rstrip": False, "normalized": False, "special": special}

        vocab = {spell(self.tokens[i]): i for i in range(len(FIRST), len(self.tokens) - len(LAST))}
        split = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in PATTERNS]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        data = {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(t, True) for t in FIRST] + [added(t, False) for t in LAST],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": split + [byte_level]},
            "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                      "vocab": vocab, "merges": [spell(a) + " " + spell(b) for a, b in self.merges]},
        }
        with open(path, "w", encoding="utf-8") as f:
            json.dump(data, f, ensure_ascii=False, indent=1)


def load(path):
    data = json.load(open(path, encoding="utf-8"))
    back = {c: b for b, c in enumerate(byte_alphabet())}
    raw = lambda text: bytes(back[c] for c in text)
    merges = [tuple(raw(s) for s in line.split(" ")) for line in data["model"]["merges"]]
    return Tokenizer(merges, len(FIRST) + 256 + len(merges) + len(LAST))
