/* cuda_record: recordings of steps.
 *
 * A decode step calls the same ops with the same arguments for every token: one row of each session,
 * logits of all. The second step of such a shape is recorded, and later ones are one launch.
 *
 * Nothing is computed while a step is recorded, so one that a device refuses, in whatever call, is begun once
 * more: recorded again, since the device may have given up what was in the way, and then as ops. */
#include "kernels/cuda/cuda_step.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/status.h"

enum { TRIES = 2 };             /* to record a shape */

static bool can_record(const step_shape *s)
{
    return s->rows->n <= CUDA_STEP_ROWS && s->rows->n_segments == s->rows->n && s->n_logits == s->rows->n;
}

static void drop(cuda_backend *b, recording *r)
{
    if (r->graph) b->device->graph_free(b->device, r->graph);
    free(r->note);
    *r = (recording){ 0 };
}

static recording *find(cuda_records *all, const step_shape *s)
{
    for (int i = 0; i < RECORDINGS; i++)
        if (all->all[i].rows == s->rows->n && all->all[i].selects == s->selects) return &all->all[i];
    return NULL;
}

/* A place for a shape that is new: an unused one, or the one that was used longest ago. */
static ds4_status make_room(cuda_backend *b, recording **out, ds4_error *err)
{
    cuda_records *all = &b->step->records;
    recording *r = &all->all[0];
    for (int i = 1; i < RECORDINGS; i++)
        if (all->all[i].used < r->used) r = &all->all[i];
    *out = r;
    if (!r->graph) {
        drop(b, r);
        return DS4_OK;
    }
    const ds4_status st = b->base.wait(&b->base, err);      /* it may be running */
    if (!st) drop(b, r);
    return st;
}

void cuda_warn(const cuda_backend *b, const char *fmt, ...)
{
    char line[640];
    va_list args;
    if (!b->o.warn) return;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    b->o.warn(b->o.warn_ctx, line);
}

/* What became of a recording; whether the device is usable, so that its step can run without. */
static bool goes_without(cuda_backend *b, recording *r, const ds4_error *why)
{
    const char *message = why ? why->message : "";
    if (b->base.wait(&b->base, NULL)) return false;
    if (r->graph) b->device->graph_free(b->device, r->graph);
    r->graph = NULL;
    r->n_notes = 0;
    if (++r->failures < TRIES) return true;
    if (b->step->records.kept) {
        cuda_warn(b, "%s: steps of %d rows are slower than they could be, since they can not be recorded: %s",
                  b->base.name, r->rows, message);
    } else {
        b->step->records.unsupported = true;
        cuda_warn(b, "%s: steps are slower than they could be, since they can not be recorded: %s", b->base.name,
                  message);
    }
    return true;
}

ds4_status records_begin(cuda_backend *b, const step_shape *s, bool *done, ds4_error *err)
{
    cuda_records *all = &b->step->records;
    all->now = NULL;
    all->checking = all->differs = false;
    if (all->unsupported || !can_record(s)) return DS4_OK;

    recording *r = find(all, s);
    if (!r) {
        const ds4_status st = make_room(b, &r, err);
        if (st) return st;
        *r = (recording){ .rows = s->rows->n, .selects = s->selects, .used = ++all->clock };
        return DS4_OK;
    }
    r->used = ++all->clock;
    if (r->failures >= TRIES) return DS4_OK;
    if (r->graph && all->check) {
        all->now = r;
        all->checking = true;
        all->n_checked = 0;
        return DS4_OK;
    }
    ds4_error why;
    if (r->graph) {
        const ds4_status st = b->device->graph_run(b->device, r->graph, &why);
        *done = st == DS4_OK;
        return *done || goes_without(b, r, &why) ? DS4_OK : ds4_fail(err, st, "%s", why.message);
    }
    const ds4_status st = b->device->graph_begin(b->device, &why);
    if (st == DS4_EUNSUPPORTED) all->unsupported = true;
    if (st == DS4_EUNSUPPORTED) return DS4_OK;
    if (st) return goes_without(b, r, &why) ? DS4_OK : ds4_fail(err, st, "%s", why.message);
    r->n_notes = 0;
    all->now = r;
    return DS4_OK;
}

