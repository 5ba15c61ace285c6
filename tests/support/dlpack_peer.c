/* The other side of DLPack, in C and to the letter of its ABI, for the tests of ours: an extension module that makes
 * capsules of every kind (also wrong ones), takes them as a consumer does, counts deleters, and has exchange tables.
 *
 *   capsule(buffer, shape, strides, dtype, device, versioned, version, flags, offset)   on the buffer's memory
 *
 *   take(capsule)                a dict of what it says; "taken" is for give_back
 *
 *   give_back(taken, threaded)   calls the deleter, here or on a thread that Python knows nothing of
 *
 *   counts()                     {"made": ..., "deleted": ..., "borrowed": ...}
 *
 *   exchange(kind)               a capsule with an exchange table; what is borrowed is the tensor of object.peer */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/tensor/dlpack.h"

static long g_made;
static long g_deleted;
static long g_borrowed;

typedef struct made {
    union {
        mcs_dl_managed_t legacy;
        mcs_dl_versioned_t versioned;
    } managed;
    int64_t shape[16];
    int64_t strides[16];
    PyObject *keep;
} made_t;

static void delete_made(made_t *made)
{
    PyGILState_STATE gil = PyGILState_Ensure();
    g_deleted++;
    Py_DECREF(made->keep);
    PyGILState_Release(gil);
    free(made);
}

static void delete_legacy(mcs_dl_managed_t *self)
{
    delete_made((made_t *)(void *)self);
}

static void delete_versioned(mcs_dl_versioned_t *self)
{
    delete_made((made_t *)(void *)self);
}

static void drop_capsule(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, MCS_DL_LEGACY)) {
        delete_legacy(PyCapsule_GetPointer(capsule, MCS_DL_LEGACY));
    } else if (PyCapsule_IsValid(capsule, MCS_DL_VERSIONED)) {
        delete_versioned(PyCapsule_GetPointer(capsule, MCS_DL_VERSIONED));
    }
}

static int numbers_of(PyObject *list, int64_t *numbers)
{
    Py_ssize_t count = PySequence_Size(list);
    for (Py_ssize_t i = 0; i < count && i < 16; i++) {
        PyObject *item = PySequence_GetItem(list, i);
        numbers[i] = item != NULL ? PyLong_AsLongLong(item) : 0;
        Py_XDECREF(item);
    }
    return PyErr_Occurred() != NULL ? -1 : (int)count;
}

static PyObject *make_capsule(PyObject *module, PyObject *args)
{
    PyObject *buffer;
    PyObject *shape;
    PyObject *strides;
    int code, bits, lanes, device, device_id, versioned, major, minor;
    unsigned long long flags;
    unsigned long long offset;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOO(iii)(ii)i(ii)KK", &buffer, &shape, &strides, &code, &bits, &lanes, &device,
                          &device_id, &versioned, &major, &minor, &flags, &offset)) {
        return NULL;
    }
    Py_buffer view = {0};
    if (buffer != Py_None && PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) != 0) {
        return NULL;
    }
    void *data = view.buf;
    if (buffer != Py_None) {
        PyBuffer_Release(&view); /* the object is kept, and the tests do not resize it */
    }
    made_t *made = calloc(1, sizeof(*made));
    made->keep = Py_NewRef(buffer);
    mcs_dl_tensor_t tensor = {.data = data,
                              .device_type = device,
                              .device_id = device_id,
                              .ndim = numbers_of(shape, made->shape),
                              .code = (uint8_t)code,
                              .bits = (uint8_t)bits,
                              .lanes = (uint16_t)lanes,
                              .shape = made->shape,
                              .strides = strides != Py_None ? made->strides : NULL,
                              .byte_offset = offset};
    if (strides != Py_None) {
        numbers_of(strides, made->strides);
    }
    g_made++;
    if (!versioned) {
        made->managed.legacy = (mcs_dl_managed_t){.tensor = tensor, .deleter = delete_legacy};
        return PyCapsule_New(made, MCS_DL_LEGACY, drop_capsule);
    }
    made->managed.versioned = (mcs_dl_versioned_t){
        .version = {(uint32_t)major, (uint32_t)minor}, .deleter = delete_versioned, .flags = flags, .tensor = tensor};
    if (major != MCS_DL_MAJOR) { /* whoever reads on does it in ruins */
        memset(&made->managed.versioned.tensor, 0x5a, sizeof(tensor));
    }
    return PyCapsule_New(made, MCS_DL_VERSIONED, drop_capsule);
}

/* ---- consumer ---- */

static PyObject *list_of(const int64_t *numbers, int32_t count)
{
    PyObject *list = PyList_New(numbers != NULL ? count : 0);
    for (int32_t i = 0; numbers != NULL && i < count; i++) {
        PyList_SetItem(list, i, PyLong_FromLongLong(numbers[i]));
    }
    return list;
}

