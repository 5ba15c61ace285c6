/* The C API's data calls with registered device memory that RDMA devices reach, on the fake driver and the fake
 * transport: what goes without a copy, what goes the other way, and what happens when either side is wrong. */
#include "core/base/fault.h"
#include "tests/unit/client/world.h"
#include "tests/unit/gpu/gpu_world.h"

#define ROOM (40 * GPU_MIB)

static int set_up_with(void **state, fake_rdma_t rdma)
{
    gpu_start(2, 13000);
    fake_cuda_rdma(rdma);
    int rc = world_set_up(state);
    setenv("MC_TRANSFER_TIMEOUT", "30", 1); /* a busy machine sums slowly */
    mcs_parts_t parts = {.transport = &fake_transport_ops, .mem_space = &mcs_gpu_space_ops};
    mcs_parts_set(&parts);
    return rc;
}

static int set_up(void **state)
{
    return set_up_with(state, FAKE_RDMA_ORDERED);
}

static int set_up_flushed(void **state)
{
    return set_up_with(state, FAKE_RDMA_FLUSHED);
}

static int set_up_none(void **state)
{
    return set_up_with(state, FAKE_RDMA_NONE);
}

static int tear_down(void **state)
{
    int rc = world_tear_down(state);
    gpu_assert_nothing_left();
    return rc;
}

static mcs_store_t *make_store(world_t *world, const char *protocol, uint64_t segment_bytes)
{
    mcs_store_t *store = mcs_store_create();
    mcs_setup_t setup = world_setup(world, segment_bytes);
    setup.protocol = protocol;
    setenv("MC_STORE_MEMCPY", "0", 1);
    assert_int_equal(mcs_store_setup(store, &setup), 0);
    setenv("MC_STORE_MEMCPY", "1", 1);
    return store;
}

/* A holder, a user, and device memory of the user's that is registered. */
typedef struct scene {
    mcs_store_t *holder;
    mcs_store_t *user;
    uint8_t *memory;
} scene_t;

static scene_t open_scene(void **state, const char *holder, const char *user)
{
    scene_t scene;
    scene.holder = make_store(*state, holder, 160 * GPU_MIB);
    scene.user = make_store(*state, user, 0);
    scene.memory = gpu_memory(0, ROOM, FAKE_DEVICE, 0, 1);
    assert_int_equal(mcs_register_buffer(scene.user, scene.memory, ROOM), 0);
    return scene;
}

static void close_scene(scene_t *scene)
{
    mcs_store_destroy(scene->user);
    mcs_store_destroy(scene->holder);
    fake_cuda_free(scene->memory);
}

static int put(const scene_t *scene, const char *key, const struct iovec *iov, size_t count)
{
    mcs_value_t value = {iov, count};
    mcs_bytes_t name = world_key(key);
    int result = 1;
    (void)mcs_put(scene->user, &name, &value, 1, NULL, MCS_PUT_UPSERT, &result);
    return result;
}

static int64_t get(const scene_t *scene, const char *key, const struct iovec *iov, size_t count)
{
    mcs_value_t value = {iov, count};
    mcs_bytes_t name = world_key(key);
    int64_t result = 1;
    (void)mcs_get_into(scene->user, &name, &value, 1, &result);
    return result;
}

static uint64_t direct(const scene_t *scene)
{
    return world_counter(scene->user, "bytes_gpudirect");
}

static uint64_t staged(const scene_t *scene)
{
    return world_counter(scene->user, "bytes_staged");
}

/* There and back in one piece of memory; what each way has moved. */
static void exchange(const scene_t *scene, uint8_t *memory, size_t len, uint32_t seed)
{
    static int number;
    char key[32];
    struct iovec iov = {memory, len};
    snprintf(key, sizeof(key), "exchange-%d", number++);
    gpu_fill(fake_cuda_bytes(memory), len, seed);
    assert_int_equal(put(scene, key, &iov, 1), 0);
    memset(fake_cuda_bytes(memory), 0xee, len);
    assert_int_equal(get(scene, key, &iov, 1), len);
    gpu_assert_bytes(memory, len, seed);
    assert_int_equal(world_get(scene->holder, key, len, seed), len); /* and as host memory */
}

