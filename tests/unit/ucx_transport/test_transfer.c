/* Fetches and stores between two transports of one process, over real UCX on loopback. */
#include "rig.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/hash.h"

static side_t g_holder;
static side_t g_reader;

static int open_sides(void **state)
{
    (void)state;
    rig_install_log();
    side_open(&g_holder, 3, NULL);
    side_open(&g_reader, 0, NULL);
    return 0;
}

static int close_sides(void **state)
{
    (void)state;
    side_close(&g_reader);
    side_close(&g_holder);
    return 0;
}

static void fetch_object(uint64_t len, uint64_t piece)
{
    fake_owner_fill(&g_holder.owner, 1, len, len + piece);
    uint8_t *into = malloc(len + 2);
    assert_non_null(into);
    into[0] = 0xaa;
    into[len + 1] = 0xbb;
    batch_t batch;
    batch_init(&batch, &g_holder, MCS_FETCH, (uint32_t)(len / MCS_RANGE_MAX) + 1,
               piece == 0 ? 16 : (uint32_t)(len / piece) + 16);
    batch_add_object(&batch, 1, len, into + 1, piece);
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    assert_memory_equal(into + 1, g_holder.owner.memory + RIG_SLOT, len);
    assert_int_equal(into[0], 0xaa);
    assert_int_equal(into[len + 1], 0xbb);
    for (uint64_t at = 0, i = 0; at < len; at += MCS_CRC_BLOCK, i++) {
        assert_int_equal(batch.crcs[i], mcs_crc32c(0, into + 1 + at, MCS_MIN(len - at, MCS_CRC_BLOCK)));
        assert_int_equal(batch.sums[i], batch.crcs[i]);
    }
    batch_fini(&batch);
    free(into);
}

static void store_object(uint64_t len, uint64_t piece)
{
    uint8_t *from = malloc(len);
    assert_non_null(from);
    fill_pattern(from, len, len * 3 + piece);
    memset(g_holder.owner.memory + 2 * RIG_SLOT, 0, MCS_MIN(len + 64, RIG_SLOT));
    batch_t batch;
    batch_init(&batch, &g_holder, MCS_STORE, (uint32_t)(len / MCS_RANGE_MAX) + 1,
               piece == 0 ? 16 : (uint32_t)(len / piece) + 16);
    batch_add_object(&batch, 2, len, from, piece);
    assert_int_equal(batch_run(&g_reader, &batch, 10000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    assert_memory_equal(g_holder.owner.memory + 2 * RIG_SLOT, from, len);
    for (uint64_t at = 0, i = 0; at < len; at += MCS_CRC_BLOCK, i++) {
        uint32_t crc = mcs_crc32c(0, from + at, MCS_MIN(len - at, MCS_CRC_BLOCK));
        assert_int_equal(batch.crcs[i], crc);
        assert_int_equal(g_holder.owner.crcs[2 * (RIG_SLOT / MCS_CRC_BLOCK) + i], crc);
    }
    batch_fini(&batch);
    free(from);
}

static const uint64_t g_sizes[] = {1,
                                   2,
                                   63,
                                   4096,
                                   16383,
                                   16384,
                                   65536,
                                   MCS_CRC_BLOCK - 1,
                                   MCS_CRC_BLOCK,
                                   MCS_CRC_BLOCK + 1,
                                   3 << 20,
                                   (8 << 20) + 5,
                                   UINT64_C(64) << 20};

static void objects_of_all_sizes_are_fetched(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_sizes); i++) {
        fetch_object(g_sizes[i], 0);
    }
}

static void objects_of_all_sizes_are_stored(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_sizes); i++) {
        store_object(g_sizes[i], 0);
    }
}

static const uint64_t g_splits[] = {1, 7, 4096, 65536, 100003, 777777};

static void odd_splits_of_the_callers_memory_work(void **state)
{
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(g_splits); i++) {
        uint64_t len = g_splits[i] < 4096 ? 3000 : (5 << 20) + 11;
        fetch_object(len, g_splits[i]);
        store_object(len, g_splits[i]);
    }
}

