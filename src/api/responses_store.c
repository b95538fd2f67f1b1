#include "api/responses_store.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/status.h"

typedef struct entry {
    struct entry   *next;       /* newer                                                         */
    stored_response r;          /* slices of `memory`                                            */
    size_t          n_bytes;
    char            memory[];
} entry;

struct responses_store {
    pthread_mutex_t lock;
    entry          *oldest, **newest;   /* newest: where the next one is hung                    */
    int             n, max;
    size_t          n_bytes, max_bytes;
};

ds4_status responses_store_open(responses_store **out, int max_responses, size_t max_bytes, ds4_error *err)
{
    *out = NULL;
    if (max_responses < 1) return ds4_fail(err, DS4_EARG, "a store of %d responses holds nothing", max_responses);
    responses_store *s = calloc(1, sizeof *s);
    if (!s) return ds4_fail(err, DS4_EMEMORY, "no memory for the store of responses");
    pthread_mutex_init(&s->lock, NULL);
    s->newest = &s->oldest;
    s->max = max_responses;
    s->max_bytes = max_bytes;
    *out = s;
    return DS4_OK;
}

/* Takes out the entry that `at` points to. */
static void drop(responses_store *s, entry **at)
{
    entry *e = *at;
    *at = e->next;
    if (s->newest == &e->next) s->newest = at;
    s->n--;
    s->n_bytes -= e->n_bytes;
    free(e);
}

void responses_store_close(responses_store *s)
{
    if (!s) return;
    while (s->oldest) drop(s, &s->oldest);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static entry **find(responses_store *s, slice id)
{
    entry **at = &s->oldest;
    while (*at && !slice_equal((*at)->r.id, id)) at = &(*at)->next;
    return at;
}

static slice copy(char **memory, slice text)
{
    const slice out = { *memory, text.len };
    if (text.len) memcpy(*memory, text.data, text.len);
    *memory += text.len;
    return out;
}

bool responses_store_put(responses_store *s, const stored_response *r)
{
    const size_t n = r->id.len + r->response.len + r->context.len + r->input.len + r->output.len;
    if (n > s->max_bytes) return false;
    entry *e = malloc(sizeof *e + n);
    if (!e) return false;
    char *memory = e->memory;
    e->next = NULL;
    e->n_bytes = n;
    e->r = (stored_response){ .id = copy(&memory, r->id), .response = copy(&memory, r->response),
                              .context = copy(&memory, r->context), .input = copy(&memory, r->input),
                              .output = copy(&memory, r->output) };

    pthread_mutex_lock(&s->lock);
    entry **same = find(s, r->id);
    if (*same) drop(s, same);
    while (s->oldest && (s->n >= s->max || s->n_bytes > s->max_bytes - n)) drop(s, &s->oldest);
    *s->newest = e;
    s->newest = &e->next;
    s->n++;
    s->n_bytes += n;
    pthread_mutex_unlock(&s->lock);
    return true;
}

/* The items of a JSON array of our own making, which has no blanks round its brackets. */
static void append_items(bytes *out, slice array)
{
    if (array.len <= 2) return;
    if (out->data[out->len - 1] != '[') bytes_char(out, ',');
    bytes_append(out, array.data + 1, array.len - 2);
}

static void append_part(const stored_response *r, stored_part part, bytes *out)
{
    if (part == STORED_RESPONSE) {
        bytes_append(out, r->response.data, r->response.len);
        return;
    }
    if (!bytes_char(out, '[')) return;
    if (part == STORED_CONVERSATION) append_items(out, r->context);
    append_items(out, r->input);
    if (part == STORED_CONVERSATION) append_items(out, r->output);
    bytes_char(out, ']');
}

bool responses_store_get(responses_store *s, slice id, stored_part part, bytes *out)
{
    pthread_mutex_lock(&s->lock);
    const entry *e = *find(s, id);
    if (e) append_part(&e->r, part, out);
    pthread_mutex_unlock(&s->lock);
    return e && !out->failed;
}

bool responses_store_delete(responses_store *s, slice id)
{
    pthread_mutex_lock(&s->lock);
    entry **at = find(s, id);
    const bool there = *at != NULL;
    if (there) drop(s, at);
    pthread_mutex_unlock(&s->lock);
    return there;
}
