/* The fake driver itself: that it notices what it is there to notice. What it lets pass, no test of gpu/ can find. */
#include <dlfcn.h>
#include <signal.h>

#include "gpu/internal.h"
#include "tests/unit/gpu/gpu_world.h"

int cuDeviceGetName(char *name, int size, int device);
int cuDevicePrimaryCtxRetain(cuda_context_t *context, int device);
int cuDevicePrimaryCtxRelease_v2(int device);
int cuCtxPushCurrent_v2(cuda_context_t context);
int cuCtxPopCurrent_v2(cuda_context_t *context);
int cuStreamCreateWithPriority(cuda_stream_t *stream, unsigned flags, int priority);
int cuStreamDestroy_v2(cuda_stream_t stream);
int cuStreamWaitEvent(cuda_stream_t stream, cuda_event_t event, unsigned flags);
int cuEventCreate(cuda_event_t *event, unsigned flags);
int cuEventRecord(cuda_event_t event, cuda_stream_t stream);
int cuEventSynchronize(cuda_event_t event);
int cuEventDestroy_v2(cuda_event_t event);
int cuMemcpyAsync(cuda_ptr_t target, cuda_ptr_t source, size_t len, cuda_stream_t stream);
int cuMemAlloc_v2(cuda_ptr_t *ptr, size_t len);
int cuMemFree_v2(cuda_ptr_t ptr);
int cuMemHostAlloc(void **base, size_t len, unsigned flags);
int cuMemFreeHost(void *base);

#define LEN ((size_t)8192)

typedef struct driver {
    cuda_context_t contexts[2];
    cuda_stream_t streams[2];
    cuda_event_t event; /* of device 0 */
    void *pinned;
} driver_t;
static driver_t g_driver;

static void enter(int device)
{
    assert_int_equal(cuCtxPushCurrent_v2(g_driver.contexts[device]), 0);
}

static void leave(void)
{
    cuda_context_t context;
    assert_int_equal(cuCtxPopCurrent_v2(&context), 0);
}

static int set_up(void **state)
{
    (void)state;
    gpu_start(2, 13000);
    for (int d = 0; d < 2; d++) {
        assert_int_equal(cuDevicePrimaryCtxRetain(&g_driver.contexts[d], 100 + d), 0);
        enter(d);
        assert_int_equal(cuStreamCreateWithPriority(&g_driver.streams[d], CUDA_STREAM_NON_BLOCKING, 0), 0);
        leave();
    }
    enter(0);
    assert_int_equal(cuEventCreate(&g_driver.event, 0), 0);
    assert_int_equal(cuMemHostAlloc(&g_driver.pinned, LEN, 1), 0);
    leave();
    return 0;
}

/* Nothing is left, whatever was found. */
static int tear_down(void **state)
{
    (void)state;
    assert_int_equal(cuStreamDestroy_v2(g_driver.streams[0]), 0);
    assert_int_equal(cuStreamDestroy_v2(g_driver.streams[1]), 0);
    assert_int_equal(cuEventDestroy_v2(g_driver.event), 0);
    assert_int_equal(cuMemFreeHost(g_driver.pinned), 0);
    assert_int_equal(cuDevicePrimaryCtxRelease_v2(100), 0);
    assert_int_equal(cuDevicePrimaryCtxRelease_v2(101), 0);
    fake_cuda_reset(2, 13000);
    gpu_assert_nothing_left();
    return 0;
}

static uint64_t violations(void)
{
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    return counts.violations;
}

static void expect_violation(const char *text)
{
    assert_int_equal(violations(), 1);
    assert_non_null(strstr(fake_cuda_violation(), text));
    fake_cuda_reset(2, 13000);
}

/* ---- memory that the processor must not touch ---- */

/* True when a child that touches the byte dies of it. */
static bool kills(volatile uint8_t *at, bool write)
{
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* cmocka's handler would go on with the next test */
        signal(SIGBUS, SIG_DFL);
        if (write) {
            *at = 1;
        } else {
            (void)*at;
        }
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
}

