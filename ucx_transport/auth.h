/* The proof that both sides of a data connection know the cluster token: HMAC-SHA256 over both nonces and both
 * connection numbers, with a label for each direction so that no proof can be played back to its maker. Without a token
 * nothing is proved and nothing is checked. Pure functions. The bytes that follow on the connection are not protected:
 * UCX has no encryption (docs/transport.md). */
#ifndef UCXT_AUTH_H
#define UCXT_AUTH_H

#include "ucx_transport/proto.h"

/* Of a hello, over everything in it. */
mcs_status_t ucxt_auth_hello(const char *token, const ucxt_hello_t *hello, uint8_t mac_out[UCXT_MAC]) MCS_MUST_CHECK;

typedef struct ucxt_auth {
    uint8_t caller_nonce[UCXT_NONCE];
    uint8_t owner_nonce[UCXT_NONCE];
    uint64_t caller_conn;
    uint64_t owner_conn;
} ucxt_auth_t;
mcs_status_t ucxt_auth_owner(const char *token, const ucxt_auth_t *auth, uint8_t mac_out[UCXT_MAC]) MCS_MUST_CHECK;
mcs_status_t ucxt_auth_caller(const char *token, const ucxt_auth_t *auth, uint8_t mac_out[UCXT_MAC]) MCS_MUST_CHECK;

/* In constant time. */
bool ucxt_mac_equal(const uint8_t a[UCXT_MAC], const uint8_t b[UCXT_MAC]);

#endif
