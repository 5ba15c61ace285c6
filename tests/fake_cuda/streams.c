/* The fake driver: streams, events, copies and launches. Work waits in its stream until an event behind it is asked
 * for. The default streams are there: the legacy one runs nothing before what was put earlier on streams that are not
 * non-blocking, and they nothing before what it had. */
#include <stdlib.h>
#include <string.h>

#include "tests/fake_cuda/internal.h"

#define DEFAULTS (2 * DEVICES_MAX)
static struct CUstream_st *g_made[FAKE_STREAMS_MAX];
static struct CUstream_st g_defaults[DEFAULTS];
static char g_module;
static char g_functions[3];

/* ---- work ---- */

cuda_stream_t fake_stream_at(int i)
{
    if (i < FAKE_STREAMS_MAX) {
        return g_made[i];
    }
    cuda_stream_t stream = i < FAKE_STREAMS_MAX + DEFAULTS ? &g_defaults[i - FAKE_STREAMS_MAX] : NULL;
    return stream != NULL && stream->last != NULL ? stream : NULL;
}
#define FOR_EACH_STREAM(i) for (int i = 0; i < FAKE_STREAMS_MAX + DEFAULTS; i++)

cuda_stream_t fake_stream(cuda_stream_t handle)
{
    uint64_t number = (uint64_t)(uintptr_t)handle;
    int device = fake_current_device();
    if (number > 2 || device < 0) {
        return handle;
    }
    cuda_stream_t stream = &g_defaults[2 * device + (number == 2)];
    if (stream->last == NULL) {
        *stream = (struct CUstream_st){.device = device, .blocking = true, .legacy = number != 2};
        stream->last = &stream->first;
    }
    return stream;
}

bool fake_is_pending(uint64_t start, uint64_t len)
{
    FOR_EACH_STREAM(i)
    {
        const operation_t *op = fake_stream_at(i) != NULL ? fake_stream_at(i)->first : NULL;
        for (; op != NULL; op = op->next) {
            bool copies = op->event == NULL && op->wait == NULL && op->function == 0;
            if (copies && ((op->target - start < len) || (op->source - start < len))) {
                return true;
            }
        }
    }
    return false;
}

static uint8_t *copy_view(uint64_t ptr, uint64_t id, uint64_t len)
{
    alloc_t *alloc = fake_find_alloc(ptr);
    if ((alloc != NULL ? alloc->id : 0) != id) {
        fake_violate("device memory changed hands while a copy of it was pending");
        return NULL;
    }
    if (alloc != NULL) {
        return len <= alloc->start + alloc->len - ptr ? alloc->bytes + (ptr - alloc->start) : NULL;
    }
    return (uint8_t *)(uintptr_t)ptr;
}

static bool run_one(cuda_stream_t stream);

static void run(operation_t *op)
{
    if (op->event != NULL) {
        if (op->event->serial == op->serial) {
            op->event->stream = NULL; /* it has come to pass */
        }
    } else if (op->wait != NULL) {
        while (op->wait->stream != NULL && op->wait->serial <= op->wait_serial && run_one(op->wait->stream)) {
            /* until it has */
        }
    } else if (op->function != 0) {
        fake_run_kernel(op);
    } else if (op->len > 0) {
        uint8_t *target = copy_view(op->target, op->target_id, op->len);
        const uint8_t *source = copy_view(op->source, op->source_id, op->len);
        if (target != NULL && source != NULL) {
            memmove(target, source, op->len);
        }
    }
}

/* What the default streams make an operation wait for: each was put before it, so this ends. */
static void run_those_before(cuda_stream_t stream, uint64_t serial)
{
    FOR_EACH_STREAM(i)
    {
        cuda_stream_t other = fake_stream_at(i);
        if (other == NULL || other == stream || !other->blocking || other->device != stream->device ||
            (!stream->legacy && !other->legacy)) {
            continue;
        }
        while (other->first != NULL && other->first->serial < serial && run_one(other)) {
            /* the rest is later */
        }
    }
}

