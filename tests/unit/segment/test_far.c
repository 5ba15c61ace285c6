/* Segments whose payloads are a device's: headers apart, served reads by way of host memory, releases and gaps. The
 * "device" is memory of this process that only copies should touch. */
#include "tests/unit/segment/world.h"

#define FAR_SIZE (24 * MCS_MIB)
#define EPOCH    UINT64_C(9)
#define OLD(n)   (((EPOCH - 1) << MCS_GENERATION_EPOCH_SHIFT) + (n))

static const mcs_owner_ops_t *const g_ops = &mcs_owner_serve_ops;
static mcs_status_t g_copy_status; /* of the next copies */
static uint32_t g_copies;          /* atomic */
static uint32_t g_closed;          /* atomic */

struct mcs_mem_job {
    const mcs_mem_copy_t *copy;
};

static mcs_status_t copy_begin(mcs_mem_space_t *space, const mcs_mem_copy_t *copy, mcs_mem_job_t **job_out,
                               bool *crcs_coming_out)
{
    (void)space;
    *crcs_coming_out = false;
    mcs_mem_job_t *job = malloc(sizeof(*job));
    job->copy = copy;
    *job_out = job;
    return MCS_OK;
}

static mcs_status_t copy_end(mcs_mem_space_t *space, mcs_mem_job_t *job)
{
    (void)space;
    for (size_t i = 0; i < job->copy->count; i++) {
        const mcs_mem_piece_t *piece = &job->copy->pieces[i];
        memcpy(job->copy->to_user ? piece->user : piece->host, job->copy->to_user ? piece->host : piece->user,
               piece->len);
    }
    free(job);
    __atomic_fetch_add(&g_copies, 1, __ATOMIC_RELAXED);
    return __atomic_load_n(&g_copy_status, __ATOMIC_RELAXED);
}

static void far_close(mcs_mem_space_t *space, mcs_mem_far_t *far)
{
    (void)space;
    free(far->base);
    free(far);
    __atomic_fetch_add(&g_closed, 1, __ATOMIC_RELAXED);
}

static const mcs_mem_space_ops_t g_space = {
    .name = "test", .far_close = far_close, .copy_begin = copy_begin, .copy_end = copy_end};

/* What a neighbour opens: the same memory, which stays its maker's. */
static void opened_close(mcs_mem_space_t *space, mcs_mem_far_t *far)
{
    (void)space;
    free(far);
    __atomic_fetch_add(&g_closed, 1, __ATOMIC_RELAXED);
}

static const mcs_mem_space_ops_t g_opened = {
    .name = "test", .far_close = opened_close, .copy_begin = copy_begin, .copy_end = copy_end};

static mcs_status_t g_open_status;

static mcs_status_t open_shared(void *arg, const mcs_mem_share_t *share, int fd, mcs_far_t *far_out)
{
    (void)arg;
    assert_int_equal(fd, -1);
    if (g_open_status != MCS_OK) {
        return g_open_status;
    }
    mcs_mem_far_t *far = calloc(1, sizeof(*far));
    far->size = share->size;
    far->fd = -1;
    memcpy(&far->base, share->handle, sizeof(far->base));
    *far_out = (mcs_far_t){.ops = &g_opened, .memory = far};
    return MCS_OK;
}

typedef struct far_world {
    world_t *world;
    mcs_segment_t *segment;
    mcs_mapping_t *mapping;
    mcs_id_t host_instance;
} far_world_t;

