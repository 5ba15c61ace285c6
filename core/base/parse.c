/* See parse.h. */
#include "core/base/parse.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A program that embeds us may have set a locale with a decimal comma. */
static double c_strtod(const char *s, char **end)
{
    static locale_t c_locale;
    locale_t locale = __atomic_load_n(&c_locale, __ATOMIC_ACQUIRE);
    if (locale == NULL) { /* "C" is a constant of libc: nothing is allocated, a race gives the same */
        locale = newlocale(LC_ALL_MASK, "C", NULL);
        __atomic_store_n(&c_locale, locale, __ATOMIC_RELEASE);
    }
    return strtod_l(s, end, locale);
}

static const char *skip_space(const char *s)
{
    while (isspace((unsigned char)*s)) {
        s++;
    }
    return s;
}

/* Behind "e9", "E+09" …; `p` itself when that is not what is there. */
static const char *skip_exponent(const char *p)
{
    const char *digit = p + 1;
    if (*p != 'e' && *p != 'E') {
        return p;
    }
    digit += *digit == '+' || *digit == '-';
    if (!isdigit((unsigned char)*digit)) {
        return p;
    }
    while (isdigit((unsigned char)*digit)) {
        digit++;
    }
    return digit;
}

/* Behind a non-negative decimal number with an optional fraction; NULL when there is none. No hex, no inf. The value is
 * that of the exponent behind it too, which sizes take. */
static const char *scan_number(const char *s, double *value_out)
{
    const char *p = s;
    size_t digits = 0;
    while (isdigit((unsigned char)*p)) {
        p++;
        digits++;
    }
    if (*p == '.') {
        p++;
        while (isdigit((unsigned char)*p)) {
            p++;
            digits++;
        }
    }
    if (digits == 0) {
        return NULL;
    }
    *value_out = c_strtod(s, NULL);
    return p;
}

/* `rest` (trimmed at its end) equals `word`, any case. */
static bool is_word(const char *rest, const char *word)
{
    size_t len = strlen(rest);
    while (len > 0 && isspace((unsigned char)rest[len - 1])) {
        len--;
    }
    return len == strlen(word) && strncasecmp(rest, word, len) == 0;
}

mcs_status_t mcs_parse_size(const char *text, uint64_t *bytes_out)
{
    static const struct {
        const char *name;
        uint64_t factor;
    } units[] = {
        {"", 1},         {"B", 1},       {"K", MCS_KIB},  {"KB", MCS_KIB},       {"M", MCS_MIB},
        {"MB", MCS_MIB}, {"G", MCS_GIB}, {"GB", MCS_GIB}, {"T", 1024 * MCS_GIB}, {"TB", 1024 * MCS_GIB},
    };
    const char *s = skip_space(text);
    if (is_word(s, "infinite")) {
        *bytes_out = UINT64_MAX;
        return MCS_OK;
    }
    double value;
    const char *rest = scan_number(s, &value);
    if (rest == NULL) {
        return MCS_ERR_INVALID_PARAMS;
    }
    rest = skip_exponent(rest);
    bool whole = strspn(s, "0123456789") == (size_t)(rest - s);
    errno = 0;
    uint64_t exact = whole ? strtoull(s, NULL, 10) : 0;
    if (whole && errno == ERANGE) {
        return MCS_ERR_INVALID_PARAMS;
    }
    rest = skip_space(rest);
    for (size_t i = 0; i < MCS_ARRAY_LEN(units); i++) {
        if (!is_word(rest, units[i].name)) {
            continue;
        }
        uint64_t bytes;
        if (whole) { /* keep all 64 bits */
            if (__builtin_mul_overflow(exact, units[i].factor, &bytes)) {
                return MCS_ERR_INVALID_PARAMS;
            }
        } else {
            double product = value * (double)units[i].factor;
            if (product >= 18446744073709549568.0) {
                return MCS_ERR_INVALID_PARAMS;
            }
            bytes = (uint64_t)product;
        }
        *bytes_out = bytes;
        return MCS_OK;
    }
    return MCS_ERR_INVALID_PARAMS;
}

