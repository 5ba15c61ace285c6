/* See copiers.h. Hot path: no memory is taken here.
 *
 * Who looks for work finds it in the list, under the lock. `posted` changes after each addition, for those who poll;
 * those who sleep are told. A job is its caller's and gone when it returns: a copy thread enters it under the lock
 * while it is in the list (`inside`), and touches nothing of it after leaving. */
#include "core/client/copiers.h"

#include <sched.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/spin.h"
#include "core/base/thread.h"

#define POLL_NS      (50 * MCS_NS_PER_US) /* for the next job: several times what a call takes that is not copying */
#define LOOKS        16                   /* between two looks at the clock */
#define LOCK_TRIES   200 /* the lock is held for some ten nanoseconds, and a sleep takes a thousand times as long */
#define WAIT_TAKES   3   /* a caller polls for as long as so many of its own takes took, and */
#define WAIT_MORE_NS (20 * MCS_NS_PER_US)
#define MANY         32 /* takes: a job for all threads */
#define SIZES        5  /* groups: 1, 2, 4, 8, and 16 MiB or more */
#define GROUPS       (MCS_COPY_KINDS * SIZES * 2)
#define ROUNDS       4 /* between two copies alone, which say what sharing is measured by */
#define NO_GROUP     UINT8_MAX

/* Copies that are alike. */
typedef struct group {
    uint64_t alone;   /* picoseconds a byte, a running mean; 0 = not yet known */
    uint32_t skip;    /* copies that are to go alone */
    uint32_t penalty; /* how many the next dull round skips */
    uint8_t begun;    /* jobs of the present round */
    uint8_t ended;    /* of those */
    uint8_t good;     /* of those: that sharing sped up */
    uint8_t rounds;   /* since the last copy alone */
} group_t;

typedef struct job {
    mcs_list_t node;
    void (*unit)(void *arg, size_t i);
    void *arg;
    size_t count;
    size_t at_once;
    size_t next;     /* atomic: the next unit to take */
    uint32_t inside; /* atomic, changed under the lock: copy threads that work on it */
} job_t;

struct mcs_copiers {
    mcs_mutex_t lock; /* guards everything below, held for list moves only */
    mcs_cond_t work;
    mcs_cond_t left; /* a copy thread has left a job */
    mcs_list_t jobs;
    uint32_t posted; /* atomic */
    uint32_t asleep;
    uint32_t sharing; /* calls that share now */
    uint32_t most_sharing;
    uint32_t late_skip;    /* copies of any group that are to go alone */
    uint32_t late_penalty; /* how many the next late job skips */
    group_t groups[GROUPS];
    bool started;
    bool stop;
    uint32_t thread_count;
    mcs_thread_t threads[MCS_COPIERS_MAX];
};

mcs_status_t mcs_copiers_create(mcs_copiers_t **copiers_out)
{
    mcs_copiers_t *copiers = MCS_NEW(mcs_copiers_t);
    if (copiers == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mcs_mutex_init(&copiers->lock, MCS_RANK_CLIENT_COPY, "copiers");
    mcs_cond_init(&copiers->work);
    mcs_cond_init(&copiers->left);
    mcs_list_init(&copiers->jobs);
    *copiers_out = copiers;
    return MCS_OK;
}

/* After the lock was given back, or they would find it taken. Relaxed: it says no more than "look". */
static void tell_pollers(mcs_copiers_t *copiers)
{
    __atomic_add_fetch(&copiers->posted, 1, __ATOMIC_RELAXED);
}

void mcs_copiers_destroy(mcs_copiers_t *copiers)
{
    if (copiers == NULL) {
        return;
    }
    mcs_mutex_lock(&copiers->lock);
    copiers->stop = true;
    mcs_cond_broadcast(&copiers->work);
    mcs_mutex_unlock(&copiers->lock);
    tell_pollers(copiers);
    for (size_t i = 0; i < MCS_COPIERS_MAX; i++) {
        mcs_thread_join(&copiers->threads[i]);
    }
    mcs_cond_fini(&copiers->left);
    mcs_cond_fini(&copiers->work);
    mcs_mutex_fini(&copiers->lock);
    mcs_free(copiers);
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Callers and copy threads meet here within a microsecond, and a sleep for the lock would cost what sharing brings. */
static void lock_soon(mcs_copiers_t *copiers) MCS_ACQUIRE(&copiers->lock)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (mcs_mutex_trylock(&copiers->lock)) {
            return;
        }
        pause_briefly();
    }
    mcs_mutex_lock(&copiers->lock);
}

