/* Segments mounted at run time, and replicas given up. */
#include "python/src/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/parse.h"
#include "core/base/status.h"

#define AREA "python"
#define SLAB (UINT64_C(16) << 20) /* sizes of segments are whole ones of these */

/* ---- replicas ---- */

MPY_STORE_METHOD(batch_replica_clear)
{
    static const char *const params[] = {"keys", "segment_name", NULL};
    static const mpy_sig_t sig = {"batch_replica_clear", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_keys_t keys;
    const char *segment = "";
    if (!mpy_bind(&sig, args, nargs, kwnames, given) ||
        (given[1] != NULL && !mpy_text(sig.name, params[1], given[1], &segment)) ||
        !mpy_keys(sig.name, "keys", given[0], &keys)) {
        return NULL;
    }
    int *results = mpy_calloc(keys.count, sizeof(*results));
    PyObject *cleared = NULL;
    if (results != NULL) {
        mpy_call_t call;
        mpy_call_begin(&call);
        int code = mcs_replica_clear(mpy_store_of(self)->store, keys.items, keys.count, segment, results);
        cleared = mpy_call_end(&call) ? PyList_New(0) : NULL;
        for (size_t i = 0; cleared != NULL && code == 0 && i < keys.count; i++) {
            if (results[i] == 0 && PyList_Append(cleared, PyTuple_GetItem(keys.refs, (Py_ssize_t)i)) != 0) {
                Py_CLEAR(cleared);
            }
        }
    }
    mcs_free(results);
    mpy_keys_drop(&keys);
    return cleared;
}

/* ---- segments ---- */

static bool parse_id(const char *text, mcs_segment_id_t *id_out)
{
    char high[32];
    const char *dash = strchr(text, '-');
    size_t len = dash != NULL ? (size_t)(dash - text) : sizeof(high);
    if (len >= sizeof(high)) {
        return false;
    }
    memcpy(high, text, len);
    high[len] = '\0';
    return mcs_parse_u64(high, UINT64_MAX, &id_out->hi) == MCS_OK &&
           mcs_parse_u64(dash + 1, UINT64_MAX, &id_out->lo) == MCS_OK;
}

/* "cpu:N", or anything else for any node. */
static int node_of(const char *location)
{
    uint64_t node;
    return strncmp(location, "cpu:", 4) == 0 && mcs_parse_u64(location + 4, 1023, &node) == MCS_OK ? (int)node : -1;
}

static bool is_device(const char *location)
{
    return strncmp(location, "cuda:", 5) == 0;
}

int mpy_mount_device(mcs_store_t *store, const char *location, uint64_t size, mcs_segment_id_t *id_out)
{
    uint64_t device;
    if (!is_device(location) || mcs_parse_u64(location + 5, 1023, &device) != MCS_OK) {
        mcs_error(AREA, "location %.40s is none of a device's memory, like cuda:0: %s", location,
                  mcs_status_name(MCS_ERR_INVALID_PARAMS));
        return MCS_INVALID_PARAMS;
    }
    return mcs_mount_device_memory(store, size, (int)device, id_out);
}

static PyObject *mount_answer(int64_t code, const mcs_segment_id_t *id, uint64_t size)
{
    PyObject *ids = PyList_New(0);
    if (ids != NULL && code == 0) {
        PyObject *text = PyUnicode_FromFormat("%llu-%llu", (unsigned long long)id->hi, (unsigned long long)id->lo);
        if (text == NULL || PyList_Append(ids, text) != 0) {
            Py_CLEAR(ids);
        }
        Py_XDECREF(text);
    }
    PyObject *answer = ids != NULL ? Py_BuildValue("{s:L,s:O,s:K}", "ret", (long long)code, "segment_ids", ids,
                                                   "allocated_size", (unsigned long long)(code == 0 ? size : 0))
                                   : NULL;
    Py_XDECREF(ids);
    return answer;
}

/* Of the segment to be mounted: the store's own data plane, or TCP, which is always in it. Without the GIL. */
static bool is_spoken(mcs_store_t *store, const char *protocol)
{
    return strcmp(protocol, "tcp") == 0 || (strcmp(protocol, "rdma") == 0 && mcs_has_rdma(store) != 0);
}

MPY_STORE_METHOD(allocate_and_mount_segment)
{
    static const char *const params[] = {"size", "protocol", "location", NULL};
    static const mpy_sig_t sig = {"allocate_and_mount_segment", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t size;
    const char *protocol = "tcp";
    const char *location = "";
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, params[0], given[0], &size) ||
        (given[1] != NULL && !mpy_text(sig.name, params[1], given[1], &protocol)) ||
        (given[2] != NULL && !mpy_text(sig.name, params[2], given[2], &location))) {
        return NULL;
    }
    mcs_segment_id_t id = {0, 0};
    int code = MCS_INVALID_PARAMS;
    mpy_call_t call;
    mpy_call_begin(&call);
    mcs_store_t *store = mpy_store_of(self)->store;
    if (size > 0 && size <= UINT64_MAX - SLAB && is_spoken(store, protocol)) {
        size = MCS_ALIGN_UP(size, SLAB);
        code = is_device(location) ? mpy_mount_device(store, location, size, &id)
                                   : mcs_mount_memory(store, size, node_of(location), &id);
    }
    return mpy_call_end(&call) ? mount_answer(code, &id, size) : NULL;
}

