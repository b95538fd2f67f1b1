/* options: command lines, as docs of the programs describe them.
 *
 *   -x V   --long V   --long=V   --   (ends options)
 *
 * A program lists its flags in one table; parsing, `--help` and the "did you
 * mean" hint all come from it. No globals, no printing: text goes to a buffer. */
#ifndef BASE_OPTIONS_H
#define BASE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/bytes.h"
#include "ds4_status.h"

typedef enum {
    OPTION_FLAG,        /* no value; target bool *                               */
    OPTION_TEXT,        /* const char **, borrowed from argv                     */
    OPTION_COUNT,       /* int *, >= 0, suffix k m g = powers of 1000            */
    OPTION_POSITIVE,    /* int *, >= 1, the same suffixes                        */
    OPTION_INT,         /* int *, may be negative                                */
    OPTION_U64,         /* uint64_t *                                            */
    OPTION_BYTES,       /* uint64_t *, suffix k m g = powers of 1024             */
    OPTION_FLOAT,       /* float *, finite                                       */
    OPTION_CHOICE,      /* const char **, one of `choices` ("a|b|c")             */
    OPTION_LIST,        /* option_list *, repeatable text                        */
    OPTION_CALL         /* no value; *target (int) is set to `value`             */
} option_kind;

typedef struct {
    const char **items;         /* owned array of borrowed texts */
    int          n, cap;
} option_list;

typedef struct {
    const char *topic;          /* heading in --help; NULL: same as the row above     */
    const char *long_name;      /* without dashes; NULL ends the table                */
    char        short_name;     /* 0: none                                            */
    const char *alias;          /* second long name (such as "sys"), or NULL; single-
                                   dash spelling is accepted for it too ("-sys TEXT") */
    option_kind kind;
    void       *target;
    const char *value_name;     /* "FILE", for help; NULL for flags                   */
    const char *help;           /* one sentence, wrapped by the printer               */
    const char *choices;        /* OPTION_CHOICE                                      */
    int         value;          /* OPTION_CALL                                        */
    bool       *seen;           /* set when the option occurs; may be NULL            */
    bool        optional_value; /* --name or --name=V, never --name V                 */
} option;

/* Parses argv[1..argc). Operands (and everything after --) are collected in
 * rest when it is not NULL, else they are errors. Messages have the form
 * `--ctx: expected a positive integer, got "abc"`. */
ds4_status options_parse(const option *table, int argc, char **argv, option_list *rest, ds4_error *err);

/* Help for all topics, or for one (false: no such topic). Fits 80 columns. */
bool options_help(const option *table, const char *topic, bytes *out);

bool option_list_add(option_list *list, const char *text);
void option_list_free(option_list *list);

#endif
