/* See ucx_env.h. */
#include "ucx_transport/ucx_env.h"

#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"

static char g_hook_mode[] = "UCX_MEM_MMAP_HOOK_MODE=none";
static char g_mem_events[] = "UCX_MEM_EVENTS=n";
static char g_malloc_hooks[] = "UCX_MEM_MALLOC_HOOKS=n";
static char g_cuda_hooks[] = "UCX_MEM_CUDA_HOOK_MODE=none";
static char g_handle_errors[] = "UCX_HANDLE_ERRORS=none";
static char g_error_signals[] = "UCX_ERROR_SIGNALS=";
static char g_log_level[] = "UCX_LOG_LEVEL=fatal";
static char g_mem_log_level[] = "UCX_MEM_LOG_LEVEL=fatal";
static char g_vfs[] = "UCX_VFS_ENABLE=n";
static char g_unused[] = "UCX_WARN_UNUSED_ENV_VARS=n";
static char *const g_options[] = {g_hook_mode,     g_mem_events, g_malloc_hooks,  g_cuda_hooks, g_handle_errors,
                                  g_error_signals, g_log_level,  g_mem_log_level, g_vfs,        g_unused};

/* Copies of earlier loads, which had failed: kept, and findable by a leak checker. */
typedef struct env_copy {
    struct env_copy *former;
    char *entries[];
} env_copy_t;
static env_copy_t *g_copy;
static char **g_real; /* NULL: not inside */

/* Does `entry` set the variable that `option` sets? */
static bool same_name(const char *entry, const char *option)
{
    size_t len = (size_t)(strchr(option, '=') - option) + 1;
    return strncmp(entry, option, len) == 0;
}

void ucxt_env_enter(void)
{
    char **real = environ;
    size_t count = 0;
    while (real != NULL && real[count] != NULL) {
        count++;
    }
    env_copy_t *copy = mcs_calloc(1, sizeof(*copy) + (count + MCS_ARRAY_LEN(g_options) + 1) * sizeof(copy->entries[0]));
    if (copy == NULL) {
        return; /* UCX is loaded all the same, with its own defaults */
    }
    for (size_t i = 0; i < count; i++) {
        copy->entries[i] = real[i];
    }
    size_t used = count;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_options); i++) {
        bool set = false;
        for (size_t k = 0; k < count && !set; k++) {
            set = same_name(real[k], g_options[i]);
        }
        if (!set) {
            copy->entries[used++] = g_options[i];
        }
    }
    copy->former = g_copy;
    g_copy = copy;
    g_real = real;
    __atomic_store_n(&environ, copy->entries, __ATOMIC_RELEASE);
}

void ucxt_env_leave(void)
{
    if (g_copy == NULL || g_real == NULL) {
        return;
    }
    /* Somebody who called setenv meanwhile has made an array of his own: that one stays. */
    char **ours = g_copy->entries;
    __atomic_compare_exchange_n(&environ, &ours, g_real, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    g_real = NULL;
}
