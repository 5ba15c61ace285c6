/* What callers get of a device beside copies: its memory, which outlives the space, and waiting for streams. */
#include "core/base/macros.h"
#include "gpu/internal.h"
#include "tests/unit/gpu/gpu_world.h"

static const mcs_mem_space_ops_t *const ops = &mcs_gpu_space_ops;

/* Calls of a program of its own. */
int cuStreamCreate(cuda_stream_t *stream, unsigned flags);
int cuStreamDestroy_v2(cuda_stream_t stream);
int cuStreamWaitEvent(cuda_stream_t stream, cuda_event_t event, unsigned flags);
int cuEventCreate(cuda_event_t *event, unsigned flags);
int cuEventRecord(cuda_event_t event, cuda_stream_t stream);
int cuEventDestroy_v2(cuda_event_t event);
int cuMemcpyAsync(cuda_ptr_t target, cuda_ptr_t source, size_t len, cuda_stream_t stream);
int cuCtxSetCurrent(cuda_context_t context);
int cuDevicePrimaryCtxRetain(cuda_context_t *context, int device);
int cuDevicePrimaryCtxRelease_v2(int device);
int cuMemHostAlloc(void **base, size_t len, unsigned flags);
int cuMemFreeHost(void *base);

#define LEN ((size_t)100000)

static mcs_mem_space_t *open_space(void)
{
    mcs_mem_space_config_t config = {.pin_limit = MCS_GIB, .stage_count = 2};
    mcs_mem_space_t *space = NULL;
    assert_int_equal(ops->open(&config, &space), MCS_OK);
    return space;
}

static int set_up(void **state)
{
    gpu_start(2, 13000);
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_mem_space_t *space = open_space();
    assert_true(ops->start(space)); /* started already */
    *state = space;
    return 0;
}

static int tear_down(void **state)
{
    ops->close(*state);
    gpu_assert_nothing_left();
    return 0;
}

static fake_counts_t counts(void)
{
    fake_counts_t found;
    fake_cuda_counts(&found);
    return found;
}

static void a_block_is_memory_of_its_device(void **state)
{
    mcs_mem_space_t *space = *state;
    for (int version = 13000; version > 11000; version -= 1990) { /* with a pool, and before there were any */
        fake_cuda_reset(2, version);
        mcs_mem_space_t *other = open_space();
        assert_true(ops->look(other));
        mcs_mem_block_t *block;
        mcs_mem_where_t where;
        assert_int_equal(ops->block_alloc(other, 1, LEN, &block), MCS_OK);
        assert_int_equal(block->pooled, version >= 11020);
        assert_int_equal(ops->query(space, (char *)block->ptr + LEN - 1, &where), MCS_OK);
        assert_int_equal(where.device, 1);
        assert_int_equal(where.len, LEN);
        gpu_fill(fake_cuda_bytes(block->ptr), LEN, 7);
        uint8_t *host = malloc(LEN);
        assert_int_equal(ops->block_copy(block, 10, host, LEN - 10), MCS_OK);
        assert_memory_equal(host, fake_cuda_bytes(block->ptr) + 10, LEN - 10);
        assert_int_equal(ops->block_copy(block, 10, host, LEN - 9), MCS_ERR_INVALID_PARAMS);
        assert_int_equal(ops->block_copy(block, LEN + 1, host, 0), MCS_ERR_INVALID_PARAMS);
        free(host);
        mcs_mem_block_t *second;
        assert_int_equal(ops->block_alloc(other, 1, LEN, &second), MCS_OK);
        assert_int_equal(ops->block_copy(block, 0, second->ptr, LEN), MCS_OK);
        gpu_assert_bytes(second->ptr, LEN, 7);
        ops->block_free(second);
        ops->block_free(block);
        ops->block_free(NULL);
        assert_int_equal(counts().device_allocs, 0);
        ops->close(other);
    }
}

