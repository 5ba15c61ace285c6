/* The other side of DLPack, in C and to the letter of its ABI, for the tests of ours: an extension module that makes
 * capsules of every kind (also wrong ones), takes them as a consumer does, counts deleters, and has exchange tables.
 *
 *   capsule(buffer, shape, strides, dtype, device, versioned, version, flags, offset)   on the buffer's memory
 *
 *   capsule_at(address, ...)                                                           on memory at an address
 *
 *   take(capsule)                a dict of what it says; "taken" is for give_back
 *
 *   give_back(taken, threaded)   calls the deleter, here or on a thread that Python knows nothing of
 *
 *   counts()                     {"made": ..., "deleted": ..., "borrowed": ...}
 *
 *   exchange(kind)               a capsule with an exchange table; what is borrowed is the tensor of object.peer
 *
 *   current_stream(handle)       what those tables answer; None: they fail
 *
 *   lend(object)                 by its type's table: what is lent, as take() says it
 *
 *   managed(type, object)        by the type's table: what is given, as take() says it
 *
 *   import_into(type, capsule)   the type's own tensor of what is in a versioned capsule
 *
 *   allocate(type, shape, dtype, device)   a new one; ValueError with what the table said of it
 */
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

/* What the two kinds of capsule() have in common; `keep` is held by it. */
static PyObject *finish_capsule(PyObject *keep, void *data, PyObject *rest)
{
    PyObject *shape;
    PyObject *strides;
    int code, bits, lanes, device, device_id, versioned, major, minor;
    unsigned long long flags;
    unsigned long long offset;
    if (!PyArg_ParseTuple(rest, "OO(iii)(ii)i(ii)KK", &shape, &strides, &code, &bits, &lanes, &device, &device_id,
                          &versioned, &major, &minor, &flags, &offset)) {
        return NULL;
    }
    made_t *made = calloc(1, sizeof(*made));
    made->keep = Py_NewRef(keep);
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

static PyObject *make_capsule(PyObject *module, PyObject *args)
{
    PyObject *buffer = PyTuple_GetItem(args, 0);
    PyObject *rest = PyTuple_GetSlice(args, 1, PyTuple_Size(args));
    Py_buffer view = {0};
    (void)module;
    if (buffer == NULL || rest == NULL || (buffer != Py_None && PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE) != 0)) {
        return NULL;
    }
    void *data = view.buf;
    if (buffer != Py_None) {
        PyBuffer_Release(&view); /* the object is kept, and the tests do not resize it */
    }
    PyObject *capsule = finish_capsule(buffer, data, rest);
    Py_DECREF(rest);
    return capsule;
}

static PyObject *make_capsule_at(PyObject *module, PyObject *args)
{
    PyObject *address = PyTuple_GetItem(args, 0);
    PyObject *rest = PyTuple_GetSlice(args, 1, PyTuple_Size(args));
    void *data = address != NULL ? PyLong_AsVoidPtr(address) : NULL;
    (void)module;
    PyObject *capsule = rest != NULL && PyErr_Occurred() == NULL ? finish_capsule(Py_None, data, rest) : NULL;
    Py_XDECREF(rest);
    return capsule;
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

static PyObject *tell(void *managed, int versioned, const mcs_dl_tensor_t *t)
{
    mcs_dl_versioned_t *v = versioned ? managed : NULL;
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
    return tell(managed, versioned,
                versioned ? &((mcs_dl_versioned_t *)managed)->tensor : &((mcs_dl_managed_t *)managed)->tensor);
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

/* The capsule's tensor, which the taker ends now. */
static int give_managed(void *object, mcs_dl_versioned_t **out)
{
    PyObject *peer = PyObject_GetAttrString(object, "peer");
    mcs_dl_versioned_t *managed = peer != NULL ? PyCapsule_GetPointer(peer, MCS_DL_VERSIONED) : NULL;
    Py_XDECREF(peer);
    if (managed == NULL) {
        return -1;
    }
    made_t *made = calloc(1, sizeof(*made));
    *made = *(made_t *)(void *)managed;
    made->managed.versioned.tensor.shape = made->shape;
    made->managed.versioned.tensor.strides = managed->tensor.strides != NULL ? made->strides : NULL;
    Py_INCREF(made->keep);
    g_made++;
    *out = &made->managed.versioned;
    return 0;
}

static uint64_t g_stream;
static int g_no_stream = 1;

static int answer_stream(int32_t device_type, int32_t device_id, void **out_stream)
{
    (void)device_type;
    (void)device_id;
    if (g_no_stream) {
        PyErr_SetString(PyExc_RuntimeError, "no stream");
        return -1;
    }
    *out_stream = (void *)(uintptr_t)g_stream;
    return 0;
}

static PyObject *set_current_stream(PyObject *module, PyObject *handle)
{
    (void)module;
    g_no_stream = handle == Py_None;
    g_stream = g_no_stream ? 0 : PyLong_AsUnsignedLongLong(handle);
    return PyErr_Occurred() != NULL ? NULL : Py_NewRef(Py_None);
}

static int fail_to_borrow(void *object, mcs_dl_tensor_t *out)
{
    (void)object;
    (void)out;
    PyErr_SetString(PyExc_BufferError, "not this one");
    return -1;
}

static mcs_dl_exchange_t g_table = {.version = {1, 3}, .borrow_from_object = borrow, .current_stream = answer_stream};
static mcs_dl_exchange_t g_managed = {
    .version = {1, 3}, .managed_from_object = give_managed, .current_stream = answer_stream};
static mcs_dl_exchange_t g_newer = {.version = {2, 0}, .older = &g_table};
static mcs_dl_exchange_t g_newest_only = {.version = {2, 0}};
static mcs_dl_exchange_t g_failing = {.version = {1, 3}, .borrow_from_object = fail_to_borrow};
static mcs_dl_exchange_t g_without = {.version = {1, 3}};

static PyObject *exchange(PyObject *module, PyObject *kind)
{
    static const struct {
        const char *name;
        mcs_dl_exchange_t *table;
    } kinds[] = {{"plain", &g_table},     {"managed", &g_managed}, {"newer", &g_newer}, {"newest only", &g_newest_only},
                 {"failing", &g_failing}, {"without", &g_without}};
    (void)module;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (PyUnicode_CompareWithASCIIString(kind, kinds[i].name) == 0) {
            return PyCapsule_New(kinds[i].table, MCS_DL_EXCHANGE, NULL);
        }
    }
    return PyCapsule_New(&g_table, "something else", NULL);
}

/* ---- tables of others ---- */

static const mcs_dl_exchange_t *table_of(PyObject *type)
{
    PyObject *capsule = PyObject_GetAttrString(type, MCS_DL_EXCHANGE_ATTRIBUTE);
    const mcs_dl_exchange_t *table = capsule != NULL ? PyCapsule_GetPointer(capsule, MCS_DL_EXCHANGE) : NULL;
    Py_XDECREF(capsule);
    return table;
}

static PyObject *lend(PyObject *module, PyObject *object)
{
    const mcs_dl_exchange_t *table = table_of((PyObject *)Py_TYPE(object));
    mcs_dl_tensor_t tensor;
    (void)module;
    return table != NULL && table->borrow_from_object(object, &tensor) == 0 ? tell(NULL, 0, &tensor) : NULL;
}

static PyObject *ask_managed(PyObject *module, PyObject *args)
{
    PyObject *type;
    PyObject *object;
    mcs_dl_versioned_t *managed;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO", &type, &object)) {
        return NULL;
    }
    const mcs_dl_exchange_t *table = table_of(type);
    return table != NULL && table->managed_from_object(object, &managed) == 0 ? tell(managed, 1, &managed->tensor)
                                                                              : NULL;
}

