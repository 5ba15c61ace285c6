/* Tasks as their executors see them: stores of this process, the real master, the fake transport. */
#include <poll.h>

#include "core/base/fault.h"
#include "tests/unit/client/embedded.h"

/* ---- stores, places, tasks ---- */

static const char *name_of(mcs_store_t *store)
{
    static char names[8][300];
    static int next;
    char *name = names[next++ % 8];
    assert_in_range(mcs_store_hostname(store, name, 300), 1, 299);
    return name;
}

static void put_in(mcs_store_t *store, const char *key, size_t len, uint32_t seed, const char *segment)
{
    uint8_t *bytes = malloc(len);
    unit_fill(bytes, len, seed);
    struct iovec iov = {bytes, len};
    mcs_value_t value = {&iov, 1};
    mcs_bytes_t name = world_key(key);
    mcs_replicate_config_t config = {
        .struct_size = sizeof(config), .preferred_segments = &segment, .preferred_segment_count = 1};
    int result = 1;
    assert_int_equal(mcs_put(store, &name, &value, 1, &config, 0, &result), 0);
    free(bytes);
}

/* Whether the object's replicas are exactly in these segments, in any order. */
static bool lies_in(mcs_store_t *store, const char *key, const char *one, const char *two)
{
    mcs_replica_info_t replicas[4];
    int count = mcs_replicas(store, world_key(key), replicas, 4);
    bool found[2] = {false, two == NULL};
    for (int i = 0; i < count && i < 4; i++) {
        found[0] = found[0] || strcmp(replicas[i].segment_name, one) == 0;
        found[1] = found[1] || (two != NULL && strcmp(replicas[i].segment_name, two) == 0);
    }
    return count == (two != NULL ? 2 : 1) && found[0] && found[1];
}

static mcs_task_info_t query(mcs_store_t *store, mcs_task_id_t id)
{
    mcs_task_info_t info;
    assert_int_equal(mcs_query_task(store, id, &info), 0);
    return info;
}

static mcs_task_info_t wait_end(mcs_store_t *store, mcs_task_id_t id)
{
    mcs_task_info_t info = query(store, id);
    for (int i = 0; i < 60000 && info.status < MCS_TASK_FAILED; i++) {
        poll(NULL, 0, 1);
        info = query(store, id);
    }
    return info;
}

/* Ends well. */
static void copy(mcs_store_t *store, const char *key, const char *target)
{
    mcs_task_id_t id;
    assert_int_equal(mcs_create_copy_task(store, world_key(key), &target, 1, &id), 0);
    mcs_task_info_t info = wait_end(store, id);
    assert_string_equal(info.message, "");
    assert_int_equal(info.status, MCS_TASK_SUCCESS);
    assert_int_equal(info.type, MCS_TASK_COPY);
}

static void move(mcs_store_t *store, const char *key, const char *source, const char *target)
{
    mcs_task_id_t id;
    assert_int_equal(mcs_create_move_task(store, world_key(key), source, target, &id), 0);
    mcs_task_info_t info = wait_end(store, id);
    assert_string_equal(info.message, "");
    assert_int_equal(info.status, MCS_TASK_SUCCESS);
    assert_int_equal(info.type, MCS_TASK_MOVE);
}

/* ---- bytes ---- */

static void copies_and_moves_have_the_bytes_over_every_path(void **state)
{
    static const size_t sizes[] = {1, 4096, (1u << 20) - 1, (5u << 20) + 3}; /* the last has a table of checksums */
    mcs_store_t *first = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *second = world_store(*state, SEGMENT_BYTES); /* mapped */
    mcs_store_t *remote = world_remote_store(*state, SEGMENT_BYTES);
    char one[300];
    char two[300];
    char three[300];
    snprintf(one, sizeof(one), "%s", name_of(first));
    snprintf(two, sizeof(two), "%s", name_of(second));
    snprintf(three, sizeof(three), "%s", name_of(remote));
    for (uint32_t k = 0; k < MCS_ARRAY_LEN(sizes); k++) {
        char key[32];
        snprintf(key, sizeof(key), "k%u", k);
        put_in(first, key, sizes[k], k, one);
        copy(remote, key, two);
        assert_true(lies_in(first, key, one, two));
        move(first, key, one, three);
        assert_true(lies_in(first, key, two, three));
        move(first, key, three, one); /* by the one that does not map */
        assert_true(lies_in(remote, key, one, two));
        move(first, key, one, three);
        assert_int_equal(world_get(first, key, sizes[k], k), sizes[k]);
        assert_int_equal(world_get(second, key, sizes[k], k), sizes[k]);
        assert_int_equal(world_get(remote, key, sizes[k], k), sizes[k]);
    }
    assert_int_equal(world_counter(first, "tasks_done") + world_counter(second, "tasks_done") +
                         world_counter(remote, "tasks_done"),
                     4 * MCS_ARRAY_LEN(sizes));
    mcs_store_destroy(first); /* what was moved out of it stays */
    for (uint32_t k = 0; k < MCS_ARRAY_LEN(sizes); k++) {
        char key[32];
        snprintf(key, sizeof(key), "k%u", k);
        assert_int_equal(world_get(second, key, sizes[k], k), sizes[k]);
    }
    mcs_store_destroy(second);
    mcs_store_destroy(remote);
}

