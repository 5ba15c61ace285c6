/* core/tensor/parallel: which axes make sense, key names to the letter, shard headers, manifests. */
#include "core/tensor/parallel.h"
#include "tests/unit/wire/hostile.h"

static const mcs_axis_t g_dp = {.kind = MCS_AXIS_DP, .rank = 1, .size = 2, .split_dim = -1};
static const mcs_axis_t g_tp = {.kind = MCS_AXIS_TP, .rank = 3, .size = 4, .split_dim = 1};
static const mcs_axis_t g_ep = {.kind = MCS_AXIS_EP, .rank = 0, .size = 8, .split_dim = -1, .has_id = true, .id = 17};
static const mcs_axis_t g_pp = {.kind = MCS_AXIS_PP, .rank = 2, .size = 3, .split_dim = -1, .has_id = true, .id = 5};

static void names_of_keys_are_to_the_letter(void **state)
{
    (void)state;
    char suffix[MCS_TENSOR_SUFFIX_MAX];
    mcs_parallelism_t all = {.count = 4, .axes = {g_pp, g_ep, g_tp, g_dp}};
    mcs_parallelism_suffix(&all, suffix);
    assert_string_equal(suffix, "__dp_1of2__tp_3of4_sd1__ep_0of8_eid17__pp_2of3_sid5");
    mcs_parallelism_t some = {.count = 2, .axes = {g_ep, g_dp}};
    mcs_parallelism_suffix(&some, suffix);
    assert_string_equal(suffix, "__dp_1of2__ep_0of8_eid17");
    mcs_parallelism_t tp = {.count = 1, .axes = {g_tp}};
    mcs_parallelism_suffix(&tp, suffix);
    assert_string_equal(suffix, "_tp_3");
    mcs_parallelism_t dp = {.count = 1, .axes = {g_dp}};
    mcs_parallelism_suffix(&dp, suffix);
    assert_string_equal(suffix, "__dp_1of2");
    mcs_tensor_writer_suffix(1, 2, 0, suffix);
    assert_string_equal(suffix, "__writer_1of2_sd0");
}

static void the_longest_name_fits(void **state)
{
    (void)state;
    char suffix[MCS_TENSOR_SUFFIX_MAX];
    mcs_parallelism_t all = {.count = 4, .axes = {g_dp, g_tp, g_ep, g_pp}};
    for (size_t i = 0; i < 4; i++) {
        all.axes[i].rank = INT32_MAX - 1;
        all.axes[i].size = INT32_MAX;
        all.axes[i].split_dim = i == 1 ? INT32_MAX : -1;
        all.axes[i].id = INT32_MIN;
    }
    mcs_parallelism_suffix(&all, suffix);
    assert_true(strlen(suffix) < sizeof(suffix) - 1);
    assert_non_null(strstr(suffix, "_sid-2147483648"));
}

static void axes_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    mcs_parallelism_t good = {.count = 4, .axes = {g_dp, g_tp, g_ep, g_pp}};
    assert_int_equal(mcs_parallelism_check(&good), MCS_OK);
    mcs_parallelism_t none = {.count = 0};
    mcs_parallelism_t many = {.count = 5};
    mcs_parallelism_t twice = {.count = 2, .axes = {g_dp, g_dp}};
    assert_int_equal(mcs_parallelism_check(&none), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_parallelism_check(&many), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_parallelism_check(&twice), MCS_ERR_INVALID_PARAMS);
    const struct {
        size_t axis;
        mcs_axis_t value;
    } wrong[] = {{0, {.kind = MCS_AXIS_DP, .rank = 2, .size = 2, .split_dim = -1}},
                 {0, {.kind = MCS_AXIS_DP, .rank = -1, .size = 2, .split_dim = -1}},
                 {0, {.kind = MCS_AXIS_DP, .rank = 0, .size = 0, .split_dim = -1}},
                 {0, {.kind = MCS_AXIS_DP, .rank = 0, .size = 2, .split_dim = 0}},
                 {1, {.kind = MCS_AXIS_TP, .rank = 0, .size = 2, .split_dim = -1}},
                 {2, {.kind = MCS_AXIS_EP, .rank = 0, .size = 2, .split_dim = -1}},
                 {2, {.kind = MCS_AXIS_EP, .rank = 0, .size = 2, .split_dim = 0, .has_id = true}},
                 {3, {.kind = MCS_AXIS_PP, .rank = 0, .size = 2, .split_dim = -1}}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(wrong); i++) {
        mcs_parallelism_t bad = good;
        bad.axes[wrong[i].axis] = wrong[i].value;
        assert_int_equal(mcs_parallelism_check(&bad), MCS_ERR_INVALID_PARAMS);
    }
}

