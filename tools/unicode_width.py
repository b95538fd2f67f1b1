#!/usr/bin/env python3
"""Writes src/base/utf8_width.h: which code points take no column, which take two.

    tools/unicode_width.py > src/base/utf8_width.h

No column: categories Mn, Me, Cf (but the soft hyphen) and the Hangul vowels and
finals that join the syllable before them. Two: East_Asian_Width W or F.
Unassigned code points between two ranges of one kind are joined to them."""
import unicodedata

LIMIT = 0x110000
CATEGORY = [unicodedata.category(chr(c)) for c in range(LIMIT)]


def ranges(wanted):
    out = []
    for c in range(LIMIT):
        if CATEGORY[c] == "Cn" or not wanted(c):
            continue
        if out and all(CATEGORY[k] == "Cn" for k in range(out[-1][1] + 1, c)):
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(name, rows):
    print(f"static const utf8_range {name}[] = {{")
    for i in range(0, len(rows), 4):
        print("    " + " ".join(f"{{0x{a:X},0x{b:X}}}," for a, b in rows[i:i + 4]))
    print("};")


def takes_no_column(c):
    return (CATEGORY[c] in ("Mn", "Me", "Cf") and c != 0xAD) or 0x1160 <= c <= 0x11FF


def takes_two(c):
    return unicodedata.east_asian_width(chr(c)) in "WF"


print(f"/* Made by tools/unicode_width.py from Unicode {unicodedata.unidata_version}. */")
print("typedef struct {\n    uint32_t first, last;\n} utf8_range;\n")
table("no_column", ranges(takes_no_column))
table("two_columns", ranges(takes_two))
