/* The fake driver: start, errors, faults, devices and contexts. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fake_cuda/internal.h"

fake_t g_fake = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .device_count = 1, .version = 13000, .compute = 90, .pools = true, .next_id = 1};

#define STACK_MAX 16
static _Thread_local struct CUctx_st *t_stack[STACK_MAX];
static _Thread_local int t_depth;

void fake_violate(const char *format, ...)
{
    g_fake.counts.violations++;
    if (g_fake.violation[0] == '\0') {
        va_list args;
        va_start(args, format);
        vsnprintf(g_fake.violation, sizeof(g_fake.violation), format, args);
        va_end(args);
        fprintf(stderr, "fake_cuda: %s\n", g_fake.violation);
    }
}

int fake_current_device(void)
{
    return t_depth > 0 ? t_stack[t_depth - 1]->device : -1;
}

static bool must_fail(const char *name)
{
    if (g_fake.fail_nth == 0 || (g_fake.fail_name[0] != '\0' && strcmp(g_fake.fail_name, name) != 0)) {
        return false;
    }
    if (--g_fake.fail_nth > 0) {
        return false;
    }
    g_fake.fired = true;
    return true;
}

int fake_enter(const char *name, bool needs_context)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.counts.calls++;
    if (!g_fake.started) {
        return fake_leave(CUDA_NOT_INITIALIZED);
    }
    if (must_fail(name)) {
        return fake_leave(g_fake.fail_code);
    }
    int device = fake_current_device();
    if (needs_context && device < 0) {
        fake_violate("%s without a context", name);
        return fake_leave(CUDA_BAD_CONTEXT);
    }
    if (needs_context && g_fake.broken[device] != 0) {
        return fake_leave(g_fake.broken[device]);
    }
    return CUDA_OK;
}

int fake_enter_undo(const char *name)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.counts.calls++;
    return must_fail(name) ? g_fake.fail_code : CUDA_OK;
}

int fake_leave(int result)
{
    pthread_mutex_unlock(&g_fake.lock);
    return result;
}

/* ---- control ---- */

static int number_of(const char *name, int otherwise)
{
    const char *text = getenv(name); /* banned-ok: getenv: not linked with the project's code */
    return text != NULL && *text != '\0' ? (int)strtol(text, NULL, 10) : otherwise;
}

static void __attribute__((constructor)) load(void)
{
    g_fake.device_count = number_of("FAKE_CUDA_DEVICES", 1);
    g_fake.version = number_of("FAKE_CUDA_VERSION", 13000);
    g_fake.started = number_of("FAKE_CUDA_INIT", 0) != 0;
    g_fake.no_vmm = number_of("FAKE_CUDA_NO_VMM", 0) != 0;
    g_fake.rdma = (fake_rdma_t)number_of("FAKE_CUDA_RDMA", FAKE_RDMA_NONE);
    for (int i = 0; i < DEVICES_MAX; i++) {
        g_fake.contexts[i].device = i;
    }
    const char *fail = getenv("FAKE_CUDA_FAIL"); /* banned-ok: getenv: not linked with the project's code */
    unsigned long nth = 0;
    int code = 0;
    char name[64] = "";
    if (fail != NULL && sscanf(fail, "%63[^:]:%lu:%d", name, &nth, &code) == 3) {
        fake_cuda_fail(strcmp(name, "*") == 0 ? NULL : name, nth, code);
    }
}

void fake_cuda_reset(int devices, int version)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.started = true;
    g_fake.device_count = devices;
    g_fake.version = version;
    memset(g_fake.broken, 0, sizeof(g_fake.broken));
    g_fake.fail_nth = 0;
    g_fake.strict_pointers = false;
    g_fake.no_vmm = false;
    g_fake.rdma = FAKE_RDMA_NONE;
    g_fake.compute = 90;
    g_fake.pools = true;
    g_fake.fired = false;
    g_fake.violation[0] = '\0';
    fake_counts_t left = g_fake.counts;
    g_fake.counts = (fake_counts_t){.contexts = left.contexts,
                                    .pushed = left.pushed,
                                    .streams = left.streams,
                                    .events = left.events,
                                    .device_allocs = left.device_allocs,
                                    .host_allocs = left.host_allocs,
                                    .registered = left.registered,
                                    .modules = left.modules,
                                    .pending = left.pending,
                                    .memories = left.memories,
                                    .reserved = left.reserved};
    pthread_mutex_unlock(&g_fake.lock);
}

