/* See alloc.h. */
#include "core/base/alloc.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fault.h"

/* No object is larger: refused here, because a sanitizer's allocator ends the program instead of returning NULL. */
static bool refused(size_t size)
{
    return size > PTRDIFF_MAX || mcs_fault_hit(MCS_FAULT_ALLOC);
}

void *mcs_malloc(size_t size)
{
    return refused(size) ? NULL : malloc(size == 0 ? 1 : size);
}

void *mcs_calloc(size_t count, size_t size)
{
    size_t total;
    if (__builtin_mul_overflow(count, size, &total) || refused(total)) {
        return NULL;
    }
    return calloc(1, total == 0 ? 1 : total);
}

void *mcs_realloc(void *ptr, size_t size)
{
    return refused(size) ? NULL : realloc(ptr, size == 0 ? 1 : size);
}

void *mcs_aligned_alloc(size_t align, size_t size)
{
    void *ptr = NULL;
    if (refused(size) || posix_memalign(&ptr, align, size == 0 ? align : size) != 0) {
        return NULL;
    }
    return ptr;
}

char *mcs_strdup(const char *text)
{
    return mcs_strndup(text, strlen(text));
}

char *mcs_strndup(const char *text, size_t len)
{
    char *copy = mcs_malloc(len + 1);
    if (copy != NULL) {
        memcpy(copy, text, len);
        copy[len] = '\0';
    }
    return copy;
}

char *mcs_asprintf(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (len < 0) {
        return NULL;
    }
    char *text = mcs_malloc((size_t)len + 1);
    if (text != NULL) {
        va_start(args, fmt);
        vsnprintf(text, (size_t)len + 1, fmt, args);
        va_end(args);
    }
    return text;
}

void mcs_free(void *ptr)
{
    free(ptr);
}
