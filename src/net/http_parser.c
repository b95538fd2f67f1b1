#include "net/http_parser.h"

#include <limits.h>

enum {
    MAX_EXTENSION = 1024,       /* bytes of one chunk's extension  */
    MAX_TRAILERS  = 8192,       /* bytes of a body's trailers      */
    MAX_DIGITS    = 15          /* of a chunk's size: fits 60 bits */
};

static http_parse wrong(http_fault *f, int status, const char *why)
{
    *f = (http_fault){ status, why };
    return HTTP_WRONG;
}

/* ---- characters ------------------------------------------------------------ */

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* tchar of RFC 9110, 5.6.2 */
static bool is_token_char(char c)
{
    return (lower(c) >= 'a' && lower(c) <= 'z') || is_digit(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!is_token_char(s.data[i])) return false;
    return s.len > 0;
}

/* What a header's value may hold: HTAB, visible characters, spaces, bytes above 127. */
static bool is_value_char(char c)
{
    const unsigned char u = (unsigned char)c;
    return u == '\t' || (u >= 0x20 && u != 0x7F);
}

/* ASCII beside control characters and the space */
static bool is_visible(char c)
{
    return c > ' ' && c < 0x7F;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static slice trim(slice s)
{
    while (s.len && is_blank(s.data[0])) s.data++, s.len--;
    while (s.len && is_blank(s.data[s.len - 1])) s.len--;
    return s;
}

/* Cuts s at the first c: what stands before it is returned, s keeps what follows. Without c all of s is returned. */
static slice cut(slice *s, char c)
{
    const char *at = s->len ? memchr(s->data, c, s->len) : NULL;
    const slice front = { s->data, at ? (size_t)(at - s->data) : s->len };
    const size_t used = front.len + (at != NULL);
    s->data += used;
    s->len -= used;
    return front;
}

static bool same_in_any_case(slice a, slice b)
{
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++)
        if (lower(a.data[i]) != lower(b.data[i])) return false;
    return true;
}

static bool name_is(slice name, const char *other)
{
    return same_in_any_case(name, slice_of(other));
}

slice http_header_of(const http_request *r, const char *name)
{
    for (int i = 0; i < r->n_headers; i++)
        if (name_is(r->headers[i].name, name)) return r->headers[i].value;
    return (slice){ NULL, 0 };
}

/* ---- where the head ends --------------------------------------------------- */

enum { BEFORE, BEFORE_LF, LINE, LINE_LF, LINE_START, END_LF };

http_parse http_head_scan(http_scan *s, slice in, http_fault *fault)
{
    while (s->at < in.len) {
        const char c = in.data[s->at++];
        if (c == 0) return wrong(fault, 400, "a NUL byte in the head of the request");
        switch (s->state) {
        case BEFORE:                            /* nothing but empty lines so far */
        case LINE_START:
            if (c == '\r') {
                s->state = s->state == BEFORE ? BEFORE_LF : END_LF;
                break;
            }
            if (s->state == BEFORE) s->begin = s->at - 1;
            s->state = LINE;
            if (c == '\n') return wrong(fault, 400, "a line that does not end with CR LF");
            break;
        case LINE:
            if (c == '\r') s->state = LINE_LF;
            else if (c == '\n') return wrong(fault, 400, "a line that does not end with CR LF");
            break;
        default:                                /* after a CR */
            if (c != '\n') return wrong(fault, 400, "a CR without LF in the head of the request");
            if (s->state == END_LF) return HTTP_DONE;
            if (s->state == LINE_LF && s->lines < INT_MAX) s->lines++;
            s->state = s->state == BEFORE_LF ? BEFORE : LINE_START;
        }
    }
    return HTTP_MORE;
}

/* ---- request line ---------------------------------------------------------- */

/* host[:port] of a Host header or of an absolute target. */
static bool is_authority(slice s)
{
    for (size_t i = 0; i < s.len; i++)
        if (!is_visible(s.data[i]) || strchr(",/@?#\\\"<>{}|^`", s.data[i])) return false;
    return true;
}

