/* The usual fixture of the service's tests with a journal, and a master that is killed and started again. */
#ifndef MCS_TESTS_JOURNAL_RESTART_H
#define MCS_TESTS_JOURNAL_RESTART_H

#include "tests/unit/journal/folder.h"
#include "tests/unit/master_service/fixture.h"

#define NAME "host-a:1"

MCS_UNUSED static folder_t g_folder;

MCS_UNUSED static int setup_journal(void **state)
{
    static fixture_t fixture;
    fixture_t *f = &fixture;
    memset(f, 0, sizeof(*f));
    folder_make(&g_folder);
    world_init(&f->world, true);
    f->world.conf.eviction_wait_ms = 0;
    f->world.conf.default_kv_lease_ttl = 4000;
    f->world.journal_dir = g_folder.path;
    world_start(&f->world);
    world_client(&f->world, &f->owner, NAME);
    world_client(&f->world, &f->writer, "host-b:1");
    f->instance = mcs_id_random();
    assert_int_equal(rpc_try_mount(&f->owner, NAME, SEGMENT, f->instance, &f->handle, &f->key), MCS_OK);
    f->world.peer = &f->owner;
    mcs_log_set_level(MCS_LOG_ERROR + 1);
    *state = f;
    return 0;
}

MCS_UNUSED static int teardown_journal(void **state)
{
    teardown(state);
    folder_drop(&g_folder);
    return 0;
}

MCS_UNUSED static void reconnect(fixture_t *f, rpc_client_t *client)
{
    snprintf(client->path, sizeof(client->path), "%s", world_path(&f->world));
    assert_int_equal(rpc_client_open(client), MCS_OK);
}

/* The owner goes on with its session; the writer has none that was kept, and opens another. */
MCS_UNUSED static void restart_alone(fixture_t *f)
{
    f->world.peer = NULL;
    rpc_client_drop_control(&f->owner);
    rpc_client_drop_call(&f->owner);
    rpc_client_fini(&f->writer);
    world_restart(&f->world);
    world_client(&f->world, &f->writer, "host-b:1");
}

MCS_UNUSED static void come_back(fixture_t *f, uint64_t high_mark)
{
    reconnect(f, &f->owner);
    assert_true(f->owner.resumed);
    f->world.peer = &f->owner;
    assert_int_equal(rpc_mount_again(&f->owner, NAME, SEGMENT, f->instance, high_mark), MCS_OK);
    world_pass(&f->world, 1100); /* steady */
}

MCS_UNUSED static void restart(fixture_t *f, uint64_t high_mark)
{
    restart_alone(f);
    come_back(f, high_mark);
}

MCS_UNUSED static const svc_record_t *record_of(fixture_t *f, const char *key)
{
    svc_index_t *index = &f->world.service->index;
    uint64_t hash = svc_index_hash(index, key, (uint32_t)strlen(key));
    svc_ref_t ref = svc_shard_find_locked(index, svc_index_shard(index, hash), hash, key, (uint32_t)strlen(key));
    return ref != 0 ? svc_record(index, ref) : NULL;
}

#endif
