/* Compiler and arithmetic helpers that every file may use. No state, no dependencies. */
#ifndef MCS_BASE_MACROS_H
#define MCS_BASE_MACROS_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MCS_MUST_CHECK                   __attribute__((warn_unused_result))
#define MCS_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))
#define MCS_NONNULL                      __attribute__((nonnull))
#define MCS_NORETURN                     __attribute__((noreturn))
#define MCS_UNUSED                       __attribute__((unused))
#define MCS_HOT                          __attribute__((hot))
#define MCS_LIKELY(x)                    __builtin_expect(!!(x), 1)
#define MCS_UNLIKELY(x)                  __builtin_expect(!!(x), 0)
#define MCS_EXPORT                       __attribute__((visibility("default")))

#define MCS_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
/* What is taken is evaluated twice: no calls that do something (tools/check_banned.py finds some). */
#define MCS_MIN(a, b) ((a) < (b) ? (a) : (b))
#define MCS_MAX(a, b) ((a) > (b) ? (a) : (b))

/* `align` is a power of two. The caller has checked that the result fits. */
#define MCS_ALIGN_UP(x, align)   (((x) + ((align)-1)) & ~((__typeof__(x))(align)-1))
#define MCS_ALIGN_DOWN(x, align) ((x) & ~((__typeof__(x))(align)-1))

#define MCS_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define MCS_CACHE_LINE 64

#define MCS_KIB ((uint64_t)1024)
#define MCS_MIB (1024 * MCS_KIB)
#define MCS_GIB (1024 * MCS_MIB)

/* Clang's thread-safety analysis; empty elsewhere. Use the `&obj->lock` form. */
#if defined(__clang__)
#define MCS_TSA(x) __attribute__((x))
#else
#define MCS_TSA(x)
#endif
#define MCS_CAPABILITY(name) MCS_TSA(capability(name))
#define MCS_ACQUIRE(...)     MCS_TSA(acquire_capability(__VA_ARGS__))
#define MCS_RELEASE(...)     MCS_TSA(release_capability(__VA_ARGS__))
#define MCS_TRY_ACQUIRE(...) MCS_TSA(try_acquire_capability(__VA_ARGS__))
#define MCS_NO_TSA           MCS_TSA(no_thread_safety_analysis)
#if defined(__clang__) && __clang_major__ >= 19
#define MCS_GUARDED_BY(x) __attribute__((guarded_by(x)))
#define MCS_REQUIRES(...) __attribute__((requires_capability(__VA_ARGS__)))
#else
#define MCS_GUARDED_BY(x)
#define MCS_REQUIRES(...)
#endif

/* Of a function whose loads may race by design. It is not looked into for happens-before either. */
#define MCS_NO_TSAN __attribute__((no_sanitize("thread")))

/* An invariant of memory safety: kept in release builds. Never for bad input, which is a status. */
#define MCS_ENSURE(cond)                                                                                               \
    do {                                                                                                               \
        if (MCS_UNLIKELY(!(cond))) {                                                                                   \
            mcs_ensure_failed(#cond, __FILE__, __LINE__);                                                              \
        }                                                                                                              \
    } while (0)

MCS_NORETURN void mcs_ensure_failed(const char *cond, const char *file, int line);

#endif
