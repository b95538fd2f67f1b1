/* fake_engine: ds4.h without a model, for tests of everything above it.
 *
 * Linked in place of the engine, its sessions and batches. The state of a session is a chain of hashes over its
 * tokens and positions; rewind points behave as the real ones. Logits point at the next token of a script:
 *
 *   rules, first match wins: `user` occurs in the last user turn (tool results count as one), `prompt` anywhere in the
 *   prompt, `turn` is the number of user turns (0: any). `answer` is reasoning, </think>, text, DSML as the model would
 *   spell it; for prompts that start in the text what stands behind </think> counts. "$STATE" in it becomes
 *   the session's hash at the end of the prompt, in hex. EOS follows by itself.
 *
 * Where other tokens than the script's entered (forced ones), it goes on behind the longest end of what was generated
 * that it contains. model_path: a GGUF whose vocabulary is used, or a JSON file:
 *
 *   { "vocabulary": "models/tiny/ds4-tiny.gguf", "context": 131072, "sleep_us": 0,
 *     "rules": [ { "user": "weather", "prompt": "", "turn": 1, "answer": "..." } ] }
 *
 * A script with `sleep_us` makes every step take real time. The fake clock moves by itself with each step. */
#ifndef TESTS_SERVER_FAKE_ENGINE_H
#define TESTS_SERVER_FAKE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include "ds4.h"

/* Nanoseconds; every step adds FAKE_STEP_NS and FAKE_ROW_NS per row. */
#define FAKE_STEP_NS UINT64_C(40000000)
#define FAKE_ROW_NS  UINT64_C(1000000)
uint64_t fake_now_ns(void);
void     fake_pass_ns(uint64_t ns);

void     fake_rule(ds4_engine *e, const char *user, int turn, const char *answer);

/* Steps stop before they compute until allowed; -1: all may run (the start). */
void     fake_allow_steps(ds4_engine *e, int n);
/* Waits until a step stands at the gate, or `ms` have passed (false). */
bool     fake_wait_at_gate(ds4_engine *e, int ms);
uint64_t fake_steps(const ds4_engine *e);

/* Steps that contain this token fail; -1: none. */
void     fake_fail_on(ds4_engine *e, ds4_token t);
/* The next step loses the device; then `n` attempts to open it again fail. Engine thread's functions besides. */
void     fake_lose_device(ds4_engine *e, int n);
uint64_t fake_reopenings(const ds4_engine *e);
/* Sessions loaded from now on give logits that are not numbers until they are reset. */
void     fake_spoil_loads(ds4_engine *e, bool spoil);

/* The state of a session that was fed these tokens. */
uint64_t fake_state_of(const ds4_token *t, int n);
uint64_t fake_state(const ds4_session *s);
/* The i-th session that was opened, NULL: not so many. Only while no step runs. */
ds4_session *fake_session(ds4_engine *e, int i);

#endif
