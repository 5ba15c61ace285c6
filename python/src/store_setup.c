/* setup in its forms, close, and what is asked about the store itself.
 *
 *   setup(local_hostname, metadata_server, global_segment_size, local_buffer_size, protocol, rdma_devices,
 * master_server_addr, ...) setup({"local_hostname": ..., ...})          values become text; sizes are "16MB", "1.5 GB"
 *
 * Both spellings of the engines are taken: device_name for rdma_devices, master_server_address for master_server_addr.
 */
#include "python/src/store.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/log.h"
#include "core/base/parse.h"

enum {
    P_HOSTNAME,
    P_METADATA,
    P_SEGMENT,
    P_BUFFER,
    P_PROTOCOL,
    P_DEVICES,
    P_MASTER,
    P_ENGINE,
    P_SSD_OFFLOAD,
    P_SSD_PATH,
    P_TENANT,
    P_HTTP_SERVER,
    P_HTTP_PORT,
    P_DEVICES_ALIAS,
    P_MASTER_ALIAS,
    P_DEVICE_SEGMENT,
    P_COUNT
};

static const char *const setup_params[] = {
    "local_hostname",
    "metadata_server",
    "global_segment_size",
    "local_buffer_size",
    "protocol",
    "rdma_devices",
    "master_server_addr",
    "engine",
    "enable_ssd_offload",
    "ssd_offload_path",
    "tenant_id",
    "enable_client_http_server",
    "client_http_port",
    "device_name",
    "master_server_address",
    "device_segment",
    NULL,
};
/* The aliases and our own are keywords only. */
#define POSITIONAL_MAX P_DEVICES_ALIAS

/* The limits of the dict form. */
#define SEGMENT_MIN       UINT64_C(1024)
#define BUFFER_MAX        (UINT64_C(1) << 40)
#define DICT_SIZE         "16MB"
#define DICT_MASTER       "127.0.0.1:50051"
#define DICT_PROTOCOL     "tcp"
#define DEFAULT_TENANT    "default"
#define DEFAULT_HTTP_PORT 9300
#define INIT_ALL_BUFFER   (UINT64_C(1) << 30)

typedef struct wanted {
    mcs_setup_t setup;
    bool ssd_offload;
    char device_location[16]; /* "": no segment in a device's memory */
    uint64_t device_size;
} wanted_t;

/* UCX keeps locks and threads that do not survive a fork: in a child of a process that has set a store up, its start
 * may never return. A program that forks its workers must set stores up after the fork, or start the workers with
 * multiprocessing's "spawn". */
static bool forked_after_setup(mpy_store_t *self)
{
    mpy_state_t *state = mpy_store_state(self);
    if (state->setup_pid != 0 && state->setup_pid != getpid()) {
        mcs_error("python",
                  "setup refused: process %d was forked from process %d after a setup there; set up after the fork, or "
                  "spawn: %s",
                  (int)getpid(), (int)state->setup_pid, mcs_code_name(MCS_INVALID_PARAMS));
        return true;
    }
    state->setup_pid = getpid();
    return false;
}

/* Keeps this object's picture of the store in step. */
static PyObject *finish_setup(mpy_store_t *self, mpy_call_t *call, int code, uint64_t local_buffer_size)
{
    char name[8];
    bool up =
        mcs_store_hostname(self->store, name, sizeof(name)) > 0; /* refused arguments leave an earlier setup alone */
    bool ok = mpy_call_end(call);
    if (code == 0) {
        mpy_memory_clear(self->memory);
        self->local_buffer_size = local_buffer_size;
        mpy_store_mark_ready(self);
    } else if (!up) {
        mpy_store_mark_closed(self);
    }
    return mpy_result(ok, code);
}

