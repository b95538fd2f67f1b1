/* crc32c: the Castagnoli checksum of stored checkpoints (RFC 3720, B.4). */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Start with crc = 0 and feed the bytes in order. */
uint32_t crc32c(uint32_t crc, const void *data, size_t n);

#endif