static void kinds_are_known_in_any_case(void **state)
{
    (void)state;
    mcs_axis_kind_t kind;
    assert_true(mcs_axis_kind_by_name("TP", &kind) && kind == MCS_AXIS_TP);
    assert_true(mcs_axis_kind_by_name("dp", &kind) && kind == MCS_AXIS_DP);
    assert_true(mcs_axis_kind_by_name("eP", &kind) && kind == MCS_AXIS_EP);
    assert_true(mcs_axis_kind_by_name("pp", &kind) && kind == MCS_AXIS_PP);
    assert_false(mcs_axis_kind_by_name("cp", &kind) || mcs_axis_kind_by_name("", &kind));
}

static void a_shard_header_has_its_axes_in_their_places(void **state)
{
    (void)state;
    const int64_t global[] = {6, 8};
    const int64_t local[] = {6, 2};
    mcs_parallelism_t parallelism = {.count = 3, .axes = {g_tp, g_ep, g_dp}};
    mcs_tensor_header_t header;
    assert_int_equal(mcs_tensor_shard(MCS_DTYPE_INT8, 2, global, local, &parallelism, &header), MCS_OK);
    int32_t words[32];
    memcpy(words, (const char *)&header + 168, sizeof(words));
    assert_int_equal(header.kind, 1);
    assert_int_equal(header.data_bytes, 12);
    static const int32_t tp[] = {1, 0, 3, 4, 1, 0, 2, 0};
    static const int32_t ep[] = {2, 1, 0, 8, -1, 17, 0, 0};
    static const int32_t dp[] = {0, 2, 1, 2, -1, 0, 0, 0};
    assert_int_equal(words[0], 3);
    assert_memory_equal(&words[2], tp, sizeof(tp));
    assert_memory_equal(&words[10], ep, sizeof(ep));
    assert_memory_equal(&words[18], dp, sizeof(dp));
    assert_int_equal(mcs_tensor_parse(&header, 304 + 12, &header), MCS_OK);
    assert_int_equal(header.global_shape[1], 8);
    assert_int_equal(header.local_shape[1], 2);
    assert_int_equal(mcs_tensor_shard(MCS_DTYPE_INT8, 1, global, local, &parallelism, &header), MCS_ERR_INVALID_PARAMS);
}

static void a_shard_matches_its_own_axes_in_any_order_and_no_others(void **state)
{
    (void)state;
    const int64_t shape[] = {6, 8};
    mcs_parallelism_t stored = {.count = 4, .axes = {g_tp, g_ep, g_dp, g_pp}};
    mcs_parallelism_t other = {.count = 4, .axes = {g_pp, g_dp, g_tp, g_ep}};
    mcs_tensor_header_t header;
    assert_int_equal(mcs_tensor_shard(MCS_DTYPE_INT8, 2, shape, shape, &stored, &header), MCS_OK);
    assert_true(mcs_parallelism_matches(&other, &header));
    assert_int_equal(mcs_tensor_find_tp(&header)->rank, 3);
    for (size_t i = 0; i < 4; i++) {
        for (int what = 0; what < 4; what++) {
            mcs_parallelism_t wrong = other;
            mcs_axis_t *axis = &wrong.axes[i];
            axis->rank += what == 0;
            axis->size += what == 1;
            axis->split_dim += what == 2;
            axis->id += what == 3;
            bool has_id = axis->kind == MCS_AXIS_EP || axis->kind == MCS_AXIS_PP;
            assert_int_equal(mcs_parallelism_matches(&wrong, &header), what == 3 && !has_id);
        }
    }
    other.count = 3;
    assert_false(mcs_parallelism_matches(&other, &header));
    header.kind = MCS_TENSOR_FULL;
    assert_false(mcs_parallelism_matches(&stored, &header));
    assert_null(mcs_tensor_find_tp(&header));
}

