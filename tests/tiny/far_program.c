/* Sets up far_memory for a whole program: FAR_FAIL_STEP and FAR_FAIL_OPENS of the environment, and fate.h. */
#include "tiny/far_memory.h"

#include <stdlib.h>

#include "tiny/fate.h"

static int number(const char *name)
{
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

/* Calls that go well are steps. */
static void watch(void)
{
    far.no_device = fate_away() ? DS4_ENOTFOUND : DS4_OK;
    if (!far.lost && far.fail_step == 0) far.fail_step = fate_loss() + 1;
}

__attribute__((constructor)) static void set_up(void)
{
    far_reset();
    far.fail_step = number("FAR_FAIL_STEP");
    far.fail_opens_later = number("FAR_FAIL_OPENS");
    far.watch = watch;
}
