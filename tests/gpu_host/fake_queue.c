#include "fake_queue.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "ptx_run.h"

void fake_mistake(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fputs("fake device: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

static void *need(void *p)
{
    if (!p) fake_mistake("no memory on the host");
    return p;
}

/* ---- jobs --------------------------------------------------------------------------------- */

static void mark_drop(fake_mark *m)
{
    if (m && --m->users == 0) free(m);
}

static void job_free(fake_job *j)
{
    free(j->own);
    mark_drop(j->mark);
    free(j);
}

static void run_graph(fake_queue *q, gpu_graph *g);

static void run(fake_queue *q, fake_job *j)
{
    q->clock++;
    if (j->kind == JOB_RECORD && j->mark) {
        j->mark->done = true;
        j->mark->at = q->clock;
    }
    if (j->kind == JOB_GRAPH) {
        run_graph(q, j->graph);
        j->graph->pending--;
    }
    if (q->lost) return;
    if (j->kind == JOB_FILL) memset(j->to, j->value, j->bytes);
    if (j->kind == JOB_COPY) memmove(j->to, j->own ? j->own : j->from, j->bytes);
    if (j->kind == JOB_LAUNCH) {
        if (++q->launches == q->o->fail_launch) q->lost = true;
        else q->run_kernel(&lane_kernels[j->launch.kernel], j->launch.grid, j->launch.block, j->launch.shared, j->own,
                           q->o->order);
    }
}

static void shuffle(fake_queue *q, int order[GPU_STREAMS])
{
    for (int i = 0; i < GPU_STREAMS; i++) {
        const int j = (int)random_below(&q->random, (uint64_t)i + 1);
        order[i] = order[j];
        order[j] = i;
    }
}

/* The order of streams stays for a while, so that one of them gets far ahead of the others. */
static void maybe_shuffle(fake_queue *q, int order[GPU_STREAMS])
{
    if (random_below(&q->random, 16) == 0) shuffle(q, order);
}

/* A recording's jobs in any order that its streams and waits allow. */
static void run_graph(fake_queue *q, gpu_graph *g)
{
    int at[GPU_STREAMS] = { 0 }, order[GPU_STREAMS], left = g->n;
    bool *done = need(calloc((size_t)g->n + 1, sizeof *done));
    shuffle(q, order);
    while (left > 0) {
        maybe_shuffle(q, order);
        for (int i = 0; i < GPU_STREAMS; i++) {
            const int s = order[i];
            while (at[s] < g->n && g->job[at[s]]->stream != s) at[s]++;
            if (at[s] == g->n) continue;
            fake_job *j = g->job[at[s]];
            if (j->kind == JOB_WAIT && !done[j->after]) continue;
            done[at[s]++] = true;
            run(q, j);
            left--;
            break;
        }
    }
    free(done);
}

/* ---- streams ------------------------------------------------------------------------------ */

void fake_queue_init(fake_queue *q, const fake_options *o)
{
    const char *device = getenv("DS4_TEST_DEVICE");
    *q = (fake_queue){ .o = o, .run_kernel = device && strcmp(device, "ptx") == 0 ? ptx_run : lane_run };
    random_seed(&q->random, o->seed + 1);
}

void fake_queue_free(fake_queue *q)
{
    for (int s = 0; s < GPU_STREAMS; s++)
        for (fake_job *j = q->first[s], *next; j; j = next) {
            next = j->next;
            job_free(j);
        }
    for (int e = 0; e < GPU_EVENTS; e++) mark_drop(q->event[e]);
    if (q->recording) fake_graph_free(q->recording);
}

bool fake_queue_idle(const fake_queue *q)
{
    for (int s = 0; s < GPU_STREAMS; s++)
        if (q->first[s]) return false;
    return true;
}

static bool drained(const fake_queue *q, int stream) { return stream < 0 ? fake_queue_idle(q) : !q->first[stream]; }

void fake_queue_drain(fake_queue *q, int stream)
{
    int order[GPU_STREAMS];
    shuffle(q, order);
    while (!drained(q, stream)) {
        maybe_shuffle(q, order);
        for (int i = 0; i < GPU_STREAMS; i++) {
            const int s = order[i];
            fake_job *j = q->first[s];
            if (!j || (j->kind == JOB_WAIT && !j->mark->done)) continue;
            q->first[s] = j->next;
            run(q, j);
            job_free(j);
            break;
        }
    }
    ptx_settled();
}

static void append(fake_queue *q, fake_job *j)
{
    const int s = j->stream;
    if (q->first[s]) q->last[s]->next = j;
    else q->first[s] = j;
    q->last[s] = j;
    if (q->o->eager) fake_queue_drain(q, s);
}

static void keep(fake_queue *q, fake_job *j)
{
    gpu_graph *g = q->recording;
    if (q->tail[j->stream] == OUTSIDE)
        fake_mistake("work on stream %d, which has not waited for the recording's", j->stream);
    if (g->n == g->room) {
        g->room = 2 * g->room + 64;
        g->job = need(realloc(g->job, (size_t)g->room * sizeof *g->job));
    }
    q->tail[j->stream] = g->n;
    g->job[g->n++] = j;
}

void fake_queue_add(fake_queue *q, fake_job job)
{
    fake_job *j = need(malloc(sizeof *j));
    *j = job;
    if (q->recording) keep(q, j);
    else append(q, j);
}

static void check(int stream, int event)
{
    if (stream < 0 || stream >= GPU_STREAMS) fake_mistake("there is no stream %d", stream);
    if (event < 0 || event >= GPU_EVENTS) fake_mistake("there is no event %d", event);
}

void fake_queue_record(fake_queue *q, int stream, int event)
{
    check(stream, event);
    if (q->recording) {
        fake_queue_add(q, (fake_job){ .kind = JOB_RECORD, .stream = stream });
        q->recorded[event] = q->tail[stream];
        return;
    }
    mark_drop(q->event[event]);
    q->event[event] = need(calloc(1, sizeof(fake_mark)));
    q->event[event]->users = 2;
    fake_queue_add(q, (fake_job){ .kind = JOB_RECORD, .stream = stream, .mark = q->event[event] });
}

void fake_queue_wait(fake_queue *q, int stream, int event)
{
    check(stream, event);
    if (q->recording) {
        if (q->recorded[event] == OUTSIDE)
            fake_mistake("a recording waits for event %d, which it has not recorded", event);
        if (q->tail[stream] == OUTSIDE) q->tail[stream] = NOTHING_YET;
        fake_queue_add(q, (fake_job){ .kind = JOB_WAIT, .stream = stream, .after = q->recorded[event] });
        return;
    }
    if (!q->event[event]) return;
    q->event[event]->users++;
    fake_queue_add(q, (fake_job){ .kind = JOB_WAIT, .stream = stream, .mark = q->event[event] });
}

/* ---- recordings --------------------------------------------------------------------------- */

void fake_queue_begin(fake_queue *q)
{
    q->recording = need(calloc(1, sizeof *q->recording));
    q->spoilt = false;
    for (int s = 0; s < GPU_STREAMS; s++) q->tail[s] = s == GPU_MAIN ? NOTHING_YET : OUTSIDE;
    for (int e = 0; e < GPU_EVENTS; e++) q->recorded[e] = OUTSIDE;
}

void fake_graph_free(gpu_graph *g)
{
    for (int i = 0; i < g->n; i++) job_free(g->job[i]);
    free(g->job);
    free(g);
}

/* The stream whose work is not before the end of the main stream's; -1: none. */
static int unjoined(const fake_queue *q)
{
    const gpu_graph *g = q->recording;
    int seen[GPU_STREAMS];      /* the last job of each stream that the main stream comes after */
    for (int s = 0; s < GPU_STREAMS; s++) seen[s] = NOTHING_YET;
    seen[GPU_MAIN] = q->tail[GPU_MAIN];
    for (int i = g->n - 1; i >= 0; i--) {
        const fake_job *j = g->job[i];
        if (i > seen[j->stream] || j->kind != JOB_WAIT) continue;
        int *other = &seen[g->job[j->after]->stream];
        if (j->after > *other) *other = j->after;
    }
    for (int s = 0; s < GPU_STREAMS; s++)
        if (q->tail[s] > seen[s]) return s;
    return -1;
}

ds4_status fake_queue_end(fake_queue *q, gpu_graph **out, ds4_error *err)
{
    const int s = unjoined(q);
    const bool spoilt = q->spoilt;
    gpu_graph *g = q->recording;
    q->recording = NULL;
    *out = NULL;
    if (s < 0 && !spoilt) {
        *out = g;
        return DS4_OK;
    }
    fake_graph_free(g);
    if (spoilt) return ds4_fail(err, DS4_EDEVICE, "fake: the recording was spoilt by a call that can not be recorded");
    return ds4_fail(err, DS4_EDEVICE, "fake: stream %d was not joined before the end of the recording", s);
}
