/* The slab and the index: against a naive model, through growth and churn, and what a key costs. */
#include "tests/unit/master_service/world.h"

#include "core/base/alloc.h"

/* ---- slab ---- */

static void slab_items_are_apart_and_come_back(void **state)
{
    (void)state;
    svc_slab_t slab;
    enum { N = 20000 };
    static svc_ref_t refs[N];
    static uint32_t sizes[N];
    assert_int_equal(svc_slab_init(&slab), MCS_OK);
    uint64_t seed = 7;
    for (int round = 0; round < 3; round++) {
        for (uint32_t i = 0; i < N; i++) {
            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
            sizes[i] = (uint32_t)((seed >> 33) % (i % 16 == 0 ? SVC_SLAB_MAX : 300) + 1);
            refs[i] = svc_slab_alloc(&slab, i, sizes[i]);
            assert_int_not_equal(refs[i], 0);
            memset(svc_slab_ptr(&slab, refs[i]), (int)(i & 0xff), sizes[i]);
        }
        for (uint32_t i = 0; i < N; i++) {
            const uint8_t *bytes = svc_slab_ptr(&slab, refs[i]);
            assert_int_equal((uintptr_t)bytes % 16, 0);
            assert_int_equal(bytes[0], i & 0xff);
            assert_int_equal(bytes[sizes[i] - 1], i & 0xff);
        }
        for (uint32_t i = 0; i < N; i++) {
            svc_slab_free(&slab, refs[(i * 7919) % N]);
        }
        assert_true(svc_slab_bytes(&slab) <= 2 * SVC_SLAB_CHUNK); /* empty chunks went back to the heap */
    }
    assert_int_equal(svc_slab_alloc(&slab, 0, SVC_SLAB_MAX + 1), 0);
    svc_slab_fini(&slab);
}

/* ---- index ---- */

typedef struct model_entry {
    svc_ref_t ref;
    uint32_t key;
    bool there;
} model_entry_t;

