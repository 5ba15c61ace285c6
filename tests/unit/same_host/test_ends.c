/* What ends, and what goes on: owners, segments, sessions, forked children. */
#include "tests/support/unit.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>

#include "tests/unit/same_host/rig.h"

#define LEN MCS_MIB

static rig_t g_rig;
static peer_t g_peer;
static char g_folder[64];
static char g_path[108];
static mcs_mapper_t *g_mapper;
static mcs_mapper_peer_t g_there; /* the peer's segment: generation 7 at 0 */
static const mcs_id_t g_session = {21, 22};

/* The peer is the owner, we map. */
static int setup_owner_there(void **state)
{
    (void)state;
    snprintf(g_folder, sizeof(g_folder), "/tmp/mcs-same-host-XXXXXX");
    assert_non_null(mkdtemp(g_folder));
    peer_start(&g_peer, PEER_PROGRAM, -1);
    unsigned long long n[5];
    const char *answer = peer_ask(&g_peer, "own %s", g_folder);
    assert_non_null(answer);
    assert_int_equal(sscanf(answer, "%107s %llu %llu %llu %llu %llu", g_path, &n[0], &n[1], &n[2], &n[3], &n[4]), 6);
    g_there = (mcs_mapper_peer_t){.owner = {n[0], n[1]}, .instance = {n[2], n[3]}, .size = n[4], .ipc_path = g_path};
    mcs_mapper_config_t config = {.client = mcs_id_random()};
    assert_int_equal(mcs_mapper_create(&config, &g_mapper), MCS_OK);
    mcs_mapper_set_session(g_mapper, g_session);
    return 0;
}

static int teardown_owner_there(void **state)
{
    (void)state;
    mcs_mapper_destroy(g_mapper);
    unlink(g_path);
    assert_true(rmdir(g_folder) == 0 || errno == ENOENT); /* a peer that ended by itself has removed it */
    return 0;
}

static mcs_mapping_t *map_there(void)
{
    mcs_mapping_t *mapping;
    assert_int_equal(mcs_mapper_get(g_mapper, &g_there, mcs_deadline_after_ms(5000), &mapping), MCS_OK);
    return mapping;
}

static bool nothing_is_mapped(void *arg)
{
    (void)arg;
    mcs_mapper_stats_t stats;
    mcs_mapper_stats(g_mapper, &stats);
    return stats.mappings == 0 && stats.mapped_bytes == 0;
}

static bool pins_fail(void *arg)
{
    mcs_pin_t pin;
    mcs_status_t status = mcs_pin_read(arg, 0, 7, LEN, rig_key(7), &pin);
    if (status == MCS_OK) {
        mcs_unpin(&pin);
    }
    return status == MCS_ERR_TRANSFER_FAIL;
}

static void a_dead_owners_memory_stays_as_long_as_it_is_pinned(void **state)
{
    (void)state;
    mcs_mapping_t *mapping = map_there();
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_read(mapping, 0, 7, LEN, rig_key(7), &pin), MCS_OK);
    peer_kill(&g_peer);
    assert_true(rig_wait(pins_fail, mapping));
    mcs_mapping_t *again;
    assert_int_equal(mcs_mapper_get(g_mapper, &g_there, mcs_deadline_after_ms(5000), &again), MCS_ERR_TRANSFER_FAIL);
    assert_true(rig_is_filled(pin.payload, LEN, 7));
    mcs_mapping_put(mapping);
    assert_false(nothing_is_mapped(NULL));
    mcs_unpin(&pin);
    assert_true(nothing_is_mapped(NULL));
}

/* Nobody asks for it any more: its gigabytes go all the same. */
static void a_dead_owners_memory_goes_by_itself(void **state)
{
    (void)state;
    mcs_mapping_put(map_there());
    assert_false(nothing_is_mapped(NULL));
    peer_kill(&g_peer);
    assert_true(rig_wait(nothing_is_mapped, NULL));
}