/* How often units were taken here. */
static size_t work_on(job_t *job)
{
    size_t done = 0;
    for (;;) {
        /* Relaxed: a unit's inputs are older than the job, which is found under the lock; its outputs are published by
         * the lock or by `inside` on leaving. */
        size_t i = __atomic_fetch_add(&job->next, job->at_once, __ATOMIC_RELAXED);
        if (i >= job->count) {
            break;
        }
        size_t end = MCS_MIN(job->count, i + job->at_once);
        for (; i < end; i++) { /* without an atomic, which would wait for streams to arrive */
            job->unit(job->arg, i);
        }
        done++;
    }
    mcs_stream_fence();
    return done;
}

/* ---- copy threads ---- */

static job_t *find_work_locked(mcs_copiers_t *copiers)
{
    MCS_LIST_FOR_EACH(node, &copiers->jobs)
    {
        job_t *job = MCS_CONTAINER_OF(node, job_t, node);
        if (__atomic_load_n(&job->next, __ATOMIC_RELAXED) < job->count) {
            return job;
        }
    }
    return NULL;
}

/* True: `posted` is another. Relaxed: what was posted is looked for under the lock. */
static bool poll_for_work(const mcs_copiers_t *copiers, mcs_spin_t *spin, uint32_t posted)
{
    bool found = false;
    mcs_spin_wait_t wait = mcs_spin_begin_apart(spin, POLL_NS, mcs_now_ns());
    while (!found && mcs_spin_again(spin, &wait, mcs_now_ns())) {
        for (int i = 0; i < LOOKS && !found; i++) {
            found = __atomic_load_n(&copiers->posted, __ATOMIC_RELAXED) != posted;
            pause_briefly();
        }
    }
    mcs_spin_end(spin, &wait, found);
    return found;
}

/* Entered and left with the lock held. */
static void wait_for_work_locked(mcs_copiers_t *copiers, mcs_spin_t *spin)
{
    uint32_t posted = __atomic_load_n(&copiers->posted, __ATOMIC_RELAXED);
    mcs_mutex_unlock(&copiers->lock);
    bool found = poll_for_work(copiers, spin, posted);
    lock_soon(copiers);
    if (!found && find_work_locked(copiers) == NULL && !copiers->stop) {
        copiers->asleep++;
        mcs_cond_wait(&copiers->work, &copiers->lock);
        copiers->asleep--;
    }
}

/* Of the process (its first thread): who asks may be bound to one. False: on a machine with more than it has room for.
 */
static bool process_set(cpu_set_t *set)
{
    return sched_getaffinity(getpid(), sizeof(*set), set) == 0;
}

static void thread_main(void *arg)
{
    mcs_copiers_t *copiers = arg;
    mcs_spin_t spin = {0};
    cpu_set_t set;
    if (process_set(&set)) {
        (void)sched_setaffinity(0, sizeof(set), &set); /* not where the caller is bound that came first */
    }
    lock_soon(copiers);
    while (!copiers->stop) {
        job_t *job = find_work_locked(copiers);
        if (job == NULL) {
            wait_for_work_locked(copiers, &spin);
            continue;
        }
        __atomic_add_fetch(&job->inside, 1, __ATOMIC_RELAXED);
        mcs_mutex_unlock(&copiers->lock);
        (void)work_on(job);
        lock_soon(copiers);
        /* Release: with it the caller has the outputs of the units, and may return. */
        __atomic_sub_fetch(&job->inside, 1, __ATOMIC_RELEASE);
        mcs_cond_broadcast(&copiers->left);
    }
    mcs_mutex_unlock(&copiers->lock);
}