static void registered_memory_goes_without_a_copy(void **state)
{
    static const size_t sizes[] = {16 * 1024, GPU_MIB - 1, GPU_MIB, GPU_MIB + 1, 5 * GPU_MIB + 77, 33 * GPU_MIB};
    scene_t scene = open_scene(state, "rdma", "rdma");
    uint64_t wanted = 0;
    for (uint32_t i = 0; i < MCS_ARRAY_LEN(sizes); i++) {
        exchange(&scene, scene.memory + 5, sizes[i], i);
        wanted += 2 * sizes[i];
        assert_int_equal(direct(&scene), wanted);
    }
    assert_int_equal(staged(&scene), 0);
    close_scene(&scene);
}

/* Keys of fragments in pages, as a paged cache has them. */
static void a_batch_of_paged_keys_goes_without_a_copy(void **state)
{
    enum { KEYS = 100, LAYERS = 8, PAGE = 16384, STEP = KEYS * PAGE };
    static struct iovec iov[KEYS][LAYERS];
    static char names[KEYS][16];
    static mcs_value_t values[KEYS];
    static mcs_bytes_t keys[KEYS];
    static int put_result[KEYS];
    static int64_t get_result[KEYS];
    scene_t scene = open_scene(state, "rdma", "rdma");
    gpu_fill(fake_cuda_bytes(scene.memory), ROOM, 5);
    for (int k = 0; k < KEYS; k++) {
        snprintf(names[k], sizeof(names[k]), "block-%d", k);
        keys[k] = world_key(names[k]);
        for (int l = 0; l < LAYERS; l++) {
            iov[k][l] = (struct iovec){scene.memory + (size_t)l * STEP + (size_t)(k * 37 % KEYS) * PAGE, PAGE};
        }
        values[k] = (mcs_value_t){iov[k], LAYERS};
    }
    (void)mcs_put(scene.user, keys, values, KEYS, NULL, 0, put_result);
    memset(fake_cuda_bytes(scene.memory), 0, (size_t)LAYERS * STEP);
    (void)mcs_get_into(scene.user, keys, values, KEYS, get_result);
    for (int k = 0; k < KEYS; k++) {
        assert_int_equal(put_result[k], 0);
        assert_int_equal(get_result[k], LAYERS * PAGE);
    }
    gpu_assert_bytes(scene.memory, (size_t)LAYERS * STEP, 5);
    assert_int_equal(direct(&scene), 2 * LAYERS * STEP);
    assert_int_equal(staged(&scene), 0);
    close_scene(&scene);
}

static void parts_of_a_value_come_without_a_copy(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    size_t len = 5 * GPU_MIB;
    struct iovec iov = {scene.memory, len};
    gpu_fill(fake_cuda_bytes(scene.memory), len, 9);
    uint8_t *wanted = malloc(len);
    assert_non_null(wanted);
    memcpy(wanted, fake_cuda_bytes(scene.memory), len);
    assert_int_equal(put(&scene, "key", &iov, 1), 0);
    static const struct {
        uint64_t from;
        uint64_t len;
    } parts[] = {
        {0, 20000}, {777, 3 * GPU_MIB}, {GPU_MIB, GPU_MIB}, {5 * GPU_MIB - 30000, 30000}, {3, 5 * GPU_MIB - 3}};
    uint64_t before = direct(&scene);
    for (size_t i = 0; i < MCS_ARRAY_LEN(parts); i++) {
        mcs_bytes_t name = world_key("key");
        mcs_part_t part = {scene.memory + 1, parts[i].len, parts[i].from, 0};
        mcs_parts_list_t list = {&part, 1};
        memset(fake_cuda_bytes(scene.memory), 0xee, len);
        assert_int_equal(mcs_get_parts(scene.user, &name, &list, 1), 0);
        assert_int_equal(part.result, parts[i].len);
        assert_memory_equal(fake_cuda_bytes(scene.memory + 1), wanted + parts[i].from, parts[i].len);
        before += parts[i].len;
        assert_int_equal(direct(&scene), before);
    }
    free(wanted);
    close_scene(&scene);
}

static uint64_t flushes(void)
{
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    return counts.flushes;
}