mcs_status_t mcs_parse_duration_ms(const char *text, uint64_t *ms_out)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {{"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
    const char *s = skip_space(text);
    double value;
    const char *rest = scan_number(s, &value);
    if (rest == NULL) {
        return MCS_ERR_INVALID_PARAMS;
    }
    rest = skip_space(rest);
    for (size_t i = 0; i < MCS_ARRAY_LEN(units); i++) {
        if (is_word(rest, units[i].name)) {
            double ms = value * units[i].factor;
            if (ms > 9007199254740992.0) {
                return MCS_ERR_INVALID_PARAMS;
            }
            *ms_out = (uint64_t)ms;
            return MCS_OK;
        }
    }
    return MCS_ERR_INVALID_PARAMS;
}

mcs_status_t mcs_parse_bool(const char *text, bool *value_out)
{
    static const char *const yes[] = {"1", "true", "yes", "on", "t", "y"};
    static const char *const no[] = {"0", "false", "no", "off", "f", "n"};
    const char *s = skip_space(text);
    for (size_t i = 0; i < MCS_ARRAY_LEN(yes); i++) {
        if (is_word(s, yes[i]) || is_word(s, no[i])) {
            *value_out = is_word(s, yes[i]);
            return MCS_OK;
        }
    }
    return MCS_ERR_INVALID_PARAMS;
}

mcs_status_t mcs_parse_u64(const char *text, uint64_t max, uint64_t *value_out)
{
    const char *s = skip_space(text);
    if (!isdigit((unsigned char)*s)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    char *end;
    errno = 0;
    uint64_t value = strtoull(s, &end, 10);
    if (errno != 0 || value > max || *skip_space(end) != '\0') {
        return MCS_ERR_INVALID_PARAMS;
    }
    *value_out = value;
    return MCS_OK;
}

mcs_status_t mcs_parse_i64(const char *text, int64_t min, int64_t max, int64_t *value_out)
{
    const char *s = skip_space(text);
    if (!isdigit((unsigned char)*s) && !((*s == '-' || *s == '+') && isdigit((unsigned char)s[1]))) {
        return MCS_ERR_INVALID_PARAMS;
    }
    char *end;
    errno = 0;
    int64_t value = strtoll(s, &end, 10);
    if (errno != 0 || value < min || value > max || *skip_space(end) != '\0') {
        return MCS_ERR_INVALID_PARAMS;
    }
    *value_out = value;
    return MCS_OK;
}

mcs_status_t mcs_parse_double(const char *text, double min, double max, double *value_out)
{
    const char *s = skip_space(text);
    if (*s == '\0') {
        return MCS_ERR_INVALID_PARAMS;
    }
    char *end;
    double value = c_strtod(s, &end);
    if (end == s || !isfinite(value) || value < min || value > max || *skip_space(end) != '\0') {
        return MCS_ERR_INVALID_PARAMS;
    }
    *value_out = value;
    return MCS_OK;
}

/* An IPv6 literal, with or without a %scope. */
static bool is_ipv6_literal(const char *host, size_t len)
{
    char plain[MCS_HOST_MAX];
    const char *scope = memchr(host, '%', len);
    size_t n = scope != NULL ? (size_t)(scope - host) : len;
    if (n == 0 || n >= sizeof(plain) || (scope != NULL && scope + 1 == host + len)) {
        return false;
    }
    /* A scope is the name of an interface: a colon or another % in it would make the text read differently the next
     * time. */
    if (scope != NULL && (memchr(scope, ':', len - n) != NULL || memchr(scope + 1, '%', len - n - 1) != NULL)) {
        return false;
    }
    memcpy(plain, host, n);
    plain[n] = '\0';
    struct in6_addr addr;
    return inet_pton(AF_INET6, plain, &addr) == 1;
}

static bool host_chars_ok(const char *host, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)host[i]) && strchr("._-%:", host[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static mcs_status_t fill_hostport(const char *host, size_t len, const char *port, mcs_hostport_t *out)
{
    mcs_hostport_t hp = {.has_port = port != NULL};
    uint64_t value = 0;
    if (len == 0 || len >= MCS_HOST_MAX || !host_chars_ok(host, len)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    if (port != NULL && (strspn(port, "0123456789") != strlen(port) || mcs_parse_u64(port, 65535, &value) != MCS_OK)) {
        return MCS_ERR_INVALID_PARAMS;
    }
    memcpy(hp.host, host, len);
    hp.port = (uint16_t)value;
    hp.is_ipv6 = is_ipv6_literal(host, len);
    if (!hp.is_ipv6 && memchr(host, ':', len) != NULL) {
        return MCS_ERR_INVALID_PARAMS;
    }
    *out = hp;
    return MCS_OK;
}

mcs_status_t mcs_parse_hostport(const char *text, mcs_hostport_t *out)
{
    size_t len = strlen(text);
    if (text[0] == '[') {
        const char *close = strchr(text, ']');
        if (close == NULL || !is_ipv6_literal(text + 1, (size_t)(close - text - 1)) ||
            (close[1] != '\0' && close[1] != ':')) {
            return MCS_ERR_INVALID_PARAMS;
        }
        return fill_hostport(text + 1, (size_t)(close - text - 1), close[1] == ':' ? close + 2 : NULL, out);
    }
    const char *scope = strchr(text, '%');
    const char *colon = scope != NULL ? strchr(scope, ':') : strrchr(text, ':');
    /* A bare literal is all host; with a scope, what follows its colon is a port. */
    if (colon == NULL || (scope == NULL && is_ipv6_literal(text, len))) {
        return fill_hostport(text, len, NULL, out);
    }
    return fill_hostport(text, (size_t)(colon - text), colon + 1, out);
}

void mcs_hostport_format(const mcs_hostport_t *hp, char *text, size_t size)
{
    if (!hp->has_port) {
        snprintf(text, size, "%s", hp->host);
    } else {
        snprintf(text, size, hp->is_ipv6 ? "[%s]:%u" : "%s:%u", hp->host, (unsigned)hp->port);
    }
}
