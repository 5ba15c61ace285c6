/* What the tests of the whole client share: a mini master, the fake transport, stores of this process. Header only. */
#ifndef MCS_TESTS_CLIENT_WORLD_H
#define MCS_TESTS_CLIENT_WORLD_H

#include <pthread.h>
#include <stdlib.h>

#include "core/base/rng.h"
#include "core/client/parts.h"
#include "mcstore/mcstore.h"
#include "tests/support/fake_transport.h"
#include "tests/support/mini_master.h"
#include "tests/support/unit.h"

#define SEGMENT_BYTES ((uint64_t)64 << 20)
#define BUFFER_BYTES  ((uint64_t)16 << 20)

typedef struct world {
    mini_master_t *master; /* NULL: another one, at `address` */
    char address[256];
    char dir[64];
    /* Of the filter: guarded by the lock. */
    pthread_mutex_t lock;
    mcs_verb_t verb;
    int left; /* requests of the verb that the action is for */
    fake_action_t action;
    mcs_status_t status;
    void (*meanwhile)(void *arg); /* NULL, or called before such a request is answered, without the lock */
    void *meanwhile_arg;
} world_t;

MCS_UNUSED static fake_action_t world_filter(void *arg, const fake_request_t *request, fake_answer_t *answer)
{
    world_t *world = arg;
    fake_action_t action = FAKE_DEFAULT;
    void (*meanwhile)(void *arg) = NULL;
    pthread_mutex_lock(&world->lock);
    if (world->left > 0 && request->header.verb == world->verb) {
        world->left--;
        action = world->action;
        answer->status = world->status;
        meanwhile = world->meanwhile;
    }
    pthread_mutex_unlock(&world->lock);
    if (meanwhile != NULL) {
        meanwhile(world->meanwhile_arg);
    }
    return action;
}

/* The next `count` requests of a verb. */
MCS_UNUSED static void world_script(world_t *world, mcs_verb_t verb, int count, fake_action_t action,
                                    mcs_status_t status)
{
    pthread_mutex_lock(&world->lock);
    world->verb = verb;
    world->left = count;
    world->action = action;
    world->status = status;
    pthread_mutex_unlock(&world->lock);
}

MCS_UNUSED static int world_left(world_t *world)
{
    pthread_mutex_lock(&world->lock);
    int left = world->left;
    pthread_mutex_unlock(&world->lock);
    return left;
}

/* Everything but the master. */
MCS_UNUSED static world_t *world_make(void)
{
    world_t *world = calloc(1, sizeof(*world));
    pthread_mutex_init(&world->lock, NULL);
    snprintf(world->dir, sizeof(world->dir), "/tmp/mcs-world-XXXXXX");
    assert_non_null(mkdtemp(world->dir));
    mcs_log_set_level(MCS_LOG_ERROR);
    setenv("MC_STORE_IPC_DIR", world->dir, 1);
    setenv("MC_STORE_MEMCPY", "1", 1);
    setenv("MC_TRANSFER_TIMEOUT", "1", 1);
    setenv("MC_RPC_TIMEOUT_MS", "4000", 1);
    setenv("MC_STORE_CLIENT_MIN_PORT", "21400", 1);
    setenv("MC_STORE_CLIENT_MAX_PORT", "21999", 1);
    mcs_parts_t parts = {.transport = &fake_transport_ops};
    mcs_parts_set(&parts);
    fake_transport_set_all(FAKE_HOLDER_FINE);
    return world;
}

MCS_UNUSED static void world_end(world_t *world)
{
    pthread_mutex_destroy(&world->lock);
    rmdir(world->dir);
    free(world);
}

MCS_UNUSED static int world_set_up(void **state)
{
    world_t *world = world_make();
    world->master = mini_master_start(world_filter, world);
    snprintf(world->address, sizeof(world->address), "%s", mini_master_address(world->master));
    *state = world;
    return 0;
}

MCS_UNUSED static int world_tear_down(void **state)
{
    world_t *world = *state;
    mini_master_stop(world->master);
    world_end(world);
    return 0;
}

MCS_UNUSED static mcs_setup_t world_setup(world_t *world, uint64_t segment_bytes)
{
    return (mcs_setup_t){.struct_size = sizeof(mcs_setup_t),
                         .local_hostname = "localhost",
                         .metadata_server = "P2PHANDSHAKE",
                         .global_segment_size = segment_bytes,
                         .local_buffer_size = BUFFER_BYTES,
                         .protocol = "tcp",
                         .master_server_addr = world->address};
}

MCS_UNUSED static mcs_store_t *world_store(world_t *world, uint64_t segment_bytes)
{
    mcs_store_t *store = mcs_store_create();
    mcs_setup_t setup = world_setup(world, segment_bytes);
    assert_non_null(store);
    assert_int_equal(mcs_store_setup(store, &setup), 0);
    return store;
}

/* Through the transport only. */
MCS_UNUSED static mcs_store_t *world_remote_store(world_t *world, uint64_t segment_bytes)
{
    setenv("MC_STORE_MEMCPY", "0", 1);
    mcs_store_t *store = world_store(world, segment_bytes);
    setenv("MC_STORE_MEMCPY", "1", 1);
    return store;
}

/* ---- values ---- */

MCS_UNUSED static mcs_bytes_t world_key(const char *text)
{
    return (mcs_bytes_t){text, strlen(text)};
}

MCS_UNUSED static int world_put(mcs_store_t *store, const char *key, size_t len, uint32_t seed)
{
    uint8_t *bytes = malloc(len);
    unit_fill(bytes, len, seed);
    struct iovec iov = {bytes, len};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t name = world_key(key);
    int result = 1;
    int rc = mcs_put(store, &name, &value, 1, NULL, 0, &result);
    assert_int_equal(rc == 0 || rc == result, 1);
    free(bytes);
    return result;
}

/* The size when the bytes are right, or a negative code; fails the test when they are wrong. */
MCS_UNUSED static int64_t world_get(mcs_store_t *store, const char *key, size_t len, uint32_t seed)
{
    uint8_t *bytes = malloc(len);
    uint8_t *wanted = malloc(len);
    memset(bytes, 0xee, len);
    struct iovec iov = {bytes, len};
    mcs_value_t buffer = {&iov, 1};
    mcs_bytes_t name = world_key(key);
    int64_t result = 1;
    (void)mcs_get_into(store, &name, &buffer, 1, &result);
    if (result >= 0) {
        unit_fill(wanted, (size_t)result, seed);
        assert_memory_equal(bytes, wanted, (size_t)result);
    }
    free(wanted);
    free(bytes);
    return result;
}

typedef struct world_counter {
    const char *name;
    uint64_t value;
    bool found;
} world_counter_t;
MCS_UNUSED static void world_count_one(void *arg, const char *name, uint64_t value)
{
    world_counter_t *counter = arg;
    if (strcmp(name, counter->name) == 0) {
        counter->value = value;
        counter->found = true;
    }
}
MCS_UNUSED static uint64_t world_counter(mcs_store_t *store, const char *name)
{
    world_counter_t counter = {.name = name};
    mcs_store_counters(store, world_count_one, &counter);
    assert_true(counter.found);
    return counter.value;
}

#endif
