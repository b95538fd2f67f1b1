/* kvstore_index: what lies in the folders of a kvstore, as a list in memory.
 *
 * DIR/<id>/ holds the files of one kind of engine (kvc_engine_id): <sha1 of the text>.kv, and .kv.bad
 * where a file was put aside. All of them count; only usable ones of the own folder are found. The list follows
 * the folders: a refresh reads again what changed, and of files it knows not even the header.
 *
 * Always true: entries ascend by bytes of text, then by name. One thread at a time. */
#ifndef ENGINE_KVSTORE_INDEX_H
#define ENGINE_KVSTORE_INDEX_H

#include <stdbool.h>
#include <sys/types.h>
#include "base/slice.h"
#include "engine/kvc.h"

#define KV_SHA_BYTES 20
#define KV_PATH_MAX  4096
#define KV_ID_CHARS  (2 * KVC_ID_BYTES)

typedef struct {
    uint8_t    sha[KV_SHA_BYTES];
    int        folder;          /* 0: the own one                               */
    ino_t      inode;
    bool       set_aside;       /* .bad                                         */
    bool       usable;          /* may be found                                 */
    bool       map_read;        /* its tool map is in memory or was once        */
    kvc_header h;
} kv_entry;

typedef struct {
    char    name[KV_ID_CHARS + 1];
    int64_t changed_ns;         /* mtime when it was read                       */
    bool    settled;            /* that was long enough ago for the clock to tell the next change */
} kv_folder;

typedef struct {
    char       *dir;            /* owned                                        */
    kv_folder  *folders;        /* [n_folders]                                  */
    int         n_folders;
    kv_folder   root;           /* DIR itself                                   */
    kv_entry   *entries;
    int         n, cap;
    uint64_t    bytes;          /* of all entries                               */
} kv_index;

ds4_status kv_index_open(kv_index *ix, const char *dir, const char *own, ds4_error *err);
void       kv_index_close(kv_index *ix);                /* a zeroed one is fine */
ds4_status kv_index_refresh(kv_index *ix, ds4_error *err);

/* Entries whose text begins `text`, as numbers, shortest first; caller frees *out. */
ds4_status kv_index_prefixes(const kv_index *ix, slice text, int **out, int *n, ds4_error *err);
kv_entry  *kv_index_own(kv_index *ix, const uint8_t *sha);     /* usable; NULL: none                     */
void       kv_index_remove(kv_index *ix, kv_entry *e);
/* Of a file: its path, with an ending such as ".kv". */
void       kv_index_path(const kv_index *ix, int folder, const uint8_t *sha, const char *ending, char out[KV_PATH_MAX]);
const char *kv_entry_ending(const kv_entry *e);

ds4_status kv_text_sha(slice text, uint8_t out[KV_SHA_BYTES], ds4_error *err);
void       kv_hex(const uint8_t *data, int n, char *out);      /* [2 n + 1] */

#endif
