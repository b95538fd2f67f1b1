/* utf8_repair: bytes that may be cut or broken, as valid UTF-8. */
#ifndef TEXT_UTF8_REPAIR_H
#define TEXT_UTF8_REPAIR_H

#include "base/bytes.h"
#include "base/slice.h"

/* Appends text with U+FFFD for each maximal invalid part. */
void utf8_append_repaired(slice text, bytes *out);

/* The same in place. */
void utf8_repair(bytes *b);

#endif
