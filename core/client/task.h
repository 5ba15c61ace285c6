/* The client's background thread: executes the tasks that the master has for it (task.c), and lets go of segments whose
 * grace period is over (mount.c).
 *
 * The thread ("mcs-tasks") is started by the first thing that there is to do. It never runs on the progress thread of
 * the transport and takes no lock over I/O.
 *
 * Life: create, wake from any thread, stop (joins; after the client was cancelled), destroy (when nobody can wake it
 * any more). */
#ifndef MCS_CLIENT_TASK_H
#define MCS_CLIENT_TASK_H

#include "core/client/client.h"

mcs_status_t mcs_tasks_create(mcs_client_t *client, mcs_tasks_t **tasks_out) MCS_MUST_CHECK;
void mcs_tasks_stop(mcs_tasks_t *tasks);    /* NULL is fine */
void mcs_tasks_destroy(mcs_tasks_t *tasks); /* NULL is fine */
/* The master has tasks for us: `arg` is the mcs_tasks_t. Any thread, never blocks. */
void mcs_tasks_wanted(void *arg);
/* A segment's grace period has begun. Any thread, never blocks. */
void mcs_tasks_look(mcs_tasks_t *tasks);

#endif
