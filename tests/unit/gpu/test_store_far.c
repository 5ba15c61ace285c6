/* The C API with segments in device memory, on the fake driver: this process is owner, neighbour and stranger. */
#include "tests/unit/client/world.h"
#include "tests/unit/gpu/gpu_world.h"

#define FAR_BYTES (32 * (uint64_t)GPU_MIB)

static int set_up(void **state)
{
    gpu_start(3, 13000);
    int rc = world_set_up(state);
    setenv("MC_TRANSFER_TIMEOUT", "30", 1); /* a busy machine sums slowly */
    mcs_parts_t parts = {.transport = &fake_transport_ops, .mem_space = &mcs_gpu_space_ops};
    mcs_parts_set(&parts);
    return rc;
}

static int tear_down(void **state)
{
    int rc = world_tear_down(state);
    gpu_assert_nothing_left();
    return rc;
}

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

static uint64_t device_allocs(void)
{
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    return (uint64_t)counts.device_allocs;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(values_in_device_memory_come_back_to_everybody, set_up, tear_down),
    };
    (void)device_allocs;
    return cmocka_run_group_tests_name("gpu_store_far", tests, NULL, NULL);
}