static void thousands_of_ranges_in_one_call_are_fetched_and_stored(void **state)
{
    (void)state;
    static const uint32_t counts[] = {1, 2, 1023, 1024, 1025, 5000};
    uint64_t len = UINT64_C(60) << 20;
    fake_owner_fill(&g_holder.owner, 1, len, 4);
    uint8_t *memory = malloc(len);
    assert_non_null(memory);
    for (size_t i = 0; i < MCS_ARRAY_LEN(counts); i++) {
        uint64_t part = 11003; /* straddles packing and blocks */
        batch_t batch;
        batch_init(&batch, &g_holder, MCS_FETCH, counts[i], counts[i] * 4);
        memset(memory, 0, len);
        for (uint32_t k = 0; k < counts[i]; k++) {
            batch_add(&batch, 1, len, k * part, part, memory + k * part, k % 2 == 0 ? 0 : 5003);
        }
        assert_int_equal(batch_run(&g_reader, &batch, 20000), MCS_OK);
        batch_assert_all(&batch, MCS_OK);
        assert_memory_equal(memory, g_holder.owner.memory + RIG_SLOT, counts[i] * part);
        batch_fini(&batch);

        /* Many small objects: each has its own slot in life; here they are one another's neighbours by offset of memory
         * only. */
        batch_init(&batch, &g_holder, MCS_STORE, counts[i], counts[i]);
        for (uint32_t k = 0; k < counts[i]; k++) {
            batch_add(&batch, 2, 5003, 0, 5003, memory + k, 0);
        }
        assert_int_equal(batch_run(&g_reader, &batch, 20000), MCS_OK);
        batch_assert_all(&batch, MCS_OK);
        batch_fini(&batch);
    }
    free(memory);
}

static void ranges_of_mixed_sizes_and_splits_are_stored(void **state)
{
    (void)state;
    /* Packed and gathered pieces in turn fill the gather list of a message to the last entry. */
    static const uint64_t lens[] = {100,   65536, 200,   20000, 16384, 1, 300000, 40,
                                    17000, 16383, 50000, 5,     99999, 7, 70000,  30};
    uint8_t *memory = malloc(2 << 20);
    assert_non_null(memory);
    fill_pattern(memory, 2 << 20, 8);
    for (uint32_t round = 0; round < 20; round++) {
        batch_t batch;
        batch_init(&batch, &g_holder, MCS_STORE, 1024, 65536);
        for (uint32_t k = 0; k < 200; k++) {
            uint64_t len = lens[(k * 7 + round) % MCS_ARRAY_LEN(lens)];
            batch_add(&batch, 2, len, 0, len, memory + k,
                      (k + round) % 3 == 0   ? 30000
                      : (k + round) % 3 == 1 ? 2000
                                             : 0);
        }
        assert_int_equal(batch_run(&g_reader, &batch, 20000), MCS_OK);
        batch_assert_all(&batch, MCS_OK);
        batch_fini(&batch);
    }
    free(memory);
}

static void refusals_of_the_owner_reach_their_ranges_only(void **state)
{
    (void)state;
    uint8_t memory[8192];
    for (unsigned direction = 0; direction < 2; direction++) {
        batch_t batch;
        batch_init(&batch, &g_holder, direction == 0 ? MCS_FETCH : MCS_STORE, 8, 8);
        fake_owner_fill(&g_holder.owner, 1, 4096, 1);
        batch_add(&batch, 1, 4096, 0, 4096, memory, 0);
        batch_add(&batch, 0, 4096, 0, 4096, memory, 0)->access.mac++;
        batch_add(&batch, 0, 4096, 0, 4096, memory, 0)->access.generation = 99;
        batch_add(&batch, 0, 4096, 0, 4096, memory, 0)->access.offset = RIG_SLOT * 40;
        batch_add(&batch, 1, 4096, 0, 4096, memory + 4096, 0);
        assert_int_equal(batch_run(&g_reader, &batch, 5000), MCS_OK);
        mcs_status_t bad = direction == 0 ? MCS_ERR_INVALID_READ : MCS_ERR_INVALID_WRITE;
        assert_int_equal(batch.ranges[0].status, MCS_OK);
        assert_int_equal(batch.ranges[1].status, bad);
        assert_int_equal(batch.ranges[2].status, MCS_ERR_REPLICA_IS_GONE);
        assert_int_equal(batch.ranges[3].status, bad);
        assert_int_equal(batch.ranges[4].status, MCS_OK);
        batch_fini(&batch);
    }
    assert_true(g_holder.counters.refused >= 6);
}

