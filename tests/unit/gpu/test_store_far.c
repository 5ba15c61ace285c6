/* The C API with segments in device memory, on the fake driver: this process is owner, neighbour and stranger. */
#include <poll.h>

#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "tests/unit/gpu/gpu_store.h"

#define FAR_BYTES (32 * (uint64_t)GPU_MIB)

/* A store with a segment on a device; its name, to be preferred. */
static mcs_store_t *far_store(world_t *world, uint64_t host_bytes, int device, char name[128], mcs_segment_id_t *id_out)
{
    mcs_store_t *store = world_store(world, host_bytes);
    char host[100];
    assert_true(mcs_store_hostname(store, host, sizeof(host)) > 0);
    snprintf(name, 128, "%s/cuda:%d", host, device);
    assert_int_equal(mcs_mount_device_memory(store, FAR_BYTES, device, id_out), 0);
    return store;
}

static int put_far(mcs_store_t *store, const char *key, const void *from, size_t len, const char *name)
{
    struct iovec iov = {(void *)(uintptr_t)from, len};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t bytes = world_key(key);
    mcs_replicate_config_t config = {
        .struct_size = sizeof(config), .preferred_segments = &name, .preferred_segment_count = name != NULL ? 1 : 0};
    int result = 1;
    (void)mcs_put(store, &bytes, &value, 1, name != NULL ? &config : NULL, 0, &result);
    return result;
}

static int64_t get_to(mcs_store_t *store, const char *key, void *to, size_t len)
{
    struct iovec iov = {to, len};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t bytes = world_key(key);
    int64_t result = 1;
    (void)mcs_get_into(store, &bytes, &value, 1, &result);
    return result;
}

static void assert_same_host_bytes(const uint8_t *bytes, size_t len, uint32_t seed)
{
    uint8_t *wanted = malloc(len);
    gpu_fill(wanted, len, seed);
    assert_memory_equal(bytes, wanted, len);
    free(wanted);
}

static uint64_t far_maps(void)
{
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    return (uint64_t)counts.reserved;
}

/* Writers and readers with device memory on the segment's device, on its peer, on one that does not reach it, and with
 * host memory; the owner, a neighbour that maps the memory, and one that has the transport alone. */
static void values_in_device_memory_come_back_to_everybody(void **state)
{
    static const size_t sizes[] = {1, 4096, GPU_MIB - 1, GPU_MIB, 5 * GPU_MIB + 77};
    char name[128];
    mcs_segment_id_t id;
    mcs_store_t *owner = far_store(*state, 64 * GPU_MIB, 0, name, &id);
    mcs_store_t *neighbour = world_store(*state, 0);
    mcs_store_t *stranger = world_remote_store(*state, 0);
    mcs_store_t *writers[] = {owner, neighbour};
    mcs_store_t *readers[] = {owner, neighbour, stranger};
    uint32_t seed = 0;
    for (size_t w = 0; w < MCS_ARRAY_LEN(writers); w++) {
        for (int from = -1; from < 3; from++) {
            for (size_t s = 0; s < MCS_ARRAY_LEN(sizes); s++) {
                size_t len = sizes[s];
                char key[32];
                snprintf(key, sizeof(key), "key-%u", ++seed);
                uint8_t *source = from >= 0 ? gpu_memory(from, len, FAKE_DEVICE, 0, seed) : malloc(len);
                if (from < 0) {
                    gpu_fill(source, len, seed);
                }
                assert_int_equal(put_far(writers[w], key, source, len, name), 0);
                for (size_t r = 0; r < MCS_ARRAY_LEN(readers); r++) {
                    int to = (int)(seed + r) % 3;
                    uint8_t *target = gpu_memory(to, len, FAKE_DEVICE, 0, 0);
                    uint8_t *host = calloc(1, len);
                    assert_int_equal(get_to(readers[r], key, target, len), len);
                    gpu_assert_bytes(target, len, seed);
                    assert_int_equal(get_to(readers[r], key, host, len), len);
                    assert_same_host_bytes(host, len, seed);
                    fake_cuda_free(target);
                    free(host);
                }
                if (from >= 0) {
                    fake_cuda_free(source);
                } else {
                    free(source);
                }
                mcs_bytes_t bytes = world_key(key);
                int removed = 1;
                assert_int_equal(mcs_remove(owner, &bytes, 1, 1, &removed), 0);
            }
        }
    }
    assert_true(world_counter(neighbour, "bytes_device_read") > 0);
    assert_true(world_counter(neighbour, "bytes_same_host_read") > 0);
    assert_int_equal(world_counter(neighbour, "bytes_fetched"), 0);
    assert_true(world_counter(stranger, "bytes_fetched") > 0);
    mcs_store_destroy(stranger);
    mcs_store_destroy(neighbour);
    mcs_store_destroy(owner);
}