static void a_removed_segment_is_unmapped_by_its_peers(void **state)
{
    (void)state;
    mcs_mapping_put(map_there());
    assert_int_equal(peer_number(&g_peer, "remove"), 0);
    assert_true(rig_wait(nothing_is_mapped, NULL));
    mcs_mapping_t *again;
    assert_int_equal(mcs_mapper_get(g_mapper, &g_there, mcs_deadline_after_ms(5000), &again), MCS_ERR_TRANSFER_FAIL);
    peer_stop(&g_peer);
}

/* A child of the owner inherits its sockets: they are closed at the fork. */
static void a_forked_child_does_not_keep_its_parents_connections(void **state)
{
    (void)state;
    mcs_mapping_t *mapping = map_there();
    long long child = peer_number(&g_peer, "spawn");
    assert_true(child > 0);
    peer_kill(&g_peer);
    assert_true(rig_wait(pins_fail, mapping));
    mcs_mapping_put(mapping);
    kill((pid_t)child, SIGKILL);
}

static void a_failure_is_remembered_for_a_while(void **state)
{
    (void)state;
    mcs_mapping_t *mapping;
    unit_clock_start(100 * MCS_NS_PER_SEC);
    mcs_mapper_peer_t nobody = g_there;
    nobody.ipc_path = "/tmp/mcs-same-host-nobody/there";
    assert_int_equal(mcs_mapper_get(g_mapper, &nobody, MCS_NEVER, &mapping), MCS_ERR_TRANSFER_FAIL);
    assert_int_equal(mcs_mapper_get(g_mapper, &g_there, MCS_NEVER, &mapping), MCS_ERR_TRANSFER_FAIL);
    unit_clock_advance(MCS_NS_PER_SEC + 1);
    assert_int_equal(mcs_mapper_get(g_mapper, &g_there, MCS_NEVER, &mapping), MCS_OK);
    mcs_clock_set_source(NULL);
    mcs_mapping_put(mapping);
    peer_stop(&g_peer);
}

/* ---- the owner is here ---- */

static int setup_owner_here(void **state)
{
    (void)state;
    rig_start(&g_rig, 64 * MCS_MIB, NULL);
    assert_int_equal(rig_write(g_rig.own, 0, 5, LEN, 50), MCS_OK);
    peer_start(&g_peer, PEER_PROGRAM, -1);
    assert_int_equal(peer_map(&g_peer, &g_rig, g_session), MCS_OK);
    return 0;
}

static int teardown_owner_here(void **state)
{
    (void)state;
    rig_stop(&g_rig);
    return 0;
}

static void an_ended_session_pins_nothing_more_but_keeps_what_it_has(void **state)
{
    (void)state;
    unsigned long long len = LEN;
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", len), MCS_OK);
    mcs_owner_session_ended(g_rig.owner, g_session);
    assert_int_equal(peer_number(&g_peer, "read 1 0 5 %llu 50", len), MCS_ERR_TRANSFER_FAIL);
    assert_int_equal(peer_number(&g_peer, "write 1 %llu 6 %llu 60", 4 * len, len), MCS_ERR_TRANSFER_FAIL);
    rig_release(&g_rig, 0, 5, LEN, 0, g_session);
    assert_int_equal(peer_number(&g_peer, "check 0 50"), 0);
    assert_int_equal(rig_pending(&g_rig), 1);
    /* Not with that session again, but with a new one. */
    assert_int_equal(peer_map(&g_peer, &g_rig, g_session), MCS_ERR_TRANSFER_FAIL);
    assert_int_equal(peer_map(&g_peer, &g_rig, (mcs_id_t){23, 24}), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "write 1 %llu 6 %llu 60", 4 * len, len), MCS_OK);
    assert_int_equal(peer_number(&g_peer, "unpin 0"), 0);
    assert_true(rig_wait_released(&g_rig, 5));
    peer_stop(&g_peer);
}

static uint64_t revoked_count(void)
{
    mcs_owner_stats_t stats;
    mcs_owner_stats(g_rig.owner, &stats);
    return stats.revoked;
}