static bool starts_with_scheme(slice s, const char *scheme)
{
    const size_t n = strlen(scheme);
    return s.len >= n && name_is((slice){ s.data, n }, scheme);
}

/* /path?query, * for OPTIONS, or http://host/path?query; *authority is that host, data NULL: none. */
static http_parse parse_target(http_request *r, slice *authority, http_fault *f)
{
    slice t = r->target;
    *authority = (slice){ NULL, 0 };
    for (size_t i = 0; i < t.len; i++)
        if (!is_visible(t.data[i]) || t.data[i] == '#')
            return wrong(f, 400, "the target of the request holds characters that it may not hold");

    if (slice_is(r->method, "CONNECT")) return wrong(f, 501, "CONNECT is not implemented");
    if (slice_is(t, "*") && slice_is(r->method, "OPTIONS")) {
        r->path = t;
        return HTTP_DONE;
    }
    const char *const schemes[] = { "http://", "https://" };
    for (size_t i = 0; i < 2 && !authority->data; i++) {
        if (!starts_with_scheme(t, schemes[i])) continue;
        t.data += strlen(schemes[i]);
        t.len -= strlen(schemes[i]);
        *authority = (slice){ t.data, 0 };
        while (t.len && t.data[0] != '/' && t.data[0] != '?') t.data++, t.len--, authority->len++;
        if (!authority->len || !is_authority(*authority))
            return wrong(f, 400, "the target of the request names no valid host");
    }
    if (!t.len || t.data[0] != '/') {
        if (!authority->data) return wrong(f, 400, "the target of the request does not begin with /");
        r->path = slice_of("/");
        if (t.len) r->query = (slice){ t.data + 1, t.len - 1 };
        return HTTP_DONE;
    }
    r->path = cut(&t, '?');
    r->query = t;
    return HTTP_DONE;
}