static int open_far(void **state)
{
    far_world_t *f = calloc(1, sizeof(*f));
    mcs_mem_far_t *memory = calloc(1, sizeof(*memory));
    mcs_segment_config_t config = {.fault_window = MCS_MIB, .numa_node = -1};
    f->world = world_open(4 * MCS_MIB);
    *memory = (mcs_mem_far_t){.base = malloc(FAR_SIZE), .size = FAR_SIZE, .reach = 1, .fd = -1};
    memory->share = (mcs_mem_share_t){.kind = MCS_MEM_SHARE_HANDLE, .size = FAR_SIZE};
    memcpy(memory->share.handle, &memory->base, sizeof(memory->base));
    mcs_far_t far = {.ops = &g_space, .memory = memory};
    g_open_status = MCS_OK;
    g_copy_status = MCS_OK;
    g_copies = 0;
    g_closed = 0;
    assert_int_equal(mcs_segment_create_far(&config, f->world->faulter, far, &f->segment), MCS_OK);
    assert_int_equal(mcs_owner_add_segment(f->world->owner, f->segment), MCS_OK);
    f->host_instance = f->world->instance;
    f->world->instance = mcs_segment_instance(f->segment); /* what is asked about from here on */
    assert_int_equal(mcs_owner_set_key(f->world->owner, f->world->instance, &f->world->key), MCS_OK);
    assert_int_equal(mcs_mapper_add_own(f->world->mapper, f->segment), MCS_OK);
    mcs_mapper_peer_t peer = {f->world->client, f->world->instance, FAR_SIZE, ""};
    assert_int_equal(mcs_mapper_get(f->world->mapper, &peer, MCS_NEVER, &f->mapping), MCS_OK);
    *state = f;
    return 0;
}

static int close_far(void **state)
{
    far_world_t *f = *state;
    mcs_mapping_put(f->mapping);
    mcs_mapper_remove_own(f->world->mapper, f->world->instance);
    mcs_segment_put(f->segment);
    f->world->instance = f->host_instance;
    world_close(f->world);
    assert_int_equal(g_closed, 1);
    free(f);
    return 0;
}

/* A served read, as the transport asks for it. */
static mcs_status_t read_served(far_world_t *f, const mcs_access_t *access, mcs_hold_t *hold)
{
    mcs_status_t status;
    uint64_t give_up = mcs_now_ns() + 10 * MCS_NS_PER_SEC;
    while ((status = g_ops->read_begin(f->world->owner, access, hold)) == MCS_ERR_AGAIN) {
        assert_true(mcs_now_ns() < give_up);
        poll(NULL, 0, 1);
    }
    return status;
}

static mcs_access_t access_of(far_world_t *f, uint64_t offset, uint64_t generation, uint64_t len)
{
    return world_access(f->world, MCS_CAP_READ, offset, generation, len);
}

static void headers_and_payloads_lie_apart(void **state)
{
    far_world_t *f = *state;
    static const uint64_t lens[] = {1, 4096, 4097, MCS_MIB, 5 * MCS_MIB + 1, 9 * MCS_MIB};
    uint64_t offset = 0;
    assert_int_equal(mcs_segment_size(f->segment), FAR_SIZE);
    assert_int_equal(mcs_segment_near_size(f->segment), FAR_SIZE / 64);
    for (uint64_t i = 0; i < MCS_ARRAY_LEN(lens); i++) {
        assert_int_equal(world_put(f->mapping, offset, i + 1, lens[i]), MCS_OK);
        offset += mcs_extent_room(lens[i], MCS_EXTENT_FAR_SHIFT);
    }
    offset = 0;
    for (uint64_t i = 0; i < MCS_ARRAY_LEN(lens); i++) { /* none has touched another's */
        mcs_pin_t pin;
        assert_int_equal(world_get(f->mapping, offset, i + 1, lens[i]), MCS_OK);
        assert_int_equal(mcs_pin_read(f->mapping, offset, i + 1, lens[i], world_hash(i + 1), &pin), MCS_OK);
        assert_ptr_equal(pin.payload, mcs_mapping_far(f->mapping)->base + offset);
        assert_ptr_equal(pin.header, mcs_segment_header(f->segment, offset));
        for (uint64_t block = 0; block < mcs_extent_block_count(lens[i]); block++) {
            uint64_t from = block * MCS_EXTENT_CRC_BLOCK;
            assert_int_equal(mcs_pin_crcs(&pin)[block], mcs_crc32c(0, (uint8_t *)pin.payload + from,
                                                                   MCS_MIN(MCS_EXTENT_CRC_BLOCK, lens[i] - from)));
        }
        mcs_unpin(&pin);
        offset += mcs_extent_room(lens[i], MCS_EXTENT_FAR_SHIFT);
    }
    assert_int_equal(world_put(f->mapping, FAR_SIZE - 4096, 90, 4096), MCS_OK); /* to the last byte */
    assert_true(mcs_owner_high_mark(f->world->owner, f->world->instance) == FAR_SIZE);
}

