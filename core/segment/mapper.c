/* See mapper.h. The mappings of a process and its connections; pins are in pin.c, the talk with an owner is in
 * mapper_conn.c.
 *
 * Mappings are found in a short list under the mapper's lock (a process maps as many segments as there are peers on the
 * host); connecting and mapping happen without it, and the loser of a race gives its work up.
 *
 * One thread ("mcs-mapper", from the first connection on) sleeps on the connections: an owner that has gone, or parts
 * with us because a segment of its has gone, must not keep its memory through mappings that nobody asks for any more.
 */
#include "core/segment/mapper.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/thread.h"
#include "core/segment/mapper_internal.h"
#include "core/segment/owner_internal.h"

#define FAILURES_MAX   256u
#define FAILURE_FOR_NS MCS_NS_PER_SEC
/* Memory of a device that could not be opened: the driver has said why, and will say the same again. */
#define FAR_FAILURE_FOR_NS (30 * MCS_NS_PER_SEC)

typedef struct failure {
    mcs_id_t instance;
    uint64_t until_ns;
} failure_t;

struct mcs_mapper {
    mcs_mapper_config_t config;
    mcs_mapper_counts_t *counts;
    mapper_conn_t *own; /* slots of this process with its own owner; NULL without one */
    uint64_t token;     /* of the process that made it */
    uint32_t stop;      /* atomic */
    mcs_event_t wake;   /* the list of connections has changed */
    mcs_thread_t thread;
    mcs_mutex_t lock; /* rank MAPPER: what follows */
    bool watched;     /* the thread runs */
    mcs_id_t session;
    mcs_list_t conns;
    uint32_t conn_count;
    mcs_list_t mappings;
    failure_t failures[FAILURES_MAX];
    uint32_t next_failure;
};

