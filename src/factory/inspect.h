/* inspect: what a model file holds, for people and for programs.
 *
 * Keys with their values (long arrays cut short), types and sizes per class of
 * tensors, every tensor. Strings from the file are shown without control
 * characters. Reads only the header of g. */
#ifndef FACTORY_INSPECT_H
#define FACTORY_INSPECT_H

#include "base/bytes.h"
#include "gguf/gguf.h"

/* out->failed tells a text that did not fit. */
void inspect_text(const gguf *g, bytes *out);
void inspect_json(const gguf *g, bytes *out);

#endif