static PyObject *run_setup(mpy_store_t *self, const wanted_t *wanted)
{
    if (wanted->ssd_offload) {
        mcs_error("python",
                  "setup refused: enable_ssd_offload asks for an SSD tier, which this store does not have: %s",
                  mcs_code_name(MCS_INVALID_PARAMS));
        return PyLong_FromLong(MCS_INVALID_PARAMS);
    }
    if (forked_after_setup(self)) {
        return PyLong_FromLong(MCS_INVALID_PARAMS);
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    int code = mcs_store_setup(self->store, &wanted->setup);
    if (code == 0 && wanted->device_location[0] != '\0') {
        mcs_segment_id_t id;
        code = mpy_mount_device(self->store, wanted->device_location, wanted->device_size, &id);
        if (code != 0) {
            (void)mcs_store_close(self->store); /* all that was asked for, or nothing */
        }
    }
    return finish_setup(self, &call, code, wanted->setup.local_buffer_size);
}

/* ---- arguments ---- */

/* One of two spellings must be given, and not both. */
static bool merge_alias(PyObject **given, int main_index, int alias_index)
{
    if (given[alias_index] == NULL) {
        return true;
    }
    if (given[main_index] != NULL) {
        PyErr_Format(PyExc_TypeError, "setup() got both '%s' and '%s'", setup_params[main_index],
                     setup_params[alias_index]);
        return false;
    }
    given[main_index] = given[alias_index];
    return true;
}

static bool optional_bool(PyObject *const *given, int index, bool *out)
{
    *out = false;
    return given[index] == NULL || mpy_bool("setup", setup_params[index], given[index], out);
}

/* "cuda:0=4GB"; "" = none. */
static bool parse_device_segment(const char *text, wanted_t *w)
{
    const char *equals = strchr(text, '=');
    size_t len = equals != NULL ? (size_t)(equals - text) : 0;
    if (text[0] == '\0') {
        return true;
    }
    if (len == 0 || len >= sizeof(w->device_location) || mcs_parse_size(equals + 1, &w->device_size) != MCS_OK ||
        w->device_size == 0) {
        mcs_error("python", "setup refused: device_segment '%.100s' is no device and size, like cuda:0=4GB: %s", text,
                  mcs_code_name(MCS_INVALID_PARAMS));
        return false;
    }
    memcpy(w->device_location, text, len);
    w->device_location[len] = '\0';
    return true;
}

static void set_http(wanted_t *w, bool http_server, uint64_t port)
{
    w->setup.http_server = http_server;
    w->setup.http_port = (uint32_t)(port <= UINT32_MAX ? port : UINT32_MAX); /* set-up refuses what is no port */
}

static bool take_optional(PyObject *const *given, wanted_t *w)
{
    const char *path = "";
    uint64_t port = DEFAULT_HTTP_PORT;
    bool http_server = false;
    w->setup.tenant_id = DEFAULT_TENANT;
    bool ok =
        optional_bool(given, P_SSD_OFFLOAD, &w->ssd_offload) && optional_bool(given, P_HTTP_SERVER, &http_server) &&
        (given[P_SSD_PATH] == NULL || mpy_text("setup", setup_params[P_SSD_PATH], given[P_SSD_PATH], &path)) &&
        (given[P_TENANT] == NULL || mpy_text("setup", setup_params[P_TENANT], given[P_TENANT], &w->setup.tenant_id)) &&
        (given[P_HTTP_PORT] == NULL || mpy_u64("setup", setup_params[P_HTTP_PORT], given[P_HTTP_PORT], &port));
    set_http(w, http_server, port);
    return ok;
}

static bool take_arguments(PyObject *const *given, wanted_t *w)
{
    mcs_setup_t *s = &w->setup;
    const struct {
        int index;
        const char **place;
    } texts[] = {
        {P_HOSTNAME, &s->local_hostname}, {P_METADATA, &s->metadata_server},  {P_PROTOCOL, &s->protocol},
        {P_DEVICES, &s->rdma_devices},    {P_MASTER, &s->master_server_addr},
    };
    for (size_t i = 0; i < MCS_ARRAY_LEN(texts); i++) {
        if (!mpy_text("setup", setup_params[texts[i].index], given[texts[i].index], texts[i].place)) {
            return false;
        }
    }
    return mpy_u64("setup", setup_params[P_SEGMENT], given[P_SEGMENT], &s->global_segment_size) &&
           mpy_u64("setup", setup_params[P_BUFFER], given[P_BUFFER], &s->local_buffer_size) && take_optional(given, w);
}

/* *refused: the value cannot be; the log says so. */
static bool take_device_segment(PyObject *const *given, wanted_t *w, bool *refused)
{
    const char *text = "";
    bool ok = given[P_DEVICE_SEGMENT] == NULL ||
              mpy_text("setup", setup_params[P_DEVICE_SEGMENT], given[P_DEVICE_SEGMENT], &text);
    *refused = ok && !parse_device_segment(text, w);
    return ok;
}

static PyObject *setup_by_arguments(mpy_store_t *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const mpy_sig_t sig = {"setup", 0, setup_params};
    PyObject *given[MPY_PARAMS_MAX];
    wanted_t wanted = {.setup = {.struct_size = sizeof(wanted.setup)}};
    if (nargs > POSITIONAL_MAX) {
        PyErr_Format(PyExc_TypeError, "setup() takes at most %d positional arguments (%zd given)", POSITIONAL_MAX,
                     nargs);
        return NULL;
    }
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !merge_alias(given, P_DEVICES, P_DEVICES_ALIAS) ||
        !merge_alias(given, P_MASTER, P_MASTER_ALIAS)) {
        return NULL;
    }
    for (int i = P_HOSTNAME; i <= P_MASTER; i++) {
        if (given[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "setup() missing required argument: '%s' (position %d)", setup_params[i],
                         i + 1);
            return NULL;
        }
    }
    bool refused = false;
    if (!take_arguments(given, &wanted) || !take_device_segment(given, &wanted, &refused)) {
        return NULL;
    }
    return refused ? PyLong_FromLong(MCS_INVALID_PARAMS) : run_setup(self, &wanted);
}

