/* The memory space by itself, on the fake driver: kinds of memory, registered ranges, copies and how they go, CRCs. */
#include "core/base/hash.h"
#include "core/base/macros.h"
#include "gpu/internal.h"
#include "tests/unit/gpu/gpu_world.h"

static const mcs_mem_space_ops_t *const ops = &mcs_gpu_space_ops;

static mcs_mem_space_t *open_space(void)
{
    mcs_mem_space_config_t config = {.pin_limit = MCS_GIB, .stage_count = 2};
    mcs_mem_space_t *space = NULL;
    assert_int_equal(ops->open(&config, &space), MCS_OK);
    assert_true(ops->look(space));
    return space;
}

static int set_up(void **state)
{
    gpu_start(2, 13000);
    mcs_log_set_level(MCS_LOG_OFF);
    *state = open_space();
    return 0;
}

static int tear_down(void **state)
{
    ops->close(*state);
    gpu_assert_nothing_left();
    return 0;
}

static void kinds_are_told_apart(void **state)
{
    mcs_mem_space_t *space = *state;
    mcs_mem_where_t where;
    uint8_t *device = gpu_memory(1, 70000, FAKE_DEVICE, 0, 1);
    uint8_t *managed = gpu_memory(0, 4096, FAKE_MANAGED, 0, 1);
    void *chunk = ops->stage_get(space, false, 0);
    assert_int_equal(ops->query(space, device + 100, &where), MCS_OK);
    assert_int_equal(where.kind, MCS_MEM_DEVICE);
    assert_int_equal(where.device, 1);
    assert_int_equal(where.start, (uintptr_t)device);
    assert_int_equal(where.len, 70000);
    assert_true(where.id != 0);
    assert_int_equal(ops->query(space, managed, &where), MCS_OK);
    assert_int_equal(where.kind, MCS_MEM_MANAGED);
    assert_int_equal(where.device, 0);
    assert_int_equal(ops->query(space, chunk, &where), MCS_OK);
    assert_int_equal(where.kind, MCS_MEM_PINNED);
    assert_int_equal(where.device, MCS_MEM_HOST);
    assert_int_equal(ops->query(space, &where, &where), MCS_OK);
    assert_int_equal(where.kind, MCS_MEM_PAGEABLE);
    fake_cuda_fail("cuPointerGetAttributes", 1, 700);
    assert_int_equal(ops->query(space, device, &where), MCS_ERR_TRANSFER_FAIL); /* not: host memory */
    ops->stage_put(space, chunk);
    fake_cuda_free(device);
    fake_cuda_free(managed);
}

static void a_thread_without_a_context_gets_its_answers_too(void **state)
{
    mcs_mem_space_t *space = *state;
    mcs_mem_where_t where;
    uint8_t *device = gpu_memory(1, 4096, FAKE_DEVICE, 0, 1);
    fake_cuda_strict_pointers(true);
    assert_int_equal(ops->query(space, device, &where), MCS_OK);
    assert_int_equal(where.device, MCS_MEM_HOST); /* nobody has a context: nobody has memory */
    fake_cuda_strict_pointers(false);
    void *chunk = ops->stage_get(space, false, 0); /* now somebody has */
    fake_cuda_strict_pointers(true);
    assert_int_equal(ops->query(space, device, &where), MCS_OK);
    assert_int_equal(where.device, 1);
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    assert_int_equal(counts.pushed, 0);
    ops->stage_put(space, chunk);
    fake_cuda_free(device);
}

static mcs_status_t locate(mcs_mem_space_t *space, void *ptr, size_t len, int16_t *device_out)
{
    struct iovec iov = {ptr, len};
    mcs_mem_span_t span = {.iov = &iov, .count = 1, .devices = device_out};
    ops->locate(space, &span, 1);
    return span.status;
}