/* A batch of paged keys goes in a few launches, as to host memory. */
static void a_batch_of_fragments_goes_in_few_launches(void **state)
{
    enum { KEYS = 16, PARTS = 24, PART = 8192 };
    char name[128];
    mcs_segment_id_t id;
    mcs_store_t *owner = far_store(*state, 0, 0, name, &id);
    mcs_store_t *neighbour = world_store(*state, 0);
    const size_t all = (size_t)KEYS * PARTS * PART;
    uint8_t *pages = gpu_memory(0, 2 * all, FAKE_DEVICE, 0, 5);
    static struct iovec iov[KEYS][PARTS];
    static char names[KEYS][16];
    mcs_value_t values[KEYS];
    mcs_bytes_t keys[KEYS];
    int put[KEYS];
    int64_t got[KEYS];
    for (size_t k = 0; k < KEYS; k++) {
        snprintf(names[k], sizeof(names[k]), "k%zu", k);
        keys[k] = world_key(names[k]);
        for (size_t p = 0; p < PARTS; p++) {
            iov[k][p] = (struct iovec){pages + 2 * PART * (k * PARTS + p), PART};
        }
        values[k] = (mcs_value_t){iov[k], PARTS};
    }
    const char *preferred = name;
    mcs_replicate_config_t config = {
        .struct_size = sizeof(config), .preferred_segments = &preferred, .preferred_segment_count = 1};
    fake_counts_t before;
    fake_counts_t after;
    fake_cuda_counts(&before);
    assert_int_equal(mcs_put(neighbour, keys, values, KEYS, &config, 0, put), 0);
    fake_cuda_counts(&after);
    assert_true(after.launches - before.launches <= 4);
    uint8_t *wanted = malloc(2 * all);
    memcpy(wanted, fake_cuda_bytes(pages), 2 * all);
    for (size_t i = 0; i < (size_t)KEYS * PARTS; i++) {
        memset(fake_cuda_bytes(pages) + 2 * PART * i, 0, PART);
    }
    assert_int_equal(mcs_get_into(neighbour, keys, values, KEYS, got), 0);
    for (size_t k = 0; k < KEYS; k++) {
        assert_int_equal(put[k], 0);
        assert_int_equal(got[k], PARTS * PART);
    }
    assert_memory_equal(fake_cuda_bytes(pages), wanted, 2 * all);
    free(wanted);
    fake_cuda_free(pages);
    mcs_store_destroy(neighbour);
    mcs_store_destroy(owner);
}

static void handles_and_parts_of_values_are_copies(void **state)
{
    char name[128];
    mcs_segment_id_t id;
    mcs_store_t *owner = far_store(*state, 0, 0, name, &id);
    const size_t len = 3 * GPU_MIB + 5;
    uint8_t *source = gpu_memory(0, len, FAKE_DEVICE, 0, 9);
    assert_int_equal(put_far(owner, "key", source, len, name), 0);
    mcs_bytes_t key = world_key("key");
    mcs_handle_t *handle = NULL;
    int64_t result = 0;
    assert_int_equal(mcs_get_handles(owner, &key, 1, &handle, &result), 0);
    assert_int_equal(result, len);
    assert_same_host_bytes(mcs_handle_ptr(handle), len, 9);
    assert_int_equal(mcs_handle_readonly(handle), 0);
    mcs_handle_release(handle);
    fake_cuda_free(source);
    mcs_store_destroy(owner);
}

