/* alphabet: the 256 printable characters that spell bytes in vocabulary files.
 *
 * Bytes 33..126, 161..172 and 174..255 are the character of the same number; the
 * other 68, in increasing order, are U+0100..U+0143 (Radford et al. 2019, GPT-2). */
#ifndef TEXT_ALPHABET_H
#define TEXT_ALPHABET_H

#include <stdint.h>

static inline uint32_t alphabet_point(unsigned byte)
{
    if (byte <= 32)                return 0x100 + byte;
    if (byte >= 127 && byte <= 160) return 0x121 + (byte - 127);
    if (byte == 173)               return 0x143;
    return byte;
}

/* -1: the character spells no byte. */
static inline int alphabet_byte(uint32_t cp)
{
    if (cp <= 0xFF)  return alphabet_point(cp) == cp ? (int)cp : -1;
    if (cp <= 0x120) return (int)cp - 0x100;
    if (cp <= 0x142) return (int)cp - 0x121 + 127;
    return cp == 0x143 ? 173 : -1;
}

#endif
