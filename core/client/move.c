/* See move.h. */
#include "core/client/move.h"

#include "core/client/device.h"
#include "core/client/interrupt.h"

mcs_status_t mcs_client_check(const mcs_client_t *client)
{
    if (mcs_client_is_cancelled(client)) {
        return MCS_ERR_CLOSED;
    }
    return mcs_interrupt_due() ? MCS_ERR_INTERRUPTED : MCS_OK;
}

uint64_t mcs_client_transfer_deadline(const mcs_client_t *client, uint64_t bytes)
{
    uint64_t ms = client->config.transfer_timeout_s * 1000 + bytes / (client->config.transfer_floor_mbps * 1000);
    return mcs_deadline_after_ms((int64_t)ms);
}

/* Those that nothing has moved yet: whether the transport can. */
static bool wants_transport(const mcs_client_t *client, mcs_move_t *move)
{
    if (move->status != MCS_ERR_AGAIN) {
        return false;
    }
    if (move->route->peer == NULL) {
        move->status = MCS_ERR_REPLICA_IS_GONE;
    } else if (client->transport == NULL || !move->route->peer->wired) {
        move->status = move->route->mapping != NULL ? MCS_ERR_LIMIT : MCS_ERR_TRANSFER_FAIL;
    }
    return move->status == MCS_ERR_AGAIN;
}

void mcs_moves_run(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                   uint64_t deadline_ns, mcs_arena_t *arena)
{
    bool far = false;
    for (size_t i = 0; i < count; i++) {
        moves[i].status = MCS_ERR_AGAIN;
        moves[i].in_doubt = false;
        moves[i].of_caller = false;
        moves[i].spoiled = false;
        moves[i].devices = NULL;
        moves[i].direct = false;
        mcs_route_map(client, moves[i].route);
        far = far || (moves[i].route->mapping != NULL && mcs_mapping_far(moves[i].route->mapping) != NULL);
    }
    bool device = mcs_device_active(client) && mcs_device_locate(client, moves, count, arena);
    if (far) {
        mcs_moves_run_far(client, direction, moves, count, deadline_ns, arena);
    }
    mcs_moves_run_mapped(client, direction, moves, count, deadline_ns);
    if (device) {
        mcs_moves_run_device_mapped(client, direction, moves, count, deadline_ns, arena);
    }
    bool remote = false;
    bool staged = false;
    for (size_t i = 0; i < count; i++) {
        if (wants_transport(client, &moves[i])) {
            remote = remote || moves[i].devices == NULL;
            staged = staged || moves[i].devices != NULL;
        }
    }
    if (staged) {
        mcs_moves_run_device_direct(client, direction, moves, count, deadline_ns, arena);
        mcs_moves_run_device_staged(client, direction, moves, count, deadline_ns, arena);
    }
    if (remote) {
        mcs_moves_run_remote(client, direction, moves, count, deadline_ns, arena);
    }
}
