#include "text/think_budget.h"

#include "base/checked.h"

/* How long a polite end is waited for. */
enum { CLOSING_TOKENS = 512 };

think_phase think_phase_of(int budget, int reasoned, int left, int limit)
{
    if (budget && reasoned >= budget)
        return reasoned >= budget + CLOSING_TOKENS ? THINK_OVER : THINK_CLOSING;

    /* The last quarter of the answer belongs to visible text; half of it may
     * still be spent on waiting. */
    const int reserve = min_int(CLOSING_TOKENS, limit / 4);
    if (left < reserve) return left < reserve / 2 ? THINK_OVER : THINK_CLOSING;
    return THINK_FREE;
}
