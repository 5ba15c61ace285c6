/* See embed.h. */
#include "master/embed.h"

#include <stdio.h>
#include <string.h>

#include "core/base/log.h"
#include "master/master.h"

#define AREA          "embed"
#define EMBED_THREADS 2

static mcs_status_t replace_string(mcs_master_config_t *config, const char *name, const char *value)
{
    return mcs_config_set(&mcs_master_config_table, config, MCS_CONFIG_FROM_DEFAULT, name, value, NULL);
}

static mcs_status_t fill_config(mcs_master_config_t *config, uint16_t port)
{
    mcs_buf_t why;
    mcs_buf_init(&why, 4096);
    mcs_status_t status = mcs_config_load_env(&mcs_master_config_table, config, &why);
    if (status != MCS_OK) {
        mcs_error(AREA, "embedded master not started: %s: %s", mcs_buf_cstr(&why), mcs_status_name(status));
    }
    mcs_buf_fini(&why);
    if (status == MCS_OK) {
        status = replace_string(config, "rpc_address", "127.0.0.1");
    }
    bool no_socket = strcmp(config->ipc_dir, "none") == 0;
    config->rpc_port = port;
    config->rpc_no_tcp = port == 0 && !no_socket;
    config->rpc_ephemeral = port == 0; /* without a socket loopback is the only way left */
    config->rpc_thread_num = EMBED_THREADS;
    config->http_off = true;
    config->enable_metric_reporting = false;
    return status;
}

static mcs_status_t write_address(const mcs_master_t *master, char *out, size_t size)
{
    const char *path = mcs_master_unix_path(master);
    int len = path[0] != '\0' ? snprintf(out, size, "unix:%s", path)
                              : snprintf(out, size, "127.0.0.1:%u", mcs_master_rpc_port(master));
    return len > 0 && (size_t)len < size ? MCS_OK : MCS_ERR_BUFFER_OVERFLOW;
}

static mcs_status_t embed_start(uint16_t port, void **master_out, char *address_out, size_t address_size)
{
    mcs_master_config_t config;
    mcs_master_t *master = NULL;
    char address[160];
    memset(&config, 0, sizeof(config));
    mcs_status_t status = mcs_config_init(&mcs_master_config_table, &config);
    if (status != MCS_OK) {
        return status;
    }
    status = fill_config(&config, port);
    if (status == MCS_OK) {
        status = mcs_master_start(&config, &master);
    }
    mcs_config_fini(&mcs_master_config_table, &config);
    if (status != MCS_OK) {
        return status;
    }
    status = write_address(master, address, MCS_MIN(sizeof(address), address_size));
    if (status != MCS_OK) {
        mcs_master_stop(master);
        return status;
    }
    memcpy(address_out, address, strlen(address) + 1);
    *master_out = master;
    return MCS_OK;
}

static void embed_stop(void *master)
{
    mcs_master_stop((mcs_master_t *)master);
}

const mcs_embed_ops_t mcs_master_embed_ops = {.start = embed_start, .stop = embed_stop};
