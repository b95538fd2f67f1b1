/* Checkpoints of other row types: what an earlier program or other options wrote.
 *
 * A saved session of packed rows is written again with rows of floats, as payload
 * versions 1 and 2 have them, without the integrity trailer. All numbers that packing
 * left fit f32; the f16 of a rounded row are its codes' numbers too. */
#include "runner.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ds4.h"
#include "kernels/kv_row.h"
#include "quant/float_formats.h"
#include "tiny/model.h"

enum { N_PROMPT = 220, SAVED = 150, CONTEXT = 256, HEADER = 48 };

static ds4_engine *engine(ds4_kv_type type)
{
    ds4_engine *e = NULL;
    ds4_error err;
    ds4_engine_options o = ds4_engine_defaults();
    o.model_path = tiny_model("q8_0");
    o.n_threads = 2;
    o.max_tokens = CONTEXT;
    o.max_batch_rows = 64;
    o.kv_type = type;
    const ds4_status st = ds4_engine_open(&e, &o, &err);
    if (st) test_fail(__FILE__, __LINE__, "open: %s", err.message);
    return e;
}

static void prompt(ds4_token *t, int V)
{
    for (int i = 0; i < N_PROMPT; i++) t[i] = (i * 31 + 7) % V;
}

typedef struct {
    const uint8_t *in;
    uint8_t       *out;
    bool           half;
} rewriter;

static void copy(rewriter *w, size_t n)
{
    memcpy(w->out, w->in, n);
    w->in += n;
    w->out += n;
}

static void rewrite_rows(rewriter *w, int n, kv_row f)
{
    float x[1024];
    for (; n > 0; n--, w->in += kv_row_bytes(f)) {
        kv_row_unpack(f, x, w->in);
        for (int i = 0; i < f.width; i++) {
            const uint16_t h = float_to_half(x[i]);
            memcpy(w->out, w->half ? (const void *)&h : (const void *)&x[i], w->half ? 2 : 4);
            w->out += w->half ? 2 : 4;
        }
    }
}

/* Rows of codes become rows of floats; returns the new length. */
static size_t rewrite(const uint8_t *in, uint8_t *out, bool half, const ds4_shape *s, int n_rot, int index_dim,
                      int n_layer)
{
    rewriter w = { in, out, half };
    uint32_t field[14], text, rows[512], n_index[256];
    copy(&w, HEADER);
    out[6] = 0;                                     /* no trailer follows */
    memcpy(&text, w.in, 4);
    copy(&w, 4 + text);
    const uint8_t *payload = w.out;
    memcpy(field, w.in, sizeof field);
    w.in += sizeof field;
    EXPECT_INT(field[13], 3);
    field[1] = half ? 2 : 1;
    field[13] = 1;
    memcpy(w.out, field, sizeof field);
    w.out += half ? 56 : 52;
    copy(&w, 4 * ((size_t)field[7] + (size_t)s->n_vocab));
    memcpy(rows, w.in, 4 * (size_t)n_layer);
    memcpy(n_index, w.in + 4 * n_layer, 4 * (size_t)n_layer);
    copy(&w, 8 * (size_t)n_layer);

    const kv_row main = { KV_ROW_FP8, s->head_dim, s->head_dim - n_rot }, index = { KV_ROW_FP4, index_dim, 0 };
    for (int l = 0; l < n_layer; l++) {
        const bool overlap = n_index[l] > 0;
        rewrite_rows(&w, (int)field[12], main);
        if (rows[l] == 0) continue;                 /* long enough that every compressor has a row */
        rewrite_rows(&w, (int)rows[l], main);
        copy(&w, (overlap ? 2u * 8u * 2u : 2u * 128u) * (size_t)s->head_dim * 4);
        if (!overlap) continue;
        rewrite_rows(&w, (int)n_index[l], index);
        copy(&w, 2u * 8u * 2u * (size_t)index_dim * 4);
    }
    const uint64_t bytes = (uint64_t)(w.out - payload);
    memcpy(out + 40, &bytes, 8);
    return (size_t)(w.out - out);
}