static void a_range_that_makes_no_sense_is_refused_here_and_hurts_no_other(void **state)
{
    (void)state;
    uint8_t *memory = malloc(3 << 20);
    assert_non_null(memory);
    fake_owner_fill(&g_holder.owner, 1, 3 << 20, 2);
    batch_t batch;
    batch_init(&batch, &g_holder, MCS_FETCH, 10, 32);
    batch_add(&batch, 1, 3 << 20, 0, 4096, memory, 0)->access.len = 0;
    batch_add(&batch, 1, 3 << 20, 0, 4096, memory, 0)->access.len = 4097; /* more than its memory */
    batch_add(&batch, 1, 3 << 20, 0, 4096, memory, 0)->access.len = 4095;
    batch_add(&batch, 1, 4096, 0, 4096, memory, 0)->access.payload_len = 4095;
    batch_add(&batch, 1, 3 << 20, 0, 4096, memory, 0)->access.from = UINT64_MAX;
    batch_add(&batch, 1, 3 << 20, 0, 4096, memory, 0)->iov_count = 0;
    batch_add(&batch, 1, 3 << 20, 0, 4096, memory, 0)->crc_count = 0;
    batch_add(&batch, 1, 3 << 20, 0, 3 << 20, memory, 0);
    batch_add(&batch, 1, UINT64_C(9) << 20, 0, 4096, memory, 0)->access.len = MCS_RANGE_MAX + 1;
    assert_int_equal(batch_run(&g_reader, &batch, 5000), MCS_OK);
    for (uint32_t i = 0; i < 9; i++) {
        assert_int_equal(batch.ranges[i].status, i == 7 ? MCS_OK : MCS_ERR_INVALID_PARAMS);
    }
    assert_memory_equal(memory, g_holder.owner.memory + RIG_SLOT, 3 << 20);
    batch_fini(&batch);

    /* A store starts at a block and ends at one, or with the object. */
    batch_init(&batch, &g_holder, MCS_STORE, 4, 4);
    batch_add(&batch, 2, 3 << 20, 4096, 4096, memory, 0);
    batch_add(&batch, 2, 3 << 20, 1 << 20, 4096, memory, 0);
    batch_add(&batch, 2, 3 << 20, 2 << 20, 1 << 20, memory, 0);
    assert_int_equal(batch_run(&g_reader, &batch, 5000), MCS_OK);
    assert_int_equal(batch.ranges[0].status, MCS_ERR_INVALID_PARAMS);
    assert_int_equal(batch.ranges[1].status, MCS_ERR_INVALID_PARAMS);
    assert_int_equal(batch.ranges[2].status, MCS_OK);
    batch_fini(&batch);
    free(memory);
}

