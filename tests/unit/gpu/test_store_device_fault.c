/* The C API with device memory when the driver fails: the call that meets it fails with a code, and the store goes on.
 */
#include "tests/unit/gpu/gpu_store.h"

#define LEN       ((size_t)3 << 19)
#define FRAGMENTS 16

static int set_up(void **state)
{
    int rc = gpu_store_set_up(state);
    mcs_log_set_level(MCS_LOG_OFF);
    return rc;
}

/* Fragments over two devices, in another order than in memory. */
typedef struct buffer {
    uint8_t *memory[2];
    struct iovec iov[FRAGMENTS];
} buffer_t;

static void make_buffer(buffer_t *buffer, int devices)
{
    for (int d = 0; d < 2; d++) {
        buffer->memory[d] = gpu_memory(devices > 1 ? d : 0, LEN / 2, FAKE_DEVICE, 0, (uint32_t)d);
    }
    size_t each = LEN / FRAGMENTS;
    for (size_t i = 0; i < FRAGMENTS; i++) {
        buffer->iov[i] = (struct iovec){buffer->memory[i % 2] + (FRAGMENTS - 1 - i) / 2 * each, each};
    }
}

static void drop_buffer(buffer_t *buffer)
{
    fake_cuda_free(buffer->memory[0]);
    fake_cuda_free(buffer->memory[1]);
}

static void assert_buffer(const buffer_t *buffer)
{
    gpu_assert_bytes(buffer->memory[0], LEN / 2, 0);
    gpu_assert_bytes(buffer->memory[1], LEN / 2, 1);
}

static void wipe(const buffer_t *buffer)
{
    memset(fake_cuda_bytes(buffer->memory[0]), 0, LEN / 2);
    memset(fake_cuda_bytes(buffer->memory[1]), 0, LEN / 2);
}

static void restore(const buffer_t *buffer)
{
    gpu_fill(fake_cuda_bytes(buffer->memory[0]), LEN / 2, 0);
    gpu_fill(fake_cuda_bytes(buffer->memory[1]), LEN / 2, 1);
}

static int upsert(mcs_store_t *store, const buffer_t *buffer)
{
    mcs_value_t value = {buffer->iov, FRAGMENTS};
    mcs_bytes_t key = world_key("key");
    int result = 1;
    (void)mcs_put(store, &key, &value, 1, NULL, MCS_PUT_UPSERT, &result);
    return result;
}

static int64_t get(mcs_store_t *store, const buffer_t *buffer)
{
    mcs_value_t value = {buffer->iov, FRAGMENTS};
    mcs_bytes_t key = world_key("key");
    int64_t result = 1;
    (void)mcs_get_into(store, &key, &value, 1, &result);
    return result;
}

/* Each call of the driver fails once, in a store that uses it for the first time and in one that has used it. Returns
 * how many. */
static uint64_t torture(void **state, bool remote, int devices, int code)
{
    buffer_t buffer;
    make_buffer(&buffer, devices);
    uint64_t nth = 1;
    for (bool fired = true; fired; nth++) {
        if (nth % 30 == 0) { /* the mini master keeps 64 sessions */
            assert_int_equal(gpu_store_tear_down(state), 0);
            assert_int_equal(set_up(state), 0);
        }
        world_t *world = *state;
        mcs_store_t *holder = world_store(world, 16 * GPU_MIB);
        mcs_store_t *user = remote ? world_remote_store(world, 0) : world_store(world, 0);
        fake_cuda_fail(NULL, nth, code);
        int put = upsert(user, &buffer);
        int64_t got = 0;
        if (put == 0) {
            wipe(&buffer);
            got = get(user, &buffer);
        }
        fired = fake_cuda_fired();
        fake_cuda_fail(NULL, 0, 0);
        assert_true(put == 0 || put < 0);
        if (put == 0 && got > 0) {
            assert_int_equal(got, LEN);
            assert_buffer(&buffer);
        }
        assert_true(fired || (put == 0 && got > 0));
        /* The store goes on. */
        restore(&buffer);
        assert_int_equal(upsert(user, &buffer), 0);
        wipe(&buffer);
        assert_int_equal(get(user, &buffer), LEN);
        assert_buffer(&buffer);
        mcs_store_destroy(user);
        mcs_store_destroy(holder);
        gpu_assert_nothing_left();
        assert_true(nth < 1000);
    }
    drop_buffer(&buffer);
    return nth - 2;
}