static void a_revoked_generation_is_refused_until_it_is_forgotten(void **state)
{
    (void)state;
    unsigned long long len = LEN;
    uint64_t six = 6;
    rig_release(&g_rig, 4 * LEN, six, LEN, MCS_RELEASE_MAY_WRITE, g_session);
    assert_true(rig_is_released(&g_rig, six)); /* never opened, named by nobody */
    assert_int_equal(revoked_count(), 1);
    assert_int_equal(peer_number(&g_peer, "write 0 %llu 6 %llu 60", 4 * len, len), MCS_ERR_REPLICA_IS_GONE);
    assert_int_equal(rig_write(g_rig.own, 4 * LEN, six, LEN, 60), MCS_ERR_REPLICA_IS_GONE);
    mcs_owner_forget(g_rig.owner, &six, 1);
    assert_int_equal(revoked_count(), 0);
    peer_stop(&g_peer);
}

/* Our own slots have no session that could close them. */
static void what_was_revoked_in_our_own_session_outlasts_it(void **state)
{
    (void)state;
    rig_release(&g_rig, 4 * LEN, 6, LEN, MCS_RELEASE_MAY_WRITE, g_rig.session);
    mcs_owner_session_ended(g_rig.owner, g_rig.session);
    assert_int_equal(rig_write(g_rig.own, 4 * LEN, 6, LEN, 60), MCS_ERR_REPLICA_IS_GONE);
    rig_release(&g_rig, 8 * LEN, 8, LEN, MCS_RELEASE_MAY_WRITE, g_rig.session);
    assert_int_equal(rig_write(g_rig.own, 8 * LEN, 8, LEN, 60), MCS_ERR_REPLICA_IS_GONE);
    /* That of a stranger's goes with its session, which its pages show instead. */
    rig_release(&g_rig, 12 * LEN, 9, LEN, MCS_RELEASE_MAY_WRITE, g_session);
    assert_int_equal(revoked_count(), 3);
    mcs_owner_session_ended(g_rig.owner, g_session);
    assert_int_equal(revoked_count(), 2);
    peer_stop(&g_peer);
}

static void a_full_table_leaves_releases_unanswered(void **state)
{
    (void)state;
    for (uint64_t g = 1000; g < 1000 + 4096; g++) {
        rig_release(&g_rig, 4 * LEN, g, LEN, MCS_RELEASE_MAY_WRITE, g_session);
        assert_true(rig_is_released(&g_rig, g));
    }
    rig_release(&g_rig, 4 * LEN, 9000, LEN, MCS_RELEASE_MAY_WRITE, g_session);
    assert_false(rig_is_released(&g_rig, 9000));
    assert_int_equal(rig_pending(&g_rig), 0); /* the master has it in quarantine */
    mcs_owner_session_ended(g_rig.owner, g_session);
    rig_release(&g_rig, 4 * LEN, 9000, LEN, MCS_RELEASE_MAY_WRITE, g_session);
    assert_true(rig_is_released(&g_rig, 9000));
    peer_stop(&g_peer);
}

/* The answer to the first crossed the second on its way; meanwhile the place has another object. */
static void a_repeated_release_does_not_touch_the_next_object(void **state)
{
    (void)state;
    rig_release(&g_rig, 0, 5, LEN, 0, g_session);
    assert_true(rig_is_released(&g_rig, 5));
    assert_int_equal(rig_write(g_rig.own, 0, 4, LEN, 40), MCS_OK);
    rig_release(&g_rig, 0, 5, LEN, 0, g_session);
    assert_int_equal(peer_number(&g_peer, "read 0 0 4 %llu 40", (unsigned long long)LEN), MCS_OK);
    peer_stop(&g_peer);
}

