/* The C API's data calls with device memory, over each path, on the fake driver. */
#include "tests/unit/client/paths.h"
#include "tests/unit/gpu/gpu_store.h"

#define PAIR_BYTES (96 * GPU_MIB)

static int put_iov(mcs_store_t *store, const char *key, const struct iovec *iov, size_t count, unsigned flags)
{
    mcs_value_t value = {iov, count};
    mcs_bytes_t name = world_key(key);
    int result = 1;
    (void)mcs_put(store, &name, &value, 1, NULL, flags, &result);
    return result;
}

static int64_t get_iov(mcs_store_t *store, const char *key, const struct iovec *iov, size_t count)
{
    mcs_value_t value = {iov, count};
    mcs_bytes_t name = world_key(key);
    int64_t result = 1;
    (void)mcs_get_into(store, &name, &value, 1, &result);
    return result;
}

static void values_of_all_sizes_and_kinds_come_back_over_every_path(void **state)
{
    static const size_t sizes[] = {1, 63, 4096, GPU_MIB - 1, GPU_MIB, GPU_MIB + 1, 19 * GPU_MIB + 77};
    static const fake_kind_t kinds[] = {FAKE_DEVICE, FAKE_VMM, FAKE_MANAGED};
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], PAIR_BYTES);
        for (uint32_t i = 0; i < MCS_ARRAY_LEN(sizes) * MCS_ARRAY_LEN(kinds); i++) {
            size_t len = sizes[i / MCS_ARRAY_LEN(kinds)];
            fake_kind_t kind = kinds[i % MCS_ARRAY_LEN(kinds)];
            char key[32];
            snprintf(key, sizeof(key), "key-%u", i);
            uint8_t *from = gpu_memory((int)i % 3, len, kind, kind == FAKE_VMM ? 2 * GPU_MIB : 0, i);
            uint8_t *to = gpu_memory((int)(i + 1) % 3, len + 5, FAKE_DEVICE, 0, 999);
            struct iovec source = {from, len};
            struct iovec target = {to, len + 5};
            assert_int_equal(put_iov(pair.user, key, &source, 1, 0), 0);
            assert_int_equal(get_iov(pair.user, key, &target, 1), len);
            gpu_assert_bytes(to, len, i);
            assert_int_equal(world_get(pair.holder, key, len, i), len); /* and as host memory */
            fake_cuda_free(from);
            fake_cuda_free(to);
        }
        assert_true(world_counter(pair.user, "bytes_staged") > 0 || g_paths[p] != REMOTE);
        assert_true(world_counter(pair.user, "bytes_device_written") > 0 || g_paths[p] == REMOTE);
        end_pair(pair);
    }
}

/* Keys of fragments in pages of several layers, K and V, as a paged cache has them, and some host memory among it. */
static void a_batch_of_paged_keys_with_host_memory_in_it_comes_back_in_a_few_launches(void **state)
{
    enum { KEYS = 24, LAYERS = 16, PAGE = 16384, PAGES = 64 };
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], PAIR_BYTES);
        uint8_t *layers[LAYERS];
        uint8_t *host = malloc((size_t)PAGES * PAGE);
        uint8_t *host_wanted = malloc((size_t)PAGES * PAGE);
        gpu_fill(host, (size_t)PAGES * PAGE, 77);
        memcpy(host_wanted, host, (size_t)PAGES * PAGE);
        for (int l = 0; l < LAYERS; l++) {
            layers[l] = gpu_memory(l % 2, (size_t)PAGES * PAGE, FAKE_DEVICE, 0, (uint32_t)l);
            assert_int_equal(mcs_register_buffer(pair.user, layers[l], (uint64_t)PAGES * PAGE), 0);
        }
        static struct iovec iov[KEYS][LAYERS + 1];
        mcs_value_t values[KEYS];
        mcs_bytes_t keys[KEYS];
        static char names[KEYS][16];
        int put[KEYS];
        int64_t got[KEYS];
        for (int k = 0; k < KEYS; k++) {
            snprintf(names[k], sizeof(names[k]), "block-%d", k);
            keys[k] = world_key(names[k]);
            for (int l = 0; l < LAYERS; l++) {
                iov[k][l] =
                    (struct iovec){layers[l] + (size_t)(k * 37 % PAGES) * PAGE + (l % 3 == 0 ? 5 : 0), PAGE - 5};
            }
            iov[k][LAYERS] = (struct iovec){host + (size_t)k * PAGE, PAGE};
            /* Only every third has host memory. */
            values[k] = (mcs_value_t){iov[k], LAYERS + (k % 3 == 0)};
        }
        fake_counts_t before;
        fake_cuda_counts(&before);
        assert_int_equal(mcs_put(pair.user, keys, values, KEYS, NULL, 0, put), 0);
        fake_counts_t after;
        fake_cuda_counts(&after);
        assert_true(after.launches - before.launches <= 12);
        for (int l = 0; l < LAYERS; l++) {
            memset(fake_cuda_bytes(layers[l]), 0, (size_t)PAGES * PAGE);
        }
        memset(host, 0, (size_t)PAGES * PAGE);
        assert_int_equal(mcs_get_into(pair.user, keys, values, KEYS, got), 0);
        for (int k = 0; k < KEYS; k++) {
            assert_int_equal(put[k], 0);
            assert_int_equal(got[k], LAYERS * (PAGE - 5) + (k % 3 == 0 ? PAGE : 0));
            for (int l = 0; l < LAYERS; l++) {
                uint8_t *wanted = malloc((size_t)PAGES * PAGE);
                gpu_fill(wanted, (size_t)PAGES * PAGE, (uint32_t)l);
                size_t at = (size_t)((uint8_t *)iov[k][l].iov_base - layers[l]);
                assert_memory_equal(fake_cuda_bytes(layers[l]) + at, wanted + at, PAGE - 5);
                free(wanted);
            }
            if (k % 3 == 0) {
                assert_memory_equal(host + (size_t)k * PAGE, host_wanted + (size_t)k * PAGE, PAGE);
            }
        }
        for (int l = 0; l < LAYERS; l++) {
            assert_int_equal(mcs_unregister_buffer(pair.user, layers[l]), 0);
            fake_cuda_free(layers[l]);
        }
        free(host);
        free(host_wanted);
        end_pair(pair);
    }
}

