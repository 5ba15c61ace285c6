/* A master's state that tests write by hand: implements master/service.h without clients, RPC or memory. One service at
 * a time has the state below; it may be changed while no server runs. */
#ifndef MCS_TEST_FAKE_SERVICE_H
#define MCS_TEST_FAKE_SERVICE_H

#include "master/service.h"

typedef struct fake_object {
    char key[256];
    uint32_t key_len;
    mcs_service_replica_t replica;
    mcs_status_t status; /* of a query */
} fake_object_t;

typedef struct fake_state {
    fake_object_t objects[16];
    uint32_t object_count;
    uint64_t generated_keys; /* "key-0000000001" … follow the objects in a walk */
    mcs_service_segment_t segments[8];
    uint32_t segment_count;
    mcs_service_client_t clients[4];
    uint32_t client_count;
    mcs_service_totals_t totals;
    int64_t remove_all_result;
    mcs_status_t create_result;
    mcs_status_t start_result;
    /* what happened; atomics where threads write */
    uint64_t walked_keys;
    uint64_t walks_ended;
    uint32_t leases;
    int remove_all_force; /* -1: not called */
    uint32_t created;
    uint32_t started;
    uint32_t stopped;
    uint32_t destroyed;
    mcs_service_config_t config; /* of the last create */
    /* the drain job that there is, and what the last start asked for, as text */
    mcs_service_drain_t drain; /* segment_count 0: none */
    mcs_id_t drain_id;
    mcs_status_t drain_result;
    char drain_asked[512];
    uint32_t drains_canceled;
} fake_state_t;

extern fake_state_t g_fake;

void fake_reset(void);
void fake_add_object(const char *key, mcs_status_t status);
void fake_add_segment(const char *name, uint64_t size, uint64_t used);

#endif
