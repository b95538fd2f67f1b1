/* http_parser: the bytes of HTTP/1.1 requests, in whatever pieces they come [RFC 9112].
 *
 * Pure: never allocates, never copies; views point into the bytes it was given. "Not all here
 * yet" is another answer than "wrong", and wrong names the status that answers it. Strict where
 * two readers could see two requests: lines end with CRLF only, no folded lines, nothing between
 * a header's name and its colon, one length and one only. */
#ifndef NET_HTTP_PARSER_H
#define NET_HTTP_PARSER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/slice.h"

typedef struct { slice name, value; } http_header;

typedef struct {
    slice  method, target;      /* as sent                                            */
    slice  path, query;         /* of the target, not decoded; query without ?        */
    const http_header *headers; /* values trimmed                                     */
    int    n_headers;
    slice  body;                /* empty while only the head is there                 */
    bool   http10;
} http_request;

/* The first header of that name, any case; data NULL: none. */
slice http_header_of(const http_request *r, const char *name);

typedef enum { HTTP_MORE, HTTP_DONE, HTTP_WRONG } http_parse;

typedef struct {
    int         status;         /* 400, 417, 431, 501, 505 */
    const char *why;            /* a sentence's beginning, for the body of the answer */
} http_fault;

/* ---- head ---------------------------------------------------------------- */

/* How far the search for the head's end has come; zero it for a new request. */
typedef struct {
    size_t  at;                 /* bytes looked at; once done, the length of the head */
    size_t  begin;              /* of the request line: empty lines before it are allowed */
    int     lines;              /* complete ones: the request line and the headers    */
    uint8_t state;
} http_scan;

/* `in` is everything since the request's first byte; only what is new gets looked at. */
http_parse http_head_scan(http_scan *s, slice in, http_fault *fault);

typedef struct {
    http_request request;
    uint64_t length;            /* of the body, UINT64_MAX: beyond counting; 0 when chunked */
    bool chunked;
    bool expects_continue;      /* and waits for it before the body           */
    bool close;                 /* after the response: asked for, or HTTP/1.0 */
} http_head;

/* A head whose end http_head_scan has found (in[begin, at)), as HTTP_DONE or HTTP_WRONG. What was understood before
 * the fault is in h->request, so bytes without an end may be given too, to learn that much. */
http_parse http_head_parse(http_head *h, http_header *headers, int max_headers, slice in, http_fault *fault);

/* ---- chunked body -------------------------------------------------------- */

/* Zero it for a new body. */
typedef struct {
    uint64_t left;              /* of the chunk              */
    uint32_t extra;             /* bytes of its extension; behind the last chunk, of the trailers too */
    uint8_t  state, digits;
} http_chunked;

/* Takes bytes off the front of *in until a run of body bytes (*run, a view of *in) ends: call again while it is
 * HTTP_MORE and *run is not empty. HTTP_DONE: the body and its trailers have ended, *in is what follows. */
http_parse http_chunked_next(http_chunked *c, slice *in, slice *run, http_fault *fault);

#endif
