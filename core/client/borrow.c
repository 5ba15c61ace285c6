/* Both ends of the question that setup_dummy asks: see borrow.h. Set-up path: plain, one asker at a time. */
#include "core/client/borrow.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/fork.h"
#include "core/base/ipc_listen.h"
#include "core/base/log.h"
#include "core/base/parse.h"
#include "core/base/thread.h"
#include "core/client/client_config.h"

#define AREA          "client"
#define ASK_LIMIT_MS  2000
#define SERVE_WAIT_MS 500 /* an asker that says nothing keeps the next one waiting for so long */
#define BACKLOG       64
#define PREFIX        "client-"

/* The socket of a client process; the folder is the configured one when none is given. */
static mcs_status_t socket_address(const char *ipc_dir, uint16_t port, struct sockaddr_un *address_out)
{
    mcs_client_config_t config;
    mcs_status_t status = mcs_client_config_load(&config);
    if (status != MCS_OK) {
        return status;
    }
    const char *folder = ipc_dir[0] != '\0' ? ipc_dir : config.ipc_dir;
    *address_out = (struct sockaddr_un){.sun_family = AF_UNIX};
    int len = snprintf(address_out->sun_path, sizeof(address_out->sun_path), "%s/" PREFIX "%u", folder, (unsigned)port);
    if (len < 0 || (size_t)len >= sizeof(address_out->sun_path)) {
        mcs_error(AREA, "folder %.120s: too long for a UNIX socket", folder);
        status = MCS_ERR_INVALID_PARAMS;
    }
    mcs_client_config_fini(&config);
    return status;
}

static bool same_user(int fd)
{
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && cred.uid == geteuid();
}

/* ---- the client process ---- */

struct mcs_lender {
    mcs_borrow_settings_t settings;
    int fd;
    struct sockaddr_un address;
    mcs_event_t stop;
    mcs_thread_t thread;
};

static void serve(const mcs_lender_t *lender, int fd)
{
    mcs_borrow_request_t request;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    if (!same_user(fd) || poll(&wait, 1, SERVE_WAIT_MS) != 1 ||
        recv(fd, &request, sizeof(request), MSG_DONTWAIT | MSG_TRUNC) != (ssize_t)sizeof(request) ||
        request.magic != MCS_BORROW_MAGIC || request.version != MCS_BORROW_VERSION) {
        mcs_debug(AREA, "an asker was refused");
        return;
    }
    mcs_borrow_answer_t answer = {
        .magic = MCS_BORROW_MAGIC, .version = MCS_BORROW_VERSION, .settings = lender->settings};
    ssize_t ignored = send(fd, &answer, sizeof(answer), MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)ignored; /* it has left */
}

static void lend(void *arg)
{
    mcs_lender_t *lender = (mcs_lender_t *)arg;
    struct pollfd waits[2] = {{.fd = lender->stop.fd, .events = POLLIN}, {.fd = lender->fd, .events = POLLIN}};
    while (true) {
        if (poll(waits, 2, -1) < 0 && errno != EINTR) {
            mcs_error(AREA, "socket %s is served no more: %s", lender->address.sun_path, strerror(errno));
            return;
        }
        if (mcs_event_clear(&lender->stop)) {
            return;
        }
        int fd = accept4(lender->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            serve(lender, fd);
            close(fd);
        } else if (errno != EAGAIN && errno != EINTR &&
                   mcs_event_wait(&lender->stop, mcs_deadline_after_ms(SERVE_WAIT_MS))) {
            return; /* out of descriptors: the asker stays in the backlog, and without a pause the loop would spin */
        }
    }
}

/* Two processes of one port would be two on different addresses: the first one stays. */
static bool is_answered(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool answered = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0;
    if (fd >= 0) {
        close(fd);
    }
    return answered;
}

