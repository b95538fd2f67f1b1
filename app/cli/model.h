/* model: opening the engine for a run: options, the memory plan, progress, and
 * what a failure means to the caller of the program. */
#ifndef CLI_MODEL_H
#define CLI_MODEL_H

#include "exit_code.h"
#include "model_path.h"
#include "prompt.h"
#include "../console.h"
#include "../model_flags.h"

typedef struct {
    model_path       path;
    ds4_engine      *engine;
    ds4_engine_options engine_options;
    ds4_shape        shape;
    effort_profile   profile;
} model;

/* What a run needs of its engine. */
typedef struct {
    int ctx;                    /* tokens                                             */
    int rewind_points;          /* a conversation keeps some for /undo and /retry     */
    int sessions;               /* at the same time; 0: one                           */
    int other_tokens;           /* of all sessions but one; 0: ctx                    */
    int side_tokens;            /* of one session more (ds4.h); 0: none               */
} model_room;

/* Finds the file and opens the engine; says on the console which model it is and
 * what memory it takes. On failure nothing is left open and the reason has been
 * printed. */
exit_code model_open(model *m, const model_flags *f, model_room room, console *c);
void      model_close(model *m);

/* Which effort prefixes the file's checkpoint was trained with, unless a flag says. */
effort_profile model_profile(const model_flags *f, effort_profile of_file);

/* How prompts for this model are rendered under these flags. */
prompt_mode model_prompt_mode(const model *m, const model_flags *f);

/* What model_open does before and between, for who opens the engine himself. */
void model_set_numa(const model_flags *f, console *c);
void model_print_plan(const ds4_plan *p, int ctx, console *c);

/* Finds the file only. */
exit_code model_find(model_path *p, const model_flags *f, console *c);

/* What a failure before the first token means. */
exit_code model_exit_code(ds4_status st);

/* Options of an engine with these flags. */
ds4_engine_options model_engine_options(const model_flags *f, const char *path, model_room room, console *c);

#endif