static void parts_and_sessions_read_and_write_device_memory(void **state)
{
    enum { LEN = 3 << 20 };
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], PAIR_BYTES);
        mcs_bytes_t key = world_key("pieces");
        uint64_t size = LEN;
        uint8_t *memory = gpu_memory(1, LEN, FAKE_DEVICE, 0, 5);
        int result = 1;
        mcs_part_t parts[2] = {{memory, 1000001, 0, 0}, {memory + 1000001, LEN - 1000001, 1000001, 0}};
        mcs_parts_list_t list = {parts, 2};
        assert_int_equal(mcs_put_session_start(pair.user, &key, &size, 1, NULL, &result), 0);
        assert_int_equal(mcs_put_session_write(pair.user, &key, &list, 1), 0);
        assert_int_equal(parts[0].result, 1000001);
        assert_int_equal(parts[1].result, LEN - 1000001);
        assert_int_equal(mcs_put_session_end(pair.user, &key, 1, &result), 0);
        assert_int_equal(result, 0);
        assert_int_equal(world_get(pair.holder, "pieces", LEN, 5), LEN);

        memset(fake_cuda_bytes(memory), 0, LEN);
        mcs_part_t wanted[3] = {{memory, 77, 1048570, 0}, {memory + 77, 1500000, 1048576, 0}, {memory, 10, LEN - 5, 0}};
        mcs_parts_list_t targets = {wanted, 3};
        assert_int_equal(mcs_get_parts(pair.user, &key, &targets, 1), 0);
        assert_int_equal(wanted[0].result, 77);
        assert_int_equal(wanted[1].result, 1500000);
        assert_int_equal(wanted[2].result, MCS_INVALID_PARAMS);
        uint8_t *bytes = malloc(LEN);
        gpu_fill(bytes, LEN, 5);
        assert_memory_equal(fake_cuda_bytes(memory), bytes + 1048570, 77);
        assert_memory_equal(fake_cuda_bytes(memory) + 77, bytes + 1048576, 1500000);

        assert_int_equal(mcs_get_session_start(pair.user, &key, 1, &result), 0);
        mcs_part_t again = {memory, LEN, 0, 0};
        mcs_parts_list_t whole = {&again, 1};
        assert_int_equal(mcs_get_session_read(pair.user, &key, &whole, 1), 0);
        assert_int_equal(again.result, LEN);
        gpu_assert_bytes(memory, LEN, 5);
        assert_int_equal(mcs_get_session_end(pair.user, &key, 1), 0);
        free(bytes);
        fake_cuda_free(memory);
        end_pair(pair);
    }
}

static void upserts_from_device_memory_replace(void **state)
{
    pair_t pair = make_pair(*state, SAME_HOST, PAIR_BYTES);
    uint8_t *memory = gpu_memory(2, 2 * GPU_MIB, FAKE_DEVICE, 0, 1);
    struct iovec iov = {memory, 2 * GPU_MIB};
    assert_int_equal(put_iov(pair.user, "key", &iov, 1, 0), 0);
    gpu_fill(fake_cuda_bytes(memory), 2 * GPU_MIB, 2);
    assert_int_equal(put_iov(pair.user, "key", &iov, 1, MCS_PUT_UPSERT), 0);
    assert_int_equal(world_get(pair.holder, "key", 2 * GPU_MIB, 2), 2 * GPU_MIB);
    fake_cuda_free(memory);
    end_pair(pair);
}

