/* Finding the driver: never loaded or started from here, found once the process has. This program is linked with none.
 */
#include <dlfcn.h>

#include "gpu/gpu.h"
#include "gpu/internal.h"
#include "tests/unit/gpu/gpu_left.h"

static int g_warnings;

static void count_warnings(void *arg, mcs_log_level_t level, const char *line)
{
    (void)arg;
    g_warnings += level >= MCS_LOG_WARN && strstr(line, "cuMemHostRegister_v2") == NULL &&
                  strstr(line, "cuDevicePrimaryCtxRelease_v2") != NULL;
}

static mcs_mem_space_t *open_space(void)
{
    mcs_mem_space_config_t config = {.pin_limit = MCS_GIB, .stage_count = 2};
    mcs_mem_space_t *space = NULL;
    assert_int_equal(mcs_gpu_space_ops.open(&config, &space), MCS_OK);
    return space;
}

/* One test, since a library cannot be unloaded for the next. */
static void a_driver_is_found_once_the_process_has_loaded_and_started_it(void **state)
{
    (void)state;
    const mcs_mem_space_ops_t *ops = &mcs_gpu_space_ops;
    mcs_mem_space_t *space = open_space();
    assert_false(ops->look(space));
    assert_int_equal(*ops->active(space), 0);
    assert_null(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD));

    void *library = dlopen(FAKE_CUDA, RTLD_NOW | RTLD_LOCAL);
    assert_non_null(library);
    assert_false(ops->look(space)); /* loaded, not started */

    void (*reset)(int, int) = NULL;
    *(void **)(void *)&reset = dlsym(library, "fake_cuda_reset");
    reset(0, 13000);
    assert_false(ops->look(space)); /* no device */

    reset(1, 10020); /* too old */
    mcs_log_set_sink(count_warnings, NULL);
    assert_false(ops->look(space));
    assert_false(ops->look(space));
    mcs_log_set_sink(NULL, NULL);
    assert_int_equal(g_warnings, 1);

    reset(2, 12040);
    assert_true(ops->look(space));
    assert_true(ops->look(space));
    assert_int_equal(*ops->active(space), 1);
    cuda_driver_t driver;
    assert_int_equal(cuda_driver_find(&driver), MCS_OK);
    assert_int_equal(driver.version, 12040);
    assert_null(driver.memcpy_batch); /* exported, but newer than the driver says it is */
    assert_null(driver.memcpy_batch_12);
    cuda_driver_forget(&driver);
    ops->close(space);

    reset(2, 12080);
    assert_int_equal(cuda_driver_find(&driver), MCS_OK);
    assert_null(driver.memcpy_batch);
    assert_non_null(driver.memcpy_batch_12);
    cuda_driver_forget(&driver);
    ops->close(NULL);
    gpu_assert_nothing_left_in(library);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_driver_is_found_once_the_process_has_loaded_and_started_it),
    };
    return cmocka_run_group_tests_name("gpu_driver", tests, NULL, NULL);
}
