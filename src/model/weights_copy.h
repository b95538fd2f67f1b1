/* weights_copy: tensors read from their files into memory, by several threads and past
 * the page cache.
 *
 * Use: init, place every tensor that is wanted, take memory of `bytes` bytes on a page's
 * boundary, read, free. Tensors that share bytes in the file share them in the copy. */
#ifndef MODEL_WEIGHTS_COPY_H
#define MODEL_WEIGHTS_COPY_H

#include "gguf/gguf.h"

typedef struct {
    const gguf         *file;       /* borrowed */
    const gguf_tensor **tensor;     /* [n]      */
    uint64_t           *room;       /* [n] bytes from the beginning of the copy */
    int                 n;
    uint64_t            bytes;      /* of the copy                              */
    uint64_t            data_bytes; /* of the tensors in it                     */
} weights_copy;

ds4_status weights_copy_init(weights_copy *c, const gguf *g, ds4_error *err);
void       weights_copy_free(weights_copy *c);      /* a zeroed one too */

/* Where the tensor's first byte will be. Asked again, it says the same. */
uint64_t   weights_copy_place(weights_copy *c, const gguf_tensor *t);

/* progress (may be NULL) is called on the calling thread; false: DS4_ECANCELLED. */
ds4_status weights_copy_read(const weights_copy *c, uint8_t *to,
                             bool (*progress)(void *ctx, const char *phase, uint64_t done, uint64_t total), void *ctx,
                             ds4_error *err);

#endif
