/* The models and their mutants; see the .c files. */
#ifndef MCS_TESTS_MODEL_MODELS_H
#define MCS_TESTS_MODEL_MODELS_H

#include "tests/model/explorer.h"

/* Same-host access by slots (rules 3, 4, 5 and 6). */
typedef enum mcs_slots_mutant {
    MCS_SLOTS_AS_DESIGNED,
    MCS_SLOTS_READER_CHECKS_BEFORE_IT_PUBLISHES,
    MCS_SLOTS_OWNER_SCANS_BEFORE_IT_MARKS,
    MCS_SLOTS_READER_HAS_NO_SLOT,
    MCS_SLOTS_WRITER_HAS_NO_SLOT,
    MCS_SLOTS_WRITER_DOES_NOT_ASK_THE_REVOKED_TABLE,
    MCS_SLOTS_REUSE_BY_TIME_ALONE,
    MCS_SLOTS_MUTANTS
} mcs_slots_mutant_t;
mcs_model_t mcs_model_slots(mcs_slots_mutant_t mutant);

/* Reservations, commits, upsert, served and one-sided access, lost sessions (rules 1 to 6). */
typedef enum mcs_served_mutant {
    MCS_SERVED_AS_DESIGNED,
    MCS_SERVED_VISIBLE_BEFORE_WRITTEN,
    MCS_SERVED_SWAP_BEFORE_DEAD,
    MCS_SERVED_REVOKED_NOT_REMEMBERED,
    MCS_SERVED_ACK_WITH_A_STORE_UNANSWERED,
    MCS_SERVED_ENDED_SESSION_MAY_WRITE,
    MCS_SERVED_RELEASE_INSIDE_THE_LEASE,
    MCS_SERVED_READER_TRUSTS_ITS_LEASE,
    MCS_SERVED_OWNER_DOES_NOT_CHECK,
    MCS_SERVED_MUTANTS
} mcs_served_mutant_t;
mcs_model_t mcs_model_served(mcs_served_mutant_t mutant);

/* Calls that are repeated after a lost connection (rule 1). */
typedef enum mcs_outcomes_mutant {
    MCS_OUTCOMES_AS_DESIGNED,
    MCS_OUTCOMES_NOTHING_IS_KEPT,
    MCS_OUTCOMES_STARTS_ARE_NOT_KEPT,
    MCS_OUTCOMES_ACKNOWLEDGED_IS_FORGOTTEN,
    MCS_OUTCOMES_ENDS_ARE_NOT_KEPT,
    MCS_OUTCOMES_MUTANTS
} mcs_outcomes_mutant_t;
mcs_model_t mcs_model_outcomes(mcs_outcomes_mutant_t mutant);

#endif