static void what_has_come_is_flushed_where_the_device_does_not_order_it(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    struct iovec iov = {scene.memory, GPU_MIB};
    assert_int_equal(put(&scene, "key", &iov, 1), 0);
    assert_int_equal(flushes(), 0);
    assert_int_equal(get(&scene, "key", &iov, 1), GPU_MIB);
    assert_int_equal(flushes(), 1);
    mcs_bytes_t name = world_key("key");
    mcs_part_t part = {scene.memory + 1, 40000, 5, 0}; /* no block to be summed */
    mcs_parts_list_t list = {&part, 1};
    assert_int_equal(mcs_get_parts(scene.user, &name, &list, 1), 0);
    assert_int_equal(part.result, 40000);
    assert_int_equal(flushes(), 2);
    assert_int_equal(direct(&scene), 2 * GPU_MIB + 40000);
    /* One that fails is the call's failure, and the store goes on. */
    fake_cuda_fail("cuFlushGPUDirectRDMAWrites", 1, 719);
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_equal(get(&scene, "key", &iov, 1), MCS_ERR_TRANSFER_FAIL);
    mcs_log_set_level(MCS_LOG_ERROR);
    assert_true(fake_cuda_fired());
    assert_int_equal(get(&scene, "key", &iov, 1), GPU_MIB);
    close_scene(&scene);
}

static void an_ordered_device_is_not_flushed(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    exchange(&scene, scene.memory, GPU_MIB, 3);
    assert_int_equal(flushes(), 0);
    assert_int_equal(direct(&scene), 2 * GPU_MIB);
    close_scene(&scene);
}

/* ---- what goes the other way ---- */

static void small_values_and_fragments_and_other_memory_go_through_chunks(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    uint8_t *other = gpu_memory(1, GPU_MIB, FAKE_DEVICE, 0, 4);
    exchange(&scene, scene.memory, 16 * 1024 - 1, 1);
    exchange(&scene, other, GPU_MIB, 2); /* not registered */
    uint64_t went = staged(&scene);
    assert_int_equal(went, 2 * (16 * 1024 - 1 + GPU_MIB));
    static struct iovec iov[1024];
    for (size_t i = 0; i < MCS_ARRAY_LEN(iov); i++) {
        iov[i] = (struct iovec){scene.memory + i * 4095, 4095};
    }
    assert_int_equal(put(&scene, "key", iov, MCS_ARRAY_LEN(iov)), 0);
    assert_int_equal(get(&scene, "key", iov, MCS_ARRAY_LEN(iov)), 1024 * 4095);
    assert_int_equal(staged(&scene), went + UINT64_C(2) * 1024 * 4095);
    /* Two devices, both registered: sums are of one. */
    assert_int_equal(mcs_register_buffer(scene.user, other, GPU_MIB), 0);
    exchange(&scene, other, GPU_MIB, 3);
    assert_int_equal(direct(&scene), 2 * GPU_MIB);
    struct iovec mixed[2] = {{scene.memory, GPU_MIB}, {other, GPU_MIB}};
    assert_int_equal(put(&scene, "key", mixed, 2), 0);
    assert_int_equal(get(&scene, "key", mixed, 2), 2 * GPU_MIB);
    assert_int_equal(direct(&scene), 2 * GPU_MIB);
    mcs_store_destroy(scene.user);
    scene.user = NULL;
    fake_cuda_free(other);
    close_scene(&scene);
}

static void with_a_holder_of_tcp_it_goes_through_chunks(void **state)
{
    uint64_t refused = fake_transport_refused();
    scene_t scene = open_scene(state, "tcp", "rdma");
    exchange(&scene, scene.memory, 20 * GPU_MIB + 5, 1);
    assert_int_equal(direct(&scene), 0);
    assert_int_equal(staged(&scene), 2 * (20 * GPU_MIB + 5));
    assert_int_equal(fake_transport_refused() - refused, 3); /* ranges of the first value: it is not asked again */
    close_scene(&scene);
}

static void a_buffer_larger_than_the_value_counts_as_far_as_that_goes(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    uint8_t *other = gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 4);
    struct iovec value = {scene.memory, GPU_MIB};
    assert_int_equal(put(&scene, "key", &value, 1), 0);
    memset(fake_cuda_bytes(scene.memory), 0, GPU_MIB);
    struct iovec room[2] = {{scene.memory, GPU_MIB}, {other, GPU_MIB}}; /* which is not registered */
    assert_int_equal(get(&scene, "key", room, 2), GPU_MIB);
    gpu_assert_bytes(scene.memory, GPU_MIB, 1);
    assert_int_equal(direct(&scene), 2 * GPU_MIB);
    assert_int_equal(staged(&scene), 0);
    close_scene(&scene);
    fake_cuda_free(other);
}

