/* secrets: the files that hold keys. */
#ifndef APP_SERVE_SECRETS_H
#define APP_SERVE_SECRETS_H

#include <stdint.h>
#include "base/options.h"

/* One key a line; empty lines and those that begin with # are left out. The keys point into *text (caller
 * frees). DS4_EFORMAT: there is none. */
ds4_status secrets_read_keys(const char *path, char **text, option_list *keys, ds4_error *err);

/* The 32 bytes that seal what clients carry for us; a missing file is made (0600). path NULL: random ones. */
ds4_status secrets_state_key(const char *path, uint8_t key[32], ds4_error *err);

#endif