static PyObject *import_into(PyObject *module, PyObject *args)
{
    PyObject *type;
    PyObject *capsule;
    void *made = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO", &type, &capsule)) {
        return NULL;
    }
    const mcs_dl_exchange_t *table = table_of(type);
    mcs_dl_versioned_t *managed = table != NULL ? PyCapsule_GetPointer(capsule, MCS_DL_VERSIONED) : NULL;
    if (managed == NULL || PyCapsule_SetName(capsule, MCS_DL_VERSIONED_USED) != 0) {
        return NULL;
    }
    return table->managed_to_object(managed, &made) == 0 ? made : NULL;
}

static void note_error(void *error_ctx, const char *kind, const char *message)
{
    *(PyObject **)error_ctx = PyUnicode_FromFormat("%s: %s", kind, message);
}

static PyObject *allocate_by(PyObject *module, PyObject *args)
{
    PyObject *type;
    PyObject *list;
    PyObject *said = NULL;
    int64_t shape[16];
    int code, bits, lanes, device, device_id;
    mcs_dl_versioned_t *managed = NULL;
    void *made = NULL;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO(iii)(ii)", &type, &list, &code, &bits, &lanes, &device, &device_id)) {
        return NULL;
    }
    mcs_dl_tensor_t prototype = {.device_type = device,
                                 .device_id = device_id,
                                 .ndim = numbers_of(list, shape),
                                 .code = (uint8_t)code,
                                 .bits = (uint8_t)bits,
                                 .lanes = (uint16_t)lanes,
                                 .shape = shape};
    const mcs_dl_exchange_t *table = table_of(type);
    if (table == NULL) {
        return NULL;
    }
    if (table->allocate(&prototype, &managed, &said, note_error) != 0) {
        PyErr_SetObject(PyExc_ValueError, said);
        Py_XDECREF(said);
        return NULL;
    }
    return table->managed_to_object(managed, &made) == 0 ? made : NULL;
}

static PyObject *counts(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return Py_BuildValue("{s:l,s:l,s:l}", "made", g_made, "deleted", g_deleted, "borrowed", g_borrowed);
}

static PyMethodDef methods[] = {
    {"capsule", make_capsule, METH_VARARGS, NULL},
    {"capsule_at", make_capsule_at, METH_VARARGS, NULL},
    {"take", take, METH_O, NULL},
    {"give_back", give_back, METH_VARARGS, NULL},
    {"exchange", exchange, METH_O, NULL},
    {"current_stream", set_current_stream, METH_O, NULL},
    {"lend", lend, METH_O, NULL},
    {"managed", ask_managed, METH_VARARGS, NULL},
    {"import_into", import_into, METH_VARARGS, NULL},
    {"allocate", allocate_by, METH_VARARGS, NULL},
    {"counts", counts, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "dlpack_peer", .m_methods = methods};

PyMODINIT_FUNC PyInit_dlpack_peer(void);
PyMODINIT_FUNC PyInit_dlpack_peer(void)
{
    return PyModuleDef_Init(&definition);
}
