/* The way back of extents (rule 3), and what writers are told of revoked ones (rule 5).
 *
 *   object gone ---> waiting (leases) ---> ready ---> asked ---> answered: the allocator has it again
 *                     heap by time          |  N_RELEASE  |
 *                                           `--- again ---'   after a reconnect, and every 30 s
 *
 * All of it hangs on the session of the segment's owner. Time alone never frees an extent. When the owner's session
 * ends its segments are gone, and so are their extents.
 *
 * A revoked reservation whose writer has not said that it stopped is also in the writer's table until it acknowledges
 * or ends; a release that was asked with MAY_WRITE meanwhile is followed by N_FORGET.
 *
 * The memory of an ending is part of the block that was made with the reservation or before the object was touched:
 * nothing here can fail for lack of memory. A growing hash table that gets none only has longer chains. */
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define FIRST_BUCKETS 64u
/* Extents of one notice, and so of the answer to it: an event loop is not kept from its other connections for long. */
#define RELEASE_BATCH   128u
#define RELEASE_TURN    2u /* notices before housekeeping makes a pause */
#define RELEASE_PAUSES  8u /* before it looks after others: about a millisecond */
#define GENERATIONS_MAX 8192u

/* ---- tables by generation ---- */

mcs_status_t svc_gen_table_init(svc_gen_table_t *table)
{
    table->buckets = MCS_NEW_ARRAY(svc_gen_node_t *, FIRST_BUCKETS);
    table->mask = FIRST_BUCKETS - 1;
    table->count = 0;
    return table->buckets != NULL ? MCS_OK : MCS_ERR_NO_MEMORY;
}

void svc_gen_table_fini(svc_gen_table_t *table)
{
    mcs_free(table->buckets);
    table->buckets = NULL;
}

