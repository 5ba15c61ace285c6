/* core/tensor/dlpack: what is believed of a DLPack tensor, and the copy of one that is not in C order. */
#include "core/tensor/dlpack.h"
#include "tests/support/unit.h"

static mcs_dl_tensor_t tensor_of(void *data, int32_t ndim, int64_t *shape, int64_t *strides)
{
    return (mcs_dl_tensor_t){.data = data,
                             .device_type = MCS_DL_CPU,
                             .ndim = ndim,
                             .code = MCS_DL_INT,
                             .bits = 16,
                             .lanes = 1,
                             .shape = shape,
                             .strides = strides};
}

static void a_tensor_is_understood(void **state)
{
    (void)state;
    int16_t data[12];
    int64_t shape[] = {3, 4};
    int64_t strides[] = {1, 3};
    mcs_tensor_view_t view;
    mcs_dl_tensor_t tensor = tensor_of(data, 2, shape, NULL);
    tensor.byte_offset = 2;
    assert_int_equal(mcs_dl_view(&tensor, &view), MCS_OK);
    assert_true(view.data == (char *)data + 2 && view.bytes == 24 && view.dtype == MCS_DTYPE_INT16);
    assert_true(view.strides[0] == 8 && view.strides[1] == 2 && mcs_tensor_view_contiguous(&view));
    tensor.strides = strides;
    assert_int_equal(mcs_dl_view(&tensor, &view), MCS_OK);
    assert_true(view.strides[0] == 2 && view.strides[1] == 6 && !mcs_tensor_view_contiguous(&view));
    shape[0] = 1; /* an extent of 1 may have any stride */
    strides[0] = 77;
    strides[1] = 1;
    assert_int_equal(mcs_dl_view(&tensor, &view), MCS_OK);
    assert_true(mcs_tensor_view_contiguous(&view));
}

static void tensors_without_elements_or_dimensions_are_tensors(void **state)
{
    (void)state;
    int16_t data[1];
    int64_t shape[] = {0, 4};
    mcs_tensor_view_t view;
    mcs_dl_tensor_t empty = tensor_of(NULL, 2, shape, NULL);
    assert_int_equal(mcs_dl_view(&empty, &view), MCS_OK);
    assert_true(view.bytes == 0 && mcs_tensor_view_contiguous(&view));
    mcs_tensor_view_gather(&view, NULL);
    mcs_dl_tensor_t scalar = tensor_of(data, 0, NULL, NULL);
    assert_int_equal(mcs_dl_view(&scalar, &view), MCS_OK);
    assert_int_equal(view.bytes, 2);
}

static void what_makes_no_sense_is_refused(void **state)
{
    (void)state;
    int16_t data[12];
    int64_t shape[] = {3, 4, 1, 1, 1, 1, 1, 1, 1};
    int64_t far[] = {INT64_MAX / 2, 1};
    int64_t negative[] = {-1, 4};
    int64_t huge[] = {INT64_MAX, 4};
    mcs_tensor_view_t view;
    for (int what = 0; what < 10; what++) {
        mcs_dl_tensor_t tensor = tensor_of(data, 2, shape, NULL);
        tensor.data = what == 0 ? NULL : data;
        tensor.ndim = what == 1 ? 9 : what == 2 ? -1 : 2;
        tensor.shape = what == 3 ? NULL : what == 4 ? negative : what == 5 ? huge : shape;
        tensor.lanes = what == 6 ? 2 : 1;
        tensor.bits = what == 7 ? 4 : 16;
        tensor.strides = what == 8 ? far : NULL;
        tensor.byte_offset = what == 9 ? UINT64_MAX : 0;
        assert_int_equal(mcs_dl_view(&tensor, &view), MCS_ERR_INVALID_PARAMS);
    }
}

static void host_memory_is_known(void **state)
{
    (void)state;
    assert_true(mcs_dl_on_host(1) && mcs_dl_on_host(3) && mcs_dl_on_host(11));
    assert_false(mcs_dl_on_host(0) || mcs_dl_on_host(2) || mcs_dl_on_host(13) || mcs_dl_on_host(-1));
}

static uint64_t next(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return *seed >> 33;
}

/* As somebody does who can only read whole stretches of the memory. */
static void gather_by_stretches(const mcs_tensor_view_t *view, const uint8_t *memory, size_t len, uint8_t *to)
{
    static uint8_t stretch[1 << 20];
    mcs_tensor_stretches_t stretches;
    assert_int_equal(mcs_tensor_stretches(view, &stretches), MCS_OK);
    assert_true(stretches.span <= MCS_MAX(2 * stretches.inner.bytes, MCS_STRETCH_SLACK) &&
                stretches.span <= sizeof(stretch));
    assert_int_equal(stretches.count * stretches.inner.bytes, view->bytes);
    for (uint64_t i = 0; i < stretches.count; i++) {
        const uint8_t *at = mcs_tensor_stretch_at(view, &stretches, i);
        assert_true(at >= memory && at + stretches.span <= memory + len);
        memcpy(stretch, at, stretches.span);
        stretches.inner.data = stretch + stretches.lead;
        mcs_tensor_view_gather(&stretches.inner, to + i * stretches.inner.bytes);
    }
}