/* HTTP/1.x: a minor version above 1 is answered as 1.1 [RFC 9110, 2.5]. */
static http_parse parse_version(http_request *r, slice v, http_fault *f)
{
    const bool good = v.len == 8 && memcmp(v.data, "HTTP/", 5) == 0 && is_digit(v.data[5]) && v.data[6] == '.' &&
                      is_digit(v.data[7]);
    if (!good)
        return wrong(f, 400, "the request line does not end with a version such as HTTP/1.1");
    if (v.data[5] != '1') return wrong(f, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    r->http10 = v.data[7] == '0';
    return HTTP_DONE;
}

/* METHOD SP TARGET SP VERSION */
static http_parse parse_request_line(http_request *r, slice line, slice *authority, http_fault *f)
{
    http_parse p;
    const slice method = cut(&line, ' ');
    if (!is_token(method)) return wrong(f, 400, "the request line does not begin with a method");
    r->method = method;
    r->target = cut(&line, ' ');
    if ((p = parse_version(r, line, f)) != HTTP_DONE) return p;
    return parse_target(r, authority, f);
}

/* ---- headers that the framing depends on ----------------------------------- */

static http_parse parse_length(http_head *h, slice v, http_fault *f)
{
    if (!v.len) return wrong(f, 400, "Content-Length is empty");
    h->length = 0;
    for (size_t i = 0; i < v.len; i++) {
        if (!is_digit(v.data[i])) return wrong(f, 400, "Content-Length is not a number");
        const unsigned digit = (unsigned)(v.data[i] - '0');
        h->length = h->length > (UINT64_MAX - digit) / 10 ? UINT64_MAX : h->length * 10 + digit;
    }
    return HTTP_DONE;
}

static bool lists(slice v, const char *word)
{
    while (v.len)
        if (name_is(trim(cut(&v, ',')), word)) return true;
    return false;
}

static http_parse parse_expect(http_head *h, slice v, http_fault *f)
{
    if (!name_is(v, "100-continue")) return wrong(f, 417, "Expect knows only 100-continue");
    h->expects_continue = true;
    return HTTP_DONE;
}

static http_parse parse_host(slice v, slice authority, http_fault *f)
{
    if (!is_authority(v)) return wrong(f, 400, "Host is not a host and a port");
    if (authority.data && !same_in_any_case(v, authority))
        return wrong(f, 400, "Host and the target of the request name different hosts");
    return HTTP_DONE;
}

/* One look at each header; what only the whole tells (a host is there, one length only) comes after. */
static http_parse parse_framing(http_head *h, slice authority, http_fault *f)
{
    const http_request *r = &h->request;
    http_parse p = HTTP_DONE;
    int hosts = 0, lengths = 0, codings = 0;
    h->close = r->http10;
    for (int i = 0; i < r->n_headers && p == HTTP_DONE; i++) {
        const slice name = r->headers[i].name, v = r->headers[i].value;
        if (name_is(name, "host")) {
            hosts++;
            p = parse_host(v, authority, f);
        } else if (name_is(name, "content-length")) {
            lengths++;
            p = parse_length(h, v, f);
        } else if (name_is(name, "transfer-encoding")) {
            codings++;
            h->chunked = name_is(v, "chunked");
            if (!h->chunked) p = wrong(f, 501, "no transfer coding but chunked is implemented");
        } else if (name_is(name, "connection")) {
            h->close = h->close || lists(v, "close");
        } else if (name_is(name, "expect") && !r->http10) {
            p = parse_expect(h, v, f);
        }
    }
    if (p != HTTP_DONE) return p;
    if (hosts > 1) return wrong(f, 400, "more than one Host header");
    if (!hosts && !r->http10) return wrong(f, 400, "HTTP/1.1 needs a Host header");
    if (lengths > 1) return wrong(f, 400, "more than one Content-Length header");
    if (codings > 1) return wrong(f, 400, "more than one Transfer-Encoding header");
    if (codings && lengths) return wrong(f, 400, "both Content-Length and Transfer-Encoding");
    if (codings && r->http10) return wrong(f, 400, "HTTP/1.0 has no Transfer-Encoding");
    return HTTP_DONE;
}

/* ---- head ------------------------------------------------------------------ */

static http_parse parse_header(http_header *out, slice line, http_fault *f)
{
    if (is_blank(line.data[0])) return wrong(f, 400, "a header that is folded over two lines");
    if (!memchr(line.data, ':', line.len)) return wrong(f, 400, "a header without a colon");
    out->name = cut(&line, ':');
    if (!is_token(out->name)) return wrong(f, 400, "a header whose name holds characters that it may not hold");
    for (size_t i = 0; i < line.len; i++)
        if (!is_value_char(line.data[i])) return wrong(f, 400, "a header whose value holds control characters");
    out->value = trim(line);
    return HTTP_DONE;
}

/* The next line of *in without its CR LF; false: the end is not there. */
static bool next_line(slice *in, slice *line)
{
    const char *lf = in->len ? memchr(in->data, '\n', in->len) : NULL;
    if (!lf || lf == in->data || lf[-1] != '\r') return false;
    *line = (slice){ in->data, (size_t)(lf - in->data) - 1 };
    in->len -= (size_t)(lf + 1 - in->data);
    in->data = lf + 1;
    return true;
}

http_parse http_head_parse(http_head *h, http_header *headers, int max_headers, slice in, http_fault *fault)
{
    slice line, authority;
    http_parse p;
    *h = (http_head){ .request = { .headers = headers } };
    if (!next_line(&in, &line)) return wrong(fault, 400, "the request line has no end");
    if ((p = parse_request_line(&h->request, line, &authority, fault)) != HTTP_DONE) return p;

    for (;;) {
        if (!next_line(&in, &line)) return wrong(fault, 400, "the headers have no end");
        if (!line.len) break;
        if (h->request.n_headers == max_headers) return wrong(fault, 431, "too many headers");
        if ((p = parse_header(&headers[h->request.n_headers], line, fault)) != HTTP_DONE) return p;
        h->request.n_headers++;
    }
    return parse_framing(h, authority, fault);
}

/* ---- chunked body ---------------------------------------------------------- */

enum {
    SIZE, BLANK, EXTENSION, SIZE_LF,            /* 1A [;name=value] CR LF     */
    DATA, DATA_CR, DATA_LF,
    TRAILER, TRAILER_NAME, TRAILER_VALUE, TRAILER_LF, LAST_LF, OVER
};

static int hex_digit(char c)
{
    if (is_digit(c)) return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static http_parse step_size(http_chunked *c, char b, http_fault *f)
{
    const int digit = c->state == SIZE ? hex_digit(b) : -1;
    if (digit >= 0) {
        if (c->digits == MAX_DIGITS) return wrong(f, 400, "a chunk whose size has too many digits");
        c->digits++;
        c->left = c->left * 16 + (unsigned)digit;
    } else if (!c->digits) {
        return wrong(f, 400, "a chunk without a size");
    } else if (b == '\r' && c->state != BLANK) {
        c->state = SIZE_LF;
    } else if (c->state == EXTENSION ? is_value_char(b) : b == ';' || is_blank(b)) {
        if (c->state != EXTENSION) c->state = b == ';' ? EXTENSION : BLANK;
        if (++c->extra > MAX_EXTENSION) return wrong(f, 400, "a chunk with too long an extension");
    } else {
        return wrong(f, 400, "a chunk whose size is not a hexadecimal number");
    }
    return HTTP_MORE;
}

static http_parse step_trailer(http_chunked *c, char b, http_fault *f)
{
    if (++c->extra > MAX_TRAILERS) return wrong(f, 431, "too many trailers");
    if (c->state == TRAILER && b == '\r') c->state = LAST_LF;
    else if (c->state == TRAILER && is_token_char(b)) c->state = TRAILER_NAME;
    else if (c->state == TRAILER_NAME && b == ':') c->state = TRAILER_VALUE;
    else if (c->state == TRAILER_VALUE && b == '\r') c->state = TRAILER_LF;
    else if (c->state == TRAILER_NAME ? !is_token_char(b) : c->state == TRAILER || !is_value_char(b))
        return wrong(f, 400, "a malformed trailer");
    return HTTP_MORE;
}

static http_parse step_lf(http_chunked *c, char b, http_fault *f)
{
    if (b != '\n') return wrong(f, 400, "a chunk's line that does not end with CR LF");
    switch (c->state) {
    case SIZE_LF:
        c->state = c->left ? DATA : TRAILER;
        return HTTP_MORE;
    case DATA_LF:
        *c = (http_chunked){ .state = SIZE };
        return HTTP_MORE;
    case TRAILER_LF:
        c->state = TRAILER;
        return HTTP_MORE;
    default:
        c->state = OVER;
        return HTTP_DONE;
    }
}

static http_parse step(http_chunked *c, char b, http_fault *f)
{
    switch (c->state) {
    case SIZE: case BLANK: case EXTENSION:
        return step_size(c, b, f);
    case DATA_CR:
        if (b != '\r') return wrong(f, 400, "a chunk that is longer than its size");
        c->state = DATA_LF;
        return HTTP_MORE;
    case TRAILER: case TRAILER_NAME: case TRAILER_VALUE:
        return step_trailer(c, b, f);
    default:
        return step_lf(c, b, f);
    }
}

http_parse http_chunked_next(http_chunked *c, slice *in, slice *run, http_fault *fault)
{
    *run = (slice){ in->data, 0 };
    while (in->len) {
        if (c->state == DATA) {
            const size_t n = c->left < in->len ? (size_t)c->left : in->len;
            *run = (slice){ in->data, n };
            in->data += n;
            in->len -= n;
            c->left -= n;
            if (!c->left) c->state = DATA_CR;
            return HTTP_MORE;
        }
        const http_parse p = step(c, *in->data, fault);
        if (p == HTTP_WRONG) return p;
        in->data++;
        in->len--;
        if (p == HTTP_DONE) return p;
    }
    return HTTP_MORE;
}
