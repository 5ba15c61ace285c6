/* remove_by_regex and remove_all: walks over the whole index on the housekeeping thread, in slices of 2 ms, so that no
 * loop and no shard is held for long. An expression is searched for (not a full match) in ECMAScript's dialect as far
 * as PCRE2 has it, with limits on each match and on the whole; one that exceeds them fails with MCS_ERR_INVALID_PARAMS.
 * Forced removals of leased keys wait for their owners, at most STRIKES_MAX at a time. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

#define SLICE_NS    (2 * MCS_NS_PER_MS)
#define HOLD_NS     (200 * MCS_NS_PER_US) /* of one shard's lock */
#define TOTAL_NS    (20 * MCS_NS_PER_SEC)
#define STRIKES_MAX 1024u
#define PATTERN_MAX 8192u
#define MATCH_LIMIT 100000u
#define HEAP_LIMIT  4096u /* KiB */

struct svc_bulk {
    svc_parked_t base; /* whom to answer; conn NULL: the waiting thread */
    bool force;
    bool done;
    int64_t count;
    mcs_status_t status;
    pcre2_code *code; /* NULL: all keys */
    pcre2_match_data *match;
    pcre2_match_context *limits;
    uint32_t shard;
    uint32_t at;
    uint32_t version;
    uint64_t spent_ns;
    uint32_t strike_count;
    svc_pending_t *strikes[STRIKES_MAX]; /* referenced */
};

static void *regex_malloc(size_t size, void *arg)
{
    (void)arg;
    return mcs_malloc(size);
}

static void regex_free(void *ptr, void *arg)
{
    (void)arg;
    mcs_free(ptr);
}

static void destroy_bulk(svc_bulk_t *bulk)
{
    pcre2_match_data_free(bulk->match);
    pcre2_match_context_free(bulk->limits);
    pcre2_code_free(bulk->code);
    mcs_free(bulk);
}

static mcs_status_t compile(svc_bulk_t *bulk, const ProtobufCBinaryData *pattern)
{
    if (pattern->len > PATTERN_MAX) {
        return MCS_ERR_INVALID_PARAMS;
    }
    pcre2_general_context *general = pcre2_general_context_create(regex_malloc, regex_free, NULL);
    pcre2_compile_context *context = general != NULL ? pcre2_compile_context_create(general) : NULL;
    mcs_status_t status = MCS_ERR_NO_MEMORY;
    if (context != NULL) {
        int error;
        PCRE2_SIZE where;
        const uint8_t none = 0;
        bulk->code = pcre2_compile(pattern->len > 0 ? pattern->data : &none, pattern->len,
                                   PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_DOLLAR_ENDONLY |
                                       PCRE2_ALT_BSUX | PCRE2_ALLOW_EMPTY_CLASS | PCRE2_MATCH_UNSET_BACKREF,
                                   &error, &where, context);
        status = bulk->code != NULL                 ? MCS_OK
                 : error == PCRE2_ERROR_HEAP_FAILED ? MCS_ERR_NO_MEMORY
                                                    : MCS_ERR_INVALID_PARAMS;
    }
    if (status == MCS_OK) {
        bulk->match = pcre2_match_data_create_from_pattern(bulk->code, general);
        bulk->limits = pcre2_match_context_create(general);
        if (bulk->match == NULL || bulk->limits == NULL) {
            status = MCS_ERR_NO_MEMORY;
        } else {
            pcre2_set_match_limit(bulk->limits, MATCH_LIMIT);
            pcre2_set_depth_limit(bulk->limits, MATCH_LIMIT);
            pcre2_set_heap_limit(bulk->limits, HEAP_LIMIT);
        }
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return status;
}

/* ---- the walk ---- */

static bool wanted(svc_bulk_t *bulk, const svc_record_t *record)
{
    if (bulk->code == NULL) {
        return true;
    }
    int rc =
        pcre2_match(bulk->code, (PCRE2_SPTR)svc_record_key(record), record->key_len, 0, 0, bulk->match, bulk->limits);
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH) {
        bulk->status = rc == PCRE2_ERROR_NOMEMORY ? MCS_ERR_NO_MEMORY : MCS_ERR_INVALID_PARAMS;
    }
    return rc >= 0;
}

static void remove_one_locked(mcs_service_t *service, svc_bulk_t *bulk, svc_shard_t *shard, svc_ref_t ref)
{
    const svc_record_t *record = svc_record(&service->index, ref);
    if (!wanted(bulk, record)) {
        return;
    }
    uint64_t hash = svc_index_hash(&service->index, svc_record_key(record), record->key_len);
    bool pending = (record->flags & SVC_REC_PENDING) != 0; /* being removed by another, who counts it */
    svc_pending_t *strike = NULL;
    mcs_status_t status = svc_remove_locked(service, shard, ref, hash, bulk->base.session, bulk->force, &strike);
    if (status == MCS_OK) {
        bulk->count++;
    } else if (status == MCS_ERR_AGAIN) {
        svc_pending_get(strike);
        strike->waiters++;
        bulk->strikes[bulk->strike_count++] = strike;
        bulk->count += pending ? 0 : 1;
    } else if (status == MCS_ERR_NO_MEMORY || status == MCS_ERR_LIMIT) {
        bulk->status = status;
    }
}