/* The oldest operation. False: there is none. */
static bool run_one(cuda_stream_t stream)
{
    if (stream->first != NULL && stream->blocking) {
        run_those_before(stream, stream->first->serial);
    }
    operation_t *op = stream->first;
    if (op == NULL) {
        return false;
    }
    stream->first = op->next;
    if (stream->first == NULL) {
        stream->last = &stream->first;
    }
    run(op);
    free(op);
    g_fake.counts.pending--;
    return true;
}

void fake_drain(cuda_stream_t stream)
{
    if (stream->blocking) {
        run_those_before(stream, g_fake.next_serial + 1);
    }
    while (run_one(stream)) {
        /* until it is empty */
    }
}

static void push(cuda_stream_t stream, operation_t op)
{
    operation_t *copy = malloc(sizeof(*copy));
    *copy = op;
    copy->serial = op.serial != 0 ? op.serial : ++g_fake.next_serial;
    copy->next = NULL;
    *stream->last = copy;
    stream->last = &copy->next;
    g_fake.counts.pending++;
    if ((uint64_t)g_fake.counts.pending > g_fake.counts.most_pending) {
        g_fake.counts.most_pending = (uint64_t)g_fake.counts.pending;
    }
}

/* ---- streams and events ---- */

static int check_stream(cuda_stream_t stream, const char *what)
{
    if (stream == NULL || stream->device != fake_current_device()) {
        fake_violate("%s on a stream of another device than the current context's", what);
        return 400;
    }
    return CUDA_OK;
}

static int make_stream(cuda_stream_t *stream, bool blocking)
{
    for (int i = 0; i < FAKE_STREAMS_MAX; i++) {
        if (g_made[i] == NULL) {
            struct CUstream_st *made = calloc(1, sizeof(*made));
            made->device = fake_current_device();
            made->blocking = blocking;
            made->last = &made->first;
            g_made[i] = made;
            g_fake.counts.streams++;
            *stream = made;
            return CUDA_OK;
        }
    }
    return CUDA_OUT_OF_MEMORY;
}

/* The store's. */
FAKE_API int cuStreamCreateWithPriority(cuda_stream_t *stream, unsigned flags, int priority);
FAKE_API int cuStreamCreateWithPriority(cuda_stream_t *stream, unsigned flags, int priority)
{
    (void)priority;
    ENTER(true);
    if ((flags & CUDA_STREAM_NON_BLOCKING) == 0) {
        fake_violate("a stream that waits for the default stream");
    }
    return fake_leave(make_stream(stream, false));
}

/* A program's. */
FAKE_API int cuStreamCreate(cuda_stream_t *stream, unsigned flags);
FAKE_API int cuStreamCreate(cuda_stream_t *stream, unsigned flags)
{
    ENTER(true);
    return fake_leave(make_stream(stream, (flags & CUDA_STREAM_NON_BLOCKING) == 0));
}

FAKE_API int cuStreamDestroy_v2(cuda_stream_t stream);
FAKE_API int cuStreamDestroy_v2(cuda_stream_t stream)
{
    ENTER_UNDO(result);
    fake_drain(stream); /* what is there is finished */
    for (int i = 0; i < FAKE_STREAMS_MAX; i++) {
        if (g_made[i] == stream) {
            g_made[i] = NULL;
        }
    }
    free(stream);
    g_fake.counts.streams--;
    return fake_leave(result);
}