static void a_segment_that_goes_takes_its_memory_with_it(void **state)
{
    char name[128];
    mcs_segment_id_t id;
    mcs_store_t *owner = far_store(*state, 0, 0, name, &id);
    mcs_store_t *neighbour = world_store(*state, 0);
    uint64_t before = far_maps();
    uint8_t *memory = gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 3);
    assert_int_equal(put_far(owner, "key", memory, GPU_MIB, name), 0);
    assert_int_equal(get_to(neighbour, "key", memory, GPU_MIB), GPU_MIB);
    assert_int_equal(far_maps(), before + 1); /* mapped twice, and there once */
    assert_int_equal(mcs_unmount_memory(owner, id, 0), 0);
    assert_true(get_to(neighbour, "key", memory, GPU_MIB) < 0);
    assert_true(get_to(owner, "key", memory, GPU_MIB) < 0);
    uint64_t give_up = mcs_now_ns() + 20 * MCS_NS_PER_SEC;
    while (far_maps() > before - 1 && mcs_now_ns() < give_up) {
        poll(NULL, 0, 1); /* the neighbour's thread sees that it has gone */
    }
    assert_int_equal(far_maps(), before - 1);
    assert_int_equal(mcs_mount_device_memory(owner, FAR_BYTES, 0, &id), 0); /* and there is room for another */
    assert_int_equal(put_far(owner, "key", memory, GPU_MIB, name), 0);
    assert_int_equal(get_to(neighbour, "key", memory, GPU_MIB), GPU_MIB);
    fake_cuda_free(memory);
    mcs_store_destroy(owner); /* first: who maps it still has no use of it */
    assert_true(get_to(neighbour, "key", &give_up, sizeof(give_up)) < 0);
    mcs_store_destroy(neighbour);
}

static void what_cannot_be_mounted_says_why_and_leaves_nothing(void **state)
{
    mcs_segment_id_t id;
    mcs_store_t *store = world_store(*state, GPU_MIB);
    mcs_log_set_level(MCS_LOG_ERROR + 1);
    assert_int_equal(mcs_mount_device_memory(store, FAR_BYTES, 3, &id), -1012);
    assert_int_equal(mcs_mount_device_memory(store, FAR_BYTES, -1, &id), -1012);
    assert_int_equal(mcs_mount_device_memory(store, 0, 0, &id), -600);
    assert_int_equal(mcs_mount_device_memory(store, FAR_BYTES, 0, NULL), -600);
    fake_cuda_fail("cuMemCreate", 1, 2);
    assert_int_equal(mcs_mount_device_memory(store, FAR_BYTES, 0, &id), -200); /* out of memory */
    setenv("MC_STORE_GPU", "false", 1);
    mcs_store_t *without = world_store(*state, GPU_MIB);
    setenv("MC_STORE_GPU", "true", 1);
    assert_int_equal(mcs_mount_device_memory(without, FAR_BYTES, 0, &id), -1012);
    mcs_store_destroy(without);
    mcs_store_destroy(store);
}

/* Every call of the driver at a mount, both kinds of memory. */
static void each_call_of_a_mount_may_fail(void **state)
{
    mcs_segment_id_t id;
    mcs_store_t *store = world_store(*state, 8 * GPU_MIB);
    uint8_t *memory = gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 4);
    assert_int_equal(put_far(store, "warm", memory, GPU_MIB, NULL), 0); /* contexts and streams are there */
    mcs_log_set_level(MCS_LOG_ERROR + 1);
    for (int legacy = 0; legacy < 2; legacy++) {
        if (legacy != 0) {
            fake_cuda_without_vmm();
        }
        bool fired = true;
        for (uint64_t nth = 1; fired; nth++) {
            uint64_t before = far_maps();
            fake_cuda_fail(NULL, nth, 700);
            int rc = mcs_mount_device_memory(store, FAR_BYTES, 0, &id);
            fired = fake_cuda_fired();
            fake_cuda_fail(NULL, 0, 0);
            assert_true(rc == 0 || rc < 0);
            if (rc == 0) {
                assert_int_equal(mcs_unmount_memory(store, id, 0), 0);
            } else {
                assert_true(fired);
            }
            assert_int_equal(far_maps(), before);
            assert_true(nth < 100);
        }
    }
    fake_cuda_free(memory);
    mcs_store_destroy(store);
}