static void a_touch_of_device_memory_by_the_processor_is_fatal(void **state)
{
    (void)state;
    static const fake_kind_t kinds[] = {FAKE_DEVICE, FAKE_VMM};
    for (size_t k = 0; k < 2; k++) {
        uint8_t *memory = fake_cuda_alloc(0, LEN, kinds[k], LEN / 2);
        for (int write = 0; write < 2; write++) {
            assert_true(kills(memory, write));
            assert_true(kills(memory + LEN - 1, write));
            assert_true(kills(memory - 1, write)); /* the guards on both sides */
            assert_true(kills(memory + LEN, write));
        }
        fake_cuda_free(memory);
        assert_true(kills(memory, false));
    }
    uint8_t *managed = fake_cuda_alloc(0, LEN, FAKE_MANAGED, 0);
    assert_false(kills(managed, true));
    assert_true(kills(managed + LEN, false));
    fake_cuda_free(managed);
    enter(0);
    cuda_ptr_t made;
    assert_int_equal(cuMemAlloc_v2(&made, LEN), 0);
    assert_true(kills((uint8_t *)(uintptr_t)made, false));
    assert_int_equal(cuMemFree_v2(made), 0);
    leave();
}

/* ---- order ---- */

static uint64_t address(const void *ptr)
{
    return (uint64_t)(uintptr_t)ptr;
}

static void nothing_happens_on_a_stream_before_it_is_waited_for(void **state)
{
    (void)state;
    uint8_t *memory = gpu_memory(0, LEN, FAKE_DEVICE, 0, 1);
    gpu_fill(g_driver.pinned, LEN, 2);
    enter(0);
    assert_int_equal(cuMemcpyAsync(address(memory), address(g_driver.pinned), LEN, g_driver.streams[0]), 0);
    gpu_assert_bytes(memory, LEN, 1);
    assert_int_equal(cuEventRecord(g_driver.event, g_driver.streams[0]), 0);
    gpu_fill(g_driver.pinned, LEN, 3); /* too early: the copy takes what is there when it is done */
    assert_int_equal(cuEventSynchronize(g_driver.event), 0);
    gpu_assert_bytes(memory, LEN, 3);
    leave();
    assert_int_equal(violations(), 0);
    fake_cuda_free(memory);
}

static void a_stream_that_waits_for_an_event_runs_what_is_before_it_first(void **state)
{
    (void)state;
    uint8_t *memory = gpu_memory(0, LEN, FAKE_DEVICE, 0, 1);
    cuda_stream_t second;
    cuda_event_t last;
    gpu_fill(g_driver.pinned, LEN, 2);
    enter(0);
    assert_int_equal(cuStreamCreateWithPriority(&second, CUDA_STREAM_NON_BLOCKING, 0), 0);
    assert_int_equal(cuEventCreate(&last, 0), 0);
    assert_int_equal(cuMemcpyAsync(address(memory), address(g_driver.pinned), LEN, g_driver.streams[0]), 0);
    assert_int_equal(cuEventRecord(last, second), 0);
    assert_int_equal(cuEventSynchronize(last), 0);
    gpu_assert_bytes(memory, LEN, 1); /* nothing says that it should wait */
    assert_int_equal(cuEventRecord(g_driver.event, g_driver.streams[0]), 0);
    assert_int_equal(cuStreamWaitEvent(second, g_driver.event, 0), 0);
    assert_int_equal(cuEventRecord(last, second), 0);
    assert_int_equal(cuEventSynchronize(last), 0);
    gpu_assert_bytes(memory, LEN, 2);
    assert_int_equal(cuEventDestroy_v2(last), 0);
    assert_int_equal(cuStreamDestroy_v2(second), 0);
    leave();
    assert_int_equal(violations(), 0);
    fake_cuda_free(memory);
}

/* ---- wrong use ---- */