/* A whole value on one, a part without a whole block on the other. */
static void a_call_over_two_devices_is_summed_on_each(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    uint8_t *other = gpu_memory(1, GPU_MIB, FAKE_DEVICE, 0, 4);
    assert_int_equal(mcs_register_buffer(scene.user, other, GPU_MIB), 0);
    struct iovec value = {scene.memory, 8 * GPU_MIB};
    assert_int_equal(put(&scene, "key", &value, 1), 0);
    uint64_t before = direct(&scene);
    memset(fake_cuda_bytes(scene.memory), 0, 8 * GPU_MIB);
    mcs_bytes_t names[2] = {world_key("key"), world_key("key")};
    mcs_part_t parts[2] = {{scene.memory, 8 * GPU_MIB, 0, 0}, {other, 40000, 77, 0}};
    mcs_parts_list_t lists[2] = {{&parts[0], 1}, {&parts[1], 1}};
    assert_int_equal(mcs_get_parts(scene.user, names, lists, 2), 0);
    assert_int_equal(parts[0].result, 8 * GPU_MIB);
    assert_int_equal(parts[1].result, 40000);
    gpu_assert_bytes(scene.memory, 8 * GPU_MIB, 1);
    assert_memory_equal(fake_cuda_bytes(other), fake_cuda_bytes(scene.memory) + 77, 40000);
    assert_int_equal(direct(&scene) - before, 8 * GPU_MIB + 40000);
    assert_int_equal(staged(&scene), 0);
    mcs_store_destroy(scene.user);
    scene.user = NULL;
    fake_cuda_free(other);
    close_scene(&scene);
}

typedef struct crowd {
    const scene_t *scene;
    int number;
    int64_t wrong;
} crowd_t;

static void *use_in_crowd(void *arg)
{
    crowd_t *mine = arg;
    uint8_t *memory = mine->scene->memory + (size_t)mine->number * 3 * GPU_MIB;
    struct iovec iov = {memory, 3 * GPU_MIB};
    char key[32];
    for (int turn = 0; turn < 5; turn++) {
        snprintf(key, sizeof(key), "crowd-%d-%d", mine->number, turn);
        mine->wrong += put(mine->scene, key, &iov, 1) != 0;
        mine->wrong += get(mine->scene, key, &iov, 1) != 3 * (int64_t)GPU_MIB;
    }
    return NULL;
}

