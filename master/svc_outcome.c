/* Kept answers of requests that change something (rule 1).
 *
 * A session numbers such requests; each carries `ack`, below which everything has been answered. An answer is kept
 * until it is acknowledged: a request that comes again after a lost connection is answered from it, and one that is
 * still running is answered to whoever asked last. The memory of the answer is taken before the request has any effect,
 * so that an effect without an answer cannot be.
 *
 * A session's list is in order of sequences and as long as the client has threads in calls; bounded by
 * SVC_OUTCOMES_MAX. */
#include <string.h>

#include "core/base/alloc.h"
#include "master/svc_internal.h"

static void free_outcome_locked(svc_session_t *session, svc_outcome_t *outcome)
{
    mcs_list_remove(&outcome->node);
    session->outcome_count--;
    session->outcome_bytes -= sizeof(*outcome) + outcome->room;
    mcs_rpc_conn_put(outcome->conn);
    mcs_free(outcome);
}

static void acknowledge_locked(svc_session_t *session, uint64_t ack)
{
    MCS_LIST_FOR_EACH_SAFE(node, next, &session->outcomes)
    {
        svc_outcome_t *outcome = MCS_CONTAINER_OF(node, svc_outcome_t, node);
        if (outcome->seq >= ack) {
            break;
        }
        if (outcome->state == SVC_ANSWERED) { /* a running one is freed by a later acknowledgement */
            free_outcome_locked(session, outcome);
        }
    }
    session->acked = MCS_MAX(session->acked, ack);
}

static svc_outcome_t *find_locked(svc_session_t *session, uint64_t seq)
{
    MCS_LIST_FOR_EACH(node, &session->outcomes)
    {
        svc_outcome_t *outcome = MCS_CONTAINER_OF(node, svc_outcome_t, node);
        if (outcome->seq >= seq) {
            return outcome->seq == seq ? outcome : NULL;
        }
    }
    return NULL;
}

static void insert_locked(svc_session_t *session, svc_outcome_t *outcome)
{
    mcs_list_t *after = session->outcomes.prev;
    while (after != &session->outcomes && MCS_CONTAINER_OF(after, svc_outcome_t, node)->seq > outcome->seq) {
        after = after->prev;
    }
    mcs_list_insert_after(after, &outcome->node);
    session->outcome_count++;
    session->outcome_bytes += sizeof(*outcome) + outcome->room;
}

static void send_kept(const mcs_service_t *service, mcs_rpc_conn_t *conn, uint64_t id, const svc_outcome_t *outcome)
{
    mcs_frame_header_t header = {.kind = MCS_FRAME_REPLY,
                                 .verb = outcome->verb,
                                 .status = (int32_t)outcome->status,
                                 .id = id,
                                 .epoch = svc_epoch(service)};
    svc_log_answer(conn, &header, mcs_rpc_conn_send(conn, &header, outcome->payload, outcome->len));
}

static mcs_status_t repeat_locked(svc_call_t *call, svc_outcome_t *outcome)
{
    if (outcome->verb != call->header->verb) {
        return MCS_ERR_PROTOCOL;
    }
    mcs_metric_add(call->service->metrics, rpc_replays, 1);
    if (outcome->state == SVC_ANSWERED) {
        send_kept(call->service, call->conn, call->header->id, outcome);
    } else {
        mcs_rpc_conn_put(outcome->conn);
        mcs_rpc_conn_get(call->conn);
        outcome->conn = call->conn;
        outcome->request_id = call->header->id;
    }
    return MCS_ERR_AGAIN;
}

mcs_status_t svc_begin(svc_call_t *call, const Mcs__Wire__Sequence *sequence, size_t reply_room)
{
    svc_session_t *session = call->session;
    if (sequence == NULL || sequence->seq == 0 || sequence->ack > sequence->seq) {
        return MCS_ERR_PROTOCOL;
    }
    mcs_status_t status = MCS_OK;
    mcs_mutex_lock(&session->lock);
    acknowledge_locked(session, sequence->ack);
    svc_outcome_t *outcome = find_locked(session, sequence->seq);
    if (outcome != NULL) {
        status = repeat_locked(call, outcome);
        goto out;
    }
    if (sequence->seq < session->acked) {
        status = MCS_ERR_INVALID_PARAMS; /* its answer was acknowledged */
        goto out;
    }
    if (session->outcome_count >= SVC_OUTCOMES_MAX || session->outcome_bytes + reply_room > SVC_OUTCOME_BYTES_MAX) {
        status = MCS_ERR_LIMIT;
        goto out;
    }
    outcome = mcs_calloc(1, sizeof(*outcome) + reply_room);
    if (outcome == NULL) {
        status = MCS_ERR_NO_MEMORY;
        goto out;
    }
    mcs_list_init(&outcome->node);
    outcome->seq = sequence->seq;
    outcome->verb = call->header->verb;
    outcome->request_id = call->header->id;
    outcome->room = (uint32_t)reply_room;
    outcome->conn = call->conn;
    mcs_rpc_conn_get(call->conn);
    insert_locked(session, outcome);
    call->outcome = outcome;
out:
    mcs_mutex_unlock(&session->lock);
    return status;
}

void svc_outcome_answer(mcs_service_t *service, svc_session_t *session, svc_outcome_t *outcome, mcs_status_t status,
                        const ProtobufCMessage *message)
{
    size_t len = message != NULL ? protobuf_c_message_get_packed_size(message) : 0;
    svc_journal_sync(service, outcome->verb);
    mcs_mutex_lock(&session->lock);
    if (len > outcome->room) {
        /* Only words about an error can be longer than what was asked for; they are left out. */
        MCS_ENSURE(status != MCS_OK);
        len = 0;
    }
    if (len > 0) {
        protobuf_c_message_pack(message, outcome->payload);
    }
    outcome->len = (uint32_t)len;
    outcome->status = status;
    outcome->state = SVC_ANSWERED;
    send_kept(service, outcome->conn, outcome->request_id, outcome);
    mcs_rpc_conn_put(outcome->conn);
    outcome->conn = NULL;
    mcs_mutex_unlock(&session->lock);
}

/* A running one belongs to whoever runs it until it answers. */
static void clear_answered_locked(svc_session_t *session)
{
    MCS_LIST_FOR_EACH_SAFE(node, next, &session->outcomes)
    {
        svc_outcome_t *outcome = MCS_CONTAINER_OF(node, svc_outcome_t, node);
        if (outcome->state == SVC_ANSWERED) {
            free_outcome_locked(session, outcome);
        }
    }
}

void svc_outcomes_clear(svc_session_t *session)
{
    mcs_mutex_lock(&session->lock);
    clear_answered_locked(session);
    mcs_mutex_unlock(&session->lock);
}

void svc_outcomes_fini(svc_session_t *session)
{
    clear_answered_locked(session);
    MCS_ENSURE(session->outcome_count == 0);
}