static void a_block_outlives_its_space(void **state)
{
    (void)state;
    mcs_mem_space_t *space = open_space();
    mcs_mem_block_t *blocks[2];
    assert_true(ops->look(space));
    assert_int_equal(ops->block_alloc(space, 0, LEN, &blocks[0]), MCS_OK);
    assert_int_equal(ops->block_alloc(space, 1, LEN, &blocks[1]), MCS_OK);
    gpu_fill(fake_cuda_bytes(blocks[1]->ptr), LEN, 3);
    ops->close(space);
    ops->block_free(blocks[0]);
    uint8_t *host = malloc(LEN);
    assert_int_equal(ops->block_copy(blocks[1], 0, host, LEN), MCS_OK);
    assert_memory_equal(host, fake_cuda_bytes(blocks[1]->ptr), LEN);
    free(host);
    ops->block_free(blocks[1]);
    assert_int_equal(counts().contexts, 0);
    assert_int_equal(counts().streams, 0);
}

static void a_device_without_a_pool_has_memory_all_the_same(void **state)
{
    mcs_mem_space_t *space = *state;
    mcs_mem_block_t *block;
    fake_cuda_fail("cuMemAllocAsync", 1, CUDA_NOT_SUPPORTED); /* it said that it had one */
    assert_int_equal(ops->block_alloc(space, 0, LEN, &block), MCS_OK);
    assert_false(block->pooled);
    ops->block_free(block);
    fake_cuda_capabilities(90, false);
    mcs_mem_space_t *other = open_space();
    assert_true(ops->look(other));
    assert_int_equal(ops->block_alloc(other, 0, LEN, &block), MCS_OK);
    assert_false(block->pooled);
    ops->block_free(block);
    ops->close(other);
}

