/* Rule 10 at the owner's socket: whatever a process of our user sends there, the others are served, and nothing is left
 * open. */
#include "tests/support/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "core/segment/ipc.h"
#include "tests/unit/same_host/rig.h"

static rig_t g_rig;

static int setup(void **state)
{
    (void)state;
    rig_start(&g_rig, 16 * MCS_MIB, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_stop(&g_rig);
    return 0;
}

static int dial(int type)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", g_rig.self.ipc_path);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The owner hangs up within patience, whatever it says before. */
static bool hangs_up(int fd)
{
    char bytes[256];
    for (;;) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        if (poll(&pfd, 1, RIG_PATIENCE_MS) <= 0) {
            return false;
        }
        ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET)) {
            return true;
        }
    }
}

static mcs_ipc_request_t hello(void)
{
    return (mcs_ipc_request_t){
        .magic = MCS_IPC_MAGIC, .version = MCS_IPC_VERSION, .op = MCS_IPC_HELLO, .client = {1, 2}, .session = {3, 4}};
}

static void say(int fd, const mcs_ipc_request_t *request)
{
    assert_int_equal(send(fd, request, sizeof(*request), MSG_NOSIGNAL), sizeof(*request));
}

static mcs_status_t ask(int fd, const mcs_ipc_request_t *request)
{
    mcs_ipc_answer_t answer;
    say(fd, request);
    assert_int_equal(recv(fd, &answer, sizeof(answer), 0), sizeof(answer));
    return answer.status;
}

/* The whole of a connection that the owner ends. */
static void assert_hung_up_on(const void *bytes, size_t len)
{
    int fd = dial(SOCK_SEQPACKET);
    assert_true(fd >= 0);
    assert_int_equal(send(fd, bytes, len, MSG_NOSIGNAL), len);
    assert_true(hangs_up(fd));
    close(fd);
}

/* Room for descriptors beside a message: eight at most. */
typedef struct fds_control {
    _Alignas(struct cmsghdr) char bytes[CMSG_SPACE(sizeof(int) * 8)];
} fds_control_t;

static void add_fds(struct msghdr *msg, fds_control_t *control, const int *fds, size_t count)
{
    memset(control, 0, sizeof(*control));
    msg->msg_control = control->bytes;
    msg->msg_controllen = CMSG_SPACE(sizeof(int) * count);
    struct cmsghdr *head = CMSG_FIRSTHDR(msg);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(head), fds, sizeof(int) * count);
}

/* Somebody decent comes through. */
static void assert_serves(void)
{
    mcs_mapper_t *mapper;
    mcs_mapping_t *mapping;
    mcs_mapper_config_t config = {.client = mcs_id_random()};
    assert_int_equal(mcs_mapper_create(&config, &mapper), MCS_OK);
    mcs_mapper_set_session(mapper, mcs_id_random());
    assert_int_equal(mcs_mapper_get(mapper, &g_rig.self, mcs_deadline_after_ms(RIG_PATIENCE_MS), &mapping), MCS_OK);
    assert_int_equal(rig_write(mapping, 0, 5, 4096, 50), MCS_OK);
    rig_release(&g_rig, 0, 5, 4096, 0, (mcs_id_t){1, 1});
    assert_true(rig_wait_released(&g_rig, 5));
    mcs_mapping_put(mapping);
    mcs_mapper_destroy(mapper);
}

static void wrong_messages_end_their_connection(void **state)
{
    (void)state;
    mcs_ipc_request_t wrong[6];
    for (size_t i = 0; i < MCS_ARRAY_LEN(wrong); i++) {
        wrong[i] = hello();
    }
    wrong[0].magic ^= 1;
    wrong[1].version++;
    wrong[2].op = 0;
    wrong[3].op = 3;
    wrong[4].op = MCS_IPC_MAP; /* before a hello */
    wrong[5].session = (mcs_id_t){0, 0};
    for (size_t i = 0; i < MCS_ARRAY_LEN(wrong); i++) {
        assert_hung_up_on(&wrong[i], sizeof(wrong[i]));
    }
    assert_serves();
}

static void wrong_sizes_end_their_connection(void **state)
{
    (void)state;
    static char bytes[65536];
    static const size_t sizes[] = {1, 63, 65, 128, 4096, sizeof(bytes)};
    mcs_ipc_request_t good = hello();
    for (size_t i = 0; i < MCS_ARRAY_LEN(sizes); i++) {
        memset(bytes, 0xa5, sizeof(bytes));
        memcpy(bytes, &good, MCS_MIN(sizes[i], sizeof(good)));
        assert_hung_up_on(bytes, sizes[i]);
    }
    assert_serves();
}

static void a_second_hello_ends_the_connection(void **state)
{
    (void)state;
    mcs_ipc_request_t good = hello();
    int fd = dial(SOCK_SEQPACKET);
    assert_int_equal(ask(fd, &good), MCS_OK);
    say(fd, &good);
    assert_true(hangs_up(fd));
    close(fd);
    assert_serves();
}

