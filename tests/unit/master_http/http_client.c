/* See http_client.h. */
#include "http_client.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cmocka.h>

#define SILENCE_MS 20000

int http_connect(uint16_t port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

/* A server that has answered already may close while we still send: no failure. */
void http_send(int fd, const void *bytes, size_t len)
{
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return;
        }
        at += n;
        len -= (size_t)n;
    }
}

size_t http_recv(int fd, void *bytes, size_t max)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&pfd, 1, SILENCE_MS), 1);
    ssize_t n = recv(fd, bytes, max, 0);
    return n > 0 ? (size_t)n : 0;
}

static void join_chunks(http_reply_t *reply, const char *at, const char *end)
{
    while (at < end) {
        char *line_end;
        size_t len = strtoul(at, &line_end, 16);
        at = line_end + 2;
        if (len == 0 || at + len > end) {
            return;
        }
        mcs_buf_append(&reply->body, at, len);
        at += len + 2;
    }
}

void http_finish(int fd, http_reply_t *reply)
{
    char piece[8192];
    char value[256];
    memset(reply, 0, sizeof(*reply));
    mcs_buf_init(&reply->raw, SIZE_MAX);
    mcs_buf_init(&reply->body, SIZE_MAX);
    for (size_t n; (n = http_recv(fd, piece, sizeof(piece))) > 0;) {
        mcs_buf_append(&reply->raw, piece, n);
    }
    close(fd);
    const char *text = mcs_buf_cstr(&reply->raw);
    const char *head_end = strstr(text, "\r\n\r\n");
    if (head_end == NULL) {
        return;
    }
    reply->code = (unsigned)strtoul(text + strlen("HTTP/1.1 "), NULL, 10);
    const char *body = head_end + 4;
    if (strcasecmp(http_header(reply, "Transfer-Encoding", value), "chunked") == 0) {
        join_chunks(reply, body, text + reply->raw.len);
    } else {
        mcs_buf_append(&reply->body, body, reply->raw.len - (size_t)(body - text));
    }
}

void http_raw(uint16_t port, const void *bytes, size_t len, http_reply_t *reply)
{
    int fd = http_connect(port);
    http_send(fd, bytes, len);
    shutdown(fd, SHUT_WR);
    http_finish(fd, reply);
}

void http_request(uint16_t port, const char *method, const char *target, const char *body, http_reply_t *reply)
{
    mcs_buf_t text;
    mcs_buf_init(&text, SIZE_MAX);
    mcs_buf_printf(&text, "%s %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n", method, target);
    if (body != NULL) {
        mcs_buf_printf(&text, "Content-Length: %zu\r\n", strlen(body));
    }
    mcs_buf_printf(&text, "\r\n%s", body != NULL ? body : "");
    int fd = http_connect(port);
    http_send(fd, text.bytes, text.len);
    mcs_buf_fini(&text);
    http_finish(fd, reply);
}

void http_reply_fini(http_reply_t *reply)
{
    mcs_buf_fini(&reply->raw);
    mcs_buf_fini(&reply->body);
}

const char *http_header(const http_reply_t *reply, const char *name, char *text)
{
    const char *at = (const char *)reply->raw.bytes;
    size_t name_len = strlen(name);
    text[0] = '\0';
    while (at != NULL && strncmp(at, "\r\n\r\n", 4) != 0) {
        at = strstr(at, "\r\n");
        if (at == NULL) {
            break;
        }
        if (strncasecmp(at + 2, name, name_len) == 0 && at[2 + name_len] == ':') {
            at += 2 + name_len + 1;
            at += strspn(at, " ");
            snprintf(text, 256, "%.*s", (int)strcspn(at, "\r"), at);
            break;
        }
        if (strncmp(at, "\r\n\r\n", 4) == 0) {
            break;
        }
        at += 2;
    }
    return text;
}

const char *http_body(http_reply_t *reply)
{
    return mcs_buf_cstr(&reply->body);
}

void http_expect(uint16_t port, const char *method, const char *target, const char *body, unsigned code,
                 const char *answer)
{
    http_reply_t reply;
    http_request(port, method, target, body, &reply);
    assert_string_equal(http_body(&reply), answer);
    assert_int_equal(reply.code, code);
    http_reply_fini(&reply);
}
