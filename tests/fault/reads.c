#include "fault/reads.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int before_failure = INT_MAX, error_to_give, reads_done;
static atomic_bool half, not_direct, slow;

void fault_read_fails(int n, int error)
{
    atomic_store(&error_to_give, error);
    atomic_store(&before_failure, n);
}

void fault_reads_short(bool on)      { atomic_store(&half, on); }
void fault_reads_not_direct(bool on) { atomic_store(&not_direct, on); }
void fault_reads_slow(bool on)       { atomic_store(&slow, on); }

int fault_reads_stop(void)
{
    atomic_store(&before_failure, INT_MAX);
    atomic_store(&half, false);
    atomic_store(&not_direct, false);
    atomic_store(&slow, false);
    return atomic_exchange(&reads_done, 0);
}

#if defined(__APPLE__)

bool fault_reads_available(void) { return false; }

#else

bool fault_reads_available(void) { return true; }

static bool is_direct(int fd) { return (fcntl(fd, F_GETFL) & O_DIRECT) != 0; }

ssize_t __real_pread(int fd, void *to, size_t n, off_t at);
ssize_t __wrap_pread(int fd, void *to, size_t n, off_t at);

ssize_t __wrap_pread(int fd, void *to, size_t n, off_t at)
{
    const int number = atomic_fetch_add(&reads_done, 1);
    if (atomic_load(&slow)) usleep((useconds_t)(number * 7919 % 900));
    if (atomic_load(&not_direct) && is_direct(fd)) {
        errno = EINVAL;
        return -1;
    }
    if (atomic_fetch_sub(&before_failure, 1) == 0) {
        errno = atomic_load(&error_to_give);
        return errno ? -1 : 0;
    }
    if (atomic_load(&half) && n > 1) n /= 2;
    if (is_direct(fd) && n % 4096) n += 4096 - n % 4096;    /* half a block is nothing a disk can read */
    return __real_pread(fd, to, n, at);
}

#endif