/* More than a device has places for sums: they wait for each other. */
static void many_threads_go_without_a_copy(void **state)
{
    enum { THREADS = 12 };
    crowd_t crowd[THREADS];
    pthread_t threads[THREADS];
    scene_t scene = {make_store(*state, "rdma", 256 * GPU_MIB), make_store(*state, "rdma", 0), NULL};
    scene.memory = gpu_memory(0, ROOM, FAKE_DEVICE, 0, 1);
    assert_int_equal(mcs_register_buffer(scene.user, scene.memory, ROOM), 0);
    for (int i = 0; i < THREADS; i++) {
        crowd[i] = (crowd_t){&scene, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, use_in_crowd, &crowd[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(crowd[i].wrong, 0);
    }
    gpu_assert_bytes(scene.memory, ROOM, 1);
    assert_int_equal(direct(&scene), UINT64_C(2) * 5 * THREADS * 3 * GPU_MIB);
    assert_int_equal(staged(&scene), 0);
    close_scene(&scene);
}

static void unregistered_memory_is_not_used_again(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    exchange(&scene, scene.memory, GPU_MIB, 1);
    assert_int_equal(mcs_unregister_buffer(scene.user, scene.memory), 0);
    exchange(&scene, scene.memory, GPU_MIB, 2);
    assert_int_equal(direct(&scene), 2 * GPU_MIB);
    assert_int_equal(staged(&scene), 2 * GPU_MIB);
    close_scene(&scene);
}

static uint32_t g_warnings;

static void count_warnings(void *arg, mcs_log_level_t level, const char *line)
{
    (void)arg;
    g_warnings += level == MCS_LOG_WARN && strstr(line, "not open to RDMA devices") != NULL;
}

/* Registers some and uses it; whether a warning came. */
static bool is_refused(void **state, uint8_t *memory, size_t len)
{
    scene_t scene = {make_store(*state, "rdma", 96 * GPU_MIB), make_store(*state, "rdma", 0), memory};
    g_warnings = 0;
    mcs_log_set_level(MCS_LOG_WARN);
    mcs_log_set_sink(count_warnings, NULL);
    assert_int_equal(mcs_register_buffer(scene.user, memory, len), 0);
    assert_int_equal(mcs_unregister_buffer(scene.user, memory), 0);
    assert_int_equal(mcs_register_buffer(scene.user, memory, len), 0);
    mcs_log_set_sink(NULL, NULL);
    mcs_log_set_level(MCS_LOG_ERROR);
    exchange(&scene, memory, len, 5);
    assert_int_equal(direct(&scene), 0);
    assert_int_equal(staged(&scene), 2 * len);
    close_scene(&scene);
    assert_true(g_warnings <= 1);
    return g_warnings == 1;
}

static void memory_that_is_not_fit_for_it_is_refused_with_one_warning(void **state)
{
    assert_true(is_refused(state, gpu_memory(0, GPU_MIB, FAKE_MANAGED, 0, 1), GPU_MIB));
    assert_true(is_refused(state, gpu_memory(0, 4 * GPU_MIB, FAKE_VMM, 2 * GPU_MIB, 1), 4 * GPU_MIB));
    fake_cuda_fail("cuPointerSetAttribute", 1, 801);
    uint8_t *memory = gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 1);
    scene_t scene = {make_store(*state, "rdma", 96 * GPU_MIB), make_store(*state, "rdma", 0), memory};
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_equal(mcs_register_buffer(scene.user, memory, GPU_MIB), 0);
    mcs_log_set_level(MCS_LOG_ERROR);
    assert_true(fake_cuda_fired());
    exchange(&scene, memory, GPU_MIB, 5);
    assert_int_equal(direct(&scene), 0);
    close_scene(&scene);
    fake_cuda_fail("cuModuleLoadData", 1, 209); /* no kernels, no sums */
    assert_true(is_refused(state, gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 1), GPU_MIB));
    fake_cuda_fail("cuMemAlloc_v2", 1, 2); /* a GPU that is full has no room for sums */
    assert_true(is_refused(state, gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 1), GPU_MIB));
    fake_cuda_fail(NULL, 0, 0);
    fake_cuda_capabilities(70, true);
    assert_true(is_refused(state, gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 1), GPU_MIB));
}

static void a_device_that_cannot_is_refused_with_one_warning(void **state)
{
    assert_true(is_refused(state, gpu_memory(0, GPU_MIB, FAKE_DEVICE, 0, 1), GPU_MIB));
}

/* ---- what goes wrong ---- */

static void a_fetch_with_wrong_bytes_is_fetched_again_through_chunks(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    struct iovec iov = {scene.memory, 3 * GPU_MIB};
    assert_int_equal(put(&scene, "key", &iov, 1), 0);
    fake_transport_set_all(FAKE_HOLDER_DIRECT_WRONG);
    memset(fake_cuda_bytes(scene.memory), 0, 3 * GPU_MIB);
    assert_int_equal(get(&scene, "key", &iov, 1), 3 * GPU_MIB);
    gpu_assert_bytes(scene.memory, 3 * GPU_MIB, 1);
    assert_int_equal(direct(&scene), 3 * GPU_MIB);
    assert_int_equal(staged(&scene), 3 * GPU_MIB);
    /* What is wrong either way is an error. */
    fake_transport_set_all(FAKE_HOLDER_CORRUPT);
    mcs_log_set_level(MCS_LOG_OFF);
    assert_true(get(&scene, "key", &iov, 1) < 0);
    mcs_log_set_level(MCS_LOG_ERROR);
    fake_transport_set_all(FAKE_HOLDER_FINE);
    close_scene(&scene);
}

static void after_a_store_with_wrong_bytes_the_way_is_left(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    fake_transport_set_all(FAKE_HOLDER_DIRECT_WRONG);
    mcs_log_set_level(MCS_LOG_OFF);
    exchange(&scene, scene.memory, 3 * GPU_MIB, 7);
    mcs_log_set_level(MCS_LOG_ERROR);
    fake_transport_set_all(FAKE_HOLDER_FINE);
    exchange(&scene, scene.memory, 3 * GPU_MIB, 8);
    assert_int_equal(direct(&scene), 0);
    assert_int_equal(staged(&scene), 4 * 3 * GPU_MIB);
    close_scene(&scene);
}