static void several_owners_are_served_in_one_call(void **state)
{
    (void)state;
    side_t other;
    side_open(&other, 1, NULL);
    uint64_t len = (20 << 20) + 7;
    fake_owner_fill(&other.owner, 0, len, 31);
    fake_owner_fill(&g_holder.owner, 0, len, 32);
    uint8_t *memory = malloc(3 * len);
    assert_non_null(memory);
    batch_t batch[4];
    batch_init(&batch[0], &other, MCS_FETCH, 8, 8);
    batch_init(&batch[1], &g_holder, MCS_FETCH, 8, 8);
    batch_init(&batch[2], &g_holder, MCS_STORE, 8, 8); /* the same owner twice, both ways */
    batch_init(&batch[3], &other, MCS_FETCH, 8, 8);    /* and nothing to do */
    batch_add_object(&batch[0], 0, len, memory, 0);
    batch_add_object(&batch[1], 0, len, memory + len, 0);
    fill_pattern(memory + 2 * len, len, 33);
    batch_add_object(&batch[2], 2, len, memory + 2 * len, 0);
    mcs_transfer_t transfers[4] = {batch[0].transfer, batch[1].transfer, batch[2].transfer, batch[3].transfer};
    assert_int_equal(ucxt_transport_ops.transfer(g_reader.transport, transfers, 4, mcs_deadline_after_ms(10000)),
                     MCS_OK);
    for (unsigned i = 0; i < 4; i++) {
        batch_assert_all(&batch[i], MCS_OK);
        batch_fini(&batch[i]);
    }
    assert_memory_equal(memory, other.owner.memory, len);
    assert_memory_equal(memory + len, g_holder.owner.memory, len);
    assert_memory_equal(memory + 2 * len, g_holder.owner.memory + 2 * RIG_SLOT, len);
    free(memory);
    side_close(&other);
}

static void an_endpoint_that_is_none_fails_its_owner_only(void **state)
{
    (void)state;
    uint8_t memory[4096];
    fake_owner_fill(&g_holder.owner, 1, 4096, 3);
    side_t nobody = {.id = mcs_id_random()};
    nobody.info.endpoint.len = 64; /* zeros */
    batch_t batch[2];
    batch_init(&batch[0], &nobody, MCS_FETCH, 1, 1);
    batch_init(&batch[1], &g_holder, MCS_FETCH, 1, 1);
    batch_add(&batch[0], 1, 4096, 0, 4096, memory, 0);
    batch_add(&batch[1], 1, 4096, 0, 4096, memory, 0);
    mcs_transfer_t transfers[2] = {batch[0].transfer, batch[1].transfer};
    assert_int_equal(ucxt_transport_ops.transfer(g_reader.transport, transfers, 2, mcs_deadline_after_ms(5000)),
                     MCS_OK);
    assert_int_equal(batch[0].ranges[0].status, MCS_ERR_INVALID_PARAMS);
    assert_int_equal(batch[1].ranges[0].status, MCS_OK);
    batch_fini(&batch[0]);
    batch_fini(&batch[1]);
}

static uint16_t port_of(const struct sockaddr_in *name)
{
    return name->sin_family == AF_INET ? ntohs(name->sin_port) : 0;
}

static bool is_connected(int fd, uint16_t port)
{
    struct sockaddr_in local = {0};
    struct sockaddr_in remote = {0};
    socklen_t local_len = sizeof(local);
    socklen_t remote_len = sizeof(remote);
    return getpeername(fd, (struct sockaddr *)&remote, &remote_len) == 0 &&
           getsockname(fd, (struct sockaddr *)&local, &local_len) == 0 &&
           (port_of(&local) == port || port_of(&remote) == port);
}

/* Of the connections to or from that port: how many have this congestion control, and how many another. */
static void count_congestion(uint16_t port, const char *name, uint32_t *with_out, uint32_t *without_out)
{
    *with_out = 0;
    *without_out = 0;
    for (int fd = 3; fd < 1024; fd++) {
        char found[16] = "";
        socklen_t found_len = sizeof(found) - 1;
        if (is_connected(fd, port) && getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, found, &found_len) == 0) {
            *(strcmp(found, name) == 0 ? with_out : without_out) += 1;
        }
    }
}

/* What a new socket has, and whether it may have Reno. */
static bool may_have_reno(char name_out[16])
{
    socklen_t len = 15;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool may = fd >= 0 && getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name_out, &len) == 0 &&
               setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0;
    close(fd);
    return may;
}