FAKE_API int cuEventCreate(cuda_event_t *event, unsigned flags);
FAKE_API int cuEventCreate(cuda_event_t *event, unsigned flags)
{
    (void)flags;
    ENTER(true);
    *event = calloc(1, sizeof(**event));
    (*event)->device = fake_current_device();
    g_fake.counts.events++;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuEventDestroy_v2(cuda_event_t event);
FAKE_API int cuEventDestroy_v2(cuda_event_t event)
{
    ENTER_UNDO(result);
    if (event->stream != NULL) {
        if (g_fake.broken[event->stream->device] == 0) {
            fake_violate("an event destroyed before it came to pass");
        }
        while (event->stream != NULL && run_one(event->stream)) {
            /* so that no operation is left that names it */
        }
    }
    FOR_EACH_STREAM(i) /* those that wait for it have nothing to wait for any more */
    {
        operation_t *op = fake_stream_at(i) != NULL ? fake_stream_at(i)->first : NULL;
        for (; op != NULL; op = op->next) {
            op->wait = op->wait == event ? NULL : op->wait;
        }
    }
    free(event);
    g_fake.counts.events--;
    return fake_leave(result);
}

FAKE_API int cuEventRecord(cuda_event_t event, cuda_stream_t stream);
FAKE_API int cuEventRecord(cuda_event_t event, cuda_stream_t stream)
{
    ENTER(true);
    stream = fake_stream(stream);
    int result = check_stream(stream, "event");
    if (result == CUDA_OK) {
        event->stream = stream;
        event->recorded = true;
        event->serial = ++g_fake.next_serial;
        push(stream, (operation_t){.event = event, .serial = event->serial});
    }
    return fake_leave(result);
}

FAKE_API int cuStreamWaitEvent(cuda_stream_t stream, cuda_event_t event, unsigned flags);
FAKE_API int cuStreamWaitEvent(cuda_stream_t stream, cuda_event_t event, unsigned flags)
{
    (void)flags;
    ENTER(true);
    stream = fake_stream(stream);
    if (event->stream != NULL) {
        push(stream, (operation_t){.wait = event, .wait_serial = event->serial});
    }
    return fake_leave(CUDA_OK);
}

/* One operation is done for each question. */
FAKE_API int cuEventQuery(cuda_event_t event);
FAKE_API int cuEventQuery(cuda_event_t event)
{
    ENTER(false);
    if (!event->recorded) {
        fake_violate("an event was asked for that was never recorded");
    }
    int device = event->device;
    if (event->stream != NULL) {
        (void)run_one(event->stream);
    }
    int result = event->stream != NULL ? CUDA_NOT_READY : CUDA_OK;
    return fake_leave(g_fake.broken[device] != 0 ? g_fake.broken[device] : result);
}

FAKE_API int cuEventSynchronize(cuda_event_t event);
FAKE_API int cuEventSynchronize(cuda_event_t event)
{
    ENTER(true);
    g_fake.counts.synchronized++;
    while (event->stream != NULL && run_one(event->stream)) {
        /* until it comes to pass */
    }
    int device = fake_current_device();
    return fake_leave(g_fake.broken[device]);
}

/* ---- copies ---- */

typedef struct side {
    uint64_t id;
    bool pinned;
    bool bad;
} side_t;

static side_t look_at(uint64_t ptr, uint64_t len, int device)
{
    const alloc_t *alloc = fake_find_alloc(ptr);
    if (alloc != NULL) {
        side_t side = {.id = alloc->id, .pinned = true, .bad = len > alloc->start + alloc->len - ptr};
        if (side.bad) {
            fake_violate("a copy leaves its allocation");
        } else if (alloc->device != device && (alloc->peers >> device & 1) == 0) {
            fake_violate("a copy of device %d's memory on device %d", alloc->device, device);
        }
        return side;
    }
    const host_range_t *host = fake_find_host(ptr);
    if (host == NULL) {
        const host_range_t *other = fake_find_host(ptr + len - 1);
        if (other != NULL) {
            fake_violate("a copy from unpinned into pinned memory of the host");
        }
        return (side_t){.bad = other != NULL};
    }
    side_t side = {.pinned = true, .bad = len > host->start + host->len - ptr};
    if (side.bad) {
        fake_violate("a copy leaves its registration");
    }
    return side;
}

static int enqueue_copy(uint64_t target, uint64_t source, uint64_t len, cuda_stream_t stream, bool batch)
{
    side_t to = look_at(target, len, stream->device);
    side_t from = look_at(source, len, stream->device);
    if (to.bad || from.bad) {
        return CUDA_BAD_VALUE;
    }
    operation_t op = {.target = target, .source = source, .len = len, .target_id = to.id, .source_id = from.id};
    if (to.pinned && from.pinned) {
        push(stream, op);
        return CUDA_OK;
    }
    if (batch) {
        fake_violate("unpinned memory in a batch");
        return CUDA_BAD_VALUE;
    }
    /* Pageable memory: the driver is done with it when the call returns. */
    g_fake.counts.unpinned_copies++;
    fake_drain(stream); /* in order */
    run(&op);
    return CUDA_OK;
}

FAKE_API int cuMemcpyAsync(cuda_ptr_t target, cuda_ptr_t source, size_t len, cuda_stream_t stream);
FAKE_API int cuMemcpyAsync(cuda_ptr_t target, cuda_ptr_t source, size_t len, cuda_stream_t stream)
{
    ENTER(true);
    stream = stream != NULL ? fake_stream(stream) : NULL; /* nobody here means the default stream by accident */
    int result = check_stream(stream, "copy");
    g_fake.counts.copies++;
    return fake_leave(result != CUDA_OK ? result : enqueue_copy(target, source, len, stream, false));
}

static int batch(cuda_ptr_t *targets, cuda_ptr_t *sources, size_t *lens, size_t count,
                 const cuda_copy_attributes_t *attributes, const size_t *from, size_t attribute_count,
                 cuda_stream_t stream)
{
    int result = check_stream(stream, "batch");
    if (attribute_count != 1 || from[0] != 0 || attributes[0].order != CUDA_COPY_ORDER_STREAM) {
        fake_violate("a batch with attributes that are not understood here");
        result = CUDA_BAD_VALUE;
    }
    g_fake.counts.batches++;
    for (size_t i = 0; i < count && result == CUDA_OK; i++) {
        result = enqueue_copy(targets[i], sources[i], lens[i], stream, true);
    }
    return result;
}

FAKE_API int cuMemcpyBatchAsync_v2(cuda_ptr_t *targets, cuda_ptr_t *sources, size_t *lens, size_t count,
                                   cuda_copy_attributes_t *attributes, size_t *from, size_t attribute_count,
                                   cuda_stream_t stream);
FAKE_API int cuMemcpyBatchAsync_v2(cuda_ptr_t *targets, cuda_ptr_t *sources, size_t *lens, size_t count,
                                   cuda_copy_attributes_t *attributes, size_t *from, size_t attribute_count,
                                   cuda_stream_t stream)
{
    ENTER(true);
    return fake_leave(batch(targets, sources, lens, count, attributes, from, attribute_count, stream));
}

FAKE_API int cuMemcpyBatchAsync(cuda_ptr_t *targets, cuda_ptr_t *sources, size_t *lens, size_t count,
                                cuda_copy_attributes_t *attributes, size_t *from, size_t attribute_count,
                                size_t *failed, cuda_stream_t stream);
FAKE_API int cuMemcpyBatchAsync(cuda_ptr_t *targets, cuda_ptr_t *sources, size_t *lens, size_t count,
                                cuda_copy_attributes_t *attributes, size_t *from, size_t attribute_count,
                                size_t *failed, cuda_stream_t stream)
{
    (void)failed;
    ENTER(true);
    return fake_leave(batch(targets, sources, lens, count, attributes, from, attribute_count, stream));
}

/* For programs in Python. */
FAKE_API int cuMemcpyHtoD_v2(cuda_ptr_t target, const void *source, size_t len);
FAKE_API int cuMemcpyHtoD_v2(cuda_ptr_t target, const void *source, size_t len)
{
    ENTER(true);
    const alloc_t *alloc = fake_find_alloc(target);
    if (alloc == NULL || len > alloc->start + alloc->len - target) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    memcpy(alloc->bytes + (target - alloc->start), source, len);
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemcpyDtoH_v2(void *target, cuda_ptr_t source, size_t len);
FAKE_API int cuMemcpyDtoH_v2(void *target, cuda_ptr_t source, size_t len)
{
    ENTER(true);
    const alloc_t *alloc = fake_find_alloc(source);
    if (alloc == NULL || len > alloc->start + alloc->len - source) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    memcpy(target, alloc->bytes + (source - alloc->start), len);
    return fake_leave(CUDA_OK);
}

/* ---- kernels ---- */

FAKE_API int cuModuleLoadData(cuda_module_t *module, const void *image);
FAKE_API int cuModuleLoadData(cuda_module_t *module, const void *image)
{
    ENTER(true);
    if (image == NULL) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    *module = (cuda_module_t)(void *)&g_module;
    g_fake.counts.modules++;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuModuleUnload(cuda_module_t module);
FAKE_API int cuModuleUnload(cuda_module_t module)
{
    (void)module;
    ENTER_UNDO(result);
    g_fake.counts.modules--;
    return fake_leave(result);
}

FAKE_API int cuModuleGetFunction(cuda_function_t *function, cuda_module_t module, const char *name);
FAKE_API int cuModuleGetFunction(cuda_function_t *function, cuda_module_t module, const char *name)
{
    (void)module;
    ENTER(true);
    int which = strcmp(name, "mcs_copy_rows") == 0 ? 1 : strcmp(name, "mcs_crc_rows") == 0 ? 2 : 0;
    *function = (cuda_function_t)(void *)&g_functions[which];
    return fake_leave(which != 0 ? CUDA_OK : 500);
}

FAKE_API int cuLaunchKernel(cuda_function_t function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                            cuda_stream_t stream, void **parameters, void **extra);
FAKE_API int cuLaunchKernel(cuda_function_t function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                            cuda_stream_t stream, void **parameters, void **extra)
{
    (void)shared_bytes;
    (void)extra;
    ENTER(true);
    int result = check_stream(stream, "launch");
    int which = (int)((char *)function - g_functions);
    if (grid_x == 0 || grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 ||
        block_x != (which == 1 ? 256u : 128u)) {
        fake_violate("a launch with other threads than the kernel is written for");
        result = CUDA_BAD_VALUE;
    }
    if (result == CUDA_OK) {
        g_fake.counts.launches++;
        push(stream, (operation_t){.function = which,
                                   .rows = *(uint64_t *)parameters[0],
                                   .count = *(uint32_t *)parameters[1],
                                   .crcs = which == 2 ? *(uint64_t *)parameters[2] : 0});
    }
    return fake_leave(result);
}

/* Of everything when NULL: the default stream waits for all here. */
FAKE_API int cuStreamSynchronize(cuda_stream_t stream);
FAKE_API int cuStreamSynchronize(cuda_stream_t stream)
{
    ENTER(true);
    FOR_EACH_STREAM(i)
    {
        cuda_stream_t other = fake_stream_at(i);
        if (other != NULL && (stream == NULL || other == fake_stream(stream))) {
            fake_drain(other);
        }
    }
    return fake_leave(CUDA_OK);
}

FAKE_API int cuMemcpyDtoD_v2(cuda_ptr_t target, cuda_ptr_t source, size_t len);
FAKE_API int cuMemcpyDtoD_v2(cuda_ptr_t target, cuda_ptr_t source, size_t len)
{
    ENTER(true);
    uint8_t *to = fake_device_view(target, len);
    const uint8_t *from = fake_device_view(source, len);
    if (to == NULL || from == NULL) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    memmove(to, from, len);
    return fake_leave(CUDA_OK);
}
