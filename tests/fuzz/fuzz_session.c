/* Session checkpoints: any bytes into what reads them: whole, the header alone, the tool map alone. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ds4.h"
#include "engine/kvc.h"
#include "factory/synth.h"

/* One small engine for the whole run. */
static ds4_session *session;

static void prepare(void)
{
    char path[] = "/tmp/ds4-fuzz-XXXXXX";
    const int fd = mkstemp(path);
    if (fd >= 0) close(fd);
    ds4_error err = { 0 };
    synth_options so = synth_defaults();
    so.out = path;
    so.overwrite = true;
    so.n_threads = 1;
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = path;
    o.n_threads = 1;
    o.max_tokens = 256;
    o.max_batch_rows = 32;
    ds4_engine *e = NULL;
    if (synth_run(&so, &err) || ds4_engine_open(&e, &o, &err) || ds4_session_open(&session, e, 256, &err)) {
        fprintf(stderr, "fuzz_session: %s\n", err.message);
        exit(1);
    }
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!session) prepare();
    const int fd = memfd_create("checkpoint", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    lseek(fd, 0, SEEK_SET);
    ds4_error err;
    kvc_header h;
    bytes map;
    bytes_init(&map, 1 << 20);
    const ds4_status sound = kvc_read_header(fd, &h, &err);
    if (!kvc_tool_map(fd, &map, &err) && (sound || (map.len > 0) != ((h.flags & KVC_TOOL_MAP) != 0))) abort();
    bytes_clear(&map);
    if (!kvc_load(session, fd, &map, &err)) {     /* what loads must also run and save */
        const ds4_token t = 3;
        const int length = ds4_session_length(session);
        if (length < 256 && ds4_session_feed(session, &t, 1, NULL, NULL, &err)) abort();
    } else if (ds4_session_length(session) != 0) {
        abort();
    }
    bytes_free(&map);
    close(fd);
    return 0;
}
