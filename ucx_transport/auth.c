/* See auth.h. */
#include "ucx_transport/auth.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#define LABEL_LEN 16 /* padded with zeros */

static mcs_status_t sign(const char *token, const char *label, const void *text, size_t len, uint8_t mac_out[UCXT_MAC])
{
    uint8_t message[LABEL_LEN + UCXT_HELLO_MAX] = {0};
    size_t label_len = strlen(label);
    if (label_len > LABEL_LEN || len > UCXT_HELLO_MAX) {
        return MCS_ERR_LIMIT;
    }
    memcpy(message, label, label_len);
    memcpy(message + LABEL_LEN, text, len);
    unsigned mac_len = 0;
    if (HMAC(EVP_sha256(), token, (int)strlen(token), message, LABEL_LEN + len, mac_out, &mac_len) == NULL ||
        mac_len != UCXT_MAC) {
        return MCS_ERR_INTERNAL;
    }
    return MCS_OK;
}

mcs_status_t ucxt_auth_hello(const char *token, const ucxt_hello_t *hello, uint8_t mac_out[UCXT_MAC])
{
    uint8_t text[UCXT_HELLO_MAX];
    return sign(token, "mcs-data-hello", text, ucxt_hello_signed(hello, text), mac_out);
}

static mcs_status_t sign_auth(const char *token, const char *label, const ucxt_auth_t *auth, uint8_t mac_out[UCXT_MAC])
{
    uint8_t text[2 * UCXT_NONCE + 16];
    memcpy(text, auth->caller_nonce, UCXT_NONCE);
    memcpy(text + UCXT_NONCE, auth->owner_nonce, UCXT_NONCE);
    mcs_store_u64(text + 2 * UCXT_NONCE, auth->caller_conn);
    mcs_store_u64(text + 2 * UCXT_NONCE + 8, auth->owner_conn);
    return sign(token, label, text, sizeof(text), mac_out);
}

mcs_status_t ucxt_auth_owner(const char *token, const ucxt_auth_t *auth, uint8_t mac_out[UCXT_MAC])
{
    return sign_auth(token, "mcs-data-owner", auth, mac_out);
}

mcs_status_t ucxt_auth_caller(const char *token, const ucxt_auth_t *auth, uint8_t mac_out[UCXT_MAC])
{
    return sign_auth(token, "mcs-data-caller", auth, mac_out);
}

bool ucxt_mac_equal(const uint8_t a[UCXT_MAC], const uint8_t b[UCXT_MAC])
{
    return CRYPTO_memcmp(a, b, UCXT_MAC) == 0;
}
