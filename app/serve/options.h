/* options: the flags of ds4-server, from the command line and a configuration file.
 *
 * The command line beats the file (--config), which beats the environment (DS4_MODEL, DS4_BACKEND, DS4_CTX,
 * DS4_API_KEY, DS4_KV_DIR), which beats the defaults. */
#ifndef APP_SERVE_OPTIONS_H
#define APP_SERVE_OPTIONS_H

#include "base/options.h"
#include "engine/kvstore.h"
#include "../console_flags.h"
#include "../model_flags.h"

typedef struct {
    model_flags flags;
    console_flags say;

    /* where, and who may ask */
    const char *host, *unix_path, *key_file, *cors;
    int         port;
    bool        host_given, port_given, cors_given;
    option_list keys, origins;

    /* limits and times */
    int         max_body_mb, max_queue, keepalive_secs, write_timeout, drain_secs, stream_defer_ms;

    /* slots and memory */
    int         slots, slot_ctx, prefill_quantum, rewind_points;
    bool        batch_invariant;    /* asks for what always holds; nothing has to read it */
    const char *kv_dir;
    int         kv_space_mb;
    kv_save_policy save;
    bool        reject_different_quant, no_exact_replay, strict_drop_reasoning;
    int         tool_memory_max_ids;

    /* answers */
    int         tokens;
    const char *unclosed, *reasoning_field, *sampling_policy, *state_key;
    option_list aliases, scrubs;
    int         responses_store;
    bool        strict_model, reject_media, responses_summary, anthropic_redact;
    bool        nonstream_keepalive, finish_orphans;

    /* running it */
    const char *trace, *log_format, *log_file, *config;
    bool        metrics_public, no_debug_endpoints, check;

    char       *config_text;    /* owned: what flags of the file point into */
} server_flags;

/* DS4_EARG: the sentence says which flag, or which line of the file, and why. DS4_EIO, DS4_ENOTFOUND:
 * the file can not be read. */
ds4_status server_flags_parse(server_flags *o, int argc, char **argv, ds4_error *err);
void       server_flags_free(server_flags *o);
bool       server_flags_help(const char *topic, bytes *out);   /* false: no such topic */

#endif
