/* config: a file of flags. `key = value` lines with the flags' long names; `#` begins a comment line; a flag
 * without a value is `key` alone, or true, yes, on, false, no, off behind the sign. */
#ifndef APP_SERVE_CONFIG_H
#define APP_SERVE_CONFIG_H

#include "base/options.h"

/* Appends "--key=value" texts to flags, which point into *text (caller frees, also on failure). Unknown keys are left
 * to the parser of the flags. DS4_EARG: "FILE:3: ..." */
ds4_status server_config_read(const char *path, const option *table, char **text, option_list *flags, ds4_error *err);

#endif
