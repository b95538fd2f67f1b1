"""Random words and values, and the fixed rule of what is held out from training."""

import hashlib
import os

HERE = os.path.dirname(os.path.abspath(__file__))


def share(text, n):
    """a fixed pseudo-random number below n for a text"""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") % n


def read_blocks(name):
    """[title] blocks of a data file as (title, text) pairs, without comments"""
    blocks = []
    for line in open(os.path.join(HERE, name), encoding="utf-8"):
        line = line.rstrip("\n")
        if line.startswith("["):
            blocks.append((line[1:-1], []))
        elif line and not line.startswith("#"):
            blocks[-1][1].append(line)
    return blocks


def alternatives(text):
    return [s.strip() for s in text.split(" | ")]


class Words:
    """Random words. In training mostly joined from letter tokens of the vocabulary, so that every
    token also occurs inside copied text; held-out words only for tests."""

    def __init__(self, pieces=(), held=False):
        words = open(os.path.join(HERE, "words.txt"), encoding="utf-8").read().split()
        self.known = [w for w in words if (share(w, 10) == 0) == held]
        self.forbidden = set() if held else {w for w in words if share(w, 10) == 0}
        self.pieces, self.held = list(pieces), held

    def syllables(self, r):
        return "".join(r.choice("bcdfghjklmnprstvwz") + r.choice("aeiou") + r.choice(["", "", "n", "r", "s", "l", "t"])
                       for _ in range(r.choice([1, 2, 2, 3])))

    def lower(self, r):
        x = r.random()
        if x < 0.35 or (self.held and x < 0.7):
            return r.choice(self.known)
        if x < 0.45 or not self.pieces:
            return self.syllables(r)
        while True:
            w = "".join(r.choice(self.pieces) for _ in range(r.choice([1, 1, 1, 2, 2, 3])))
            if r.random() < 0.75:
                w = w.lower()
            if 2 <= len(w) <= 16 and w.lower() not in self.forbidden:
                return w

    def any(self, r):
        w, x = self.lower(r), r.random()
        if x < 0.30:
            return w[0].upper() + w[1:]
        return w.upper() if x < 0.34 else w

    def cap(self, r):
        w = self.lower(r)
        return w[0].upper() + w[1:]

    def name(self, r, parts=None):
        """an identifier"""
        words = [self.lower(r).lower() if r.random() < 0.9 else self.lower(r)
                 for _ in range(parts or r.choice([1, 1, 1, 1, 2]))]
        return "_".join(words)

    def text(self, r):
        """a short string value"""
        x = r.random()
        if x < 0.40:
            return self.any(r)
        if x < 0.55:
            return " ".join(self.lower(r) for _ in range(r.randint(2, 4)))
        if x < 0.70:
            return " ".join(self.cap(r) for _ in range(2))
        if x < 0.78:
            return "/".join(self.lower(r) for _ in range(r.randint(1, 3))) + "." + r.choice(
                ["c", "h", "py", "txt", "md", "json", "csv", "log", self.lower(r)[:3]])
        if x < 0.83:
            return self.lower(r) + "@" + self.lower(r) + r.choice([".com", ".org", ".net", ".de"])
        if x < 0.88:
            return f"{r.randint(1990, 2035)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"
        if x < 0.92:
            return f"{r.randint(0, 23)}:{r.randint(0, 59):02d}"
        if x < 0.96:
            return self.lower(r) + "-" + str(r.randint(0, 999))
        return self.lower(r) + r.choice(["_", ".", "-"]) + self.lower(r)

    def number(self, r):
        return r.choice([r.randint(0, 9), r.randint(0, 99), r.randint(0, 999), r.randint(0, 9999)])