static void an_unknown_segment_is_refused_and_the_connection_goes_on(void **state)
{
    (void)state;
    mcs_ipc_request_t request = hello();
    int fd = dial(SOCK_SEQPACKET);
    assert_int_equal(ask(fd, &request), MCS_OK);
    request.op = MCS_IPC_MAP;
    request.instance = (mcs_id_t){9, 9};
    assert_int_equal(ask(fd, &request), MCS_ERR_SEGMENT_NOT_FOUND);
    request.instance = g_rig.self.instance;
    assert_int_equal(ask(fd, &request), MCS_OK);
    close(fd);
}

/* Asks and never reads the answers: the socket fills up, and it loses its connection instead of stopping the owner. */
static void who_does_not_read_stops_nobody(void **state)
{
    (void)state;
    mcs_ipc_request_t request = hello();
    int fd = dial(SOCK_SEQPACKET);
    say(fd, &request);
    request.op = MCS_IPC_MAP;
    request.instance = g_rig.self.instance;
    ssize_t n;
    do {
        n = send(fd, &request, sizeof(request), MSG_NOSIGNAL);
    } while (n == (ssize_t)sizeof(request));
    assert_int_equal(n, -1); /* EPIPE: it was hung up on */
    close(fd);
    assert_serves();
}

static bool descriptors_are(void *arg)
{
    return rig_open_fds() == *(const int *)arg;
}

static void descriptors_that_are_sent_are_not_kept(void **state)
{
    (void)state;
    int before = rig_open_fds();
    mcs_ipc_request_t request = hello();
    for (int i = 0; i < 100; i++) {
        int fd = dial(SOCK_SEQPACKET);
        int fds[8] = {fd, fd, fd, fd, fd, fd, fd, fd};
        fds_control_t control;
        struct iovec iov = {&request, sizeof(request)};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        add_fds(&msg, &control, fds, MCS_ARRAY_LEN(fds));
        assert_int_equal(sendmsg(fd, &msg, MSG_NOSIGNAL), sizeof(request));
        mcs_ipc_answer_t answer;
        assert_int_equal(recv(fd, &answer, sizeof(answer), 0), sizeof(answer)); /* and its two go as well */
        close(fd);
    }
    assert_true(rig_wait(descriptors_are, &before));
}

/* More than the owner takes at once, none of which says a word. */
static void silent_peers_do_not_keep_others_out(void **state)
{
    (void)state;
    int fds[700];
    size_t count = 0;
    for (size_t i = 0; i < MCS_ARRAY_LEN(fds); i++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", g_rig.self.ipc_path);
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
            close(fd);
            break; /* the backlog is full as well */
        }
        fds[count++] = fd;
    }
    assert_true(count > 100);
    assert_true(hangs_up(fds[0]));
    mcs_mapper_t *mapper;
    mcs_mapping_t *mapping = NULL;
    mcs_mapper_config_t config = {.client = mcs_id_random()};
    assert_int_equal(mcs_mapper_create(&config, &mapper), MCS_OK);
    uint64_t deadline_ns = mcs_deadline_after_ms(RIG_PATIENCE_MS);
    do {
        mcs_mapper_set_session(mapper, mcs_id_random()); /* forgets the failure */
    } while (mcs_mapper_get(mapper, &g_rig.self, mcs_deadline_after_ms(1000), &mapping) != MCS_OK &&
             !mcs_deadline_passed(deadline_ns));
    assert_non_null(mapping);
    mcs_mapping_put(mapping);
    mcs_mapper_destroy(mapper);
    for (size_t i = 0; i < count; i++) {
        close(fds[i]);
    }
}

static void other_kinds_of_sockets_do_not_connect(void **state)
{
    (void)state;
    assert_int_equal(dial(SOCK_STREAM), -1);
    assert_int_equal(dial(SOCK_DGRAM), -1);
    assert_serves();
}

