#include "twin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/status.h"
#include "gguf/gguf.h"

enum { DEFAULT_ALIGNMENT = 32 };

struct twin {
    gguf    *real;
    FILE    *file;              /* the twin                                      */
    int      real_fd;
    int      n;
    int64_t  alignment;         /* of tensors, bytes                             */
    uint64_t *at;               /* [n] offset of each tensor in the twin, rising */
    uint8_t *base;              /* the mapping                                   */
    size_t   mapped;
};

/* Walks the tensor table of a header that the reader has checked and gives each
 * tensor the place behind the one before it. Returns the length of the twin. */
static uint64_t rewrite_offsets(twin *t, uint8_t *header, uint64_t table, uint64_t data_start)
{
    const uint64_t alignment = (uint64_t)t->alignment;
    uint64_t place = 0;
    uint8_t *p = header + table;
    for (int i = 0; i < t->n; i++) {
        uint64_t name_len;
        uint32_t n_dims;
        memcpy(&name_len, p, sizeof name_len);
        p += sizeof name_len + name_len;
        memcpy(&n_dims, p, sizeof n_dims);
        p += sizeof n_dims + n_dims * sizeof(uint64_t) + sizeof(uint32_t);     /* dims, type */
        memcpy(p, &place, sizeof place);
        p += sizeof place;
        t->at[i] = data_start + place;
        place += (gguf_tensor_at(t->real, i)->bytes + alignment - 1) / alignment * alignment;
    }
    return data_start + place;
}

static ds4_status write_twin(twin *t, ds4_error *err)
{
    uint64_t bytes;
    const uint8_t *map = gguf_mapping(t->real, 0, &bytes);
    const gguf_value *last = gguf_value_at(t->real, gguf_n_values(t->real) - 1);

    uint64_t data_start = bytes;
    for (int i = 0; i < t->n; i++) {
        const uint64_t offset = gguf_tensor_at(t->real, i)->offset;
        if (offset < data_start) data_start = offset;
    }
    uint8_t *header = malloc(data_start);
    if (!header) return ds4_fail(err, DS4_EMEMORY, "no memory for a header");
    memcpy(header, map, data_start);
    const uint64_t length = rewrite_offsets(t, header, (uint64_t)(last->data + last->bytes - map), data_start);

    const int fd = memfd_create("twin.gguf", MFD_CLOEXEC);
    const bool done = fd >= 0 && ftruncate(fd, (off_t)length) == 0 &&
                      pwrite(fd, header, data_start, 0) == (ssize_t)data_start && (t->file = fdopen(fd, "rb"));
    free(header);
    if (!done) {
        if (fd >= 0) close(fd);
        return ds4_fail(err, DS4_EIO, "the twin cannot be made: %s", strerror(errno));
    }
    return DS4_OK;
}

ds4_status twin_open(twin **out, const char *path, ds4_error *err)
{
    *out = NULL;
    twin *t = calloc(1, sizeof *t);
    if (!t) return ds4_fail(err, DS4_EMEMORY, "no memory for a twin");
    t->real_fd = -1;

    ds4_status st = gguf_open(&t->real, path, NULL, err);
    if (!st && gguf_n_shards(t->real) > 1) st = ds4_fail(err, DS4_EUNSUPPORTED, "%s: a split file has no twin", path);
    if (!st) {
        t->alignment = DEFAULT_ALIGNMENT;
        if (gguf_find(t->real, "general.alignment"))
            st = gguf_get_int(t->real, "general.alignment", 1, 1 << 20, &t->alignment, err);
    }
    if (!st) {
        t->n = gguf_n_tensors(t->real);
        t->at = malloc((size_t)t->n * sizeof *t->at);
        t->real_fd = open(path, O_RDONLY | O_CLOEXEC);
        if (!t->at) st = ds4_fail(err, DS4_EMEMORY, "no memory for a twin");
        else if (t->real_fd < 0) st = ds4_fail(err, DS4_EIO, "%s: %s", path, strerror(errno));
        else st = write_twin(t, err);
    }
    if (st) {
        twin_close(t);
        return st;
    }
    *out = t;
    return DS4_OK;
}

void twin_close(twin *t)
{
    if (!t) return;
    if (t->file) fclose(t->file);
    if (t->real_fd >= 0) close(t->real_fd);
    gguf_close(t->real);
    free(t->at);
    free(t);
}

FILE *twin_file(twin *t)
{
    return t->file;
}

bool twin_is(const twin *t, int fd)
{
    struct stat a, b;
    return t && fstat(fd, &a) == 0 && fstat(fileno(t->file), &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* The real file fits into the front of the twin's range, because aliases only
 * make it shorter; the rest stays without access, so that a wrong address
 * faults instead of reading zeros. */
void *twin_map(twin *t, size_t bytes)
{
    uint64_t real_bytes;
    (void)gguf_mapping(t->real, 0, &real_bytes);
    if (real_bytes > bytes) {
        errno = EINVAL;
        return NULL;
    }
    void *base = mmap64(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) return NULL;
    if (mmap64(base, real_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, t->real_fd, 0) == MAP_FAILED) return NULL;
    t->base = base;
    t->mapped = bytes;
    return base;
}

void *twin_place(const twin *t, void *at)
{
    uint8_t *p = at;
    if (!t || !t->base || p < t->base || p >= t->base + t->mapped) return at;

    const uint64_t offset = (uint64_t)(p - t->base);
    int low = 0, high = t->n - 1;
    while (low < high) {
        const int mid = (low + high + 1) / 2;
        if (t->at[mid] <= offset) low = mid;
        else high = mid - 1;
    }
    return t->at[low] == offset ? t->base + gguf_tensor_at(t->real, low)->offset : at;
}