/* ---- the dict form ---- */

/* The texts of a dict's items, by parameter; owned. */
typedef struct dict_texts {
    PyObject *objects[P_COUNT];
    const char *texts[P_COUNT]; /* NULL = not given */
} dict_texts_t;

static void drop_dict(dict_texts_t *d)
{
    for (size_t i = 0; i < P_COUNT; i++) {
        Py_CLEAR(d->objects[i]);
    }
}

static int param_index(PyObject *name)
{
    for (int i = 0; setup_params[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(name, setup_params[i]) == 0) {
            return i;
        }
    }
    return -1;
}

/* Other keys belong to other programs that read the same configuration; a None is as good as none. */
static bool take_item(dict_texts_t *d, PyObject *key, PyObject *value)
{
    PyObject *name = PyObject_Str(key);
    int index = name != NULL ? param_index(name) : -1;
    Py_XDECREF(name);
    if (name == NULL || index < 0 || index == P_ENGINE || value == Py_None) {
        return name != NULL;
    }
    d->objects[index] = PyObject_Str(value);
    return d->objects[index] != NULL && mpy_text("setup", setup_params[index], d->objects[index], &d->texts[index]);
}

static bool take_dict(PyObject *dict, dict_texts_t *out)
{
    /* a copy: str() of an item is the caller's code and may change the dict */
    PyObject *items = PyDict_Items(dict);
    dict_texts_t d = {0};
    bool ok = items != NULL;
    Py_ssize_t count = ok ? PyList_Size(items) : 0;
    for (Py_ssize_t i = 0; ok && i < count; i++) {
        PyObject *pair = PyList_GetItem(items, i);
        ok = take_item(&d, PyTuple_GetItem(pair, 0), PyTuple_GetItem(pair, 1));
    }
    Py_XDECREF(items);
    if (!ok) {
        drop_dict(&d);
        return false;
    }
    *out = d;
    return true;
}

static const char *text_or(const dict_texts_t *d, int index, int alias, const char *fallback)
{
    if (d->texts[index] != NULL) {
        return d->texts[index];
    }
    return alias >= 0 && d->texts[alias] != NULL ? d->texts[alias] : fallback;
}

static bool parse_dict_size(const dict_texts_t *d, int index, uint64_t min, uint64_t max, uint64_t *out)
{
    const char *text = text_or(d, index, -1, DICT_SIZE);
    if (mcs_parse_size(text, out) != MCS_OK || (*out != 0 && (*out < min || *out > max))) {
        mcs_error("python",
                  "setup refused: %s '%s' is not a size in bounds (like 512MB, 4 GB or a number of bytes): %s",
                  setup_params[index], text, mcs_code_name(MCS_INVALID_PARAMS));
        return false;
    }
    return true;
}