static ds4_status end_check(cuda_backend *b, bool complete, ds4_error *err)
{
    const cuda_records *all = &b->step->records;
    const recording *r = all->now;
    if (!complete) return DS4_OK;
    if (all->differs || all->n_checked != r->n_notes)
        return ds4_fail(err, DS4_EDEVICE,
                        "%s: launch %d of %d of a step of %d rows (kernel %d) is not what was recorded for it", b->base.name,
                        all->n_checked, r->n_notes, r->rows,
                        r->n_notes ? r->note[min_int(all->n_checked, r->n_notes - 1)].kernel : -1);
    return DS4_OK;
}

ds4_status records_end(cuda_backend *b, bool complete, bool *again, ds4_error *err)
{
    cuda_records *all = &b->step->records;
    recording *r = all->now;
    if (!r) return DS4_OK;
    if (all->checking) {
        const ds4_status st = end_check(b, complete, err);
        all->checking = false;
        all->now = NULL;
        return st;
    }
    all->now = NULL;
    if (!complete) {
        b->device->graph_abandon(b->device);
        *again = b->step->order.failed && goes_without(b, r, &b->base.queue.error);     /* or it was interrupted */
        return DS4_OK;
    }
    ds4_error why;
    ds4_status st = b->device->graph_end(b->device, &r->graph, &why);
    if (!st) st = b->device->graph_run(b->device, r->graph, &why);
    all->kept |= !st;
    *again = st && goes_without(b, r, &why);
    return st && !*again ? ds4_fail(err, st, "%s", why.message) : DS4_OK;
}

void records_close(cuda_backend *b, cuda_records *all)
{
    for (int i = 0; i < RECORDINGS; i++) drop(b, &all->all[i]);
}

/* What lies between an argument's fields is whatever was there: not compared. Compilers that can not tell
 * it apart compare no arguments. */
#ifndef __has_builtin
#define __has_builtin(x) 0
#endif
static size_t clear_gaps(int kernel, void *args, size_t n)
{
#if __has_builtin(__builtin_clear_padding)
#define CLEAR(name, type) case CUDA_##name: __builtin_clear_padding((type *)args); return n;
    switch (kernel) { CUDA_KERNELS(CLEAR) default: return n; }
#else
    (void)args;
    return kernel < 0 ? n : 0;
#endif
}

ds4_status records_note(cuda_backend *b, int kernel, int stream, const void *what, size_t n, const void *args,
                        size_t args_n, ds4_error *err)
{
    cuda_records *all = &b->step->records;
    recording *r = all->now;
    if (!r) return DS4_OK;
    const uint64_t basis = HASH_BEGIN ^ ((uint64_t)(unsigned)kernel << 8 | (uint64_t)(unsigned)stream);
    _Alignas(16) uint8_t own[4096];             /* no launch takes more */
    assert(args_n <= sizeof own);
    memcpy(own, args, args_n);
    const record_note note = { kernel, hash_bytes(hash_bytes(basis, what, n), own, clear_gaps(kernel, own, args_n)) };
    if (all->checking) {
        if (all->differs) return DS4_OK;
        all->differs = all->n_checked >= r->n_notes || r->note[all->n_checked].hash != note.hash;
        all->n_checked += !all->differs;
        return DS4_OK;
    }
    if (r->n_notes == r->cap_notes) {
        const int cap = r->cap_notes ? 2 * r->cap_notes : 256;
        record_note *more = realloc(r->note, (size_t)cap * sizeof *more);
        if (!more) return ds4_fail(err, DS4_EMEMORY, "%s: no memory to record a step", b->base.name);
        r->note = more;
        r->cap_notes = cap;
    }
    r->note[r->n_notes++] = note;
    return DS4_OK;
}

void cuda_step_check(cuda_backend *b, bool on) { b->step->records.check = on; }
int  cuda_step_recordings(const cuda_backend *b)
{
    int n = 0;
    for (int i = 0; i < RECORDINGS; i++) n += b->step->records.all[i].graph != NULL;
    return n;
}