static uint32_t processors(void)
{
    cpu_set_t set;
    if (process_set(&set)) {
        return (uint32_t)CPU_COUNT(&set);
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 1 ? (uint32_t)online : 1;
}

/* A thread that does not start is one less. */
static void start_threads(mcs_copiers_t *copiers)
{
    uint32_t cpus = processors();
    uint32_t wanted = cpus < 2 ? 0 : MCS_MIN(MCS_MAX(cpus / 2, 2U) - 1, (uint32_t)MCS_COPIERS_MAX);
    uint32_t n = 0;
    while (n < wanted && mcs_thread_start(&copiers->threads[n], "mcs-copy", thread_main, copiers) == MCS_OK) {
        n++;
    }
    mcs_mutex_lock(&copiers->lock);
    copiers->thread_count = n;
    copiers->most_sharing = MCS_MAX(cpus / 2, 1U);
    mcs_mutex_unlock(&copiers->lock);
}

/* ---- callers ---- */

static uint8_t group_of(mcs_copy_kind_t kind, uint64_t bytes, size_t pieces)
{
    unsigned size = 0;
    while (size < SIZES - 1 && bytes >> (size + 1) >= MCS_COPIERS_MIN) {
        size++;
    }
    unsigned many = bytes / MCS_MAX(pieces, (size_t)1) < MCS_COPIERS_TAKE;
    return (uint8_t)(((unsigned)kind * SIZES + size) * 2 + many);
}

/* Whether the next copy of a group is to be shared. */
static bool choose_locked(mcs_copiers_t *copiers, group_t *group)
{
    if (copiers->thread_count == 0 || copiers->sharing >= copiers->most_sharing || group->alone == 0) {
        return false;
    }
    if (copiers->late_skip > 0) {
        copiers->late_skip--;
        return false;
    }
    if (group->skip > 0) {
        group->skip--;
        return false;
    }
    if (group->begun == 0 && group->rounds == ROUNDS) {
        group->rounds = 0;
        return false;
    }
    if (group->begun == MCS_COPIERS_ROUND) {
        return false; /* others are at it */
    }
    group->begun++;
    return true;
}

static void begin_round_locked(group_t *group)
{
    group->begun = 0;
    group->ended = 0;
    group->good = 0;
}

static void note_alone_locked(group_t *group, uint64_t cost)
{
    if (group->alone == 0) {
        group->alone = cost;
    } else { /* one that was interrupted for long says little */
        group->alone = (group->alone * 7 + MCS_MIN(cost, group->alone * 2)) / 8;
    }
}

/* Of a job of `cost`, of which its caller waited `waited` for others in the end; both in picoseconds a byte. */
static void note_shared_locked(mcs_copiers_t *copiers, group_t *group, uint64_t cost, uint64_t waited)
{
    if (waited > group->alone) {
        copiers->late_penalty = MCS_MIN(copiers->late_penalty * 2 + MCS_COPIERS_LATE_MIN, MCS_COPIERS_ALONE_MAX);
        copiers->late_skip = copiers->late_penalty;
        begin_round_locked(group);
        return;
    }
    copiers->late_penalty -= (copiers->late_penalty + 63) / 64;
    group->good = (uint8_t)(group->good + (cost * 5 <= group->alone * 4));
    group->ended++;
    if (group->ended - group->good >= MCS_COPIERS_ROUND / 2) {
        group->penalty = MCS_MIN(group->penalty * 4 + MCS_COPIERS_DULL_MIN, MCS_COPIERS_ALONE_MAX);
        group->skip = group->penalty;
        group->rounds = 0;
    } else if (group->ended == MCS_COPIERS_ROUND) {
        group->penalty = 0;
        group->rounds++;
    } else {
        return;
    }
    begin_round_locked(group);
}

mcs_share_t mcs_copiers_ask(mcs_copiers_t *copiers, mcs_copy_kind_t kind, uint64_t bytes, size_t pieces)
{
    mcs_share_t share = {.group = NO_GROUP, .bytes = bytes};
    if (bytes < MCS_COPIERS_MIN) {
        return share;
    }
    share.group = group_of(kind, bytes, pieces);
    lock_soon(copiers);
    bool mine = !copiers->started;
    copiers->started = true;
    if (mine) {
        mcs_mutex_unlock(&copiers->lock);
        start_threads(copiers);
        lock_soon(copiers);
    }
    share.shared = choose_locked(copiers, &copiers->groups[share.group]);
    if (share.shared) {
        copiers->sharing++;
        if (copiers->asleep > 0) {
            mcs_cond_signal(&copiers->work);
        }
    }
    mcs_mutex_unlock(&copiers->lock);
    return share;
}

static void run_alone(void (*unit)(void *arg, size_t i), void *arg, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        unit(arg, i);
    }
    mcs_stream_fence();
}

