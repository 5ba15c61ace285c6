/* The design's rules 1 to 6 as exhaustive models: no interleaving of the protocol breaks a rule, and each protocol with
 * one rule left out does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/model/models.h"

#define MAX_STATES (UINT64_C(30) << 20)

static void holds(mcs_model_t model)
{
    mcs_exploration_t found = mcs_explore(&model, MAX_STATES, true);
    printf("%s: %llu states, %llu transitions, depth %u\n", model.name, (unsigned long long)found.states,
           (unsigned long long)found.transitions, found.depth);
    assert_null(found.violation);
    assert_true(found.complete);
    assert_true(found.states > 100); /* a model that goes nowhere proves nothing */
}

static void is_caught(mcs_model_t model)
{
    mcs_exploration_t found = mcs_explore(&model, MAX_STATES, false);
    printf("%s, mutant %d: %s after %u steps\n", model.name, model.mutant,
           found.violation != NULL ? found.violation : "NOT CAUGHT", found.depth);
    assert_non_null(found.violation);
}

static void slots_protect_same_host_access_in_every_interleaving(void **state)
{
    (void)state;
    holds(mcs_model_slots(MCS_SLOTS_AS_DESIGNED));
}

static void every_weakened_slot_protocol_is_caught(void **state)
{
    (void)state;
    for (int mutant = MCS_SLOTS_AS_DESIGNED + 1; mutant < MCS_SLOTS_MUTANTS; mutant++) {
        is_caught(mcs_model_slots((mcs_slots_mutant_t)mutant));
    }
}

static void rules_1_to_6_hold_for_late_stores_lost_sessions_and_stalled_readers(void **state)
{
    (void)state;
    holds(mcs_model_served(MCS_SERVED_AS_DESIGNED));
}

static void every_weakened_message_protocol_is_caught(void **state)
{
    (void)state;
    for (int mutant = MCS_SERVED_AS_DESIGNED + 1; mutant < MCS_SERVED_MUTANTS; mutant++) {
        is_caught(mcs_model_served((mcs_served_mutant_t)mutant));
    }
}

static void a_repeated_call_is_one_call_whatever_connections_lose(void **state)
{
    (void)state;
    holds(mcs_model_outcomes(MCS_OUTCOMES_AS_DESIGNED));
}

static void every_weakened_memory_of_outcomes_is_caught(void **state)
{
    (void)state;
    for (int mutant = MCS_OUTCOMES_AS_DESIGNED + 1; mutant < MCS_OUTCOMES_MUTANTS; mutant++) {
        is_caught(mcs_model_outcomes((mcs_outcomes_mutant_t)mutant));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_protect_same_host_access_in_every_interleaving),
        cmocka_unit_test(every_weakened_slot_protocol_is_caught),
        cmocka_unit_test(rules_1_to_6_hold_for_late_stores_lost_sessions_and_stalled_readers),
        cmocka_unit_test(every_weakened_message_protocol_is_caught),
        cmocka_unit_test(a_repeated_call_is_one_call_whatever_connections_lose),
        cmocka_unit_test(every_weakened_memory_of_outcomes_is_caught),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
