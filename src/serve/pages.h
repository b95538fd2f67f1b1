/* pages: the small JSON pages about the server itself. Pure. */
#ifndef SERVE_PAGES_H
#define SERVE_PAGES_H

#include "base/bytes.h"
#include "engine/scheduler.h"

typedef enum { SERVE_LOADING, SERVE_READY, SERVE_DRAINING,
               SERVE_LOST     /* the device: it is being opened again */
} serve_state;

void page_root(bytes *out);
void page_health(serve_state s, double progress, bytes *out);
/* now_ns is of clock_ns, as the slots' own times are. */
void page_slots(const sched_slot_status *slots, int n, uint64_t now_ns, int64_t now_unix, bytes *out);

typedef struct {
    const char  *model, *display_name, *quant, *backend, *version, *effort_profile, *kv_dir;
    int          ctx, slots, vocab_size;
    kvstore_size disk;
    double       uptime_s, load_s;
} props_view;
void page_props(const props_view *v, bytes *out);

#endif
