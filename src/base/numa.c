#include "base/numa.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

#include "base/file.h"
#include "base/status.h"

/* A list such as "0-1,3". */
uint64_t numa_nodes(const char *root)
{
    char path[1024], *text = NULL;
    size_t n;
    uint64_t nodes = 0;
    snprintf(path, sizeof path, "%s/sys/devices/system/node/has_memory", root);
    if (file_read_all(path, 4096, &text, &n, NULL)) return 0;
    for (const char *at = text; *at >= '0' && *at <= '9';) {
        char *end;
        const long first = strtol(at, &end, 10);
        const long last = *end == '-' ? strtol(end + 1, &end, 10) : first;
        for (long i = first; i <= last && i < 64; i++) nodes |= UINT64_C(1) << i;
        at = *end == ',' ? end + 1 : end;
    }
    free(text);
    return nodes;
}

#ifdef SYS_set_mempolicy
ds4_status numa_interleave(uint64_t nodes, ds4_error *err)
{
    enum { INTERLEAVE = 3 };            /* MPOL_INTERLEAVE of linux/mempolicy.h */
    unsigned long mask[2] = { (unsigned long)nodes, sizeof(long) < 8 ? (unsigned long)(nodes >> 16 >> 16) : 0 };
    if (syscall(SYS_set_mempolicy, INTERLEAVE, mask, 65) == 0) return DS4_OK;
    return ds4_fail(err, DS4_EUNSUPPORTED, "the system does not spread memory over nodes: %s", strerror(errno));
}
#else
ds4_status numa_interleave(uint64_t nodes, ds4_error *err)
{
    (void)nodes;
    return ds4_fail(err, DS4_EUNSUPPORTED, "this system has no memory policies");
}
#endif
