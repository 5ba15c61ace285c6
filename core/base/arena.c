/* See arena.h. Chunks form a list, newest first; a piece larger than a chunk gets a chunk of its own. */
#include "core/base/arena.h"

#include <string.h>

#include "core/base/alloc.h"

struct mcs_arena_chunk {
    mcs_arena_chunk_t *next;
    size_t size; /* of bytes[] */
    size_t used;
    _Alignas(16) uint8_t bytes[];
};

void mcs_arena_init(mcs_arena_t *a, size_t chunk_size, size_t cap)
{
    *a = (mcs_arena_t){.cap = cap, .chunk_size = chunk_size};
}

void mcs_arena_fini(mcs_arena_t *a)
{
    for (mcs_arena_chunk_t *c = a->head; c != NULL;) {
        mcs_arena_chunk_t *next = c->next;
        mcs_free(c);
        c = next;
    }
    mcs_arena_init(a, a->chunk_size, a->cap);
}

void mcs_arena_reset(mcs_arena_t *a)
{
    for (mcs_arena_chunk_t *c = a->head; c != NULL && c != a->first;) {
        mcs_arena_chunk_t *next = c->next;
        mcs_free(c);
        c = next;
    }
    a->head = a->first;
    if (a->first != NULL) {
        a->first->used = 0;
    }
    a->used = 0;
}

void *mcs_arena_alloc(mcs_arena_t *a, size_t size)
{
    if (size > SIZE_MAX / 2) { /* rounding up, and the chunk's head, must not wrap around */
        return NULL;
    }
    size = MCS_ALIGN_UP(size == 0 ? (size_t)1 : size, 16);
    if (size > a->cap - MCS_MIN(a->used, a->cap)) {
        return NULL;
    }
    mcs_arena_chunk_t *c = a->head;
    if (c == NULL || size > c->size - c->used) {
        size_t chunk = MCS_MAX(size, a->chunk_size);
        c = mcs_malloc(sizeof(*c) + chunk);
        if (c == NULL) {
            return NULL;
        }
        c->size = chunk;
        c->used = 0;
        c->next = a->head;
        a->head = c;
        if (a->first == NULL) {
            a->first = c;
        }
    }
    void *piece = c->bytes + c->used;
    c->used += size;
    a->used += size;
    return piece;
}

void *mcs_arena_zalloc(mcs_arena_t *a, size_t size)
{
    void *piece = mcs_arena_alloc(a, size);
    if (piece != NULL) {
        memset(piece, 0, size);
    }
    return piece;
}

char *mcs_arena_strndup(mcs_arena_t *a, const char *text, size_t len)
{
    char *copy = len < SIZE_MAX ? mcs_arena_alloc(a, len + 1) : NULL;
    if (copy != NULL) {
        memcpy(copy, text, len);
        copy[len] = '\0';
    }
    return copy;
}