void fake_cuda_counts(fake_counts_t *counts_out)
{
    pthread_mutex_lock(&g_fake.lock);
    *counts_out = g_fake.counts;
    pthread_mutex_unlock(&g_fake.lock);
}

const char *fake_cuda_violation(void)
{
    return g_fake.violation;
}

void fake_cuda_fail(const char *name, uint64_t nth, int code)
{
    pthread_mutex_lock(&g_fake.lock);
    snprintf(g_fake.fail_name, sizeof(g_fake.fail_name), "%s", name != NULL ? name : "");
    g_fake.fail_nth = nth;
    g_fake.fail_code = code;
    g_fake.fired = false;
    pthread_mutex_unlock(&g_fake.lock);
}

bool fake_cuda_fired(void)
{
    pthread_mutex_lock(&g_fake.lock);
    bool fired = g_fake.fired;
    pthread_mutex_unlock(&g_fake.lock);
    return fired;
}

void fake_cuda_strict_pointers(bool strict)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.strict_pointers = strict;
    pthread_mutex_unlock(&g_fake.lock);
}

void fake_cuda_without_vmm(void)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.no_vmm = true;
    pthread_mutex_unlock(&g_fake.lock);
}

void fake_cuda_rdma(fake_rdma_t rdma)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.rdma = rdma;
    pthread_mutex_unlock(&g_fake.lock);
}

void fake_cuda_capabilities(int compute, bool pools)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.compute = compute;
    g_fake.pools = pools;
    pthread_mutex_unlock(&g_fake.lock);
}

void fake_cuda_break(int device, int code)
{
    pthread_mutex_lock(&g_fake.lock);
    g_fake.broken[device] = code;
    pthread_mutex_unlock(&g_fake.lock);
}

/* ---- start, errors, devices ---- */

FAKE_API int cuInit(unsigned flags);
FAKE_API int cuInit(unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&g_fake.lock);
    g_fake.started = true;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuDriverGetVersion(int *version);
FAKE_API int cuDriverGetVersion(int *version)
{
    *version = g_fake.version;
    return CUDA_OK;
}

FAKE_API int cuGetErrorName(int result, const char **text);
FAKE_API int cuGetErrorName(int result, const char **text)
{
    *text = result == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_FAKE";
    return CUDA_OK;
}

FAKE_API int cuGetErrorString(int result, const char **text);
FAKE_API int cuGetErrorString(int result, const char **text)
{
    (void)result;
    *text = "an error of the fake driver";
    return CUDA_OK;
}