/* Every one that is ours goes; the first that is not is the result. */
static PyObject *unmount(PyObject *self, const char *name, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const params[] = {"segment_ids", "grace_period_seconds", NULL};
    const mpy_sig_t sig = {name, 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t grace = 0;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) ||
        (given[1] != NULL && !mpy_u64(name, params[1], given[1], &grace))) {
        return NULL;
    }
    PyObject *list = mpy_sequence(name, params[0], given[0]);
    size_t count = list != NULL ? (size_t)PyTuple_Size(list) : 0;
    mcs_segment_id_t *ids = list != NULL ? mpy_calloc(count, sizeof(*ids)) : NULL;
    bool ok = ids != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        const char *text;
        ok = mpy_text(name, params[0], PyTuple_GetItem(list, (Py_ssize_t)i), &text);
        if (ok && !parse_id(text, &ids[i])) {
            ids[i] = (mcs_segment_id_t){0, 0}; /* nobody's */
        }
    }
    PyObject *answer = NULL;
    if (ok) {
        int code = mpy_store_of(self)->ready ? 0 : MCS_INVALID_PARAMS;
        mpy_call_t call;
        mpy_call_begin(&call);
        for (size_t i = 0; i < count; i++) {
            int result = mcs_unmount_memory(mpy_store_of(self)->store, ids[i], (uint32_t)MCS_MIN(grace, 86400u));
            code = code == 0 ? result : code;
        }
        answer = mpy_result(mpy_call_end(&call), code);
    }
    mcs_free(ids);
    Py_XDECREF(list);
    return answer;
}

MPY_STORE_METHOD(unmount_and_free_segment)
{
    return unmount(self, "unmount_and_free_segment", args, nargs, kwnames);
}

MPY_STORE_METHOD(unmount_segment)
{
    return unmount(self, "unmount_segment", args, nargs, kwnames);
}

#define FILE_PAGE UINT64_C(4096)

/* What is asked of a file whose memory is offered: MCS_OK, or what is wrong with it. */
static int64_t check_file(const char *path, uint64_t size, uint64_t offset)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int64_t code = errno == ENOENT || errno == ENOTDIR ? MCS_ERR_FILE_NOT_FOUND : MCS_ERR_FILE_OPEN_FAIL;
        mcs_error(AREA, "mount_segment: %s: %s: %s", path, strerror(errno), mcs_status_name((mcs_status_t)code));
        return code;
    }
    bool fits = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && size > 0 && offset % FILE_PAGE == 0 &&
                (uint64_t)st.st_size >= size && offset <= (uint64_t)st.st_size - size;
    close(fd);
    if (!fits) {
        mcs_error(AREA, "mount_segment: %s: no file with %llu bytes at %llu, a multiple of a page: %s", path,
                  (unsigned long long)size, (unsigned long long)offset, mcs_status_name(MCS_ERR_INVALID_PARAMS));
    }
    return fits ? MCS_OK : MCS_ERR_INVALID_PARAMS;
}

/* The file says how much memory is given to the store. The bytes lie in memory of the store's own, all the same: a file
 * that its maker truncates would kill every process of the host that has mapped it. */
MPY_STORE_METHOD(mount_segment)
{
    static const char *const params[] = {"path", "size", "offset", "protocol", "location", NULL};
    static const mpy_sig_t sig = {"mount_segment", 2, params};
    PyObject *given[MPY_PARAMS_MAX];
    const char *texts[5] = {"", "", "", "tcp", ""};
    uint64_t numbers[5] = {0};
    if (!mpy_bind(&sig, args, nargs, kwnames, given)) {
        return NULL;
    }
    for (size_t i = 0; i < MCS_ARRAY_LEN(texts); i++) {
        bool is_number = i == 1 || i == 2;
        if (given[i] != NULL && !(is_number ? mpy_u64(sig.name, params[i], given[i], &numbers[i])
                                            : mpy_text(sig.name, params[i], given[i], &texts[i]))) {
            return NULL;
        }
    }
    mcs_segment_id_t id = {0, 0};
    int64_t code = MCS_INVALID_PARAMS;
    mpy_call_t call;
    mpy_call_begin(&call);
    if (is_device(texts[4])) {
        mcs_error(AREA, "mount_segment: a file is host memory, not %.40s: see allocate_and_mount_segment", texts[4]);
    } else if (mpy_store_of(self)->ready && is_spoken(mpy_store_of(self)->store, texts[3])) {
        code = check_file(texts[0], numbers[1], numbers[2]);
    }
    if (code == MCS_OK) {
        uint64_t size = MCS_ALIGN_UP(numbers[1], FILE_PAGE);
        code = mcs_mount_memory(mpy_store_of(self)->store, size, node_of(texts[4]), &id);
    }
    PyObject *answer = mpy_call_end(&call) ? mount_answer(code, &id, 0) : NULL;
    if (answer != NULL && PyDict_DelItemString(answer, "allocated_size") != 0) {
        Py_CLEAR(answer);
    }
    return answer;
}

/* There is no offload, so nothing of it is mounted. */
MPY_STORE_METHOD(unmount_local_disk_segment)
{
    static const char *const params[] = {"grace_period_seconds", NULL};
    static const mpy_sig_t sig = {"unmount_local_disk_segment", 0, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t grace;
    (void)self;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) ||
        (given[0] != NULL && !mpy_u64(sig.name, params[0], given[0], &grace))) {
        return NULL;
    }
    return PyLong_FromLong(0);
}
