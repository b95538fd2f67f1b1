#include "secrets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "base/file.h"
#include "base/status.h"

enum { MAX_KEY_FILE_BYTES = 1 << 20, STATE_KEY_BYTES = 32 };

ds4_status secrets_read_keys(const char *path, char **text, option_list *keys, ds4_error *err)
{
    size_t n;
    *text = NULL;
    ds4_status st = file_read_all(path, MAX_KEY_FILE_BYTES, text, &n, err);
    if (st) return st;
    char *save = NULL;
    for (char *line = strtok_r(*text, "\r\n", &save); line; line = strtok_r(NULL, "\r\n", &save)) {
        line += strspn(line, " \t");
        for (size_t end = strlen(line); end && strchr(" \t", line[end - 1]);) line[--end] = 0;
        if (!*line || *line == '#') continue;
        if (!option_list_add(keys, line)) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for its keys", path);
    }
    return keys->n ? DS4_OK : ds4_fail(err, DS4_EFORMAT, "%s: holds no key", path);
}

static ds4_status make_state_key(const char *path, uint8_t key[STATE_KEY_BYTES], ds4_error *err)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return ds4_fail(err, DS4_EIO, "%s: can not be made: %s", path, strerror(errno));
    const ds4_status st = file_write_all(fd, key, STATE_KEY_BYTES, path, err);
    close(fd);
    return st;
}

ds4_status secrets_state_key(const char *path, uint8_t key[STATE_KEY_BYTES], ds4_error *err)
{
    if (uv_random(NULL, NULL, key, STATE_KEY_BYTES, 0, NULL))
        return ds4_fail(err, DS4_EIO, "the system gives no random numbers");
    if (!path) return DS4_OK;
    if (access(path, F_OK) != 0) return make_state_key(path, key, err);
    char *text;
    size_t n;
    const ds4_status st = file_read_all(path, 4096, &text, &n, err);
    if (st) return st;
    const bool whole = n == STATE_KEY_BYTES;
    if (whole) memcpy(key, text, STATE_KEY_BYTES);
    free(text);
    return whole ? DS4_OK : ds4_fail(err, DS4_EFORMAT, "%s: a state key has %d bytes, this file has %zu", path,
                                     STATE_KEY_BYTES, n);
}