static void bad_calls_have_their_codes(void **state)
{
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    const char *own = name_of(store);
    const char *const nothing[] = {NULL};
    mcs_task_id_t id;
    mcs_task_info_t info;
    assert_int_equal(world_put(store, "k", 100, 1), 0);
    assert_int_equal(mcs_create_copy_task(store, world_key("none"), &own, 1, &id), -704);
    assert_int_equal(mcs_create_copy_task(store, world_key("k"), &own, 1, &id), 0);
    assert_int_equal(wait_end(store, id).status, MCS_TASK_SUCCESS);
    assert_int_equal(mcs_create_copy_task(store, world_key("k"), &own, 0, &id), -600);
    assert_int_equal(mcs_create_copy_task(store, world_key("k"), &own, 17, &id), -600);
    assert_int_equal(mcs_create_copy_task(store, world_key("k"), NULL, 1, &id), -600);
    assert_int_equal(mcs_create_copy_task(store, world_key("k"), nothing, 1, &id), -600);
    assert_int_equal(mcs_create_copy_task(store, world_key("k"), &own, 1, NULL), -600);
    assert_int_equal(mcs_create_copy_task(store, world_key(""), &own, 1, &id), -600);
    assert_int_equal(mcs_create_move_task(store, world_key("k"), own, own, &id), -600);
    assert_int_equal(mcs_create_move_task(store, world_key("k"), NULL, own, &id), -600);
    assert_int_equal(mcs_create_move_task(store, world_key("k"), own, NULL, &id), -600);
    assert_int_equal(mcs_query_task(store, (mcs_task_id_t){1, 2}, &info), -1400);
    assert_int_equal(mcs_query_task(store, (mcs_task_id_t){1, 2}, NULL), -600);
    mcs_store_destroy(store);
    mcs_store_t *closed = mcs_store_create();
    assert_int_equal(mcs_create_copy_task(closed, world_key("k"), &own, 1, &id), -600);
    assert_int_equal(mcs_create_move_task(closed, world_key("k"), own, own, &id), -600);
    assert_int_equal(mcs_query_task(closed, (mcs_task_id_t){1, 2}, &info), -600);
    mcs_store_destroy(closed);
}

/* ---- readers ---- */

typedef struct reader {
    mcs_store_t *store;
    uint32_t stop; /* atomic */
    uint32_t reads;
    uint32_t wrong;
    bool in_session;
} reader_t;

#define READ_LEN 300000u

static void *read_on(void *arg)
{
    reader_t *reader = arg;
    uint8_t *bytes = malloc(READ_LEN);
    uint8_t *wanted = malloc(READ_LEN);
    mcs_bytes_t key = world_key("k");
    unit_fill(wanted, READ_LEN, 5);
    while (__atomic_load_n(&reader->stop, __ATOMIC_ACQUIRE) == 0) {
        mcs_part_t part = {.ptr = bytes, .size = READ_LEN};
        mcs_parts_list_t parts = {&part, 1};
        if (reader->in_session) {
            (void)mcs_get_session_read(reader->store, &key, &parts, 1);
        } else {
            (void)mcs_get_parts(reader->store, &key, &parts, 1);
        }
        bool right = part.result == READ_LEN && memcmp(bytes, wanted, READ_LEN) == 0;
        reader->wrong += !right;
        reader->reads++;
    }
    free(bytes);
    free(wanted);
    return NULL;
}

static void readers_notice_nothing_of_moves(void **state)
{
    mcs_store_t *first = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *second = world_remote_store(*state, SEGMENT_BYTES);
    char one[300];
    char two[300];
    reader_t readers[4];
    pthread_t threads[4];
    mcs_bytes_t key = world_key("k");
    snprintf(one, sizeof(one), "%s", name_of(first));
    snprintf(two, sizeof(two), "%s", name_of(second));
    put_in(first, "k", READ_LEN, 5, one);
    for (size_t i = 0; i < MCS_ARRAY_LEN(readers); i++) {
        mcs_store_t *store = i % 2 == 0 ? world_store(*state, 0) : world_remote_store(*state, 0);
        readers[i] = (reader_t){.store = store, .in_session = i >= 2};
        int result = 1;
        assert_int_equal(mcs_get_session_start(store, &key, 1, &result), 0);
        assert_int_equal(result, 0);
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, &readers[i]), 0);
    }
    for (int i = 0; i < 10; i++) {
        move(first, "k", i % 2 == 0 ? one : two, i % 2 == 0 ? two : one);
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(readers); i++) {
        __atomic_store_n(&readers[i].stop, 1, __ATOMIC_RELEASE);
        pthread_join(threads[i], NULL);
        assert_true(readers[i].reads > 0);
        assert_int_equal(readers[i].wrong, 0);
        mcs_store_destroy(readers[i].store);
    }
    mcs_store_destroy(second);
    mcs_store_destroy(first);
}