static void freed_memory_under_a_registration_is_noticed_by_the_call_that_uses_it(void **state)
{
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], PAIR_BYTES);
        mcs_log_set_level(MCS_LOG_OFF);
        uint8_t *memory = gpu_memory(0, 4 * GPU_MIB, FAKE_DEVICE, 0, 1);
        uint8_t *other = gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 9);
        assert_int_equal(mcs_register_buffer(pair.user, memory, 4 * GPU_MIB), 0);
        struct iovec iov = {memory + GPU_MIB, GPU_MIB};
        assert_int_equal(put_iov(pair.user, "before", &iov, 1, 0), 0);
        fake_cuda_free(memory);
        assert_int_equal(put_iov(pair.user, "freed", &iov, 1, 0), MCS_INVALID_PARAMS);
        assert_int_equal(get_iov(pair.user, "before", &iov, 1), MCS_INVALID_PARAMS);
        uint8_t *reused = gpu_memory(0, 4 * GPU_MIB, FAKE_DEVICE, 0, 2);
        assert_ptr_equal(reused, memory);
        assert_int_equal(put_iov(pair.user, "reused", &iov, 1, 0), MCS_INVALID_PARAMS);
        /* Others of the same batch are not harmed. */
        struct iovec good = {other, GPU_MIB};
        mcs_bytes_t keys[] = {world_key("bad"), world_key("good")};
        mcs_value_t values[] = {{&iov, 1}, {&good, 1}};
        int results[2] = {1, 1};
        assert_int_equal(mcs_put(pair.user, keys, values, 2, NULL, 0, results), 0);
        assert_int_equal(results[0], MCS_INVALID_PARAMS);
        assert_int_equal(results[1], 0);
        /* Registered anew it is good again. */
        assert_int_equal(mcs_unregister_buffer(pair.user, memory), 0);
        assert_int_equal(mcs_register_buffer(pair.user, reused, 4 * GPU_MIB), 0);
        assert_int_equal(get_iov(pair.user, "before", &iov, 1), GPU_MIB);
        assert_int_equal(mcs_unregister_buffer(pair.user, reused), 0);
        mcs_log_set_level(MCS_LOG_ERROR);
        fake_cuda_free(reused);
        fake_cuda_free(other);
        end_pair(pair);
    }
}

static void buffers_that_are_not_all_device_memory_are_refused(void **state)
{
    pair_t pair = make_pair(*state, OWN, PAIR_BYTES);
    mcs_log_set_level(MCS_LOG_OFF);
    uint8_t *memory = gpu_memory(0, 64 * 1024, FAKE_DEVICE, 0, 1);
    struct iovec beyond = {memory + 60 * 1024, 8 * 1024};
    assert_int_equal(put_iov(pair.user, "beyond", &beyond, 1, 0), MCS_INVALID_PARAMS);
    assert_int_equal(mcs_register_buffer(pair.user, memory, 65 * 1024), MCS_INVALID_PARAMS);
    assert_int_equal(mcs_register_buffer(pair.user, memory + 1024, 8 * 1024), 0);
    assert_int_equal(mcs_register_buffer(pair.user, memory, 2 * 1024), MCS_INVALID_PARAMS);
    assert_int_equal(mcs_is_device_memory(pair.user, memory), 1);
    assert_int_equal(mcs_is_device_memory(pair.user, &pair), 0);
    mcs_log_set_level(MCS_LOG_ERROR);
    fake_cuda_free(memory);
    end_pair(pair);
}

/* The segment of another process's store stays pinned no longer than it is mapped. */
static void a_segment_that_goes_is_unpinned_before_it_is_unmapped(void **state)
{
    world_t *world = *state;
    mcs_store_t *user = world_store(world, 0);
    uint8_t *memory = gpu_memory(0, 8 * GPU_MIB, FAKE_DEVICE, 0, 1);
    struct iovec iov = {memory, 8 * GPU_MIB};
    for (int i = 0; i < 3; i++) {
        mcs_store_t *holder = world_store(world, PAIR_BYTES);
        char key[16];
        snprintf(key, sizeof(key), "key-%d", i);
        assert_int_equal(put_iov(user, key, &iov, 1, 0), 0);
        assert_int_equal(get_iov(user, key, &iov, 1), 8 * GPU_MIB);
        mcs_store_destroy(holder);
    }
    mcs_store_destroy(user);
    fake_cuda_free(memory);
}