static void a_manifest_has_its_96_bytes_and_is_read_back(void **state)
{
    (void)state;
    const int64_t shape[] = {6, 8};
    mcs_tensor_header_t header;
    mcs_manifest_t again;
    assert_int_equal(mcs_tensor_full(MCS_DTYPE_FLOAT16, 2, shape, &header), MCS_OK);
    mcs_manifest_t manifest = mcs_manifest_of(&header, 1, 4);
    static const uint8_t first[] = {0x4e, 0x41, 0x4d, 0x57, 1, 0, 96, 0, 11, 0, 0, 0, 2, 0, 0, 0,
                                    1,    0,    0,    0,    4, 0, 0,  0, 0,  0, 0, 0, 0, 0, 0, 0,
                                    6,    0,    0,    0,    0, 0, 0,  0, 8,  0, 0, 0, 0, 0, 0, 0};
    assert_int_equal(sizeof(manifest), 96);
    assert_memory_equal(&manifest, first, sizeof(first));
    assert_int_equal(manifest.global_shape[2], -1);
    assert_int_equal(mcs_manifest_parse(&manifest, 96, &again), MCS_OK);
    assert_memory_equal(&manifest, &again, 96);
    assert_int_equal(mcs_manifest_parse(&manifest, 95, &again), MCS_ERR_INVALID_PARAMS);
    manifest.shard_count = 3;
    assert_int_equal(mcs_manifest_parse(&manifest, 96, &again), MCS_ERR_INVALID_PARAMS);
}

static void attack(void *arg, const uint8_t *bytes, size_t len)
{
    (void)arg;
    mcs_manifest_t manifest;
    if (mcs_manifest_parse(bytes, len, &manifest) == MCS_OK) {
        assert_true(manifest.split_dim >= 0 && manifest.split_dim < manifest.ndim && manifest.ndim <= 8);
        assert_true(manifest.shard_count > 0 && manifest.shard_count <= MCS_TENSOR_SHARDS_MAX);
        assert_true(manifest.global_shape[manifest.split_dim] % manifest.shard_count == 0);
    }
}

static void damaged_manifests_are_refused_or_consistent(void **state)
{
    (void)state;
    const int64_t shape[] = {6, 8};
    mcs_tensor_header_t header;
    assert_int_equal(mcs_tensor_full(MCS_DTYPE_FLOAT16, 2, shape, &header), MCS_OK);
    mcs_manifest_t manifest = mcs_manifest_of(&header, 1, 4);
    hostile_truncations(attack, NULL, (const uint8_t *)&manifest, sizeof(manifest));
    hostile_flips(attack, NULL, (const uint8_t *)&manifest, sizeof(manifest));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_keys_are_to_the_letter),
        cmocka_unit_test(the_longest_name_fits),
        cmocka_unit_test(axes_that_make_no_sense_are_refused),
        cmocka_unit_test(kinds_are_known_in_any_case),
        cmocka_unit_test(a_shard_header_has_its_axes_in_their_places),
        cmocka_unit_test(a_shard_matches_its_own_axes_in_any_order_and_no_others),
        cmocka_unit_test(a_manifest_has_its_96_bytes_and_is_read_back),
        cmocka_unit_test(damaged_manifests_are_refused_or_consistent),
    };
    return cmocka_run_group_tests_name("tensor_parallel", tests, NULL, NULL);
}
