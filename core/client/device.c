/* See device.h. */
#include "core/client/device.h"

#include <string.h>

#include "core/base/log.h"

#define AREA "client"

static const uint32_t g_never;

mcs_status_t mcs_device_open(mcs_client_t *client)
{
    const mcs_mem_space_ops_t *ops = mcs_parts()->mem_space;
    client->device_active = &g_never;
    if (ops == NULL || !client->config.gpu) {
        return MCS_OK;
    }
    mcs_mem_space_config_t config = {
        .pin_limit = client->config.gpu_pin_limit,
        .stage_count = (uint32_t)client->config.gpu_stage_chunks,
    };
    mcs_status_t status = ops->open(&config, &client->space);
    if (status == MCS_OK) {
        client->space_ops = ops;
        client->device_active = ops->active(client->space);
        (void)ops->look(client->space);
    }
    return status;
}

void mcs_device_close(mcs_client_t *client)
{
    if (client->space_ops != NULL) {
        client->space_ops->close(client->space);
        client->space_ops = NULL;
        client->device_active = &g_never;
    }
}

void mcs_device_retired(void *client, void *base)
{
    mcs_client_t *self = client;
    self->space_ops->forget_host(self->space, base);
}

mcs_status_t mcs_device_open_far(void *client, const mcs_mem_share_t *share, int fd, mcs_far_t *far_out)
{
    mcs_client_t *self = client;
    mcs_mem_far_t *memory;
    if (!mcs_device_active(self)) {
        return MCS_ERR_NOT_SUPPORTED;
    }
    mcs_status_t status = self->space_ops->far_open(self->space, share, fd, &memory);
    if (status == MCS_OK) {
        *far_out = (mcs_far_t){self->space_ops, self->space, memory};
    }
    return status;
}

mcs_status_t mcs_device_make_far(mcs_client_t *client, int device, uint64_t size, mcs_far_t *far_out)
{
    mcs_mem_far_t *memory;
    if (!mcs_device_look(client)) {
        mcs_error(AREA, "segment of %llu bytes on cuda:%d: this process has not started CUDA, or has no such part: %s",
                  (unsigned long long)size, device, mcs_status_name(MCS_ERR_NOT_SUPPORTED));
        return MCS_ERR_NOT_SUPPORTED;
    }
    mcs_status_t status = client->space_ops->far_create(client->space, device, size, &memory);
    if (status == MCS_OK) {
        *far_out = (mcs_far_t){client->space_ops, client->space, memory};
    }
    return status;
}

bool mcs_device_look(mcs_client_t *client)
{
    return client->space_ops != NULL && client->space_ops->look(client->space);
}

bool mcs_device_holds(mcs_client_t *client, const void *ptr)
{
    if (!mcs_device_look(client)) {
        return false;
    }
    mcs_mem_where_t where;
    return client->space_ops->query(client->space, ptr, &where) == MCS_OK && where.device != MCS_MEM_HOST;
}

mcs_status_t mcs_device_register(mcs_client_t *client, const void *ptr, uint64_t len)
{
    return client->space_ops->add_range(client->space, ptr, len);
}

void mcs_device_unregister(mcs_client_t *client, const void *ptr)
{
    if (mcs_device_active(client)) {
        client->space_ops->remove_range(client->space, ptr);
    }
}

bool mcs_device_open_to_rdma(mcs_client_t *client, const void *ptr, uint64_t len)
{
    if (!client->space_ops->open_to_rdma(client->space, ptr, len)) {
        return false;
    }
    __atomic_store_n(&client->device_exposed, true, __ATOMIC_RELAXED);
    return true;
}

/* ---- moves ---- */

static void fail_open(mcs_move_t *moves, size_t count, mcs_status_t status)
{
    for (size_t i = 0; i < count; i++) {
        if (moves[i].status == MCS_ERR_AGAIN) {
            moves[i].status = status;
            moves[i].of_caller = true;
        }
    }
}

bool mcs_device_locate(mcs_client_t *client, mcs_move_t *moves, size_t count, mcs_arena_t *arena)
{
    mcs_mem_span_t *spans = mcs_arena_alloc(arena, count * sizeof(*spans));
    size_t pieces = 0;
    for (size_t i = 0; i < count; i++) {
        pieces += moves[i].iov_count;
    }
    int16_t *devices = mcs_arena_alloc(arena, MCS_MAX(pieces, (size_t)1) * sizeof(*devices));
    if (spans == NULL || devices == NULL) {
        fail_open(moves, count, MCS_ERR_NO_MEMORY);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        spans[i] = (mcs_mem_span_t){.iov = moves[i].iov, .count = moves[i].iov_count, .devices = devices};
        devices += moves[i].iov_count;
    }
    client->space_ops->locate(client->space, spans, count);
    bool any = false;
    for (size_t i = 0; i < count; i++) {
        if (spans[i].status != MCS_OK) {
            fail_open(&moves[i], 1, spans[i].status);
        } else if (spans[i].any_device) {
            moves[i].devices = spans[i].devices;
            any = true;
        }
    }
    return any;
}

