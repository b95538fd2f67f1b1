/* kvc_file: what a KVC file tells without a session: header, statistics, tool map. */
#include "engine/kvc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/crc32c.h"
#include "base/status.h"

#define HEADER_BYTES  48
#define BLOCK         KVC_TRAILER_BLOCK
#define FIXED_TRAILER 16u               /* "KIC", version, block bytes, count; CRC of the header */
#define MAX_MAP_BYTES (1u << 28)

static uint32_t get_u32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static uint64_t get_u64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }

uint64_t kvc_trailer_bytes(uint64_t checked) { return FIXED_TRAILER + 4 * (checked / BLOCK + (checked % BLOCK != 0)); }

uint64_t kvc_checked_bytes(uint64_t rest)
{
    if (rest < FIXED_TRAILER) return 0;
    const uint64_t n = (rest - FIXED_TRAILER) / (BLOCK + 4) + ((rest - FIXED_TRAILER) % (BLOCK + 4) != 0);
    return rest - FIXED_TRAILER < 4 * n ? 0 : rest - FIXED_TRAILER - 4 * n;
}

static ds4_status read_at(int fd, uint64_t at, void *data, size_t n, ds4_error *err)
{
    uint8_t *p = data;
    while (n > 0) {
        const ssize_t got = pread(fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return ds4_fail(err, DS4_EIO, "checkpoint: reading it: %s", strerror(errno));
        if (got == 0) return ds4_fail(err, DS4_EFORMAT, "checkpoint: the file is cut off");
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return DS4_OK;
}

/* ---- header -------------------------------------------------------------------------------- */

/* Bytes from offset 48 to the end of the payload; false: more than any file has. */
static bool text_and_payload(const kvc_header *h, uint64_t *out)
{
    return checked_add_u64(4ull + h->text_bytes, h->payload_bytes, out);
}

/* Of the part that a trailer covers, or would cover. */
static uint64_t covered_bytes(const kvc_header *h)
{
    const uint64_t rest = h->file_bytes - HEADER_BYTES;
    return h->flags & KVC_INTEGRITY ? kvc_checked_bytes(rest) : rest;
}

static bool sizes_add_up(const kvc_header *h)
{
    uint64_t want;
    if (!text_and_payload(h, &want) || h->file_bytes <= HEADER_BYTES) return false;
    const uint64_t have = covered_bytes(h);
    return h->flags & KVC_TOOL_MAP ? have > want && have - want <= MAX_MAP_BYTES : have == want;
}

ds4_status kvc_read_header(int fd, kvc_header *out, ds4_error *err)
{
    struct stat f;
    uint8_t h[HEADER_BYTES + 4];
    *out = (kvc_header){ 0 };
    if (fstat(fd, &f)) return ds4_fail(err, DS4_EIO, "checkpoint: reading its size: %s", strerror(errno));
    if (!S_ISREG(f.st_mode)) return ds4_fail(err, DS4_EFORMAT, "a checkpoint is a regular file");
    out->file_bytes = (uint64_t)f.st_size;
    const ds4_status st = read_at(fd, 0, h, sizeof h, err);
    if (st) return st;
    if (memcmp(h, "KVC\1", 4)) return ds4_fail(err, DS4_EFORMAT, "this is not a session checkpoint of version 1");
    *out = (kvc_header){
        .expert_bits = h[4], .reason = h[5], .flags = h[6], .tokens = get_u32(h + 8), .hits = get_u32(h + 12),
        .context = get_u32(h + 16), .created = get_u64(h + 24), .used = get_u64(h + 32), .payload_bytes = get_u64(h + 40),
        .text_bytes = get_u32(h + 48), .file_bytes = out->file_bytes };
    if (!sizes_add_up(out)) return ds4_fail(err, DS4_EFORMAT, "checkpoint: its sizes do not add up to %llu bytes",
                                            (unsigned long long)out->file_bytes);
    return DS4_OK;
}

ds4_status kvc_touch(int fd, const kvc_header *h, ds4_error *err)
{
    uint8_t b[HEADER_BYTES];                        /* one write: half of it damages nothing but statistics */
    const ds4_status st = read_at(fd, 0, b, sizeof b, err);
    if (st) return st;
    memcpy(b + 12, &h->hits, 4);
    memcpy(b + 32, &h->used, 8);
    if (pwrite(fd, b + 8, sizeof b - 8, 8) == (ssize_t)(sizeof b - 8)) return DS4_OK;
    return ds4_fail(err, DS4_EIO, "checkpoint: writing its statistics: %s", strerror(errno));
}

/* ---- tool map ------------------------------------------------------------------------------- */

/* Appends what lies in [from, end) of the covered part; reads whole blocks to verify them. */
static ds4_status read_blocks(int fd, const kvc_header *h, uint64_t from, uint64_t end, uint8_t *block, bytes *out,
                              ds4_error *err)
{
    const bool verify = h->flags & KVC_INTEGRITY;
    const uint64_t trailer = HEADER_BYTES + end;
    for (uint64_t i = from / BLOCK; i * BLOCK < end; i++) {
        const size_t n = (size_t)min_u64(BLOCK, end - i * BLOCK), skip = i == from / BLOCK ? (size_t)(from % BLOCK) : 0;
        uint8_t crc[4];
        ds4_status st = read_at(fd, HEADER_BYTES + i * BLOCK, block, n, err);
        if (!st && verify) st = read_at(fd, trailer + 12 + 4 * i, crc, sizeof crc, err);
        if (st) return st;
        if (verify && get_u32(crc) != crc32c(0, block, n))
            return ds4_fail(err, DS4_EFORMAT, "checkpoint: a checksum does not match; the file is damaged");
        if (!bytes_append(out, block + skip, n - skip))
            return ds4_fail(err, DS4_EMEMORY, "no memory for a checkpoint's tool map");
    }
    return DS4_OK;
}

ds4_status kvc_tool_map(int fd, bytes *out, ds4_error *err)
{
    kvc_header h;
    uint64_t from = 0;
    ds4_status st = kvc_read_header(fd, &h, err);
    if (st || !(h.flags & KVC_TOOL_MAP) || !text_and_payload(&h, &from)) return st;

    uint8_t *block = malloc(BLOCK);
    if (!block) return ds4_fail(err, DS4_EMEMORY, "no memory to read a tool map");
    const size_t had = out->len;
    st = read_blocks(fd, &h, from, covered_bytes(&h), block, out, err);
    if (st) out->len = had;
    free(block);
    return st;
}