static void places_that_are_none_are_refused(void **state)
{
    far_world_t *f = *state;
    mcs_pin_t pin;
    mcs_hold_t hold;
    static const uint64_t bad[][2] = {
        {64, 100}, {2048, 100}, {FAR_SIZE, 1}, {FAR_SIZE - 4096, 4097}, {0, FAR_SIZE + 1}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        mcs_access_t access = access_of(f, bad[i][0], 7, bad[i][1]);
        assert_int_equal(mcs_pin_write(f->mapping, bad[i][0], 7, bad[i][1], world_hash(7), &pin),
                         MCS_ERR_INVALID_WRITE);
        assert_int_equal(mcs_pin_read(f->mapping, bad[i][0], 7, bad[i][1], world_hash(7), &pin), MCS_ERR_INVALID_READ);
        assert_int_equal(g_ops->read_begin(f->world->owner, &access, &hold), MCS_ERR_INVALID_READ);
        world_release(f->world, bad[i][0], 7, bad[i][1], 0);
    }
    assert_int_equal(world_times_released(f->world, 7), 0);
}

static void a_served_read_comes_by_way_of_host_memory(void **state)
{
    far_world_t *f = *state;
    const uint64_t len = 6 * MCS_MIB + 100;
    assert_int_equal(world_put(f->mapping, 4096, 5, len), MCS_OK);
    mcs_access_t access = access_of(f, 4096, 5, len);
    access.from = 2 * MCS_MIB;
    access.len = MCS_MIB;
    mcs_hold_t hold;
    assert_int_equal(g_ops->read_begin(f->world->owner, &access, &hold), MCS_ERR_AGAIN); /* never at once */
    assert_int_equal(read_served(f, &access, &hold), MCS_OK);
    assert_int_equal(hold.crc_count, 1);
    const uint8_t *device = mcs_mapping_far(f->mapping)->base + 4096;
    assert_true((const uint8_t *)hold.bytes < device || (const uint8_t *)hold.bytes > device + len);
    assert_memory_equal(hold.bytes, device + access.from, MCS_MIB);
    assert_int_equal(hold.crcs[0], mcs_crc32c(0, hold.bytes, MCS_MIB));
    /* The extent stays until the bytes are sent. */
    world_release(f->world, 4096, 5, len, 0);
    assert_int_equal(world_times_released(f->world, 5), 0);
    mcs_hold_t other;
    assert_int_equal(g_ops->read_begin(f->world->owner, &access, &other), MCS_ERR_REPLICA_IS_GONE);
    g_ops->read_end(f->world->owner, &hold);
    world_await(world_times_released(f->world, 5) == 1);
    assert_int_equal(world_stats(f->world).holds, 0);
}

static void served_writes_are_refused(void **state)
{
    far_world_t *f = *state;
    mcs_access_t access = world_access(f->world, MCS_CAP_WRITE, 0, 3, 1000);
    mcs_hold_t hold;
    assert_int_equal(g_ops->write_begin(f->world->owner, &access, &hold), MCS_ERR_NOT_SUPPORTED);
    assert_int_equal(world_stats(f->world).holds, 0);
}

static void a_copy_that_fails_is_told_and_tried_anew(void **state)
{
    far_world_t *f = *state;
    assert_int_equal(world_put(f->mapping, 0, 5, 10000), MCS_OK);
    mcs_access_t access = access_of(f, 0, 5, 10000);
    mcs_hold_t hold;
    __atomic_store_n(&g_copy_status, MCS_ERR_TRANSFER_FAIL, __ATOMIC_RELAXED);
    assert_int_equal(read_served(f, &access, &hold), MCS_ERR_TRANSFER_FAIL);
    __atomic_store_n(&g_copy_status, MCS_OK, __ATOMIC_RELAXED);
    assert_int_equal(read_served(f, &access, &hold), MCS_OK);
    assert_true(world_is_filled(hold.bytes, 10000, 5));
    g_ops->read_end(f->world->owner, &hold);
    access.len = 9 * MCS_MIB; /* no such length is ever sent */
    assert_int_equal(g_ops->read_begin(f->world->owner, &access, &hold), MCS_ERR_INVALID_READ);
}

