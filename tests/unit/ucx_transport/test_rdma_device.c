/* Ranges of device memory: by RDMA or not at all. The memory is ordinary here, so that a test can look at it, and some
 * that cannot be touched; what a device is, only the caller knows. Over UCX's emulation, or with MCS_TEST_RDMA=rc by
 * this machine's devices. */
#include "rig.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "ucx_transport/proto.h"

#define WINDOW (UINT64_C(64) << 20)
#define MEMORY (WINDOW + (UINT64_C(48) << 20))

static side_t g_holder;
static side_t g_reader;
static uint8_t *g_memory; /* the reader's, exposed as a device's */

static int open_with(bool holder_rdma, bool reader_rdma)
{
    const rig_options_t holder = {.rdma = holder_rdma};
    const rig_options_t reader = {.rdma = reader_rdma};
    rig_install_log();
    side_open(&g_holder, 3, &holder);
    side_open(&g_reader, 0, &reader);
    g_memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(g_memory, MAP_FAILED);
    ucxt_transport_ops.expose(g_reader.transport, g_memory, MEMORY, MCS_EXPOSED_DEVICE);
    return 0;
}

static int open_sides(void **state)
{
    (void)state;
    return open_with(true, true);
}

static int open_with_tcp(void **state)
{
    (void)state;
    return open_with(false, true);
}

static int open_from_tcp(void **state)
{
    (void)state;
    return open_with(true, false);
}

static int close_sides(void **state)
{
    (void)state;
    side_close(&g_reader);
    side_close(&g_holder);
    munmap(g_memory, MEMORY);
    return 0;
}

static bool reaches(const void *memory, uint64_t len)
{
    struct iovec iov = {(void *)(uintptr_t)memory, len};
    return ucxt_transport_ops.reaches(g_reader.transport, &iov, 0, len);
}

static void wait_until_reached(void)
{
    uint64_t end = mcs_deadline_after_ms(10000);
    while (!reaches(g_memory, MEMORY)) {
        assert_false(mcs_deadline_passed(end));
    }
}

static uint64_t moved(void)
{
    return __atomic_load_n(&g_reader.counters.rdma_bytes, __ATOMIC_RELAXED);
}

static void set_sums(mcs_range_t *range, const uint8_t *memory)
{
    for (uint64_t at = 0, i = 0; at < range->access.len; at += MCS_CRC_BLOCK, i++) {
        range->crcs[i] = mcs_crc32c(0, memory + at, MCS_MIN(range->access.len - at, MCS_CRC_BLOCK));
    }
}

/* An object of a slot; with `piece` its memory is in pieces. */
static void make(batch_t *batch, mcs_direction_t direction, uint32_t slot, uint64_t len, uint8_t *memory,
                 uint64_t piece)
{
    batch_init(batch, &g_holder, direction, (uint32_t)(len / MCS_RANGE_MAX) + 1,
               piece == 0 ? 16 : (uint32_t)(len / piece) + 16);
    batch_add_object(batch, slot, len, memory, piece);
    for (uint32_t i = 0; i < batch->transfer.range_count; i++) {
        batch->ranges[i].device = true;
        batch->ranges[i].sums = NULL;
        if (direction == MCS_STORE) {
            set_sums(&batch->ranges[i], memory + batch->ranges[i].access.from);
        }
    }
}

