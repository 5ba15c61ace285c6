/* See lock.h. The rank check is for debug builds: a thread-local stack of held locks, so it costs nothing in release
 * builds. */
#include "core/base/lock.h"

#include <stdlib.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/log.h"

#ifndef NDEBUG
#define HELD_MAX 128
typedef struct held {
    const void *lock;
    mcs_rank_t rank;
    const char *name;
} held_t;
static _Thread_local held_t t_held[HELD_MAX];
static _Thread_local unsigned t_held_count;

static void rank_note(const void *lock, mcs_rank_t rank, const char *name)
{
    MCS_ENSURE(t_held_count < HELD_MAX);
    t_held[t_held_count++] = (held_t){lock, rank, name};
}

static void rank_push(const void *lock, mcs_rank_t rank, const char *name, bool same_rank_allowed)
{
    for (unsigned i = 0; i < t_held_count; i++) {
        if (t_held[i].rank > rank || (t_held[i].rank == rank && !same_rank_allowed)) {
            mcs_error("lock", "order broken: taking %s (rank %d) while holding %s (rank %d)", name, (int)rank,
                      t_held[i].name, (int)t_held[i].rank);
            abort();
        }
    }
    rank_note(lock, rank, name);
}

static void rank_pop(const void *lock)
{
    for (unsigned i = t_held_count; i-- > 0;) {
        if (t_held[i].lock == lock) {
            t_held[i] = t_held[--t_held_count];
            return;
        }
    }
    MCS_ENSURE(!"unlock of a lock that this thread does not hold");
}

static bool rank_holds(const void *lock)
{
    for (unsigned i = 0; i < t_held_count; i++) {
        if (t_held[i].lock == lock) {
            return true;
        }
    }
    return false;
}
#else
#define rank_note(lock, rank, name)       ((void)0)
#define rank_push(lock, rank, name, same) ((void)0)
#define rank_pop(lock)                    ((void)0)
#endif

void mcs_mutex_init(mcs_mutex_t *m, mcs_rank_t rank, const char *name)
{
    MCS_ENSURE(pthread_mutex_init(&m->m, NULL) == 0);
    m->rank = rank;
    m->name = name;
}

void mcs_mutex_fini(mcs_mutex_t *m)
{
    pthread_mutex_destroy(&m->m);
}

void mcs_mutex_lock(mcs_mutex_t *m) MCS_NO_TSA
{
    rank_push(m, m->rank, m->name, false);
    MCS_ENSURE(pthread_mutex_lock(&m->m) == 0);
}

void mcs_mutex_lock_same_rank(mcs_mutex_t *m) MCS_NO_TSA
{
    rank_push(m, m->rank, m->name, true);
    MCS_ENSURE(pthread_mutex_lock(&m->m) == 0);
}

bool mcs_mutex_trylock(mcs_mutex_t *m) MCS_NO_TSA
{
    if (pthread_mutex_trylock(&m->m) != 0) {
        return false;
    }
    /* A try cannot deadlock, so the order is not asked; what is locked after it is ordered against its rank. */
    rank_note(m, m->rank, m->name);
    return true;
}

void mcs_mutex_unlock(mcs_mutex_t *m) MCS_NO_TSA
{
    rank_pop(m);
    MCS_ENSURE(pthread_mutex_unlock(&m->m) == 0);
}

void mcs_mutex_assert_held(const mcs_mutex_t *m)
{
#ifndef NDEBUG
    MCS_ENSURE(rank_holds(m));
#else
    (void)m;
#endif
}

void mcs_rwlock_init(mcs_rwlock_t *l, mcs_rank_t rank, const char *name)
{
    MCS_ENSURE(pthread_rwlock_init(&l->l, NULL) == 0);
    l->rank = rank;
    l->name = name;
}

void mcs_rwlock_fini(mcs_rwlock_t *l)
{
    pthread_rwlock_destroy(&l->l);
}

void mcs_rwlock_rdlock(mcs_rwlock_t *l) MCS_NO_TSA
{
    rank_push(l, l->rank, l->name, false);
    MCS_ENSURE(pthread_rwlock_rdlock(&l->l) == 0);
}

void mcs_rwlock_wrlock(mcs_rwlock_t *l) MCS_NO_TSA
{
    rank_push(l, l->rank, l->name, false);
    MCS_ENSURE(pthread_rwlock_wrlock(&l->l) == 0);
}

void mcs_rwlock_rdunlock(mcs_rwlock_t *l) MCS_NO_TSA
{
    rank_pop(l);
    MCS_ENSURE(pthread_rwlock_unlock(&l->l) == 0);
}

void mcs_rwlock_wrunlock(mcs_rwlock_t *l) MCS_NO_TSA
{
    rank_pop(l);
    MCS_ENSURE(pthread_rwlock_unlock(&l->l) == 0);
}

void mcs_cond_init(mcs_cond_t *c)
{
    pthread_condattr_t attr;
    MCS_ENSURE(pthread_condattr_init(&attr) == 0);
    MCS_ENSURE(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    MCS_ENSURE(pthread_cond_init(&c->c, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

void mcs_cond_fini(mcs_cond_t *c)
{
    pthread_cond_destroy(&c->c);
}

void mcs_cond_wait(mcs_cond_t *c, mcs_mutex_t *m) MCS_NO_TSA
{
    mcs_mutex_assert_held(m);
    MCS_ENSURE(pthread_cond_wait(&c->c, &m->m) == 0);
}

bool mcs_cond_wait_until(mcs_cond_t *c, mcs_mutex_t *m, uint64_t deadline_ns) MCS_NO_TSA
{
    mcs_mutex_assert_held(m);
    uint64_t now = mcs_now_ns();
    if (now >= deadline_ns) {
        return false;
    }
    /* Deadlines count on BOOTTIME, conditions cannot: sleep in slices of at most a second, so that a suspend (or a
     * test's clock) is noticed. A slice that ends early is a spurious wake-up, which every caller must expect anyway.
     */
    uint64_t slice = MCS_MIN(deadline_ns - now, MCS_NS_PER_SEC);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + slice;
    until.tv_sec += (time_t)(ns / MCS_NS_PER_SEC);
    until.tv_nsec = (long)(ns % MCS_NS_PER_SEC);
    pthread_cond_timedwait(&c->c, &m->m, &until);
    return mcs_now_ns() < deadline_ns;
}

void mcs_cond_signal(mcs_cond_t *c)
{
    pthread_cond_signal(&c->c);
}

void mcs_cond_broadcast(mcs_cond_t *c)
{
    pthread_cond_broadcast(&c->c);
}
