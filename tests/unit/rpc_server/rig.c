/* See rig.h. */
#include "tests/unit/rpc_server/rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static mcs_status_t reply(mcs_rpc_conn_t *conn, const mcs_frame_header_t *request, const void *payload, size_t len)
{
    mcs_frame_header_t header = {.kind = MCS_FRAME_REPLY, .verb = request->verb, .id = request->id, .epoch = 1};
    mcs_status_t status = mcs_rpc_conn_send(conn, &header, payload, len);
    return status == MCS_ERR_LIMIT || status == MCS_ERR_CLOSED || status == MCS_ERR_NO_MEMORY ? MCS_OK : status;
}

static mcs_status_t reply_big(mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, const uint8_t *payload)
{
    uint32_t size = header->length >= 4 ? mcs_load_u32(payload) : 0;
    uint8_t *bytes = malloc(size + 1);
    assert_non_null(bytes);
    memset(bytes, (int)(header->id & 0xff), size);
    mcs_status_t status = reply(conn, header, bytes, size);
    free(bytes);
    return status;
}

static uint64_t real_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * MCS_NS_PER_SEC + (uint64_t)now.tv_nsec;
}

static mcs_status_t on_frame(void *arg, mcs_rpc_conn_t *conn, const mcs_frame_header_t *header, const uint8_t *payload)
{
    rig_t *rig = arg;
    __atomic_fetch_add(&rig->frames, 1, __ATOMIC_SEQ_CST);
    switch (header->verb) {
    case RIG_HELLO: mcs_rpc_conn_set_greeted(conn); return reply(conn, header, payload, header->length);
    case RIG_SILENT: return MCS_OK;
    case RIG_REFUSE: reply(conn, header, "no", 2); return MCS_ERR_ILLEGAL_CLIENT;
    case RIG_BIG: return reply_big(conn, header, payload);
    case RIG_KEEP:
        mcs_rpc_conn_get(conn);
        __atomic_store_n(&rig->kept, conn, __ATOMIC_SEQ_CST);
        return MCS_OK;
    case RIG_PARK: mcs_rpc_conn_parked_add(conn, 1); return MCS_OK;
    case RIG_CLOSE: {
        mcs_status_t status = reply(conn, header, payload, header->length);
        mcs_rpc_conn_close(conn);
        return status;
    }
    case RIG_WAIT:
    case RIG_WAIT_AGAIN:
        __atomic_fetch_add(&rig->waiting, 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&rig->gate, __ATOMIC_SEQ_CST) < (header->verb == RIG_WAIT ? 1u : 2u)) {
            sched_yield();
        }
        return reply(conn, header, payload, header->length);
    case RIG_WORK:
        for (uint64_t end_ns = real_ns() + MCS_NS_PER_MS; real_ns() < end_ns;) {
        }
        return reply(conn, header, payload, header->length);
    default: return reply(conn, header, payload, header->length);
    }
}

static void on_closed(void *arg, mcs_rpc_conn_t *conn)
{
    rig_t *rig = arg;
    (void)conn;
    __atomic_fetch_add(&rig->closed, 1, __ATOMIC_SEQ_CST);
}

static void on_thread_end(void *arg)
{
    rig_t *rig = arg;
    __atomic_fetch_add(&rig->ended_threads, 1, __ATOMIC_SEQ_CST);
}

mcs_status_t rig_create(rig_t *rig, const rig_options_t *options)
{
    memset(rig, 0, sizeof(*rig));
    snprintf(rig->folder, sizeof(rig->folder), "/tmp/mcs-rpc-XXXXXX");
    assert_non_null(mkdtemp(rig->folder));
    mcs_rpc_config_t config = {
        .address = "127.0.0.1",
        .interface = "",
        .tcp = true,
        .tcp_nodelay = true,
        .ipc_dir = rig->folder,
        .threads = options->threads > 0 ? options->threads : 2,
        .max_connections = options->max_connections > 0 ? options->max_connections : 1000,
        .idle_timeout_ns = options->idle_timeout_ns,
        .metrics = &rig->metrics,
        .ops = {on_frame, on_closed, on_thread_end, rig},
    };
    mcs_status_t status = mcs_rpc_server_create(&config, &rig->server);
    if (status != MCS_OK) {
        rig_remove_folder(rig);
    }
    return status;
}

void rig_start(rig_t *rig, const rig_options_t *options)
{
    mcs_log_set_level(MCS_LOG_ERROR); /* breaches are made on purpose here, and logged as warnings */
    assert_int_equal(rig_create(rig, options), MCS_OK);
    assert_int_equal(mcs_rpc_server_start(rig->server), MCS_OK);
}

/* Only what the server left there would keep the folder: rmdir tells. */
void rig_remove_folder(rig_t *rig)
{
    assert_int_equal(rmdir(rig->folder), 0);
}