static void what_fails_on_the_way_goes_through_chunks(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    fake_transport_set_all(FAKE_HOLDER_DIRECT_DEAD);
    mcs_log_set_level(MCS_LOG_OFF);
    exchange(&scene, scene.memory, 3 * GPU_MIB, 7); /* a put, and gets for a while */
    assert_int_equal(staged(&scene), 2 * 3 * GPU_MIB);
    close_scene(&scene);
    scene = open_scene(state, "rdma", "rdma");
    fake_transport_set_all(FAKE_HOLDER_FINE);
    struct iovec iov = {scene.memory, 3 * GPU_MIB};
    assert_int_equal(put(&scene, "key", &iov, 1), 0);
    fake_transport_set_all(FAKE_HOLDER_DIRECT_DEAD);
    assert_int_equal(get(&scene, "key", &iov, 1), 3 * GPU_MIB);
    mcs_log_set_level(MCS_LOG_ERROR);
    gpu_assert_bytes(scene.memory, 3 * GPU_MIB, 1);
    assert_int_equal(direct(&scene), 3 * GPU_MIB);
    assert_int_equal(staged(&scene), 3 * GPU_MIB);
    /* A holder that is dead altogether is dead this way, too. */
    fake_transport_set_all(FAKE_HOLDER_DEAD);
    mcs_log_set_level(MCS_LOG_OFF);
    assert_true(get(&scene, "key", &iov, 1) < 0);
    mcs_log_set_level(MCS_LOG_ERROR);
    fake_transport_set_all(FAKE_HOLDER_FINE);
    close_scene(&scene);
}

/* The place that a store had begun in cannot be had again; the value is put once more. */
static void a_way_that_ends_in_the_middle_of_a_value_costs_nothing_else(void **state)
{
    size_t len = 20 * GPU_MIB;
    scene_t scene = open_scene(state, "rdma", "rdma");
    fake_transport_set_all(FAKE_HOLDER_DIRECT_ENDS);
    exchange(&scene, scene.memory, len, 7);
    assert_int_equal(direct(&scene), 0);
    assert_int_equal(staged(&scene), 2 * len);
    close_scene(&scene);
    scene = open_scene(state, "rdma", "rdma");
    fake_transport_set_all(FAKE_HOLDER_FINE);
    struct iovec iov = {scene.memory, len};
    assert_int_equal(put(&scene, "key", &iov, 1), 0);
    fake_transport_set_all(FAKE_HOLDER_DIRECT_ENDS);
    memset(fake_cuda_bytes(scene.memory), 0, len);
    assert_int_equal(get(&scene, "key", &iov, 1), len);
    gpu_assert_bytes(scene.memory, len, 1);
    assert_int_equal(staged(&scene), len);
    fake_transport_set_all(FAKE_HOLDER_FINE);
    close_scene(&scene);
}

static void a_device_that_fails_while_it_sums_fails_the_call(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    struct iovec iov = {scene.memory, 3 * GPU_MIB};
    assert_int_equal(put(&scene, "key", &iov, 1), 0);
    mcs_log_set_level(MCS_LOG_OFF);
    fake_cuda_fail("cuLaunchKernel", 1, 719);
    assert_int_equal(get(&scene, "key", &iov, 1), MCS_ERR_TRANSFER_FAIL);
    assert_true(fake_cuda_fired());
    fake_cuda_fail("cuLaunchKernel", 1, 719);
    assert_int_equal(put(&scene, "key", &iov, 1), MCS_ERR_TRANSFER_FAIL);
    assert_true(fake_cuda_fired());
    mcs_log_set_level(MCS_LOG_ERROR);
    exchange(&scene, scene.memory, 3 * GPU_MIB, 4);
    close_scene(&scene);
}

static void memory_freed_under_its_registration_is_noticed(void **state)
{
    scene_t scene = open_scene(state, "rdma", "rdma");
    struct iovec iov = {scene.memory, GPU_MIB};
    assert_int_equal(put(&scene, "key", &iov, 1), 0);
    fake_cuda_free(scene.memory);
    uint8_t *next = gpu_memory(0, ROOM, FAKE_DEVICE, 0, 2); /* the same addresses */
    assert_ptr_equal(next, scene.memory);
    mcs_log_set_level(MCS_LOG_OFF);
    assert_int_equal(get(&scene, "key", &iov, 1), MCS_INVALID_PARAMS);
    assert_int_equal(put(&scene, "key", &iov, 1), MCS_INVALID_PARAMS);
    mcs_log_set_level(MCS_LOG_ERROR);
    assert_int_equal(mcs_unregister_buffer(scene.user, scene.memory), 0);
    exchange(&scene, scene.memory, GPU_MIB, 3);
    close_scene(&scene);
}

