/* fate: what a test does to the device of a program that runs, through files of the folder DEVICE_FATE.
 *
 *   lose    numbers: the device is lost when so many of its calls have gone well, once for each number. Taken when
 *           read; what follows the first counts from the next opening on
 *   away    as long as it is there no device can be opened
 *
 * Callers see to it that one thread asks at a time. */
#ifndef TESTS_TINY_FATE_H
#define TESTS_TINY_FATE_H

#include <stdbool.h>

int  fate_loss(void);           /* the next number; -1: nothing is to be lost */
bool fate_away(void);

#endif