static void only_connections_within_a_machine_leave_the_systems_congestion_control(void **state)
{
    (void)state;
    char system[16] = "";
    uint32_t with;
    uint32_t without;
    if (!may_have_reno(system) || strcmp(system, "reno") == 0 || g_holder.info.data_port == 0) {
        print_message("nothing to tell apart here: the system has %s\n", system);
        skip();
    }
    fetch_object(100000, 0);
    count_congestion(g_holder.info.data_port, "reno", &with, &without);
    assert_true(with >= 2); /* both ends are in this process */
    assert_int_equal(without, 0);

    side_t other;
    side_open(&other, 1, &(rig_options_t){.elsewhere = true});
    fake_owner_fill(&other.owner, 0, 4096, 1);
    uint8_t memory[4096];
    batch_t batch;
    batch_init(&batch, &other, MCS_FETCH, 1, 1);
    batch_add(&batch, 0, 4096, 0, 4096, memory, 0);
    assert_int_equal(batch_run(&g_reader, &batch, 5000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    count_congestion(other.info.data_port, system, &with, &without);
    assert_true(with >= 2);
    assert_int_equal(without, 0);
    batch_fini(&batch);
    side_close(&other);
}

static void move_object(side_t *caller, const side_t *owner, mcs_direction_t direction, uint8_t *memory, uint64_t len)
{
    batch_t batch;
    batch_init(&batch, owner, direction, (uint32_t)(len / MCS_RANGE_MAX) + 1, 16);
    batch_add_object(&batch, 0, len, memory, 0);
    assert_int_equal(batch_run(caller, &batch, 20000), MCS_OK);
    batch_assert_all(&batch, MCS_OK);
    batch_fini(&batch);
}

/* Of the connections that have this congestion control: has any left slow start, in good order, and been left so? */
static bool is_overlooked(uint16_t port, const char *name)
{
    bool overlooked = false;
    for (int fd = 3; fd < 1024; fd++) {
        char found[16] = "";
        socklen_t found_len = sizeof(found) - 1;
        struct tcp_info info;
        socklen_t len = sizeof(info);
        if (is_connected(fd, port) && getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, found, &found_len) == 0 &&
            strcmp(found, name) == 0 && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0) {
            overlooked = overlooked || (info.tcpi_snd_ssthresh < INT32_MAX && info.tcpi_total_retrans == 0);
        }
    }
    return overlooked;
}

/* Both ends get back what they came from, and lose slow start with it as soon as BBR knows the path: on a machine whose
 * speed changes all the time it may take its time. */
static void who_sends_lets_a_connection_that_left_slow_start_begin_anew(void **state)
{
    (void)state;
    char system[16] = "";
    uint32_t with;
    uint32_t without;
    if (!may_have_reno(system) || strncmp(system, "bbr", 3) != 0 || g_holder.info.data_port == 0) {
        print_message("nothing is paced here: the system has %s\n", system);
        skip();
    }
    side_t owner;
    side_t caller;
    side_open(&owner, 1, NULL);
    side_open(&caller, 0, &(rig_options_t){.workers = 1});
    uint64_t len = 16 << 20;
    uint8_t *memory = calloc(1, len);
    assert_non_null(memory);
    fake_owner_fill(&owner.owner, 0, len, 3);
    move_object(&caller, &owner, MCS_FETCH, memory, len);
    for (int fd = 3; fd < 1024; fd++) {
        if (is_connected(fd, owner.info.data_port)) {
            assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, system, (socklen_t)strlen(system)), 0);
        }
    }
    count_congestion(owner.info.data_port, system, &with, &without);
    assert_true(with >= 2 && without == 0);
    uint64_t end = mcs_now_ns() + UINT64_C(20) * 1000000000;
    uint32_t reno = 0;
    for (; reno < with && mcs_now_ns() < end; count_congestion(owner.info.data_port, "reno", &reno, &without)) {
        move_object(&caller, &owner, MCS_STORE, memory, len);
        move_object(&caller, &owner, MCS_FETCH, memory, len);
    }
    bool overlooked = reno < with && is_overlooked(owner.info.data_port, system);
    free(memory);
    side_close(&caller);
    side_close(&owner);
    assert_false(overlooked);
    if (reno < with) {
        print_message("%s did not leave slow start here\n", system);
        skip();
    }
}

