/* save_tensor_to_safetensor, load_tensor_from_safetensor: tensors as files of the safetensors format, which are a
 * length of 8 bytes, that much JSON that names tensors with their types, shapes and places, and the elements. Written
 * and read here, so that neither torch nor the package safetensors is needed; the JSON is Python's own.
 *
 * A file is written beside its name and renamed when it is whole: a save that fails leaves what was there. */
#include "python/src/tensor_device.h"
#include "python/src/tensor_put.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/alloc.h"
#include "core/base/log.h"

#define HEADER_MAX     (UINT64_C(100) << 20) /* as the format's own reader has it */
#define FILE_NOT_FOUND (-1100)

/* json.<function>(argument), a new reference. */
static PyObject *json_call(const char *function, PyObject *argument)
{
    PyObject *json = PyImport_ImportModule("json");
    PyObject *result = json != NULL ? PyObject_CallMethod(json, function, "(O)", argument) : NULL;
    Py_XDECREF(json);
    return result;
}

/* ---- writing ---- */

/* The first bytes of the file: length and JSON, padded to 8. NULL: an exception. */
static PyObject *make_head(PyObject *key, PyObject *tensor)
{
    mpy_tensor_t *t = mpy_tensor_of(tensor);
    PyObject *shape = PyObject_GetAttrString(tensor, "shape");
    PyObject *entry = shape != NULL
                          ? Py_BuildValue("{O:{s:s,s:O,s:[i,K]}}", key, "dtype", mcs_dtype_row(t->dtype)->safetensors,
                                          "shape", shape, "data_offsets", 0, (unsigned long long)t->bytes)
                          : NULL;
    PyObject *text = entry != NULL ? json_call("dumps", entry) : NULL; /* ASCII */
    Py_ssize_t len = 0;
    const char *chars = text != NULL ? PyUnicode_AsUTF8AndSize(text, &len) : NULL;
    PyObject *head = NULL;
    if (chars != NULL) {
        uint64_t padded = MCS_ALIGN_UP((uint64_t)len, 8);
        head = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(sizeof(padded) + padded));
        char *bytes = head != NULL ? PyBytes_AsString(head) : NULL;
        if (bytes != NULL) {
            memset(bytes, ' ', sizeof(padded) + padded);
            memcpy(bytes, &padded, sizeof(padded));
            memcpy(bytes + sizeof(padded), chars, (size_t)len);
        }
    }
    Py_XDECREF(shape);
    Py_XDECREF(entry);
    Py_XDECREF(text);
    return head;
}

static bool write_all(int fd, const char *bytes, uint64_t len)
{
    while (len > 0) {
        ssize_t written = write(fd, bytes, MCS_MIN(len, MCS_GIB));
        if (written < 0 && errno != EINTR) {
            return false;
        }
        if (written > 0) {
            bytes += written;
            len -= (uint64_t)written;
        }
    }
    return true;
}

/* False: errno says why, and nothing is left. Without the GIL. */
static bool write_file(const char *path, const char *head, size_t head_len, const char *data, uint64_t data_len)
{
    static unsigned g_saves; /* names of files at once differ; no more than that: relaxed */
    unsigned number = __atomic_add_fetch(&g_saves, 1, __ATOMIC_RELAXED);
    char *beside = mcs_asprintf("%s.%d-%u.part", path, (int)getpid(), number);
    if (beside == NULL) {
        errno = ENOMEM;
        return false;
    }
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool whole = fd >= 0 && write_all(fd, head, head_len) && write_all(fd, data, data_len);
    int error = errno;
    if (fd >= 0 && close(fd) != 0 && whole) {
        error = errno;
        whole = false;
    }
    if (whole && rename(beside, path) != 0) {
        error = errno;
        whole = false;
    }
    if (!whole && fd >= 0) {
        unlink(beside);
    }
    mcs_free(beside);
    errno = error;
    return whole;
}

/* A key as text: a name in the JSON, and the file's where none is given. */
static PyObject *text_of_key(const mpy_key_t *key)
{
    return PyUnicode_DecodeUTF8(key->bytes.ptr, (Py_ssize_t)key->bytes.len, "strict");
}

/* *code_out: 0, or MCS_INVALID_PARAMS when it cannot be written. False: an exception. */
static bool save(PyObject *key, PyObject *path, PyObject *tensor, int64_t *code_out)
{
    PyObject *head = make_head(key, tensor);
    if (head == NULL) {
        return false;
    }
    const char *name = PyBytes_AsString(path);
    const char *bytes = PyBytes_AsString(head);
    Py_ssize_t len = PyBytes_Size(head);
    mpy_call_t call;
    mpy_quiet_begin(&call);
    bool written = write_file(name, bytes, (size_t)len, mpy_tensor_of(tensor)->data, mpy_tensor_of(tensor)->bytes);
    int error = errno;
    mpy_quiet_end(&call);
    Py_DECREF(head);
    if (!written) {
        mcs_warn("python", "save_tensor_to_safetensor failed: %s: %s", name, strerror(error));
    }
    *code_out = written ? 0 : MCS_INVALID_PARAMS;
    return true;
}

