/* print_ids: the greedy continuation of every prompt as a JSON array of ids. */
#include "printer.h"
#include "base/bytes.h"
#include "base/status.h"
#include "probe.h"

static ds4_status add_id(void *ctx, int step, ds4_token id, const float *logits, ds4_error *err)
{
    (void)logits;
    return bytes_printf(ctx, "%s%d", step ? ", " : "", id) ? DS4_OK
         : ds4_fail(err, DS4_EMEMORY, "no memory for the ids");
}

exit_code print_ids_run(probe *p)
{
    ds4_error err = { 0 };
    ds4_status st = DS4_OK;
    exit_code code = CLI_OK;
    bytes line;
    bytes_init(&line, (size_t)1 << 30);
    for (size_t i = 0; i < p->prompts.n && !st && !code; i++) {
        bytes_clear(&line);
        bytes_char(&line, '[');
        st = probe_prefill(p, i, &err);
        if (!st) st = probe_continue(p, p->options->n, add_id, &line, &err);
        bytes_text(&line, "]\n");
        if (!st) code = output_finish(output_write(line.data, line.len), p->console);
    }
    bytes_free(&line);
    return st ? probe_failed(p, st, &err) : code;
}
