/* Sets up far_memory for a whole program: FAR_FAIL_STEP and FAR_FAIL_OPENS of the environment. */
#include "tiny/far_memory.h"

#include <stdlib.h>

static int number(const char *name)
{
    const char *text = getenv(name);
    return text ? atoi(text) : 0;
}

__attribute__((constructor)) static void set_up(void)
{
    far_reset();
    far.fail_step = number("FAR_FAIL_STEP");
    far.fail_opens_later = number("FAR_FAIL_OPENS");
}
