/* See mapper.h. Mappings are found in a short list under the mapper's lock (a process maps as many segments as there
 * are peers on the host); connecting and mapping happen without it, and the loser of a race gives its work up. */
#include "core/segment/mapper.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/alloc.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/segment/mapper_internal.h"
#include "core/segment/owner_internal.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define FAILURES_MAX   256u
#define FAILURE_FOR_NS MCS_NS_PER_SEC

typedef struct failure {
    mcs_id_t instance;
    uint64_t until_ns;
} failure_t;

struct mcs_mapper {
    mcs_mapper_config_t config;
    mcs_mapper_counts_t *counts;
    mapper_conn_t *own; /* slots of this process with its own owner; NULL without one */
    mcs_mutex_t lock;   /* rank MAPPER: what follows */
    mcs_id_t session;
    mcs_list_t conns;
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
    if (mapping == NULL || __atomic_sub_fetch(&mapping->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    __atomic_fetch_sub(&mapping->counts->mappings, 1, __ATOMIC_RELAXED);
    __atomic_fetch_sub(&mapping->counts->mapped_bytes, mapping->size, __ATOMIC_RELAXED);
    counts_put(mapping->counts);
    mcs_i_mapper_conn_put(mapping->conn);
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

static mcs_mapping_t *mapping_create(mcs_mapper_t *mapper, mapper_conn_t *conn, mcs_id_t instance, uint64_t size)
{
    mcs_mapping_t *mapping = MCS_NEW(mcs_mapping_t);
    if (mapping == NULL) {
        return NULL;
    }
    mapping->refs = 1;
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
    owner_page_t *page = mcs_i_owner_add_page(owner, (mcs_id_t){0, 0}, -1);
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
    mcs_mutex_init(&mapper->lock, MCS_RANK_MAPPER, "mapper");
    mcs_list_init(&mapper->conns);
    mcs_list_init(&mapper->mappings);
    if (config->owner != NULL) {
        mapper->own = own_conn_create(mapper);
        if (mapper->own == NULL) {
            mcs_mapper_destroy(mapper);
            return MCS_ERR_NO_MEMORY;
        }
    }
    *mapper_out = mapper;
    return MCS_OK;
}

void mcs_mapper_destroy(mcs_mapper_t *mapper)
{
    if (mapper == NULL) {
        return;
    }
    while (!mcs_list_empty(&mapper->mappings)) {
        mcs_mapping_t *mapping = MCS_LIST_FIRST(&mapper->mappings, mcs_mapping_t, node);
        mcs_list_remove(&mapping->node);
        mcs_mapping_put(mapping);
    }
    while (!mcs_list_empty(&mapper->conns)) {
        mapper_conn_t *conn = MCS_LIST_FIRST(&mapper->conns, mapper_conn_t, node);
        mcs_list_remove(&conn->node);
        mcs_i_mapper_conn_put(conn);
    }
    mcs_i_mapper_conn_put(mapper->own);
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
            mcs_list_remove(node);
            mcs_list_push_tail(&dropped, node);
        }
    }
    mcs_mutex_unlock(&mapper->lock);
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

static void remember_failure(mcs_mapper_t *mapper, mcs_id_t instance)
{
    mcs_mutex_lock(&mapper->lock);
    mapper->failures[mapper->next_failure++ % FAILURES_MAX] = (failure_t){instance, mcs_now_ns() + FAILURE_FOR_NS};
    mcs_mutex_unlock(&mapper->lock);
}

static mapper_conn_t *find_conn_locked(mcs_mapper_t *mapper, mcs_id_t owner)
{
    MCS_LIST_FOR_EACH(node, &mapper->conns)
    {
        mapper_conn_t *conn = MCS_CONTAINER_OF(node, mapper_conn_t, node);
        if (mcs_id_equal(conn->owner, owner) && __atomic_load_n(&conn->lost, __ATOMIC_ACQUIRE) == 0) {
            __atomic_fetch_add(&conn->refs, 1, __ATOMIC_RELAXED);
            return conn;
        }
    }
    return NULL;
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
    bool stale = !mcs_id_equal(mapper->session, session);
    if (other == NULL && !stale) {
        __atomic_fetch_add(&conn->refs, 1, __ATOMIC_RELAXED);
        mcs_list_push_tail(&mapper->conns, &conn->node);
    }
    mcs_mutex_unlock(&mapper->lock);
    if (other != NULL || stale) {
        mcs_i_mapper_conn_put(conn);
        conn = other;
    }
    if (conn == NULL) {
        return MCS_ERR_TRANSFER_FAIL;
    }
    *conn_out = conn;
    return MCS_OK;
}

static mcs_status_t make_mapping(mcs_mapper_t *mapper, const mcs_mapper_peer_t *peer, uint64_t deadline_ns,
                                 mcs_mapping_t **mapping_out)
{
    mapper_conn_t *conn = NULL;
    mcs_status_t status = get_conn(mapper, peer, deadline_ns, &conn);
    if (status != MCS_OK) {
        return status;
    }
    mcs_region_t *memory = NULL;
    mcs_region_t *control = NULL;
    status = mcs_i_mapper_map(conn, peer->instance, peer->size, deadline_ns, &memory, &control);
    mcs_mapping_t *mapping = NULL;
    if (status == MCS_OK) {
        mapping = mapping_create(mapper, conn, peer->instance, ((const mcs_segment_ctl_t *)control->base)->size);
        status = mapping != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    }
    if (status == MCS_OK) {
        mapping->memory = memory;
        mapping->control = control;
        mapping->base = memory->base;
        mapping->ctl = control->base;
        mapping->populated = MCS_NEW_ARRAY(uint64_t, (size_t)(mapping->size / MAPPER_PIECE / 64 + 1));
        status = mapping->populated != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
    } else {
        mcs_region_put(memory);
        mcs_region_put(control);
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
    bool stale = !mcs_id_equal(mapping->conn->session, mapper->session);
    if (other == NULL && !stale) {
        mcs_list_push_tail(&mapper->mappings, &mcs_mapping_ref(mapping)->node);
    }
    mcs_mutex_unlock(&mapper->lock);
    if (other == NULL) {
        return mapping;
    }
    mcs_mapping_put(mapping);
    return other;
}

typedef struct conn_match {
    const mapper_conn_t *conn;
} conn_match_t;

static bool of_conn(const mcs_mapping_t *mapping, const void *arg)
{
    return mapping->conn == ((const conn_match_t *)arg)->conn;
}

/* The owner has gone: its mappings are of no use to new pins. */
static void drop_lost(mcs_mapper_t *mapper, mapper_conn_t *conn)
{
    conn_match_t match = {conn};
    bool listed = false;
    drop_mappings(mapper, of_conn, &match);
    mcs_mutex_lock(&mapper->lock);
    MCS_LIST_FOR_EACH(node, &mapper->conns)
    {
        if (node == &conn->node) {
            listed = true;
            break;
        }
    }
    if (listed) {
        mcs_list_remove(&conn->node);
    }
    mcs_mutex_unlock(&mapper->lock);
    if (listed) {
        mcs_i_mapper_conn_put(conn);
    }
}

mcs_status_t mcs_mapper_get(mcs_mapper_t *mapper, const mcs_mapper_peer_t *peer, uint64_t deadline_ns,
                            mcs_mapping_t **mapping_out)
{
    mcs_mutex_lock(&mapper->lock);
    mcs_mapping_t *mapping = find_locked(mapper, peer->instance);
    bool failed = mapping == NULL && failed_lately_locked(mapper, peer->instance);
    mcs_mutex_unlock(&mapper->lock);
    if (mapping != NULL && mcs_i_mapper_conn_lost(mapping->conn)) {
        drop_lost(mapper, mapping->conn);
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
    mcs_status_t status = make_mapping(mapper, peer, deadline_ns, &mapping);
    if (status != MCS_OK) {
        mcs_debug(MAPPER_AREA, "owner at %s: no same-host path: %s", peer->ipc_path, mcs_status_name(status));
        remember_failure(mapper, peer->instance);
        return status;
    }
    *mapping_out = enter_mapping(mapper, mapping);
    return MCS_OK;
}

/* ---- populating a peer's memory ---- */

/* Whole pieces that the owner has faulted are populated at once and remembered; what is beyond is populated as far as
 * needed, each time. */
static mcs_status_t populate_peer(mcs_mapping_t *mapping, uint64_t offset, uint64_t len, bool write)
{
    uint64_t faulted = __atomic_load_n(&mapping->ctl->faulted, __ATOMIC_ACQUIRE);
    uint64_t end = offset + len;
    for (uint64_t piece = offset / MAPPER_PIECE; piece * MAPPER_PIECE < end; piece++) {
        uint64_t bit = UINT64_C(1) << (piece % 64);
        uint64_t *word = &mapping->populated[piece / 64];
        if ((__atomic_load_n(word, __ATOMIC_RELAXED) & bit) != 0) {
            continue;
        }
        uint64_t from = piece * MAPPER_PIECE;
        uint64_t to = MCS_MIN(from + MAPPER_PIECE, mapping->size);
        bool whole = to <= faulted;
        if (!whole) {
            from = MCS_ALIGN_DOWN(MCS_MAX(from, offset), UINT64_C(4096));
            to = MCS_MIN(MCS_ALIGN_UP(MCS_MIN(to, end), UINT64_C(4096)), mapping->size);
        }
        int rc;
        do {
            rc = madvise(mapping->base + from, to - from, whole || write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
        } while (rc != 0 && (errno == EINTR || errno == EAGAIN));
        if (rc != 0 && errno != EINVAL) {
            return MCS_ERR_NO_MEMORY;
        }
        if (whole) {
            __atomic_fetch_or(word, bit, __ATOMIC_RELAXED);
        }
    }
    return MCS_OK;
}

static mcs_status_t populate(mcs_mapping_t *mapping, uint64_t offset, uint64_t len, bool write)
{
    if (mapping->own != NULL) {
        if (!write) {
            return MCS_OK; /* it was written through this very mapping or another of the same pages */
        }
        mcs_segment_touch(mapping->own, offset + len);
        return mcs_segment_ensure(mapping->own, offset, len);
    }
    if (write) {
        uint64_t high = __atomic_load_n(&mapping->ctl->high_mark, __ATOMIC_RELAXED);
        while (high < offset + len && !__atomic_compare_exchange_n(&mapping->ctl->high_mark, &high, offset + len, true,
                                                                   __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            /* `high` was read again. */
        }
    }
    return populate_peer(mapping, offset, len, write);
}

/* ---- pins ---- */

static bool in_bounds(const mcs_mapping_t *mapping, uint64_t offset, uint64_t payload_len)
{
    if (payload_len == 0 || payload_len > MCS_OBJECT_MAX || offset % MCS_EXTENT_ALIGN != 0) {
        return false;
    }
    uint64_t need = mcs_extent_len(payload_len);
    return need <= mapping->size && offset <= mapping->size - need;
}

static mcs_slot_page_t *slots_of(const mcs_mapping_t *mapping)
{
    return mapping->conn->slots->base;
}

/* Publishes the slot and fills the pin, unchecked. */
static mcs_status_t pin_begin(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                              mcs_status_t out_of_bounds, mcs_pin_t *pin)
{
    if (!in_bounds(mapping, offset, payload_len) || generation == 0) {
        return out_of_bounds;
    }
    if (__atomic_load_n(&mapping->conn->lost, __ATOMIC_ACQUIRE) != 0) {
        return MCS_ERR_TRANSFER_FAIL;
    }
    int slot = mcs_slot_publish(slots_of(mapping), generation);
    if (slot < 0) {
        bool closed = __atomic_load_n(&slots_of(mapping)->closed, __ATOMIC_RELAXED) != 0;
        return closed ? MCS_ERR_TRANSFER_FAIL : MCS_ERR_LIMIT;
    }
    *pin = (mcs_pin_t){
        .mapping = mcs_mapping_ref(mapping),
        .header = (mcs_extent_header_t *)(void *)(mapping->base + offset),
        .payload = mapping->base + offset + mcs_extent_payload_offset(payload_len),
        .payload_len = payload_len,
        .generation = generation,
        .slot = slot,
    };
    __atomic_fetch_add(&mapping->counts->pins, 1, __ATOMIC_RELAXED);
    return MCS_OK;
}

static bool is_closed(const mcs_mapping_t *mapping)
{
    return __atomic_load_n(&mapping->ctl->closed, __ATOMIC_SEQ_CST) != 0;
}

mcs_status_t mcs_pin_read(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                          mcs_hash128_t key_hash, mcs_pin_t *pin_out)
{
    mcs_pin_t pin;
    mcs_status_t status = pin_begin(mapping, offset, generation, payload_len, MCS_ERR_INVALID_READ, &pin);
    if (status != MCS_OK) {
        return status;
    }
    if (is_closed(mapping)) {
        status = MCS_ERR_REPLICA_IS_GONE;
    } else if (mcs_extent_check(pin.header, mapping->instance, generation, payload_len) != MCS_EXTENT_WRITTEN ||
               pin.header->key_hash.lo != key_hash.lo || pin.header->key_hash.hi != key_hash.hi) {
        status = MCS_ERR_REPLICA_IS_GONE;
    } else {
        status = populate(mapping, offset, mcs_extent_len(payload_len), false);
    }
    if (status != MCS_OK) {
        mcs_unpin(&pin);
        return status;
    }
    *pin_out = pin;
    return MCS_OK;
}

mcs_status_t mcs_pin_write(mcs_mapping_t *mapping, uint64_t offset, uint64_t generation, uint64_t payload_len,
                           mcs_hash128_t key_hash, mcs_pin_t *pin_out)
{
    mcs_pin_t pin;
    mcs_status_t status = pin_begin(mapping, offset, generation, payload_len, MCS_ERR_INVALID_WRITE, &pin);
    if (status != MCS_OK) {
        return status;
    }
    if (is_closed(mapping) || mcs_revoked_has(mapping->conn->revoked->base, generation)) {
        status = MCS_ERR_REPLICA_IS_GONE;
    } else {
        status = populate(mapping, offset, mcs_extent_len(payload_len), true);
    }
    if (status != MCS_OK) {
        mcs_unpin(&pin);
        return status;
    }
    mcs_extent_open(pin.header, mapping->instance, generation, payload_len, key_hash);
    *pin_out = pin;
    return MCS_OK;
}

uint32_t *mcs_pin_crcs(const mcs_pin_t *pin)
{
    return mcs_extent_crcs(pin->header, pin->payload_len);
}

mcs_status_t mcs_pin_seal(mcs_pin_t *pin)
{
    return mcs_extent_seal(pin->header, pin->generation) ? MCS_OK : MCS_ERR_REPLICA_IS_GONE;
}

void mcs_unpin(mcs_pin_t *pin)
{
    mcs_mapping_t *mapping = pin->mapping;
    if (mapping == NULL) {
        return;
    }
    pin->mapping = NULL;
    mcs_slot_clear(slots_of(mapping), pin->slot);
    __atomic_fetch_sub(&mapping->counts->pins, 1, __ATOMIC_RELAXED);
    mcs_mapping_put(mapping);
}

void mcs_mapper_stats(mcs_mapper_t *mapper, mcs_mapper_stats_t *stats_out)
{
    *stats_out = (mcs_mapper_stats_t){
        .mappings = __atomic_load_n(&mapper->counts->mappings, __ATOMIC_RELAXED),
        .mapped_bytes = __atomic_load_n(&mapper->counts->mapped_bytes, __ATOMIC_RELAXED),
        .pins = __atomic_load_n(&mapper->counts->pins, __ATOMIC_RELAXED),
    };
}