static void released(void *mapping)
{
    mcs_mapping_put(mapping);
}

void mcs_device_know(mcs_client_t *client, mcs_mapping_t *mapping)
{
    if (!mcs_mapping_is_plain(mapping)) {
        return;
    }
    mcs_mapping_memory_t memory;
    mcs_mapping_memory(mapping, &memory);
    mcs_mem_host_t host = {
        .base = memory.base,
        .size = memory.size,
        .faulted = memory.faulted,
        .released = released,
        .arg = mcs_mapping_ref(mapping),
    };
    mcs_status_t status = client->space_ops->add_host(client->space, &host);
    if (status != MCS_OK) {
        mcs_mapping_put(mapping); /* another thread was first, or no memory: copies are right without */
        return;
    }
    if (!mcs_mapping_expose(mapping)) {
        client->space_ops->forget_host(client->space, memory.base); /* it has been given up meanwhile */
    }
}

static mcs_status_t copy_bytes(mcs_client_t *client, uint8_t *user, uint8_t *host, uint64_t len, bool to_user)
{
    struct iovec iov = {user, (size_t)len};
    int16_t device = MCS_MEM_HOST;
    if (mcs_device_active(client)) {
        mcs_mem_span_t span = {.iov = &iov, .count = 1, .devices = &device};
        client->space_ops->locate(client->space, &span, 1);
        if (span.status != MCS_OK) {
            return span.status;
        }
    }
    if (device == MCS_MEM_HOST) {
        memcpy(to_user ? user : host, to_user ? host : user, (size_t)len);
        return MCS_OK;
    }
    mcs_mem_piece_t piece = {user, host, len, device, MCS_MEM_NO_BLOCK};
    mcs_mem_copy_t copy = {.to_user = to_user, .pieces = &piece, .count = 1};
    mcs_status_t status = mcs_mem_copy_now(client->space_ops, client->space, &copy);
    if (status == MCS_OK && to_user) {
        mcs_count(&client->counters, bytes_device_read, len);
    } else if (status == MCS_OK) {
        mcs_count(&client->counters, bytes_device_written, len);
    }
    return status;
}

mcs_status_t mcs_device_copy_in(mcs_client_t *client, void *target, const void *user, uint64_t len)
{
    return copy_bytes(client, (uint8_t *)(uintptr_t)user, target, len, false);
}

mcs_status_t mcs_device_copy_out(mcs_client_t *client, void *user, const void *source, uint64_t len)
{
    return copy_bytes(client, user, (uint8_t *)(uintptr_t)source, len, true);
}

/* ---- the cursor ---- */

mcs_device_cursor_t mcs_device_cursor(const mcs_move_t *move, uint64_t skip)
{
    mcs_device_cursor_t cursor = {move->iov, move->devices, move->iov_count, 0};
    while (skip > 0 && cursor.left > 0) {
        uint8_t *user;
        int16_t device;
        skip -= mcs_device_next(&cursor, skip, &user, &device);
    }
    return cursor;
}

uint64_t mcs_device_next(mcs_device_cursor_t *cursor, uint64_t max, uint8_t **user_out, int16_t *device_out)
{
    while (cursor->left > 0 && cursor->at == cursor->iov->iov_len) {
        cursor->iov++;
        cursor->devices += cursor->devices != NULL ? 1 : 0;
        cursor->left--;
        cursor->at = 0;
    }
    if (cursor->left == 0) {
        return 0;
    }
    uint64_t len = MCS_MIN((uint64_t)(cursor->iov->iov_len - cursor->at), max);
    *user_out = (uint8_t *)cursor->iov->iov_base + cursor->at;
    *device_out = cursor->devices != NULL ? *cursor->devices : (int16_t)MCS_MEM_HOST;
    cursor->at += (size_t)len;
    return len;
}

int mcs_device_of_move(const mcs_move_t *move)
{
    mcs_device_cursor_t cursor = mcs_device_cursor(move, 0);
    uint8_t *user;
    int16_t first = MCS_MEM_HOST;
    int16_t device;
    if (move->devices == NULL) {
        return MCS_MEM_HOST;
    }
    for (uint64_t done = 0; done < move->len;) {
        uint64_t len = mcs_device_next(&cursor, move->len - done, &user, &device);
        if (device == MCS_MEM_HOST || (done > 0 && device != first)) {
            return MCS_MEM_HOST;
        }
        first = device;
        done += len;
    }
    return first;
}
