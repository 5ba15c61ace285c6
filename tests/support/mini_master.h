/* A master small enough to be read: the contract of core/wire with lists and a bump allocator, on fake_master. For
 * tests of the client that want to choose what goes wrong: every request passes the test's filter first. Nothing is
 * ever evicted or given back. */
#ifndef MCS_TESTS_MINI_MASTER_H
#define MCS_TESTS_MINI_MASTER_H

#include "tests/support/fake_master.h"

typedef struct mini_master mini_master_t;

/* As fake_script_fn; FAKE_DEFAULT lets the mini master answer. */
mini_master_t *mini_master_start(fake_script_fn filter, void *arg);
void mini_master_stop(mini_master_t *mini);
fake_master_t *mini_master_fake(mini_master_t *mini);
const char *mini_master_address(mini_master_t *mini);

/* From now on. Defaults: 10 s, 30 s. */
void mini_master_set_lease_ms(mini_master_t *mini, uint32_t lease_ms);
void mini_master_set_deadline_ms(mini_master_t *mini, uint32_t deadline_ms);
/* A reservation of somebody who never comes back. */
void mini_master_hold_key(mini_master_t *mini, const char *key);
void mini_master_revoke_held(mini_master_t *mini, const char *key);
/* Drops every reservation that is open. */
void mini_master_revoke_open(mini_master_t *mini);
/* Client id of the owner of the segment mounted last. */
mcs_id_t mini_master_last_owner(mini_master_t *mini);
/* Forgets every session and segment: the next requests are refused. */
void mini_master_restart(mini_master_t *mini);

typedef struct mini_stats {
    uint32_t objects;
    uint32_t open; /* reservations */
    uint32_t revoked;
    uint32_t revoked_in_doubt;
    uint32_t segments;
    uint32_t sessions;
} mini_stats_t;
mini_stats_t mini_master_stats(mini_master_t *mini);
/* How many requests of a verb came. */
uint32_t mini_master_requests(mini_master_t *mini, mcs_verb_t verb);

#endif
