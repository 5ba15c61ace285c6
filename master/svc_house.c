/* Housekeeping: the one thread that does what no request waits for, every 10 ms and whenever it is woken.
 *
 * Rule 9: when the master itself stood still (a gap between two turns) that time is taken off the service's clock, by
 * which sessions and reservations expire; and they are measured by the begin of the last full poll of all sockets, so
 * that what had arrived has been heard. Leases are promises to others and count on the real clock. */
#include <poll.h>

#include "master/svc_internal.h"

static bool g_manual;

void svc_house_manual(bool manual)
{
    g_manual = manual;
}

void svc_clock_go_on(mcs_service_t *service, uint64_t now_ns)
{
    uint64_t limit_ns = now_ns - __atomic_load_n(&service->stall_ns, __ATOMIC_RELAXED) + SVC_STALL_NS;
    __atomic_store_n(&service->clock_limit_ns, limit_ns, __ATOMIC_RELEASE);
}

static void notice_stall(mcs_service_t *service, uint64_t now_ns)
{
    uint64_t gap = now_ns - service->last_tick_ns;
    service->last_tick_ns = now_ns;
    if (gap > SVC_STALL_NS) {
        __atomic_fetch_add(&service->stall_ns, gap - SVC_STALL_NS, __ATOMIC_RELEASE);
        service->poll_begun_ns = 0; /* begun before the pause: it proves nothing */
        service->next_poll_ns = 0;
        mcs_warn(SVC_AREA, "the master stood still for %llu ms: deadlines are put off",
                 (unsigned long long)(gap / MCS_NS_PER_MS));
    }
    svc_clock_go_on(service, now_ns);
}

/* Expired leases and soft pins to where eviction finds them, a few shards a turn. */
static void tidy_shards(mcs_service_t *service, uint64_t now_ns)
{
    enum { SHARDS = 16, ENTRIES = 256 };
    for (uint32_t n = 0; n < SHARDS; n++) {
        svc_shard_t *shard = &service->index.shards[service->tidy_cursor++ % SVC_SHARDS];
        mcs_mutex_lock(&shard->lock);
        svc_shard_drain_locked(&service->index, shard, now_ns, ENTRIES);
        svc_ref_t ref = shard->lists[SVC_LIST_SOFT].tail;
        for (uint32_t i = 0; i < ENTRIES && ref != 0; i++) {
            svc_ref_t before = svc_record(&service->index, ref)->prev;
            svc_record_check_soft_locked(&service->index, shard, ref, now_ns);
            ref = before;
        }
        mcs_mutex_unlock(&shard->lock);
    }
}

bool svc_house_tick(mcs_service_t *service)
{
    uint64_t now_ns = mcs_now_ns();
    __atomic_store_n(&service->woken, 0, __ATOMIC_RELEASE);
    notice_stall(service, now_ns);
    svc_sessions_tick(service, now_ns);
    svc_sessions_clear_ended(service);
    svc_segments_tick(service, svc_clock(service));
    svc_puts_tick(service, now_ns);
    svc_strikes_tick(service, now_ns);
    svc_leaving_tick(service, now_ns);
    svc_sweep_tick(service, now_ns);
    svc_tasks_tick(service, now_ns);
    svc_parked_tick(service, now_ns); /* before: what has come back is tried before anything is evicted for it */
    bool more = svc_evict_tick(service, now_ns);
    svc_journal_tick(service);
    svc_check_tick(service, now_ns);
    svc_bulk_tick(service, now_ns);
    svc_release_deferred_tick(service);
    tidy_shards(service, now_ns);
    svc_sessions_tell(service, now_ns);
    return more;
}

void svc_house_thread(void *arg)
{
    mcs_service_t *service = arg;
    while (__atomic_load_n(&service->stop, __ATOMIC_ACQUIRE) == 0) {
        bool more = svc_house_tick(service);
        /* poll() and not a deadline: a test's clock must not stop this thread. */
        struct pollfd fd = {.fd = service->wake.fd, .events = POLLIN};
        poll(&fd, 1, more ? 0 : (int)(SVC_TICK_NS / MCS_NS_PER_MS));
        mcs_event_clear(&service->wake);
    }
    mcs_service_rpc_ops(service).thread_end(service);
}

mcs_status_t svc_house_start(mcs_service_t *service)
{
    return g_manual ? MCS_OK : mcs_thread_start(&service->thread, "mcs-house", svc_house_thread, service);
}
