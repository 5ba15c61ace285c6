/* A blunt HTTP client for tests: bytes out, bytes in, nothing checked for the caller. */
#ifndef MCS_TEST_HTTP_CLIENT_H
#define MCS_TEST_HTTP_CLIENT_H

#include "core/base/buf.h"

typedef struct http_reply {
    unsigned code;  /* 0: the connection was closed without an answer */
    mcs_buf_t raw;  /* header and body as they came */
    mcs_buf_t body; /* chunks put together */
} http_reply_t;

int http_connect(uint16_t port);
void http_send(int fd, const void *bytes, size_t len);
/* At most `max` bytes; 0 at the end of the stream, fails the test after 20 s of silence. */
size_t http_recv(int fd, void *bytes, size_t max);
/* Reads to the end of the stream, closes, takes apart. */
void http_finish(int fd, http_reply_t *reply);
/* One request on a connection of its own. `body` may be NULL. */
void http_request(uint16_t port, const char *method, const char *target, const char *body, http_reply_t *reply);
void http_raw(uint16_t port, const void *bytes, size_t len, http_reply_t *reply);
void http_reply_fini(http_reply_t *reply);
/* The value of a header in `text` (room for 256), "" when there is none. */
const char *http_header(const http_reply_t *reply, const char *name, char *text);
const char *http_body(http_reply_t *reply);
/* request + compare: code and whole body. */
void http_expect(uint16_t port, const char *method, const char *target, const char *body, unsigned code,
                 const char *answer);

#endif
