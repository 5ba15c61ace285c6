/* "Nothing is left" in the fake driver: for tests that link it (gpu_world.h), and for those that load a driver by name.
 */
#ifndef MCS_TESTS_GPU_LEFT_H
#define MCS_TESTS_GPU_LEFT_H

#include <dlfcn.h>

#include "tests/fake_cuda/fake_cuda.h"
#include "tests/support/unit.h"

MCS_UNUSED static void gpu_assert_nothing(const fake_counts_t *counts, const char *violation)
{
    assert_string_equal(violation, "");
    assert_int_equal(counts->contexts, 0);
    assert_int_equal(counts->pushed, 0);
    assert_int_equal(counts->streams, 0);
    assert_int_equal(counts->events, 0);
    assert_int_equal(counts->device_allocs, 0);
    assert_int_equal(counts->host_allocs, 0);
    assert_int_equal(counts->registered, 0);
    assert_int_equal(counts->modules, 0);
    assert_int_equal(counts->pending, 0);
    assert_int_equal(counts->memories, 0);
    assert_int_equal(counts->reserved, 0);
}

/* Of a loaded driver; a real one does not say. */
MCS_UNUSED static void gpu_assert_nothing_left_in(void *library)
{
    void (*take_counts)(fake_counts_t * counts_out) = NULL;
    const char *(*take_violation)(void) = NULL;
    fake_counts_t counts;
    *(void **)(void *)&take_counts = dlsym(library, "fake_cuda_counts");
    *(void **)(void *)&take_violation = dlsym(library, "fake_cuda_violation");
    if (take_counts != NULL && take_violation != NULL) {
        take_counts(&counts);
        gpu_assert_nothing(&counts, take_violation());
    }
}

#endif