/* Memory of this process, at a mount and at a neighbour's first put and get. */
static void each_allocation_may_fail(void **state)
{
    char name[128];
    mcs_segment_id_t id;
    mcs_store_t *owner = far_store(*state, 64 * GPU_MIB, 0, name, &id);
    const size_t len = GPU_MIB + 3;
    uint8_t *source = gpu_memory(0, len, FAKE_DEVICE, 0, 6);
    uint8_t *target = gpu_memory(0, len, FAKE_DEVICE, 0, 0);
    mcs_log_set_level(MCS_LOG_ERROR + 1);
    bool fired = true;
    for (uint64_t nth = 1; fired; nth += 1 + nth / 32) {
        mcs_store_t *neighbour = world_store(*state, 8 * GPU_MIB);
        mcs_segment_id_t more;
        mcs_bytes_t key = world_key("key");
        uint64_t before = far_maps();
        mcs_fault_arm(MCS_FAULT_ALLOC, nth);
        int mounted = mcs_mount_device_memory(neighbour, FAR_BYTES, 1, &more);
        int put = put_far(neighbour, "key", source, len, name);
        int64_t got = get_to(neighbour, "key", target, len);
        fired = mcs_fault_fired(MCS_FAULT_ALLOC);
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        assert_true(mounted <= 0 && put <= 0 && (got < 0 || got == (int64_t)len));
        assert_true(mounted == 0 || far_maps() <= before + 1);
        if (got == (int64_t)len) {
            gpu_assert_bytes(target, len, 6);
        }
        int removed;
        (void)mcs_remove(owner, &key, 1, 1, &removed);
        mcs_store_destroy(neighbour);
        assert_true(nth < 100000);
    }
    fake_cuda_free(source);
    fake_cuda_free(target);
    mcs_store_destroy(owner);
}

/* Every call of the driver while a neighbour maps the memory, writes and reads: right, or an error, or another way. */
static void each_call_of_a_neighbour_may_fail(void **state)
{
    char name[128];
    mcs_segment_id_t id;
    mcs_store_t *owner = far_store(*state, 64 * GPU_MIB, 0, name, &id);
    const size_t len = GPU_MIB + 70000;
    uint8_t *source = gpu_memory(0, len, FAKE_DEVICE, 0, 21);
    uint8_t *target = gpu_memory(0, len, FAKE_DEVICE, 0, 0);
    mcs_log_set_level(MCS_LOG_ERROR + 1);
    bool fired = true;
    for (uint64_t nth = 1; fired; nth++) {
        mcs_store_t *neighbour = world_store(*state, 0);
        mcs_bytes_t key = world_key("key");
        memset(fake_cuda_bytes(target), 0, len);
        fake_cuda_fail(NULL, nth, 700);
        int put = put_far(neighbour, "key", source, len, name);
        int64_t got = get_to(neighbour, "key", target, len);
        fired = fake_cuda_fired();
        fake_cuda_fail(NULL, 0, 0);
        if (got == (int64_t)len) {
            gpu_assert_bytes(target, len, 21);
        }
        assert_true(got < 0 || got == (int64_t)len);
        assert_true(put == 0 || got < 0);
        if (put == 0) {
            uint8_t *host = calloc(1, len);
            assert_int_equal(get_to(owner, "key", host, len), len);
            assert_same_host_bytes(host, len, 21);
            free(host);
            int removed = 1;
            assert_int_equal(mcs_remove(owner, &key, 1, 1, &removed), 0);
        }
        mcs_store_destroy(neighbour);
        assert_true(nth < 300);
    }
    fake_cuda_free(source);
    fake_cuda_free(target);
    mcs_store_destroy(owner);
}

/* Legacy handles cannot be opened by the process that made them: the owner serves. */
static void without_a_mapping_the_owner_serves_and_writes_go_to_host_memory(void **state)
{
    char name[128];
    mcs_segment_id_t id;
    fake_cuda_without_vmm();
    mcs_log_set_level(MCS_LOG_ERROR + 1);
    mcs_store_t *owner = far_store(*state, 64 * GPU_MIB, 0, name, &id);
    mcs_store_t *neighbour = world_store(*state, 0);
    const size_t len = 9 * GPU_MIB + 3;
    uint8_t *source = gpu_memory(0, len, FAKE_DEVICE, 0, 8);
    uint8_t *target = gpu_memory(1, len, FAKE_DEVICE, 0, 0);
    mcs_segment_id_t small;
    assert_int_equal(mcs_mount_device_memory(owner, 1000, 1, &small), 0); /* rounded up */
    assert_int_equal(mcs_unmount_memory(owner, small, 0), 0);
    assert_int_equal(put_far(owner, "key", source, len, name), 0);
    assert_int_equal(get_to(neighbour, "key", target, len), len);
    gpu_assert_bytes(target, len, 8);
    assert_true(world_counter(neighbour, "bytes_fetched") >= len);
    assert_int_equal(put_far(neighbour, "other", source, len, name), 0);
    assert_int_equal(get_to(owner, "other", target, len), len);
    mcs_replica_info_t replica;
    assert_int_equal(mcs_replicas(owner, world_key("other"), &replica, 1), 1);
    assert_null(strstr(replica.segment_name, "cuda"));
    assert_int_equal(mcs_replicas(owner, world_key("key"), &replica, 1), 1);
    assert_string_equal(replica.segment_name, name);
    fake_cuda_free(source);
    fake_cuda_free(target);
    mcs_store_destroy(neighbour);
    mcs_store_destroy(owner);
}

