/* Text to numbers and addresses. Pure functions; outputs are written only on success. Grammar sources: the API's
 * documented size strings, gflags booleans, RFC 3986 hosts. */
#ifndef MCS_BASE_PARSE_H
#define MCS_BASE_PARSE_H

#include "core/base/status.h"

/* White space trimmed; a number (decimal, may have a fraction and an exponent, >= 0); optional space; unit B K KB M MB
 * G GB T TB in any case, 1024-based, none = bytes; "infinite" = UINT64_MAX. MCS_ERR_INVALID_PARAMS otherwise, or when
 * it does not fit. */
mcs_status_t mcs_parse_size(const char *text, uint64_t *bytes_out) MCS_MUST_CHECK;
/* "10000" (ms), "5000ms", "5s", "30m", "1h". */
mcs_status_t mcs_parse_duration_ms(const char *text, uint64_t *ms_out) MCS_MUST_CHECK;
/* 1/0 true/false yes/no on/off, any case. */
mcs_status_t mcs_parse_bool(const char *text, bool *value_out) MCS_MUST_CHECK;
mcs_status_t mcs_parse_u64(const char *text, uint64_t max, uint64_t *value_out) MCS_MUST_CHECK;
mcs_status_t mcs_parse_i64(const char *text, int64_t min, int64_t max, int64_t *value_out) MCS_MUST_CHECK;
mcs_status_t mcs_parse_double(const char *text, double min, double max, double *value_out) MCS_MUST_CHECK;

#define MCS_HOST_MAX 256 /* with the terminator */

typedef struct mcs_hostport {
    char host[MCS_HOST_MAX]; /* without brackets, with a %scope if given */
    uint16_t port;           /* 0 when none was given */
    bool has_port;
    bool is_ipv6; /* the host is an IPv6 literal: brackets are needed to print it with a port */
} mcs_hostport_t;

/* name, name:port, 1.2.3.4[:port], [v6][:port], bare v6, fe80::1%eth0[:port], [fe80::1%eth0][:port].
 * MCS_ERR_INVALID_PARAMS for an empty host, a port that is not 0..65535, or a host with other than letters, digits and
 * ._-%: .
 */
mcs_status_t mcs_parse_hostport(const char *text, mcs_hostport_t *out) MCS_MUST_CHECK;
/* "host:port" or "[v6]:port"; "host" alone when has_port is false. Cut to `size`. */
void mcs_hostport_format(const mcs_hostport_t *hp, char *text, size_t size);

#endif