/* Steps so large that outer dimensions are stepped over, and signs. */
static void stretches_have_all_elements_and_little_else(void **state)
{
    (void)state;
    static uint8_t memory[16 << 20];
    static uint8_t wanted[1 << 20];
    static uint8_t got[1 << 20];
    for (size_t i = 0; i < sizeof(memory); i++) {
        memory[i] = (uint8_t)(i * 13 + i / 251);
    }
    static const struct {
        int64_t shape[3];
        int64_t strides[3];
        int32_t outer;
    } rows[] = {
        {{2, 3, 5}, {100, 20, 4}, 0},
        {{7, 100, 200}, {2000000, 20000, 4}, 2},
        {{7, 100, 200}, {-2000000, 20000, -4}, 2},
        {{3, 4, 5}, {4000000, -900000, 100000}, 3},
        {{1, 1, 1}, {0, 0, 0}, 0},
        {{10, 1, 1000}, {0, 0, 4}, 0},
        {{100, 100, 10}, {4, 400, 40000}, 0},
        {{2, 100, 100}, {8000000, 4, 400}, 1},
    };
    for (size_t r = 0; r < MCS_ARRAY_LEN(rows); r++) {
        mcs_tensor_view_t view = {.dtype = MCS_DTYPE_INT32, .ndim = 3, .bytes = 4};
        const uint8_t *low = memory;
        for (int32_t i = 0; i < 3; i++) {
            view.shape[i] = rows[r].shape[i];
            view.strides[i] = rows[r].strides[i];
            view.bytes *= (uint64_t)view.shape[i];
            low += view.strides[i] < 0 ? -view.strides[i] * (view.shape[i] - 1) : 0;
        }
        view.data = low;
        mcs_tensor_stretches_t stretches;
        assert_int_equal(mcs_tensor_stretches(&view, &stretches), MCS_OK);
        assert_int_equal(stretches.outer, rows[r].outer);
        mcs_tensor_view_gather(&view, wanted);
        gather_by_stretches(&view, memory, sizeof(memory), got);
        assert_memory_equal(got, wanted, view.bytes);
    }
    mcs_tensor_view_t wild = {.dtype = MCS_DTYPE_INT32, .ndim = 2, .bytes = 16, .shape = {2, 2}};
    wild.strides[0] = INT64_MAX;
    wild.strides[1] = INT64_MIN;
    mcs_tensor_stretches_t stretches;
    assert_int_equal(mcs_tensor_stretches(&wild, &stretches), MCS_ERR_INVALID_PARAMS);
    mcs_tensor_view_t empty = {.dtype = MCS_DTYPE_INT32, .ndim = 2, .shape = {0, 2}};
    assert_int_equal(mcs_tensor_stretches(&empty, &stretches), MCS_OK);
    assert_int_equal(stretches.count, 0);
}

/* Random shapes, orders of dimensions, steps and signs, against a loop over indices. */
static void gathering_is_what_an_index_loop_copies(void **state)
{
    (void)state;
    uint64_t rng = 7;
    static uint8_t memory[1 << 17];
    for (size_t i = 0; i < sizeof(memory); i++) {
        memory[i] = (uint8_t)next(&rng);
    }
    static const mcs_dtype_t dtypes[] = {MCS_DTYPE_UINT8, MCS_DTYPE_FLOAT16, MCS_DTYPE_INT32, MCS_DTYPE_FLOAT64};
    for (int round = 0; round < 4000; round++) {
        mcs_tensor_view_t view = {.dtype = dtypes[round % 4], .ndim = (int32_t)(next(&rng) % 5)};
        const int64_t size = mcs_dtype_row(view.dtype)->size;
        int64_t step = size;
        int32_t order[4] = {0, 1, 2, 3};
        for (int32_t i = view.ndim - 1; i > 0; i--) {
            int32_t j = (int32_t)(next(&rng) % (uint64_t)(i + 1));
            int32_t kept = order[i];
            order[i] = order[j];
            order[j] = kept;
        }
        view.bytes = (uint64_t)size;
        for (int32_t i = 0; i < view.ndim; i++) {
            view.shape[order[i]] = 1 + (int64_t)(next(&rng) % 4);
            step *= 1 + (int64_t)(next(&rng) % 2);
            view.strides[order[i]] = next(&rng) % 3 == 0 ? -step : step;
            step *= view.shape[order[i]];
            view.bytes *= (uint64_t)view.shape[order[i]];
        }
        view.data = &memory[1 << 16];
        uint8_t copied[2048];
        assert_true(view.bytes <= sizeof(copied));
        mcs_tensor_view_gather(&view, copied);
        for (uint64_t at = 0; at < view.bytes / (uint64_t)size; at++) {
            int64_t offset = 0;
            uint64_t left = at;
            for (int32_t i = view.ndim - 1; i >= 0; i--) {
                offset += (int64_t)(left % (uint64_t)view.shape[i]) * view.strides[i];
                left /= (uint64_t)view.shape[i];
            }
            assert_memory_equal(&copied[at * (uint64_t)size], (const uint8_t *)view.data + offset, (size_t)size);
        }
        if (mcs_tensor_view_contiguous(&view)) {
            assert_memory_equal(copied, view.data, view.bytes);
        }
        uint8_t by_stretches[2048];
        gather_by_stretches(&view, memory, sizeof(memory), by_stretches);
        assert_memory_equal(by_stretches, copied, view.bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tensor_is_understood),
        cmocka_unit_test(stretches_have_all_elements_and_little_else),
        cmocka_unit_test(tensors_without_elements_or_dimensions_are_tensors),
        cmocka_unit_test(what_makes_no_sense_is_refused),
        cmocka_unit_test(host_memory_is_known),
        cmocka_unit_test(gathering_is_what_an_index_loop_copies),
    };
    return cmocka_run_group_tests_name("tensor_dlpack", tests, NULL, NULL);
}
