/* Eviction: watermark, order, pins, groups, demand. */
#include "core/base/fault.h"
#include "tests/unit/master_service/fixture.h"

/* 64 objects of 16 KiB fill the segment. */
#define OBJECT (16 * 1024 - 64)

static void store_n(fixture_t *f, const char *prefix, int from, int to, const rpc_put_options_t *options)
{
    for (int i = from; i < to; i++) {
        char key[32];
        snprintf(key, sizeof(key), "%s%d", prefix, i);
        assert_int_equal(rpc_store(&f->writer, key, OBJECT, options), MCS_OK);
        unit_wait(&f->world);
    }
}

static int count_there(fixture_t *f, const char *prefix, int from, int to)
{
    int there = 0;
    for (int i = from; i < to; i++) {
        char key[32];
        snprintf(key, sizeof(key), "%s%d", prefix, i);
        there += rpc_lookup(&f->writer, key, true, NULL) == MCS_OK;
    }
    return there;
}

static void nothing_is_evicted_below_the_watermark(void **state)
{
    fixture_t *f = *state;
    store_n(f, "k", 0, 57, NULL); /* 89 % */
    world_pass(&f->world, 1000);
    assert_int_equal(count_there(f, "k", 0, 57), 57);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evictions_attempted), 0);
}

static void above_the_watermark_the_oldest_go(void **state)
{
    fixture_t *f = *state;
    store_n(f, "k", 0, 58, NULL); /* 90.6 % */
    world_pass(&f->world, 100);
    /* target = used - watermark + ratio = 5.6 %: 4 objects */
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 4);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_bytes), 4 * OBJECT);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evictions_successful), 1);
    assert_int_equal(count_there(f, "k", 0, 58), 54);
    assert_int_equal(count_there(f, "k", 0, 4), 0);
    assert_int_equal(settle(f), 54 * 16384);
}

/* More than one window of tails, and several objects in most of the shards that they lie in. */
static void many_go_in_the_order_of_all_shards(void **state)
{
    fixture_t *f = *state;
    f->world.conf.eviction_high_watermark_ratio = 1;
    for (int i = 0; i < 4000; i++) {
        char key[32];
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_store(&f->writer, key, 64, NULL), MCS_OK);
        unit_wait(&f->world);
    }
    f->world.conf.eviction_ratio = 0.5;
    f->world.conf.eviction_high_watermark_ratio = 0.3;
    world_pass(&f->world, 1);
    int gone = (int)mcs_metric_get(&f->world.metrics, evicted_keys);
    assert_in_range(gone, 2000, 3999);
    assert_int_equal(count_there(f, "k", 0, gone), 0);
    assert_int_equal(count_there(f, "k", gone, 4000), 4000 - gone);
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
}

/* A group goes at once, and with it the tails of many shards: what is behind them is younger than it seemed. */
static void who_is_next_behind_a_group_is_looked_at_anew(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t group = {.group = "a"};
    f->world.conf.eviction_high_watermark_ratio = 1;
    for (int i = 0; i < 64 + 4000; i++) {
        char key[32];
        snprintf(key, sizeof(key), i < 64 ? "g%d" : "k%d", i < 64 ? i : i - 64);
        assert_int_equal(rpc_store(&f->writer, key, 64, i < 64 ? &group : NULL), MCS_OK);
        unit_wait(&f->world);
    }
    f->world.conf.eviction_ratio = 0.025;
    f->world.conf.eviction_high_watermark_ratio = 0.49;
    world_pass(&f->world, 1);
    int gone = (int)mcs_metric_get(&f->world.metrics, evicted_keys) - 64;
    assert_in_range(gone, 30, 1000);
    assert_int_equal(count_there(f, "g", 0, 64), 0);
    assert_int_equal(count_there(f, "k", 0, gone), 0);
    assert_int_equal(count_there(f, "k", gone, 4000), 4000 - gone);
}