FAKE_API int cuDeviceGetCount(int *count);
FAKE_API int cuDeviceGetCount(int *count)
{
    ENTER(false);
    *count = g_fake.device_count;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuDeviceGet(int *device, int ordinal);
FAKE_API int cuDeviceGet(int *device, int ordinal)
{
    ENTER(false);
    *device = ordinal + 100; /* a handle is no ordinal */
    return fake_leave(ordinal >= 0 && ordinal < g_fake.device_count ? CUDA_OK : CUDA_BAD_VALUE);
}

FAKE_API int cuDeviceGetName(char *name, int size, int device);
FAKE_API int cuDeviceGetName(char *name, int size, int device)
{
    ENTER(false);
    snprintf(name, (size_t)size, "Fake GPU %d", device - 100);
    return fake_leave(CUDA_OK);
}

FAKE_API int cuDeviceGetAttribute(int *value, int attribute, int device);
FAKE_API int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    (void)device;
    ENTER(false);
    switch (attribute) {
    case CUDA_DEVICE_COMPUTE_MAJOR: *value = g_fake.compute / 10; break;
    case CUDA_DEVICE_COMPUTE_MINOR: *value = g_fake.compute % 10; break;
    case CUDA_DEVICE_HAS_POOLS: *value = g_fake.pools; break;
    case CUDA_DEVICE_HAS_VMM:
    case CUDA_DEVICE_HAS_VMM_FDS: *value = !g_fake.no_vmm; break;
    case CUDA_DEVICE_HAS_RDMA: *value = g_fake.rdma != FAKE_RDMA_NONE; break;
    case CUDA_DEVICE_RDMA_FLUSHES: *value = g_fake.rdma == FAKE_RDMA_FLUSHED ? CUDA_RDMA_FLUSH_BY_HOST : 0; break;
    case CUDA_DEVICE_RDMA_ORDERING: *value = g_fake.rdma == FAKE_RDMA_ORDERED ? CUDA_RDMA_ORDERED_FOR_OWNER : 0; break;
    default: *value = 0; break;
    }
    return fake_leave(CUDA_OK);
}

/* ---- contexts ---- */

FAKE_API int cuDevicePrimaryCtxRetain(cuda_context_t *context, int device);
FAKE_API int cuDevicePrimaryCtxRetain(cuda_context_t *context, int device)
{
    ENTER(false);
    if (device < 100 || device - 100 >= g_fake.device_count) {
        return fake_leave(CUDA_BAD_VALUE);
    }
    *context = &g_fake.contexts[device - 100];
    (*context)->retained++;
    g_fake.counts.contexts++;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active);
FAKE_API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active)
{
    ENTER(false);
    *flags = 0;
    *active = g_fake.contexts[device - 100].retained > 0;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuDevicePrimaryCtxRelease_v2(int device);
FAKE_API int cuDevicePrimaryCtxRelease_v2(int device)
{
    ENTER_UNDO(result);
    if (g_fake.contexts[device - 100].retained == 0) {
        fake_violate("context of device %d released too often", device - 100);
        return fake_leave(CUDA_BAD_CONTEXT);
    }
    g_fake.contexts[device - 100].retained--;
    g_fake.counts.contexts--;
    return fake_leave(result);
}

FAKE_API int cuCtxPushCurrent_v2(cuda_context_t context);
FAKE_API int cuCtxPushCurrent_v2(cuda_context_t context)
{
    ENTER(false);
    if (context == NULL || context->retained == 0 || t_depth == STACK_MAX) {
        fake_violate("pushed a context that is not retained");
        return fake_leave(CUDA_BAD_CONTEXT);
    }
    t_stack[t_depth++] = context;
    g_fake.counts.pushed++;
    return fake_leave(CUDA_OK);
}

FAKE_API int cuCtxPopCurrent_v2(cuda_context_t *context);
FAKE_API int cuCtxPopCurrent_v2(cuda_context_t *context)
{
    ENTER_UNDO(result);
    if (t_depth == 0) {
        fake_violate("popped a context that was not pushed");
        return fake_leave(CUDA_BAD_CONTEXT);
    }
    *context = t_stack[--t_depth];
    g_fake.counts.pushed--;
    return fake_leave(result);
}

/* Of a program: replaces the bottom. */
FAKE_API int cuCtxSetCurrent(cuda_context_t context);
FAKE_API int cuCtxSetCurrent(cuda_context_t context)
{
    ENTER(false);
    if (t_depth == 0 && context != NULL) {
        t_stack[t_depth++] = context;
    } else if (t_depth > 0 && context != NULL) {
        t_stack[t_depth - 1] = context;
    } else {
        t_depth = 0;
    }
    return fake_leave(CUDA_OK);
}

FAKE_API int cuCtxGetStreamPriorityRange(int *least, int *greatest);
FAKE_API int cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    ENTER(true);
    *least = 0;
    *greatest = -5;
    return fake_leave(CUDA_OK);
}
