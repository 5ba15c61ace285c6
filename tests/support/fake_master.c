/* See fake_master.h. */
#include "tests/support/fake_master.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNECTIONS  64
#define HEARTBEAT_MS 100

typedef struct peer {
    int fd; /* -1 = free */
    uint32_t number;
    bool control;
    mcs_buf_t in;
} peer_t;

struct fake_master {
    fake_script_fn script;
    void *arg;
    char dir[64];
    char address[128];
    int listener;
    int wake;
    pthread_t thread;
    pthread_mutex_t lock; /* guards everything below; the thread holds it but for poll */
    peer_t peers[CONNECTIONS];
    uint32_t accepted;
    mcs_id_t session;
    uint64_t epoch;
    bool stop;
};

static void send_all(int fd, const void *bytes, size_t len)
{
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd pfd = {.fd = fd, .events = POLLOUT};
            poll(&pfd, 1, 1000);
            continue;
        }
        if (n <= 0) {
            return;
        }
        at += n;
        len -= (size_t)n;
    }
}

static void send_frame(int fd, mcs_frame_header_t header, const ProtobufCMessage *message)
{
    size_t len = message != NULL ? protobuf_c_message_get_packed_size(message) : 0;
    uint8_t *frame = malloc(MCS_FRAME_HEADER + len);
    header.length = (uint32_t)len;
    mcs_frame_encode(&header, frame);
    if (message != NULL) {
        protobuf_c_message_pack(message, frame + MCS_FRAME_HEADER);
    }
    send_all(fd, frame, MCS_FRAME_HEADER + len);
    free(frame);
}

static void close_peer(peer_t *peer)
{
    close(peer->fd);
    peer->fd = -1;
    mcs_buf_fini(&peer->in);
}

/* ---- the fake's own answers ---- */

static void answer_hello(fake_master_t *master, peer_t *peer, const fake_request_t *request)
{
    Mcs__Wire__Hello *hello = mcs__wire__hello__unpack(NULL, request->header.length, request->payload);
    mcs_frame_header_t header = request->header;
    header.kind = MCS_FRAME_REPLY;
    mcs_id_t asked = {0, 0};
    if (hello != NULL && hello->session != NULL) {
        asked = (mcs_id_t){hello->session->hi, hello->session->lo};
    }
    Mcs__Wire__Id id = MCS__WIRE__ID__INIT;
    Mcs__Wire__HelloReply reply = MCS__WIRE__HELLO_REPLY__INIT;
    id.hi = master->session.hi;
    id.lo = master->session.lo;
    reply.epoch = master->epoch;
    reply.session = &id;
    reply.resumed = !mcs_id_is_none(asked);
    reply.heartbeat_ms = HEARTBEAT_MS;
    reply.session_ttl_ms = 10000;
    reply.lease_ttl_ms = 10000;
    bool known = mcs_id_is_none(asked) ? peer->control : mcs_id_equal(asked, master->session);
    header.status = known ? MCS_OK : MCS_ERR_SESSION_ENDED;
    send_frame(peer->fd, header, known ? &reply.base : NULL);
    if (hello != NULL) {
        mcs__wire__hello__free_unpacked(hello, NULL);
    }
}

static void answer_default(fake_master_t *master, peer_t *peer, const fake_request_t *request)
{
    mcs_frame_header_t header = request->header;
    header.kind = MCS_FRAME_REPLY;
    header.status = MCS_OK;
    if (request->header.verb == MCS_VERB_HELLO) {
        answer_hello(master, peer, request);
    } else if (request->header.verb == MCS_VERB_PING || request->header.verb == MCS_VERB_GOODBYE ||
               request->header.verb == MCS_VERB_RELEASED || request->header.verb == MCS_VERB_STRUCK ||
               request->header.verb == MCS_VERB_REVOKE_ACK) {
        send_frame(peer->fd, header, NULL);
    } else {
        header.status = MCS_ERR_NOT_SUPPORTED;
        send_frame(peer->fd, header, NULL);
    }
}

/* False: the connection is closed. */
static bool answer(fake_master_t *master, peer_t *peer, const fake_request_t *request)
{
    fake_answer_t reply = {.status = MCS_OK};
    if (request->header.verb == MCS_VERB_HELLO) {
        Mcs__Wire__Hello *hello = mcs__wire__hello__unpack(NULL, request->header.length, request->payload);
        peer->control = hello != NULL && hello->role == 1;
        if (hello != NULL) {
            mcs__wire__hello__free_unpacked(hello, NULL);
        }
    }
    mcs_buf_init(&reply.raw, (size_t)64 << 20);
    pthread_mutex_unlock(&master->lock); /* the script may call us */
    fake_action_t action = master->script != NULL ? master->script(master->arg, request, &reply) : FAKE_DEFAULT;
    pthread_mutex_lock(&master->lock);
    mcs_frame_header_t header = request->header;
    header.kind = MCS_FRAME_REPLY;
    header.status = reply.status;
    header.epoch = master->epoch;
    header.verb = (uint16_t)(header.verb + reply.verb_offset);
    header.id += (uint64_t)reply.verb_offset;
    if (action == FAKE_DEFAULT) {
        answer_default(master, peer, request);
    } else if (action == FAKE_REPLY || action == FAKE_REPLY_CLOSE) {
        send_frame(peer->fd, header, reply.message);
    } else if (action == FAKE_RAW) {
        send_all(peer->fd, reply.raw.bytes, reply.raw.len);
    }
    mcs_buf_fini(&reply.raw);
    return action != FAKE_CLOSE && action != FAKE_REPLY_CLOSE;
}

/* ---- the thread ---- */