static PyObject *save_stored(mpy_store_t *self, const mpy_key_t *key, PyObject *path)
{
    PyObject *tensor;
    int64_t code;
    PyObject *name = text_of_key(key);
    if (name == NULL || !mpy_tensor_stored(self, key->bytes, &tensor, &code)) {
        Py_XDECREF(name);
        return NULL;
    }
    bool ok = true;
    if (tensor != NULL) {
        ok = save(name, path, tensor, &code);
        Py_DECREF(tensor);
    } else {
        code = self->ready ? FILE_NOT_FOUND : MCS_INVALID_PARAMS;
    }
    Py_DECREF(name);
    return mpy_result(ok, code);
}

/* The file's name as bytes: what was given, else the key. NULL: an exception. */
static PyObject *path_of(PyObject *given, PyObject *key)
{
    PyObject *path = NULL;
    return PyUnicode_FSConverter(given != NULL && given != Py_None ? given : key, &path) ? path : NULL;
}

MPY_STORE_METHOD(save_tensor_to_safetensor)
{
    static const char *const params[] = {"key", "file_name", NULL};
    static const mpy_sig_t sig = {"save_tensor_to_safetensor", 1, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given) || !mpy_key(sig.name, "key", given[0], &key)) {
        return NULL;
    }
    PyObject *path = path_of(given[1], key.ref);
    PyObject *answer = path != NULL ? save_stored(mpy_store_of(self), &key, path) : NULL;
    Py_XDECREF(path);
    mpy_key_drop(&key);
    return answer;
}

/* ---- reading ---- */

/* [offset, offset + len) of the file. False: it is shorter, or cannot be read. */
static bool read_range(int fd, uint64_t offset, char *bytes, uint64_t len)
{
    while (len > 0) {
        ssize_t got = pread(fd, bytes, MCS_MIN(len, MCS_GIB), (off_t)offset);
        if (got == 0 || (got < 0 && errno != EINTR)) {
            return false;
        }
        if (got > 0) {
            bytes += got;
            offset += (uint64_t)got;
            len -= (uint64_t)got;
        }
    }
    return true;
}

/* The JSON's object, and where the elements begin. NULL without an exception: it is no such file. */
static PyObject *read_head(int fd, uint64_t *data_offset_out)
{
    uint64_t len;
    struct stat file;
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || !read_range(fd, 0, (char *)&len, sizeof(len)) ||
        len > HEADER_MAX || len > (uint64_t)file.st_size - sizeof(len)) {
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)len);
    if (bytes == NULL) {
        return NULL;
    }
    PyObject *object = read_range(fd, sizeof(len), PyBytes_AsString(bytes), len) ? json_call("loads", bytes) : NULL;
    Py_DECREF(bytes);
    if (object != NULL && !PyDict_Check(object)) {
        Py_CLEAR(object);
    }
    *data_offset_out = sizeof(len) + len;
    return object;
}

/* The entry of that name, or the only one there is. A borrowed reference; NULL without an exception: none. */
static PyObject *choose_entry(PyObject *head, PyObject *name)
{
    PyObject *entry = PyDict_GetItemWithError(head, name);
    PyObject *key;
    PyObject *value;
    Py_ssize_t at = 0;
    size_t count = 0;
    while (entry == NULL && PyErr_Occurred() == NULL && PyDict_Next(head, &at, &key, &value)) {
        if (!PyUnicode_Check(key) || PyUnicode_CompareWithASCIIString(key, "__metadata__") != 0) {
            count++;
        }
    }
    at = 0;
    while (count == 1 && entry == NULL && PyDict_Next(head, &at, &key, &value)) {
        if (!PyUnicode_Check(key) || PyUnicode_CompareWithASCIIString(key, "__metadata__") != 0) {
            entry = value;
        }
    }
    return entry != NULL && PyDict_Check(entry) ? entry : NULL;
}

/* The numbers of a list, at most `max`. -1: something else. */
static Py_ssize_t numbers_of(PyObject *list, int64_t *numbers, Py_ssize_t max)
{
    Py_ssize_t count = list != NULL && PyList_Check(list) ? PyList_Size(list) : -1;
    for (Py_ssize_t i = 0; i < count && count <= max; i++) {
        numbers[i] = PyLong_Check(PyList_GetItem(list, i)) ? PyLong_AsLongLong(PyList_GetItem(list, i)) : -1;
        if (numbers[i] < 0) {
            return -1;
        }
    }
    return count <= max ? count : -1;
}

/* *begin_out: of the elements, from the end of the JSON. False: the entry describes no tensor that there can be. */
static bool describe(PyObject *entry, mcs_tensor_header_t *header, uint64_t *begin_out)
{
    int64_t shape[MCS_TENSOR_DIMS_MAX];
    int64_t offsets[2];
    mcs_dtype_t dtype;
    PyObject *type = PyDict_GetItemString(entry, "dtype");
    const char *name = type != NULL && PyUnicode_Check(type) ? PyUnicode_AsUTF8AndSize(type, NULL) : NULL;
    Py_ssize_t ndim = numbers_of(PyDict_GetItemString(entry, "shape"), shape, MCS_TENSOR_DIMS_MAX);
    if (name == NULL || !mcs_dtype_by_safetensors(name, &dtype) || ndim < 0 ||
        numbers_of(PyDict_GetItemString(entry, "data_offsets"), offsets, 2) != 2 || offsets[1] < offsets[0] ||
        mcs_tensor_full(dtype, (int32_t)ndim, shape, header) != MCS_OK ||
        header->data_bytes != (uint64_t)(offsets[1] - offsets[0])) {
        return false;
    }
    *begin_out = (uint64_t)offsets[0];
    return true;
}

