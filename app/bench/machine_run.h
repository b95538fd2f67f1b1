/* machine_run: `ds4-bench machine`: measures this computer, or tells what the last
 * measurement of it and of this build found. */
#ifndef BENCH_MACHINE_RUN_H
#define BENCH_MACHINE_RUN_H

#include "../cli/exit_code.h"
#include "../console.h"

exit_code machine_run(int argc, char **argv, console *c);

#endif