/* What a round has taken and not needed, and what endings have needed, which comes back a moment after their space. */
static bool all_blocks_are_back(void *arg)
{
#ifdef __SANITIZE_ADDRESS__
    (void)arg;
    return true; /* none are kept */
#else
    svc_blocks_t *blocks = &((fixture_t *)arg)->world.service->blocks;
    mcs_mutex_lock(&blocks->lock);
    bool all = blocks->count == SVC_EVICT_BLOCKS;
    mcs_mutex_unlock(&blocks->lock);
    return all;
#endif
}

/* The next burst shall not have to ask the kernel for memory; one who does nothing for long shall have none. */
static void the_memory_of_endings_is_kept_for_the_next_round_and_given_up(void **state)
{
    fixture_t *f = *state;
    for (int i = 0; i < 3; i++) {
        store_n(f, "k", i == 0 ? 0 : 54 + 4 * i, 58 + 4 * i, NULL);
        world_pass(&f->world, 100);
        assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 4 * (i + 1));
        assert_int_equal(settle(f), 54 * 16384);
        assert_true(world_until(&f->world, all_blocks_are_back, f));
    }
    live(f, 10100);
    assert_int_equal(f->world.service->blocks.count, 0);
}

static void leased_objects_are_never_evicted(void **state)
{
    fixture_t *f = *state;
    store_n(f, "k", 0, 57, NULL);
    for (int i = 0; i < 30; i++) {
        char key[32];
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(rpc_exist(&f->writer, key), 1);
    }
    store_n(f, "n", 0, 7, NULL);
    world_pass(&f->world, 1000);
    assert_true(mcs_metric_get(&f->world.metrics, evicted_keys) > 0);
    assert_int_equal(count_there(f, "k", 0, 30), 30);
}

static void hard_pinned_objects_stay_and_soft_pinned_ones_go_last(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t hard = {.hard_pin = true};
    rpc_put_options_t soft = {.soft_pin_action = 1};
    store_n(f, "hard", 0, 10, &hard);
    store_n(f, "soft", 0, 10, &soft);
    store_n(f, "plain", 0, 37, NULL);
    assert_int_equal(world_totals(&f->world).soft_pinned, 10);
    for (int i = 0; i < 37; i++) { /* each needs room for one more */
        char key[32];
        snprintf(key, sizeof(key), "new%d", i);
        assert_int_equal(rpc_store(&f->writer, key, OBJECT, NULL), MCS_OK);
        assert_int_equal(count_there(f, "hard", 0, 10), 10);
        assert_int_equal(count_there(f, "soft", 0, 10), 10);
        unit_wait(&f->world);
    }
    /* Only soft-pinned ones are left to give way. */
    store_n(f, "pin", 0, 30, &soft);
    assert_true(count_there(f, "soft", 0, 10) + count_there(f, "pin", 0, 30) <= 44);
    assert_int_equal(count_there(f, "hard", 0, 10), 10);
    assert_int_equal(rpc_remove(&f->writer, "hard0", false), MCS_OK);
}

static void no_soft_eviction(mcs_master_config_t *conf)
{
    conf->allow_evict_soft_pinned_objects = false;
}

static int setup_no_soft(void **state)
{
    return setup_with(state, no_soft_eviction);
}