/* A StoredTensor of the file; NULL without an exception: it has none. */
static PyObject *read_tensor(mpy_state_t *state, int fd, PyObject *name)
{
    uint64_t data_offset;
    uint64_t begin;
    mcs_tensor_header_t header;
    struct stat file;
    void *memory;
    PyObject *head = read_head(fd, &data_offset);
    PyObject *entry = head != NULL ? choose_entry(head, name) : NULL;
    bool fits = entry != NULL && describe(entry, &header, &begin) && fstat(fd, &file) == 0 &&
                begin <= (uint64_t)file.st_size && header.data_bytes <= (uint64_t)file.st_size;
    Py_XDECREF(head);
    PyObject *owner = fits ? mpy_tensor_memory(MCS_TENSOR_HEADER_SIZE + header.data_bytes, &memory) : NULL;
    if (owner == NULL) {
        return NULL;
    }
    char *data = (char *)memory + MCS_TENSOR_HEADER_SIZE;
    mpy_call_t call;
    mpy_quiet_begin(&call);
    bool whole = read_range(fd, data_offset + begin, data, header.data_bytes);
    mpy_quiet_end(&call);
    PyObject *tensor = whole ? mpy_tensor_new(state, &header, data, false, owner) : NULL;
    Py_DECREF(owner);
    return tensor;
}

/* Stores it. False: an exception, or *code_out says why not. */
static bool store_tensor(mpy_store_t *self, const char *name, mcs_bytes_t key, PyObject *tensor, int64_t *code_out)
{
    mpy_source_t source;
    mpy_puts_t puts = {.name = name};
    mpy_placement_t placement;
    *code_out = MCS_INVALID_PARAMS;
    mpy_take_t taken = mpy_source_take(name, self->store, tensor, &source);
    if (taken == MPY_TAKEN) {
        taken = mpy_puts_whole(&puts, 0, key, &source);
        mpy_source_drop(&source);
    }
    bool ok = taken == MPY_TAKEN && mpy_placement_take(mpy_store_state(self), name, NULL, &placement);
    if (ok) {
        ok = mpy_puts_run(self, &puts, &placement, 1, 0, code_out);
        mpy_placement_drop(&placement);
    }
    mpy_puts_drop(&puts);
    return ok && *code_out == 0;
}

static PyObject *load(mpy_store_t *self, const mpy_key_t *key, PyObject *path)
{
    static const char name[] = "load_tensor_from_safetensor";
    const char *file_name = PyBytes_AsString(path);
    PyObject *entry = text_of_key(key);
    int64_t code = 0;
    if (entry == NULL) {
        return NULL;
    }
    int fd = open(file_name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    PyObject *tensor = fd >= 0 ? read_tensor(mpy_store_state(self), fd, entry) : NULL;
    if (tensor == NULL && PyErr_Occurred() != NULL && mpy_take_refusal() == MPY_RAISED) {
        goto out;
    }
    if (tensor == NULL) {
        mcs_warn("python", "%s failed: %s: %s", name, file_name,
                 fd < 0 ? strerror(errno) : "no safetensors file with that tensor");
    } else if (!store_tensor(self, name, key->bytes, tensor, &code)) {
        mcs_warn("python", "%s failed: %s: %s", name, file_name, mcs_code_name((int)code));
        Py_CLEAR(tensor);
    }

out:
    if (fd >= 0) {
        close(fd);
    }
    Py_DECREF(entry);
    return PyErr_Occurred() != NULL ? NULL : mpy_tensor_answer(mpy_store_state(self), tensor);
}

MPY_STORE_METHOD(load_tensor_from_safetensor)
{
    static const char *const params[] = {"key", "file_name", NULL};
    static const mpy_sig_t sig = {"load_tensor_from_safetensor", 0, params};
    PyObject *given[MPY_PARAMS_MAX];
    mpy_key_t key;
    if (!mpy_bind(&sig, args, nargs, kwnames, given)) {
        return NULL;
    }
    if (given[1] == NULL) {
        PyErr_SetString(PyExc_TypeError, "load_tensor_from_safetensor() missing required argument: 'file_name'");
        return NULL;
    }
    PyObject *path = path_of(given[1], given[1]);
    PyObject *answer = NULL;
    bool named = given[0] != NULL && given[0] != Py_None;
    if (path != NULL && mpy_key(sig.name, "key", named ? given[0] : path, &key)) {
        answer = load(mpy_store_of(self), &key, path);
        mpy_key_drop(&key);
    }
    Py_XDECREF(path);
    return answer;
}
