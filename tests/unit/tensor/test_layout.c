/* core/tensor/layout and dtype: the header's bytes, what is refused, slices and shards. */
#include <stdlib.h>

#include "core/tensor/dlpack.h"
#include "core/tensor/layout.h"
#include "tests/unit/wire/hostile.h"

static uint64_t u64_at(const void *bytes, size_t offset)
{
    uint64_t value;
    memcpy(&value, (const char *)bytes + offset, sizeof(value));
    return value;
}

static uint32_t u32_at(const void *bytes, size_t offset)
{
    uint32_t value;
    memcpy(&value, (const char *)bytes + offset, sizeof(value));
    return value;
}

static void the_header_has_every_field_in_its_place(void **state)
{
    (void)state;
    const int64_t shape[] = {2, 3, 4};
    mcs_tensor_header_t header;
    assert_int_equal(mcs_tensor_full(MCS_DTYPE_BFLOAT16, 3, shape, &header), MCS_OK);
    static const uint8_t first[] = {0x4e, 0x4f, 0x4f, 0x4d, 1, 0, 0x30, 1, 12, 0, 0, 0,
                                    3,    0,    0,    0,    0, 0, 0,    0, 0,  0, 0, 0};
    assert_memory_equal(&header, first, sizeof(first));
    assert_int_equal(u64_at(&header, 24), 304);
    assert_int_equal(u64_at(&header, 32), 48);
    for (size_t i = 0; i < 8; i++) {
        uint64_t extent = i < 3 ? (uint64_t)shape[i] : UINT64_MAX;
        assert_true(u64_at(&header, 40 + 8 * i) == extent && u64_at(&header, 104 + 8 * i) == extent);
    }
    for (size_t at = 168; at < 304; at += 4) {
        assert_int_equal(u32_at(&header, at), 0);
    }
}

static void every_element_type_has_its_code_size_and_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *safetensors;
        unsigned size;
        unsigned dl_code;
    } rows[] = {{"float32", "F32", 4, 2},
                {"float64", "F64", 8, 2},
                {"int8", "I8", 1, 0},
                {"uint8", "U8", 1, 1},
                {"int16", "I16", 2, 0},
                {"uint16", "U16", 2, 1},
                {"int32", "I32", 4, 0},
                {"uint32", "U32", 4, 1},
                {"int64", "I64", 8, 0},
                {"uint64", "U64", 8, 1},
                {"bool", "BOOL", 1, 6},
                {"float16", "F16", 2, 2},
                {"bfloat16", "BF16", 2, 4},
                {"float8_e4m3fn", "F8_E4M3", 1, 10},
                {"float8_e5m2", "F8_E5M2", 1, 12}};
    assert_int_equal(MCS_ARRAY_LEN(rows), MCS_DTYPE_COUNT);
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        mcs_dtype_t found[4];
        const mcs_dtype_row_t *row = mcs_dtype_row((mcs_dtype_t)i);
        assert_string_equal(row->name, rows[i].name);
        assert_int_equal(row->size, rows[i].size);
        assert_true(mcs_dtype_by_name(rows[i].name, &found[0]) && found[0] == i);
        assert_true(mcs_dtype_by_safetensors(rows[i].safetensors, &found[1]) && found[1] == i);
        assert_true(mcs_dtype_by_dlpack(rows[i].dl_code, rows[i].size * 8, 1, &found[2]) && found[2] == i);
        assert_false(mcs_dtype_by_dlpack(rows[i].dl_code, rows[i].size * 8, 2, &found[2]));
        assert_true(row->format == NULL || (mcs_dtype_by_format(row->format, row->size, &found[3]) && found[3] == i));
    }
    mcs_dtype_t dtype;
    assert_false(mcs_dtype_by_name("complex64", &dtype));
    assert_false(mcs_dtype_by_safetensors("F8", &dtype));
    assert_false(mcs_dtype_by_dlpack(5, 64, 1, &dtype));
    assert_false(mcs_dtype_by_dlpack(2, 128, 1, &dtype));
}