static uint32_t key_text(uint32_t key, char *text)
{
    return (uint32_t)snprintf(text, 64, "key-%u-%.*s", key, (int)(key % 40),
                              "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
}

static void random_operations_agree_with_a_model(void **state)
{
    (void)state;
    enum { KEYS = 30000, STEPS = 300000 };
    static model_entry_t model[KEYS];
    svc_index_t index;
    memset(model, 0, sizeof(model));
    assert_int_equal(svc_index_init(&index, 1, 0), MCS_OK);
    uint64_t seed = 3;
    uint64_t count = 0;
    for (uint32_t step = 0; step < STEPS; step++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        /* Phases of growing and of shrinking. */
        bool grow = step / 50000 % 2 == 0;
        uint32_t k = (uint32_t)(seed >> 33) % KEYS;
        bool insert = (seed >> 20) % 10 < (grow ? 8 : 2);
        char key[64];
        uint32_t len = key_text(k, key);
        uint64_t hash = svc_index_hash(&index, key, len);
        svc_shard_t *shard = svc_index_shard(&index, hash);
        mcs_mutex_lock(&shard->lock);
        svc_ref_t found = svc_shard_find_locked(&index, shard, hash, key, len);
        assert_int_equal(found, model[k].there ? model[k].ref : 0);
        if (insert && !model[k].there) {
            svc_ref_t ref = svc_record_create(&index, shard, key, len, 1, k % 3 == 0 ? SVC_REC_SOFT_FIELD : 0);
            assert_int_not_equal(ref, 0);
            assert_int_equal(svc_shard_insert_locked(&index, shard, hash, ref), MCS_OK);
            svc_recency_set_locked(&index, shard, ref, k % 2 == 0 ? SVC_LIST_PLAIN : SVC_LIST_SOFT);
            model[k] = (model_entry_t){ref, k, true};
            count++;
        } else if (!insert && model[k].there) {
            svc_shard_remove_locked(&index, shard, found);
            svc_record_destroy(&index, found);
            model[k].there = false;
            count--;
        } else if (model[k].there) {
            svc_recency_set_locked(&index, shard, found, SVC_LIST_LEASED);
        }
        mcs_mutex_unlock(&shard->lock);
    }
    assert_int_equal(index.objects, count);
    uint64_t walked = 0;
    uint64_t listed = 0;
    for (uint32_t s = 0; s < SVC_SHARDS; s++) {
        svc_shard_t *shard = &index.shards[s];
        uint32_t at = UINT32_MAX;
        uint32_t version = 0;
        mcs_mutex_lock(&shard->lock);
        while (svc_shard_walk_locked(shard, &at, &version) != 0) {
            walked++;
        }
        for (int l = SVC_LIST_LEASED; l < SVC_LIST_COUNT; l++) {
            uint32_t in_list = 0;
            for (svc_ref_t ref = shard->lists[l].head; ref != 0; ref = svc_record(&index, ref)->next) {
                assert_int_equal(svc_record_list(svc_record(&index, ref)), l);
                in_list++;
            }
            assert_int_equal(in_list, shard->lists[l].count);
            listed += in_list;
        }
        mcs_mutex_unlock(&shard->lock);
    }
    assert_int_equal(walked, count);
    assert_int_equal(listed, count);
    svc_index_fini(&index);
}

static void a_walk_misses_nothing_that_stays_while_others_go(void **state)
{
    (void)state;
    enum { KEYS = 20000 };
    svc_index_t index;
    assert_int_equal(svc_index_init(&index, 1, 0), MCS_OK);
    for (uint32_t k = 0; k < KEYS; k++) {
        char key[64];
        uint32_t len = key_text(k, key);
        uint64_t hash = svc_index_hash(&index, key, len);
        svc_shard_t *shard = svc_index_shard(&index, hash);
        mcs_mutex_lock(&shard->lock);
        svc_ref_t ref = svc_record_create(&index, shard, key, len, 1, 0);
        svc_record(&index, ref)->payload_len = k;
        assert_int_equal(svc_shard_insert_locked(&index, shard, hash, ref), MCS_OK);
        mcs_mutex_unlock(&shard->lock);
    }
    static uint8_t seen[KEYS];
    memset(seen, 0, sizeof(seen));
    for (uint32_t s = 0; s < SVC_SHARDS; s++) {
        svc_shard_t *shard = &index.shards[s];
        uint32_t at = UINT32_MAX;
        uint32_t version = 0;
        mcs_mutex_lock(&shard->lock);
        for (svc_ref_t ref; (ref = svc_shard_walk_locked(shard, &at, &version)) != 0;) {
            svc_record_t *record = svc_record(&index, ref);
            seen[record->payload_len] = 1;
            if (record->payload_len % 2 == 0) { /* removed under the walk: entries shift, the table shrinks */
                svc_shard_remove_locked(&index, shard, ref);
                svc_record_destroy(&index, ref);
            }
        }
        mcs_mutex_unlock(&shard->lock);
    }
    for (uint32_t k = 0; k < KEYS; k++) {
        assert_int_equal(seen[k], 1);
    }
    assert_int_equal(index.objects, KEYS / 2);
    svc_index_fini(&index);
}

static void generations_are_never_given_twice_and_name_their_shard(void **state)
{
    (void)state;
    svc_index_t index;
    svc_index_t later;
    assert_int_equal(svc_index_init(&index, 5, 0), MCS_OK);
    assert_int_equal(svc_index_init(&later, 6, 0), MCS_OK);
    uint64_t last = 0;
    svc_shard_t *shard = &index.shards[17];
    for (int i = 0; i < 1000; i++) {
        mcs_mutex_lock(&shard->lock);
        uint64_t generation = svc_shard_generation_locked(shard);
        mcs_mutex_unlock(&shard->lock);
        assert_true(generation > last);
        assert_ptr_equal(svc_index_shard_of(&index, generation), shard);
        assert_true(generation < later.shards[0].next_generation);
        last = generation;
    }
    svc_index_fini(&later);
    svc_index_fini(&index);
}

static void a_key_of_56_characters_costs_about_125_bytes(void **state)
{
    (void)state;
    enum { KEYS = 200000 };
    svc_index_t index;
    assert_int_equal(svc_index_init(&index, 1, 0), MCS_OK);
    uint64_t empty = svc_index_bytes(&index);
    for (uint32_t k = 0; k < KEYS; k++) {
        char key[64];
        uint32_t len = (uint32_t)snprintf(key, sizeof(key), "%056u", k);
        assert_int_equal(len, 56);
        uint64_t hash = svc_index_hash(&index, key, len);
        svc_shard_t *shard = svc_index_shard(&index, hash);
        mcs_mutex_lock(&shard->lock);
        svc_ref_t ref = svc_record_create(&index, shard, key, len, 1, 0);
        assert_int_equal(svc_shard_insert_locked(&index, shard, hash, ref), MCS_OK);
        mcs_mutex_unlock(&shard->lock);
    }
    assert_true((svc_index_bytes(&index) - empty) / KEYS <= 132); /* a few more when many tables have just grown */
    svc_index_fini(&index);
}

static mcs_status_t torture_insert(void *arg)
{
    svc_index_t *index = arg;
    char key[64];
    uint32_t len = key_text(1, key);
    uint64_t hash = svc_index_hash(index, key, len);
    svc_shard_t *shard = svc_index_shard(index, hash);
    mcs_mutex_lock(&shard->lock);
    svc_ref_t ref = svc_record_create(index, shard, key, len, 1, 0);
    mcs_status_t status = ref == 0 ? MCS_ERR_NO_MEMORY : svc_shard_insert_locked(index, shard, hash, ref);
    if (status != MCS_OK) {
        assert_int_equal(svc_shard_find_locked(index, shard, hash, key, len), 0);
        svc_record_destroy(index, ref);
    } else {
        svc_shard_remove_locked(index, shard, ref);
        svc_record_destroy(index, ref);
    }
    mcs_mutex_unlock(&shard->lock);
    assert_int_equal(index->objects, 0);
    return status;
}

static mcs_status_t torture_init(void *arg)
{
    svc_index_t *index = arg;
    mcs_status_t status = svc_index_init(index, 1, 0);
    if (status == MCS_OK) {
        svc_index_fini(index);
    }
    return status;
}

static void allocation_failures_leave_the_index_as_it_was(void **state)
{
    (void)state;
    static svc_index_t index;
    assert_true(unit_torture(MCS_FAULT_ALLOC, torture_init, &index) >= 4);
    assert_int_equal(svc_index_init(&index, 1, 0), MCS_OK);
    assert_true(unit_torture(MCS_FAULT_ALLOC, torture_insert, &index) >= 1);
    svc_index_fini(&index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slab_items_are_apart_and_come_back),
        cmocka_unit_test(random_operations_agree_with_a_model),
        cmocka_unit_test(a_walk_misses_nothing_that_stays_while_others_go),
        cmocka_unit_test(generations_are_never_given_twice_and_name_their_shard),
        cmocka_unit_test(a_key_of_56_characters_costs_about_125_bytes),
        cmocka_unit_test(allocation_failures_leave_the_index_as_it_was),
    };
    return cmocka_run_group_tests_name("svc_index", tests, NULL, NULL);
}
