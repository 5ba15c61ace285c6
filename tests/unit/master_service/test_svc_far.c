/* Segments in the memory of devices: who gets space there, how it is cut, and what is refused. */
#include "tests/unit/master_service/fixture.h"

#define FAR "host-a:1/cuda:0"

static uint32_t mount_far(fixture_t *f, mcs_id_t *instance_out)
{
    uint32_t handle;
    *instance_out = mcs_id_random();
    f->owner.location = "cuda:0";
    assert_int_equal(rpc_try_mount(&f->owner, FAR, SEGMENT, *instance_out, &handle, NULL), MCS_OK);
    f->owner.location = NULL;
    return handle;
}

static void only_who_names_a_device_gets_space_there(void **state)
{
    fixture_t *f = *state;
    mcs_id_t instance;
    uint32_t far = mount_far(f, &instance);
    const char *names[] = {FAR};
    rpc_put_options_t named = {.preferred = names, .preferred_count = 1};
    rpc_put_options_t same_node = {.same_node = true, .host_id = "host-a"};
    for (int i = 0; i < 20; i++) {
        char key[16];
        rpc_put_t put;
        snprintf(key, sizeof(key), "plain%d", i);
        assert_int_equal(rpc_put_one(&f->owner, key, 100, NULL, &put), MCS_OK);
        assert_int_equal(put.replica[0].segment, f->handle);
        snprintf(key, sizeof(key), "node%d", i);
        assert_int_equal(rpc_put_one(&f->owner, key, 100, &same_node, &put), MCS_OK);
        assert_int_equal(put.replica[0].segment, f->handle);
        snprintf(key, sizeof(key), "far%d", i);
        assert_int_equal(rpc_put_one(&f->owner, key, 100, &named, &put), MCS_OK);
        assert_int_equal(put.replica[0].segment, far);
        assert_int_equal(put.replica[0].offset, (uint64_t)i * MCS_EXTENT_FAR_ALIGN);
    }
}

static void a_value_may_lie_in_both_tiers_of_one_owner(void **state)
{
    fixture_t *f = *state;
    mcs_id_t instance;
    uint32_t far = mount_far(f, &instance);
    const char *names[] = {FAR};
    rpc_put_options_t both = {.preferred = names, .preferred_count = 1, .replica_num = 2};
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->owner, "both", 100, &both, &put), MCS_OK);
    assert_int_equal(put.replicas, 2);
    assert_int_equal(put.replica[0].segment, far);
    assert_int_equal(put.replica[1].segment, f->handle);
}

static void writers_of_other_hosts_get_host_memory(void **state)
{
    fixture_t *f = *state;
    mcs_id_t instance;
    uint32_t far = mount_far(f, &instance);
    const char *names[] = {FAR};
    rpc_put_options_t named = {.preferred = names, .preferred_count = 1};
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "near", 100, &named, &put), MCS_OK);
    assert_int_equal(put.replica[0].segment, far);
    rpc_client_t other;
    rpc_client_init(&other, world_path(&f->world), "host-c:1");
    other.boot_id = "another kernel";
    other.idle = world_passing;
    other.idle_arg = &f->world;
    assert_int_equal(rpc_client_open(&other), MCS_OK);
    assert_int_equal(rpc_put_one(&other, "away", 100, &named, &put), MCS_OK);
    assert_int_equal(put.replica[0].segment, f->handle);
    rpc_client_fini(&other);
}

static void a_full_device_gives_way_to_host_memory_and_gets_its_space_back(void **state)
{
    fixture_t *f = *state;
    mcs_id_t instance;
    uint32_t far = mount_far(f, &instance);
    const char *names[] = {FAR};
    rpc_put_options_t named = {.preferred = names, .preferred_count = 1};
    rpc_put_t put;
    const uint64_t half = SEGMENT / 2;
    assert_int_equal(rpc_store(&f->owner, "a", half, &named), MCS_OK); /* no room is lost to headers */
    assert_int_equal(rpc_store(&f->owner, "b", half, &named), MCS_OK);
    assert_int_equal(svc_segment_at(f->world.service, far)->used, SEGMENT);
    assert_int_equal(rpc_put_one(&f->owner, "c", 1000, &named, &put), MCS_OK);
    assert_int_equal(put.replica[0].segment, f->handle);
    assert_int_equal(rpc_end_one(&f->owner, put.put_id), MCS_OK);
    assert_int_equal(rpc_remove(&f->owner, "a", true), MCS_OK);
    live(f, 20000);
    (void)settle(f);
    assert_int_equal(svc_segment_at(f->world.service, far)->used, half);
    assert_int_equal(rpc_put_one(&f->owner, "d", half, &named, &put), MCS_OK);
    assert_int_equal(put.replica[0].segment, far);
}

static void what_is_no_device_is_refused_and_what_is_none_is_host_memory(void **state)
{
    fixture_t *f = *state;
    static const char *const bad[] = {"cuda:",  "cuda:x", "cuda:-1", "cuda:1024", "cuda:99999999999999999999",
                                      "cuda:0x"};
    static const char *const host[] = {"", "cpu:0", "cpu:7", "somewhere", "cuda"};
    mcs_log_set_level(MCS_LOG_ERROR);
    for (size_t i = 0; i < MCS_ARRAY_LEN(bad); i++) {
        f->owner.location = bad[i];
        assert_int_equal(rpc_try_mount(&f->owner, FAR, SEGMENT, mcs_id_random(), NULL, NULL), MCS_ERR_INVALID_PARAMS);
    }
    f->owner.location = "cuda:0";
    assert_int_equal(rpc_try_mount(&f->owner, FAR, SEGMENT + 64, mcs_id_random(), NULL, NULL), MCS_ERR_INVALID_PARAMS);
    for (size_t i = 0; i < MCS_ARRAY_LEN(host); i++) {
        uint32_t handle;
        f->owner.location = host[i];
        assert_int_equal(rpc_try_mount(&f->owner, "host-a:2", SEGMENT, mcs_id_random(), &handle, NULL), MCS_OK);
        assert_int_equal(svc_segment_at(f->world.service, handle)->shift, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_who_names_a_device_gets_space_there, setup, teardown),
        cmocka_unit_test_setup_teardown(a_value_may_lie_in_both_tiers_of_one_owner, setup, teardown),
        cmocka_unit_test_setup_teardown(writers_of_other_hosts_get_host_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_device_gives_way_to_host_memory_and_gets_its_space_back, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_no_device_is_refused_and_what_is_none_is_host_memory, setup, teardown),
    };
    return cmocka_run_group_tests_name("svc_far", tests, NULL, NULL);
}
