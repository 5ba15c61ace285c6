/* See fork.h. */
#include "core/base/fork.h"

#include <pthread.h>
#include <unistd.h>

/* Descriptor + 1, 0 = free. Lock-free, because the reader is a child between fork and exec. */
#define GUARDED_MAX 1024
static int g_guarded[GUARDED_MAX];
static pthread_once_t g_guard_once = PTHREAD_ONCE_INIT;

static void close_in_child(void)
{
    for (size_t i = 0; i < GUARDED_MAX; i++) {
        int held = __atomic_exchange_n(&g_guarded[i], 0, __ATOMIC_RELAXED);
        if (held != 0) {
            close(held - 1);
        }
    }
}

static void install_guard(void)
{
    pthread_atfork(NULL, NULL, close_in_child);
}

void mcs_fork_guard_add(int fd)
{
    pthread_once(&g_guard_once, install_guard);
    for (size_t i = 0; fd >= 0 && i < GUARDED_MAX; i++) {
        int free_slot = 0;
        if (__atomic_compare_exchange_n(&g_guarded[i], &free_slot, fd + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            return;
        }
    }
}

void mcs_fork_guard_remove(int fd)
{
    for (size_t i = 0; fd >= 0 && i < GUARDED_MAX; i++) {
        int held = fd + 1;
        if (__atomic_compare_exchange_n(&g_guarded[i], &held, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            return;
        }
    }
}
