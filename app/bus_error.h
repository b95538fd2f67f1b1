/* bus_error: a sentence instead of a crash when a page of a mapped file cannot be
 * read, because the disk fails or somebody made the file shorter.
 *
 * The library reads a model through its mapping, where such a failure comes as
 * SIGBUS in the middle of a computation. Nothing can go on then: the handler says
 * which file and where, puts the terminal back and ends the program. */
#ifndef APP_BUS_ERROR_H
#define APP_BUS_ERROR_H

/* After terminal_guard; `program` begins the message and must stay. Ends with exit
 * code 1. A SIGBUS that no file explains goes where it went before. */
void bus_error_catch(const char *program);

#endif
