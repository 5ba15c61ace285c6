/* Rules 2, 3 and 6 at full speed in one process, where the thread sanitizer watches: puts of both ways (slots and
 * served) are revoked in the middle or committed, read by both ways, given back and overwritten by the next tenant at
 * once. A byte that changes under a reader or a tenant is a wrong word here, and a data race there. */
#include <sched.h>

#include "tests/unit/segment/world.h"

#define PLACES      4u
#define MASTERS     2u
#define ROUNDS      150u
#define LEN         (MCS_MIB + 4096) /* two pieces when it is served */
#define PLACE_BYTES (2 * MCS_MIB)
#define GENERATIONS (MASTERS * ROUNDS * 2 + 2)

typedef struct place {
    uint64_t job;       /* atomic: generation to be written, 0 = none */
    uint64_t done;      /* atomic: the writer has let go of it */
    uint32_t status;    /* atomic: how that went */
    uint64_t published; /* atomic: generation that may be read */
} place_t;

typedef struct arena {
    world_t *world;
    place_t places[PLACES];
    uint8_t is_free[GENERATIONS + 1]; /* atomic: the owner has answered */
    uint64_t generation;              /* atomic */
    uint32_t stop;                    /* atomic */
    uint64_t wrong;                   /* atomic: what must not be */
    uint64_t reads;                   /* atomic */
    uint64_t revoked_in_time;         /* atomic: puts that met their revocation */
} arena_t;

static arena_t g_arena;

static void note_wrong(bool wrong)
{
    if (wrong) {
        __atomic_add_fetch(&g_arena.wrong, 1, __ATOMIC_RELAXED);
    }
}

static void on_released(void *arg, const uint64_t *generations, uint32_t count)
{
    (void)arg;
    for (uint32_t i = 0; i < count; i++) {
        __atomic_store_n(&g_arena.is_free[generations[i]], 1, __ATOMIC_RELEASE);
    }
}

static uint64_t offset_of(size_t place)
{
    return place * PLACE_BYTES;
}

static void fill_words(void *bytes, uint64_t len, uint64_t generation)
{
    uint64_t *words = bytes;
    uint64_t count = len / sizeof(uint64_t);
    for (uint64_t i = 0; i < count; i++) {
        words[i] = generation;
        if (i == count / 2) {
            sched_yield(); /* for whoever wants to do something meanwhile */
        }
    }
}

static bool has_words(const void *bytes, uint64_t len, uint64_t generation)
{
    const uint64_t *words = bytes;
    for (uint64_t i = 0; i < len / sizeof(uint64_t); i++) {
        if (words[i] != generation) {
            return false;
        }
    }
    return true;
}

/* ---- puts ---- */

static mcs_status_t put_by_slot(uint64_t offset, uint64_t generation)
{
    mcs_pin_t pin;
    mcs_status_t status = mcs_pin_write(g_arena.world->own, offset, generation, LEN, world_hash(generation), &pin);
    if (status == MCS_OK) {
        fill_words(pin.payload, LEN, generation);
        status = mcs_pin_seal(&pin);
        mcs_unpin(&pin);
    }
    return status;
}

static mcs_status_t serve_piece(mcs_access_t access, uint64_t from, uint64_t len)
{
    const mcs_owner_ops_t *ops = &mcs_owner_serve_ops;
    access.from = from;
    access.len = len;
    mcs_hold_t hold;
    mcs_status_t status = ops->write_begin(g_arena.world->owner, &access, &hold);
    if (status == MCS_OK) {
        fill_words(hold.bytes, len, access.generation);
        uint32_t crc = 0;
        status = ops->write_end(g_arena.world->owner, &hold, MCS_OK, &crc, 1);
    }
    return status;
}

static mcs_status_t put_served(uint64_t offset, uint64_t generation)
{
    mcs_access_t access = world_access(g_arena.world, MCS_CAP_WRITE, offset, generation, LEN);
    mcs_status_t status = serve_piece(access, MCS_MIB, LEN - MCS_MIB);
    return status == MCS_OK ? serve_piece(access, 0, MCS_MIB) : status;
}

