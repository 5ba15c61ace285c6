/* Peers that die, stop, and come back: owners and callers in processes of their own. */
#include "peer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "core/base/clock.h"

#define OBJECT (UINT64_C(64) << 20)

static side_t g_side;
static uint8_t *g_memory;

static int open_side(void **state)
{
    (void)state;
    rig_install_log();
    rig_log_reset();
    side_open(&g_side, 1, NULL);
    fake_owner_fill(&g_side.owner, 0, OBJECT, 9);
    g_memory = malloc(OBJECT);
    assert_non_null(g_memory);
    return 0;
}

static int close_side(void **state)
{
    (void)state;
    side_close(&g_side);
    free(g_memory);
    return 0;
}

static mcs_status_t run_one(side_t *owner, mcs_direction_t direction, uint64_t len, uint32_t timeout_ms)
{
    batch_t batch;
    batch_init(&batch, owner, direction, (uint32_t)(len / MCS_RANGE_MAX) + 1, 64);
    batch_add_object(&batch, 0, len, g_memory, 0);
    assert_int_equal(batch_run(&g_side, &batch, timeout_ms), MCS_OK);
    mcs_status_t status = batch.ranges[batch.transfer.range_count - 1].status;
    batch_fini(&batch);
    return status;
}

static uint64_t elapsed_ms(uint64_t since_ns)
{
    return (mcs_now_ns() - since_ns) / MCS_NS_PER_MS;
}

static void an_object_of_another_process_is_fetched(void **state)
{
    (void)state;
    peer_process_t peer;
    side_t owner;
    peer_start_owner(&peer, OBJECT, 77, &owner);
    assert_int_equal(run_one(&owner, MCS_FETCH, OBJECT, 10000), MCS_OK);
    uint8_t *want = malloc(OBJECT);
    assert_non_null(want);
    fill_pattern(want, OBJECT, 77);
    assert_memory_equal(g_memory, want, OBJECT);
    free(want);
    peer_end(&peer, false);
}

static void a_stopped_owner_costs_the_deadline_and_no_more(void **state)
{
    (void)state;
    static const mcs_direction_t directions[] = {MCS_FETCH, MCS_STORE};
    for (size_t i = 0; i < 2; i++) {
        peer_process_t peer;
        side_t owner;
        peer_start_owner(&peer, OBJECT, 1, &owner);
        assert_int_equal(run_one(&owner, directions[i], 4096, 10000), MCS_OK);
        peer_stop(&peer);
        uint64_t start = mcs_now_ns();
        assert_int_equal(run_one(&owner, directions[i], OBJECT, 400), MCS_ERR_RPC_TIMEOUT);
        assert_true(elapsed_ms(start) >= 400 && elapsed_ms(start) < 1500);
        /* Nothing of the call is left: these bytes are the caller's again. */
        memset(g_memory, 0x5a, OBJECT);
        peer_signal(&peer, SIGCONT);
        assert_int_equal(run_one(&owner, directions[i], 4096, 10000), MCS_OK);
        for (uint64_t at = 4096; at < OBJECT; at++) {
            assert_int_equal(g_memory[at], 0x5a);
        }
        peer_end(&peer, false);
    }
}

static void an_owner_stopped_before_the_hello_fails_at_the_connect_timeout(void **state)
{
    (void)state;
    peer_process_t peer;
    side_t owner;
    peer_start_owner(&peer, 4096, 1, &owner);
    peer_stop(&peer);
    uint64_t start = mcs_now_ns();
    assert_int_equal(run_one(&owner, MCS_FETCH, 4096, 300), MCS_ERR_RPC_TIMEOUT);
    assert_true(elapsed_ms(start) < 1500);
    peer_end(&peer, true);
}

typedef struct killer {
    peer_process_t *peer;
    uint64_t *fetched;
    pthread_t thread;
} killer_t;

static void *kill_after_some_bytes(void *arg)
{
    killer_t *killer = arg;
    while (__atomic_load_n(killer->fetched, __ATOMIC_RELAXED) < OBJECT * 3) {
        sched_yield();
    }
    peer_end(killer->peer, true);
    return NULL;
}

static void an_owner_killed_in_mid_transfer_is_noticed_within_a_second(void **state)
{
    (void)state;
    static const mcs_direction_t directions[] = {MCS_FETCH, MCS_STORE};
    for (size_t i = 0; i < 2; i++) {
        peer_process_t peer;
        side_t owner;
        peer_start_owner(&peer, OBJECT, 1, &owner);
        uint64_t *moved = directions[i] == MCS_FETCH ? &g_side.counters.fetched_bytes : &g_side.counters.stored_bytes;
        killer_t killer = {.peer = &peer, .fetched = moved};
        assert_int_equal(pthread_create(&killer.thread, NULL, kill_after_some_bytes, &killer), 0);
        mcs_status_t status;
        uint64_t start;
        do {
            start = mcs_now_ns();
            status = run_one(&owner, directions[i], OBJECT, 20000);
        } while (status == MCS_OK);
        assert_int_equal(status, MCS_ERR_TRANSFER_FAIL);
        assert_true(elapsed_ms(start) < 1500);
        pthread_join(killer.thread, NULL);
        assert_int_equal(run_one(&owner, directions[i], 4096, 2000), MCS_ERR_TRANSFER_FAIL);
    }
}