static void more_reads_than_places_all_have_their_turn(void **state)
{
    enum { READS = 40 };
    far_world_t *f = *state;
    mcs_access_t accesses[READS];
    mcs_hold_t holds[READS];
    bool done[READS] = {false};
    uint32_t left = READS;
    for (uint64_t i = 0; i < READS; i++) {
        assert_int_equal(world_put(f->mapping, i * 8192, i + 1, 5000 + i), MCS_OK);
        accesses[i] = access_of(f, i * 8192, i + 1, 5000 + i);
    }
    uint64_t give_up = mcs_now_ns() + 20 * MCS_NS_PER_SEC;
    while (left > 0) {
        assert_true(mcs_now_ns() < give_up);
        for (uint64_t i = 0; i < READS; i++) {
            if (!done[i] && g_ops->read_begin(f->world->owner, &accesses[i], &holds[i]) == MCS_OK) {
                assert_true(world_is_filled(holds[i].bytes, 5000 + i, i + 1));
                g_ops->read_end(f->world->owner, &holds[i]);
                done[i] = true;
                left--;
            }
        }
    }
    assert_int_equal(g_copies, READS);
    assert_int_equal(world_stats(f->world).holds, 0);
}

typedef struct server {
    far_world_t *f;
    uint32_t wrong;
} server_t;

static void *serve_many(void *arg)
{
    server_t *server = arg;
    for (uint64_t i = 0; i < 400; i++) {
        uint64_t which = i % 5;
        mcs_access_t access = access_of(server->f, which * 8192, which + 1, 5000);
        mcs_hold_t hold;
        if (read_served(server->f, &access, &hold) == MCS_OK) {
            server->wrong += !world_is_filled(hold.bytes, 5000, which + 1);
            g_ops->read_end(server->f->world->owner, &hold);
        } else {
            server->wrong++;
        }
    }
    return NULL;
}

static void threads_read_the_same_extents(void **state)
{
    enum { THREADS = 4 };
    far_world_t *f = *state;
    pthread_t threads[THREADS];
    server_t servers[THREADS];
    for (uint64_t i = 0; i < 5; i++) {
        assert_int_equal(world_put(f->mapping, i * 8192, i + 1, 5000), MCS_OK);
    }
    for (size_t t = 0; t < THREADS; t++) {
        servers[t] = (server_t){.f = f};
        assert_int_equal(pthread_create(&threads[t], NULL, serve_many, &servers[t]), 0);
    }
    for (size_t t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        assert_int_equal(servers[t].wrong, 0);
    }
}

/* Whoever asked has gone. The places are given up after a while, and at the end at the latest. */
static void reads_that_nobody_fetches_keep_no_extent(void **state)
{
    far_world_t *f = *state;
    mcs_hold_t hold;
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(world_put(f->mapping, i * 8192, i + 1, 5000), MCS_OK);
        mcs_access_t access = access_of(f, i * 8192, i + 1, 5000);
        assert_int_equal(g_ops->read_begin(f->world->owner, &access, &hold), MCS_ERR_AGAIN);
    }
    world_release(f->world, 0, 1, 5000, 0);
    assert_int_equal(world_times_released(f->world, 1), 0);
    world_await(world_times_released(f->world, 1) == 1);
    /* And one that is on its way when the world ends. */
    mcs_access_t access = access_of(f, 8192, 2, 5000);
    mcs_status_t status = g_ops->read_begin(f->world->owner, &access, &hold);
    if (status == MCS_OK) {
        g_ops->read_end(f->world->owner, &hold);
    }
}