static void *writer_main(void *arg)
{
    size_t place = *(const size_t *)arg;
    place_t *mine = &g_arena.places[place];
    uint64_t last = 0;
    while (__atomic_load_n(&g_arena.stop, __ATOMIC_ACQUIRE) == 0) {
        uint64_t generation = __atomic_load_n(&mine->job, __ATOMIC_ACQUIRE);
        if (generation == last) {
            sched_yield();
            continue;
        }
        last = generation;
        mcs_status_t status =
            place % 2 == 0 ? put_by_slot(offset_of(place), generation) : put_served(offset_of(place), generation);
        note_wrong(status != MCS_OK && status != MCS_ERR_REPLICA_IS_GONE);
        __atomic_store_n(&mine->status, (uint32_t)status, __ATOMIC_RELAXED);
        __atomic_store_n(&mine->done, generation, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* ---- gets ---- */

static bool read_by_slot(uint64_t offset, uint64_t generation)
{
    mcs_pin_t pin;
    if (mcs_pin_read(g_arena.world->own, offset, generation, LEN, world_hash(generation), &pin) != MCS_OK) {
        return false;
    }
    note_wrong(!has_words(pin.payload, LEN, generation));
    sched_yield();
    note_wrong(!has_words(pin.payload, LEN, generation));
    mcs_unpin(&pin);
    return true;
}

static bool read_served(uint64_t offset, uint64_t generation)
{
    const mcs_owner_ops_t *ops = &mcs_owner_serve_ops;
    mcs_access_t access = world_access(g_arena.world, MCS_CAP_READ, offset, generation, LEN);
    mcs_hold_t hold;
    if (ops->read_begin(g_arena.world->owner, &access, &hold) != MCS_OK) {
        return false;
    }
    note_wrong(!has_words(hold.bytes, LEN, generation));
    sched_yield();
    note_wrong(!has_words(hold.bytes, LEN, generation));
    ops->read_end(g_arena.world->owner, &hold);
    return true;
}

static void *reader_main(void *arg)
{
    bool served = arg != NULL;
    for (size_t place = 0; __atomic_load_n(&g_arena.stop, __ATOMIC_ACQUIRE) == 0; place = (place + 1) % PLACES) {
        uint64_t generation = __atomic_load_n(&g_arena.places[place].published, __ATOMIC_ACQUIRE);
        if (generation == 0) {
            sched_yield();
            continue;
        }
        bool read = served ? read_served(offset_of(place), generation) : read_by_slot(offset_of(place), generation);
        __atomic_add_fetch(&g_arena.reads, read ? 1 : 0, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* ---- the master's part ---- */

/* False: for ever. */
static bool give_back(size_t place, uint64_t generation, uint32_t flags)
{
    world_release(g_arena.world, offset_of(place), generation, LEN, flags);
    uint64_t give_up = mcs_now_ns() + 20 * MCS_NS_PER_SEC;
    while (__atomic_load_n(&g_arena.is_free[generation], __ATOMIC_ACQUIRE) == 0) {
        if (mcs_now_ns() > give_up) {
            return false;
        }
        sched_yield();
    }
    return true;
}

static void wait_done(const place_t *place, uint64_t generation)
{
    while (__atomic_load_n(&place->done, __ATOMIC_ACQUIRE) != generation) {
        sched_yield();
    }
}

/* The next object in the same place; nobody else touches it. */
static void be_tenant(size_t place)
{
    uint64_t generation = __atomic_add_fetch(&g_arena.generation, 1, __ATOMIC_RELAXED);
    note_wrong(put_by_slot(offset_of(place), generation) != MCS_OK);
    sched_yield();
    note_wrong(!read_by_slot(offset_of(place), generation));
    note_wrong(!give_back(place, generation, 0));
}

static void play_round(size_t place, uint64_t seed)
{
    place_t *mine = &g_arena.places[place];
    uint64_t generation = __atomic_add_fetch(&g_arena.generation, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&mine->job, generation, __ATOMIC_RELEASE);
    if ((seed & 1) == 0) {
        wait_done(mine, generation);
        note_wrong(__atomic_load_n(&mine->status, __ATOMIC_RELAXED) != MCS_OK);
        __atomic_store_n(&mine->published, generation, __ATOMIC_RELEASE);
        for (uint64_t i = 0; i < (seed >> 8) % 64; i++) {
            sched_yield();
        }
        __atomic_store_n(&mine->published, 0, __ATOMIC_RELEASE);
        note_wrong(!give_back(place, generation, 0));
    } else {
        for (uint64_t i = 0; i < (seed >> 8) % 16; i++) {
            sched_yield();
        }
        note_wrong(!give_back(place, generation, MCS_RELEASE_MAY_WRITE));
    }
    be_tenant(place);
    wait_done(mine, generation); /* acknowledged */
    if (__atomic_load_n(&mine->status, __ATOMIC_RELAXED) == (uint32_t)MCS_ERR_REPLICA_IS_GONE) {
        __atomic_add_fetch(&g_arena.revoked_in_time, 1, __ATOMIC_RELAXED);
    }
    mcs_owner_forget(g_arena.world->owner, &generation, 1);
}

static void *master_main(void *arg)
{
    size_t number = *(const size_t *)arg;
    uint64_t seed = number + 11;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        play_round(number * (PLACES / MASTERS) + round % (PLACES / MASTERS), seed >> 20);
    }
    return NULL;
}

static void nobody_who_has_an_extent_sees_it_change(void **state)
{
    (void)state;
    static size_t numbers[PLACES] = {0, 1, 2, 3};
    world_t *world = world_open(PLACES * PLACE_BYTES);
    memset(&g_arena, 0, sizeof(g_arena));
    g_arena.world = world;
    world->also = on_released;
    pthread_t writers[PLACES], readers[2], masters[MASTERS];
    for (size_t i = 0; i < PLACES; i++) {
        assert_int_equal(pthread_create(&writers[i], NULL, writer_main, &numbers[i]), 0);
    }
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&readers[i], NULL, reader_main, i == 0 ? NULL : &g_arena), 0);
    }
    for (size_t i = 0; i < MASTERS; i++) {
        assert_int_equal(pthread_create(&masters[i], NULL, master_main, &numbers[i]), 0);
    }
    for (size_t i = 0; i < MASTERS; i++) {
        pthread_join(masters[i], NULL);
    }
    __atomic_store_n(&g_arena.stop, 1, __ATOMIC_RELEASE);
    for (size_t i = 0; i < PLACES; i++) {
        pthread_join(writers[i], NULL);
    }
    for (size_t i = 0; i < 2; i++) {
        pthread_join(readers[i], NULL);
    }
    assert_int_equal(g_arena.wrong, 0);
    assert_true(g_arena.reads > 0);
    assert_true(g_arena.revoked_in_time > 0);
    mcs_owner_stats_t stats = world_stats(world);
    assert_int_equal(stats.pending_releases, 0);
    assert_int_equal(stats.holds, 0);
    assert_int_equal(stats.revoked, 0);
    assert_int_equal(stats.released_total, MASTERS * ROUNDS * 2);
    world_close(world);
}

/* ---- a place that is no header any more ---- */

#define SMALL_AT  (64 * (uint64_t)1024)
#define SMALL_LEN UINT64_C(100)

typedef struct overwriter {
    world_t *world;
    uint32_t began; /* atomic */
    uint32_t done;  /* atomic: every byte is there; relaxed, so that nothing orders the bytes before who looks there */
} overwriter_t;

/* Fills an extent that begins before the place of one given back, with what makes its state and length look right. */
static void *overwriter_main(void *arg)
{
    overwriter_t *overwriter = arg;
    mcs_pin_t pin;
    assert_int_equal(mcs_pin_write(overwriter->world->own, 0, 2, LEN, world_hash(2), &pin), MCS_OK);
    __atomic_store_n(&overwriter->began, 1, __ATOMIC_RELAXED);
    uint32_t *words = pin.payload;
    for (uint32_t round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < LEN / sizeof(*words); i++) {
            words[i] = round % 2 == 0 ? (uint32_t)MCS_EXTENT_WRITTEN : (uint32_t)SMALL_LEN;
        }
    }
    __atomic_store_n(&overwriter->done, 1, __ATOMIC_RELAXED);
    assert_int_equal(mcs_pin_seal(&pin), MCS_OK);
    mcs_unpin(&pin);
    return NULL;
}

/* Rule 4. A reader's descriptor may be older than the place it names: what was there is given back, and the bytes of
 * another value lie there, or are just being written. */
static void bytes_in_the_place_of_a_header_are_no_value(void **state)
{
    (void)state;
    const mcs_owner_ops_t *ops = &mcs_owner_serve_ops;
    world_t *world = world_open(2 * PLACE_BYTES);
    assert_int_equal(world_put(world->own, SMALL_AT, 1, SMALL_LEN), MCS_OK);
    assert_int_equal(world_get(world->own, SMALL_AT, 1, SMALL_LEN), MCS_OK);
    world_release(world, SMALL_AT, 1, SMALL_LEN, 0);
    world_await(world_times_released(world, 1) == 1);
    overwriter_t overwriter = {.world = world};
    mcs_access_t access = world_access(world, MCS_CAP_READ, SMALL_AT, 1, SMALL_LEN);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, overwriter_main, &overwriter), 0);
    while (__atomic_load_n(&overwriter.began, __ATOMIC_RELAXED) == 0) {
        sched_yield();
    }
    for (bool last = false; !last;) {
        last = __atomic_load_n(&overwriter.done, __ATOMIC_RELAXED) != 0;
        mcs_hold_t hold;
        assert_int_equal(world_get(world->own, SMALL_AT, 1, SMALL_LEN), MCS_ERR_REPLICA_IS_GONE);
        assert_int_equal(ops->read_begin(world->owner, &access, &hold), MCS_ERR_REPLICA_IS_GONE);
    }
    pthread_join(thread, NULL);
    world_close(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_who_has_an_extent_sees_it_change),
        cmocka_unit_test(bytes_in_the_place_of_a_header_are_no_value),
    };
    return cmocka_run_group_tests_name("segment/race", tests, NULL, NULL);
}
