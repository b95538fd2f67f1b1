#include "limit.h"

#include <stdlib.h>
#include "base/status.h"
#include "bench/peak.h"
#include "bench/read_speed.h"
#include "kernels/cpu/cpu_kernels.h"

ds4_status limit_token(token_bytes *t, const char *model, ds4_error *err)
{
    gguf *g = NULL;
    model_config *config = malloc(sizeof *config);
    ds4_status st = config ? gguf_open(&g, model, NULL, err) : ds4_fail(err, DS4_EMEMORY, "no memory for a shape");
    if (!st) st = config_read(config, g, err);
    if (!st) token_bytes_of_file(t, g, config);
    gguf_close(g);
    free(config);
    return st;
}

double limit_now(limit_kind kind, int threads)
{
    enum { READ_BYTES = 1 << 30 };
    stats s;
    const peak_loop *loop = peak_int8(cpu_isa_present());
    const ds4_status st = kind == LIMIT_READ ? read_speed_memory(READ_BYTES, threads, &s, NULL) :
                          loop ? peak_measure(loop, threads, &s, NULL) : DS4_EUNSUPPORTED;
    return st ? 0 : s.p50;
}

double limit_taken(limit_kind kind, const token_bytes *t, double tps)
{
    return 1e-9 * tps * (double)(kind == LIMIT_READ ? token_bytes_step(t, 1, 0) : t->matrix_macs);
}
