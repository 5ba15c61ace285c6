/* See fetch.h. */
#include "python/src/fetch.h"

#include "core/base/alloc.h"

/* An object may be replaced by one of another size between the lookup and the read; then the read fails and is begun
 * again. Each time somebody's upsert has gone forward; a miss would be wrong (rule 2). */
#define GET_RETRIES   32
#define LEASE_EXPIRED (-707)

void mpy_fetch_drop(mpy_fetch_t *f)
{
    for (size_t i = 0; f->objects != NULL && i < f->count; i++) {
        Py_XDECREF(f->objects[i]);
    }
    mcs_free(f->objects);
    mcs_free(f->buffers);
    mcs_free(f->results);
}

bool mpy_fetch_init(size_t count, mpy_fetch_t *out)
{
    mpy_fetch_t f = {.count = count,
                     .objects = mpy_calloc(count, sizeof(*f.objects)),
                     .buffers = mpy_calloc(count, sizeof(*f.buffers)),
                     .results = mpy_calloc(count, sizeof(*f.results))};
    if (f.objects == NULL || f.buffers == NULL || f.results == NULL) {
        mpy_fetch_drop(&f);
        return false;
    }
    *out = f;
    return true;
}

/* New memory for each object that was found. */
static bool allocate_objects(const mcs_get_t *get, mpy_fetch_make_fn make, mpy_fetch_t *f)
{
    for (size_t i = 0; i < f->count; i++) {
        int64_t size = mcs_get_object_size(get, i);
        f->results[i] = size;
        f->buffers[i] = (struct iovec){0};
        Py_CLEAR(f->objects[i]);
        if (size < 0) {
            continue;
        }
        f->objects[i] = make((size_t)size, &f->buffers[i].iov_base);
        f->buffers[i].iov_len = (size_t)size;
        if (f->objects[i] == NULL) {
            return false;
        }
    }
    return true;
}

/* One lookup and read of all keys. False: an exception. *found_out false: nothing could be looked up. */
static bool fetch_once(mpy_store_t *self, const mcs_bytes_t *keys, mpy_fetch_make_fn make, mpy_fetch_t *f,
                       bool *found_out)
{
    mpy_call_t call;
    mpy_call_begin(&call);
    mcs_get_t *get = mcs_get_begin(self->store, keys, f->count);
    bool ok = mpy_call_end(&call);
    *found_out = get != NULL;
    if (get == NULL) {
        for (size_t i = 0; i < f->count; i++) {
            f->results[i] = MCS_INVALID_PARAMS;
        }
        return ok;
    }
    ok = ok && allocate_objects(get, make, f);
    mpy_call_begin(&call);
    if (ok) {
        mcs_get_run(get, f->buffers, f->results);
    }
    mcs_get_end(get);
    return mpy_call_end(&call) && ok;
}

static bool is_whole(const mpy_fetch_t *f, size_t i)
{
    return f->objects[i] != NULL && f->results[i] == (int64_t)f->buffers[i].iov_len;
}

/* A failure that another lookup may turn into a success: the value was there, and changed under the read. */
static bool changed_meanwhile(const mpy_fetch_t *f, size_t i)
{
    return f->objects[i] != NULL && (f->results[i] == MCS_INVALID_PARAMS || f->results[i] == LEASE_EXPIRED);
}

bool mpy_fetch_run(mpy_store_t *self, const mcs_bytes_t *keys, mpy_fetch_make_fn make, mpy_fetch_t *f)
{
    bool found;
    if (!fetch_once(self, keys, make, f, &found)) {
        return false;
    }
    for (size_t i = 0; i < f->count; i++) {
        mpy_fetch_t one = {.count = 1, .objects = &f->objects[i], .buffers = &f->buffers[i], .results = &f->results[i]};
        for (int again = 0; found && again < GET_RETRIES && changed_meanwhile(&one, 0); again++) {
            if (!fetch_once(self, &keys[i], make, &one, &found)) {
                return false;
            }
        }
        if (!is_whole(f, i)) {
            Py_CLEAR(f->objects[i]);
        }
    }
    return true;
}