static void post(mcs_copiers_t *copiers, job_t *job)
{
    lock_soon(copiers);
    mcs_list_push_tail(&copiers->jobs, &job->node);
    if (copiers->asleep > 0) {
        if (job->count / job->at_once >= MANY) {
            mcs_cond_broadcast(&copiers->work);
        } else {
            mcs_cond_signal(&copiers->work);
        }
    }
    mcs_mutex_unlock(&copiers->lock);
    tell_pollers(copiers);
}

/* Polls until all others have left, or `until_ns`. */
static bool others_left(const job_t *job, uint64_t until_ns)
{
    /* Acquire: pairs with the release of who leaves. */
    while (__atomic_load_n(&job->inside, __ATOMIC_ACQUIRE) > 0) {
        for (int i = 0; i < LOOKS; i++) {
            pause_briefly();
        }
        if (mcs_now_ns() >= until_ns) {
            return false;
        }
    }
    return true;
}

/* How long the caller waited in the end. */
static uint64_t run_shared(mcs_copiers_t *copiers, job_t *job)
{
    post(copiers, job);
    uint64_t began_ns = mcs_now_ns();
    size_t takes = work_on(job);
    uint64_t ended_ns = mcs_now_ns();
    uint64_t take_ns = (ended_ns - began_ns) / MCS_MAX(takes, (size_t)1);
    lock_soon(copiers);
    mcs_list_remove(&job->node);
    mcs_mutex_unlock(&copiers->lock);
    if (!others_left(job, ended_ns + WAIT_TAKES * take_ns + WAIT_MORE_NS)) {
        mcs_mutex_lock(&copiers->lock);
        while (__atomic_load_n(&job->inside, __ATOMIC_RELAXED) > 0) {
            mcs_cond_wait(&copiers->left, &copiers->lock);
        }
        mcs_mutex_unlock(&copiers->lock);
    }
    return mcs_now_ns() - ended_ns;
}

void mcs_copiers_run(mcs_copiers_t *copiers, const mcs_share_t *share, void (*unit)(void *arg, size_t i), void *arg,
                     size_t count)
{
    if (share->group == NO_GROUP) {
        run_alone(unit, arg, count);
        return;
    }
    uint64_t waited_ns = 0;
    uint64_t began_ns = mcs_now_ns();
    if (share->shared) {
        job_t job = {.unit = unit, .arg = arg, .count = count};
        job.at_once = (size_t)MCS_MAX(MCS_COPIERS_TAKE * count / share->bytes, (uint64_t)1);
        waited_ns = run_shared(copiers, &job);
    } else {
        run_alone(unit, arg, count);
    }
    uint64_t cost = (mcs_now_ns() - began_ns) * 1000 / share->bytes;
    group_t *group = &copiers->groups[share->group];
    lock_soon(copiers);
    if (share->shared) {
        copiers->sharing--;
        note_shared_locked(copiers, group, cost, waited_ns * 1000 / share->bytes);
    } else {
        note_alone_locked(group, cost);
    }
    mcs_mutex_unlock(&copiers->lock);
}
