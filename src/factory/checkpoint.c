#include "factory/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "factory/json_input.h"

#define MAX_SHARDS  4096
#define MAX_INDEX   (256u << 20)    /* bytes; the release's has 10 MB */

struct checkpoint {
    safetensors          *shards;   /* [n_shards] owned                       */
    int                   n_shards;
    const stored_tensor **sorted;   /* [n] over all shards, sorted by name    */
    int                   n;
};

char *checkpoint_path(const char *dir, const char *name)
{
    const size_t n = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path) snprintf(path, n, "%s/%s", dir, name);
    return path;
}

/* ---- which files ------------------------------------------------------- */

typedef struct {
    const char **names;             /* [n] borrowed from the index, each once */
    int          n;
} shard_names;

/* A shard is a file of the folder, so that an index can not lead elsewhere. */
static bool plain_file_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\') && strlen(name) < 256;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ds4_status list_shards(shard_names *list, json_object *map, const char *index, ds4_error *err)
{
    if (!json_object_is_type(map, json_type_object))
        return ds4_fail(err, DS4_EFORMAT, "%s: no weight_map", index);
    const int n = json_object_object_length(map);
    list->names = malloc(((size_t)n + 1) * sizeof *list->names);
    if (!list->names) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for %d entries", index, n);

    int all = 0;
    json_object_object_foreach(map, tensor, file) {
        if (!json_object_is_type(file, json_type_string) || !plain_file_name(json_object_get_string(file)))
            return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s: its shard is not a file name", index, tensor);
        list->names[all++] = json_object_get_string(file);
    }
    qsort(list->names, (size_t)all, sizeof *list->names, by_text);
    for (int i = 0; i < all; i++)
        if (i == 0 || strcmp(list->names[i], list->names[list->n - 1])) list->names[list->n++] = list->names[i];
    if (list->n == 0 || list->n > MAX_SHARDS)
        return ds4_fail(err, DS4_EFORMAT, "%s: names %d shards", index, list->n);
    return DS4_OK;
}

/* ---- opening ----------------------------------------------------------- */

static ds4_status open_shard(checkpoint *c, const char *dir, const char *name, ds4_error *err)
{
    char *path = checkpoint_path(dir, name);
    if (!path) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for a path", dir);
    const ds4_status st = safetensors_open(&c->shards[c->n_shards], path, err);
    if (!st) c->n_shards++;
    free(path);
    return st;
}

static int by_name(const void *a, const void *b)
{
    const stored_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static ds4_status sort_tensors(checkpoint *c, ds4_error *err)
{
    size_t n = 0;
    for (int i = 0; i < c->n_shards; i++) n += (size_t)c->shards[i].n;
    c->sorted = malloc((n + 1) * sizeof *c->sorted);
    if (!c->sorted || n > INT32_MAX) return ds4_fail(err, DS4_EMEMORY, "no memory for %zu tensors", n);

    for (int i = 0; i < c->n_shards; i++)
        for (int j = 0; j < c->shards[i].n; j++) c->sorted[c->n++] = &c->shards[i].items[j];
    qsort(c->sorted, n, sizeof *c->sorted, by_name);
    for (int i = 1; i < c->n; i++)
        if (!strcmp(c->sorted[i - 1]->name, c->sorted[i]->name))
            return ds4_fail(err, DS4_EFORMAT, "tensor %s is in %s and in %s", c->sorted[i]->name,
                            c->sorted[i - 1]->path, c->sorted[i]->path);
    return DS4_OK;
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static ds4_status check_index(const checkpoint *c, json_object *map, const char *index, ds4_error *err)
{
    json_object_object_foreach(map, name, file) {
        const stored_tensor *t = checkpoint_find(c, name);
        if (!t || strcmp(last_part(t->path), json_object_get_string(file)))
            return ds4_fail(err, DS4_EFORMAT, "%s: tensor %s is not in %s", index, name,
                            json_object_get_string(file));
    }
    return DS4_OK;
}

static ds4_status open_single(checkpoint *c, const char *dir, ds4_error *err)
{
    c->shards = calloc(1, sizeof *c->shards);
    if (!c->shards) return ds4_fail(err, DS4_EMEMORY, "%s: no memory for the reader", dir);
    const ds4_status st = open_shard(c, dir, "model.safetensors", err);
    return st ? st : sort_tensors(c, err);
}

static ds4_status open_indexed(checkpoint *c, const char *dir, const char *index, ds4_error *err)
{
    json_object *root;
    shard_names  list = { 0 };
    ds4_status st = json_input_file(&root, index, MAX_INDEX, err);
    if (st) return st;
    json_object *map = json_input_get(root, "weight_map");

    if ((st = list_shards(&list, map, index, err))) goto done;
    c->shards = calloc((size_t)list.n, sizeof *c->shards);
    if (!c->shards) {
        st = ds4_fail(err, DS4_EMEMORY, "%s: no memory for the reader", dir);
        goto done;
    }
    for (int i = 0; i < list.n; i++)
        if ((st = open_shard(c, dir, list.names[i], err))) goto done;
    if ((st = sort_tensors(c, err))) goto done;
    st = check_index(c, map, index, err);
done:
    free(list.names);
    json_object_put(root);
    return st;
}

ds4_status checkpoint_open(checkpoint **out, const char *dir, ds4_error *err)
{
    *out = NULL;
    checkpoint *c = calloc(1, sizeof *c);
    char *single = checkpoint_path(dir, "model.safetensors");
    char *index  = checkpoint_path(dir, "model.safetensors.index.json");
    ds4_status st = DS4_OK;

    if (!c || !single || !index) st = ds4_fail(err, DS4_EMEMORY, "%s: no memory for the reader", dir);
    else if (access(single, F_OK) == 0) st = open_single(c, dir, err);
    else if (access(index, F_OK) == 0) st = open_indexed(c, dir, index, err);
    else st = ds4_fail(err, DS4_ENOTFOUND, "%s: holds neither model.safetensors nor "
                       "model.safetensors.index.json", dir);
    free(single);
    free(index);
    if (st) checkpoint_close(c);
    else *out = c;
    return st;
}

void checkpoint_close(checkpoint *c)
{
    if (!c) return;
    for (int i = 0; i < c->n_shards; i++) safetensors_close(&c->shards[i]);
    free(c->shards);
    free(c->sorted);
    free(c);
}

const stored_tensor *checkpoint_at(const checkpoint *c, int i)
{
    return i >= 0 && i < c->n ? c->sorted[i] : NULL;
}

const stored_tensor *checkpoint_find(const checkpoint *c, const char *name)
{
    int lo = 0, hi = c->n;
    while (lo < hi) {
        const int mid   = lo + (hi - lo) / 2;
        const int order = strcmp(name, c->sorted[mid]->name);
        if (order == 0) return c->sorted[mid];
        if (order < 0) hi = mid;
        else lo = mid + 1;
    }
    return NULL;
}
