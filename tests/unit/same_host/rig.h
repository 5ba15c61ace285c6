/* The same-host path between real processes: an owner here, and peers that are programs of their own (peer.c), told
 * what to do by a line on their standard input and answering by a line. Nothing of a test is shared with a peer but
 * what the path itself shares. */
#ifndef MCS_TESTS_SAME_HOST_RIG_H
#define MCS_TESTS_SAME_HOST_RIG_H

#include <sys/types.h>

#include "core/base/lock.h"
#include "core/segment/mapper.h"
#include "core/segment/owner.h"

#define RIG_RELEASED_MAX 65536u
#define RIG_PATIENCE_MS  20000

/* One process's side: folder, owner, one segment, and a mapper that has it as its own. */
typedef struct rig {
    char folder[64];
    mcs_id_t client;
    mcs_id_t session;
    mcs_owner_t *owner;
    mcs_mapper_t *mapper;
    mcs_faulter_t *faulter;
    mcs_segment_t *segment;
    mcs_mapper_peer_t self; /* how others reach the segment */
    mcs_mapping_t *own;
    mcs_mutex_t lock;
    mcs_cond_t changed;
    uint64_t released[RIG_RELEASED_MAX];
    uint32_t released_count;
} rig_t;

/* `folder` NULL: a new one. Ends the process with a message when it cannot be made. */
void rig_start(rig_t *rig, uint64_t segment_size, const char *folder);
void rig_stop(rig_t *rig);
/* Has the owner answered for it, within patience? */
bool rig_wait_released(rig_t *rig, uint64_t generation);
bool rig_is_released(rig_t *rig, uint64_t generation);
void rig_release(rig_t *rig, uint64_t offset, uint64_t generation, uint64_t len, unsigned flags, mcs_id_t session);
uint64_t rig_pending(rig_t *rig);

/* Until it is true or patience ends. */
bool rig_wait(bool (*condition)(void *arg), void *arg);

mcs_hash128_t rig_key(uint64_t generation);
void rig_fill(void *payload, uint64_t len, uint64_t seed);
bool rig_is_filled(const void *payload, uint64_t len, uint64_t seed);
/* Pins, fills and seals an object through a mapping, and unpins. */
mcs_status_t rig_write(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t len, uint64_t seed);

/* A peer process. */
typedef struct peer {
    pid_t pid;
    int in;
    int out;
    char answer[512];
} peer_t;
void peer_start(peer_t *peer, const char *program, int keep_fd);
/* Sends a line and waits for the answer; NULL when the peer has ended. */
const char *peer_ask(peer_t *peer, const char *format, ...) MCS_PRINTF(2, 3);
/* The number that the answer begins with. */
long long peer_number(peer_t *peer, const char *format, ...) MCS_PRINTF(2, 3);
void peer_send(peer_t *peer, const char *format, ...) MCS_PRINTF(2, 3);
/* "map": how to reach the rig's segment. */
long long peer_map(peer_t *peer, const rig_t *rig, mcs_id_t session);
void peer_kill(peer_t *peer);
void peer_stop(peer_t *peer); /* lets it end by itself */
/* Sends SIGSTOP and waits until the kernel says that it has stopped. */
void peer_freeze(peer_t *peer);
void peer_thaw(peer_t *peer);

int rig_open_fds(void);

#endif