static void wrong_use_is_a_violation(void **state)
{
    (void)state;
    uint8_t *memory = gpu_memory(0, LEN, FAKE_DEVICE, 0, 1);
    uint8_t *other = gpu_memory(1, LEN, FAKE_DEVICE, 0, 1);
    uint64_t host = address(g_driver.pinned);
    cuda_context_t context;
    cuda_stream_t stream;

    assert_int_not_equal(cuEventRecord(g_driver.event, g_driver.streams[0]), 0);
    expect_violation("without a context");
    assert_int_not_equal(cuCtxPopCurrent_v2(&context), 0);
    expect_violation("not pushed");
    enter(0);
    assert_int_equal(cuStreamCreateWithPriority(&stream, 0, 0), 0);
    expect_violation("waits for the default stream");
    assert_int_equal(cuStreamDestroy_v2(stream), 0);
    assert_int_not_equal(cuMemcpyAsync(address(memory), host, LEN, g_driver.streams[1]), 0);
    expect_violation("another device");
    assert_int_not_equal(cuMemcpyAsync(address(memory), host, LEN, NULL), 0);
    expect_violation("another device");
    (void)cuMemcpyAsync(address(other), host, LEN, g_driver.streams[0]);
    expect_violation("device 1's memory on device 0");
    assert_int_not_equal(cuMemcpyAsync(address(memory) + 1, host, LEN, g_driver.streams[0]), 0);
    expect_violation("leaves its allocation");
    assert_int_not_equal(cuMemcpyAsync(address(memory), host + 1, LEN, g_driver.streams[0]), 0);
    expect_violation("leaves its registration");
    assert_int_equal(cuMemcpyAsync(address(memory), host, LEN, g_driver.streams[0]), 0);
    fake_cuda_free(memory);
    expect_violation("freed while work on it is pending");
    assert_int_equal(cuStreamDestroy_v2(g_driver.streams[0]), 0);
    expect_violation("changed hands");
    assert_int_equal(cuStreamCreateWithPriority(&g_driver.streams[0], CUDA_STREAM_NON_BLOCKING, 0), 0);
    leave();
    fake_cuda_free(other);
}

/* ---- any call can fail ---- */

static const char *const g_names[] = {
#define CUDA_SYMBOL(field, symbol, since, need, parameters) #symbol,
#include "gpu/cuda_symbols.def"
#undef CUDA_SYMBOL
};

static void every_symbol_that_gpu_takes_is_there(void **state)
{
    (void)state;
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    assert_non_null(library);
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_names); i++) {
        if (dlsym(library, g_names[i]) == NULL) {
            fail_msg("the fake driver has no %s", g_names[i]);
        }
    }
    dlclose(library);
}

static void a_call_that_is_to_fail_fails_once(void **state)
{
    (void)state;
    char text[64];
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_names); i++) {
        bool fails = strcmp(g_names[i], "cuDeviceGetName") == 0;
        fake_cuda_fail(g_names[i], 1, 719);
        assert_int_equal(cuDeviceGetName(text, sizeof(text), 100), fails ? 719 : 0);
        assert_int_equal(fake_cuda_fired(), fails);
        assert_int_equal(cuDeviceGetName(text, sizeof(text), 100), 0);
    }
    fake_cuda_fail(NULL, 2, 2);
    assert_int_equal(cuDeviceGetName(text, sizeof(text), 100), 0);
    assert_int_equal(cuDeviceGetName(text, sizeof(text), 100), 2);
    fake_cuda_fail(NULL, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_touch_of_device_memory_by_the_processor_is_fatal, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_happens_on_a_stream_before_it_is_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_that_waits_for_an_event_runs_what_is_before_it_first, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(wrong_use_is_a_violation, set_up, tear_down),
        cmocka_unit_test(every_symbol_that_gpu_takes_is_there),
        cmocka_unit_test_setup_teardown(a_call_that_is_to_fail_fails_once, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("gpu_fake_driver", tests, NULL, NULL);
}
