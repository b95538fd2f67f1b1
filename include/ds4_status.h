/* ds4_status: how every call of this library says what happened.
 *
 * A status is for programs to branch on, the message for people: one
 * sentence made at the lowest place that knew the facts. Any thread. */
#ifndef DS4_STATUS_H
#define DS4_STATUS_H

typedef enum {
    DS4_OK,
    DS4_EARG,           /* the caller asked for something impossible          */
    DS4_EMEMORY,        /* an allocation failed or a plan exceeds the limit   */
    DS4_EIO,            /* the operating system refused a read or a write     */
    DS4_ENOTFOUND,      /* a named file does not exist                        */
    DS4_EFORMAT,        /* bytes from outside are not what they claim to be   */
    DS4_EUNSUPPORTED,   /* well-formed, but nothing here can handle it        */
    DS4_EFULL,          /* context, KV pool or buffer limit reached           */
    DS4_EDEVICE,        /* the backend's device failed                        */
    DS4_ECANCELLED      /* a callback or a flag asked to stop                 */
} ds4_status;

typedef struct {
    ds4_status status;
    char       message[320];    /* UTF-8, one sentence, no newline */
} ds4_error;

#endif