static void fetch_to(uint64_t len, uint8_t *memory, uint64_t piece)
{
    batch_t batch;
    fake_owner_fill(&g_holder.owner, 1, len, len + piece);
    memset(memory, 0x11, len);
    make(&batch, MCS_FETCH, 1, len, memory, piece);
    uint64_t before = moved();
    assert_int_equal(batch_run(&g_reader, &batch, 20000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    assert_int_equal(moved() - before, len);
    assert_memory_equal(memory, g_holder.owner.memory + RIG_SLOT, len);
    for (uint64_t at = 0, i = 0; at < len; at += MCS_CRC_BLOCK, i++) {
        assert_int_equal(batch.crcs[i], mcs_crc32c(0, memory + at, MCS_MIN(len - at, MCS_CRC_BLOCK)));
    }
    batch_fini(&batch);
}

static void store_from(uint64_t len, uint8_t *memory, uint64_t piece)
{
    batch_t batch;
    fill_pattern(memory, len, len * 3 + piece);
    memset(g_holder.owner.memory + 2 * RIG_SLOT, 0, len);
    make(&batch, MCS_STORE, 2, len, memory, piece);
    uint64_t before = moved();
    assert_int_equal(batch_run(&g_reader, &batch, 20000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    assert_int_equal(moved() - before, len);
    assert_memory_equal(g_holder.owner.memory + 2 * RIG_SLOT, memory, len);
    for (uint64_t at = 0, i = 0; at < len; at += MCS_CRC_BLOCK, i++) {
        assert_int_equal(g_holder.owner.crcs[2 * (RIG_SLOT / MCS_CRC_BLOCK) + i], batch.crcs[i]);
    }
    batch_fini(&batch);
}

static void every_byte_is_moved_by_rdma(void **state)
{
    static const uint64_t sizes[] = {
        1, 4096, MCS_CRC_BLOCK - 1, MCS_CRC_BLOCK, MCS_CRC_BLOCK + 1, (3 << 20) + 5, (8 << 20) + 5, UINT64_C(40) << 20};
    (void)state;
    wait_until_reached();
    for (size_t i = 0; i < MCS_ARRAY_LEN(sizes); i++) {
        fetch_to(sizes[i], g_memory + 3, 0);
        store_from(sizes[i], g_memory + 5, 0);
    }
    fetch_to((5 << 20) + 11, g_memory + 1, 65536);
    store_from((5 << 20) + 11, g_memory + 1, 65536);
    fetch_to((3 << 20) + 1, g_memory + 1, 4096);
    store_from((3 << 20) + 1, g_memory + 1, 4096);
    assert_int_equal(g_reader.counters.copied_bytes, 0);
}

static void memory_across_two_registrations_is_in_two_places(void **state)
{
    (void)state;
    wait_until_reached();
    for (uint64_t back = 1; back < (2 << 20); back = back * 7 + 3) {
        fetch_to(2 << 20, g_memory + WINDOW - back, 0);
        store_from(2 << 20, g_memory + WINDOW - back, 0);
    }
}

static void a_part_of_an_object_is_fetched(void **state)
{
    uint64_t len = 4 << 20;
    uint64_t from = (1 << 20) - 777;
    batch_t batch;
    (void)state;
    wait_until_reached();
    fake_owner_fill(&g_holder.owner, 1, len, 9);
    memset(g_memory, 0x11, len);
    batch_init(&batch, &g_holder, MCS_FETCH, 1, 1);
    mcs_range_t *range = batch_add(&batch, 1, len, from, (2 << 20) + 1, g_memory, 0);
    range->device = true;
    range->sums = NULL;
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    assert_memory_equal(g_memory, g_holder.owner.memory + RIG_SLOT + from, (2 << 20) + 1);
    assert_int_equal(batch.crcs[0], mcs_crc32c(0, g_memory + 777, MCS_CRC_BLOCK));
    batch_fini(&batch);
}

static void sums_that_do_not_fit_are_found_by_the_owner(void **state)
{
    batch_t batch;
    (void)state;
    wait_until_reached();
    fill_pattern(g_memory, 4 << 20, 5);
    make(&batch, MCS_STORE, 2, 4 << 20, g_memory, 0);
    batch.crcs[2] ^= 1;
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_ERR_CHECKSUM_MISMATCH);
    batch_fini(&batch);
    assert_int_equal(fake_owner_read(&g_holder.owner, &g_holder.owner.writes_bad), 1);
}

static void refused(mcs_direction_t direction, uint8_t *memory, uint64_t len)
{
    batch_t batch;
    uint64_t before = moved();
    make(&batch, direction, 1, len, memory, 0);
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_ERR_NOT_SUPPORTED);
    assert_int_equal(moved(), before);
    batch_fini(&batch);
}

static void memory_out_of_reach_is_refused_and_not_touched(void **state)
{
    uint64_t len = (9 << 20) + 1;
    uint8_t *other = malloc(len);
    batch_t batch;
    (void)state;
    assert_non_null(other);
    wait_until_reached();
    memset(other, 0x33, len);
    assert_false(reaches(other, len));
    assert_false(reaches(g_memory + MEMORY - 5, 6));
    refused(MCS_FETCH, other, len);
    refused(MCS_STORE, other, len);
    for (uint64_t i = 0; i < len; i++) {
        assert_int_equal(other[i], 0x33);
    }
    assert_int_equal(fake_owner_read(&g_holder.owner, &g_holder.owner.writes_ended), 0);
    /* Between others that go. */
    fake_owner_fill(&g_holder.owner, 1, 3 << 20, 9);
    batch_init(&batch, &g_holder, MCS_FETCH, 3, 3);
    for (uint64_t i = 0; i < 3; i++) {
        mcs_range_t *range = batch_add(&batch, 1, 3 << 20, i << 20, 1 << 20, i == 1 ? other : g_memory + (i << 20), 0);
        range->device = true;
        range->sums = NULL;
    }
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    assert_int_equal(batch.ranges[0].status, MCS_OK);
    assert_int_equal(batch.ranges[1].status, MCS_ERR_NOT_SUPPORTED);
    assert_int_equal(batch.ranges[2].status, MCS_OK);
    assert_memory_equal(g_memory, g_holder.owner.memory + RIG_SLOT, 1 << 20);
    assert_memory_equal(g_memory + (2 << 20), g_holder.owner.memory + RIG_SLOT + (2 << 20), 1 << 20);
    batch_fini(&batch);
    free(other);
}

static void a_range_that_ends_out_of_reach_says_that_it_was_begun(void **state)
{
    uint64_t len = 3 << 20;
    uint8_t *other = malloc(1 << 20);
    batch_t batch;
    (void)state;
    assert_non_null(other);
    wait_until_reached();
    for (int i = 0; i < 2; i++) {
        make(&batch, i == 0 ? MCS_FETCH : MCS_STORE, 1, len, g_memory, 1 << 20);
        batch.iovs[i == 0 ? 2 : 1].iov_base = other;
        uint64_t before = moved();
        assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
        batch_assert_all(&batch, MCS_ERR_NOT_SUPPORTED);
        assert_true(batch.ranges[0].sent);
        assert_int_equal(moved() - before, (i == 0 ? 2 : 1) << 20);
        batch_fini(&batch);
    }
    make(&batch, MCS_FETCH, 1, 1 << 20, other, 0);
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_ERR_NOT_SUPPORTED);
    assert_false(batch.ranges[0].sent);
    batch_fini(&batch);
    assert_int_equal(fake_owner_holds(&g_holder.owner), 0);
    free(other);
}

static void memory_in_too_small_stretches_is_refused(void **state)
{
    struct iovec iov[600];
    (void)state;
    wait_until_reached();
    for (size_t i = 0; i < MCS_ARRAY_LEN(iov); i++) {
        iov[i] = (struct iovec){g_memory + i * 4096, i < 300 ? 4096 : 4000};
    }
    assert_true(ucxt_transport_ops.reaches(g_reader.transport, iov, 0, 256 * 4096));
    assert_false(ucxt_transport_ops.reaches(g_reader.transport, iov, 0, 300 * 4096 + 300 * 4000));
    assert_true(ucxt_transport_ops.reaches(g_reader.transport, iov + 300, 0, 2 * 4000));
    assert_false(ucxt_transport_ops.reaches(g_reader.transport, iov + 300, 0, 2 * 4000 + 1));
    batch_t batch;
    make(&batch, MCS_FETCH, 1, 1 << 20, g_memory, 4000);
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_ERR_NOT_SUPPORTED);
    batch_fini(&batch);
}