static void a_segment_that_goes_keeps_its_memory_for_what_is_being_sent(void **state)
{
    far_world_t *f = *state;
    mcs_hold_t hold;
    assert_int_equal(world_put(f->mapping, 0, 5, 5000), MCS_OK);
    mcs_access_t access = access_of(f, 0, 5, 5000);
    assert_int_equal(read_served(f, &access, &hold), MCS_OK);
    mcs_owner_remove_segment(f->world->owner, f->world->instance);
    mcs_hold_t other;
    assert_int_equal(g_ops->read_begin(f->world->owner, &access, &other), MCS_ERR_SEGMENT_NOT_FOUND);
    assert_true(world_is_filled(hold.bytes, 5000, 5));
    assert_int_equal(g_closed, 0);
    g_ops->read_end(f->world->owner, &hold);
}

static void gaps_are_settled_by_their_headers(void **state)
{
    far_world_t *f = *state;
    const uint64_t gap = (EPOCH << MCS_GENERATION_EPOCH_SHIFT) + 777;
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(world_put(f->mapping, i * 8192, OLD(i + 1), 5000), MCS_OK);
    }
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_read(f->mapping, 2 * 8192, OLD(3), 5000, world_hash(OLD(3)), &pin), MCS_OK);
    mcs_owner_set_epoch(f->world->owner, EPOCH);
    world_release(f->world, 8192, gap, 2 * 8192, MCS_RELEASE_GAP); /* the second and the third */
    world_await(__atomic_load_n(&pin.header->state, __ATOMIC_SEQ_CST) == MCS_EXTENT_DEAD);
    assert_int_equal(world_times_released(f->world, gap), 0);
    mcs_unpin(&pin);
    world_await(world_times_released(f->world, gap) == 1);
    assert_int_equal(world_get(f->mapping, 0, OLD(1), 5000), MCS_OK);
    assert_int_equal(world_get(f->mapping, 8192, OLD(2), 5000), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(world_get(f->mapping, 2 * 8192, OLD(3), 5000), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(world_get(f->mapping, 3 * 8192, OLD(4), 5000), MCS_OK);
}

static mcs_mapper_t *neighbour(far_world_t *f, bool opens)
{
    mcs_mapper_t *mapper;
    mcs_mapper_config_t config = {.client = mcs_id_random(), .open_far = opens ? open_shared : NULL};
    assert_int_equal(mcs_mapper_create(&config, &mapper), MCS_OK);
    mcs_mapper_set_session(mapper, f->world->session);
    return mapper;
}

static mcs_status_t map(far_world_t *f, mcs_mapper_t *mapper, mcs_id_t instance, uint64_t size,
                        mcs_mapping_t **mapping_out)
{
    mcs_mapper_peer_t peer = {f->world->client, instance, size, mcs_owner_ipc_path(f->world->owner)};
    return mcs_mapper_get(mapper, &peer, mcs_deadline_after_ms(5000), mapping_out);
}

static void a_neighbour_that_can_open_the_memory_maps_it(void **state)
{
    far_world_t *f = *state;
    mcs_mapper_t *mapper = neighbour(f, true);
    mcs_mapping_t *mapping;
    const uint64_t len = 5 * MCS_MIB + 3;
    assert_int_equal(world_put(f->mapping, 4096, 1, len), MCS_OK);
    assert_int_equal(map(f, mapper, f->world->instance, FAR_SIZE, &mapping), MCS_OK);
    assert_ptr_equal(mcs_mapping_far(mapping)->base, mcs_mapping_far(f->mapping)->base);
    assert_int_equal(world_get(mapping, 4096, 1, len), MCS_OK);
    assert_int_equal(world_put(mapping, 8 * MCS_MIB, 2, len), MCS_OK);
    assert_int_equal(world_get(f->mapping, 8 * MCS_MIB, 2, len), MCS_OK);
    /* Its slot keeps the extent, and the mark keeps it out. */
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_read(mapping, 4096, 1, len, world_hash(1), &pin), MCS_OK);
    world_release(f->world, 4096, 1, len, 0);
    assert_int_equal(world_times_released(f->world, 1), 0);
    assert_int_equal(world_get(mapping, 4096, 1, len), MCS_ERR_REPLICA_IS_GONE);
    mcs_unpin(&pin);
    world_await(world_times_released(f->world, 1) == 1);
    mcs_mapping_t *host;
    assert_int_equal(map(f, mapper, f->host_instance, 4 * MCS_MIB, &host), MCS_OK); /* on the same connection */
    assert_null(mcs_mapping_far(host));
    mcs_mapping_put(host);
    mcs_mapping_put(mapping);
    mcs_mapper_destroy(mapper);
    assert_int_equal(g_closed, 1);
    g_closed = 0;
}

