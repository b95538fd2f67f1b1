/* dump_logits: the model's numbers for other programs to compare. */
#include <string.h>

#include "base/file.h"
#include "base/json_writer.h"
#include "base/status.h"
#include "probe.h"

typedef struct {
    file_replace file;
    const char  *path;
    size_t       row_bytes;
} dump;

static bool is_raw(const char *path)
{
    const size_t n = strlen(path);
    return n >= 4 && strcmp(path + n - 4, ".f32") == 0;
}

/* Little-endian float32 as the machine has them; a big-endian one would swap
 * here, and the engine's files do not exist there. */
static ds4_status write_row(void *ctx, int position, const float *logits, ds4_error *err)
{
    (void)position;
    dump *d = ctx;
    return file_write_all(d->file.fd, logits, d->row_bytes, d->path, err);
}

static ds4_status write_json(dump *d, probe *p, ds4_error *err)
{
    const float *logits = ds4_session_logits(p->line.session);
    bytes out;
    json_writer w;
    bytes_init(&out, (size_t)1 << 30);
    json_init(&w, &out);
    json_object(&w);
    json_put_int(&w, "prompt_tokens", (int64_t)p->line.tokens.n);
    json_put_int(&w, "vocab", p->model.shape.n_vocab);
    json_key(&w, "logits");
    json_array(&w);
    for (int i = 0; i < p->model.shape.n_vocab; i++) json_double(&w, logits[i], 9);
    json_array_end(&w);
    json_object_end(&w);
    bytes_char(&out, '\n');
    const ds4_status st = out.failed ? ds4_fail(err, DS4_EMEMORY, "%.100s: no memory for the JSON", d->path)
                                     : file_write_all(d->file.fd, out.data, out.len, d->path, err);
    bytes_free(&out);
    return st;
}

static ds4_status dump_prompt(dump *d, probe *p, size_t i, ds4_error *err)
{
    const token_sequences *s = &p->prompts;
    if (p->options->all_positions)
        return probe_every_position(p, s->ids + s->begin[i], (int)(s->begin[i + 1] - s->begin[i]), write_row, d, err);
    const ds4_status st = probe_prefill(p, i, err);
    if (st) return st;
    if (is_raw(d->path)) return write_row(d, 0, ds4_session_logits(p->line.session), err);
    return write_json(d, p, err);
}

exit_code dump_logits_run(probe *p)
{
    ds4_error err = { 0 };
    dump d = { .path = p->options->dump_logits, .row_bytes = (size_t)p->model.shape.n_vocab * sizeof(float) };
    if (p->prompts.n > 1 && !is_raw(d.path)) {
        console_error(p->console, "--dump-logits: several prompts need a FILE.f32");
        return CLI_USAGE;
    }
    ds4_status st = file_replace_open(&d.file, d.path, true, &err);
    if (st) return probe_failed(p, st, &err);
    for (size_t i = 0; i < p->prompts.n && !st; i++) st = dump_prompt(&d, p, i, &err);
    if (st) file_replace_abort(&d.file);
    else    st = file_replace_commit(&d.file, &err);
    return probe_failed(p, st, &err);
}