#define THREADS 8
static void *transfer_many_times(void *arg)
{
    uint32_t seed = *(uint32_t *)arg;
    static const uint64_t lens[] = {1, 4096, 70000, MCS_CRC_BLOCK, (3 << 20) + 1};
    uint8_t *memory = malloc(4 << 20);
    for (uint32_t i = 0; i < 40; i++) {
        uint64_t len = lens[(i + seed) % MCS_ARRAY_LEN(lens)];
        batch_t batch;
        batch_init(&batch, &g_holder, MCS_FETCH, 1, 64);
        batch_add(&batch, 1, 4 << 20, 0, len, memory, 0);
        MCS_ENSURE(batch_run(&g_reader, &batch, 20000) == MCS_OK && batch.ranges[0].status == MCS_OK);
        MCS_ENSURE(memcmp(memory, g_holder.owner.memory + RIG_SLOT, len) == 0);
        batch_fini(&batch);
    }
    free(memory);
    return NULL;
}

static void eight_threads_share_three_lanes(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    uint32_t seeds[THREADS];
    fake_owner_fill(&g_holder.owner, 1, 4 << 20, 77);
    for (uint32_t i = 0; i < THREADS; i++) {
        seeds[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, transfer_many_times, &seeds[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void copies_are_counted_once_a_byte(void **state)
{
    (void)state;
    side_t reader;
    side_open(&reader, 0, NULL);
    uint64_t len = 8 << 20;
    fake_owner_fill(&g_holder.owner, 1, len, 5);
    uint64_t before = g_holder.counters.copied_bytes;
    uint8_t *memory = malloc(len);
    assert_non_null(memory);
    batch_t batch;
    batch_init(&batch, &g_holder, MCS_FETCH, 1, 1);
    batch_add_object(&batch, 1, len, memory, 0);
    assert_int_equal(batch_run(&reader, &batch, 5000), MCS_OK);
    batch_fini(&batch);
    free(memory);
    assert_int_equal(reader.counters.fetched_bytes, len);
    assert_int_equal(reader.counters.copied_bytes, len); /* out of UCX's receive buffer */
    assert_int_equal(reader.counters.transfers, 1);
    assert_int_equal(g_holder.counters.copied_bytes, before); /* gathered straight from the segment */
    side_close(&reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_of_all_sizes_are_fetched),
        cmocka_unit_test(objects_of_all_sizes_are_stored),
        cmocka_unit_test(odd_splits_of_the_callers_memory_work),
        cmocka_unit_test(thousands_of_ranges_in_one_call_are_fetched_and_stored),
        cmocka_unit_test(ranges_of_mixed_sizes_and_splits_are_stored),
        cmocka_unit_test(refusals_of_the_owner_reach_their_ranges_only),
        cmocka_unit_test(a_range_that_makes_no_sense_is_refused_here_and_hurts_no_other),
        cmocka_unit_test(several_owners_are_served_in_one_call),
        cmocka_unit_test(an_endpoint_that_is_none_fails_its_owner_only),
        cmocka_unit_test(only_connections_within_a_machine_leave_the_systems_congestion_control),
        cmocka_unit_test(who_sends_lets_a_connection_that_left_slow_start_begin_anew),
        cmocka_unit_test(eight_threads_share_three_lanes),
        cmocka_unit_test(copies_are_counted_once_a_byte),
    };
    return cmocka_run_group_tests_name("ucx transfer", tests, open_sides, close_sides);
}
