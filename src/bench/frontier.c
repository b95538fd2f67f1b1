#include "bench/frontier.h"

#include <inttypes.h>

#include "base/status.h"

ds4_status frontier_check(const frontier_plan *p, ds4_error *err)
{
    if (p->max < p->start)
        return ds4_fail(err, DS4_EARG, "--ctx-max: %d is below --ctx-start %d", p->max, p->start);
    if (p->mul != 0 && p->mul < 1)
        return ds4_fail(err, DS4_EARG, "--step-mul: expected a factor above 1, got %g", (double)p->mul);
    return DS4_OK;
}

int frontier_next(const frontier_plan *p, int ctx)
{
    if (ctx == 0) return p->start;
    const double next = p->mul > 1 ? (double)ctx * (double)p->mul : (double)ctx + p->incr;
    if (next > p->max) return 0;
    return (int)next > ctx ? (int)next : ctx + 1;
}

ds4_status frontier_measure(bench_arm *a, const frontier_plan *p, int from, int to, frontier_row *row, ds4_error *err)
{
    arm_sample s;
    const ds4_status st = arm_walk(a, from, to, p->gen, &s, err);
    if (st) return st;
    const double steady_s = s.gen_s - s.first_s;
    *row = (frontier_row){
        .ctx_tokens = to, .prefill_tokens = to - from, .prefill_tps = (to - from) / s.prompt_s,
        .gen_tokens = p->gen, .gen_tps = s.gen_s > 0 ? p->gen / s.gen_s : 0, .gen_first_ms = s.first_s * 1e3,
        .gen_steady_tokens = p->gen > 0 ? p->gen - 1 : 0,
        .gen_steady_tps = p->gen > 1 ? (p->gen - 1) / steady_s : 0,
        .kv_bytes = arm_kv_bytes(a, 1),
    };
    return DS4_OK;
}

void frontier_csv_head(bytes *out)
{
    bytes_text(out, "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,gen_first_ms,gen_steady_tokens,"
                    "gen_steady_tps,kvcache_bytes\n");
}

void frontier_csv_row(const frontier_row *r, bytes *out)
{
    bytes_printf(out, "%d,%d,%.2f,%d,%.2f,%.3f,%d,%.2f,%" PRIu64 "\n", r->ctx_tokens, r->prefill_tokens, r->prefill_tps,
                 r->gen_tokens, r->gen_tps, r->gen_first_ms, r->gen_steady_tokens, r->gen_steady_tps, r->kv_bytes);
}
