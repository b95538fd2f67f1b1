#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"

static FILE *open_private(const journal *j)
{
    struct stat s;
    const int fd = open(j->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return NULL;
    const bool open_to_others = j->secret && fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && (s.st_mode & 077);
    FILE *f = open_to_others && fchmod(fd, 0600) ? NULL : fdopen(fd, "a");
    if (!f) close(fd);
    return f;
}

ds4_status journal_open(journal *j, const char *path, bool secret, ds4_error *err)
{
    *j = (journal){ .path = path, .secret = secret };
    pthread_mutex_init(&j->lock, NULL);
    if (!path || (j->file = open_private(j))) return DS4_OK;
    return ds4_fail(err, DS4_EIO, "%s: can not be written: %s", path, strerror(errno));
}

ds4_status journal_reopen(journal *j, ds4_error *err)
{
    if (!j->path) return DS4_OK;
    FILE *fresh = open_private(j);
    if (!fresh) return ds4_fail(err, DS4_EIO, "%s: can not be written: %s", j->path, strerror(errno));
    pthread_mutex_lock(&j->lock);
    FILE *former = j->file;
    j->file = fresh;
    pthread_mutex_unlock(&j->lock);
    if (former) fclose(former);
    return DS4_OK;
}

void journal_close(journal *j)
{
    if (j->file) fclose(j->file);
    j->file = NULL;
    pthread_mutex_destroy(&j->lock);
}

void journal_line(journal *j, const char *line)
{
    pthread_mutex_lock(&j->lock);
    fprintf(j->file, "%s\n", line);
    fflush(j->file);
    pthread_mutex_unlock(&j->lock);
}

void journal_block(journal *j, const char *id, const char *what, slice text)
{
    char stamp[32] = "";
    const time_t now = time(NULL);
    struct tm tm;
    if (gmtime_r(&now, &tm)) strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &tm);
    pthread_mutex_lock(&j->lock);
    fprintf(j->file, "== %s %s %s\n", stamp, id, what);
    if (text.len) fwrite(text.data, 1, text.len, j->file);
    fputs("\n\n", j->file);
    fflush(j->file);
    pthread_mutex_unlock(&j->lock);
}
