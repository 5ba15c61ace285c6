/* The only door to the heap (a CI check greps for others). Thread-safe.
 * In test builds every call passes the fault counter of fault.h, so a torture test can fail each allocation in turn.
 * All return NULL when memory is short: callers turn that into MCS_ERR_NO_MEMORY. Sizes of 0 return a valid pointer. */
#ifndef MCS_BASE_ALLOC_H
#define MCS_BASE_ALLOC_H

#include "core/base/macros.h"

void *mcs_malloc(size_t size) MCS_MUST_CHECK;
/* Zeroed; the product is checked for overflow. */
void *mcs_calloc(size_t count, size_t size) MCS_MUST_CHECK;
/* On NULL the old block is unchanged and still the caller's. */
void *mcs_realloc(void *ptr, size_t size) MCS_MUST_CHECK;
/* `align` is a power of two, >= sizeof(void *). Free with mcs_free. */
void *mcs_aligned_alloc(size_t align, size_t size) MCS_MUST_CHECK;
char *mcs_strdup(const char *text) MCS_MUST_CHECK;
char *mcs_strndup(const char *text, size_t len) MCS_MUST_CHECK;
/* printf into a new string; NULL when memory is short. */
char *mcs_asprintf(const char *fmt, ...) MCS_PRINTF(1, 2) MCS_MUST_CHECK;
/* NULL is fine. */
void mcs_free(void *ptr);

/* A new zeroed object of a type. */
#define MCS_NEW(type)              ((type *)mcs_calloc(1, sizeof(type)))
#define MCS_NEW_ARRAY(type, count) ((type *)mcs_calloc((count), sizeof(type)))

#endif