static void each_call_of_the_driver_may_fail_once_same_host(void **state)
{
    assert_true(torture(state, false, 2, 700) > 40);
}

static void each_call_of_the_driver_may_fail_once_through_the_transport(void **state)
{
    assert_true(torture(state, true, 1, 2) > 20);
}

static void a_broken_device_fails_its_calls_and_no_others(void **state)
{
    world_t *world = *state;
    mcs_store_t *store = world_store(world, SEGMENT_BYTES);
    buffer_t buffer;
    make_buffer(&buffer, 1);
    assert_int_equal(upsert(store, &buffer), 0);
    fake_cuda_break(0, 700);
    assert_int_equal(get(store, &buffer), -800);
    assert_int_equal(world_put(store, "host", 100000, 4), 0);
    assert_int_equal(world_get(store, "host", 100000, 4), 100000);
    assert_int_equal(upsert(store, &buffer), -800);
    fake_cuda_break(0, 0);
    assert_int_equal(upsert(store, &buffer), 0);
    assert_int_equal(get(store, &buffer), LEN);
    assert_buffer(&buffer);
    drop_buffer(&buffer);
    mcs_store_destroy(store);
}

static void a_wrong_byte_in_the_segment_never_reaches_the_caller_as_right(void **state)
{
    world_t *world = *state;
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *reader = world_remote_store(world, 0);
    buffer_t buffer;
    make_buffer(&buffer, 2);
    assert_int_equal(upsert(holder, &buffer), 0);
    fake_transport_set_all(FAKE_HOLDER_CORRUPT);
    assert_int_equal(get(reader, &buffer), -801);
    fake_transport_set_all(FAKE_HOLDER_DEAD);
    assert_int_equal(get(reader, &buffer), -800);
    fake_transport_set_all(FAKE_HOLDER_FINE);
    wipe(&buffer);
    assert_int_equal(get(reader, &buffer), LEN);
    assert_buffer(&buffer);
    drop_buffer(&buffer);
    mcs_store_destroy(reader);
    mcs_store_destroy(holder);
}

typedef struct job {
    world_t *world;
    mcs_store_t *store;
    int number;
    int failures;
} job_t;

static void *use_store(void *arg)
{
    job_t *job = arg;
    for (int i = 0; i < 6; i++) {
        char key[32];
        snprintf(key, sizeof(key), "key-%d-%d", job->number, i);
        uint8_t *memory = fake_cuda_alloc(job->number % 2, LEN, FAKE_DEVICE, 0);
        gpu_fill(fake_cuda_bytes(memory), LEN, (uint32_t)(job->number * 100 + i));
        struct iovec iov = {memory, LEN};
        mcs_value_t value = {&iov, 1};
        mcs_bytes_t name = world_key(key);
        int put = 1;
        int64_t got = 1;
        (void)mcs_put(job->store, &name, &value, 1, NULL, 0, &put);
        memset(fake_cuda_bytes(memory), 0, LEN);
        (void)mcs_get_into(job->store, &name, &value, 1, &got);
        uint8_t *wanted = malloc(LEN);
        gpu_fill(wanted, LEN, (uint32_t)(job->number * 100 + i));
        job->failures += put != 0 || got != (int64_t)LEN || memcmp(wanted, fake_cuda_bytes(memory), LEN) != 0;
        free(wanted);
        fake_cuda_free(memory);
    }
    return NULL;
}

static void many_threads_share_contexts_streams_and_chunks(void **state)
{
    world_t *world = *state;
    mcs_store_t *holder = world_store(world, SEGMENT_BYTES);
    mcs_store_t *remote = world_remote_store(world, 0);
    job_t jobs[6];
    pthread_t threads[6];
    for (int i = 0; i < 6; i++) {
        jobs[i] = (job_t){world, i % 2 == 0 ? holder : remote, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, use_store, &jobs[i]), 0);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(jobs[i].failures, 0);
    }
    mcs_store_destroy(remote);
    mcs_store_destroy(holder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_call_of_the_driver_may_fail_once_same_host, set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(each_call_of_the_driver_may_fail_once_through_the_transport, set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(a_broken_device_fails_its_calls_and_no_others, set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(a_wrong_byte_in_the_segment_never_reaches_the_caller_as_right, set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(many_threads_share_contexts_streams_and_chunks, set_up, gpu_store_tear_down),
    };
    return cmocka_run_group_tests_name("gpu_store_device_fault", tests, NULL, NULL);
}
