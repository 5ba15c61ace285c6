/* See thread.h. */
#include "core/base/thread.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"

#define NAME_MAX_LEN 16 /* of the kernel, with the terminator */

typedef struct start_args {
    mcs_thread_fn fn;
    void *arg;
    char name[NAME_MAX_LEN];
} start_args_t;

static void *thread_main(void *arg)
{
    start_args_t args = *(start_args_t *)arg;
    mcs_free(arg);
    pthread_setname_np(pthread_self(), args.name);
    args.fn(args.arg);
    return NULL;
}

mcs_status_t mcs_thread_start(mcs_thread_t *t, const char *name, mcs_thread_fn fn, void *arg)
{
    start_args_t *args = MCS_NEW(start_args_t);
    if (args == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    args->fn = fn;
    args->arg = arg;
    size_t len = MCS_MIN(strlen(name), (size_t)NAME_MAX_LEN - 1);
    memcpy(args->name, name, len);

    /* The new thread inherits the mask: block everything around its creation. */
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = mcs_fault_hit(MCS_FAULT_SYSCALL) ? EAGAIN : pthread_create(&t->id, NULL, thread_main, args);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0) {
        mcs_warn("thread", "thread %s not started: %s", name, strerror(rc));
        mcs_free(args);
        t->started = false;
        return MCS_ERR_NO_MEMORY;
    }
    t->started = true;
    return MCS_OK;
}

void mcs_thread_join(mcs_thread_t *t)
{
    if (t->started) {
        pthread_join(t->id, NULL);
        t->started = false;
    }
}

int mcs_thread_tid(void)
{
    return (int)syscall(SYS_gettid);
}

mcs_status_t mcs_event_init(mcs_event_t *e)
{
    e->fd = mcs_fault_hit(MCS_FAULT_SYSCALL) ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return e->fd < 0 ? MCS_ERR_NO_MEMORY : MCS_OK;
}

void mcs_event_fini(mcs_event_t *e)
{
    if (e->fd >= 0) {
        close(e->fd);
        e->fd = -1;
    }
}

void mcs_event_set(mcs_event_t *e)
{
    uint64_t one = 1;
    /* EAGAIN means that the counter is at its maximum: it is set. */
    while (write(e->fd, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

bool mcs_event_clear(mcs_event_t *e)
{
    uint64_t count;
    return read(e->fd, &count, sizeof(count)) == (ssize_t)sizeof(count);
}

bool mcs_event_wait(mcs_event_t *e, uint64_t deadline_ns)
{
    for (;;) {
        if (mcs_event_clear(e)) {
            return true;
        }
        struct pollfd pfd = {.fd = e->fd, .events = POLLIN};
        int timeout = mcs_deadline_poll_ms(deadline_ns);
        if (timeout == 0) {
            return false;
        }
        poll(&pfd, 1, timeout < 0 || timeout > 1000 ? 1000 : timeout);
    }
}

static uint64_t g_process_token;
static pthread_once_t g_fork_once = PTHREAD_ONCE_INIT;

static void after_fork_in_child(void)
{
    __atomic_add_fetch(&g_process_token, 1, __ATOMIC_RELAXED);
}

static void install_fork_handler(void)
{
    pthread_atfork(NULL, NULL, after_fork_in_child);
    __atomic_store_n(&g_process_token, 1, __ATOMIC_RELAXED);
}

uint64_t mcs_process_token(void)
{
    uint64_t token = __atomic_load_n(&g_process_token, __ATOMIC_RELAXED);
    if (MCS_UNLIKELY(token == 0)) {
        pthread_once(&g_fork_once, install_fork_handler);
        token = __atomic_load_n(&g_process_token, __ATOMIC_RELAXED);
    }
    return token;
}