static void a_device_without_kernels_lets_the_processor_sum(void **state)
{
    char name[128];
    mcs_segment_id_t id;
    mcs_gpu_set_kernel_image(NULL);
    mcs_store_t *owner = far_store(*state, 0, 0, name, &id);
    mcs_store_t *neighbour = world_store(*state, 0);
    const size_t len = 17 * GPU_MIB + 3;
    uint8_t *source = gpu_memory(0, len, FAKE_DEVICE, 0, 8);
    uint8_t *target = gpu_memory(0, len, FAKE_DEVICE, 0, 0);
    assert_int_equal(put_far(neighbour, "key", source, len, name), 0);
    assert_int_equal(get_to(neighbour, "key", target, len), len);
    gpu_assert_bytes(target, len, 8);
    assert_true(world_counter(neighbour, "bytes_staged") > 0);
    fake_cuda_free(source);
    fake_cuda_free(target);
    mcs_store_destroy(neighbour);
    mcs_store_destroy(owner);
}

/* However it is read: by the device, by the processor, through the owner. */
static void a_wrong_byte_on_the_device_is_never_given_out(void **state)
{
    char name[128];
    mcs_segment_id_t id;
    mcs_store_t *owner = far_store(*state, 0, 0, name, &id);
    mcs_store_t *neighbour = world_store(*state, 0);
    mcs_store_t *stranger = world_remote_store(*state, 0);
    mcs_store_t *readers[] = {owner, neighbour, stranger};
    const size_t len = 2 * GPU_MIB + 9;
    uint8_t *source = gpu_memory(0, len, FAKE_DEVICE, 0, 8);
    uint8_t *target = gpu_memory(0, len, FAKE_DEVICE, 0, 0);
    uint8_t *other = gpu_memory(2, len, FAKE_DEVICE, 0, 0);
    uint8_t *host = malloc(len);
    assert_int_equal(put_far(owner, "key", source, len, name), 0);
    mcs_replica_info_t replica;
    assert_int_equal(mcs_replicas(owner, world_key("key"), &replica, 1), 1);
    uint8_t *bytes = fake_cuda_bytes((const void *)(uintptr_t)replica.buffer_address);
    assert_non_null(bytes);
    bytes[len - 1] ^= 1;
    mcs_log_set_level(MCS_LOG_ERROR + 1);
    for (size_t r = 0; r < MCS_ARRAY_LEN(readers); r++) {
        assert_true(get_to(readers[r], "key", target, len) < 0);
        assert_true(get_to(readers[r], "key", other, len) < 0);
        assert_true(get_to(readers[r], "key", host, len) < 0);
    }
    bytes[len - 1] ^= 1;
    assert_int_equal(get_to(stranger, "key", host, len), len);
    free(host);
    fake_cuda_free(source);
    fake_cuda_free(target);
    fake_cuda_free(other);
    mcs_store_destroy(stranger);
    mcs_store_destroy(neighbour);
    mcs_store_destroy(owner);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(values_in_device_memory_come_back_to_everybody, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(a_batch_of_fragments_goes_in_few_launches, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(handles_and_parts_of_values_are_copies, gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(a_segment_that_goes_takes_its_memory_with_it, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_mounted_says_why_and_leaves_nothing, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(each_call_of_a_mount_may_fail, gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(each_allocation_may_fail, gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(each_call_of_a_neighbour_may_fail, gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(without_a_mapping_the_owner_serves_and_writes_go_to_host_memory,
                                        gpu_store_set_up, gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(a_device_without_kernels_lets_the_processor_sum, gpu_store_set_up,
                                        gpu_store_tear_down),
        cmocka_unit_test_setup_teardown(a_wrong_byte_on_the_device_is_never_given_out, gpu_store_set_up,
                                        gpu_store_tear_down),
    };
    return cmocka_run_group_tests_name("gpu_store_far", tests, NULL, NULL);
}
