/* submission: what the scheduler is asked for one prompt of a prepared request. */
#ifndef SERVE_SUBMISSION_H
#define SERVE_SUBMISSION_H

#include "engine/scheduler.h"
#include "serve/prepare.h"

/* Views into p and bias, [p->request->n_bias] or NULL. The caller adds the id, the wake and what is the model's. */
sched_request submission_of(const prepared *p, int prompt, api_dialect d, const ds4_logit_bias *bias);

#endif
