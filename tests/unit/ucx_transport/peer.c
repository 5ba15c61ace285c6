/* See peer.h. The same file is the child's program (compiled with PEER_MAIN) and the tests' side of it. */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void read_all(int fd, void *bytes, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = read(fd, (char *)bytes + at, len - at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        assert_true(n > 0);
        at += (size_t)n;
    }
}

static void write_all(int fd, const void *bytes, size_t len)
{
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
}

#ifdef PEER_MAIN

static side_t g_side;

static void wait_for_end(void)
{
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0) {
    }
}

static bool ended(void)
{
    struct pollfd pfd = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&pfd, 1, 0) > 0;
}

/* A child that outlives this process by as long as its standard input stays open. */
static void fork_a_child(void)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(STDOUT_FILENO);
        wait_for_end();
        _exit(0);
    }
}

/* With `forks`, a line on the standard input makes it fork. */
static void be_owner(uint64_t payload_len, uint64_t seed, bool forks)
{
    side_open(&g_side, 1, NULL);
    fake_owner_fill(&g_side.owner, 0, payload_len, seed);
    write_all(STDOUT_FILENO, &g_side.id, sizeof(g_side.id));
    write_all(STDOUT_FILENO, &g_side.info, sizeof(g_side.info));
    if (forks) {
        char byte;
        read_all(STDIN_FILENO, &byte, 1);
        fork_a_child();
        write_all(STDOUT_FILENO, "x", 1);
    }
    wait_for_end();
    side_close(&g_side);
}

static void be_caller(uint64_t payload_len, mcs_direction_t direction)
{
    side_t owner;
    read_all(STDIN_FILENO, &owner.id, sizeof(owner.id));
    read_all(STDIN_FILENO, &owner.info, sizeof(owner.info));
    side_open(&g_side, 1, NULL);
    fill_pattern(g_side.owner.memory, payload_len, 5);
    while (!ended()) {
        batch_t batch;
        batch_init(&batch, &owner, direction, (uint32_t)(payload_len / MCS_RANGE_MAX) + 1, 64);
        batch_add_object(&batch, 0, payload_len, g_side.owner.memory, 0);
        if (batch_run(&g_side, &batch, 30000) == MCS_OK && batch.ranges[0].status == MCS_OK) {
            write_all(STDOUT_FILENO, "x", 1);
        }
        batch_fini(&batch);
    }
    side_close(&g_side);
}

int main(int argc, char **argv)
{
    assert_true(argc == 4);
    uint64_t payload_len = strtoull(argv[2], NULL, 10);
    uint64_t seed = strtoull(argv[3], NULL, 10);
    rig_install_log();
    if (strcmp(argv[1], "owner") == 0 || strcmp(argv[1], "forker") == 0) {
        be_owner(payload_len, seed, argv[1][0] == 'f');
    } else {
        be_caller(payload_len, strcmp(argv[1], "reader") == 0 ? MCS_FETCH : MCS_STORE);
    }
    return 0;
}

#else

static void start(peer_process_t *peer, const char *role, uint64_t payload_len, uint64_t seed)
{
    int to[2];
    int from[2];
    assert_int_equal(pipe2(to, O_CLOEXEC), 0);
    assert_int_equal(pipe2(from, O_CLOEXEC), 0);
    char len_text[24];
    char seed_text[24];
    snprintf(len_text, sizeof(len_text), "%llu", (unsigned long long)payload_len);
    snprintf(seed_text, sizeof(seed_text), "%llu", (unsigned long long)seed);
    char program[] = PEER_PROGRAM;
    char role_text[16];
    snprintf(role_text, sizeof(role_text), "%s", role);
    char *argv[] = {program, role_text, len_text, seed_text, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, from[1], STDOUT_FILENO);
    /* UCX's descriptors are not close-on-exec: a child that had them would keep connections of the test open. */
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    assert_int_equal(posix_spawn(&peer->pid, program, &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(to[0]);
    close(from[1]);
    peer->to = to[1];
    peer->from = from[0];
}

static void start_owner(peer_process_t *peer, const char *role, uint64_t payload_len, uint64_t seed, side_t *side_out)
{
    memset(side_out, 0, sizeof(*side_out));
    start(peer, role, payload_len, seed);
    read_all(peer->from, &side_out->id, sizeof(side_out->id));
    read_all(peer->from, &side_out->info, sizeof(side_out->info));
}

void peer_start_owner(peer_process_t *peer, uint64_t payload_len, uint64_t seed, side_t *side_out)
{
    start_owner(peer, "owner", payload_len, seed, side_out);
}

void peer_start_forker(peer_process_t *peer, uint64_t payload_len, uint64_t seed, side_t *side_out)
{
    start_owner(peer, "forker", payload_len, seed, side_out);
}

void peer_fork(peer_process_t *peer)
{
    write_all(peer->to, "f", 1);
    peer_await(peer);
}

static void start_caller(peer_process_t *peer, const char *role, const side_t *owner, uint64_t payload_len)
{
    start(peer, role, payload_len, 0);
    write_all(peer->to, &owner->id, sizeof(owner->id));
    write_all(peer->to, &owner->info, sizeof(owner->info));
}

void peer_start_reader(peer_process_t *peer, const side_t *owner, uint64_t payload_len)
{
    start_caller(peer, "reader", owner, payload_len);
}

void peer_start_writer(peer_process_t *peer, const side_t *owner, uint64_t payload_len)
{
    start_caller(peer, "writer", owner, payload_len);
}

void peer_await(peer_process_t *peer)
{
    char byte;
    read_all(peer->from, &byte, 1);
}

void peer_signal(peer_process_t *peer, int signal_number)
{
    assert_int_equal(kill(peer->pid, signal_number), 0);
}

void peer_stop(peer_process_t *peer)
{
    int status;
    peer_signal(peer, SIGSTOP);
    assert_int_equal(waitpid(peer->pid, &status, WUNTRACED), peer->pid);
    assert_true(WIFSTOPPED(status));
}

void peer_end(peer_process_t *peer, bool kill_it)
{
    int status;
    if (kill_it) {
        peer_signal(peer, SIGKILL);
    }
    close(peer->to);
    char drop[4096];
    while (read(peer->from, drop, sizeof(drop)) > 0) {
    }
    close(peer->from);
    assert_int_equal(waitpid(peer->pid, &status, 0), peer->pid);
    assert_true(kill_it ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#endif
