/* Certificate and key of the HTTP servers; see http_server.h. libmicrohttpd does the handshakes (GnuTLS); here the
 * files are read and held against each other, so that a wrong one is named before a port is served with it. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "master/http_internal.h"

#define FILE_MAX ((size_t)1 << 20)
#define CHUNK    ((size_t)4096)

static mcs_status_t refuse(const char *path, const char *why)
{
    mcs_error(HTTP_AREA, "tls file %s: %s: %s", path, why, mcs_status_name(MCS_ERR_INVALID_PARAMS));
    return MCS_ERR_INVALID_PARAMS;
}

static mcs_status_t read_file(const char *path, mcs_buf_t *text)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
    if (fd < 0) {
        return refuse(path, strerror(errno));
    }
    const char *why = NULL;
    for (ssize_t n = 1; why == NULL && n > 0;) {
        uint8_t *at = mcs_buf_extend(text, CHUNK);
        if (at == NULL) {
            why = mcs_buf_status(text) == MCS_ERR_LIMIT ? "longer than 1 MiB" : "out of memory";
            break;
        }
        n = read(fd, at, CHUNK);
        text->len -= CHUNK - (n > 0 ? (size_t)n : 0);
        if (n < 0 && errno != EINTR) {
            why = strerror(errno);
        }
        n = n < 0 ? 1 : n;
    }
    close(fd);
    if (why == NULL) {
        (void)mcs_buf_cstr(text); /* the library takes terminated text */
        why = mcs_buf_status(text) != MCS_OK ? "out of memory" : NULL;
    }
    return why == NULL ? MCS_OK : refuse(path, why);
}

/* A key that asks for a password is refused: nobody is there to type it. */
static int no_password(char *text, int size, int writes, void *arg)
{
    (void)text, (void)size, (void)writes, (void)arg;
    return -1;
}

static mcs_status_t check_pair(const mcs_http_tls_t *tls, const char *cert_path, const char *key_path)
{
    BIO *cert_bio = BIO_new_mem_buf(tls->cert.bytes, (int)tls->cert.len);
    BIO *key_bio = BIO_new_mem_buf(tls->key.bytes, (int)tls->key.len);
    X509 *cert = cert_bio != NULL ? PEM_read_bio_X509(cert_bio, NULL, no_password, NULL) : NULL;
    EVP_PKEY *key = key_bio != NULL ? PEM_read_bio_PrivateKey(key_bio, NULL, no_password, NULL) : NULL;
    mcs_status_t status = MCS_OK;
    if (cert == NULL) {
        status = refuse(cert_path, "no certificate in it");
    } else if (key == NULL) {
        status = refuse(key_path, "no private key without a password in it");
    } else if (X509_check_private_key(cert, key) != 1) {
        status = refuse(key_path, "the key is not the certificate's");
    }
    ERR_clear_error();
    EVP_PKEY_free(key);
    X509_free(cert);
    BIO_free(key_bio);
    BIO_free(cert_bio);
    return status;
}

mcs_status_t mcs_http_tls_load(mcs_http_tls_t *tls, const char *cert_path, const char *key_path)
{
    mcs_buf_init(&tls->cert, FILE_MAX);
    mcs_buf_init(&tls->key, FILE_MAX);
    mcs_status_t status = read_file(cert_path, &tls->cert);
    if (status == MCS_OK) {
        status = read_file(key_path, &tls->key);
    }
    if (status == MCS_OK) {
        status = check_pair(tls, cert_path, key_path);
    }
    if (status != MCS_OK) {
        mcs_http_tls_fini(tls);
    }
    return status;
}

void mcs_http_tls_fini(mcs_http_tls_t *tls)
{
    if (tls->key.bytes != NULL) {
        OPENSSL_cleanse(tls->key.bytes, tls->key.cap);
    }
    mcs_buf_fini(&tls->key);
    mcs_buf_fini(&tls->cert);
}
