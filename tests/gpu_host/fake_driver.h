/* fake_driver: the driver of engines in tests, which stands before the library's: its one card is a fake device.
 * Included by a test program's one file. */
#ifndef TESTS_GPU_HOST_FAKE_DRIVER_H
#define TESTS_GPU_HOST_FAKE_DRIVER_H

#include "base/status.h"
#include "fake_device.h"

static fake_options card;       /* as it is opened next */
static int cards_opened;        /* probing does not count */
static void (*altered)(gpu_device *d);  /* may change a card that was opened */

ds4_status gpu_driver_open(gpu_device **out, int index, ds4_error *err)
{
    *out = NULL;
    if (index > 0) return ds4_fail(err, DS4_ENOTFOUND, "there is no card %d", index);
    cards_opened++;
    const ds4_status st = fake_device_open(out, &card, err);
    if (!st && altered) altered(*out);
    return st;
}

ds4_status gpu_driver_probe(gpu_info *out, int index, uint64_t *available, ds4_error *err)
{
    gpu_device *d;
    uint64_t total;
    ds4_status st = gpu_driver_open(&d, index, err);
    if (st) return st;
    cards_opened--;
    *out = d->info;
    if (available) st = d->memory(d, available, &total, err);
    d->close(d);
    return st;
}

#endif
