/* A command line of mooncake_master, one argument a line: the table takes it or says why not, and is whole afterwards.
 */
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "master/master.h"

#define ARGS_MAX 32

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    char *text = malloc(len + 1);
    char name[] = "mooncake_master";
    char *argv[ARGS_MAX + 1] = {name};
    int argc = 1;
    mcs_master_config_t config;
    mcs_buf_t why;
    if (text == NULL) {
        return 0;
    }
    memcpy(text, bytes, len);
    text[len] = '\0';
    for (char *rest = text, *line; argc < ARGS_MAX && (line = strsep(&rest, "\n")) != NULL;) {
        argv[argc++] = line;
    }
    mcs_log_set_level(MCS_LOG_OFF);
    mcs_buf_init(&why, 4096);
    if (mcs_config_init(&mcs_master_config_table, &config) != MCS_OK) {
        abort();
    }
    mcs_status_t status = mcs_config_load_flags(&mcs_master_config_table, &config, argc, argv, &why);
    if (status != MCS_OK && why.len == 0 && mcs_buf_status(&why) == MCS_OK) {
        abort(); /* a refusal without a word */
    }
    if (config.port > 65535 || config.eviction_ratio < 0 || config.eviction_ratio > 1 || config.cluster_id == NULL) {
        abort();
    }
    mcs_config_fini(&mcs_master_config_table, &config);
    mcs_buf_fini(&why);
    free(text);
    return 0;
}