/* Each call of the driver fails once, from the registration on, and each allocation of ours. */
static void anything_may_fail_once(void **state)
{
    size_t len = 3 * GPU_MIB;
    int scenes = 0;
    for (int kind = 0; kind < 2; kind++) {
        uint64_t nth = 1;
        for (bool fired = true; fired; nth++) {
            if (++scenes % 30 == 0) { /* the mini master keeps 64 sessions */
                assert_int_equal(tear_down(state), 0);
                assert_int_equal(set_up_flushed(state), 0);
            }
            scene_t scene = {make_store(*state, "rdma", 48 * GPU_MIB), make_store(*state, "rdma", 0), NULL};
            scene.memory = gpu_memory(0, len, FAKE_DEVICE, 0, 1);
            struct iovec iov = {scene.memory, len};
            mcs_log_set_level(MCS_LOG_OFF);
            if (kind == 0) {
                fake_cuda_fail(NULL, nth, 719);
            } else {
                mcs_fault_arm(MCS_FAULT_ALLOC, nth);
            }
            bool registered = mcs_register_buffer(scene.user, scene.memory, len) == 0;
            int stored = put(&scene, "key", &iov, 1);
            memset(fake_cuda_bytes(scene.memory), 0, len);
            int64_t got = stored == 0 ? get(&scene, "key", &iov, 1) : 0;
            fired = kind == 0 ? fake_cuda_fired() : mcs_fault_fired(MCS_FAULT_ALLOC);
            fake_cuda_fail(NULL, 0, 0);
            mcs_fault_arm(MCS_FAULT_ALLOC, 0);
            mcs_log_set_level(MCS_LOG_ERROR);
            assert_true(stored <= 0 && got != 1);
            if (got > 0) {
                gpu_assert_bytes(scene.memory, len, 1);
            }
            assert_true(fired || (registered && got == (int64_t)len && direct(&scene) == 2 * len));
            exchange(&scene, scene.memory, len, 2); /* and it goes on */
            close_scene(&scene);
            gpu_assert_nothing_left();
            assert_true(nth < 1000);
        }
        assert_true(nth > 20);
    }
}

#define DIRECT(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DIRECT(registered_memory_goes_without_a_copy),
        DIRECT(a_batch_of_paged_keys_goes_without_a_copy),
        DIRECT(parts_of_a_value_come_without_a_copy),
        cmocka_unit_test_setup_teardown(what_has_come_is_flushed_where_the_device_does_not_order_it, set_up_flushed,
                                        tear_down),
        DIRECT(an_ordered_device_is_not_flushed),
        DIRECT(small_values_and_fragments_and_other_memory_go_through_chunks),
        DIRECT(with_a_holder_of_tcp_it_goes_through_chunks),
        DIRECT(a_buffer_larger_than_the_value_counts_as_far_as_that_goes),
        DIRECT(a_call_over_two_devices_is_summed_on_each),
        DIRECT(many_threads_go_without_a_copy),
        DIRECT(unregistered_memory_is_not_used_again),
        DIRECT(memory_that_is_not_fit_for_it_is_refused_with_one_warning),
        cmocka_unit_test_setup_teardown(a_device_that_cannot_is_refused_with_one_warning, set_up_none, tear_down),
        DIRECT(a_fetch_with_wrong_bytes_is_fetched_again_through_chunks),
        DIRECT(after_a_store_with_wrong_bytes_the_way_is_left),
        DIRECT(what_fails_on_the_way_goes_through_chunks),
        DIRECT(a_way_that_ends_in_the_middle_of_a_value_costs_nothing_else),
        DIRECT(a_device_that_fails_while_it_sums_fails_the_call),
        DIRECT(memory_freed_under_its_registration_is_noticed),
        cmocka_unit_test_setup_teardown(anything_may_fail_once, set_up_flushed, tear_down),
    };
    return cmocka_run_group_tests_name("gpu_store_direct", tests, NULL, NULL);
}
