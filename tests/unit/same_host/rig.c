/* See rig.h. */
#include "tests/unit/same_host/rig.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, strerror(errno));                      \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static void on_released(void *arg, const uint64_t *generations, uint32_t count)
{
    rig_t *rig = arg;
    mcs_mutex_lock(&rig->lock);
    for (uint32_t i = 0; i < count; i++) {
        CHECK(rig->released_count < RIG_RELEASED_MAX);
        rig->released[rig->released_count++] = generations[i];
    }
    mcs_cond_broadcast(&rig->changed);
    mcs_mutex_unlock(&rig->lock);
}

void rig_start(rig_t *rig, uint64_t segment_size, const char *folder)
{
    memset(rig, 0, sizeof(*rig));
    if (folder != NULL) {
        snprintf(rig->folder, sizeof(rig->folder), "%s", folder);
    } else {
        snprintf(rig->folder, sizeof(rig->folder), "/tmp/mcs-same-host-XXXXXX");
        CHECK(mkdtemp(rig->folder) != NULL);
    }
    rig->client = mcs_id_random();
    rig->session = mcs_id_random();
    mcs_mutex_init(&rig->lock, MCS_RANK_LEAF, "rig");
    mcs_cond_init(&rig->changed);
    mcs_owner_config_t owner = {
        .client = rig->client, .ipc_dir = rig->folder, .released = on_released, .released_arg = rig};
    CHECK(mcs_owner_create(&owner, &rig->owner) == MCS_OK);
    mcs_mapper_config_t mapper = {.client = rig->client, .owner = rig->owner};
    CHECK(mcs_mapper_create(&mapper, &rig->mapper) == MCS_OK);
    mcs_mapper_set_session(rig->mapper, rig->session);
    CHECK(mcs_faulter_create(&rig->faulter) == MCS_OK);
    mcs_segment_config_t config = {.size = segment_size, .fault_window = 1 * MCS_MIB, .numa_node = -1};
    CHECK(mcs_segment_create(&config, rig->faulter, &rig->segment) == MCS_OK);
    CHECK(mcs_owner_add_segment(rig->owner, rig->segment) == MCS_OK);
    CHECK(mcs_mapper_add_own(rig->mapper, rig->segment) == MCS_OK);
    rig->self = (mcs_mapper_peer_t){.owner = rig->client,
                                    .instance = mcs_segment_instance(rig->segment),
                                    .size = mcs_segment_size(rig->segment),
                                    .ipc_path = mcs_owner_ipc_path(rig->owner)};
    CHECK(mcs_mapper_get(rig->mapper, &rig->self, mcs_deadline_after_ms(1000), &rig->own) == MCS_OK);
}

void rig_stop(rig_t *rig)
{
    mcs_mapping_put(rig->own);
    mcs_mapper_remove_own(rig->mapper, rig->self.instance);
    mcs_owner_remove_segment(rig->owner, rig->self.instance);
    mcs_mapper_destroy(rig->mapper);
    mcs_owner_destroy(rig->owner);
    mcs_segment_put(rig->segment);
    mcs_faulter_destroy(rig->faulter);
    mcs_cond_fini(&rig->changed);
    mcs_mutex_fini(&rig->lock);
    rmdir(rig->folder);
}

static bool is_released_locked(const rig_t *rig, uint64_t generation)
{
    for (uint32_t i = 0; i < rig->released_count; i++) {
        if (rig->released[i] == generation) {
            return true;
        }
    }
    return false;
}

bool rig_is_released(rig_t *rig, uint64_t generation)
{
    mcs_mutex_lock(&rig->lock);
    bool released = is_released_locked(rig, generation);
    mcs_mutex_unlock(&rig->lock);
    return released;
}

bool rig_wait_released(rig_t *rig, uint64_t generation)
{
    uint64_t deadline_ns = mcs_deadline_after_ms(RIG_PATIENCE_MS);
    mcs_mutex_lock(&rig->lock);
    while (!is_released_locked(rig, generation) && mcs_cond_wait_until(&rig->changed, &rig->lock, deadline_ns)) {
    }
    bool released = is_released_locked(rig, generation);
    mcs_mutex_unlock(&rig->lock);
    return released;
}

void rig_release(rig_t *rig, uint64_t offset, uint64_t generation, uint64_t len, unsigned flags, mcs_id_t session)
{
    mcs_col_release_t record = {.instance_hi = rig->self.instance.hi,
                                .instance_lo = rig->self.instance.lo,
                                .session_hi = session.hi,
                                .session_lo = session.lo,
                                .offset = offset,
                                .generation = generation,
                                .payload_len = len,
                                .flags = flags};
    mcs_owner_release(rig->owner, &record, 1);
}

uint64_t rig_pending(rig_t *rig)
{
    mcs_owner_stats_t stats;
    mcs_owner_stats(rig->owner, &stats);
    return stats.pending_releases;
}

bool rig_wait(bool (*condition)(void *arg), void *arg)
{
    uint64_t deadline_ns = mcs_deadline_after_ms(RIG_PATIENCE_MS);
    while (!condition(arg)) {
        if (mcs_deadline_passed(deadline_ns)) {
            return condition(arg);
        }
        poll(NULL, 0, 1);
    }
    return true;
}