/* ---- what fails ---- */

static bool is_tried_again(mcs_store_t *store, mcs_task_id_t id, const char *message)
{
    for (int i = 0; i < 20000; i++) {
        mcs_task_info_t info = query(store, id);
        if (strcmp(info.message, message) == 0) {
            return true;
        }
        poll(NULL, 0, 1);
    }
    return false;
}

static void a_target_that_cannot_be_written_is_tried_until_it_can(void **state)
{
    mcs_store_t *first = world_remote_store(*state, SEGMENT_BYTES);
    mcs_store_t *second = world_remote_store(*state, SEGMENT_BYTES);
    const char *two = name_of(second);
    mcs_task_id_t id;
    put_in(first, "k", 100000, 1, name_of(first));
    fake_transport_set_all(FAKE_HOLDER_DEAD);
    assert_int_equal(mcs_create_copy_task(first, world_key("k"), &two, 1, &id), 0);
    assert_true(is_tried_again(first, id, "another try after TRANSFER_FAIL"));
    fake_transport_set_all(FAKE_HOLDER_FINE);
    assert_true(lies_in(first, "k", name_of(first), NULL) || lies_in(first, "k", name_of(first), two));
    assert_int_equal(wait_end(first, id).status, MCS_TASK_SUCCESS);
    assert_true(lies_in(first, "k", name_of(first), two));
    assert_true(world_counter(first, "task_failures") > 0);
    mcs_store_destroy(second);
    mcs_store_destroy(first);
}

/* Stores that got no answer are in doubt: what they may still write to is not given out again (rule 5). */
static void a_stopped_target_does_not_stop_the_executor(void **state)
{
    mcs_store_t *first = world_remote_store(*state, SEGMENT_BYTES);
    mcs_store_t *second = world_remote_store(*state, SEGMENT_BYTES);
    const char *two = name_of(second);
    mcs_task_id_t id;
    put_in(first, "k", 100000, 1, name_of(first));
    fake_transport_set_all(FAKE_HOLDER_STOPPED);
    assert_int_equal(mcs_create_copy_task(first, world_key("k"), &two, 1, &id), 0);
    assert_true(is_tried_again(first, id, "another try after TRANSFER_FAIL"));
    fake_transport_set_all(FAKE_HOLDER_FINE);
    assert_int_equal(wait_end(first, id).status, MCS_TASK_SUCCESS);
    assert_int_equal(world_get(second, "k", 100000, 1), 100000);
    mcs_store_destroy(second);
    mcs_store_destroy(first);
}

static void a_source_that_has_decayed_is_not_copied(void **state)
{
    mcs_store_t *first = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *second = world_store(*state, SEGMENT_BYTES);
    const char *two = name_of(second);
    mcs_bytes_t key = world_key("k");
    mcs_handle_t *handle;
    int64_t size;
    mcs_task_id_t id;
    put_in(first, "k", 100000, 1, name_of(first));
    assert_int_equal(mcs_get_handles(first, &key, 1, &handle, &size), 0);
    assert_int_equal(size, 100000);
    assert_true(mcs_handle_readonly(handle)); /* the segment itself */
    ((uint8_t *)mcs_handle_ptr(handle))[777] ^= 1;
    mcs_handle_release(handle);
    assert_int_equal(mcs_create_copy_task(first, key, &two, 1, &id), 0);
    assert_true(is_tried_again(first, id, "another try after CHECKSUM_MISMATCH"));
    assert_true(lies_in(first, "k", name_of(first), NULL));
    assert_true(world_counter(first, "crc_errors") > 0);
    mcs_store_destroy(second);
    mcs_store_destroy(first);
}