static bool read_peer(fake_master_t *master, peer_t *peer)
{
    uint8_t *room = mcs_buf_extend(&peer->in, 65536);
    if (room == NULL) {
        return false;
    }
    ssize_t n = recv(peer->fd, room, 65536, MSG_DONTWAIT);
    peer->in.len -= 65536 - (size_t)(n > 0 ? n : 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        return false;
    }
    fake_request_t request = {.connection = peer->number};
    while (peer->in.len >= MCS_FRAME_HEADER) {
        if (mcs_frame_decode(peer->in.bytes, MCS_FRAME_MAX, &request.header) != MCS_OK) {
            return false;
        }
        size_t whole = MCS_FRAME_HEADER + (size_t)request.header.length;
        if (peer->in.len < whole) {
            break;
        }
        request.payload = peer->in.bytes + MCS_FRAME_HEADER;
        request.control = peer->control;
        if (!answer(master, peer, &request) || peer->fd < 0) {
            return false;
        }
        mcs_buf_consume(&peer->in, whole);
    }
    return true;
}

static void accept_peer(fake_master_t *master)
{
    int fd = accept4(master->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    for (size_t i = 0; fd >= 0 && i < CONNECTIONS; i++) {
        peer_t *peer = &master->peers[i];
        if (peer->fd < 0) {
            peer->fd = fd;
            peer->number = ++master->accepted;
            peer->control = false;
            mcs_buf_init(&peer->in, (size_t)64 << 20);
            return;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void *run(void *arg)
{
    fake_master_t *master = arg;
    pthread_mutex_lock(&master->lock);
    while (!master->stop) {
        struct pollfd fds[CONNECTIONS + 2] = {{.fd = master->listener, .events = POLLIN},
                                              {.fd = master->wake, .events = POLLIN}};
        for (size_t i = 0; i < CONNECTIONS; i++) {
            fds[i + 2] = (struct pollfd){.fd = master->peers[i].fd, .events = POLLIN};
        }
        pthread_mutex_unlock(&master->lock);
        poll(fds, CONNECTIONS + 2, -1);
        pthread_mutex_lock(&master->lock);
        uint64_t count;
        if (fds[1].revents != 0 && read(master->wake, &count, sizeof(count)) < 0) {
            break;
        }
        for (size_t i = 0; i < CONNECTIONS; i++) {
            peer_t *peer = &master->peers[i];
            bool ready = fds[i + 2].revents != 0 && fds[i + 2].fd == peer->fd && peer->fd >= 0;
            if (ready && !read_peer(master, peer) && peer->fd >= 0) {
                close_peer(peer);
            }
        }
        if (fds[0].revents != 0) {
            accept_peer(master);
        }
    }
    pthread_mutex_unlock(&master->lock);
    return NULL;
}

/* ---- life ---- */

fake_master_t *fake_master_start(fake_script_fn script, void *arg)
{
    fake_master_t *master = calloc(1, sizeof(*master));
    master->script = script;
    master->arg = arg;
    master->session = (mcs_id_t){0x5e55, 1};
    master->epoch = 7;
    snprintf(master->dir, sizeof(master->dir), "/tmp/mcs-fake-XXXXXX");
    if (mkdtemp(master->dir) == NULL) {
        abort();
    }
    snprintf(master->address, sizeof(master->address), "unix:%s/s", master->dir);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        master->peers[i].fd = -1;
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", master->dir);
    master->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    master->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&master->lock, NULL);
    if (bind(master->listener, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(master->listener, 64) != 0 || pthread_create(&master->thread, NULL, run, master) != 0) {
        abort();
    }
    return master;
}

static void wake(fake_master_t *master)
{
    uint64_t one = 1;
    if (write(master->wake, &one, sizeof(one)) < 0) {
        abort();
    }
}

void fake_master_stop(fake_master_t *master)
{
    pthread_mutex_lock(&master->lock);
    master->stop = true;
    pthread_mutex_unlock(&master->lock);
    wake(master);
    pthread_join(master->thread, NULL);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        if (master->peers[i].fd >= 0) {
            close_peer(&master->peers[i]);
        }
    }
    close(master->listener);
    close(master->wake);
    pthread_mutex_destroy(&master->lock);
    unlink(master->address + strlen("unix:"));
    rmdir(master->dir);
    free(master);
}

const char *fake_master_address(const fake_master_t *master)
{
    return master->address;
}

void fake_master_set_session(fake_master_t *master, mcs_id_t session, uint64_t epoch)
{
    pthread_mutex_lock(&master->lock);
    master->session = session;
    master->epoch = epoch;
    pthread_mutex_unlock(&master->lock);
}

void fake_master_drop_all(fake_master_t *master)
{
    pthread_mutex_lock(&master->lock);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        if (master->peers[i].fd >= 0) {
            shutdown(master->peers[i].fd, SHUT_RDWR); /* the thread sees the end and closes it */
        }
    }
    pthread_mutex_unlock(&master->lock);
    wake(master);
}

void fake_master_notice(fake_master_t *master, mcs_verb_t verb, const ProtobufCMessage *message)
{
    pthread_mutex_lock(&master->lock);
    for (size_t i = 0; i < CONNECTIONS; i++) {
        if (master->peers[i].fd >= 0 && master->peers[i].control) {
            mcs_frame_header_t header = {.kind = MCS_FRAME_NOTICE, .verb = (uint16_t)verb, .epoch = master->epoch};
            send_frame(master->peers[i].fd, header, message);
        }
    }
    pthread_mutex_unlock(&master->lock);
}

uint32_t fake_master_connections(fake_master_t *master)
{
    pthread_mutex_lock(&master->lock);
    uint32_t accepted = master->accepted;
    pthread_mutex_unlock(&master->lock);
    return accepted;
}