static void an_owner_whose_forked_child_lives_on_is_noticed_all_the_same(void **state)
{
    (void)state;
    peer_process_t peer;
    side_t owner;
    peer_start_forker(&peer, OBJECT, 1, &owner);
    assert_int_equal(run_one(&owner, MCS_FETCH, 4096, 10000), MCS_OK);
    peer_fork(&peer);
    assert_int_equal(run_one(&owner, MCS_FETCH, OBJECT, 10000), MCS_OK); /* the parent serves on */
    peer_signal(&peer, SIGKILL);
    uint64_t start = mcs_now_ns();
    mcs_status_t status;
    do {
        status = run_one(&owner, MCS_FETCH, OBJECT, 5000);
    } while (status == MCS_OK);
    assert_int_equal(status, MCS_ERR_TRANSFER_FAIL);
    assert_true(elapsed_ms(start) < 1500);
    peer_end(&peer, true);
}

static void a_new_process_in_the_place_of_a_dead_one_is_reached(void **state)
{
    (void)state;
    mcs_id_t id = {0, 0};
    for (unsigned i = 0; i < 4; i++) {
        peer_process_t peer;
        side_t owner;
        peer_start_owner(&peer, OBJECT, 1, &owner);
        id = i == 0 ? owner.id : id;
        owner.id = id; /* the same owner to the cache, with another endpoint */
        assert_int_equal(run_one(&owner, MCS_FETCH, OBJECT, 10000), MCS_OK);
        peer_end(&peer, i % 2 == 0);
    }
}

static void wait_for_holds(uint32_t want, uint64_t within_ms)
{
    uint64_t start = mcs_now_ns();
    while (fake_owner_holds(&g_side.owner) != want) {
        assert_true(elapsed_ms(start) < within_ms);
        sched_yield();
    }
}

static void a_reader_that_stops_does_not_hold_up_others(void **state)
{
    (void)state;
    peer_process_t stopped;
    peer_process_t other;
    peer_start_reader(&stopped, &g_side, OBJECT);
    peer_await(&stopped);
    peer_stop(&stopped);
    peer_start_reader(&other, &g_side, OBJECT);
    for (unsigned i = 0; i < 8; i++) {
        peer_await(&other);
    }
    peer_end(&other, false);
    peer_end(&stopped, true);
    wait_for_holds(0, 2000);
}

static void holds_end_when_a_peer_is_killed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        peer_process_t peer;
        if (i % 2 == 0) {
            peer_start_reader(&peer, &g_side, OBJECT);
        } else {
            peer_start_writer(&peer, &g_side, OBJECT);
        }
        peer_await(&peer);
        peer_end(&peer, true);
        wait_for_holds(0, 2000);
    }
    assert_int_equal(g_side.owner.writes_bad, 0);
}

/* The real clock, twenty times as fast from a point on. */
static uint64_t g_base_ns;
static uint64_t fast_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    uint64_t ns = (uint64_t)now.tv_sec * MCS_NS_PER_SEC + (uint64_t)now.tv_nsec;
    return ns + 20 * (ns - g_base_ns);
}

/* Of the connections accepted on a port; the transport set ten seconds. */
static uint32_t shorten_user_timeouts(uint16_t port, unsigned timeout_ms)
{
    uint32_t found = 0;
    for (int fd = 3; fd < 1024; fd++) {
        struct sockaddr_in name;
        socklen_t len = sizeof(name);
        unsigned set = 0;
        socklen_t set_len = sizeof(set);
        if (getsockname(fd, (struct sockaddr *)&name, &len) == 0 && name.sin_family == AF_INET &&
            ntohs(name.sin_port) == port && getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &set, &set_len) == 0) {
            assert_int_equal(set, 10000);
            assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms)), 0);
            found++;
        }
    }
    return found;
}

static void a_reader_that_stays_stopped_is_dropped(void **state)
{
    (void)state;
    peer_process_t stopped;
    peer_start_reader(&stopped, &g_side, OBJECT);
    peer_await(&stopped);
    while (fake_owner_holds(&g_side.owner) == 0) {
        sched_yield();
    }
    peer_stop(&stopped);
    /* It takes nothing for ten seconds of the server's clock and for the kernel's time-out. */
    assert_true(shorten_user_timeouts(g_side.info.data_port, 500) > 0);
    g_base_ns = mcs_now_ns();
    mcs_clock_set_source(fast_clock);
    wait_for_holds(0, 100000);
    mcs_clock_set_source(NULL);
    /* It wakes up, finds its connection cut off and makes a new one. */
    peer_signal(&stopped, SIGCONT);
    peer_await(&stopped);
    peer_await(&stopped);
    peer_await(&stopped);
    peer_end(&stopped, false);
    wait_for_holds(0, 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_object_of_another_process_is_fetched, open_side, close_side),
        cmocka_unit_test_setup_teardown(a_stopped_owner_costs_the_deadline_and_no_more, open_side, close_side),
        cmocka_unit_test_setup_teardown(an_owner_stopped_before_the_hello_fails_at_the_connect_timeout, open_side,
                                        close_side),
        cmocka_unit_test_setup_teardown(an_owner_killed_in_mid_transfer_is_noticed_within_a_second, open_side,
                                        close_side),
        cmocka_unit_test_setup_teardown(an_owner_whose_forked_child_lives_on_is_noticed_all_the_same, open_side,
                                        close_side),
        cmocka_unit_test_setup_teardown(a_new_process_in_the_place_of_a_dead_one_is_reached, open_side, close_side),
        cmocka_unit_test_setup_teardown(a_reader_that_stops_does_not_hold_up_others, open_side, close_side),
        cmocka_unit_test_setup_teardown(holds_end_when_a_peer_is_killed, open_side, close_side),
        cmocka_unit_test_setup_teardown(a_reader_that_stays_stopped_is_dropped, open_side, close_side),
    };
    return cmocka_run_group_tests_name("ucx peers", tests, NULL, NULL);
}