static void counts_put(mcs_mapper_counts_t *counts)
{
    if (__atomic_sub_fetch(&counts->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        mcs_free(counts);
    }
}

/* ---- mappings ---- */

mcs_mapping_t *mcs_mapping_ref(mcs_mapping_t *mapping)
{
    __atomic_fetch_add(&mapping->refs, 1, __ATOMIC_RELAXED);
    return mapping;
}

void mcs_mapping_put(mcs_mapping_t *mapping)
{
    if (mapping == NULL || mapping->token != mcs_process_token() ||
        __atomic_sub_fetch(&mapping->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    __atomic_fetch_sub(&mapping->counts->mappings, 1, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&mapping->counts->mapped_bytes, mapping->size, __ATOMIC_RELAXED);
    counts_put(mapping->counts);
    mcs_i_mapper_conn_put(mapping->conn);
    if (mapping->own == NULL) {
        mcs_far_close(&mapping->far);
    }
    mcs_segment_put(mapping->own);
    mcs_region_put(mapping->memory);
    mcs_region_put(mapping->control);
    mcs_free(mapping->populated);
    mcs_free(mapping);
}

bool mcs_mapping_is_own(const mcs_mapping_t *mapping)
{
    return mapping->own != NULL;
}

const mcs_mem_far_t *mcs_mapping_far(const mcs_mapping_t *mapping)
{
    return mapping->far.memory;
}

void mcs_mapping_memory(const mcs_mapping_t *mapping, mcs_mapping_memory_t *memory_out)
{
    *memory_out = (mcs_mapping_memory_t){mapping->base, mapping->size, &mapping->ctl->faulted};
}

bool mcs_mapping_expose(mcs_mapping_t *mapping)
{
    uint32_t plain = MAPPING_PLAIN;
    return __atomic_compare_exchange_n(&mapping->use, &plain, (uint32_t)MAPPING_EXPOSED, false, __ATOMIC_SEQ_CST,
                                       __ATOMIC_SEQ_CST);
}

bool mcs_mapping_is_plain(const mcs_mapping_t *mapping)
{
    return __atomic_load_n(&mapping->use, __ATOMIC_RELAXED) == MAPPING_PLAIN;
}

/* Out of the list, its reference still held. Either this or the exposing call sees the other. */
static void give_up(const mcs_mapper_t *mapper, mcs_mapping_t *mapping)
{
    uint32_t use = __atomic_exchange_n(&mapping->use, (uint32_t)MAPPING_GIVEN_UP, __ATOMIC_SEQ_CST);
    if (use == MAPPING_EXPOSED) {
        mapper->config.retired(mapper->config.retired_arg, mapping->base);
    }
}

static mcs_mapping_t *mapping_create(mcs_mapper_t *mapper, mapper_conn_t *conn, mcs_id_t instance, uint64_t size)
{
    mcs_mapping_t *mapping = MCS_NEW(mcs_mapping_t);
    if (mapping == NULL) {
        return NULL;
    }
    mapping->refs = 1;
    mapping->token = mcs_process_token();
    mcs_list_init(&mapping->node);
    mapping->counts = mapper->counts;
    __atomic_fetch_add(&mapping->counts->refs, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&mapping->counts->mappings, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&mapping->counts->mapped_bytes, size, __ATOMIC_RELAXED);
    mapping->conn = conn;
    __atomic_fetch_add(&conn->refs, 1, __ATOMIC_RELAXED);
    mapping->instance = instance;
    mapping->size = size;
    return mapping;
}

/* ---- life ---- */

static mapper_conn_t *own_conn_create(mcs_mapper_t *mapper)
{
    mapper_conn_t *conn = MCS_NEW(mapper_conn_t);
    if (conn == NULL) {
        return NULL;
    }
    conn->refs = 1;
    conn->fd = -1;
    mcs_mutex_init(&conn->lock, MCS_RANK_IPC, "own slots");
    mcs_list_init(&conn->node);
    mcs_owner_t *owner = mapper->config.owner;
    bool ended;
    owner_page_t *page = mcs_i_owner_add_page(owner, (mcs_id_t){0, 0}, -1, &ended);
    if (page == NULL) {
        mcs_i_mapper_conn_put(conn);
        return NULL;
    }
    conn->slots = mcs_region_get(page->region);
    conn->revoked = mcs_region_get(owner->revoked_region);
    return conn;
}

mcs_status_t mcs_mapper_create(const mcs_mapper_config_t *config, mcs_mapper_t **mapper_out)
{
    mcs_mapper_t *mapper = MCS_NEW(mcs_mapper_t);
    mcs_mapper_counts_t *counts = MCS_NEW(mcs_mapper_counts_t);
    if (mapper == NULL || counts == NULL) {
        mcs_free(mapper);
        mcs_free(counts);
        return MCS_ERR_NO_MEMORY;
    }
    counts->refs = 1;
    mapper->config = *config;
    mapper->counts = counts;
    mapper->token = mcs_process_token();
    mcs_mutex_init(&mapper->lock, MCS_RANK_MAPPER, "mapper");
    mcs_list_init(&mapper->conns);
    mcs_list_init(&mapper->mappings);
    mcs_status_t status = mcs_event_init(&mapper->wake);
    if (status == MCS_OK && config->owner != NULL) {
        mapper->own = own_conn_create(mapper);
        status = mapper->own != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    }
    if (status != MCS_OK) {
        mcs_mapper_destroy(mapper);
        return status;
    }
    *mapper_out = mapper;
    return MCS_OK;
}

static void unlist_conn_locked(mcs_mapper_t *mapper, mapper_conn_t *conn)
{
    mcs_list_remove(&conn->node);
    conn->listed = false;
    mapper->conn_count--;
}

void mcs_mapper_destroy(mcs_mapper_t *mapper)
{
    if (mapper == NULL || mapper->token != mcs_process_token()) {
        return;
    }
    __atomic_store_n(&mapper->stop, 1, __ATOMIC_RELEASE);
    if (mapper->wake.fd >= 0) {
        mcs_event_set(&mapper->wake);
    }
    mcs_thread_join(&mapper->thread);
    while (!mcs_list_empty(&mapper->mappings)) {
        mcs_mapping_t *mapping = MCS_LIST_FIRST(&mapper->mappings, mcs_mapping_t, node);
        mcs_list_remove(&mapping->node);
        give_up(mapper, mapping);
        mcs_mapping_put(mapping);
    }
    while (!mcs_list_empty(&mapper->conns)) {
        mapper_conn_t *conn = MCS_LIST_FIRST(&mapper->conns, mapper_conn_t, node);
        mcs_list_remove(&conn->node);
        mcs_i_mapper_conn_put(conn);
    }
    mcs_i_mapper_conn_put(mapper->own);
    mcs_event_fini(&mapper->wake);
    mcs_mutex_fini(&mapper->lock);
    counts_put(mapper->counts);
    mcs_free(mapper);
}

/* Moves what matches to `dropped`, whose references are put without the lock. */
static void drop_mappings(mcs_mapper_t *mapper, bool (*match)(const mcs_mapping_t *mapping, const void *arg),
                          const void *arg)
{
    mcs_list_t dropped;
    mcs_list_init(&dropped);
    mcs_mutex_lock(&mapper->lock);
    MCS_LIST_FOR_EACH_SAFE(node, next, &mapper->mappings)
    {
        if (match(MCS_CONTAINER_OF(node, mcs_mapping_t, node), arg)) {
            mcs_list_remove(node);
            mcs_list_push_tail(&dropped, node);
        }
    }
    mcs_mutex_unlock(&mapper->lock);
    while (!mcs_list_empty(&dropped)) {
        mcs_mapping_t *mapping = MCS_LIST_FIRST(&dropped, mcs_mapping_t, node);
        mcs_list_remove(&mapping->node);
        give_up(mapper, mapping);
        mcs_mapping_put(mapping);
    }
}

static bool of_other_session(const mcs_mapping_t *mapping, const void *session)
{
    return mapping->own == NULL && !mcs_id_equal(mapping->conn->session, *(const mcs_id_t *)session);
}

void mcs_mapper_set_session(mcs_mapper_t *mapper, mcs_id_t session)
{
    mcs_list_t dropped;
    mcs_list_init(&dropped);
    mcs_mutex_lock(&mapper->lock);
    mapper->session = session;
    memset(mapper->failures, 0, sizeof(mapper->failures));
    MCS_LIST_FOR_EACH_SAFE(node, next, &mapper->conns)
    {
        if (!mcs_id_equal(MCS_CONTAINER_OF(node, mapper_conn_t, node)->session, session)) {
            unlist_conn_locked(mapper, MCS_CONTAINER_OF(node, mapper_conn_t, node));
            mcs_list_push_tail(&dropped, node);
        }
    }
    mcs_mutex_unlock(&mapper->lock);
    if (mapper->config.owner != NULL) {
        mcs_i_owner_own_session(mapper->config.owner, session);
    }
    mcs_event_set(&mapper->wake);
    drop_mappings(mapper, of_other_session, &session);
    while (!mcs_list_empty(&dropped)) {
        mapper_conn_t *conn = MCS_LIST_FIRST(&dropped, mapper_conn_t, node);
        mcs_list_remove(&conn->node);
        mcs_i_mapper_conn_put(conn);
    }
}

mcs_status_t mcs_mapper_add_own(mcs_mapper_t *mapper, mcs_segment_t *segment)
{
    if (mapper->own == NULL) {
        return MCS_ERR_INVALID_PARAMS;
    }
    mcs_mapping_t *mapping =
        mapping_create(mapper, mapper->own, mcs_segment_instance(segment), mcs_segment_size(segment));
    if (mapping == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    mapping->own = mcs_segment_get(segment);
    mapping->base = mcs_segment_base(segment);
    mapping->shift = mcs_segment_shift(segment);
    if (mcs_segment_far(segment) != NULL) {
        mapping->far = *mcs_segment_far(segment); /* the segment's */
    }
    mapping->ctl = mcs_segment_ctl(segment);
    mcs_mutex_lock(&mapper->lock);
    mcs_list_push_head(&mapper->mappings, &mapping->node);
    mcs_mutex_unlock(&mapper->lock);
    return MCS_OK;
}

static bool is_instance(const mcs_mapping_t *mapping, const void *instance)
{
    return mcs_id_equal(mapping->instance, *(const mcs_id_t *)instance);
}

void mcs_mapper_remove_own(mcs_mapper_t *mapper, mcs_id_t instance)
{
    drop_mappings(mapper, is_instance, &instance);
}

/* ---- owners that go ---- */

static bool of_conn(const mcs_mapping_t *mapping, const void *conn)
{
    return mapping->conn == conn;
}

/* New pins fail at once; pins that are there keep their memory. */
static void drop_lost(mcs_mapper_t *mapper, mapper_conn_t *conn)
{
    __atomic_store_n(&conn->lost, 1, __ATOMIC_RELEASE);
    /* First out of the list: from then on no mapping of it is entered. */
    mcs_mutex_lock(&mapper->lock);
    bool listed = conn->listed;
    if (listed) {
        unlist_conn_locked(mapper, conn);
    }
    mcs_mutex_unlock(&mapper->lock);
    drop_mappings(mapper, of_conn, conn);
    if (listed) {
        mcs_event_set(&mapper->wake); /* the thread has a reference, too */
        mcs_i_mapper_conn_put(conn);
    }
}

/* What the thread sleeps on; a reference each, so that no descriptor is closed and used again meanwhile. */
typedef struct watch {
    struct pollfd fds[1 + MAPPER_CONNS_MAX];
    mapper_conn_t *conns[MAPPER_CONNS_MAX];
    uint32_t count;
} watch_t;

static void watch_fill(mcs_mapper_t *mapper, watch_t *watch)
{
    watch->count = 0;
    watch->fds[0] = (struct pollfd){.fd = mapper->wake.fd, .events = POLLIN};
    mcs_mutex_lock(&mapper->lock);
    MCS_LIST_FOR_EACH(node, &mapper->conns)
    {
        mapper_conn_t *conn = MCS_CONTAINER_OF(node, mapper_conn_t, node);
        __atomic_fetch_add(&conn->refs, 1, __ATOMIC_RELAXED);
        watch->conns[watch->count++] = conn;
        /* Not POLLIN: answers are for the thread that asked. */
        watch->fds[watch->count] = (struct pollfd){.fd = conn->fd, .events = POLLRDHUP};
    }
    mcs_mutex_unlock(&mapper->lock);
}

static void mapper_main(void *arg)
{
    mcs_mapper_t *mapper = arg;
    watch_t watch;
    while (__atomic_load_n(&mapper->stop, __ATOMIC_ACQUIRE) == 0) {
        watch_fill(mapper, &watch);
        bool known = poll(watch.fds, 1 + watch.count, -1) > 0;
        if (known && watch.fds[0].revents != 0) {
            mcs_event_clear(&mapper->wake);
        }
        for (uint32_t i = 0; i < watch.count; i++) {
            mapper_conn_t *conn = watch.conns[i];
            if (known && watch.fds[1 + i].revents != 0) {
                mcs_debug(MAPPER_AREA, "owner %016llx has gone or parts with us", (unsigned long long)conn->owner.hi);
                drop_lost(mapper, conn);
            }
            mcs_i_mapper_conn_put(conn);
        }
    }
}

/* ---- getting a mapping ---- */

static mcs_mapping_t *find_locked(mcs_mapper_t *mapper, mcs_id_t instance)
{
    MCS_LIST_FOR_EACH(node, &mapper->mappings)
    {
        mcs_mapping_t *mapping = MCS_CONTAINER_OF(node, mcs_mapping_t, node);
        if (mcs_id_equal(mapping->instance, instance)) {
            return mcs_mapping_ref(mapping);
        }
    }
    return NULL;
}

static bool failed_lately_locked(const mcs_mapper_t *mapper, mcs_id_t instance)
{
    uint64_t now = mcs_now_ns();
    for (uint32_t i = 0; i < FAILURES_MAX; i++) {
        if (mapper->failures[i].until_ns > now && mcs_id_equal(mapper->failures[i].instance, instance)) {
            return true;
        }
    }
    return false;
}

static void remember_failure(mcs_mapper_t *mapper, mcs_id_t instance, uint64_t for_ns)
{
    mcs_mutex_lock(&mapper->lock);
    mapper->failures[mapper->next_failure++ % FAILURES_MAX] = (failure_t){instance, mcs_now_ns() + for_ns};
    mcs_mutex_unlock(&mapper->lock);
}

static mapper_conn_t *find_conn_locked(mcs_mapper_t *mapper, mcs_id_t owner)
{
    MCS_LIST_FOR_EACH(node, &mapper->conns)
    {
        mapper_conn_t *conn = MCS_CONTAINER_OF(node, mapper_conn_t, node);
        if (mcs_id_equal(conn->owner, owner) && !mapper_conn_lost(conn)) {
            __atomic_fetch_add(&conn->refs, 1, __ATOMIC_RELAXED);
            return conn;
        }
    }
    return NULL;
}

/* A reference for the list, when it is to be there. */
static mcs_status_t list_conn_locked(mcs_mapper_t *mapper, mapper_conn_t *conn)
{
    if (!mcs_id_equal(mapper->session, conn->session)) {
        return MCS_ERR_TRANSFER_FAIL; /* another session began meanwhile */
    }
    if (mapper->conn_count == MAPPER_CONNS_MAX) {
        return MCS_ERR_LIMIT;
    }
    if (!mapper->watched) {
        mcs_status_t status = mcs_thread_start(&mapper->thread, "mcs-mapper", mapper_main, mapper);
        if (status != MCS_OK) {
            return status;
        }
        mapper->watched = true;
    }
    __atomic_fetch_add(&conn->refs, 1, __ATOMIC_RELAXED);
    mcs_list_push_tail(&mapper->conns, &conn->node);
    conn->listed = true;
    mapper->conn_count++;
    return MCS_OK;
}

/* The connection to the peer's process, with a reference. */
static mcs_status_t get_conn(mcs_mapper_t *mapper, const mcs_mapper_peer_t *peer, uint64_t deadline_ns,
                             mapper_conn_t **conn_out)
{
    mcs_mutex_lock(&mapper->lock);
    mapper_conn_t *conn = find_conn_locked(mapper, peer->owner);
    mcs_id_t session = mapper->session;
    mcs_mutex_unlock(&mapper->lock);
    if (conn != NULL) {
        *conn_out = conn;
        return MCS_OK;
    }
    mcs_status_t status = mcs_i_mapper_connect(mapper->config.client, session, peer, deadline_ns, &conn);
    if (status != MCS_OK) {
        return status;
    }
    mcs_mutex_lock(&mapper->lock);
    mapper_conn_t *other = find_conn_locked(mapper, peer->owner);
    if (other == NULL) {
        status = list_conn_locked(mapper, conn);
    }
    mcs_mutex_unlock(&mapper->lock);
    if (other != NULL || status != MCS_OK) {
        mcs_i_mapper_conn_put(conn);
        conn = other;
    } else {
        mcs_event_set(&mapper->wake);
    }
    if (status == MCS_OK) {
        *conn_out = conn;
    }
    return status;
}

/* The payloads of a far segment. Nothing that the owner said is believed: the memory is asked how long it is. *pause_ns
 * becomes the longer one when it is the memory that does not open. */
static mcs_status_t open_far(const mcs_mapper_t *mapper, mcs_mapping_t *mapping, uint64_t deadline_ns,
                             uint64_t *pause_ns)
{
    mcs_mem_share_t share;
    int fd;
    if (mapper->config.open_far == NULL) {
        return MCS_ERR_NOT_SUPPORTED;
    }
    mcs_status_t status = mcs_i_mapper_ask_far(mapping->conn, mapping->instance, deadline_ns, &share, &fd);
    if (status != MCS_OK) {
        return status;
    }
    if (share.size < mapping->size) {
        status = MCS_ERR_PROTOCOL;
    } else {
        *pause_ns = FAR_FAILURE_FOR_NS;
        status = mapper->config.open_far(mapper->config.open_far_arg, &share, fd, &mapping->far);
    }
    if (fd >= 0) {
        close(fd);
    }
    return status;
}

/* *pause_ns: how long a failure is not worth another attempt. */
static mcs_status_t make_mapping(mcs_mapper_t *mapper, const mcs_mapper_peer_t *peer, uint64_t deadline_ns,
                                 mcs_mapping_t **mapping_out, uint64_t *pause_ns)
{
    *pause_ns = FAILURE_FOR_NS;
    mapper_conn_t *conn = NULL;
    mcs_status_t status = get_conn(mapper, peer, deadline_ns, &conn);
    if (status != MCS_OK) {
        return status;
    }
    mapper_got_t got = {0};
    status = mcs_i_mapper_map(conn, peer->instance, peer->size, deadline_ns, &got);
    mcs_mapping_t *mapping = NULL;
    if (status == MCS_OK) {
        mapping = mapping_create(mapper, conn, peer->instance, got.size);
        status = mapping != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    }
    if (status == MCS_OK) {
        mapping->memory = got.memory;
        mapping->control = got.control;
        mapping->shift = got.shift;
        mapping->base = got.memory->base;
        mapping->ctl = got.control->base;
        mapping->populated = MCS_NEW_ARRAY(uint64_t, (size_t)(got.memory->size / MAPPER_PIECE / 64 + 1));
        status = mapping->populated != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    } else {
        mcs_region_put(got.memory);
        mcs_region_put(got.control);
    }
    if (status == MCS_OK && got.shift != 0) {
        status = open_far(mapper, mapping, deadline_ns, pause_ns);
    }
    mcs_i_mapper_conn_put(conn);
    if (status != MCS_OK) {
        mcs_mapping_put(mapping);
        return status;
    }
    *mapping_out = mapping;
    return MCS_OK;
}

/* The list takes a reference; another's that came first wins. */
static mcs_mapping_t *enter_mapping(mcs_mapper_t *mapper, mcs_mapping_t *mapping)
{
    mcs_mutex_lock(&mapper->lock);
    mcs_mapping_t *other = find_locked(mapper, mapping->instance);
    bool listed = !mcs_list_empty(&mapping->conn->node); /* or it was lost, or another session began meanwhile */
    if (other == NULL && listed) {
        mcs_list_push_tail(&mapper->mappings, &mcs_mapping_ref(mapping)->node);
    }
    mcs_mutex_unlock(&mapper->lock);
    if (other == NULL) {
        if (!listed) {
            give_up(mapper, mapping); /* nobody would do it later */
        }
        return mapping;
    }
    mcs_mapping_put(mapping);
    return other;
}

/* No pin of it will succeed any more, though the thread may not have seen the end of the connection yet. */
static bool is_over(const mcs_mapping_t *mapping)
{
    const mcs_slot_page_t *slots = mapping->conn->slots->base;
    return mapper_conn_lost(mapping->conn) || __atomic_load_n(&slots->closed, __ATOMIC_RELAXED) != 0 ||
           __atomic_load_n(&mapping->ctl->closed, __ATOMIC_RELAXED) != 0;
}

mcs_status_t mcs_mapper_get(mcs_mapper_t *mapper, const mcs_mapper_peer_t *peer, uint64_t deadline_ns,
                            mcs_mapping_t **mapping_out)
{
    mcs_mutex_lock(&mapper->lock);
    mcs_mapping_t *mapping = find_locked(mapper, peer->instance);
    bool failed = mapping == NULL && failed_lately_locked(mapper, peer->instance);
    mcs_mutex_unlock(&mapper->lock);
    if (mapping != NULL && is_over(mapping)) {
        if (mapping->own == NULL) {
            drop_lost(mapper, mapping->conn);
        }
        mcs_mapping_put(mapping);
        mapping = NULL;
    }
    if (mapping != NULL) {
        *mapping_out = mapping;
        return MCS_OK;
    }
    if (failed || peer->ipc_path[0] == '\0') {
        return MCS_ERR_TRANSFER_FAIL;
    }
    uint64_t pause_ns;
    mcs_status_t status = make_mapping(mapper, peer, deadline_ns, &mapping, &pause_ns);
    if (status != MCS_OK) {
        mcs_debug(MAPPER_AREA, "owner at %s: no same-host path: %s", peer->ipc_path, mcs_status_name(status));
        remember_failure(mapper, peer->instance, pause_ns);
        return status == MCS_ERR_NO_MEMORY ? status : MCS_ERR_TRANSFER_FAIL;
    }
    *mapping_out = enter_mapping(mapper, mapping);
    return MCS_OK;
}

void mcs_mapper_stats(mcs_mapper_t *mapper, mcs_mapper_stats_t *stats_out)
{
    *stats_out = (mcs_mapper_stats_t){
        .mappings = __atomic_load_n(&mapper->counts->mappings, __ATOMIC_RELAXED),
        .mapped_bytes = __atomic_load_n(&mapper->counts->mapped_bytes, __ATOMIC_RELAXED),
        .pins = __atomic_load_n(&mapper->counts->pins, __ATOMIC_RELAXED),
    };
}
