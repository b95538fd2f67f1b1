/* fake_queue: the streams, events and recordings of the fake device. */
#ifndef TESTS_GPU_HOST_FAKE_QUEUE_H
#define TESTS_GPU_HOST_FAKE_QUEUE_H

#include "base/random.h"
#include "fake_device.h"

typedef enum { JOB_FILL, JOB_COPY, JOB_LAUNCH, JOB_RECORD, JOB_WAIT, JOB_GRAPH } fake_kind;

/* One record of an event, kept while somebody may ask for it. */
typedef struct { int users; bool done; uint64_t at; } fake_mark;

typedef struct fake_job {
    struct fake_job *next;
    fake_kind  kind;
    int        stream;
    uint8_t   *to;
    const uint8_t *from;
    uint64_t   bytes;
    uint8_t    value;
    gpu_launch launch;
    uint8_t   *own;             /* bytes copied at the call: arguments, unpinned memory     */
    fake_mark *mark;
    gpu_graph *graph;
    int        after;           /* in a recording: the record that a wait waits for         */
} fake_job;

struct gpu_graph { fake_job **job; int n, room, pending; };

typedef struct {
    const fake_options *o;
    lane_runner *run_kernel;
    random_stream random;
    fake_job  *first[GPU_STREAMS], *last[GPU_STREAMS];
    fake_mark *event[GPU_EVENTS];
    uint64_t   clock;           /* jobs done */
    int        launches;
    bool       lost;            /* a kernel has lost the device                             */
    gpu_graph *recording;
    int        tail[GPU_STREAMS];           /* a stream's last job of the recording; OUTSIDE */
    int        recorded[GPU_EVENTS];        /* an event's record in the recording; OUTSIDE   */
    bool       spoilt;          /* the recording can only be abandoned                      */
} fake_queue;

enum { OUTSIDE = -2, NOTHING_YET = -1 };

void fake_queue_init(fake_queue *q, const fake_options *o);
void fake_queue_free(fake_queue *q);
/* Takes the job: into its stream, or into the recording. */
void fake_queue_add(fake_queue *q, fake_job job);
void fake_queue_record(fake_queue *q, int stream, int event);
void fake_queue_wait(fake_queue *q, int stream, int event);
/* Until this stream is empty, or all are (< 0). Others advance as chance has it. */
void fake_queue_drain(fake_queue *q, int stream);
bool fake_queue_idle(const fake_queue *q);

void       fake_queue_begin(fake_queue *q);
ds4_status fake_queue_end(fake_queue *q, gpu_graph **out, ds4_error *err);
void       fake_graph_free(gpu_graph *g);

/* Ends the process: our own mistake. */
_Noreturn void fake_mistake(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