static void a_neighbour_that_cannot_open_the_memory_does_not_map_it(void **state)
{
    far_world_t *f = *state;
    mcs_mapping_t *mapping;
    mcs_mapper_t *without = neighbour(f, false);
    assert_int_equal(map(f, without, f->world->instance, FAR_SIZE, &mapping), MCS_ERR_TRANSFER_FAIL);
    mcs_mapper_destroy(without);
    mcs_mapper_t *failing = neighbour(f, true);
    g_open_status = MCS_ERR_NOT_SUPPORTED;
    assert_int_equal(map(f, failing, f->world->instance, FAR_SIZE, &mapping), MCS_ERR_TRANSFER_FAIL);
    g_open_status = MCS_OK;
    mcs_mapper_destroy(failing);
    /* What the owner says does not fit. */
    mcs_mapper_t *wary = neighbour(f, true);
    assert_int_equal(map(f, wary, f->world->instance, FAR_SIZE + 1, &mapping), MCS_ERR_TRANSFER_FAIL);
    mcs_mapper_destroy(wary);
    wary = neighbour(f, true);
    mcs_segment_ctl(f->segment)->shift = 0;
    assert_int_equal(map(f, wary, f->world->instance, FAR_SIZE, &mapping), MCS_ERR_TRANSFER_FAIL);
    mcs_segment_ctl(f->segment)->shift = 7;
    mcs_mapper_destroy(wary);
    wary = neighbour(f, true);
    assert_int_equal(map(f, wary, f->world->instance, FAR_SIZE, &mapping), MCS_ERR_TRANSFER_FAIL);
    mcs_segment_ctl(f->segment)->shift = MCS_EXTENT_FAR_SHIFT;
    mcs_segment_ctl(f->segment)->size = 64 * FAR_SIZE; /* more than there are headers for */
    mcs_mapper_destroy(wary);
    wary = neighbour(f, true);
    assert_int_equal(map(f, wary, f->world->instance, FAR_SIZE, &mapping), MCS_ERR_TRANSFER_FAIL);
    mcs_segment_ctl(f->segment)->size = FAR_SIZE;
    mcs_mapper_destroy(wary);
    assert_int_equal(g_closed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(headers_and_payloads_lie_apart, open_far, close_far),
        cmocka_unit_test_setup_teardown(places_that_are_none_are_refused, open_far, close_far),
        cmocka_unit_test_setup_teardown(a_served_read_comes_by_way_of_host_memory, open_far, close_far),
        cmocka_unit_test_setup_teardown(served_writes_are_refused, open_far, close_far),
        cmocka_unit_test_setup_teardown(a_copy_that_fails_is_told_and_tried_anew, open_far, close_far),
        cmocka_unit_test_setup_teardown(more_reads_than_places_all_have_their_turn, open_far, close_far),
        cmocka_unit_test_setup_teardown(threads_read_the_same_extents, open_far, close_far),
        cmocka_unit_test_setup_teardown(reads_that_nobody_fetches_keep_no_extent, open_far, close_far),
        cmocka_unit_test_setup_teardown(a_segment_that_goes_keeps_its_memory_for_what_is_being_sent, open_far,
                                        close_far),
        cmocka_unit_test_setup_teardown(a_neighbour_that_can_open_the_memory_maps_it, open_far, close_far),
        cmocka_unit_test_setup_teardown(a_neighbour_that_cannot_open_the_memory_does_not_map_it, open_far, close_far),
        cmocka_unit_test_setup_teardown(gaps_are_settled_by_their_headers, open_far, close_far),
    };
    return cmocka_run_group_tests_name("segment_far", tests, NULL, NULL);
}
