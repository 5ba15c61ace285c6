/* Bump allocator for the life of one request: pieces are never freed alone; reset keeps the first chunk. Not
 * thread-safe. Bounded: a request that wants more than `cap` gets NULL. Pieces are 16-byte aligned. */
#ifndef MCS_BASE_ARENA_H
#define MCS_BASE_ARENA_H

#include "core/base/macros.h"

typedef struct mcs_arena_chunk mcs_arena_chunk_t;

typedef struct mcs_arena {
    mcs_arena_chunk_t *head;  /* newest chunk; allocation happens here */
    mcs_arena_chunk_t *first; /* kept by reset */
    size_t used;              /* bytes handed out since the last reset */
    size_t cap;
    size_t chunk_size;
} mcs_arena_t;

/* `cap` bounds the bytes handed out between resets. Takes no memory until the first piece. */
void mcs_arena_init(mcs_arena_t *a, size_t chunk_size, size_t cap);
void mcs_arena_fini(mcs_arena_t *a);
void mcs_arena_reset(mcs_arena_t *a);
/* NULL when the cap is reached or memory is short. Not zeroed. */
void *mcs_arena_alloc(mcs_arena_t *a, size_t size) MCS_MUST_CHECK;
void *mcs_arena_zalloc(mcs_arena_t *a, size_t size) MCS_MUST_CHECK;
char *mcs_arena_strndup(mcs_arena_t *a, const char *text, size_t len) MCS_MUST_CHECK;

#endif