/* One hold of a shard's lock. */
static void walk_some(mcs_service_t *service, svc_bulk_t *bulk)
{
    svc_shard_t *shard = &service->index.shards[bulk->shard];
    uint64_t end_ns = svc_real_ns() + HOLD_NS;
    mcs_mutex_lock(&shard->lock);
    while (bulk->status == MCS_OK && bulk->strike_count < STRIKES_MAX) {
        svc_ref_t ref = svc_shard_walk_locked(shard, &bulk->at, &bulk->version);
        if (ref == 0) {
            bulk->shard++;
            bulk->version = 0;
            break;
        }
        remove_one_locked(service, bulk, shard, ref);
        if (svc_real_ns() >= end_ns) {
            break;
        }
    }
    mcs_mutex_unlock(&shard->lock);
}

/* Lets go of the strikes that are over. */
static void reap_strikes(svc_bulk_t *bulk, bool all)
{
    for (uint32_t i = 0; i < bulk->strike_count;) {
        svc_pending_t *strike = bulk->strikes[i];
        mcs_mutex_lock(&strike->shard->lock);
        bool done = strike->state == SVC_DONE || all;
        if (done) {
            strike->waiters--;
        }
        mcs_mutex_unlock(&strike->shard->lock);
        if (done) {
            svc_pending_put(strike);
            bulk->strikes[i] = bulk->strikes[--bulk->strike_count];
        } else {
            i++;
        }
    }
}

/* True: finished. */
static bool run_slice(mcs_service_t *service, svc_bulk_t *bulk)
{
    uint64_t begin_ns = svc_real_ns();
    reap_strikes(bulk, false);
    while (bulk->status == MCS_OK && bulk->shard < SVC_SHARDS && bulk->strike_count < STRIKES_MAX &&
           svc_real_ns() - begin_ns < SLICE_NS) {
        walk_some(service, bulk);
    }
    bulk->spent_ns += svc_real_ns() - begin_ns;
    if (bulk->status == MCS_OK && bulk->shard < SVC_SHARDS && bulk->spent_ns > TOTAL_NS) {
        bulk->status = MCS_ERR_INVALID_PARAMS; /* an expression that needs this long has no business here */
    }
    if (bulk->shard < SVC_SHARDS && bulk->status == MCS_OK) {
        svc_wake(service);
        return false;
    }
    return bulk->strike_count == 0;
}

static void finish(mcs_service_t *service, svc_bulk_t *bulk)
{
    svc_parked_t *base = &bulk->base;
    mcs_list_remove(&base->node);
    reap_strikes(bulk, true);
    if (base->conn == NULL) {
        mcs_mutex_lock(&service->parked_lock);
        bulk->done = true;
        mcs_cond_broadcast(&service->bulk_done);
        mcs_mutex_unlock(&service->parked_lock);
        return; /* the waiting thread frees it */
    }
    Mcs__Wire__CountReply reply = MCS__WIRE__COUNT_REPLY__INIT;
    reply.count = bulk->count;
    if (bulk->status != MCS_OK) {
        bool regex = base->verb == MCS_VERB_REMOVE_REGEX;
        mcs_metric_add(service->metrics, remove_by_regex_failures, regex ? 1 : 0);
        mcs_metric_add(service->metrics, remove_all_failures, regex ? 0 : 1);
    }
    svc_parked_answer(base, bulk->status, &reply.base);
    svc_park_give_up(service, base->bytes);
    mcs_rpc_conn_parked_add(base->conn, -1);
    mcs_rpc_conn_put(base->conn);
    svc_session_put(base->session);
    destroy_bulk(bulk);
}

static void take_inbox(mcs_service_t *service)
{
    mcs_mutex_lock(&service->parked_lock);
    while (!mcs_list_empty(&service->bulk_inbox)) {
        mcs_list_t *node = service->bulk_inbox.next;
        mcs_list_remove(node);
        mcs_list_push_tail(&service->bulk, node);
    }
    mcs_mutex_unlock(&service->parked_lock);
}

