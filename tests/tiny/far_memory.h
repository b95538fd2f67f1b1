/* far_memory: a backend "cuda" that computes on the CPU and says that its memory is not the host's.
 *
 * For tests of what stands above backends: what an engine does where weights are adopted, logits stay on the
 * device and the device can be lost. Stands before the library's own. One engine at a time. */
#ifndef TESTS_TINY_FAR_MEMORY_H
#define TESTS_TINY_FAR_MEMORY_H

#include "kernels/backend.h"

typedef struct {
    uint64_t total, available;  /* of the card                                            */
    bool     unified;
    ds4_status no_device;       /* what the probe and opening say; DS4_OK: there is one   */
    int      fail_step;         /* the n-th step from now on loses the device; 0: none    */
    int      fail_opens;        /* so many openings find no device any more               */
    int      fail_opens_later;  /* the same from the moment it is lost                    */
    int      n_vocab;           /* rows of this width that are brought to the host count  */
    void   (*watch)(void);      /* called before a step ends or the device is opened; NULL: nobody */
    /* counted */
    int      opened, adopted, expert_adopted, freed, rows_brought, steps;
    uint64_t expert_bytes;      /* of the options                                         */
    bool     careful;
    bool     lost;
} far_memory;

extern far_memory far;          /* a test sets what it wants of it */
/* The smallest card whose plan may fill so many bytes (docs/memory.md). */
static inline uint64_t far_card_for(uint64_t filled) { return (filled + ((uint64_t)32 << 20)) * 32 / 31 + 32; }
void far_reset(void);           /* 1 GiB, nothing fails, nothing counted */

#endif
