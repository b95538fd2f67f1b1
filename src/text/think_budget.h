/* think_budget: when reasoning has taken enough of the answer's tokens.
 *
 * Without it a short answer limit would be eaten by the reasoning and leave no
 * visible text. Pure arithmetic on counts. */
#ifndef TEXT_THINK_BUDGET_H
#define TEXT_THINK_BUDGET_H

typedef enum {
    THINK_FREE,         /* sample as always                                     */
    THINK_CLOSING,      /* take </think> as soon as it is among the best three  */
    THINK_OVER          /* take </think> now                                    */
} think_phase;

/* reasoned: tokens sampled in reasoning so far; left: tokens the answer may still
 * have; limit: how many it could have at the start; budget 0: none. */
think_phase think_phase_of(int budget, int reasoned, int left, int limit);

#endif
