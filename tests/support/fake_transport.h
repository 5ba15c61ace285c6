/* A data transport inside one process: each client that opens it is a holder with a number, and a transfer calls the
 * owner ops of the holder it names, as a serving thread would. Between two of protocol rdma device memory that was
 * exposed goes as such. Tests choose how a holder behaves. Thread-safe. */
#ifndef MCS_TESTS_FAKE_TRANSPORT_H
#define MCS_TESTS_FAKE_TRANSPORT_H

#include "core/ops/transport.h"

extern const mcs_transport_ops_t fake_transport_ops;

typedef enum fake_holder {
    FAKE_HOLDER_FINE,
    FAKE_HOLDER_DEAD,         /* MCS_ERR_TRANSFER_FAIL at once */
    FAKE_HOLDER_STOPPED,      /* nothing until the deadline (then MCS_ERR_RPC_TIMEOUT) or until the caller gives up
                                 (MCS_ERR_CLOSED) */
    FAKE_HOLDER_CORRUPT,      /* one byte of what is fetched is wrong */
    FAKE_HOLDER_DIRECT_WRONG, /* of device memory that goes by RDMA one byte is wrong, either way */
    FAKE_HOLDER_DIRECT_DEAD,  /* what goes so fails, once it has been begun */
    FAKE_HOLDER_DIRECT_ENDS   /* after the first range of a value nothing goes so any more */
} fake_holder_t;

/* Of the client with this id, from now on. */
void fake_transport_set(mcs_id_t client, fake_holder_t behaviour);
/* Of all that have no behaviour of their own; resets those. */
void fake_transport_set_all(fake_holder_t behaviour);
/* Transfers that are waiting for a stopped holder now. */
uint32_t fake_transport_waiting(void);
uint64_t fake_transport_ranges(void);  /* ranges moved, ever */
uint64_t fake_transport_largest(void); /* bytes of the largest range seen */
uint64_t fake_transport_refused(void); /* ranges of device memory that could not go, ever */

#endif
