/* The usual fixture, and a second owner with a segment: what tasks need. */
#ifndef MCS_TESTS_TASK_FIXTURE_H
#define MCS_TESTS_TASK_FIXTURE_H

#include "tests/support/rpc_tasks.h"
#include "tests/unit/master_service/fixture.h"

#define A "host-a:1"
#define B "host-b:1"
#define C "host-c:1"

enum { PENDING, PROCESSING, SUCCESS, FAILED };

typedef struct tasks {
    fixture_t *f; /* f->owner has A; f->writer has none */
    rpc_client_t other;
    uint32_t handle; /* of C */
    mcs_mac_key_t key;
    mcs_id_t instance;
} tasks_t;

/* Both owners answer while somebody waits. */
MCS_UNUSED static void tasks_tick(void *arg)
{
    tasks_t *t = arg;
    world_tick(&t->f->world);
    rpc_pump(&t->other, 0);
}

MCS_UNUSED static void tasks_passing(void *arg)
{
    tasks_t *t = arg;
    world_passing(&t->f->world);
    rpc_pump(&t->other, 0);
}

MCS_UNUSED static void tasks_idle(tasks_t *t, void (*idle)(void *arg))
{
    rpc_client_t *clients[] = {&t->f->owner, &t->f->writer, &t->other};
    for (size_t i = 0; i < MCS_ARRAY_LEN(clients); i++) {
        clients[i]->idle = idle;
        clients[i]->idle_arg = t;
    }
}

MCS_UNUSED static int tasks_setup_with(void **state, void (*change)(mcs_master_config_t *conf))
{
    static tasks_t tasks;
    memset(&tasks, 0, sizeof(tasks));
    setup_with((void **)&tasks.f, change);
    world_client(&tasks.f->world, &tasks.other, C);
    tasks.instance = mcs_id_random();
    assert_int_equal(rpc_try_mount(&tasks.other, C, SEGMENT, tasks.instance, &tasks.handle, &tasks.key), MCS_OK);
    tasks_idle(&tasks, tasks_tick);
    *state = &tasks;
    return 0;
}

MCS_UNUSED static int tasks_setup(void **state)
{
    return tasks_setup_with(state, NULL);
}

MCS_UNUSED static int tasks_teardown(void **state)
{
    tasks_t *t = *state;
    rpc_client_fini(&t->other);
    void *f = t->f;
    return teardown(&f);
}

/* Stored in one segment. */
MCS_UNUSED static void store_in(tasks_t *t, const char *key, uint64_t size, const char *segment)
{
    const char *preferred[] = {segment};
    rpc_put_options_t options = {.preferred = preferred, .preferred_count = 1};
    assert_int_equal(rpc_store(&t->f->writer, key, size, &options), MCS_OK);
}

/* Time passes with heartbeats of all three. */
MCS_UNUSED static void pass(tasks_t *t, uint64_t ms)
{
    while (ms > 0) {
        uint64_t step = MCS_MIN(ms, (uint64_t)4000);
        world_pass(&t->f->world, step);
        assert_int_equal(rpc_ping(&t->f->owner), MCS_OK);
        assert_int_equal(rpc_ping(&t->f->writer), MCS_OK);
        assert_int_equal(rpc_ping(&t->other), MCS_OK);
        ms -= step;
    }
}

/* Bytes in use when everything that can come back is back. */
MCS_UNUSED static uint64_t tasks_settle(tasks_t *t)
{
    rpc_client_t *clients[] = {&t->f->owner, &t->f->writer, &t->other};
    return world_settle(&t->f->world, clients, 3);
}

/* Which segments readers are sent to, as a text of letters; "" = not readable. No lease. */
MCS_UNUSED static const char *places(tasks_t *t, const char *key)
{
    static char text[MCS_REPLICAS_MAX + 1];
    rpc_object_t object;
    uint32_t n = 0;
    if (rpc_lookup(&t->f->writer, key, true, &object) == MCS_OK) {
        for (uint32_t i = 0; i < object.object.replica_count; i++) {
            uint32_t handle = object.replica[i].segment;
            text[n++] = handle == t->f->handle ? 'a' : handle == t->handle ? 'c' : '?';
        }
    }
    text[n] = '\0';
    return text;
}

/* Ticks until the client has been told of tasks, or (false) nothing came of it. */
MCS_UNUSED static bool is_told(tasks_t *t, rpc_client_t *client)
{
    uint64_t before = client->tasks_told;
    for (int i = 0; i < 1000 && client->tasks_told == before; i++) {
        world_tick(&t->f->world);
        rpc_pump(client, 1);
    }
    return client->tasks_told != before;
}

/* The task is fetched by the client. */
MCS_UNUSED static rpc_task_t fetch_one(rpc_client_t *client)
{
    rpc_task_t task;
    assert_int_equal(rpc_fetch_tasks(client, 1, &task), 1);
    return task;
}

#endif
