/* Every text parser: what is taken is in range, and what is printed parses to the same. */
#include <stdlib.h>
#include <string.h>

#include "core/base/parse.h"
#include "core/base/rng.h"

static void attack_host(const char *text)
{
    mcs_hostport_t hp;
    mcs_hostport_t again;
    char printed[MCS_HOST_MAX + 16];
    if (mcs_parse_hostport(text, &hp) != MCS_OK) {
        return;
    }
    mcs_hostport_format(&hp, printed, sizeof(printed));
    if (mcs_parse_hostport(printed, &again) != MCS_OK || strcmp(hp.host, again.host) != 0 || hp.port != again.port ||
        hp.has_port != again.has_port) {
        abort();
    }
}

static void attack_id(const char *text)
{
    mcs_id_t id;
    mcs_id_t again;
    char printed[MCS_ID_TEXT_MAX];
    if (mcs_id_parse(text, &id) != MCS_OK) {
        return;
    }
    mcs_id_format(id, printed);
    if (mcs_id_parse(printed, &again) != MCS_OK || !mcs_id_equal(id, again)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    char *text = malloc(len + 1);
    uint64_t number;
    int64_t integer;
    double real;
    bool flag;
    if (text == NULL) {
        return 0;
    }
    memcpy(text, bytes, len);
    text[len] = '\0';
    attack_host(text);
    if (mcs_parse_u64(text, 1000, &number) == MCS_OK && number > 1000) {
        abort();
    }
    if (mcs_parse_i64(text, -5, 5, &integer) == MCS_OK && (integer < -5 || integer > 5)) {
        abort();
    }
    if (mcs_parse_double(text, 0, 1, &real) == MCS_OK && !(real >= 0 && real <= 1)) {
        abort();
    }
    attack_id(text);
    (void)!mcs_parse_size(text, &number);
    (void)!mcs_parse_duration_ms(text, &number);
    (void)!mcs_parse_bool(text, &flag);
    free(text);
    return 0;
}