static void nobody_else_may_use_the_folder_or_the_socket(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(stat(g_rig.self.ipc_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    char folder[64] = "/tmp/mcs-same-host-XXXXXX";
    assert_non_null(mkdtemp(folder));
    mcs_owner_config_t config = {.client = {1, 1}, .ipc_dir = folder};
    mcs_owner_t *owner;
    unit_log_t log;
    unit_log_capture(&log);
    assert_int_equal(chmod(folder, 0777), 0);
    assert_int_equal(mcs_owner_create(&config, &owner), MCS_OK);
    assert_string_equal(mcs_owner_ipc_path(owner), ""); /* it goes on without a same-host path */
    mcs_owner_destroy(owner);
    assert_int_equal(chmod(folder, 0700), 0);
    assert_int_equal(mcs_owner_create(&config, &owner), MCS_OK);
    assert_string_not_equal(mcs_owner_ipc_path(owner), "");
    mcs_owner_destroy(owner);
    unit_log_release();
    assert_int_equal(rmdir(folder), 0); /* nothing is left in it */
}

static void sockets_of_killed_owners_are_removed(void **state)
{
    (void)state;
    char stale[108];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(stale, sizeof(stale), "%s/o-00000000000000010000000000000002", g_rig.folder);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", stale);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    assert_int_equal(access(stale, F_OK), 0);
    static rig_t second;
    rig_start(&second, MCS_MIB, g_rig.folder);
    assert_int_equal(access(stale, F_OK), -1);
    assert_int_equal(access(g_rig.self.ipc_path, F_OK), 0); /* that of a living one stays */
    rig_stop(&second);
    assert_serves();
}

/* An owner that is not one: answers of every wrong kind. */
static void a_mapper_refuses_what_is_no_owner(void **state)
{
    (void)state;
    char path[108];
    snprintf(path, sizeof(path), "%s/fake", g_rig.folder);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listener, 16), 0);
    int before = rig_open_fds();
    for (int kind = 0; kind < 6; kind++) {
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            mcs_ipc_request_t request;
            int fd = accept(listener, NULL, NULL);
            (void)!recv(fd, &request, sizeof(request), 0);
            mcs_ipc_answer_t answer = {
                .magic = MCS_IPC_MAGIC, .version = MCS_IPC_VERSION, .owner = g_rig.client, .size = UINT64_MAX};
            answer.magic ^= kind == 1;
            answer.status = kind == 2 ? MCS_ERR_LIMIT : MCS_OK;
            size_t len = kind == 3 ? 7 : sizeof(answer);
            fds_control_t control;
            struct iovec iov = {&answer, len};
            struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
            if (kind >= 4) { /* descriptors that are no sealed memory */
                int fds[2] = {open("/dev/zero", O_RDWR), open("/dev/null", O_RDWR)};
                add_fds(&msg, &control, fds, MCS_ARRAY_LEN(fds));
            }
            if (kind != 5) {
                (void)!sendmsg(fd, &msg, MSG_NOSIGNAL);
            }
            _exit(0);
        }
        mcs_mapper_t *mapper;
        mcs_mapping_t *mapping;
        mcs_mapper_config_t config = {.client = mcs_id_random()};
        assert_int_equal(mcs_mapper_create(&config, &mapper), MCS_OK);
        mcs_mapper_set_session(mapper, mcs_id_random());
        mcs_mapper_peer_t peer = g_rig.self;
        peer.ipc_path = path;
        assert_int_equal(mcs_mapper_get(mapper, &peer, mcs_deadline_after_ms(RIG_PATIENCE_MS), &mapping),
                         MCS_ERR_TRANSFER_FAIL);
        mcs_mapper_destroy(mapper);
        assert_int_equal(waitpid(child, NULL, 0), child);
    }
    assert_int_equal(rig_open_fds(), before);
    close(listener);
    unlink(path);
}

/* Every allocation and every wrapped system call of a connection fails once: a status, and nothing is left. */
static mcs_status_t map_once(void *arg)
{
    mcs_mapper_t *mapper = NULL;
    mcs_mapping_t *mapping = NULL;
    mcs_mapper_config_t config = {.client = mcs_id_random()};
    (void)arg;
    mcs_status_t status = mcs_mapper_create(&config, &mapper);
    if (status != MCS_OK) {
        return status;
    }
    mcs_mapper_set_session(mapper, mcs_id_random());
    status = mcs_mapper_get(mapper, &g_rig.self, mcs_deadline_after_ms(RIG_PATIENCE_MS), &mapping);
    mcs_pin_t pin;
    if (status == MCS_OK) {
        status = mcs_pin_write(mapping, 8 * MCS_MIB, 50, 4096, rig_key(50), &pin);
    }
    if (status == MCS_OK) {
        mcs_unpin(&pin);
    }
    mcs_mapping_put(mapping);
    mcs_mapper_destroy(mapper);
    return status;
}

static bool mappers_are_gone(void *arg)
{
    mcs_owner_stats_t stats;
    mcs_owner_stats(((rig_t *)arg)->owner, &stats);
    return stats.mappers == 0;
}

static void failures_while_connecting_leave_nothing(void **state)
{
    (void)state;
    int before = rig_open_fds();
    /* Not a sink: the threads of the rig, which meet some of the failures, log as well. */
    mcs_log_set_level(MCS_LOG_OFF);
    assert_true(unit_torture(MCS_FAULT_ALLOC, map_once, NULL) > 3);
    assert_true(unit_torture(MCS_FAULT_SYSCALL, map_once, NULL) > 3);
    mcs_log_set_level(MCS_LOG_WARN);
    assert_true(rig_wait(mappers_are_gone, &g_rig));
    assert_true(rig_wait(descriptors_are, &before));
    assert_serves();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(wrong_messages_end_their_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_sizes_end_their_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(a_second_hello_ends_the_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unknown_segment_is_refused_and_the_connection_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(who_does_not_read_stops_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(descriptors_that_are_sent_are_not_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(silent_peers_do_not_keep_others_out, setup, teardown),
        cmocka_unit_test_setup_teardown(other_kinds_of_sockets_do_not_connect, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_else_may_use_the_folder_or_the_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(sockets_of_killed_owners_are_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(a_mapper_refuses_what_is_no_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(failures_while_connecting_leave_nothing, setup, teardown),
    };
    return cmocka_run_group_tests_name("same_host_hostile", tests, NULL, NULL);
}