static PyObject *take(PyObject *module, PyObject *capsule)
{
    (void)module;
    int versioned = PyCapsule_IsValid(capsule, MCS_DL_VERSIONED);
    if (!versioned && !PyCapsule_IsValid(capsule, MCS_DL_LEGACY)) {
        PyErr_SetString(PyExc_ValueError, "not an unconsumed DLPack capsule");
        return NULL;
    }
    void *managed = PyCapsule_GetPointer(capsule, versioned ? MCS_DL_VERSIONED : MCS_DL_LEGACY);
    PyCapsule_SetName(capsule, versioned ? MCS_DL_VERSIONED_USED : MCS_DL_LEGACY_USED);
    mcs_dl_versioned_t *v = versioned ? managed : NULL;
    const mcs_dl_tensor_t *t = versioned ? &v->tensor : &((mcs_dl_managed_t *)managed)->tensor;
    PyObject *shape = list_of(t->shape, t->ndim);
    PyObject *strides = list_of(t->strides, t->ndim);
    PyObject *dict = Py_BuildValue(
        "{s:(Ki),s:(II),s:K,s:K,s:(ii),s:(iii),s:O,s:O,s:K}", "taken", (unsigned long long)(uintptr_t)managed,
        versioned, "version", versioned ? v->version.major : 0, versioned ? v->version.minor : 0, "flags",
        (unsigned long long)(versioned ? v->flags : 0), "data", (unsigned long long)(uintptr_t)t->data, "device",
        t->device_type, t->device_id, "dtype", t->code, t->bits, t->lanes, "shape", shape, "strides", strides,
        "byte_offset", (unsigned long long)t->byte_offset);
    Py_DECREF(shape);
    Py_DECREF(strides);
    return dict;
}

typedef struct to_give {
    void *managed;
    int versioned;
} to_give_t;

static void *call_deleter(void *arg)
{
    to_give_t *given = arg;
    if (given->versioned) {
        mcs_dl_versioned_t *managed = given->managed;
        managed->deleter(managed);
    } else {
        mcs_dl_managed_t *managed = given->managed;
        managed->deleter(managed);
    }
    return NULL;
}

static PyObject *give_back(PyObject *module, PyObject *args)
{
    unsigned long long address;
    int threaded = 0;
    to_give_t given;
    (void)module;
    if (!PyArg_ParseTuple(args, "(Ki)|p", &address, &given.versioned, &threaded)) {
        return NULL;
    }
    given.managed = (void *)(uintptr_t)address;
    if (threaded) {
        pthread_t thread;
        Py_BEGIN_ALLOW_THREADS;
        pthread_create(&thread, NULL, call_deleter, &given);
        pthread_join(thread, NULL);
        Py_END_ALLOW_THREADS;
    } else {
        call_deleter(&given);
    }
    Py_RETURN_NONE;
}

/* ---- the exchange table ---- */

static int borrow(void *object, mcs_dl_tensor_t *out)
{
    PyObject *peer = PyObject_GetAttrString(object, "peer");
    if (peer == NULL) {
        return -1;
    }
    mcs_dl_versioned_t *managed = PyCapsule_GetPointer(peer, MCS_DL_VERSIONED);
    Py_DECREF(peer); /* the object still has it */
    if (managed == NULL) {
        return -1;
    }
    g_borrowed++;
    *out = managed->tensor;
    return 0;
}

static int fail_to_borrow(void *object, mcs_dl_tensor_t *out)
{
    (void)object;
    (void)out;
    PyErr_SetString(PyExc_BufferError, "not this one");
    return -1;
}

static mcs_dl_exchange_t g_table = {.version = {1, 3}, .borrow_from_object = borrow};
static mcs_dl_exchange_t g_newer = {.version = {2, 0}, .older = &g_table};
static mcs_dl_exchange_t g_newest_only = {.version = {2, 0}};
static mcs_dl_exchange_t g_failing = {.version = {1, 3}, .borrow_from_object = fail_to_borrow};
static mcs_dl_exchange_t g_without = {.version = {1, 3}};

static PyObject *exchange(PyObject *module, PyObject *kind)
{
    static const struct {
        const char *name;
        mcs_dl_exchange_t *table;
    } kinds[] = {{"plain", &g_table},
                 {"newer", &g_newer},
                 {"newest only", &g_newest_only},
                 {"failing", &g_failing},
                 {"without", &g_without}};
    (void)module;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(kind, kinds[i].name) == 0) {
            return PyCapsule_New(kinds[i].table, MCS_DL_EXCHANGE, NULL);
        }
    }
    return PyCapsule_New(&g_table, "something else", NULL);
}

static PyObject *counts(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("{s:l,s:l,s:l}", "made", g_made, "deleted", g_deleted, "borrowed", g_borrowed);
}

static PyMethodDef methods[] = {
    {"capsule", make_capsule, METH_VARARGS, NULL}, {"take", take, METH_O, NULL},
    {"give_back", give_back, METH_VARARGS, NULL},  {"exchange", exchange, METH_O, NULL},
    {"counts", counts, METH_NOARGS, NULL},         {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "dlpack_peer", .m_methods = methods};

PyMODINIT_FUNC PyInit_dlpack_peer(void);
PyMODINIT_FUNC PyInit_dlpack_peer(void)
{
    return PyModuleDef_Init(&definition);
}
