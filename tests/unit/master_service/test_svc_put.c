/* put_start, put_end, put_revoke, put_wait, and what readers see of them. */
#include "tests/unit/master_service/world.h"

#define SEGMENT (UINT64_C(1) << 20)

typedef struct fixture {
    world_t world;
    rpc_client_t owner;  /* has a segment */
    rpc_client_t writer; /* has none */
    uint32_t handle;
    mcs_mac_key_t key;
    mcs_id_t instance;
} fixture_t;

static void build(fixture_t *f)
{
    world_start(&f->world);
    world_client(&f->world, &f->owner, "host-a:1");
    world_client(&f->world, &f->writer, "host-b:1");
    f->instance = mcs_id_random();
    assert_int_equal(rpc_try_mount(&f->owner, "host-a:1", SEGMENT, f->instance, &f->handle, &f->key), MCS_OK);
}

static int setup(void **state)
{
    static fixture_t fixture;
    world_init(&fixture.world, true);
    build(&fixture);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    fixture_t *f = *state;
    rpc_client_fini(&f->owner);
    rpc_client_fini(&f->writer);
    world_stop(&f->world);
    return 0;
}

static uint64_t settle(fixture_t *f)
{
    rpc_client_t *clients[] = {&f->owner, &f->writer};
    return world_settle(&f->world, clients, 2);
}

static void a_put_is_readable_after_its_end_and_not_before(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_ERR_OBJECT_NOT_FOUND);
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    assert_int_equal(put.replicas, 1);
    assert_int_equal(put.replica[0].segment, f->handle);
    assert_int_equal(put.replica[0].status, 2);
    assert_int_equal(put.replica[0].generation, put.put_id);
    assert_int_equal(rpc_exist(&f->writer, "k"), 0);
    assert_int_equal(rpc_lookup(&f->writer, "k", false, NULL), MCS_ERR_REPLICA_IS_NOT_READY);
    assert_int_equal(rpc_end_one(&f->writer, put.put_id), MCS_OK);
    assert_int_equal(rpc_exist(&f->owner, "k"), 1);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->owner, "k", false, &object), MCS_OK);
    assert_int_equal(object.object.payload_len, 1000);
    assert_int_equal(object.lease_ms, f->world.conf.default_kv_lease_ttl);
    assert_int_equal(object.replica[0].generation, put.put_id);
    assert_int_equal(object.replica[0].offset, put.replica[0].offset);
}

static void rights_are_macs_for_the_session_that_asked(void **state)
{
    fixture_t *f = *state;
    rpc_put_t put;
    assert_int_equal(rpc_put_one(&f->writer, "k", 1000, NULL, &put), MCS_OK);
    assert_int_equal(put.replica[0].mac, mcs_cap_mac(&f->key, f->writer.session, f->instance, put.replica[0].offset, 1000,
                                                     put.put_id, MCS_CAP_WRITE));
    rpc_end_one(&f->writer, put.put_id);
    rpc_object_t object;
    assert_int_equal(rpc_lookup(&f->owner, "k", false, &object), MCS_OK);
    assert_int_equal(object.replica[0].mac, mcs_cap_mac(&f->key, f->owner.session, f->instance, put.replica[0].offset, 1000,
                                                        put.put_id, MCS_CAP_READ));
    assert_int_equal(rpc_lookup(&f->owner, "k", true, &object), MCS_OK);
    assert_int_equal(object.replica[0].mac, 0);
    assert_int_equal(object.lease_ms, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_put_is_readable_after_its_end_and_not_before, setup, teardown),
        cmocka_unit_test_setup_teardown(rights_are_macs_for_the_session_that_asked, setup, teardown),
    };
    (void)settle;
    return cmocka_run_group_tests_name("svc_put", tests, NULL, NULL);
}