static void what_is_not_ours_is_not_released(void **state)
{
    (void)state;
    mcs_col_release_t good = {.instance_hi = g_rig.self.instance.hi,
                              .instance_lo = g_rig.self.instance.lo,
                              .generation = 77,
                              .offset = 4 * LEN,
                              .payload_len = LEN};
    mcs_col_release_t bad[8];
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        bad[i] = good;
        bad[i].generation = 100 + i;
    }
    bad[0].instance_lo ^= 1;
    bad[1].offset += 1;
    bad[2].offset = g_rig.self.size;
    bad[3].offset = UINT64_MAX - 63;
    bad[4].payload_len = 0;
    bad[5].payload_len = UINT64_MAX;
    bad[6].generation = 0;
    bad[7].generation = UINT64_MAX;
    mcs_owner_release(g_rig.owner, bad, MCS_ARRAY_LEN(bad));
    mcs_owner_release(g_rig.owner, &good, 1);
    assert_int_equal(g_rig.released_count, 1);
    assert_int_equal(g_rig.released[0], 77);
    assert_int_equal(rig_pending(&g_rig), 0);
    peer_stop(&g_peer);
}

/* Rule 11. */
static void a_forked_child_touches_nothing_of_its_parents(void **state)
{
    (void)state;
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_read(g_rig.own, 0, 5, LEN, rig_key(5), &pin), MCS_OK);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        mcs_unpin(&pin);
        mcs_mapping_put(g_rig.own);
        mcs_mapper_destroy(g_rig.mapper);
        mcs_owner_destroy(g_rig.owner);
        mcs_segment_put(g_rig.segment);
        mcs_faulter_destroy(g_rig.faulter);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    rig_release(&g_rig, 0, 5, LEN, 0, g_session);
    assert_int_equal(rig_pending(&g_rig), 1);
    assert_true(rig_is_filled(pin.payload, LEN, 50));
    mcs_unpin(&pin);
    assert_true(rig_wait_released(&g_rig, 5));
    assert_int_equal(peer_number(&g_peer, "read 0 0 5 %llu 50", (unsigned long long)LEN), MCS_ERR_REPLICA_IS_GONE);
    peer_stop(&g_peer);
}

static void a_view_of_our_own_outlives_everything_else(void **state)
{
    (void)state;
    static rig_t rig;
    mcs_pin_t pin;
    rig_start(&rig, 16 * MCS_MIB, NULL);
    assert_int_equal(rig_write(rig.own, 0, 5, LEN, 50), MCS_OK);
    assert_int_equal(mcs_pin_read(rig.own, 0, 5, LEN, rig_key(5), &pin), MCS_OK);
    rig_stop(&rig);
    assert_true(rig_is_filled(pin.payload, LEN, 50));
    mcs_unpin(&pin);
    peer_stop(&g_peer);
}

#define THERE(test) cmocka_unit_test_setup_teardown(test, setup_owner_there, teardown_owner_there)
#define HERE(test)  cmocka_unit_test_setup_teardown(test, setup_owner_here, teardown_owner_here)

int main(void)
{
    const struct CMUnitTest tests[] = {
        THERE(a_dead_owners_memory_stays_as_long_as_it_is_pinned),
        THERE(a_dead_owners_memory_goes_by_itself),
        THERE(a_removed_segment_is_unmapped_by_its_peers),
        THERE(a_forked_child_does_not_keep_its_parents_connections),
        THERE(a_failure_is_remembered_for_a_while),
        HERE(an_ended_session_pins_nothing_more_but_keeps_what_it_has),
        HERE(a_revoked_generation_is_refused_until_it_is_forgotten),
        HERE(what_was_revoked_in_our_own_session_outlasts_it),
        HERE(a_full_table_leaves_releases_unanswered),
        HERE(a_repeated_release_does_not_touch_the_next_object),
        HERE(what_is_not_ours_is_not_released),
        HERE(a_forked_child_touches_nothing_of_its_parents),
        HERE(a_view_of_our_own_outlives_everything_else),
    };
    return cmocka_run_group_tests_name("same_host_ends", tests, NULL, NULL);
}