static mcs_status_t listen_at(mcs_lender_t *lender)
{
    char text[300];
    struct sockaddr_un folder = lender->address;
    char *name = strrchr(folder.sun_path, '/');
    *name = '\0';
    const mcs_ipc_listen_t listen = {.folder = folder.sun_path,
                                     .prefix = PREFIX,
                                     .name = name + 1 + strlen(PREFIX),
                                     .type = SOCK_SEQPACKET,
                                     .backlog = BACKLOG};
    if (is_answered(&lender->address)) {
        mcs_error(AREA, "socket %s: another process answers there", lender->address.sun_path);
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_status_t status = mcs_ipc_listen(&listen, &lender->fd, lender->address.sun_path,
                                         sizeof(lender->address.sun_path), text, sizeof(text));
    if (status != MCS_OK) {
        mcs_error(AREA, "%s: %s", text, mcs_status_name(status));
        lender->fd = -1;
        return status;
    }
    mcs_fork_guard_add(lender->fd);
    return MCS_OK;
}

mcs_status_t mcs_lender_start(const char *ipc_dir, uint16_t port, const mcs_borrow_settings_t *settings,
                              mcs_lender_t **lender_out)
{
    mcs_lender_t *lender = MCS_NEW(mcs_lender_t);
    if (lender == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    lender->settings = *settings;
    lender->fd = -1;
    lender->stop.fd = -1;
    mcs_status_t status = socket_address(ipc_dir, port, &lender->address);
    if (status != MCS_OK) {
        goto err_stop;
    }
    status = listen_at(lender);
    if (status != MCS_OK) {
        goto err_stop;
    }
    status = mcs_event_init(&lender->stop);
    if (status == MCS_OK) {
        status = mcs_thread_start(&lender->thread, "mcs-lender", lend, lender);
    }
    if (status != MCS_OK) {
        goto err_stop;
    }
    *lender_out = lender;
    return MCS_OK;

err_stop:
    mcs_lender_stop(lender);
    return status;
}

void mcs_lender_stop(mcs_lender_t *lender)
{
    if (lender == NULL) {
        return;
    }
    if (lender->thread.started) {
        mcs_event_set(&lender->stop);
        mcs_thread_join(&lender->thread);
    }
    if (lender->fd >= 0) {
        mcs_fork_guard_remove(lender->fd);
        close(lender->fd);
        unlink(lender->address.sun_path);
    }
    mcs_event_fini(&lender->stop);
    mcs_free(lender);
}

/* ---- the store ---- */

static bool terminated(const char *text)
{
    return memchr(text, '\0', MCS_BORROW_TEXT) != NULL;
}

static mcs_status_t exchange(int fd, mcs_borrow_settings_t *settings_out)
{
    const mcs_borrow_request_t request = {.magic = MCS_BORROW_MAGIC, .version = MCS_BORROW_VERSION};
    mcs_borrow_answer_t answer;
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    uint64_t deadline_ns = mcs_deadline_after_ms(ASK_LIMIT_MS);
    if (send(fd, &request, sizeof(request), MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)sizeof(request)) {
        return MCS_ERR_RPC_FAIL;
    }
    int ready;
    while ((ready = poll(&wait, 1, mcs_deadline_poll_ms(deadline_ns))) < 0 && errno == EINTR) {
    }
    if (ready == 0) {
        return MCS_ERR_RPC_TIMEOUT;
    }
    ssize_t len = recv(fd, &answer, sizeof(answer), MSG_DONTWAIT | MSG_TRUNC);
    const mcs_borrow_settings_t *s = &answer.settings;
    if (len <= 0) {
        return MCS_ERR_RPC_FAIL;
    }
    if (len != (ssize_t)sizeof(answer) || answer.magic != MCS_BORROW_MAGIC || answer.version != MCS_BORROW_VERSION ||
        !terminated(s->master_address) || !terminated(s->local_hostname) || !terminated(s->protocol) ||
        !terminated(s->tenant)) {
        return MCS_ERR_PROTOCOL;
    }
    *settings_out = *s;
    return MCS_OK;
}

mcs_status_t mcs_borrow_ask(const char *ipc_dir, const char *server_address, mcs_borrow_settings_t *settings_out)
{
    mcs_hostport_t server;
    struct sockaddr_un address;
    if (mcs_parse_hostport(server_address, &server) != MCS_OK || !server.has_port || server.port == 0) {
        mcs_error(AREA, "setup_dummy: %.200s is no host:port of a mooncake_client of this host", server_address);
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_status_t status = socket_address(ipc_dir, server.port, &address);
    if (status != MCS_OK) {
        return status;
    }
    int fd = mcs_fault_hit(MCS_FAULT_SYSCALL) ? -1 : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return MCS_ERR_INTERNAL;
    }
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        mcs_error(AREA, "setup_dummy: no mooncake_client of this user on this host at port %u (%s: %s)",
                  (unsigned)server.port, address.sun_path, strerror(errno));
        status = MCS_ERR_RPC_FAIL;
    } else {
        status = same_user(fd) ? exchange(fd, settings_out) : MCS_ERR_PROTOCOL;
        if (status != MCS_OK) {
            mcs_error(AREA, "setup_dummy: mooncake_client at port %u does not answer: %s", (unsigned)server.port,
                      mcs_status_name(status));
        }
    }
    close(fd);
    return status;
}
