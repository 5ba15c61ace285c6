/* The entries of the C API that are about GPUs alone: what an address is, waiting for streams, memory of a device. See
 * mcstore.h. */
#include "core/base/alloc.h"
#include "core/base/thread.h"
#include "core/client/device.h"
#include "core/client/store_entry.h"

int mcs_is_device_memory(mcs_store_t *store, const void *ptr)
{
    mcs_entry_t entry;
    mcs_client_t *client = mcs_store_enter(store, &entry);
    if (client == NULL) {
        return 0;
    }
    bool device = mcs_device_holds(client, ptr);
    mcs_store_leave(&entry);
    return device;
}

int mcs_device_order_stream(mcs_store_t *store, int device, uint64_t *stream_out)
{
    mcs_entry_t entry;
    mcs_client_t *client = mcs_store_enter(store, &entry);
    if (client == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (mcs_device_look(client)) {
        status = client->space_ops->order_stream(client->space, device, stream_out);
    }
    mcs_store_leave(&entry);
    return mcs_status_public(status);
}

int mcs_device_wait_stream(mcs_store_t *store, int device, uint64_t stream)
{
    mcs_entry_t entry;
    mcs_client_t *client = mcs_store_enter(store, &entry);
    if (client == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_status_t status = MCS_ERR_INVALID_PARAMS;
    if (mcs_device_look(client)) {
        status = client->space_ops->wait_stream(client->space, device, stream);
    }
    mcs_store_leave(&entry);
    return mcs_status_public(status);
}

int mcs_device_of_memory(mcs_store_t *store, const void *ptr)
{
    mcs_entry_t entry;
    mcs_mem_where_t where;
    mcs_client_t *client = mcs_store_enter(store, &entry);
    if (client == NULL) {
        return MCS_INVALID_PARAMS;
    }
    int device = MCS_INVALID_PARAMS;
    if (mcs_device_look(client) && client->space_ops->query(client->space, ptr, &where) == MCS_OK &&
        where.device != MCS_MEM_HOST) {
        device = where.device;
    }
    mcs_store_leave(&entry);
    return device;
}

static int copy(mcs_store_t *store, const void *device_side, void *target, const void *source, uint64_t len,
                mcs_status_t (*call)(mcs_client_t *client, void *target, const void *source, uint64_t len))
{
    mcs_entry_t entry;
    mcs_client_t *client = mcs_store_enter(store, &entry);
    if (client == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_status_t status =
        mcs_device_holds(client, device_side) ? call(client, target, source, len) : MCS_ERR_INVALID_PARAMS;
    mcs_store_leave(&entry);
    return mcs_status_public(status);
}

int mcs_device_read(mcs_store_t *store, void *target, const void *source, uint64_t len)
{
    return copy(store, source, target, source, len, mcs_device_copy_in);
}

int mcs_device_write(mcs_store_t *store, void *target, const void *source, uint64_t len)
{
    return copy(store, target, target, source, len, mcs_device_copy_out);
}

/* ---- memory ---- */

/* Opaque to callers: it is the space's block and the table that knows what to do with it. */
struct mcs_device_memory {
    uint64_t process; /* rule 11 */
    const mcs_mem_space_ops_t *ops;
    mcs_mem_block_t *block;
};

static mcs_status_t allocate(mcs_client_t *client, int device, uint64_t len, mcs_device_memory_t *memory)
{
    memory->process = mcs_process_token();
    memory->ops = client->space_ops;
    if (len == 0 || memory->ops == NULL) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (!memory->ops->start(client->space)) {
        return MCS_ERR_NOT_SUPPORTED;
    }
    return memory->ops->block_alloc(client->space, device, len, &memory->block);
}

int mcs_device_memory_alloc(mcs_store_t *store, int device, uint64_t len, mcs_device_memory_t **memory_out)
{
    mcs_entry_t entry;
    mcs_client_t *client = mcs_store_enter(store, &entry);
    if (client == NULL) {
        return MCS_INVALID_PARAMS;
    }
    mcs_device_memory_t *memory = MCS_NEW(mcs_device_memory_t);
    mcs_status_t status = memory != NULL ? allocate(client, device, len, memory) : MCS_ERR_NO_MEMORY;
    mcs_store_leave(&entry);
    if (status == MCS_OK) {
        *memory_out = memory;
    } else {
        mcs_free(memory);
    }
    return mcs_status_public(status);
}

void *mcs_device_memory_ptr(const mcs_device_memory_t *memory)
{
    return memory->block->ptr;
}

int mcs_device_memory_read(const mcs_device_memory_t *memory, uint64_t offset, void *target, uint64_t len)
{
    if (memory->process != mcs_process_token()) {
        return MCS_INVALID_PARAMS;
    }
    return mcs_status_public(memory->ops->block_copy(memory->block, offset, target, len));
}

int mcs_device_memory_copy(const mcs_device_memory_t *memory, uint64_t offset, uint64_t len,
                           mcs_device_memory_t **copy_out)
{
    if (memory->process != mcs_process_token() || len == 0) {
        return MCS_INVALID_PARAMS;
    }
    mcs_device_memory_t *copy = MCS_NEW(mcs_device_memory_t);
    if (copy == NULL) {
        return mcs_status_public(MCS_ERR_NO_MEMORY);
    }
    *copy = *memory;
    const mcs_mem_block_t *from = memory->block;
    mcs_status_t status = memory->ops->block_alloc(from->space, from->device, len, &copy->block);
    if (status == MCS_OK) {
        status = memory->ops->block_copy(from, offset, copy->block->ptr, len);
        if (status != MCS_OK) {
            memory->ops->block_free(copy->block);
        }
    }
    if (status == MCS_OK) {
        *copy_out = copy;
    } else {
        mcs_free(copy);
    }
    return mcs_status_public(status);
}

void mcs_device_memory_free(mcs_device_memory_t *memory)
{
    if (memory != NULL && memory->process == mcs_process_token()) {
        memory->ops->block_free(memory->block);
        mcs_free(memory);
    }
}