static void memory_in_too_many_places_is_refused(void **state)
{
    static uint8_t *buffers[UCXT_KEYS_MAX + 1];
    static struct iovec iov[UCXT_KEYS_MAX + 1];
    uint64_t len = 8192;
    (void)state;
    for (size_t i = 0; i <= UCXT_KEYS_MAX; i++) {
        buffers[i] = malloc(len);
        assert_non_null(buffers[i]);
        ucxt_transport_ops.expose(g_reader.transport, buffers[i], len, MCS_EXPOSED_DEVICE);
        iov[i] = (struct iovec){buffers[i], len};
    }
    uint64_t end = mcs_deadline_after_ms(10000);
    for (size_t i = 0; i <= UCXT_KEYS_MAX; i++) {
        while (!reaches(buffers[i], len)) {
            assert_false(mcs_deadline_passed(end));
        }
    }
    assert_true(ucxt_transport_ops.reaches(g_reader.transport, iov, 0, UCXT_KEYS_MAX * len));
    assert_false(ucxt_transport_ops.reaches(g_reader.transport, iov, 0, UCXT_KEYS_MAX * len + 1));
    /* With a block's edge between them. */
    assert_true(ucxt_transport_ops.reaches(g_reader.transport, iov, MCS_CRC_BLOCK - len, UCXT_KEYS_MAX * len + 1));
    /* The same ones by turns are no more. */
    struct iovec turns[128];
    for (size_t i = 0; i < MCS_ARRAY_LEN(turns); i++) {
        turns[i] = (struct iovec){buffers[i % 2], len};
    }
    assert_true(ucxt_transport_ops.reaches(g_reader.transport, turns, 0, MCS_ARRAY_LEN(turns) * len));
    for (size_t i = 0; i <= UCXT_KEYS_MAX; i++) {
        ucxt_transport_ops.conceal(g_reader.transport, buffers[i]);
        assert_false(reaches(buffers[i], len));
        free(buffers[i]);
    }
}