static void soft_pins_hold_when_the_flag_says_so_until_they_run_out(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t soft = {.soft_pin_action = 1, .has_soft_pin_ttl = true, .soft_pin_ttl_ms = 3000};
    store_n(f, "soft", 0, 64, &soft);
    f->writer.idle = world_passing;
    assert_int_equal(rpc_store(&f->writer, "more", OBJECT, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(count_there(f, "soft", 0, 64), 64);
    live(f, 4000);
    assert_int_equal(world_totals(&f->world).soft_pinned, 0);
    assert_int_equal(rpc_store(&f->writer, "more", OBJECT, NULL), MCS_OK);
}

static void a_soft_pin_of_zero_is_none(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t zero = {.soft_pin_action = 1, .has_soft_pin_ttl = true};
    assert_int_equal(rpc_store(&f->writer, "k", 100, &zero), MCS_OK);
    assert_int_equal(world_totals(&f->world).soft_pinned, 0);
}

static void groups_go_together_or_not_at_all(void **state)
{
    fixture_t *f = *state;
    rpc_put_options_t a = {.group = "a"};
    rpc_put_options_t b = {.group = "b"};
    store_n(f, "a", 0, 5, &a);
    store_n(f, "b", 0, 5, &b);
    assert_int_equal(rpc_exist(&f->writer, "b3"), 1); /* leases its group */
    store_n(f, "k", 0, 50, NULL);
    world_pass(&f->world, 1000);
    assert_int_equal(count_there(f, "a", 0, 5), 0);
    assert_int_equal(count_there(f, "b", 0, 5), 5);
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
}

static void a_put_evicts_what_it_needs(void **state)
{
    fixture_t *f = *state;
    store_n(f, "k", 0, 57, NULL);
    assert_int_equal(rpc_store(&f->writer, "large", 40 * 16384, NULL), MCS_OK);
    assert_int_equal(rpc_lookup(&f->writer, "large", true, NULL), MCS_OK);
    assert_int_equal(settle(f), world_walk_bytes(&f->world));
}

static void small_ratio(mcs_master_config_t *conf)
{
    conf->eviction_ratio = 1e-9;
    conf->eviction_high_watermark_ratio = 1;
}

static int setup_small_ratio(void **state)
{
    return setup_with(state, small_ratio);
}

static void no_ratio(mcs_master_config_t *conf)
{
    conf->eviction_ratio = 0;
    conf->eviction_high_watermark_ratio = 1;
}

static int setup_no_ratio(void **state)
{
    return setup_with(state, no_ratio);
}

static void without_a_ratio_a_put_evicts_nothing(void **state)
{
    fixture_t *f = *state;
    store_n(f, "k", 0, 64, NULL);
    f->world.conf.eviction_wait_ms = 20;
    f->writer.idle = world_passing;
    assert_int_equal(rpc_store(&f->writer, "one", OBJECT, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 0);
    assert_int_equal(count_there(f, "k", 0, 64), 64);
    f->world.conf.eviction_high_watermark_ratio = 0.5; /* that still evicts */
    world_pass(&f->world, 100);
    assert_int_equal(count_there(f, "k", 0, 64), 32);
}

static void demand_alone_evicts_only_what_is_needed(void **state)
{
    fixture_t *f = *state;
    store_n(f, "k", 0, 64, NULL);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 0);
    assert_int_equal(rpc_store(&f->writer, "one", OBJECT, NULL), MCS_OK);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 1);
}

static void a_put_that_was_served_evicts_nothing_more(void **state)
{
    fixture_t *f = *state;
    store_n(f, "k", 0, 64, NULL);
    f->world.conf.eviction_wait_ms = 1000;
    for (int i = 0; i < 4; i++) {
        char key[16];
        snprintf(key, sizeof(key), "one%d", i);
        assert_int_equal(rpc_store(&f->writer, key, OBJECT, NULL), MCS_OK);
        world_pass(&f->world, 200); /* many times as long as between two rounds */
    }
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 4);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evictions_attempted), 4);
    assert_int_equal(settle(f), 64 * 16384);
}

/* Until there is nothing more to do; false: not in fewer turns than `most`. */
static bool take_turns(fixture_t *f, int most)
{
    int turns = 1;
    while (svc_evict_tick(f->world.service, mcs_now_ns()) && turns < most) {
        turns++;
    }
    return turns < most;
}

