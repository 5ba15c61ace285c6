/* Mutexes with a rank, read-write locks with a rank, and conditions.
 *
 * A thread may take a lock only when its rank is higher than every rank it already holds (except locks of one rank
 * taken in address order through mcs_mutex_lock_same_rank). Debug builds keep the held ranks per thread and abort on a
 * breach, naming both locks. docs/locking.md has the table with what each lock guards. */
#ifndef MCS_BASE_LOCK_H
#define MCS_BASE_LOCK_H

#include <pthread.h>

#include "core/base/macros.h"

/* Outer locks first. Leave gaps; add here and in docs/locking.md together. */
typedef enum mcs_rank {
    /* python/, public entry */
    MCS_RANK_STORE = 10,
    MCS_RANK_CLIENT = 20,
    MCS_RANK_CLIENT_SESSION = 30,
    MCS_RANK_CLIENT_PEERS = 40,
    MCS_RANK_CLIENT_REGTABLE = 50,
    MCS_RANK_CLIENT_KEYS = 52,
    MCS_RANK_CLIENT_COPY = 55,
    MCS_RANK_LINK_POOL = 60,
    MCS_RANK_LINK_CONN = 70,
    /* segment and owner */
    MCS_RANK_SEG_SET = 100,
    MCS_RANK_OWNER = 110,
    MCS_RANK_IPC = 120,
    MCS_RANK_MAPPER = 130,
    MCS_RANK_BUFPOOL = 140,
    MCS_RANK_FAULTER = 150,
    /* transport */
    MCS_RANK_TRANSPORT = 200,
    MCS_RANK_WORKER_POOL = 210,
    MCS_RANK_WORKER = 220,
    MCS_RANK_REGIONS = 225,
    /* device memory */
    MCS_RANK_GPU = 230,
    /* master */
    MCS_RANK_MASTER = 300,
    MCS_RANK_SESSIONS = 310,
    MCS_RANK_SESSION = 320,
    MCS_RANK_SHARD = 330,
    MCS_RANK_GROUPS = 334,
    MCS_RANK_GROUP = 335,
    MCS_RANK_SEGMENTS = 340,
    MCS_RANK_RELEASE = 350,
    MCS_RANK_EVICT = 360,
    MCS_RANK_ALLOCATOR = 370,
    MCS_RANK_WAITERS = 380,
    MCS_RANK_TASKS = 385,
    MCS_RANK_CONN_OUT = 390,
    MCS_RANK_RPC_LOOP = 392,
    MCS_RANK_HTTP = 395,
    MCS_RANK_JOURNAL_SYNC = 396,
    MCS_RANK_JOURNAL = 397,
    /* leaves */
    MCS_RANK_METRICS = 900,
    MCS_RANK_CONFIG = 910,
    MCS_RANK_SLAB = 980,
    MCS_RANK_LEAF = 990
} mcs_rank_t;

typedef struct MCS_CAPABILITY("mutex") mcs_mutex {
    pthread_mutex_t m;
    mcs_rank_t rank;
    const char *name;
} mcs_mutex_t;

typedef struct MCS_CAPABILITY("rwlock") mcs_rwlock {
    pthread_rwlock_t l;
    mcs_rank_t rank;
    const char *name;
} mcs_rwlock_t;

typedef struct mcs_cond {
    pthread_cond_t c; /* waits on CLOCK_MONOTONIC */
} mcs_cond_t;

/* `name` must outlive the lock (a literal). Initialisation cannot fail with default attributes. */
void mcs_mutex_init(mcs_mutex_t *m, mcs_rank_t rank, const char *name);
void mcs_mutex_fini(mcs_mutex_t *m);
void mcs_mutex_lock(mcs_mutex_t *m) MCS_ACQUIRE(m);
bool mcs_mutex_trylock(mcs_mutex_t *m) MCS_TRY_ACQUIRE(true, m);
void mcs_mutex_unlock(mcs_mutex_t *m) MCS_RELEASE(m);
/* For a second lock of the same rank; the caller takes them in address order. */
void mcs_mutex_lock_same_rank(mcs_mutex_t *m) MCS_ACQUIRE(m);
/* Aborts in debug builds when the calling thread does not hold `m`. */
void mcs_mutex_assert_held(const mcs_mutex_t *m);

void mcs_rwlock_init(mcs_rwlock_t *l, mcs_rank_t rank, const char *name);
void mcs_rwlock_fini(mcs_rwlock_t *l);
void mcs_rwlock_rdlock(mcs_rwlock_t *l) MCS_TSA(acquire_shared_capability(l));
void mcs_rwlock_wrlock(mcs_rwlock_t *l) MCS_ACQUIRE(l);
void mcs_rwlock_rdunlock(mcs_rwlock_t *l) MCS_TSA(release_shared_capability(l));
void mcs_rwlock_wrunlock(mcs_rwlock_t *l) MCS_RELEASE(l);

void mcs_cond_init(mcs_cond_t *c);
void mcs_cond_fini(mcs_cond_t *c);
void mcs_cond_wait(mcs_cond_t *c, mcs_mutex_t *m);
/* False when the deadline (mcs_now_ns scale) passed. Spurious wake-ups return true. */
bool mcs_cond_wait_until(mcs_cond_t *c, mcs_mutex_t *m, uint64_t deadline_ns);
void mcs_cond_signal(mcs_cond_t *c);
void mcs_cond_broadcast(mcs_cond_t *c);

#endif