static bool parse_dict_bool(const dict_texts_t *d, int index, bool *out)
{
    *out = false;
    if (d->texts[index] != NULL && d->texts[index][0] != '\0' && mcs_parse_bool(d->texts[index], out) != MCS_OK) {
        mcs_error("python", "setup refused: %s '%s' is neither true nor false: %s", setup_params[index],
                  d->texts[index], mcs_code_name(MCS_INVALID_PARAMS));
        return false;
    }
    return true;
}

static bool parse_dict_port(const dict_texts_t *d, uint64_t *out)
{
    const char *text = d->texts[P_HTTP_PORT];
    if (text != NULL && text[0] != '\0' && mcs_parse_u64(text, UINT16_MAX, out) != MCS_OK) {
        mcs_error("python", "setup refused: %s '%s' is not a port: %s", setup_params[P_HTTP_PORT], text,
                  mcs_code_name(MCS_INVALID_PARAMS));
        return false;
    }
    return true;
}

/* False: a value that cannot be; the log says which. */
static bool read_dict(const dict_texts_t *d, wanted_t *w)
{
    mcs_setup_t *s = &w->setup;
    for (int i = P_HOSTNAME; i <= P_METADATA; i++) {
        if (d->texts[i] == NULL) {
            mcs_error("python", "setup refused: the dict has no %s: %s", setup_params[i],
                      mcs_code_name(MCS_INVALID_PARAMS));
            return false;
        }
    }
    s->local_hostname = d->texts[P_HOSTNAME];
    s->metadata_server = d->texts[P_METADATA];
    s->protocol = text_or(d, P_PROTOCOL, -1, DICT_PROTOCOL);
    s->rdma_devices = text_or(d, P_DEVICES, P_DEVICES_ALIAS, "");
    s->master_server_addr = text_or(d, P_MASTER, P_MASTER_ALIAS, DICT_MASTER);
    s->tenant_id = text_or(d, P_TENANT, -1, DEFAULT_TENANT);
    bool http_server = false;
    uint64_t http_port = DEFAULT_HTTP_PORT;
    bool ok = parse_dict_size(d, P_SEGMENT, SEGMENT_MIN, UINT64_MAX, &s->global_segment_size) &&
              parse_dict_size(d, P_BUFFER, 0, BUFFER_MAX, &s->local_buffer_size) &&
              parse_dict_bool(d, P_SSD_OFFLOAD, &w->ssd_offload) && parse_dict_bool(d, P_HTTP_SERVER, &http_server) &&
              parse_dict_port(d, &http_port) && parse_device_segment(text_or(d, P_DEVICE_SEGMENT, -1, ""), w);
    set_http(w, http_server, http_port);
    return ok;
}

static PyObject *setup_by_dict(mpy_store_t *self, PyObject *dict)
{
    dict_texts_t texts;
    wanted_t wanted = {.setup = {.struct_size = sizeof(wanted.setup)}};
    if (!take_dict(dict, &texts)) {
        return NULL;
    }
    PyObject *answer = read_dict(&texts, &wanted) ? run_setup(self, &wanted) : PyLong_FromLong(MCS_INVALID_PARAMS);
    drop_dict(&texts);
    return answer;
}

MPY_STORE_METHOD(setup)
{
    Py_ssize_t keywords = kwnames != NULL ? PyTuple_Size(kwnames) : 0;
    bool only = nargs + keywords == 1;
    if (only && keywords == 1 && PyUnicode_CompareWithASCIIString(PyTuple_GetItem(kwnames, 0), "config") == 0) {
        if (!PyDict_Check(args[0])) {
            mpy_wrong_type("setup", "config", "a dict", args[0]);
            return NULL;
        }
        return setup_by_dict(mpy_store_of(self), args[0]);
    }
    if (only && nargs == 1 && PyDict_Check(args[0])) {
        return setup_by_dict(mpy_store_of(self), args[0]);
    }
    return setup_by_arguments(mpy_store_of(self), args, nargs, kwnames);
}