/* What no processor may touch UCX's emulation must not be given, and no device here can have it. */
static void memory_that_cannot_be_registered_is_refused(void **state)
{
    uint8_t *guarded = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)state;
    assert_ptr_not_equal(guarded, MAP_FAILED);
    ucxt_transport_ops.expose(g_reader.transport, guarded, 1 << 20, MCS_EXPOSED_DEVICE);
    uint64_t end = mcs_deadline_after_ms(10000);
    while (rig_log_count("GPU memory could not be registered") == 0) {
        assert_false(mcs_deadline_passed(end));
    }
    assert_false(reaches(guarded, 1 << 20));
    ucxt_transport_ops.conceal(g_reader.transport, guarded);
    munmap(guarded, 1 << 20);
}

static void a_peer_without_rdma_is_no_way(void **state)
{
    (void)state;
    refused(MCS_FETCH, g_memory, 3 << 20);
    refused(MCS_STORE, g_memory, 3 << 20);
    assert_int_equal(fake_owner_read(&g_holder.owner, &g_holder.owner.writes_ended), 0);
}

static void bad_ranges_are_refused(void **state)
{
    batch_t batch;
    (void)state;
    wait_until_reached();
    make(&batch, MCS_STORE, 2, 1 << 20, g_memory, 0);
    batch.ranges[0].crcs = NULL;
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_ERR_INVALID_PARAMS);
    batch_fini(&batch);
}

#define DEVICE(test) cmocka_unit_test_setup_teardown(test, open_sides, close_sides)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEVICE(every_byte_is_moved_by_rdma),
        DEVICE(memory_across_two_registrations_is_in_two_places),
        DEVICE(a_part_of_an_object_is_fetched),
        DEVICE(sums_that_do_not_fit_are_found_by_the_owner),
        DEVICE(memory_out_of_reach_is_refused_and_not_touched),
        DEVICE(a_range_that_ends_out_of_reach_says_that_it_was_begun),
        DEVICE(memory_in_too_small_stretches_is_refused),
        DEVICE(memory_in_too_many_places_is_refused),
        DEVICE(memory_that_cannot_be_registered_is_refused),
        DEVICE(bad_ranges_are_refused),
        cmocka_unit_test_setup_teardown(a_peer_without_rdma_is_no_way, open_with_tcp, close_sides),
        cmocka_unit_test_setup_teardown(a_peer_without_rdma_is_no_way, open_from_tcp, close_sides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
