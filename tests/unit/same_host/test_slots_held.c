/* Rule 3 between processes: an extent is given back when nobody can touch it any more, and not before. */
#include "tests/support/unit.h"

#include "tests/unit/same_host/rig.h"

#define LEN MCS_MIB

static rig_t g_rig;
static peer_t g_peer;
static const mcs_id_t g_session = {11, 12};

static int setup(void **state)
{
    (void)state;
    rig_start(&g_rig, 64 * MCS_MIB, NULL);
    peer_start(&g_peer, PEER_PROGRAM, -1);
    assert_int_equal(peer_map(&g_peer, &g_rig, g_session), MCS_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rig_stop(&g_rig);
    return 0;
}

static void what_one_process_writes_the_other_reads(void **state)
{
    (void)state;
    assert_int_equal(rig_write(g_rig.own, 0, 5, LEN, 50), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", (unsigned long long)LEN), MCS_OK);

    /* Far beyond what is faulted ahead. */
    uint64_t far = 40 * MCS_MIB;
    assert_int_equal(peer_number(&g_peer, "write 1 %llu 6 %llu 60", (unsigned long long)far, (unsigned long long)LEN),
                     MCS_OK);
    assert_int_equal(peer_number(&g_peer, "seal 1"), MCS_OK);
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_read(g_rig.own, far, 6, LEN, rig_key(6), &pin), MCS_OK);
    assert_true(rig_is_filled(pin.payload, LEN, 60));
    mcs_unpin(&pin);
    peer_stop(&g_peer);
}

static void only_the_right_object_is_pinned(void **state)
{
    (void)state;
    assert_int_equal(rig_write(g_rig.own, 0, 5, LEN, 50), MCS_OK);
    unsigned long long len = LEN;
    assert_int_equal(peer_number(&g_peer, "read 0 0 6 %llu 50", len), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", len - 1), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(peer_number(&g_peer, "read 0 64 5 %llu 50", len), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(peer_number(&g_peer, "read 0 1 5 %llu 50", len), MCS_ERR_INVALID_READ);
    assert_int_equal(peer_number(&g_peer, "read 0 0 0 %llu 50", len), MCS_ERR_INVALID_READ);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 0 50"), MCS_ERR_INVALID_READ);
    assert_int_equal(peer_number(&g_peer, "read 0 %llu 5 %llu 50", 63ULL << 20, len), MCS_ERR_INVALID_READ);
    assert_int_equal(peer_number(&g_peer, "read 0 18446744073709551552 5 %llu 50", len), MCS_ERR_INVALID_READ);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 18446744073709551552 50"), MCS_ERR_INVALID_READ);
    assert_int_equal(peer_number(&g_peer, "write 0 %llu 9 %llu 50", 63ULL << 20, len), MCS_ERR_INVALID_WRITE);
    /* Rule 2: written is written. */
    assert_int_equal(peer_number(&g_peer, "write 0 0 5 %llu 51", len), MCS_ERR_INVALID_WRITE);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", len), MCS_OK);
    peer_stop(&g_peer);
}

static void a_killed_reader_loses_its_slot(void **state)
{
    (void)state;
    assert_int_equal(rig_write(g_rig.own, 0, 5, LEN, 50), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", (unsigned long long)LEN), MCS_OK);
    rig_release(&g_rig, 0, 5, LEN, 0, g_session);
    assert_false(rig_is_released(&g_rig, 5));
    assert_int_equal(rig_pending(&g_rig), 1);
    /* Dead to whoever comes now. */
    assert_int_equal(peer_number(&g_peer, "read 1 0 5 %llu 50", (unsigned long long)LEN), MCS_ERR_REPLICA_IS_GONE);
    peer_kill(&g_peer);
    assert_true(rig_wait_released(&g_rig, 5));
    assert_int_equal(rig_pending(&g_rig), 0);
}

static void an_unpin_lets_the_extent_go(void **state)
{
    (void)state;
    assert_int_equal(rig_write(g_rig.own, 0, 5, LEN, 50), MCS_OK);
    assert_int_equal(rig_write(g_rig.own, 2 * LEN, 6, LEN, 60), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", (unsigned long long)LEN), MCS_OK);
    rig_release(&g_rig, 0, 5, LEN, 0, g_session);
    rig_release(&g_rig, 2 * LEN, 6, LEN, 0, g_session);
    assert_true(rig_is_released(&g_rig, 6)); /* at once: nobody names it */
    assert_false(rig_is_released(&g_rig, 5));
    assert_int_equal(peer_number(&g_peer, "unpin 0"), 0);
    assert_true(rig_wait_released(&g_rig, 5));
    peer_stop(&g_peer);
}

static bool mappers_are_gone(void *arg)
{
    mcs_owner_stats_t stats;
    mcs_owner_stats(((rig_t *)arg)->owner, &stats);
    return stats.mappers == 0;
}

/* A process that closed its store but has a view of it: rule 3 goes on. */
static void a_pin_outlives_the_end_of_its_connection(void **state)
{
    (void)state;
    assert_int_equal(rig_write(g_rig.own, 0, 5, LEN, 50), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", (unsigned long long)LEN), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "destroy"), 0);
    rig_release(&g_rig, 0, 5, LEN, 0, g_session);
    assert_int_equal(peer_number(&g_peer, "check 0 50"), 0);
    assert_int_equal(rig_pending(&g_rig), 1);
    assert_int_equal(peer_number(&g_peer, "unpin 0"), 0);
    assert_true(rig_wait_released(&g_rig, 5));
    /* And its page goes, though the process lives. */
    assert_true(rig_wait(mappers_are_gone, &g_rig));
    peer_stop(&g_peer);
}

/* A marker: the owner's thread has looked at everything that was pending before. */
static void let_the_owner_look(uint64_t offset, uint64_t generation)
{
    mcs_pin_t pin;
    assert_int_equal(rig_write(g_rig.own, offset, generation, LEN, 1), MCS_OK);
    assert_int_equal(mcs_pin_read(g_rig.own, offset, generation, LEN, rig_key(generation), &pin), MCS_OK);
    rig_release(&g_rig, offset, generation, LEN, 0, g_session);
    assert_false(rig_is_released(&g_rig, generation));
    mcs_unpin(&pin);
    assert_true(rig_wait_released(&g_rig, generation));
}

static void a_stopped_reader_keeps_its_slot(void **state)
{
    (void)state;
    assert_int_equal(rig_write(g_rig.own, 0, 5, LEN, 50), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", (unsigned long long)LEN), MCS_OK);
    peer_freeze(&g_peer);
    rig_release(&g_rig, 0, 5, LEN, 0, g_session);
    for (uint64_t i = 0; i < 20; i++) {
        let_the_owner_look(4 * LEN, 100 + i);
    }
    assert_false(rig_is_released(&g_rig, 5));
    peer_thaw(&g_peer);
    assert_int_equal(peer_number(&g_peer, "check 0 50"), 0); /* not a byte has changed */
    assert_int_equal(peer_number(&g_peer, "unpin 0"), 0);
    assert_true(rig_wait_released(&g_rig, 5));
    peer_stop(&g_peer);
}

/* Rule 6: woken after its reservation was revoked, it writes, and nobody else's bytes change. */
static void a_stopped_writer_cannot_change_what_others_read(void **state)
{
    (void)state;
    assert_int_equal(peer_number(&g_peer, "write 0 0 5 %llu 50", (unsigned long long)LEN), MCS_OK);
    peer_freeze(&g_peer);
    rig_release(&g_rig, 0, 5, LEN, MCS_RELEASE_MAY_WRITE, g_session);
    for (uint64_t i = 0; i < 20; i++) {
        let_the_owner_look(4 * LEN, 100 + i);
    }
    assert_false(rig_is_released(&g_rig, 5)); /* so the master gives it to nobody */
    peer_thaw(&g_peer);
    assert_int_equal(peer_number(&g_peer, "fill 0 51"), 0);
    assert_int_equal(peer_number(&g_peer, "seal 0"), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(peer_number(&g_peer, "unpin 0"), 0);
    assert_true(rig_wait_released(&g_rig, 5));
    /* The next in the same place; the old writer does not come in again. */
    assert_int_equal(rig_write(g_rig.own, 0, 6, LEN, 60), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "write 0 0 5 %llu 50", (unsigned long long)LEN), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(peer_number(&g_peer, "read 0 0 6 %llu 60", (unsigned long long)LEN), MCS_OK);
    peer_stop(&g_peer);
}

static void a_process_may_hold_as_many_as_a_page_has_slots(void **state)
{
    (void)state;
    assert_int_equal(rig_write(g_rig.own, 0, 5, 64, 50), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "pin_all 0 5 64"), 4096);
    assert_int_equal(peer_number(&g_peer, "read 5000 0 5 64 50"), MCS_ERR_LIMIT);
    assert_int_equal(peer_number(&g_peer, "unpin 17"), 0);
    assert_int_equal(peer_number(&g_peer, "read 5000 0 5 64 50"), MCS_OK);
    peer_kill(&g_peer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_one_process_writes_the_other_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(only_the_right_object_is_pinned, setup, teardown),
        cmocka_unit_test_setup_teardown(a_killed_reader_loses_its_slot, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unpin_lets_the_extent_go, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pin_outlives_the_end_of_its_connection, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stopped_reader_keeps_its_slot, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stopped_writer_cannot_change_what_others_read, setup, teardown),
        cmocka_unit_test_setup_teardown(a_process_may_hold_as_many_as_a_page_has_slots, setup, teardown),
    };
    return cmocka_run_group_tests_name("same_host_slots_held", tests, NULL, NULL);
}
