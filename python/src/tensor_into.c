/* See tensor_into.h. */
#include "python/src/tensor_into.h"

#include "core/base/alloc.h"

static void *pointer_of(uint64_t address)
{
    return (void *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr) */
}

/* The header's memory is asked about even when it is registered: registered memory may be a device's. */
bool mpy_room_is_there(mpy_store_t *self, uint64_t address, uint64_t size, int *device_out)
{
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    int device = mcs_device_of_memory(self->store, pointer_of(address));
    bool there =
        size >= MCS_TENSOR_HEADER_SIZE &&
        mpy_memory_usable(self->memory, self->store, &probe, pointer_of(address), size, true) &&
        (device >= 0 || mcs_memprobe_check(&probe, pointer_of(address), MCS_TENSOR_HEADER_SIZE, true) == MCS_OK);
    mcs_memprobe_fini(&probe);
    *device_out = device >= 0 ? device : MPY_ON_HOST;
    return there;
}

typedef struct job {
    size_t count;
    size_t *index;
    mcs_bytes_t *keys;
    struct iovec *room;
    mcs_value_t *values;
    int *devices;
    mcs_tensor_header_t *headers;
    int64_t *results;
} job_t;

static void drop_job(job_t *job)
{
    mcs_free(job->index);
    mcs_free(job->keys);
    mcs_free(job->room);
    mcs_free(job->values);
    mcs_free(job->devices);
    mcs_free(job->headers);
    mcs_free(job->results);
}

static bool make_job(size_t count, job_t *out)
{
    job_t job = {.index = mpy_calloc(count, sizeof(*job.index)),
                 .keys = mpy_calloc(count, sizeof(*job.keys)),
                 .room = mpy_calloc(count, sizeof(*job.room)),
                 .values = mpy_calloc(count, sizeof(*job.values)),
                 .devices = mpy_calloc(count, sizeof(*job.devices)),
                 .headers = mpy_calloc(count, sizeof(*job.headers)),
                 .results = mpy_calloc(count, sizeof(*job.results))};
    if (job.index == NULL || job.keys == NULL || job.room == NULL || job.values == NULL || job.devices == NULL ||
        job.headers == NULL || job.results == NULL) {
        drop_job(&job);
        return false;
    }
    *out = job;
    return true;
}

/* What was read to room j begins with a tensor's header. */
static bool take_header(mpy_store_t *self, job_t *job, size_t j)
{
    mcs_tensor_header_t *header = &job->headers[j];
    const void *at = job->room[j].iov_base;
    if (job->results[j] < MCS_TENSOR_HEADER_SIZE) {
        return false;
    }
    if (job->devices[j] == MPY_ON_HOST) {
        return mcs_tensor_parse(at, (uint64_t)job->results[j], header) == MCS_OK;
    }
    return mcs_device_read(self->store, header, at, MCS_TENSOR_HEADER_SIZE) == 0 &&
           mcs_tensor_parse(header, (uint64_t)job->results[j], header) == MCS_OK;
}

/* Those whose memory may be written; what is no tensor gets MCS_INVALID_PARAMS. Without the GIL. */
static void run_job(mpy_store_t *self, const mcs_bytes_t *keys, const uint64_t *addresses, const uint64_t *sizes,
                    size_t count, job_t *job)
{
    for (size_t i = 0; i < count; i++) {
        size_t j = job->count;
        if (mpy_room_is_there(self, addresses[i], sizes[i], &job->devices[j])) {
            job->index[j] = i;
            job->keys[j] = keys[i];
            job->room[j] = (struct iovec){pointer_of(addresses[i]), sizes[i]};
            job->values[j] = (mcs_value_t){.iov = &job->room[j], .iov_count = 1};
            job->count++;
        }
    }
    if (job->count > 0) {
        mcs_get_into(self->store, job->keys, job->values, job->count, job->results);
    }
    for (size_t j = 0; j < job->count; j++) {
        job->results[j] = take_header(self, job, j) ? 0 : MCS_INVALID_PARAMS;
    }
}

bool mpy_tensors_into(mpy_store_t *self, const mcs_bytes_t *keys, const uint64_t *addresses, const uint64_t *sizes,
                      size_t count, mpy_header_fits_fn fits, const void *arg, PyObject **tensors)
{
    job_t job;
    for (size_t i = 0; i < count; i++) {
        tensors[i] = NULL;
    }
    if (!make_job(count, &job)) {
        return false;
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    run_job(self, keys, addresses, sizes, count, &job);
    bool ok = mpy_call_end(&call);
    for (size_t j = 0; ok && j < job.count; j++) {
        char *at = job.room[j].iov_base;
        if (job.results[j] != 0 || (fits != NULL && !fits(arg, &job.headers[j]))) {
            continue;
        }
        size_t i = job.index[j];
        tensors[i] = mpy_tensor_new_on(mpy_store_state(self), &job.headers[j], at + MCS_TENSOR_HEADER_SIZE,
                                       job.devices[j], NULL);
        ok = tensors[i] != NULL;
    }
    for (size_t i = 0; !ok && i < count; i++) {
        Py_CLEAR(tensors[i]);
    }
    drop_job(&job);
    return ok;
}