static void sub_ranges_of_a_range_of_many_mappings_are_known_until_their_mapping_goes(void **state)
{
    mcs_mem_space_t *space = *state;
    enum { PIECE = 65536, PIECES = 40 };
    int16_t device;
    uint8_t *memory = gpu_memory(1, (size_t)PIECE * PIECES, FAKE_VMM, PIECE, 1);
    assert_int_equal(ops->add_range(space, memory + 100, PIECE * PIECES - 100), MCS_OK);
    assert_int_equal(ops->add_range(space, memory + PIECE, PIECE), MCS_ERR_INVALID_PARAMS); /* overlaps */
    assert_int_equal(locate(space, memory, PIECE * 3, &device), MCS_OK);
    assert_int_equal(device, 1);
    assert_int_equal(locate(space, memory + PIECE * 7 + 5, PIECE * 9, &device), MCS_OK);
    assert_int_equal(locate(space, memory + PIECE * (PIECES - 1), PIECE + 1, &device), MCS_ERR_INVALID_PARAMS);
    fake_cuda_free(memory);
    assert_int_equal(locate(space, memory + PIECE * 7 + 5, PIECE, &device), MCS_ERR_INVALID_PARAMS);
    uint8_t *again = gpu_memory(1, (size_t)PIECE * PIECES, FAKE_VMM, PIECE, 1);
    assert_ptr_equal(again, memory);
    assert_int_equal(locate(space, memory + PIECE * 7 + 5, PIECE, &device), MCS_ERR_INVALID_PARAMS);
    ops->remove_range(space, memory); /* not its address */
    assert_int_equal(locate(space, memory + PIECE * 7 + 5, PIECE, &device), MCS_ERR_INVALID_PARAMS);
    ops->remove_range(space, memory + 100);
    assert_int_equal(locate(space, memory + PIECE * 7 + 5, PIECE, &device), MCS_OK);
    fake_cuda_free(again);
}

static void many_fragments_are_located_with_few_questions(void **state)
{
    mcs_mem_space_t *space = *state;
    enum { LAYERS = 60, FRAGMENTS = 6000 };
    uint8_t *layers[LAYERS];
    static struct iovec iov[FRAGMENTS];
    static int16_t devices[FRAGMENTS];
    for (int l = 0; l < LAYERS; l++) {
        layers[l] = gpu_memory(l % 2, 1 << 20, FAKE_DEVICE, 0, 1);
        assert_int_equal(ops->add_range(space, layers[l], 1 << 20), MCS_OK);
    }
    for (int i = 0; i < FRAGMENTS; i++) {
        iov[i] = (struct iovec){layers[i % LAYERS] + i, 4096};
    }
    fake_counts_t before;
    fake_counts_t after;
    fake_cuda_counts(&before);
    mcs_mem_span_t span = {.iov = iov, .count = FRAGMENTS, .devices = devices};
    ops->locate(space, &span, 1);
    fake_cuda_counts(&after);
    assert_int_equal(span.status, MCS_OK);
    assert_true(span.any_device);
    assert_int_equal(after.calls - before.calls, LAYERS);
    for (int i = 0; i < FRAGMENTS; i++) {
        assert_int_equal(devices[i], i % LAYERS % 2);
    }
    for (int l = 0; l < LAYERS; l++) {
        ops->remove_range(space, layers[l]);
        fake_cuda_free(layers[l]);
    }
}

/* ---- copies ---- */

/* `count` pieces of `len` bytes of device memory at odd distances, and a chunk of the space's. */
typedef struct set {
    uint8_t *memory;
    uint8_t *chunk;
    mcs_mem_piece_t pieces[300];
    mcs_mem_copy_t copy;
} set_t;

static void make_set(mcs_mem_space_t *space, set_t *set, size_t count, size_t len, int device)
{
    set->memory = gpu_memory(device, count * (len + 3), FAKE_DEVICE, 0, 7);
    set->chunk = ops->stage_get(space, false, 0);
    for (size_t i = 0; i < count; i++) {
        set->pieces[i] = (mcs_mem_piece_t){.user = set->memory + i * (len + 3),
                                           .host = set->chunk + (count - 1 - i) * len,
                                           .len = len,
                                           .device = (int16_t)device,
                                           .block = MCS_MEM_NO_BLOCK};
    }
    set->copy = (mcs_mem_copy_t){.pieces = set->pieces, .count = count};
}

static void run_set(mcs_mem_space_t *space, const set_t *set)
{
    mcs_mem_job_t *job;
    bool coming;
    assert_int_equal(ops->copy_begin(space, &set->copy, &job, &coming), MCS_OK);
    assert_int_equal(ops->copy_end(space, job), MCS_OK);
    for (size_t i = 0; i < set->copy.count; i++) {
        assert_memory_equal(set->pieces[i].host, fake_cuda_bytes(set->pieces[i].user), set->pieces[i].len);
    }
}

