/* Named threads that are always joined, and an eventfd wake-up. Signals are blocked in every thread started here, so
 * that the embedding program's handlers run on its own threads. */
#ifndef MCS_BASE_THREAD_H
#define MCS_BASE_THREAD_H

#include <pthread.h>

#include "core/base/status.h"

typedef struct mcs_thread {
    pthread_t id;
    bool started;
} mcs_thread_t;

typedef void (*mcs_thread_fn)(void *arg);

/* `name` is cut to 15 characters. On error the thread does not exist. */
mcs_status_t mcs_thread_start(mcs_thread_t *t, const char *name, mcs_thread_fn fn, void *arg) MCS_MUST_CHECK;
/* Waits for the end; a thread never started (zeroed struct) is fine. */
void mcs_thread_join(mcs_thread_t *t);
/* The kernel's id of the calling thread. */
int mcs_thread_tid(void);

/* An eventfd (CLOEXEC, non-blocking) that any thread may set; the waiter polls `fd` and clears. */
typedef struct mcs_event {
    int fd;
} mcs_event_t;
mcs_status_t mcs_event_init(mcs_event_t *e) MCS_MUST_CHECK;
void mcs_event_fini(mcs_event_t *e); /* a zeroed-to--1 event is fine: fd == -1 */
void mcs_event_set(mcs_event_t *e);
/* True when it was set. */
bool mcs_event_clear(mcs_event_t *e);
/* Waits until set, or the deadline; clears. True when it was set. */
bool mcs_event_wait(mcs_event_t *e, uint64_t deadline_ns);

/* Fork detection (rule 11). mcs_process_token() is a number that differs in a forked child from its parent's. It costs
 * one load: a pthread_atfork handler bumps it in the child. */
uint64_t mcs_process_token(void);

#endif
