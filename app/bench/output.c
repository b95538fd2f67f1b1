#include "output.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

exit_code output_standard(const bytes *text, console *c)
{
    size_t done = 0;
    if (text->failed) {
        console_error(c, "no memory for the output");
        return CLI_FAILED;
    }
    while (done < text->len) {
        const ssize_t n = write(STDOUT_FILENO, text->data + done, text->len - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EPIPE || errno == EBADF)) return CLI_STDOUT_GONE;
        if (n < 0) {
            console_error(c, "standard output: %s", strerror(errno));
            return CLI_FAILED;
        }
        done += (size_t)n;
    }
    return CLI_OK;
}

exit_code output_text(const char *path, const bytes *text, console *c)
{
    if (!path) return CLI_OK;
    if (strcmp(path, "-") == 0) return output_standard(text, c);
    if (text->failed) {
        console_error(c, "%s: no memory for the output", path);
        return CLI_FAILED;
    }
    file_replace f = { .fd = -1 };
    ds4_error err;
    ds4_status st = file_replace_open(&f, path, true, &err);
    if (!st) st = file_write_all(f.fd, text->data, text->len, path, &err);
    if (!st) st = file_replace_commit(&f, &err);
    else     file_replace_abort(&f);
    if (!st) return CLI_OK;
    console_error(c, "%s", err.message);
    return CLI_FAILED;
}
