/* Into the client of a store and out again, for entries of the API that are not in store.c. Any thread. */
#ifndef MCS_CLIENT_STORE_ENTRY_H
#define MCS_CLIENT_STORE_ENTRY_H

#include "core/client/client.h"

typedef struct mcs_entry {
    void *live;
} mcs_entry_t;

/* The client, which stays as it is until the leave; NULL: the store is not set up, or another process's. */
mcs_client_t *mcs_store_enter(mcs_store_t *store, mcs_entry_t *entry_out) MCS_MUST_CHECK;
void mcs_store_leave(const mcs_entry_t *entry);

#endif
