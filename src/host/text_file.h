/* text_file: small files in which a system tells about itself. Any thread. */
#ifndef HOST_TEXT_FILE_H
#define HOST_TEXT_FILE_H

#include <stdbool.h>
#include <stddef.h>

/* The first line of root+path, without its newline; false: there is none. */
bool text_file_line(const char *root, const char *path, char *out, size_t size);

/* What follows `key` and blanks or a colon on the first line that begins with it. */
bool text_file_field(const char *root, const char *path, const char *key, char *out, size_t size);

#endif