static void a_full_device_and_one_that_is_not_there_are_errors(void **state)
{
    mcs_mem_space_t *space = *state;
    mcs_mem_block_t *block = NULL;
    fake_cuda_fail("cuMemAllocAsync", 1, CUDA_OUT_OF_MEMORY);
    assert_int_equal(ops->block_alloc(space, 0, LEN, &block), MCS_ERR_NO_MEMORY);
    assert_int_equal(ops->block_alloc(space, 2, LEN, &block), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(ops->block_alloc(space, -1, LEN, &block), MCS_ERR_INVALID_PARAMS);
    assert_null(block);
}

/* Each call of the driver fails once: the call that meets it fails, and nothing is left. */
static void each_call_of_the_driver_may_fail(void **state)
{
    (void)state;
    bool fired = true;
    for (uint64_t nth = 1; fired; nth++) {
        mcs_mem_space_t *space = open_space();
        mcs_mem_block_t *block = NULL;
        uint64_t stream = 0;
        uint8_t byte;
        assert_true(ops->look(space));
        fake_cuda_fail(NULL, nth, 719);
        if (ops->block_alloc(space, 1, LEN, &block) == MCS_OK) {
            (void)ops->block_copy(block, 0, &byte, 1);
        }
        if (ops->order_stream(space, 1, &stream) == MCS_OK) {
            (void)ops->wait_stream(space, 1, stream);
        }
        fired = fake_cuda_fired();
        fake_cuda_fail("cuMemFreeAsync", 1, 719); /* what gives something back does so all the same */
        ops->block_free(block);
        fake_cuda_fail(NULL, 0, 0);
        ops->close(space);
        gpu_assert_nothing_left();
        assert_true(nth < 200);
    }
}

/* A program that has queued a copy to `memory` which nobody has waited for. */
typedef struct program {
    cuda_context_t context;
    cuda_stream_t stream;
    cuda_event_t event;
    void *pinned;
    uint8_t *memory;
} program_t;

static void queue_work(program_t *program, unsigned stream_flags, uint32_t seed)
{
    assert_int_equal(cuDevicePrimaryCtxRetain(&program->context, 101), 0);
    assert_int_equal(cuCtxSetCurrent(program->context), 0);
    assert_int_equal(cuStreamCreate(&program->stream, stream_flags), 0);
    assert_int_equal(cuEventCreate(&program->event, 2), 0);
    assert_int_equal(cuMemHostAlloc(&program->pinned, LEN, 1), 0);
    program->memory = gpu_memory(1, LEN, FAKE_DEVICE, 0, 99);
    gpu_fill(program->pinned, LEN, seed);
    assert_int_equal(
        cuMemcpyAsync((uint64_t)(uintptr_t)program->memory, (uint64_t)(uintptr_t)program->pinned, LEN, program->stream),
        0);
    assert_int_equal(cuEventRecord(program->event, program->stream), 0);
    assert_true(counts().pending > 0);
}

static void end_program(program_t *program)
{
    assert_int_equal(cuStreamDestroy_v2(program->stream), 0); /* what is on it is done first */
    assert_int_equal(cuEventDestroy_v2(program->event), 0);
    assert_int_equal(cuMemFreeHost(program->pinned), 0);
    assert_int_equal(cuCtxSetCurrent(NULL), 0);
    assert_int_equal(cuDevicePrimaryCtxRelease_v2(101), 0);
    fake_cuda_free(program->memory);
}

static void what_is_on_a_stream_is_waited_for(void **state)
{
    mcs_mem_space_t *space = *state;
    program_t program;
    queue_work(&program, CUDA_STREAM_NON_BLOCKING, 1);
    assert_int_equal(ops->wait_stream(space, 1, (uint64_t)(uintptr_t)program.stream), MCS_OK);
    gpu_assert_bytes(program.memory, LEN, 1);
    end_program(&program);
}

static void the_legacy_default_stream_waits_for_blocking_streams_and_no_others(void **state)
{
    mcs_mem_space_t *space = *state;
    program_t program;
    for (uint64_t legacy = 0; legacy < 2; legacy++) {
        queue_work(&program, 0, 2);
        assert_int_equal(ops->wait_stream(space, 1, legacy), MCS_OK);
        gpu_assert_bytes(program.memory, LEN, 2);
        end_program(&program);
        queue_work(&program, CUDA_STREAM_NON_BLOCKING, 3);
        assert_int_equal(ops->wait_stream(space, 1, legacy), MCS_OK);
        gpu_assert_bytes(program.memory, LEN, 99); /* still as it was */
        end_program(&program);
    }
}

static void a_stream_of_ours_that_was_made_to_wait_is_waited_for(void **state)
{
    mcs_mem_space_t *space = *state;
    program_t program;
    uint64_t stream;
    queue_work(&program, CUDA_STREAM_NON_BLOCKING, 4);
    assert_int_equal(ops->order_stream(space, 1, &stream), MCS_OK);
    assert_true(stream > 2);
    assert_int_equal(cuStreamWaitEvent((cuda_stream_t)(uintptr_t)stream, program.event, 0), 0);
    assert_int_equal(ops->wait_stream(space, 1, stream), MCS_OK);
    gpu_assert_bytes(program.memory, LEN, 4);
    end_program(&program);
    assert_int_equal(ops->order_stream(space, 2, &stream), MCS_ERR_INVALID_PARAMS);
    assert_int_equal(ops->wait_stream(space, 2, stream), MCS_ERR_INVALID_PARAMS);
}

static mcs_status_t whole_life(void *arg)
{
    (void)arg;
    mcs_mem_space_config_t config = {.pin_limit = MCS_GIB, .stage_count = 2};
    mcs_mem_space_t *space = NULL;
    mcs_mem_block_t *block = NULL;
    uint8_t byte;
    mcs_status_t status = ops->open(&config, &space);
    if (status != MCS_OK) {
        return status;
    }
    status = ops->start(space) ? ops->block_alloc(space, 0, LEN, &block) : MCS_ERR_NO_MEMORY;
    status = status == MCS_OK ? ops->block_copy(block, 0, &byte, 1) : status;
    ops->close(space);
    ops->block_free(block);
    gpu_assert_nothing_left();
    return status;
}

static void each_allocation_may_fail(void **state)
{
    (void)state;
    gpu_start(1, 13000);
    assert_true(unit_torture(MCS_FAULT_ALLOC, whole_life, NULL) >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_block_is_memory_of_its_device, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_block_outlives_its_space, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_device_without_a_pool_has_memory_all_the_same, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_device_and_one_that_is_not_there_are_errors, set_up, tear_down),
        cmocka_unit_test_setup_teardown(each_call_of_the_driver_may_fail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_on_a_stream_is_waited_for, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_legacy_default_stream_waits_for_blocking_streams_and_no_others, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_stream_of_ours_that_was_made_to_wait_is_waited_for, set_up, tear_down),
        cmocka_unit_test(each_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("gpu_blocks", tests, NULL, NULL);
}