static void a_store_that_closes_in_the_middle_of_tasks_loses_no_object_of_others(void **state)
{
    mcs_store_t *first = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *second = world_remote_store(*state, SEGMENT_BYTES);
    char one[300];
    char name[300];
    const char *two = name;
    enum { COUNT = 64 };
    snprintf(one, sizeof(one), "%s", name_of(first));
    snprintf(name, sizeof(name), "%s", name_of(second));
    mcs_task_id_t ids[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%u", i);
        put_in(second, key, 50000, i, one);
        assert_int_equal(mcs_create_copy_task(second, world_key(key), &two, 1, &ids[i]), 0);
    }
    mcs_store_destroy(first);
    uint32_t copied = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        char key[16];
        snprintf(key, sizeof(key), "k%u", i);
        int status = wait_end(second, ids[i]).status;
        int64_t got = world_get(second, key, 50000, i);
        assert_true(got == 50000 || got == -704);
        assert_true(status != MCS_TASK_SUCCESS || got == 50000);
        copied += got == 50000;
    }
    assert_int_equal(world_put(second, "new", 1000, 1), 0);
    assert_int_equal(world_get(second, "new", 1000, 1), 1000);
    assert_true(copied <= COUNT);
    mcs_store_destroy(second);
}

/* ---- grace periods ---- */

static void a_segment_is_let_go_when_its_grace_is_over(void **state)
{
    mcs_store_t *store = world_store(*state, SEGMENT_BYTES);
    mcs_segment_id_t id;
    assert_int_equal(mcs_mount_memory(store, 16 << 20, -1, &id), 0);
    assert_int_equal(world_counter(store, "owner_segments"), 2);
    assert_int_equal(mcs_unmount_memory(store, id, 3600), 0);
    assert_int_equal(world_counter(store, "owner_segments"), 2);
    assert_int_equal(mcs_unmount_memory(store, id, 1), 0); /* sooner */
    for (int i = 0; i < 20000 && world_counter(store, "owner_segments") == 2; i++) {
        poll(NULL, 0, 1);
    }
    assert_int_equal(world_counter(store, "owner_segments"), 1);
    assert_int_equal(mcs_unmount_memory(store, id, 0), -101);
    assert_int_equal(mcs_mount_memory(store, 16 << 20, -1, &id), 0);
    assert_int_equal(mcs_unmount_memory(store, id, 3600), 0);
    assert_int_equal(mcs_unmount_memory(store, id, 0), 0); /* at once, after all */
    assert_int_equal(world_counter(store, "owner_segments"), 1);
    assert_int_equal(mcs_unmount_memory(store, id, 0), -101);
    mcs_store_destroy(store);
}

/* ---- torture ---- */

/* Which of the two it lies in when nothing works on it any more. */
static int settled(mcs_store_t *store, char names[2][300])
{
    for (int i = 0; i < 20000; i++) {
        for (int k = 0; k < 2; k++) {
            if (lies_in(store, "k", names[k], NULL)) {
                return k;
            }
        }
        poll(NULL, 0, 1);
    }
    fail_msg("the object is in no place, or in two");
    return -1;
}

static void no_lost_allocation_costs_an_object(void **state)
{
    mcs_store_t *first = world_store(*state, SEGMENT_BYTES);
    mcs_store_t *second = world_remote_store(*state, SEGMENT_BYTES);
    char names[2][300];
    snprintf(names[0], 300, "%s", name_of(first));
    snprintf(names[1], 300, "%s", name_of(second));
    put_in(first, "k", 100000, 1, names[0]);
    mcs_log_set_level(MCS_LOG_OFF);
    for (uint64_t nth = 2; nth <= 40; nth += 3) { /* of the caller's, the executor's or the master's */
        mcs_task_id_t id = {0, 0};
        int at = settled(first, names);
        mcs_fault_arm(MCS_FAULT_ALLOC, nth);
        int code = mcs_create_move_task(first, world_key("k"), names[at], names[!at], &id);
        for (int i = 0; code == 0 && i < 50 && !mcs_fault_fired(MCS_FAULT_ALLOC); i++) {
            poll(NULL, 0, 1);
        }
        mcs_fault_arm(MCS_FAULT_ALLOC, 0);
        if (code == 0) {
            (void)wait_end(first, id); /* a task whose answer was lost may have been quicker */
        }
        (void)settled(first, names);
        assert_int_equal(world_get(first, "k", 100000, 1), 100000);
    }
    mcs_store_destroy(second);
    mcs_store_destroy(first);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, embedded_set_up, embedded_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(copies_and_moves_have_the_bytes_over_every_path),
        TEST(bad_calls_have_their_codes),
        TEST(readers_notice_nothing_of_moves),
        TEST(a_target_that_cannot_be_written_is_tried_until_it_can),
        TEST(a_stopped_target_does_not_stop_the_executor),
        TEST(a_source_that_has_decayed_is_not_copied),
        TEST(a_store_that_closes_in_the_middle_of_tasks_loses_no_object_of_others),
        TEST(a_segment_is_let_go_when_its_grace_is_over),
        TEST(no_lost_allocation_costs_an_object),
    };
    return cmocka_run_group_tests_name("tasks", tests, NULL, NULL);
}