/* What goes needs a little memory on its way. Where there is none, more tries are in vain: the next round is one. */
static void without_memory_the_round_ends(void **state)
{
    fixture_t *f = *state;
    const svc_evict_t *evict = &f->world.service->evict;
    store_n(f, "k", 0, 58, NULL); /* 90.6 % */
    world_pass(&f->world, 100);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 4);
    assert_int_equal(settle(f), 54 * 16384);
    assert_true(world_until(&f->world, all_blocks_are_back, f));
    svc_blocks_trim(f->world.service); /* what the first one has left */
    f->world.conf.eviction_high_watermark_ratio = 0.8;
    mcs_fault_arm(MCS_FAULT_ALLOC, 1);
    bool over = take_turns(f, 1000); /* one, where nobody takes its slice away */
    bool fired = mcs_fault_fired(MCS_FAULT_ALLOC);
    mcs_fault_arm(MCS_FAULT_ALLOC, 0);
    assert_true(fired);
    assert_true(over);
    assert_false(evict->in_round);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evictions_attempted), 2);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 4);
    world_pass(&f->world, 100); /* used - watermark + ratio = 9.4 %: 6 objects */
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 10);
    assert_int_equal(settle(f), 48 * 16384);
}

/* The owner answers only when so many milliseconds have passed. */
static struct {
    fixture_t *f;
    int silent_ms;
} g_slow;

static void slow_owner(void *arg)
{
    if (g_slow.silent_ms > 0 && --g_slow.silent_ms == 0) {
        g_slow.f->world.peer = &g_slow.f->owner;
    }
    world_passing(arg);
}

/* Keys evicted for one put whose space comes back after so long. */
static uint64_t evicted_while_silent(fixture_t *f, int ms)
{
    store_n(f, "k", 0, 64, NULL);
    f->world.conf.eviction_wait_ms = 1000;
    f->world.peer = NULL;
    g_slow.f = f;
    g_slow.silent_ms = ms;
    f->writer.idle = slow_owner;
    assert_int_equal(rpc_store(&f->writer, "one", OBJECT, NULL), MCS_OK);
    assert_int_equal(g_slow.silent_ms, 0);
    return mcs_metric_get(&f->world.metrics, evicted_keys);
}

static void what_is_on_its_way_back_is_not_evicted_for_again(void **state)
{
    assert_int_equal(evicted_while_silent(*state, 15), 1);
}

static void what_does_not_come_back_is_not_waited_for_alone(void **state)
{
    assert_int_equal(evicted_while_silent(*state, 35), 2);
}

/* However long ago the last wait for something was. */
static void patience_is_there_again_when_all_has_come_back(void **state)
{
    fixture_t *f = *state;
    assert_int_equal(evicted_while_silent(f, 15), 1);
    f->writer.idle = world_tick;
    assert_int_equal(settle(f), SEGMENT);
    live(f, 1000);
    f->world.peer = NULL;
    assert_int_equal(rpc_remove(&f->writer, "k10", false), MCS_OK);
    assert_int_equal(rpc_remove(&f->writer, "k11", false), MCS_OK);
    g_slow.silent_ms = 15;
    f->writer.idle = slow_owner;
    assert_int_equal(rpc_store(&f->writer, "two", OBJECT, NULL), MCS_OK);
    assert_int_equal(g_slow.silent_ms, 0);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 1);
}

/* Nor for ever by puts that do not wait themselves. */
static void what_does_not_come_back_does_not_stand_for_puts_that_come_again(void **state)
{
    fixture_t *f = *state;
    store_n(f, "k", 0, 64, NULL);
    f->world.conf.eviction_wait_ms = 0;
    f->world.peer = NULL;
    for (int i = 0; i < 12; i++) {
        assert_int_equal(rpc_store(&f->writer, "one", OBJECT, NULL), MCS_ERR_NO_AVAILABLE_HANDLE);
        world_pass(&f->world, 5);
        if (i == 2) {
            assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 1);
        }
    }
    assert_in_range(mcs_metric_get(&f->world.metrics, evicted_keys), 2, 4); /* patience is 20 ms */
    f->world.peer = &f->owner;
    assert_true(settle(f) <= 62 * 16384);
}

