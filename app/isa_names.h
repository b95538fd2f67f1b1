/* isa_names: instruction sets as the flag --isa spells them. Any thread. */
#ifndef APP_ISA_NAMES_H
#define APP_ISA_NAMES_H

#include <stdbool.h>
#include <stdint.h>

/* "ref", "auto", or a list such as "avx2,avx512" as a mask of what may be used. */
bool isa_mask_parse(const char *text, uint32_t *mask);

#endif