mcs_hash128_t rig_key(uint64_t generation)
{
    return mcs_extent_key_hash(&generation, sizeof(generation));
}

static uint64_t pattern(uint64_t seed, uint64_t i)
{
    return (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) + i;
}

void rig_fill(void *payload, uint64_t len, uint64_t seed)
{
    uint64_t *words = payload;
    for (uint64_t i = 0; i < len / sizeof(*words); i++) {
        words[i] = pattern(seed, i);
    }
}

bool rig_is_filled(const void *payload, uint64_t len, uint64_t seed)
{
    const uint64_t *words = payload;
    for (uint64_t i = 0; i < len / sizeof(*words); i++) {
        if (words[i] != pattern(seed, i)) {
            return false;
        }
    }
    return true;
}

mcs_status_t rig_write(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t len, uint64_t seed)
{
    mcs_pin_t pin;
    mcs_status_t status = mcs_pin_write(mapping, offset, generation, len, rig_key(generation), &pin);
    if (status != MCS_OK) {
        return status;
    }
    rig_fill(pin.payload, len, seed);
    status = mcs_pin_seal(&pin);
    mcs_unpin(&pin);
    return status;
}

/* ---- peers ---- */

void peer_start(peer_t *peer, const char *program, int keep_fd)
{
    int to[2], from[2];
    CHECK(pipe(to) == 0 && pipe(from) == 0);
    char keep[16];
    snprintf(keep, sizeof(keep), "%d", keep_fd);
    fflush(NULL);
    peer->pid = fork();
    CHECK(peer->pid >= 0);
    if (peer->pid == 0) {
        dup2(to[0], STDIN_FILENO);
        dup2(from[1], STDOUT_FILENO);
        for (int fd = 3; fd < 256; fd++) {
            if (fd != keep_fd) {
                close(fd);
            }
        }
        execl(program, program, keep, (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    peer->in = to[1];
    peer->out = from[0];
}

static void send_line(peer_t *peer, const char *format, va_list args)
{
    char line[512];
    int len = vsnprintf(line, sizeof(line) - 1, format, args);
    CHECK(len > 0 && len < (int)sizeof(line) - 1);
    line[len] = '\n';
    CHECK(write(peer->in, line, (size_t)len + 1) == len + 1);
}

static const char *read_line(peer_t *peer)
{
    size_t len = 0;
    uint64_t deadline_ns = mcs_deadline_after_ms(RIG_PATIENCE_MS);
    while (len < sizeof(peer->answer) - 1) {
        struct pollfd pfd = {.fd = peer->out, .events = POLLIN};
        CHECK(poll(&pfd, 1, mcs_deadline_poll_ms(deadline_ns)) != 0);
        ssize_t n = read(peer->out, &peer->answer[len], 1);
        if (n <= 0) {
            return NULL;
        }
        if (peer->answer[len] == '\n') {
            peer->answer[len] = '\0';
            return peer->answer;
        }
        len++;
    }
    return NULL;
}

void peer_send(peer_t *peer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    send_line(peer, format, args);
    va_end(args);
}

const char *peer_ask(peer_t *peer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    send_line(peer, format, args);
    va_end(args);
    return read_line(peer);
}

long long peer_number(peer_t *peer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    send_line(peer, format, args);
    va_end(args);
    const char *answer = read_line(peer);
    CHECK(answer != NULL);
    return strtoll(answer, NULL, 10);
}

long long peer_map(peer_t *peer, const rig_t *rig, mcs_id_t session)
{
    return peer_number(peer, "map %s %llu %llu %llu %llu %llu %llu %llu", rig->self.ipc_path,
                       (unsigned long long)rig->client.hi, (unsigned long long)rig->client.lo,
                       (unsigned long long)rig->self.instance.hi, (unsigned long long)rig->self.instance.lo,
                       (unsigned long long)rig->self.size, (unsigned long long)session.hi,
                       (unsigned long long)session.lo);
}

static void peer_reap(peer_t *peer)
{
    CHECK(waitpid(peer->pid, NULL, 0) == peer->pid);
    close(peer->in);
    close(peer->out);
}

void peer_kill(peer_t *peer)
{
    kill(peer->pid, SIGKILL);
    peer_reap(peer);
}

void peer_stop(peer_t *peer)
{
    close(peer->in);
    peer->in = -1;
    int status = 0;
    CHECK(waitpid(peer->pid, &status, 0) == peer->pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(peer->out);
}

void peer_freeze(peer_t *peer)
{
    int status = 0;
    CHECK(kill(peer->pid, SIGSTOP) == 0);
    CHECK(waitpid(peer->pid, &status, WUNTRACED) == peer->pid && WIFSTOPPED(status));
}

void peer_thaw(peer_t *peer)
{
    CHECK(kill(peer->pid, SIGCONT) == 0);
}

int rig_open_fds(void)
{
    int count = 0;
    DIR *dir = opendir("/proc/self/fd");
    CHECK(dir != NULL);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}