void rig_stop(rig_t *rig)
{
    __atomic_store_n(&rig->gate, UINT32_MAX, __ATOMIC_SEQ_CST);
    mcs_rpc_server_stop(rig->server);
    assert_int_equal(mcs_rpc_server_connections(rig->server), 0);
    assert_int_equal(rig->closed, mcs_metric_get(&rig->metrics, rpc_connections)); /* once for each */
    mcs_rpc_conn_put(rig->kept);
    mcs_rpc_server_destroy(rig->server);
    rig_remove_folder(rig);
    mcs_log_set_level(MCS_LOG_WARN);
}

/* ---- the raw client ---- */

static int patient(int fd)
{
    const struct timeval limit = {.tv_sec = 30};
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)), 0);
    return fd;
}

int rig_socket(void)
{
    return patient(socket(AF_INET, SOCK_STREAM, 0));
}

void rig_connect(const rig_t *rig, int fd)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(mcs_rpc_server_port(rig->server)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
}

int rig_tcp(const rig_t *rig)
{
    int fd = rig_socket();
    rig_connect(rig, fd);
    return fd;
}

int rig_unix(const rig_t *rig)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = patient(socket(AF_UNIX, SOCK_STREAM, 0));
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", mcs_rpc_server_unix_path(rig->server));
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

int rig_greeted(const rig_t *rig)
{
    int fd = rig_unix(rig);
    rig_hello(fd);
    return fd;
}

void rig_send_bytes(int fd, const void *bytes, size_t len)
{
    const char *p = bytes;
    while (len > 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return; /* closed by the server: the receiving side of the test sees it */
        }
        p += n;
        len -= (size_t)n;
    }
}

void rig_send(int fd, unsigned verb, uint64_t id, const void *payload, size_t len)
{
    uint8_t head[MCS_FRAME_HEADER];
    mcs_frame_header_t header = {.kind = MCS_FRAME_REQUEST, .verb = (uint16_t)verb, .length = (uint32_t)len, .id = id};
    mcs_frame_encode(&header, head);
    rig_send_bytes(fd, head, sizeof(head));
    rig_send_bytes(fd, payload, len);
}

static bool receive_bytes(int fd, void *bytes, size_t len)
{
    char *p = bytes;
    while (len > 0) {
        ssize_t n = recv(fd, p, len, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        assert_false(n < 0 && errno == EAGAIN); /* nothing for 30 s */
        if (n <= 0) {
            return false;
        }
        p += n;
        len -= (size_t)n;
    }
    return true;
}

bool rig_receive(int fd, mcs_frame_header_t *header, void *payload, size_t size)
{
    uint8_t head[MCS_FRAME_HEADER];
    if (!receive_bytes(fd, head, sizeof(head))) {
        return false;
    }
    assert_int_equal(mcs_frame_decode(head, MCS_FRAME_MAX, header), MCS_OK);
    if (!receive_bytes(fd, payload, MCS_MIN((size_t)header->length, size))) {
        return false;
    }
    for (size_t left = header->length - MCS_MIN((size_t)header->length, size); left > 0;) {
        char sink[4096];
        size_t part = MCS_MIN(left, sizeof(sink));
        if (!receive_bytes(fd, sink, part)) {
            return false;
        }
        left -= part;
    }
    return true;
}

void rig_expect_closed(int fd)
{
    char byte;
    assert_false(receive_bytes(fd, &byte, 1));
    close(fd);
}

void rig_hello(int fd)
{
    rig_send(fd, RIG_HELLO, 1, "hi", 2);
    rig_expect_echo(fd, 1, "hi", 2);
}

void rig_expect_echo(int fd, uint64_t id, const void *payload, size_t len)
{
    mcs_frame_header_t header;
    uint8_t *got = malloc(len + 1);
    assert_non_null(got);
    assert_true(rig_receive(fd, &header, got, len));
    assert_int_equal(header.kind, MCS_FRAME_REPLY);
    assert_int_equal(header.id, id);
    assert_int_equal(header.length, len);
    if (len > 0) {
        assert_memory_equal(got, payload, len);
    }
    free(got);
}

uint64_t rig_frames(const rig_t *rig)
{
    return __atomic_load_n(&rig->frames, __ATOMIC_SEQ_CST);
}

mcs_rpc_conn_t *rig_kept(const rig_t *rig)
{
    mcs_rpc_conn_t *conn;
    while ((conn = __atomic_load_n(&rig->kept, __ATOMIC_SEQ_CST)) == NULL) {
        sched_yield(); /* the frame is counted before it is handled */
    }
    return conn;
}

bool rig_wait(const uint64_t *counter, uint64_t value)
{
    uint64_t tries = 0;
    struct timespec began;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &began); /* the real clock: a test may have replaced the other */
    while (__atomic_load_n(counter, __ATOMIC_SEQ_CST) < value) {
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (++tries % 1000 == 0 && now.tv_sec - began.tv_sec > 30) {
            return false;
        }
    }
    return true;
}

bool rig_wait_connections(const rig_t *rig, uint32_t count)
{
    struct timespec began;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    do {
        if (mcs_rpc_server_connections(rig->server) == count) {
            return true;
        }
        sched_yield();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - began.tv_sec < 30);
    return false;
}