static void load(ds4_session *s, const uint8_t *data, size_t n, ds4_status want)
{
    ds4_error err = { 0 };
    const int fd = open(test_scratch("rewritten.kvc"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    EXPECT(write(fd, data, n) == (ssize_t)n);
    lseek(fd, 0, SEEK_SET);
    const ds4_status st = ds4_session_load(s, fd, &err);
    if (st != want) test_fail(__FILE__, __LINE__, "status %d, want %d: %s", st, want, err.message);
    close(fd);
}

TEST(rows_of_floats_load_into_packed_sessions_and_continue_alike)
{
    ds4_engine *packed = engine(DS4_KV_PACKED), *floats = engine(DS4_KV_F32);
    if (!packed || !floats) return;
    ds4_shape shape;
    ds4_engine_shape(packed, &shape);
    ds4_session *s, *other, *f;
    ds4_error err;
    ds4_token t[N_PROMPT];
    prompt(t, shape.n_vocab);
    REQUIRE_OK(ds4_session_open(&s, packed, CONTEXT, &err), err);
    REQUIRE_OK(ds4_session_feed(s, t, SAVED, NULL, NULL, &err), err);
    const char *path = test_scratch("packed.kvc");
    const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    REQUIRE_OK(ds4_session_save(s, fd, 6, &err), err);
    close(fd);
    REQUIRE_OK(ds4_session_feed(s, t + SAVED, N_PROMPT - SAVED, NULL, NULL, &err), err);
    float *want = malloc((size_t)shape.n_vocab * sizeof *want);
    memcpy(want, ds4_session_logits(s), (size_t)shape.n_vocab * sizeof *want);
    ds4_session_close(s);

    size_t n;
    uint8_t *file = (uint8_t *)test_read(path, &n), *written = malloc(8 * n);
    REQUIRE_OK(ds4_session_open(&other, packed, CONTEXT, &err), err);
    REQUIRE_OK(ds4_session_open(&f, floats, CONTEXT, &err), err);
    for (int half = 0; half < 2; half++) {
        const size_t length = rewrite(file, written, half, &shape, 64, 128, shape.n_layer);
        load(other, written, length, DS4_OK);
        REQUIRE_OK(ds4_session_feed(other, t + SAVED, N_PROMPT - SAVED, NULL, NULL, &err), err);
        EXPECT(!memcmp(want, ds4_session_logits(other), (size_t)shape.n_vocab * sizeof *want));
        load(f, written, length, DS4_OK);
        EXPECT_INT(ds4_session_length(f), SAVED);
        load(other, written, length - 1, DS4_EIO);
    }
    /* and packed rows into a session of floats, whose later tails are not rounded */
    load(f, file, n, DS4_OK);
    REQUIRE_OK(ds4_session_feed(f, t + SAVED, N_PROMPT - SAVED, NULL, NULL, &err), err);
    float largest = 0;
    for (int i = 0; i < shape.n_vocab; i++) largest = fmaxf(largest, fabsf(want[i]));
    EXPECT_NEAR(ds4_session_logits(f), want, (size_t)shape.n_vocab, 0.05f * largest, "floats after packed");
    free(want);
    free(file);
    free(written);
    ds4_session_close(other);
    ds4_session_close(f);
    ds4_engine_close(packed);
    ds4_engine_close(floats);
}

TEST(packed_rows_that_are_not_numbers_are_refused)
{
    ds4_engine *e = engine(DS4_KV_PACKED);
    if (!e) return;
    ds4_shape shape;
    ds4_engine_shape(e, &shape);
    ds4_session *s;
    ds4_error err;
    ds4_token t[N_PROMPT];
    prompt(t, shape.n_vocab);
    REQUIRE_OK(ds4_session_open(&s, e, CONTEXT, &err), err);
    REQUIRE_OK(ds4_session_feed(s, t, 3, NULL, NULL, &err), err);
    const char *path = test_scratch("packed.kvc");
    const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    REQUIRE_OK(ds4_session_save(s, fd, 6, &err), err);
    close(fd);
    size_t n;
    uint8_t *file = (uint8_t *)test_read(path, &n);
    uint32_t text;
    memcpy(&text, file + HEADER, 4);
    file[6] = 0;                                    /* nobody checks sums then */
    const size_t row = HEADER + 4 + text + 56 + 4 * (3 + (size_t)shape.n_vocab) + 8 * (size_t)shape.n_layer;
    load(s, file, n, DS4_OK);
    const kv_row f = { KV_ROW_FP8, shape.head_dim, shape.head_dim - 64 };
    const struct { size_t at; uint8_t byte; } bad[] = { { 5, 0x7f }, { 9, 0xff }, { (size_t)kv_row_scales(f), 255 },
                                                        { (size_t)kv_row_tail(f) + 1, 0x7c } };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const uint8_t before = file[row + bad[i].at];
        file[row + bad[i].at] = bad[i].byte;
        load(s, file, n, DS4_EFORMAT);
        EXPECT_INT(ds4_session_length(s), 0);
        file[row + bad[i].at] = before;
    }
    free(file);
    ds4_session_close(s);
    ds4_engine_close(e);
}
