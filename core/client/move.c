/* See move.h. */
#include "core/client/move.h"

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

void mcs_moves_run(mcs_client_t *client, mcs_direction_t direction, mcs_move_t *moves, size_t count,
                   uint64_t deadline_ns, mcs_arena_t *arena)
{
    bool remote = false;
    for (size_t i = 0; i < count; i++) {
        moves[i].status = MCS_ERR_AGAIN;
        moves[i].in_doubt = false;
        mcs_route_map(client, moves[i].route);
    }
    mcs_moves_run_mapped(client, direction, moves, count, deadline_ns);
    for (size_t i = 0; i < count; i++) {
        mcs_move_t *move = &moves[i];
        if (move->status != MCS_ERR_AGAIN) {
            continue;
        }
        if (move->route->peer == NULL) {
            move->status = MCS_ERR_REPLICA_IS_GONE;
        } else if (client->transport == NULL || !move->route->peer->wired) {
            move->status = move->route->mapping != NULL ? MCS_ERR_LIMIT : MCS_ERR_TRANSFER_FAIL;
        } else {
            remote = true;
        }
    }
    if (remote) {
        mcs_moves_run_remote(client, direction, moves, count, deadline_ns, arena);
    }
}
