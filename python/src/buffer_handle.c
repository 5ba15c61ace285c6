/* See buffer_handle.h. A memoryview holds a reference to the handle, so its memory cannot go before the last view. */
#include "python/src/buffer_handle.h"

typedef struct mpy_handle {
    PyObject_HEAD mcs_handle_t *handle; /* owned */
} mpy_handle_t;

static mcs_handle_t *handle_of(PyObject *self)
{
    return ((mpy_handle_t *)(void *)self)->handle;
}

PyObject *mpy_handle_new(mpy_state_t *state, mcs_handle_t *handle)
{
    PyTypeObject *type = (PyTypeObject *)state->handle_type;
    if (type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "mooncake.store has been unloaded");
        mcs_handle_release(handle);
        return NULL;
    }
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = alloc(type, 0);
    if (self == NULL) {
        mcs_handle_release(handle);
        return NULL;
    }
    ((mpy_handle_t *)(void *)self)->handle = handle;
    return self;
}

static void handle_dealloc(PyObject *self)
{
    mcs_handle_release(handle_of(self)); /* never blocks */
    mpy_free_object(self);
}

static int handle_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    mcs_handle_t *handle = handle_of(self);
    if (PyBuffer_FillInfo(view, self, mcs_handle_ptr(handle), (Py_ssize_t)mcs_handle_size(handle),
                          mcs_handle_readonly(handle), flags) != 0) {
        return -1;
    }
    if ((flags & PyBUF_FORMAT) != 0) {
        static char signed_char[] = "b"; /* the API's item type; the field wants a char * */
        view->format = signed_char;
    }
    return 0;
}

static Py_ssize_t handle_length(PyObject *self)
{
    return (Py_ssize_t)mcs_handle_size(handle_of(self));
}

static PyObject *handle_ptr(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromVoidPtr(mcs_handle_ptr(handle_of(self)));
}

static PyObject *handle_size(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyLong_FromSize_t(mcs_handle_size(handle_of(self)));
}

static PyObject *handle_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<BufferHandle size=%zd%s>", handle_length(self),
                                mcs_handle_readonly(handle_of(self)) ? " readonly" : "");
}

static PyMethodDef handle_methods[] = {
    MPY_NOARGS("ptr", handle_ptr,
               "ptr($self, /)\n--\n\nAddress of the first byte, an int. Valid while this object lives."),
    MPY_NOARGS("size", handle_size, "size($self, /)\n--\n\nNumber of bytes."),
    {NULL, NULL, 0, NULL},
};

static char handle_doc[] =
    "An object's bytes, made by get_buffer and batch_get_buffer.\n\n"
    "Supports the buffer protocol, one-dimensional, format 'b': bytes(h), memoryview(h), numpy.frombuffer(h, ...).\n"
    "Read-only where it shows the stored object itself (a replica on this host), otherwise a private writable copy in "
    "the\n"
    "local buffer. The memory is given back when the handle and all views of it are gone; close() does not take it "
    "away.";

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)handle_doc},
    {Py_tp_dealloc, (void *)handle_dealloc},
    {Py_tp_repr, (void *)handle_repr},
    {Py_tp_methods, (void *)handle_methods},
    {Py_sq_length, (void *)handle_length},
    {Py_bf_getbuffer, (void *)handle_getbuffer},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    .name = "mooncake.store.BufferHandle",
    .basicsize = sizeof(mpy_handle_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = handle_slots,
};

int mpy_handle_init(PyObject *module, mpy_state_t *state)
{
    return mpy_add_type(module, &handle_spec, &state->handle_type);
}