/* Generations count up in steps of SVC_SHARDS: the shard's bits and the count's are both used. */
static uint32_t bucket_of(uint64_t generation, uint32_t mask)
{
    return (uint32_t)((generation * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & mask;
}

static void table_grow(svc_gen_table_t *table)
{
    uint32_t mask = table->mask * 2 + 1;
    svc_gen_node_t **buckets = MCS_NEW_ARRAY(svc_gen_node_t *, (size_t)mask + 1);
    if (buckets == NULL) {
        return;
    }
    for (uint32_t i = 0; i <= table->mask; i++) {
        for (svc_gen_node_t *node = table->buckets[i], *next; node != NULL; node = next) {
            next = node->next;
            svc_gen_node_t **head = &buckets[bucket_of(node->generation, mask)];
            node->next = *head;
            *head = node;
        }
    }
    mcs_free(table->buckets);
    table->buckets = buckets;
    table->mask = mask;
}

static void table_add(svc_gen_table_t *table, svc_gen_node_t *node)
{
    if (table->count > table->mask && table->mask < UINT32_MAX / 4) {
        table_grow(table);
    }
    svc_gen_node_t **head = &table->buckets[bucket_of(node->generation, table->mask)];
    node->next = *head;
    *head = node;
    table->count++;
}

static svc_gen_node_t *table_find(const svc_gen_table_t *table, uint64_t generation)
{
    svc_gen_node_t *node = table->buckets[bucket_of(generation, table->mask)];
    while (node != NULL && node->generation != generation) {
        node = node->next;
    }
    return node;
}

static void table_remove(svc_gen_table_t *table, svc_gen_node_t *node)
{
    svc_gen_node_t **at = &table->buckets[bucket_of(node->generation, table->mask)];
    while (*at != node) {
        at = &(*at)->next;
    }
    *at = node->next;
    table->count--;
}

/* ---- the heap of those that wait for leases ---- */

static svc_ending_t *heap_merge(svc_ending_t *a, svc_ending_t *b)
{
    if (a == NULL || b == NULL) {
        return a == NULL ? b : a;
    }
    if (b->due_ns < a->due_ns) {
        svc_ending_t *swap = a;
        a = b;
        b = swap;
    }
    b->sibling = a->child;
    a->child = b;
    return a;
}

static svc_ending_t *heap_pop(svc_ending_t *heap)
{
    /* Two passes: pairs from the left, then all of them from the right. */
    svc_ending_t *pairs = NULL;
    for (svc_ending_t *a = heap->child; a != NULL;) {
        svc_ending_t *b = a->sibling;
        svc_ending_t *next = b != NULL ? b->sibling : NULL;
        a->sibling = NULL;
        if (b != NULL) {
            b->sibling = NULL;
        }
        svc_ending_t *pair = heap_merge(a, b);
        pair->sibling = pairs;
        pairs = pair;
        a = next;
    }
    heap->child = NULL;
    svc_ending_t *rest = NULL;
    while (pairs != NULL) {
        svc_ending_t *next = pairs->sibling;
        pairs->sibling = NULL;
        rest = heap_merge(rest, pairs);
        pairs = next;
    }
    return rest;
}

/* ---- blocks ---- */

void svc_pending_init(svc_pending_t *pending, svc_pending_kind_t kind, uint32_t endings)
{
    memset(pending, 0, sizeof(*pending) + endings * sizeof(svc_ending_t));
    pending->refs = 1;
    pending->kind = (uint8_t)kind;
    pending->ending_count = endings;
    mcs_list_init(&pending->node);
    for (uint32_t i = 0; i < endings; i++) {
        pending->endings[i].block = pending;
        mcs_list_init(&pending->endings[i].node);
        mcs_list_init(&pending->endings[i].writer_node);
    }
}

svc_pending_t *svc_pending_create(svc_pending_kind_t kind, uint32_t endings)
{
    svc_pending_t *pending = mcs_malloc(sizeof(*pending) + endings * sizeof(svc_ending_t));
    if (pending != NULL) {
        svc_pending_init(pending, kind, endings);
    }
    return pending;
}

void svc_pending_get(svc_pending_t *pending)
{
    __atomic_fetch_add(&pending->refs, 1, __ATOMIC_RELAXED);
}

void svc_pending_put(svc_pending_t *pending)
{
    if (pending == NULL || __atomic_sub_fetch(&pending->refs, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    svc_session_put(pending->session);
    svc_pending_put(pending->vacated);
    svc_task_put(pending->task);
    mcs_free(pending);
}

void svc_ending_set(svc_pending_t *block, uint32_t i, svc_segment_t *segment, const svc_replica_t *replica,
                    uint64_t payload_len)
{
    svc_ending_t *ending = &block->endings[i];
    ending->segment = segment;
    ending->generation = replica->generation;
    ending->by_owner.generation = replica->generation;
    ending->by_writer.generation = replica->generation;
    ending->offset = svc_place_offset(replica->place);
    ending->payload_len = payload_len;
    ending->len = mcs_extent_room(payload_len, segment->shift);
}

/* ---- begin and finish ---- */

/* A strike whose owner has gone without a word says nothing: those who mapped its memory may still read it, and time
 * decides. One that left closed its memory first. */
static void end_strike(mcs_service_t *service, svc_pending_t *strike, const svc_segment_t *segment, bool answered)
{
    if (answered || (svc_segment_flags(segment) & SVC_SEG_LEFT) != 0) {
        svc_strike_answered(service, strike);
    } else {
        svc_pending_put(strike);
    }
}

/* The extent is its allocator's again, or gone with its segment (not `answered`). Without locks of rank RELEASE. */
static void finish(mcs_service_t *service, svc_ending_t *ending, bool answered)
{
    svc_segment_t *segment = ending->segment;
    svc_segment_get(segment);
    if (ending->was_put) {
        __atomic_fetch_sub(&service->discarded_bytes, ending->len, __ATOMIC_RELAXED);
        mcs_metric_add(service->metrics, released_puts, 1);
    }
    svc_pending_t *strike = ending->strike;
    ending->strike = NULL;
    if (strike != NULL) {
        end_strike(service, strike, segment, answered);
    }
    svc_segment_give_back(service, segment, ending->offset, ending->len);
    /* After `used`: whoever sees this one small sees that one small, too, and evicts nothing for what has come back. */
    __atomic_fetch_sub(&segment->returning, ending->len, __ATOMIC_RELEASE);
    __atomic_fetch_sub(&service->releases, 1, __ATOMIC_RELEASE); /* none: everything is its allocators' again */
    svc_segment_put(service, segment);
    svc_pending_t *block = ending->block;
    if (!block->kept) {
        svc_pending_put(block);
    } else if (__atomic_sub_fetch(&block->refs, 1, __ATOMIC_ACQ_REL) == 0) {
        svc_blocks_give(service, block);
    }
}

static void add_revoked(svc_ending_t *ending, svc_session_t *writer)
{
    mcs_mutex_lock(&writer->release_lock);
    if (!writer->release_closed) {
        ending->may_write = true;
        ending->writer = writer;
        ending->writer_id = writer->id;
        ending->told_owner = ending->segment->owner;
        svc_session_get(writer);
        svc_session_get(ending->told_owner);
        svc_pending_get(ending->block);
        table_add(&writer->revoked, &ending->by_writer);
        mcs_list_push_tail(&writer->unsent, &ending->writer_node);
        __atomic_fetch_add(&writer->open_puts, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&writer->tell, 1, __ATOMIC_RELEASE);
    }
    mcs_mutex_unlock(&writer->release_lock);
}

/* When there is something to do for the owner next: a lease runs out, or an answer is overdue. */
static void set_due_locked(svc_session_t *owner)
{
    uint64_t due_ns = owner->waiting != NULL ? owner->waiting->due_ns : MCS_NEVER;
    if (!mcs_list_empty(&owner->asked)) {
        due_ns = MCS_MIN(due_ns, MCS_LIST_FIRST(&owner->asked, svc_ending_t, node)->asked_ns + SVC_REASK_NS);
    }
    __atomic_store_n(&owner->next_due_ns, due_ns, __ATOMIC_RELEASE);
}

/* False: the owner has gone. */
static bool begin_locked(svc_session_t *owner, svc_ending_t *ending, uint64_t now_ns)
{
    if (owner->release_closed) {
        ending->state = SVC_END_DONE;
        return false;
    }
    table_add(&owner->endings, &ending->by_owner);
    if (ending->due_ns <= now_ns) {
        ending->state = SVC_END_READY;
        mcs_list_push_tail(&owner->ready, &ending->node);
        __atomic_store_n(&owner->tell, 1, __ATOMIC_RELEASE);
    } else {
        ending->state = SVC_END_WAITING;
        owner->waiting = heap_merge(owner->waiting, ending);
        set_due_locked(owner);
    }
    return true;
}

void svc_ending_begin(mcs_service_t *service, svc_ending_t *ending, uint64_t due_ns, svc_session_t *writer,
                      svc_pending_t *strike)
{
    svc_session_t *owner = ending->segment->owner;
    __atomic_fetch_add(&service->releases, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&ending->segment->returning, ending->len, __ATOMIC_RELAXED);
    svc_pending_get(ending->block);
    if (strike != NULL) {
        svc_pending_get(strike);
        ending->strike = strike;
    }
    if (writer != NULL) {
        add_revoked(ending, writer);
    }
    ending->due_ns = due_ns;
    uint64_t now_ns = mcs_now_ns();
    mcs_mutex_lock(&owner->release_lock);
    bool begun = begin_locked(owner, ending, now_ns);
    mcs_mutex_unlock(&owner->release_lock);
    if (!begun) {
        svc_release_defer(service, ending); /* the caller may hold its shard's lock */
    }
    svc_wake(service);
}

void svc_endings_begin(mcs_service_t *service, svc_pending_t *const *blocks, uint32_t count, uint64_t now_ns)
{
    svc_session_t *owner = NULL; /* locked */
    uint64_t begun = 0;
    for (uint32_t n = 0; n < count; n++) {
        svc_pending_t *block = blocks[n];
        block->refs = block->ending_count; /* nobody else knows it yet */
        begun += block->ending_count;
        for (uint32_t i = 0; i < block->ending_count; i++) {
            svc_ending_t *ending = &block->endings[i];
            __atomic_fetch_add(&ending->segment->returning, ending->len, __ATOMIC_RELAXED);
            if (ending->segment->owner != owner) {
                if (owner != NULL) {
                    mcs_mutex_unlock(&owner->release_lock);
                }
                owner = ending->segment->owner;
                mcs_mutex_lock(&owner->release_lock);
            }
            if (!begin_locked(owner, ending, now_ns)) {
                svc_release_defer(service, ending);
            }
        }
    }
    if (owner != NULL) {
        mcs_mutex_unlock(&owner->release_lock);
    }
    __atomic_fetch_add(&service->releases, begun, __ATOMIC_RELAXED);
}

/* Extents whose owner is gone: finished by housekeeping, because the caller holds a shard's lock and finishing may take
 * another's. */
void svc_release_defer(mcs_service_t *service, svc_ending_t *ending)
{
    mcs_mutex_lock(&service->parked_lock);
    mcs_list_push_tail(&service->deferred, &ending->node);
    mcs_mutex_unlock(&service->parked_lock);
}

void svc_release_deferred_tick(mcs_service_t *service)
{
    for (;;) {
        svc_ending_t *ending = NULL;
        mcs_mutex_lock(&service->parked_lock);
        if (!mcs_list_empty(&service->deferred)) {
            ending = MCS_LIST_FIRST(&service->deferred, svc_ending_t, node);
            mcs_list_remove(&ending->node);
        }
        mcs_mutex_unlock(&service->parked_lock);
        if (ending == NULL) {
            return;
        }
        finish(service, ending, false);
    }
}

/* ---- verbs of owners and writers ---- */

static mcs_status_t column_of(const ProtobufCBinaryData *column, const uint64_t **generations_out, size_t *count_out)
{
    *generations_out = (const uint64_t *)(const void *)column->data; /* protobuf-c's copies are aligned */
    return mcs_column_count(column->len, sizeof(uint64_t), MCS_FRAME_MAX / sizeof(uint64_t), count_out);
}

mcs_status_t svc_released(svc_call_t *call)
{
    const Mcs__Wire__Released *request = (const Mcs__Wire__Released *)call->message;
    svc_session_t *owner = call->session;
    const uint64_t *generations;
    size_t count;
    mcs_status_t status = column_of(&request->generations, &generations, &count);
    if (status != MCS_OK) {
        return status;
    }
    mcs_list_t done;
    mcs_list_init(&done);
    uint64_t answered = 0;
    mcs_mutex_lock(&owner->release_lock);
    for (size_t i = 0; i < count; i++) {
        svc_gen_node_t *node = table_find(&owner->endings, generations[i]);
        svc_ending_t *ending = node != NULL ? MCS_CONTAINER_OF(node, svc_ending_t, by_owner) : NULL;
        if (ending == NULL || ending->state != SVC_END_ASKED) {
            continue; /* a repeat, or an answer to what was not asked */
        }
        table_remove(&owner->endings, node);
        mcs_list_remove(&ending->node);
        ending->state = SVC_END_DONE;
        __atomic_fetch_sub(&ending->segment->quarantine, ending->len, __ATOMIC_RELAXED);
        mcs_list_push_tail(&done, &ending->node);
        answered++;
    }
    mcs_mutex_unlock(&owner->release_lock);
    mcs_metric_add(call->service->metrics, releases_done, answered);
    while (!mcs_list_empty(&done)) {
        svc_ending_t *ending = MCS_LIST_FIRST(&done, svc_ending_t, node);
        mcs_list_remove(&ending->node);
        finish(call->service, ending, true);
    }
    if (answered > 0) {
        svc_stir(call->service);
    }
    Mcs__Wire__Empty reply = MCS__WIRE__EMPTY__INIT;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* What a strike waits for is the mark, not the space (rule 2). */
mcs_status_t svc_struck(svc_call_t *call)
{
    const Mcs__Wire__Struck *request = (const Mcs__Wire__Struck *)call->message;
    svc_session_t *owner = call->session;
    const uint64_t *generations;
    size_t count;
    mcs_status_t status = column_of(&request->generations, &generations, &count);
    if (status != MCS_OK) {
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        svc_pending_t *strike = NULL;
        mcs_mutex_lock(&owner->release_lock);
        svc_gen_node_t *node = table_find(&owner->endings, generations[i]);
        if (node != NULL) {
            svc_ending_t *ending = MCS_CONTAINER_OF(node, svc_ending_t, by_owner);
            strike = ending->strike;
            ending->strike = NULL;
        }
        mcs_mutex_unlock(&owner->release_lock);
        if (strike != NULL) {
            svc_strike_answered(call->service, strike);
        }
    }
    Mcs__Wire__Empty reply = MCS__WIRE__EMPTY__INIT;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* The writer has stopped, or its session has ended: takes it from the writer's table. Without the writer's lock. */
static void forget_revoked(svc_ending_t *ending, bool tell_owner)
{
    svc_session_t *owner = ending->told_owner;
    svc_session_t *writer = ending->writer;
    mcs_mutex_lock(&owner->release_lock);
    ending->may_write = false;
    if (ending->may_write_told && tell_owner && !owner->release_closed) {
        /* Without room the owner remembers it until the writer's session ends, which is safe. */
        mcs_buf_put_u64(&owner->forget, ending->generation);
        __atomic_store_n(&owner->tell, 1, __ATOMIC_RELEASE);
    }
    mcs_mutex_unlock(&owner->release_lock);
    __atomic_fetch_sub(&writer->open_puts, 1, __ATOMIC_RELAXED);
    ending->writer = NULL;
    ending->told_owner = NULL;
    svc_session_put(owner);
    svc_session_put(writer);
    svc_pending_put(ending->block);
}

mcs_status_t svc_revoke_ack(svc_call_t *call)
{
    const Mcs__Wire__RevokeAck *request = (const Mcs__Wire__RevokeAck *)call->message;
    svc_session_t *writer = call->session;
    const uint64_t *generations;
    size_t count;
    mcs_status_t status = column_of(&request->generations, &generations, &count);
    if (status != MCS_OK) {
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        svc_ending_t *ending = NULL;
        mcs_mutex_lock(&writer->release_lock);
        svc_gen_node_t *node = table_find(&writer->revoked, generations[i]);
        if (node != NULL) {
            ending = MCS_CONTAINER_OF(node, svc_ending_t, by_writer);
            table_remove(&writer->revoked, node);
            mcs_list_remove(&ending->writer_node);
        }
        mcs_mutex_unlock(&writer->release_lock);
        if (ending != NULL) {
            forget_revoked(ending, true);
        }
    }
    svc_wake(call->service);
    Mcs__Wire__Empty reply = MCS__WIRE__EMPTY__INIT;
    return svc_reply(call, MCS_OK, &reply.base);
}

/* ---- telling ---- */

static void move_all(mcs_list_t *from, mcs_list_t *to)
{
    while (!mcs_list_empty(from)) {
        mcs_list_t *node = from->prev;
        mcs_list_remove(node);
        mcs_list_push_head(to, node);
    }
}

static void unask_locked(svc_session_t *owner, svc_ending_t *ending)
{
    mcs_list_remove(&ending->node);
    ending->state = SVC_END_READY;
    __atomic_fetch_sub(&ending->segment->quarantine, ending->len, __ATOMIC_RELAXED);
    mcs_list_push_tail(&owner->ready, &ending->node);
}

void svc_release_resume(svc_session_t *session)
{
    mcs_mutex_lock(&session->release_lock);
    while (!mcs_list_empty(&session->asked)) {
        unask_locked(session, MCS_LIST_FIRST(&session->asked, svc_ending_t, node));
    }
    move_all(&session->unacked, &session->unsent);
    mcs_mutex_unlock(&session->release_lock);
}

static bool take_revoked(svc_session_t *writer, uint64_t *generations, size_t *count)
{
    *count = 0;
    mcs_mutex_lock(&writer->release_lock);
    while (*count < GENERATIONS_MAX && !mcs_list_empty(&writer->unsent)) {
        svc_ending_t *ending = MCS_LIST_FIRST(&writer->unsent, svc_ending_t, writer_node);
        mcs_list_remove(&ending->writer_node);
        mcs_list_push_tail(&writer->unacked, &ending->writer_node);
        generations[(*count)++] = ending->generation;
    }
    mcs_mutex_unlock(&writer->release_lock);
    return *count > 0;
}

static size_t take_ready(svc_session_t *owner, mcs_col_release_t *records, uint64_t now_ns)
{
    size_t count = 0;
    mcs_mutex_lock(&owner->release_lock);
    while (owner->waiting != NULL && owner->waiting->due_ns <= now_ns) {
        svc_ending_t *ending = owner->waiting;
        owner->waiting = heap_pop(ending);
        ending->state = SVC_END_READY;
        mcs_list_push_tail(&owner->ready, &ending->node);
    }
    while (!mcs_list_empty(&owner->asked)) {
        svc_ending_t *oldest = MCS_LIST_FIRST(&owner->asked, svc_ending_t, node);
        if (now_ns - oldest->asked_ns < SVC_REASK_NS) {
            break;
        }
        unask_locked(owner, oldest);
    }
    while (count < RELEASE_BATCH && !mcs_list_empty(&owner->ready)) {
        svc_ending_t *ending = MCS_LIST_FIRST(&owner->ready, svc_ending_t, node);
        mcs_list_remove(&ending->node);
        mcs_list_push_tail(&owner->asked, &ending->node);
        ending->state = SVC_END_ASKED;
        ending->asked_ns = now_ns;
        ending->may_write_told |= ending->may_write;
        __atomic_fetch_add(&ending->segment->quarantine, ending->len, __ATOMIC_RELAXED);
        mcs_id_t writer = ending->may_write ? ending->writer_id : (mcs_id_t){0, 0};
        records[count++] = (mcs_col_release_t){
            .instance_hi = ending->segment->instance.hi,
            .instance_lo = ending->segment->instance.lo,
            .session_hi = writer.hi,
            .session_lo = writer.lo,
            .offset = ending->offset,
            .generation = ending->generation,
            .payload_len = ending->payload_len,
            .flags = (ending->may_write ? MCS_RELEASE_MAY_WRITE : 0) |
                     (ending->strike != NULL ? MCS_RELEASE_STRIKE : 0) | (ending->gap ? MCS_RELEASE_GAP : 0),
        };
    }
    if (!mcs_list_empty(&owner->ready)) {
        __atomic_store_n(&owner->tell, 1, __ATOMIC_RELEASE);
    }
    set_due_locked(owner);
    mcs_mutex_unlock(&owner->release_lock);
    return count;
}

static void tell_forget(mcs_service_t *service, svc_session_t *owner, mcs_rpc_conn_t *conn)
{
    mcs_buf_t forget;
    mcs_mutex_lock(&owner->release_lock);
    forget = owner->forget;
    mcs_buf_init(&owner->forget, forget.limit);
    mcs_mutex_unlock(&owner->release_lock);
    if (forget.len > 0) {
        Mcs__Wire__NoticeForget notice = MCS__WIRE__NOTICE_FORGET__INIT;
        notice.generations = (ProtobufCBinaryData){forget.len, forget.bytes};
        svc_send(service, conn, MCS_VERB_N_FORGET, 0, MCS_OK, &notice.base);
    }
    mcs_buf_fini(&forget);
}

void svc_release_tell(svc_session_t *session, mcs_rpc_conn_t *conn, uint64_t now_ns)
{
    mcs_service_t *service = session->service;
    static _Thread_local union {
        uint64_t generations[GENERATIONS_MAX];
        mcs_col_release_t records[RELEASE_BATCH];
    } t_batch;
    __atomic_store_n(&session->tell, 0, __ATOMIC_RELEASE);
    size_t count;
    while (take_revoked(session, t_batch.generations, &count)) {
        Mcs__Wire__NoticeRevoked notice = MCS__WIRE__NOTICE_REVOKED__INIT;
        notice.generations = (ProtobufCBinaryData){count * sizeof(uint64_t), (uint8_t *)t_batch.generations};
        svc_send(service, conn, MCS_VERB_N_REVOKED, 0, MCS_OK, &notice.base);
    }
    tell_forget(service, session, conn);
    /* A slow owner is asked for more when it has read what was asked. */
    unsigned pauses = 0;
    for (unsigned n = 0; mcs_rpc_conn_queued(conn) < MCS_RPC_OUT_HIGH / 4; n++) {
        if (n > 0 && n % RELEASE_TURN == 0 && svc_evict_pause(&service->evict) && ++pauses == RELEASE_PAUSES) {
            svc_wake(service); /* one who reads as fast as it is asked would have it all */
            break;
        }
        count = take_ready(session, t_batch.records, now_ns);
        if (count == 0) {
            return;
        }
        mcs_metric_add(service->metrics, releases_asked, count);
        Mcs__Wire__NoticeRelease notice = MCS__WIRE__NOTICE_RELEASE__INIT;
        notice.records = (ProtobufCBinaryData){count * sizeof(mcs_col_release_t), (uint8_t *)t_batch.records};
        svc_send(service, conn, MCS_VERB_N_RELEASE, 0, MCS_OK, &notice.base);
    }
    __atomic_store_n(&session->tell, 1, __ATOMIC_RELEASE);
}

/* ---- the session's end ---- */

static svc_ending_t *take_any_locked(svc_session_t *owner)
{
    svc_ending_t *ending = NULL;
    if (owner->waiting != NULL) {
        ending = owner->waiting;
        owner->waiting = heap_pop(ending);
    } else if (!mcs_list_empty(&owner->ready)) {
        ending = MCS_LIST_FIRST(&owner->ready, svc_ending_t, node);
    } else if (!mcs_list_empty(&owner->asked)) {
        ending = MCS_LIST_FIRST(&owner->asked, svc_ending_t, node);
        __atomic_fetch_sub(&ending->segment->quarantine, ending->len, __ATOMIC_RELAXED);
    }
    if (ending != NULL) {
        mcs_list_remove(&ending->node);
        table_remove(&owner->endings, &ending->by_owner);
        ending->state = SVC_END_DONE;
    }
    return ending;
}

void svc_release_close(svc_session_t *session)
{
    for (;;) {
        mcs_mutex_lock(&session->release_lock);
        session->release_closed = true;
        svc_ending_t *ending = take_any_locked(session);
        mcs_mutex_unlock(&session->release_lock);
        if (ending == NULL) {
            break;
        }
        finish(session->service, ending, false);
    }
    for (;;) {
        svc_ending_t *ending = NULL;
        mcs_mutex_lock(&session->release_lock);
        move_all(&session->unsent, &session->unacked);
        if (!mcs_list_empty(&session->unacked)) {
            ending = MCS_LIST_FIRST(&session->unacked, svc_ending_t, writer_node);
            mcs_list_remove(&ending->writer_node);
            table_remove(&session->revoked, &ending->by_writer);
        }
        mcs_mutex_unlock(&session->release_lock);
        if (ending == NULL) {
            return;
        }
        forget_revoked(ending, false); /* owners hear that the session has ended */
    }
}
