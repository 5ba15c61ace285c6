/* Parked requests: those that wait for space, for another's put, or for a strike. A loop hands them over; housekeeping
 * looks at them when something that they may wait for has happened, and at their deadlines. Bounded in number and
 * bytes. */
#include "master/svc_internal.h"

bool svc_park_admit(mcs_service_t *service, size_t bytes)
{
    mcs_mutex_lock(&service->parked_lock);
    bool admitted = service->parked_count < SVC_PARKED_MAX && bytes <= SVC_PARKED_BYTES_MAX - service->parked_bytes;
    if (admitted) {
        service->parked_count++;
        service->parked_bytes += bytes;
    }
    mcs_mutex_unlock(&service->parked_lock);
    return admitted;
}

void svc_park_give_up(mcs_service_t *service, size_t bytes)
{
    mcs_mutex_lock(&service->parked_lock);
    service->parked_count--;
    service->parked_bytes -= bytes;
    mcs_mutex_unlock(&service->parked_lock);
}

void svc_park(svc_call_t *call, svc_parked_t *parked)
{
    mcs_service_t *service = call->service;
    parked->service = service;
    parked->session = call->session;
    svc_session_get(call->session);
    parked->conn = call->conn;
    mcs_rpc_conn_get(call->conn);
    mcs_rpc_conn_parked_add(call->conn, 1);
    parked->outcome = call->outcome;
    call->outcome = NULL;
    parked->verb = call->header->verb;
    parked->request_id = call->header->id;
    mcs_list_init(&parked->node);
    mcs_mutex_lock(&service->parked_lock);
    mcs_list_push_tail(&service->parked_inbox, &parked->node);
    mcs_mutex_unlock(&service->parked_lock);
    svc_stir(service);
}

void svc_stir(mcs_service_t *service)
{
    __atomic_store_n(&service->parked_stir, 1, __ATOMIC_RELEASE);
    svc_wake(service);
}

void svc_parked_answer(svc_parked_t *parked, mcs_status_t status, const ProtobufCMessage *message)
{
    if (parked->outcome != NULL) {
        svc_outcome_answer(parked->service, parked->session, parked->outcome, status,
                           status == MCS_OK ? message : NULL);
        parked->outcome = NULL;
    } else {
        svc_send(parked->service, parked->conn, parked->verb, parked->request_id, status,
                 status == MCS_OK ? message : NULL);
    }
}

static void end_parked(svc_parked_t *parked)
{
    mcs_service_t *service = parked->service;
    mcs_list_remove(&parked->node);
    svc_park_give_up(service, parked->bytes);
    mcs_rpc_conn_parked_add(parked->conn, -1);
    mcs_rpc_conn_put(parked->conn);
    svc_session_t *session = parked->session;
    parked->destroy(parked);
    svc_session_put(session);
}

static void take_inbox(mcs_service_t *service)
{
    mcs_mutex_lock(&service->parked_lock);
    while (!mcs_list_empty(&service->parked_inbox)) {
        mcs_list_t *node = service->parked_inbox.next;
        mcs_list_remove(node);
        mcs_list_push_tail(&service->parked, node);
    }
    mcs_mutex_unlock(&service->parked_lock);
}

void svc_parked_tick(mcs_service_t *service, uint64_t now_ns)
{
    bool stirred = __atomic_exchange_n(&service->parked_stir, 0, __ATOMIC_ACQ_REL) != 0;
    take_inbox(service);
    MCS_LIST_FOR_EACH_SAFE(node, next, &service->parked)
    {
        svc_parked_t *parked = MCS_CONTAINER_OF(node, svc_parked_t, node);
        bool last = (parked->deadline_ns != MCS_NEVER && now_ns >= parked->deadline_ns) ||
                    (parked->deadline_ns != MCS_NEVER && svc_session_ended(parked->session));
        if ((stirred || last) && parked->step(parked, now_ns, last)) {
            end_parked(parked);
        }
    }
}

void svc_parked_wants(const mcs_service_t *service, uint64_t *largest, uint64_t *bytes)
{
    *largest = *bytes = 0;
    MCS_LIST_FOR_EACH(node, &service->parked)
    {
        const svc_parked_t *parked = MCS_CONTAINER_OF(node, const svc_parked_t, node);
        *largest = MCS_MAX(*largest, parked->wants_largest);
        *bytes += parked->wants_bytes;
    }
}

void svc_parked_end_all(mcs_service_t *service)
{
    take_inbox(service);
    MCS_LIST_FOR_EACH_SAFE(node, next, &service->parked)
    {
        svc_parked_t *parked = MCS_CONTAINER_OF(node, svc_parked_t, node);
        parked->step(parked, mcs_now_ns(), true);
        end_parked(parked);
    }
}