static void without_kernels_or_batches_copies_do_it_all(void **state)
{
    mcs_gpu_set_kernel_image(NULL);
    fake_cuda_reset(2, 12000);
    for (size_t p = 0; p < MCS_ARRAY_LEN(g_paths); p++) {
        pair_t pair = make_pair(*state, g_paths[p], PAIR_BYTES);
        uint8_t *memory = gpu_memory(1, 4 * GPU_MIB, FAKE_DEVICE, 0, 8);
        struct iovec iov[64];
        for (size_t i = 0; i < 64; i++) {
            iov[i] = (struct iovec){memory + (63 - i) * 65536, 65536};
        }
        assert_int_equal(put_iov(pair.user, "key", iov, 64, 0), 0);
        memset(fake_cuda_bytes(memory), 0, 4 * GPU_MIB);
        assert_int_equal(get_iov(pair.user, "key", iov, 64), 4 * GPU_MIB);
        gpu_assert_bytes(memory, 4 * GPU_MIB, 8);
        fake_counts_t counts;
        fake_cuda_counts(&counts);
        assert_int_equal(counts.launches + counts.batches, 0);
        fake_cuda_free(memory);
        end_pair(pair);
    }
}

static int g_ring_warnings;

static void count_ring_warnings(void *arg, mcs_log_level_t level, const char *line)
{
    (void)arg;
    if (level == MCS_LOG_WARN && strstr(line, "not by GPUDirect") != NULL) {
        __atomic_fetch_add(&g_ring_warnings, 1, __ATOMIC_RELAXED);
    }
}

static void who_asked_for_rdma_is_told_once_that_gpu_memory_goes_through_the_host(void **state)
{
    world_t *world = *state;
    mcs_store_t *holder = world_store(world, 96 * GPU_MIB);
    uint8_t *memory = gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 1);
    struct iovec iov = {memory, GPU_MIB};
    for (int asked = 0; asked < 2; asked++) {
        mcs_setup_t setup = world_setup(world, 0);
        setup.rdma_devices = asked ? "mlx5_0" : "";
        setenv("MC_STORE_MEMCPY", "0", 1);
        mcs_store_t *store = mcs_store_create();
        mcs_log_set_level(MCS_LOG_WARN);
        mcs_log_set_sink(count_ring_warnings, NULL);
        g_ring_warnings = 0;
        assert_int_equal(mcs_store_setup(store, &setup), 0);
        setenv("MC_STORE_MEMCPY", "1", 1);
        assert_int_equal(g_ring_warnings, 0);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(put_iov(store, "key", &iov, 1, MCS_PUT_UPSERT), 0);
            assert_int_equal(get_iov(store, "key", &iov, 1), GPU_MIB);
        }
        assert_int_equal(g_ring_warnings, asked);
        mcs_log_set_sink(NULL, NULL);
        mcs_log_set_level(MCS_LOG_ERROR);
        mcs_store_destroy(store);
    }
    fake_cuda_free(memory);
    mcs_store_destroy(holder);
}

static void gpu_memory_can_be_switched_off(void **state)
{
    setenv("MC_STORE_GPU", "false", 1);
    mcs_store_t *store = world_store(*state, PAIR_BYTES);
    unsetenv("MC_STORE_GPU");
    mcs_log_set_level(MCS_LOG_OFF);
    uint8_t *memory = gpu_memory(0, 4096, FAKE_DEVICE, 0, 1);
    assert_int_equal(mcs_is_device_memory(store, memory), 0);
    assert_int_equal(mcs_register_buffer(store, memory, 4096), MCS_INVALID_PARAMS);
    mcs_log_set_level(MCS_LOG_ERROR);
    fake_cuda_free(memory);
    mcs_store_destroy(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(values_of_all_sizes_and_kinds_come_back_over_every_path, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(a_batch_of_paged_keys_with_host_memory_in_it_comes_back_in_a_few_launches,
                                        gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(parts_and_sessions_read_and_write_device_memory, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(upserts_from_device_memory_replace, gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(freed_memory_under_a_registration_is_noticed_by_the_call_that_uses_it,
                                        gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(buffers_that_are_not_all_device_memory_are_refused, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(a_segment_that_goes_is_unpinned_before_it_is_unmapped, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(without_kernels_or_batches_copies_do_it_all, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(who_asked_for_rdma_is_told_once_that_gpu_memory_goes_through_the_host,
                                        gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(gpu_memory_can_be_switched_off, gpu_store_set_up, gpu_store_tear_down),
    };
    return cmocka_run_group_tests_name("gpu_store_device", tests, NULL, NULL);
}
