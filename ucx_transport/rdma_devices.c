/* See rdma_devices.h. */
#include "ucx_transport/rdma_devices.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"

#define AREA        "ucx"
#define DEVICE_NAME 64 /* bytes of a name, as the kernel has it */
#define DEVICES_MAX 64
#define PORTS       8u

static bool is_up(const char *root, const char *device, unsigned port)
{
    char path[512];
    char state[32] = "";
    snprintf(path, sizeof(path), "%s/class/infiniband/%s/ports/%u/state", root, device, port);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    bool read = fgets(state, sizeof(state), file) != NULL;
    fclose(file);
    return read && strstr(state, "ACTIVE") != NULL;
}

/* A device's first port that is up, or `port` if one is asked for; 0 = none. */
static unsigned port_of(const char *root, const char *device, unsigned port)
{
    for (unsigned p = port != 0 ? port : 1; p <= (port != 0 ? port : PORTS); p++) {
        if (is_up(root, device, p)) {
            return p;
        }
    }
    return 0;
}

static mcs_status_t append(char *out, size_t size, const char *device, unsigned port)
{
    size_t used = strlen(out);
    int n = snprintf(out + used, size - used, "%s%s:%u", used > 0 ? "," : "", device, port);
    if (n < 0 || (size_t)n >= size - used) {
        mcs_error(AREA, "RDMA devices: the list is too long");
        return MCS_ERR_INVALID_PARAMS;
    }
    return MCS_OK;
}

bool ucxt_next_name(const char **list, char *name, size_t size)
{
    const char *start = *list + strspn(*list, ", ");
    size_t len = strcspn(start, ", ");
    *list = start + len;
    snprintf(name, size, "%.*s", (int)MCS_MIN(len, size - 1), start);
    return len > 0;
}

static bool is_listed(const char *list, const char *device)
{
    char name[DEVICE_NAME];
    while (ucxt_next_name(&list, name, sizeof(name))) {
        if (strcmp(name, device) == 0) {
            return true;
        }
    }
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Their names, in order. */
static size_t list_devices(const char *root, char names[DEVICES_MAX][DEVICE_NAME])
{
    char path[512];
    size_t count = 0;
    snprintf(path, sizeof(path), "%s/class/infiniband", root);
    DIR *dir = opendir(path);
    for (const struct dirent *entry; dir != NULL && count < DEVICES_MAX && (entry = readdir(dir)) != NULL;) {
        size_t len = strlen(entry->d_name);
        if (entry->d_name[0] != '.' && len < DEVICE_NAME) {
            memcpy(names[count++], entry->d_name, len + 1);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    qsort(names, count, sizeof(names[0]), by_name);
    return count;
}

static mcs_status_t discover(const char *root, const char *filter, unsigned port, char *out, size_t size)
{
    char names[DEVICES_MAX][DEVICE_NAME];
    mcs_status_t status = MCS_OK;
    size_t count = list_devices(root, names);
    for (size_t i = 0; i < count && status == MCS_OK; i++) {
        unsigned found = filter[0] == '\0' || is_listed(filter, names[i]) ? port_of(root, names[i], port) : 0;
        if (found != 0) {
            status = append(out, size, names[i], found);
        }
    }
    if (status == MCS_OK && out[0] == '\0') {
        mcs_error(AREA, "protocol rdma: this machine has no RDMA device%s whose port is up",
                  filter[0] != '\0' ? " of those in MC_MS_FILTERS" : "");
        status = MCS_ERR_INVALID_PARAMS;
    }
    return status;
}

bool ucxt_rdma_is_any(const char *wanted)
{
    return wanted[strspn(wanted, ", ")] == '\0' || strcmp(wanted, "auto-discovery") == 0;
}

bool ucxt_rdma_is_there(const char *root)
{
    char names[DEVICES_MAX][DEVICE_NAME];
    return list_devices(root, names) > 0;
}

mcs_status_t ucxt_rdma_devices(const char *root, const char *wanted, const char *filter, unsigned port, char *out,
                               size_t size)
{
    char name[DEVICE_NAME];
    out[0] = '\0';
    if (ucxt_rdma_is_any(wanted)) {
        return discover(root, filter, port, out, size);
    }
    while (ucxt_next_name(&wanted, name, sizeof(name))) {
        char *colon = strchr(name, ':');
        unsigned asked = colon != NULL ? (unsigned)strtoul(colon + 1, NULL, 10) : port;
        if (colon != NULL) {
            *colon = '\0';
        }
        unsigned found = strchr(name, '/') == NULL && (colon == NULL || asked != 0) ? port_of(root, name, asked) : 0;
        if (found == 0) {
            mcs_error(AREA, "protocol rdma: device %s is not there, or its port is not up", name);
            return MCS_ERR_INVALID_PARAMS;
        }
        mcs_status_t status = append(out, size, name, found);
        if (status != MCS_OK) {
            return status;
        }
    }
    return MCS_OK;
}
