/* Which of the caller's addresses may be touched: the buffers that were registered, and the rest by asking the kernel
 * (core/base/memprobe.h). Thread-safe without the GIL: the checks run while it is released. */
#ifndef MPY_MEMORY_H
#define MPY_MEMORY_H

#include "core/base/memprobe.h"
#include "mcstore/mcstore.h"

typedef struct mpy_memory mpy_memory_t;

mpy_memory_t *mpy_memory_create(void);         /* NULL when memory is short */
void mpy_memory_destroy(mpy_memory_t *memory); /* NULL is fine */
/* After the library accepted the range. Best effort: what does not fit in memory is merely checked at each call. */
void mpy_memory_add(mpy_memory_t *memory, const void *ptr, uint64_t len);
void mpy_memory_remove(mpy_memory_t *memory, const void *ptr);
void mpy_memory_clear(mpy_memory_t *memory);
/* [ptr, ptr + len) lies in one registered buffer. */
bool mpy_memory_registered(mpy_memory_t *memory, uint64_t ptr, uint64_t len);
/* The library takes the range: every byte of it may be read (written, with `write`), or it is a GPU's, which the
 * library checks further (`store` NULL: not that). `probe` remembers within one call. */
bool mpy_memory_usable(mpy_memory_t *memory, mcs_store_t *store, mcs_memprobe_t *probe, const void *ptr, uint64_t len,
                       bool write);

#endif
