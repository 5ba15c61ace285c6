/* See tensor_into.h. */
#include "python/src/tensor_into.h"

#include "core/base/alloc.h"

static void *pointer_of(uint64_t address)
{
    return (void *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr) */
}

/* The header's memory is asked about even when it is registered: registered memory may be a device's. */
bool mpy_room_is_there(mpy_store_t *self, uint64_t address, uint64_t size)
{
    mcs_memprobe_t probe;
    mcs_memprobe_init(&probe);
    bool there = size >= MCS_TENSOR_HEADER_SIZE &&
                 mpy_memory_usable(self->memory, self->store, &probe, pointer_of(address), size, true) &&
                 mcs_memprobe_check(&probe, pointer_of(address), MCS_TENSOR_HEADER_SIZE, true) == MCS_OK;
    mcs_memprobe_fini(&probe);
    return there;
}

typedef struct job {
    size_t count;
    size_t *index;
    mcs_bytes_t *keys;
    struct iovec *room;
    mcs_value_t *values;
    int64_t *results;
} job_t;

static void drop_job(job_t *job)
{
    mcs_free(job->index);
    mcs_free(job->keys);
    mcs_free(job->room);
    mcs_free(job->values);
    mcs_free(job->results);
}

static bool make_job(size_t count, job_t *out)
{
    job_t job = {.index = mpy_calloc(count, sizeof(*job.index)),
                 .keys = mpy_calloc(count, sizeof(*job.keys)),
                 .room = mpy_calloc(count, sizeof(*job.room)),
                 .values = mpy_calloc(count, sizeof(*job.values)),
                 .results = mpy_calloc(count, sizeof(*job.results))};
    if (job.index == NULL || job.keys == NULL || job.room == NULL || job.values == NULL || job.results == NULL) {
        drop_job(&job);
        return false;
    }
    *out = job;
    return true;
}

/* Those whose memory may be written. Without the GIL. */
static void run_job(mpy_store_t *self, const mcs_bytes_t *keys, const uint64_t *addresses, const uint64_t *sizes,
                    size_t count, job_t *job)
{
    for (size_t i = 0; i < count; i++) {
        if (mpy_room_is_there(self, addresses[i], sizes[i])) {
            job->index[job->count] = i;
            job->keys[job->count] = keys[i];
            job->room[job->count] = (struct iovec){pointer_of(addresses[i]), sizes[i]};
            job->values[job->count] = (mcs_value_t){.iov = &job->room[job->count], .iov_count = 1};
            job->count++;
        }
    }
    if (job->count > 0) {
        mcs_get_into(self->store, job->keys, job->values, job->count, job->results);
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
        mcs_tensor_header_t header;
        char *at = job.room[j].iov_base;
        if (job.results[j] < 0 || mcs_tensor_parse(at, (uint64_t)job.results[j], &header) != MCS_OK ||
            (fits != NULL && !fits(arg, &header))) {
            continue;
        }
        size_t i = job.index[j];
        tensors[i] = mpy_tensor_new(mpy_store_state(self), &header, at + MCS_TENSOR_HEADER_SIZE, false, NULL);
        ok = tensors[i] != NULL;
    }
    for (size_t i = 0; !ok && i < count; i++) {
        Py_CLEAR(tensors[i]);
    }
    drop_job(&job);
    return ok;
}
