/* See buffer_lease.h. */
#include "python/src/buffer_lease.h"

typedef struct mpy_lease {
    PyObject_HEAD void *ptr;
    Py_ssize_t size;
    Py_ssize_t exports; /* memoryviews alive */
    PyObject *region;   /* NULL once released */
    PyObject *give_back;
} mpy_lease_t;

static mpy_lease_t *as_lease(PyObject *self)
{
    return (mpy_lease_t *)(void *)self;
}

static bool check_active(const mpy_lease_t *lease)
{
    if (lease->region == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "buffer lease is closed: the buffer lease is not active");
        return false;
    }
    return true;
}

PyObject *mpy_lease_make(PyObject *module, PyObject *args)
{
    unsigned long long ptr;
    Py_ssize_t size;
    PyObject *region;
    PyObject *give_back;
    if (!PyArg_ParseTuple(args, "KnOO:_make_lease", &ptr, &size, &region, &give_back)) {
        return NULL;
    }
    PyTypeObject *type = (PyTypeObject *)mpy_state_of_module(module)->lease_type;
    if (type == NULL || size < 0) {
        PyErr_SetString(PyExc_RuntimeError, "no lease can be made");
        return NULL;
    }
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    mpy_lease_t *lease = as_lease(self);
    lease->ptr = (void *)(uintptr_t)ptr; /* NOLINT(performance-no-int-to-ptr) */
    lease->size = size;
    lease->region = Py_NewRef(region);
    lease->give_back = Py_NewRef(give_back);
    return self;
}

/* Ends the lease. False: give_back raised. */
static bool end_lease(mpy_lease_t *lease)
{
    PyObject *region = lease->region;
    PyObject *give_back = lease->give_back;
    lease->region = NULL;
    lease->give_back = NULL;
    if (region == NULL || give_back == NULL) {
        Py_XDECREF(region);
        Py_XDECREF(give_back);
        return true;
    }
    PyObject *done = PyObject_CallFunction(give_back, "On", region, lease->size);
    Py_XDECREF(done);
    Py_DECREF(region);
    Py_DECREF(give_back);
    return done != NULL;
}

static PyObject *lease_release(PyObject *self, PyObject *unused)
{
    (void)unused;
    mpy_lease_t *lease = as_lease(self);
    if (lease->exports > 0) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release buffer while exported views exist");
        return NULL;
    }
    if (!end_lease(lease)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *lease_enter(PyObject *self, PyObject *unused)
{
    (void)unused;
    return check_active(as_lease(self)) ? Py_NewRef(self) : NULL;
}

static PyObject *lease_exit(PyObject *self, PyObject *args)
{
    (void)args;
    return lease_release(self, NULL);
}

static PyObject *lease_get_ptr(PyObject *self, void *closure)
{
    (void)closure;
    return check_active(as_lease(self)) ? PyLong_FromVoidPtr(as_lease(self)->ptr) : NULL;
}

static PyObject *lease_get_size(PyObject *self, void *closure)
{
    (void)closure;
    return check_active(as_lease(self)) ? PyLong_FromSsize_t(as_lease(self)->size) : NULL;
}

static PyObject *lease_get_buffer(PyObject *self, void *closure)
{
    (void)closure;
    return check_active(as_lease(self)) ? PyMemoryView_FromObject(self) : NULL;
}

static int lease_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    mpy_lease_t *lease = as_lease(self);
    if (lease->region == NULL) {
        PyErr_SetString(PyExc_BufferError, "buffer lease is closed");
        return -1;
    }
    if (PyBuffer_FillInfo(view, self, lease->ptr, lease->size, 0, flags) != 0) {
        return -1;
    }
    lease->exports++;
    return 0;
}

static void lease_releasebuffer(PyObject *self, Py_buffer *view)
{
    (void)view;
    as_lease(self)->exports--;
}

static int lease_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(as_lease(self)->region);
    Py_VISIT(as_lease(self)->give_back);
    return 0;
}

/* What a lease refers to never refers to the lease: a cycle through it is broken elsewhere, and the end of the lease
 * must still know them. */
static int lease_clear(PyObject *self)
{
    (void)self;
    return 0;
}

/* A dropped lease releases itself. */
static void lease_dealloc(PyObject *self)
{
    PyObject *type;
    PyObject *value;
    PyObject *traceback;
    PyObject_GC_UnTrack(self);
    PyErr_Fetch(&type, &value, &traceback);
    if (!end_lease(as_lease(self))) {
        PyErr_WriteUnraisable(Py_None);
    }
    PyErr_Restore(type, value, traceback);
    mpy_free_object(self);
}

static PyMethodDef lease_methods[] = {
    MPY_NOARGS(
        "release", lease_release,
        "release($self, /)\n--\n\nGives the buffer back. RuntimeError while memoryviews of it exist; again: nothing."),
    MPY_NOARGS("__enter__", lease_enter, NULL),
    {"__exit__", lease_exit, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lease_getset[] = {
    {"ptr", lease_get_ptr, NULL, "Address, an int.", NULL},
    {"size", lease_get_size, NULL, "Bytes, as asked for.", NULL},
    {"buffer", lease_get_buffer, NULL, "A writable memoryview of bytes; it keeps the lease alive.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char lease_doc[] = "A buffer borrowed from a BufferPool: ptr, size, buffer, release(); a context manager.\n\n"
                          "A lease that nothing refers to any more is released.";

static PyType_Slot lease_slots[] = {
    {Py_tp_doc, (void *)lease_doc},
    {Py_tp_dealloc, (void *)lease_dealloc},
    {Py_tp_traverse, (void *)lease_traverse},
    {Py_tp_clear, (void *)lease_clear},
    {Py_tp_methods, (void *)lease_methods},
    {Py_tp_getset, (void *)lease_getset},
    {Py_bf_getbuffer, (void *)lease_getbuffer},
    {Py_bf_releasebuffer, (void *)lease_releasebuffer},
    {0, NULL},
};

static PyType_Spec lease_spec = {
    .name = "mooncake.store.BufferLease",
    .basicsize = sizeof(mpy_lease_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lease_slots,
};

int mpy_lease_init(PyObject *module, mpy_state_t *state)
{
    return mpy_add_type(module, &lease_spec, &state->lease_type);
}