MPY_STORE_METHOD(init_all)
{
    static const char *const params[] = {"protocol", "device_name", "mount_segment_size", NULL};
    static const mpy_sig_t sig = {"init_all", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    wanted_t wanted = {.setup = {.struct_size = sizeof(wanted.setup),
                                 .local_hostname = "localhost:12345",
                                 .metadata_server = "127.0.0.1:2379",
                                 .master_server_addr = DICT_MASTER,
                                 .tenant_id = DEFAULT_TENANT,
                                 .local_buffer_size = INIT_ALL_BUFFER}};
    if (!mpy_bind(&sig, args, nargs, kwnames, given) ||
        !mpy_text(sig.name, params[0], given[0], &wanted.setup.protocol) ||
        !mpy_text(sig.name, params[1], given[1], &wanted.setup.rdma_devices) ||
        !mpy_u64(sig.name, params[2], given[2], &wanted.setup.global_segment_size)) {
        return NULL;
    }
    return run_setup(mpy_store_of(self), &wanted);
}

MPY_STORE_NOARGS(close)
{
    (void)unused;
    mpy_store_t *store = mpy_store_of(self);
    mpy_call_t call;
    mpy_store_mark_closed(store);
    mpy_memory_clear(store->memory);
    mpy_call_begin(&call);
    int code = mcs_store_close(store->store);
    return mpy_result(mpy_call_end(&call), code);
}

MPY_STORE_NOARGS(health_check)
{
    (void)unused;
    mpy_call_t call;
    mpy_call_begin(&call);
    int code = mcs_store_health_check(mpy_store_of(self)->store);
    return mpy_result(mpy_call_end(&call), code);
}

MPY_STORE_NOARGS(get_hostname)
{
    (void)unused;
    char text[512];
    mpy_call_t call;
    mpy_call_begin(&call);
    mcs_store_hostname(mpy_store_of(self)->store, text, sizeof(text));
    return mpy_call_end(&call) ? PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace") : NULL;
}

MPY_STORE_NOARGS(get_offload_rpc_read_count)
{
    (void)self;
    (void)unused;
    return PyLong_FromLong(0); /* there is no offload */
}

MPY_STORE_NOARGS(local_buffer_size)
{
    (void)unused;
    mpy_store_t *store = mpy_store_of(self);
    return PyLong_FromUnsignedLongLong(store->ready ? store->local_buffer_size : 0);
}

/* ---- counters ---- */

#define COUNTERS_MAX 256

typedef struct counter_list {
    size_t count;
    const char *names[COUNTERS_MAX]; /* static storage of the library */
    uint64_t values[COUNTERS_MAX];
} counter_list_t;

static void take_counter(void *arg, const char *name, uint64_t value)
{
    counter_list_t *list = arg;
    if (list->count < COUNTERS_MAX) {
        list->names[list->count] = name;
        list->values[list->count++] = value;
    }
}

MPY_STORE_NOARGS(counters)
{
    (void)unused;
    counter_list_t list = {0};
    mpy_call_t call;
    mpy_call_begin(&call);
    mcs_store_counters(mpy_store_of(self)->store, take_counter, &list);
    if (!mpy_call_end(&call)) {
        return NULL;
    }
    PyObject *dict = PyDict_New();
    for (size_t i = 0; dict != NULL && i < list.count; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(list.values[i]);
        if (value == NULL || PyDict_SetItemString(dict, list.names[i], value) != 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(value);
    }
    return dict;
}

/* ---- by way of a client process ---- */

MPY_STORE_METHOD(setup_dummy)
{
    static const char *const params[] = {"mem_pool_size", "local_buffer_size", "server_address", NULL};
    static const mpy_sig_t sig = {"setup_dummy", 3, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t pool;
    uint64_t buffer;
    const char *address;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, params[0], given[0], &pool) ||
        !mpy_u64(sig.name, params[1], given[1], &buffer) || !mpy_text(sig.name, params[2], given[2], &address)) {
        return NULL;
    }
    mpy_store_t *store = mpy_store_of(self);
    if (forked_after_setup(store)) {
        return PyLong_FromLong(MCS_INVALID_PARAMS);
    }
    mpy_call_t call;
    mpy_call_begin(&call);
    int code = mcs_store_setup_dummy(store->store, pool, buffer, address);
    return finish_setup(store, &call, code, buffer);
}

MPY_STORE_METHOD(alloc_from_mem_pool)
{
    static const char *const params[] = {"size", NULL};
    static const mpy_sig_t sig = {"alloc_from_mem_pool", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    uint64_t size;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_u64(sig.name, params[0], given[0], &size)) {
        return NULL;
    }
    return PyLong_FromVoidPtr(mcs_store_pool_take(mpy_store_of(self)->store, size));
}