static void formats_are_understood_by_letter_and_size(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        uint64_t size;
        int dtype; /* -1: none */
    } rows[] = {{NULL, 1, MCS_DTYPE_UINT8},
                {"l", 8, MCS_DTYPE_INT64},
                {"<l", 4, MCS_DTYPE_INT32},
                {"=H", 2, MCS_DTYPE_UINT16},
                {"@d", 8, MCS_DTYPE_FLOAT64},
                {">b", 1, MCS_DTYPE_INT8},
                {">h", 2, -1},
                {"O", 8, -1},
                {"", 1, -1},
                {"ii", 8, -1},
                {"c", 1, -1},
                {"f", 16, -1},
                {"T{f:x:}", 4, -1},
                {"?", 1, MCS_DTYPE_BOOL},
                {"g", 16, -1}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(rows); i++) {
        mcs_dtype_t dtype = MCS_DTYPE_COUNT;
        bool known = mcs_dtype_by_format(rows[i].format, rows[i].size, &dtype);
        assert_int_equal(known, rows[i].dtype >= 0);
        assert_true(!known || (int)dtype == rows[i].dtype);
    }
}

static void sizes_beyond_63_bits_and_9_dimensions_are_refused(void **state)
{
    (void)state;
    const int64_t huge[] = {INT64_MAX / 4 + 1, 4, 1, 1, 1, 1, 1, 1, 1};
    const int64_t empty[] = {INT64_MAX, INT64_MAX, 0};
    const int64_t negative[] = {2, -1};
    uint64_t bytes = 7;
    assert_int_equal(mcs_tensor_bytes(MCS_DTYPE_INT8, 2, huge, &bytes), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_tensor_bytes(MCS_DTYPE_INT32, 1, huge, &bytes), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_tensor_bytes(MCS_DTYPE_INT8, 9, huge, &bytes), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_tensor_bytes(MCS_DTYPE_INT8, -1, huge, &bytes), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_tensor_bytes(MCS_DTYPE_INT8, 2, negative, &bytes), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(bytes, 7);
    assert_int_equal(mcs_tensor_bytes(MCS_DTYPE_FLOAT64, 3, empty, &bytes), MCS_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(mcs_tensor_bytes(MCS_DTYPE_FLOAT64, 0, NULL, &bytes), MCS_OK);
    assert_int_equal(bytes, 8);
}

static void a_header_is_read_back_and_must_fit_the_object(void **state)
{
    (void)state;
    const int64_t shape[] = {5};
    mcs_tensor_header_t header;
    mcs_tensor_header_t again;
    assert_int_equal(mcs_tensor_full(MCS_DTYPE_INT32, 1, shape, &header), MCS_OK);
    assert_int_equal(mcs_tensor_parse(&header, 304 + 20, &again), MCS_OK);
    assert_memory_equal(&header, &again, sizeof(header));
    static const uint64_t wrong[] = {0, 303, 304, 323, 325, UINT64_MAX};
    for (size_t i = 0; i < MCS_ARRAY_LEN(wrong); i++) {
        assert_int_equal(mcs_tensor_parse(&header, wrong[i], &again), MCS_ERR_INVALID_PARAMS);
    }
}

/* What is taken describes memory of exactly the object's size. */
static void attack(void *arg, const uint8_t *bytes, size_t len)
{
    (void)arg;
    mcs_tensor_header_t header;
    uint64_t expected;
    if (mcs_tensor_parse(bytes, len, &header) == MCS_OK) {
        assert_int_equal(mcs_tensor_bytes((mcs_dtype_t)header.dtype, header.ndim, header.local_shape, &expected),
                         MCS_OK);
        assert_true(expected == len - 304 && header.axis_count <= 4);
        for (uint32_t i = 0; i < header.axis_count; i++) {
            assert_true(header.axes[i].rank < header.axes[i].size && header.axes[i].split_dim < header.ndim);
        }
    }
}

static void damaged_headers_are_refused_or_consistent(void **state)
{
    (void)state;
    uint8_t object[304 + 24] = {0};
    const int64_t shape[] = {2, 3};
    mcs_tensor_header_t header;
    assert_int_equal(mcs_tensor_full(MCS_DTYPE_FLOAT32, 2, shape, &header), MCS_OK);
    header.axis_count = 1;
    header.axes[0] = (mcs_tensor_axis_t){.kind = 1, .rank = 0, .size = 2, .split_dim = 1};
    memcpy(object, &header, sizeof(header));
    hostile_truncations(attack, NULL, object, sizeof(object));
    hostile_flips(attack, NULL, object, sizeof(object));
}

/* Byte i of the tensor is i: what a slice names is compared with a loop over indices. */
static void a_slice_names_the_bytes_that_an_index_loop_visits(void **state)
{
    (void)state;
    const int64_t shape[] = {3, 4, 5};
    for (int32_t dim = 0; dim < 3; dim++) {
        for (int64_t start = 0; start <= shape[dim]; start++) {
            for (int64_t extent = 0; extent <= shape[dim] - start; extent++) {
                mcs_tensor_slice_t slice;
                assert_int_equal(mcs_tensor_slice(MCS_DTYPE_UINT8, 3, shape, dim, start, extent, &slice), MCS_OK);
                uint64_t row = 0;
                uint64_t in_row = 0;
                for (int64_t i = 0; i < 60; i++) {
                    const int64_t index[] = {i / 20, i / 5 % 4, i % 5};
                    if (index[dim] < start || index[dim] >= start + extent) {
                        continue;
                    }
                    assert_true((uint64_t)i == slice.offset + row * slice.stride + in_row);
                    if (++in_row == slice.row_bytes) {
                        in_row = 0;
                        row++;
                    }
                }
                assert_int_equal(row, slice.rows);
            }
        }
    }
}

static void a_slice_outside_the_tensor_is_refused(void **state)
{
    (void)state;
    const int64_t shape[] = {3, 4};
    mcs_tensor_slice_t slice;
    static const int64_t wrong[][3] = {{-1, 0, 1}, {2, 0, 1}, {0, -1, 1},       {0, 0, -1},
                                       {0, 4, 0},  {0, 2, 2}, {1, 1, INT64_MAX}};
    for (size_t i = 0; i < MCS_ARRAY_LEN(wrong); i++) {
        assert_int_equal(
            mcs_tensor_slice(MCS_DTYPE_INT8, 2, shape, (int32_t)wrong[i][0], wrong[i][1], wrong[i][2], &slice),
            MCS_ERR_INVALID_PARAMS);
    }
    const int64_t empty[] = {0, 4};
    assert_int_equal(mcs_tensor_slice(MCS_DTYPE_INT8, 2, empty, 1, 1, 2, &slice), MCS_OK);
    assert_int_equal(slice.rows, 0);
}

static void shards_are_uniform_or_refused(void **state)
{
    (void)state;
    int64_t start;
    int64_t extent;
    for (int32_t rank = 0; rank < 4; rank++) {
        assert_int_equal(mcs_tensor_shard_range(12, rank, 4, &start, &extent), MCS_OK);
        assert_true(start == rank * 3 && extent == 3);
    }
    assert_int_equal(mcs_tensor_shard_range(0, 1, 2, &start, &extent), MCS_OK);
    assert_int_equal(mcs_tensor_shard_range(13, 0, 4, &start, &extent), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_tensor_shard_range(12, 4, 4, &start, &extent), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_tensor_shard_range(12, -1, 4, &start, &extent), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_tensor_shard_range(12, 0, 0, &start, &extent), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(mcs_tensor_shard_range(-4, 0, 2, &start, &extent), MCS_ERR_INVALID_PARAMS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_has_every_field_in_its_place),
        cmocka_unit_test(every_element_type_has_its_code_size_and_names),
        cmocka_unit_test(formats_are_understood_by_letter_and_size),
        cmocka_unit_test(sizes_beyond_63_bits_and_9_dimensions_are_refused),
        cmocka_unit_test(a_header_is_read_back_and_must_fit_the_object),
        cmocka_unit_test(damaged_headers_are_refused_or_consistent),
        cmocka_unit_test(a_slice_names_the_bytes_that_an_index_loop_visits),
        cmocka_unit_test(a_slice_outside_the_tensor_is_refused),
        cmocka_unit_test(shards_are_uniform_or_refused),
    };
    return cmocka_run_group_tests_name("tensor_layout", tests, NULL, NULL);
}