static void objects_of_suspect_owners_are_not_evicted_in_vain(void **state)
{
    fixture_t *f = *state;
    rpc_client_t other;
    world_client(&f->world, &other, "host-c:1");
    store_n(f, "k", 0, 57, NULL);
    rpc_mount(&other, "host-c:1", SEGMENT);
    f->world.peer = &other;
    rpc_client_drop_control(&f->owner);
    for (int i = 0; i < 1000 && rpc_exist(&f->writer, "k0") != 0; i++) {
        world_tick(&f->world);
    }
    for (int i = 0; i < 80; i++) {
        char key[32];
        snprintf(key, sizeof(key), "n%d", i);
        rpc_pump(&other, 0);
        assert_int_equal(rpc_store(&other, key, OBJECT, NULL), MCS_OK);
        unit_wait(&f->world);
    }
    assert_int_equal(rpc_client_open(&f->owner), MCS_OK);
    world_pass(&f->world, 1100);
    assert_int_equal(count_there(f, "k", 1, 57), 56);
    f->world.peer = NULL;
    rpc_client_fini(&other);
}

static void store_many_small(rpc_client_t *client, int count, const rpc_put_options_t *options)
{
    enum { BATCH = 250 };
    static char keys[BATCH][16];
    static rpc_put_t puts[BATCH];
    const char *names[BATCH];
    uint64_t sizes[BATCH];
    uint64_t ids[BATCH];
    int32_t statuses[BATCH];
    for (int at = 0; at < count; at += BATCH) {
        for (int i = 0; i < BATCH; i++) {
            snprintf(keys[i], sizeof(keys[i]), "s%d", at + i);
            names[i] = keys[i];
            sizes[i] = 64;
        }
        assert_int_equal(rpc_put_start(client, names, sizes, BATCH, options, puts), MCS_OK);
        for (int i = 0; i < BATCH; i++) {
            assert_int_equal(puts[i].status, MCS_OK);
            ids[i] = puts[i].put_id;
        }
        assert_int_equal(rpc_put_end(client, ids, BATCH, statuses), MCS_OK);
    }
}

/* On demand, over in fewer turns than `most`. */
static void run_a_round(fixture_t *f, int most)
{
    svc_evict_demand(f->world.service, OBJECT);
    assert_true(take_turns(f, most));
}

/* More of them than a turn looks at, and nothing else: the round is over when it has seen each. */
static void a_round_that_frees_nothing_ends(void **state)
{
    fixture_t *f = *state;
    const svc_evict_t *evict = &f->world.service->evict;
    const rpc_put_options_t hard = {.hard_pin = true};
    rpc_client_t other;
    rpc_mount(&f->owner, "host-a:2", 32 * SEGMENT);
    store_many_small(&f->writer, 200000, NULL);
    world_client(&f->world, &other, "host-c:1");
    rpc_client_drop_control(&f->owner);
    for (int i = 0; i < 1000 && rpc_exist(&f->writer, "s0") != 0; i++) {
        world_tick(&f->world);
    }
    rpc_mount(&other, "host-c:1", SEGMENT);
    f->world.peer = &other;
    f->world.conf.eviction_wait_ms = 0;
    for (int i = 0; i < 64; i++) {
        char key[32];
        snprintf(key, sizeof(key), "h%d", i);
        assert_int_equal(rpc_store(&other, key, OBJECT, &hard), MCS_OK);
    }
    other.idle = NULL; /* no turn but those below */
    run_a_round(f, 1000);
    assert_false(evict->in_round);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evictions_attempted), 1);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 0);
    f->world.peer = NULL;
    rpc_client_fini(&other);
}

/* What one member keeps is not looked through again for each of the others. */
static void a_large_group_with_a_pin_costs_a_round_no_time(void **state)
{
    fixture_t *f = *state;
    const rpc_put_options_t plain = {.group = "a"};
    const rpc_put_options_t hard = {.group = "a", .hard_pin = true};
    rpc_mount(&f->owner, "host-a:2", 2 * SEGMENT);
    store_many_small(&f->writer, 8000, &plain);
    assert_int_equal(rpc_store(&f->writer, "hard", 64, &hard), MCS_OK);
    run_a_round(f, 400);
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 0);
    assert_int_equal(rpc_remove(&f->writer, "hard", false), MCS_OK);
    unit_wait(&f->world);
    world_pass(&f->world, 20);
    svc_evict_demand(f->world.service, OBJECT);
    world_pass(&f->world, 20); /* another round */
    assert_int_equal(mcs_metric_get(&f->world.metrics, evicted_keys), 8000);
}