static void drop_set(mcs_mem_space_t *space, set_t *set)
{
    ops->stage_put(space, set->chunk);
    fake_cuda_free(set->memory);
}

static void the_way_of_a_copy_follows_from_number_and_size(void **state)
{
    static const struct {
        size_t count;
        size_t len;
        uint64_t copies, batches, launches;
    } rows[] = {
        {1, 4096, 1, 0, 0},    /* one copy */
        {2, 4096, 2, 0, 0},    /* two are cheaper than anything else */
        {5, 65536, 0, 1, 0},   /* too few for a kernel */
        {300, 4096, 1, 0, 1},  /* the rows' upload, and a launch */
        {20, 400000, 0, 1, 0}, /* large ones by the engines */
    };
    mcs_mem_space_t *space = *state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        static set_t set;
        make_set(space, &set, rows[i].count, rows[i].len, 1);
        fake_counts_t before;
        fake_counts_t after;
        fake_cuda_counts(&before);
        run_set(space, &set);
        fake_cuda_counts(&after);
        assert_int_equal(after.copies - before.copies, rows[i].copies);
        assert_int_equal(after.batches - before.batches, rows[i].batches);
        assert_int_equal(after.launches - before.launches, rows[i].launches);
        assert_int_equal(after.unpinned_copies, 0);
        /* And the other way. */
        memset(fake_cuda_bytes(set.memory), 0, rows[i].count * (rows[i].len + 3));
        set.copy.to_user = true;
        run_set(space, &set);
        drop_set(space, &set);
    }
}

static void a_batch_that_is_refused_goes_copy_by_copy(void **state)
{
    mcs_mem_space_t *space = *state;
    static set_t set;
    make_set(space, &set, 5, 65536, 0);
    fake_cuda_fail("cuMemcpyBatchAsync_v2", 1, 801);
    run_set(space, &set);
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    assert_int_equal(counts.copies, 5);
    drop_set(space, &set);
}

static void a_device_that_the_kernels_are_not_made_for_copies_without(void **state)
{
    (void)state;
    fake_cuda_capabilities(70, true);
    mcs_mem_space_t *space = open_space();
    static set_t set;
    make_set(space, &set, 20, 4096, 0);
    run_set(space, &set);
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    assert_int_equal(counts.launches, 0);
    assert_int_equal(counts.modules, 0);
    assert_int_equal(counts.batches, 1);
    drop_set(space, &set);
    ops->close(space);
}

static void neighbours_go_as_one(void **state)
{
    mcs_mem_space_t *space = *state;
    static set_t set;
    make_set(space, &set, 1, 1 << 20, 0);
    for (size_t i = 0; i < 256; i++) {
        set.pieces[i] = (mcs_mem_piece_t){set.memory + i * 4096, set.chunk + i * 4096, 4096, 0, MCS_MEM_NO_BLOCK};
    }
    set.copy.count = 256;
    run_set(space, &set);
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    assert_int_equal(counts.copies, 1);
    assert_int_equal(counts.launches + counts.batches, 0);
    drop_set(space, &set);
}

static void devices_sum_the_blocks_of_what_they_copy(void **state)
{
    mcs_mem_space_t *space = *state;
    static set_t set;
    for (int to_user = 0; to_user < 2; to_user++) {
        make_set(space, &set, 100, 20001, 1);
        uint32_t crcs[4];
        uint32_t wanted[4] = {0};
        for (size_t i = 0; i < 100; i++) {
            set.pieces[i].block = (uint32_t)(i / 25);
        }
        set.copy.crcs = crcs;
        set.copy.crc_count = 4;
        set.copy.to_user = to_user != 0;
        for (size_t i = 0; i < 20001 * 100 && to_user != 0; i++) {
            set.chunk[i] = (uint8_t)(i * 7);
        }
        mcs_mem_job_t *job;
        bool coming = false;
        assert_int_equal(ops->copy_begin(space, &set.copy, &job, &coming), MCS_OK);
        assert_true(coming);
        assert_int_equal(ops->copy_end(space, job), MCS_OK);
        for (size_t i = 0; i < 100; i++) {
            wanted[i / 25] = mcs_crc32c(wanted[i / 25], fake_cuda_bytes(set.pieces[i].user), 20001);
        }
        assert_memory_equal(crcs, wanted, sizeof(crcs));
        drop_set(space, &set);
    }
}

