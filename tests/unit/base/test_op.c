/* core/base/op: ids of operations and of their requests. */
#include <pthread.h>

#include "core/base/op.h"
#include "tests/support/unit.h"

static uint64_t op_of(uint64_t id)
{
    return id >> MCS_OP_STEP_BITS;
}

static void requests_of_one_operation_share_its_number(void **state)
{
    (void)state;
    mcs_op_begin();
    uint64_t first = mcs_op_next();
    uint64_t second = mcs_op_next();
    assert_int_equal(op_of(first), op_of(second));
    assert_int_equal(first & MCS_OP_STEP_MASK, 1);
    assert_int_equal(second & MCS_OP_STEP_MASK, 2);
    assert_int_equal(mcs_op_with(5), op_of(first) << MCS_OP_STEP_BITS | 5);
    assert_int_equal(op_of(mcs_op_with(UINT64_MAX)), op_of(first)); /* a step never touches the operation */
    mcs_op_end();
    mcs_op_begin();
    uint64_t other = mcs_op_next();
    mcs_op_end();
    assert_true(op_of(other) != op_of(first) && op_of(other) != 0);
    assert_int_equal(other & MCS_OP_STEP_MASK, 1);
}

static void outside_an_operation_each_request_is_its_own(void **state)
{
    (void)state;
    uint64_t a = mcs_op_next();
    uint64_t b = mcs_op_next();
    assert_true(op_of(a) != op_of(b));
}

static void a_second_half_goes_on_under_the_same_number(void **state)
{
    (void)state;
    mcs_op_begin();
    uint64_t first = mcs_op_next();
    uint64_t op = mcs_op_current();
    mcs_op_end();
    mcs_op_begin();
    mcs_op_resume(op);
    uint64_t second = mcs_op_next();
    mcs_op_end();
    assert_true(op_of(second) == op_of(first) && second != first);
    mcs_op_begin();
    assert_true(op_of(mcs_op_next()) != op);
    mcs_op_end();
}

static void *first_op(void *arg)
{
    mcs_op_begin();
    *(uint64_t *)arg = op_of(mcs_op_next());
    mcs_op_end();
    return NULL;
}

static void threads_have_numbers_of_their_own(void **state)
{
    uint64_t ops[8];
    (void)state;
    for (size_t i = 0; i < MCS_ARRAY_LEN(ops); i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, first_op, &ops[i]), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        for (size_t k = 0; k < i; k++) {
            assert_true(ops[k] != ops[i]);
        }
    }
}

static void the_text_is_the_operation_and_the_step(void **state)
{
    char text[32];
    (void)state;
    snprintf(text, sizeof(text), MCS_OP_FMT, MCS_OP_ARGS(UINT64_C(0x1f00ab23c4d) << 20 | 0x1a));
    assert_string_equal(text, "1f00ab23c4d.1a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_of_one_operation_share_its_number),
        cmocka_unit_test(outside_an_operation_each_request_is_its_own),
        cmocka_unit_test(a_second_half_goes_on_under_the_same_number),
        cmocka_unit_test(threads_have_numbers_of_their_own),
        cmocka_unit_test(the_text_is_the_operation_and_the_step),
    };
    return cmocka_run_group_tests_name("op", tests, NULL, NULL);
}