static struct {
    world_t *world;
    uint64_t most; /* extents that one turn has asked for */
} g_turns;

static void one_turn(void *arg)
{
    (void)arg;
    uint64_t before = mcs_metric_get(&g_turns.world->metrics, releases_asked);
    svc_house_tick(g_turns.world->service);
    uint64_t asked = mcs_metric_get(&g_turns.world->metrics, releases_asked) - before;
    g_turns.most = MCS_MAX(g_turns.most, asked);
}

/* However fast the owner reads what it is asked for. */
static void a_turn_asks_an_owner_for_so_many_extents_and_no_more(void **state)
{
    enum { COUNT = 100000 };
    fixture_t *f = *state;
    rpc_mount(&f->owner, "host-a:2", 16 * SEGMENT);
    store_many_small(&f->writer, COUNT, NULL);
    g_turns.world = &f->world;
    g_turns.most = 0;
    f->writer.idle = one_turn;
    assert_int_equal(rpc_remove_all(&f->writer, false), COUNT);
    one_turn(NULL);
    assert_in_range(g_turns.most, 1, 2048);
    f->writer.idle = world_tick;
    assert_int_equal(settle(f), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing_is_evicted_below_the_watermark, setup, teardown),
        cmocka_unit_test_setup_teardown(above_the_watermark_the_oldest_go, setup, teardown),
        cmocka_unit_test_setup_teardown(many_go_in_the_order_of_all_shards, setup, teardown),
        cmocka_unit_test_setup_teardown(the_memory_of_endings_is_kept_for_the_next_round_and_given_up, setup, teardown),
        cmocka_unit_test_setup_teardown(leased_objects_are_never_evicted, setup, teardown),
        cmocka_unit_test_setup_teardown(hard_pinned_objects_stay_and_soft_pinned_ones_go_last, setup, teardown),
        cmocka_unit_test_setup_teardown(soft_pins_hold_when_the_flag_says_so_until_they_run_out, setup_no_soft,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_soft_pin_of_zero_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_next_behind_a_group_is_looked_at_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(groups_go_together_or_not_at_all, setup, teardown),
        cmocka_unit_test_setup_teardown(a_put_evicts_what_it_needs, setup, teardown),
        cmocka_unit_test_setup_teardown(demand_alone_evicts_only_what_is_needed, setup_small_ratio, teardown),
        cmocka_unit_test_setup_teardown(a_put_that_was_served_evicts_nothing_more, setup_small_ratio, teardown),
        cmocka_unit_test_setup_teardown(without_memory_the_round_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_on_its_way_back_is_not_evicted_for_again, setup_small_ratio, teardown),
        cmocka_unit_test_setup_teardown(what_does_not_come_back_is_not_waited_for_alone, setup_small_ratio, teardown),
        cmocka_unit_test_setup_teardown(patience_is_there_again_when_all_has_come_back, setup_small_ratio, teardown),
        cmocka_unit_test_setup_teardown(what_does_not_come_back_does_not_stand_for_puts_that_come_again,
                                        setup_small_ratio, teardown),
        cmocka_unit_test_setup_teardown(without_a_ratio_a_put_evicts_nothing, setup_no_ratio, teardown),
        cmocka_unit_test_setup_teardown(objects_of_suspect_owners_are_not_evicted_in_vain, setup, teardown),
        cmocka_unit_test_setup_teardown(a_round_that_frees_nothing_ends, setup_small_ratio, teardown),
        cmocka_unit_test_setup_teardown(a_large_group_with_a_pin_costs_a_round_no_time, setup_small_ratio, teardown),
        cmocka_unit_test_setup_teardown(a_turn_asks_an_owner_for_so_many_extents_and_no_more, setup_small_ratio,
                                        teardown),
    };
    return cmocka_run_group_tests_name("svc_evict", tests, NULL, NULL);
}
