/* A transport in a process of its own (peer.c), so that tests can stop it and kill it. */
#ifndef TESTS_UCX_TRANSPORT_PEER_H
#define TESTS_UCX_TRANSPORT_PEER_H

#include <sys/types.h>

#include "rig.h"

typedef struct peer_process {
    pid_t pid;
    int to;   /* its standard input: end of file ends it */
    int from; /* its standard output */
} peer_process_t;

/* An owner whose slot 0 holds `payload_len` bytes of pattern `seed`. `side_out` gets what a transfer needs (id and
 * info). */
void peer_start_owner(peer_process_t *peer, uint64_t payload_len, uint64_t seed, side_t *side_out);
/* The same; peer_fork makes it fork a child that lives on when it is killed. */
void peer_start_forker(peer_process_t *peer, uint64_t payload_len, uint64_t seed, side_t *side_out);
void peer_fork(peer_process_t *peer);
/* A caller that fetches `payload_len` bytes of slot 0 of `owner` again and again, and writes a byte each time that one
 * has come. */
void peer_start_reader(peer_process_t *peer, const side_t *owner, uint64_t payload_len);
/* The same with stores. */
void peer_start_writer(peer_process_t *peer, const side_t *owner, uint64_t payload_len);
/* Waits for a byte of a reader or writer. */
void peer_await(peer_process_t *peer);
void peer_signal(peer_process_t *peer, int signal_number);
/* Waits until the kernel says that it is stopped. */
void peer_stop(peer_process_t *peer);
/* By end of file, or by SIGKILL. */
void peer_end(peer_process_t *peer, bool kill_it);

#endif