static void crcs_are_not_promised_that_cannot_be_made(void **state)
{
    mcs_mem_space_t *space = *state;
    static set_t set;
    make_set(space, &set, 2, 5000, 0);
    uint32_t crcs[2];
    mcs_mem_job_t *job;
    bool coming = true;
    set.pieces[0].block = 0;
    set.pieces[1].block = 1;
    set.copy.crcs = crcs;
    set.copy.crc_count = 2;
    fake_cuda_fail("cuModuleLoadData", 1, 209);
    assert_int_equal(ops->copy_begin(space, &set.copy, &job, &coming), MCS_OK);
    assert_false(coming);
    assert_int_equal(ops->copy_end(space, job), MCS_OK);
    drop_set(space, &set);
}

static void staging_chunks_are_handed_round(void **state)
{
    mcs_mem_space_t *space = *state;
    void *first = ops->stage_get(space, false, 0);
    void *second = ops->stage_get(space, true, 0);
    assert_non_null(first);
    assert_non_null(second);
    assert_ptr_not_equal(first, second);
    assert_null(ops->stage_get(space, false, 0));
    assert_null(ops->stage_get(space, true, mcs_now_ns() + 1000000));
    ops->stage_put(space, first);
    assert_ptr_equal(ops->stage_get(space, true, 0), first);
    ops->stage_put(space, first);
    ops->stage_put(space, second);
}

static void a_chunk_that_cannot_be_pinned_serves_as_it_is(void **state)
{
    mcs_mem_space_t *space = *state;
    static set_t set;
    fake_cuda_fail("cuMemHostAlloc", 1, 2);
    make_set(space, &set, 20, 4096, 0);
    run_set(space, &set);
    fake_counts_t counts;
    fake_cuda_counts(&counts);
    assert_int_equal(counts.unpinned_copies, 20);
    drop_set(space, &set);
}

/* ---- torture ---- */

static mcs_status_t whole_life(void *arg)
{
    (void)arg;
    static set_t set;
    mcs_mem_space_config_t config = {.pin_limit = MCS_GIB, .stage_count = 2};
    mcs_mem_space_t *space = NULL;
    mcs_status_t status = ops->open(&config, &space);
    if (status != MCS_OK) {
        return status;
    }
    if (!ops->look(space)) {
        ops->close(space);
        return MCS_ERR_NO_MEMORY;
    }
    uint8_t *memory = gpu_memory(0, 40 * 4099, FAKE_DEVICE, 0, 3);
    status = ops->add_range(space, memory, 40 * 4099);
    uint8_t *chunk = ops->stage_get(space, false, 0);
    for (size_t i = 0; i < 40; i++) {
        set.pieces[i] = (mcs_mem_piece_t){memory + i * 4099, chunk + i * 4096, 4096, 0, MCS_MEM_NO_BLOCK};
    }
    set.copy = (mcs_mem_copy_t){.pieces = set.pieces, .count = 40};
    mcs_mem_job_t *job;
    bool coming;
    status = status == MCS_OK && chunk == NULL ? MCS_ERR_NO_MEMORY : status;
    if (status == MCS_OK) {
        status = ops->copy_begin(space, &set.copy, &job, &coming);
    }
    if (status == MCS_OK) {
        status = ops->copy_end(space, job);
    }
    if (chunk != NULL) {
        ops->stage_put(space, chunk);
    }
    ops->close(space);
    fake_cuda_free(memory);
    gpu_assert_nothing_left();
    return status;
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    assert_true(unit_torture(MCS_FAULT_ALLOC, whole_life, NULL) >= 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(kinds_are_told_apart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_thread_without_a_context_gets_its_answers_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(sub_ranges_of_a_range_of_many_mappings_are_known_until_their_mapping_goes,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_fragments_are_located_with_few_questions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_way_of_a_copy_follows_from_number_and_size, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_batch_that_is_refused_goes_copy_by_copy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_device_that_the_kernels_are_not_made_for_copies_without, set_up, tear_down),
        cmocka_unit_test_setup_teardown(neighbours_go_as_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(devices_sum_the_blocks_of_what_they_copy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(crcs_are_not_promised_that_cannot_be_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(staging_chunks_are_handed_round, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_chunk_that_cannot_be_pinned_serves_as_it_is, set_up, tear_down),
        cmocka_unit_test(each_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("gpu_space", tests, NULL, NULL);
}