void svc_bulk_tick(mcs_service_t *service, uint64_t now_ns)
{
    (void)now_ns;
    take_inbox(service);
    if (mcs_list_empty(&service->bulk)) {
        return;
    }
    /* One a turn, in a circle: the time of a turn stays bounded. */
    svc_bulk_t *bulk = MCS_CONTAINER_OF(MCS_LIST_FIRST(&service->bulk, svc_parked_t, node), svc_bulk_t, base);
    mcs_list_remove(&bulk->base.node);
    mcs_list_push_tail(&service->bulk, &bulk->base.node);
    if (run_slice(service, bulk)) {
        finish(service, bulk);
    }
    if (service->bulk.next != service->bulk.prev) {
        svc_wake(service);
    }
}

void svc_bulk_end_all(mcs_service_t *service)
{
    mcs_mutex_lock(&service->parked_lock);
    service->closing = true;
    mcs_mutex_unlock(&service->parked_lock);
    take_inbox(service);
    while (!mcs_list_empty(&service->bulk)) {
        svc_bulk_t *bulk = MCS_CONTAINER_OF(MCS_LIST_FIRST(&service->bulk, svc_parked_t, node), svc_bulk_t, base);
        bulk->status = MCS_ERR_CLOSED;
        finish(service, bulk);
    }
}

/* ---- verbs ---- */

static mcs_status_t start(svc_call_t *call, const Mcs__Wire__Sequence *sequence, const ProtobufCBinaryData *pattern,
                          bool force)
{
    mcs_service_t *service = call->service;
    svc_bulk_t *bulk = MCS_NEW(svc_bulk_t);
    mcs_status_t status = bulk == NULL ? MCS_ERR_NO_MEMORY : pattern != NULL ? compile(bulk, pattern) : MCS_OK;
    if (status == MCS_OK) {
        bulk->force = force;
        bulk->base.bytes = sizeof(*bulk);
        status = svc_begin(call, sequence, 32);
    }
    if (status == MCS_OK && !svc_park_admit(service, sizeof(*bulk))) {
        status = MCS_ERR_LIMIT;
    }
    if (status != MCS_OK) {
        if (bulk != NULL) {
            destroy_bulk(bulk);
        }
        return status == MCS_ERR_AGAIN ? MCS_OK : status;
    }
    svc_parked_t *base = &bulk->base;
    base->service = service;
    base->session = call->session;
    svc_session_get(call->session);
    base->conn = call->conn;
    mcs_rpc_conn_get(call->conn);
    mcs_rpc_conn_parked_add(call->conn, 1);
    base->outcome = call->outcome;
    call->outcome = NULL;
    base->verb = call->header->verb;
    base->request_id = call->header->id;
    mcs_list_init(&base->node);
    mcs_mutex_lock(&service->parked_lock);
    mcs_list_push_tail(&service->bulk_inbox, &base->node);
    mcs_mutex_unlock(&service->parked_lock);
    svc_wake(service);
    return MCS_OK;
}

mcs_status_t svc_remove_regex(svc_call_t *call)
{
    const Mcs__Wire__RemoveRegex *request = (const Mcs__Wire__RemoveRegex *)call->message;
    mcs_metric_add(call->service->metrics, remove_by_regex_requests, 1);
    mcs_status_t status = start(call, request->sequence, &request->pattern, request->force != 0);
    mcs_metric_add(call->service->metrics, remove_by_regex_failures, status != MCS_OK ? 1 : 0);
    return status;
}

mcs_status_t svc_remove_all(svc_call_t *call)
{
    const Mcs__Wire__RemoveAll *request = (const Mcs__Wire__RemoveAll *)call->message;
    mcs_metric_add(call->service->metrics, remove_all_requests, 1);
    mcs_status_t status = start(call, request->sequence, NULL, request->force != 0);
    mcs_metric_add(call->service->metrics, remove_all_failures, status != MCS_OK ? 1 : 0);
    return status;
}

int64_t mcs_service_remove_all(mcs_service_t *service, bool force)
{
    svc_bulk_t *bulk = MCS_NEW(svc_bulk_t);
    if (bulk == NULL) {
        return MCS_ERR_NO_MEMORY;
    }
    bulk->force = force;
    mcs_list_init(&bulk->base.node);
    mcs_metric_add(service->metrics, remove_all_requests, 1);
    mcs_mutex_lock(&service->parked_lock);
    if (service->closing) {
        bulk->status = MCS_ERR_CLOSED;
    } else {
        mcs_list_push_tail(&service->bulk_inbox, &bulk->base.node);
        svc_wake(service);
        while (!bulk->done) {
            mcs_cond_wait(&service->bulk_done, &service->parked_lock);
        }
    }
    mcs_mutex_unlock(&service->parked_lock);
    int64_t result = bulk->status == MCS_OK ? bulk->count : (int64_t)bulk->status;
    mcs_metric_add(service->metrics, remove_all_failures, result < 0 ? 1 : 0);
    destroy_bulk(bulk);
    return result;
}
