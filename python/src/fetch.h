/* Reading whole values into memory that is made when their sizes are known: objects of Python that own the bytes the
 * library writes into. */
#ifndef MPY_FETCH_H
#define MPY_FETCH_H

#include "python/src/store.h"

/* One for each key. */
typedef struct mpy_fetch {
    size_t count;
    PyObject **objects;    /* NULL where nothing could be read */
    struct iovec *buffers; /* the memory of each object */
    int64_t *results;      /* sizes and codes */
} mpy_fetch_t;

bool mpy_fetch_init(size_t count, mpy_fetch_t *out);
void mpy_fetch_drop(mpy_fetch_t *f);

/* A new object that owns `size` bytes at *memory_out; NULL with an exception. */
typedef PyObject *(*mpy_fetch_make_fn)(size_t size, void **memory_out);
/* Reads f->count keys. A value that was replaced between its lookup and its read is read again. False: an exception. */
bool mpy_fetch_run(mpy_store_t *self, const mcs_bytes_t *keys, mpy_fetch_make_fn make, mpy_fetch_t *f);

#endif
