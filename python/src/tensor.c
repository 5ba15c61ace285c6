/* See tensor.h. */
#include "python/src/tensor.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/thread.h"

static char g_empty; /* the memory of tensors without elements */

static const char memory_name[] = "mooncake.store.memory";

static void free_memory(PyObject *capsule)
{
    mcs_free(PyCapsule_GetPointer(capsule, memory_name));
}

PyObject *mpy_tensor_memory(size_t size, void **memory_out)
{
    const size_t align = 64;
    const size_t lead = (align - MCS_TENSOR_HEADER_SIZE % align) % align;
    char *block = size <= SIZE_MAX / 2 ? mcs_aligned_alloc(align, size + lead) : NULL;
    if (block == NULL) {
        return PyErr_NoMemory();
    }
    PyObject *capsule = PyCapsule_New(block, memory_name, free_memory);
    if (capsule == NULL) {
        mcs_free(block);
        return NULL;
    }
    *memory_out = block + lead;
    return capsule;
}

static const char device_name[] = "mooncake.store.device_memory";

static void free_device_memory(PyObject *capsule)
{
    mcs_device_memory_free(PyCapsule_GetPointer(capsule, device_name));
}

PyObject *mpy_device_owner(mcs_device_memory_t *memory)
{
    PyObject *capsule = PyCapsule_New(memory, device_name, free_device_memory);
    if (capsule == NULL) {
        mcs_device_memory_free(memory);
    }
    return capsule;
}

/* Of tensors in GPU memory that the library made, else NULL. */
static mcs_device_memory_t *device_memory_of(const mpy_tensor_t *tensor)
{
    bool ours = tensor->owner != NULL && PyCapsule_IsValid(tensor->owner, device_name);
    return ours ? PyCapsule_GetPointer(tensor->owner, device_name) : NULL;
}

PyObject *mpy_tensor_new(mpy_state_t *state, const mcs_tensor_header_t *header, void *data, bool readonly,
                         PyObject *owner)
{
    PyTypeObject *type = (PyTypeObject *)state->tensor_type;
    if (type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "mooncake.store has been unloaded");
        return NULL;
    }
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    mpy_tensor_t *tensor = mpy_tensor_of(self);
    tensor->dtype = (mcs_dtype_t)header->dtype;
    tensor->ndim = header->ndim;
    tensor->bytes = header->data_bytes;
    tensor->data = header->data_bytes > 0 ? data : &g_empty;
    tensor->device = MPY_ON_HOST;
    tensor->readonly = readonly;
    tensor->owner = Py_XNewRef(owner);
    int64_t stride = 1;
    for (int32_t i = header->ndim - 1; i >= 0; i--) {
        tensor->shape[i] = header->local_shape[i];
        tensor->strides[i] = stride;
        stride *= header->data_bytes > 0 ? header->local_shape[i] : 1;
    }
    return self;
}

PyObject *mpy_tensor_new_on(mpy_state_t *state, const mcs_tensor_header_t *header, void *data, int device,
                            PyObject *owner)
{
    PyObject *self = mpy_tensor_new(state, header, data, false, owner);
    if (self != NULL) {
        mpy_tensor_of(self)->device = device;
    }
    return self;
}

bool mpy_tensor_is_here(PyObject *self)
{
    uint64_t process = mpy_tensor_of(self)->process;
    if (process == 0 || process == mcs_process_token()) {
        return true;
    }
    PyErr_SetString(PyExc_BufferError, "the tensor's memory is that of the process that this one was forked from");
    return false;
}

/* ---- copies ---- */

static PyObject *copy_to_host(mpy_state_t *state, const mpy_tensor_t *tensor, const mcs_tensor_header_t *header)
{
    void *memory;
    const mcs_device_memory_t *device = device_memory_of(tensor);
    PyObject *owner = mpy_tensor_memory(MCS_TENSOR_HEADER_SIZE + tensor->bytes, &memory);
    if (owner == NULL) {
        return NULL;
    }
    char *data = (char *)memory + MCS_TENSOR_HEADER_SIZE;
    int code = 0;
    mpy_call_t call;
    mpy_quiet_begin(&call);
    if (tensor->device == MPY_ON_HOST) {
        memcpy(data, tensor->data, tensor->bytes);
    } else if (tensor->bytes > 0) {
        code = mcs_device_memory_read(device, 0, data, tensor->bytes);
    }
    mpy_quiet_end(&call);
    PyObject *copy = NULL;
    if (code == 0) {
        copy = mpy_tensor_new(state, header, data, false, owner);
    } else {
        PyErr_Format(PyExc_RuntimeError, "the tensor's memory on cuda:%d cannot be read: %s", tensor->device,
                     mcs_code_name(code));
    }
    Py_DECREF(owner);
    return copy;
}

static PyObject *copy_on_device(mpy_state_t *state, const mpy_tensor_t *tensor, const mcs_tensor_header_t *header)
{
    mcs_device_memory_t *memory = NULL;
    mpy_call_t call;
    mpy_quiet_begin(&call);
    int code = mcs_device_memory_copy(device_memory_of(tensor), 0, tensor->bytes, &memory);
    mpy_quiet_end(&call);
    if (code != 0) {
        return PyErr_Format(PyExc_RuntimeError, "the tensor's memory on cuda:%d cannot be copied: %s", tensor->device,
                            mcs_code_name(code));
    }
    PyObject *owner = mpy_device_owner(memory);
    PyObject *copy =
        owner != NULL ? mpy_tensor_new_on(state, header, mcs_device_memory_ptr(memory), tensor->device, owner) : NULL;
    Py_XDECREF(owner);
    return copy;
}

PyObject *mpy_tensor_copy(PyObject *self, bool to_host)
{
    mpy_tensor_t *tensor = mpy_tensor_of(self);
    PyObject *module = mpy_module_of_type(Py_TYPE(self));
    mcs_tensor_header_t header;
    if (module == NULL || mcs_tensor_full(tensor->dtype, tensor->ndim, tensor->shape, &header) != MCS_OK) {
        return NULL;
    }
    mpy_state_t *state = mpy_state_of_module(module);
    if (tensor->device == MPY_ON_HOST || tensor->bytes == 0) {
        return tensor->device == MPY_ON_HOST || to_host ? copy_to_host(state, tensor, &header)
                                                        : mpy_tensor_new_on(state, &header, NULL, tensor->device, NULL);
    }
    if (device_memory_of(tensor) == NULL) {
        PyErr_SetString(PyExc_BufferError, "the tensor is in GPU memory of somebody else's: no copy is made of it");
        return NULL;
    }
    return to_host ? copy_to_host(state, tensor, &header) : copy_on_device(state, tensor, &header);
}

static void tensor_dealloc(PyObject *self)
{
    Py_CLEAR(mpy_tensor_of(self)->owner);
    mpy_free_object(self);
}

/* ---- the buffer protocol ---- */

/* What a consumer gets that asks for bytes alone (torch.frombuffer). */
static int export_bytes(PyObject *self, Py_buffer *view, int flags)
{
    mpy_tensor_t *tensor = mpy_tensor_of(self);
    return PyBuffer_FillInfo(view, self, tensor->data, (Py_ssize_t)tensor->bytes, tensor->readonly, flags);
}

/* shape and strides of a Py_buffer live as long as the view: one block behind view->internal. */
static int export_typed(PyObject *self, Py_buffer *view, int flags)
{
    mpy_tensor_t *tensor = mpy_tensor_of(self);
    const mcs_dtype_row_t *row = mcs_dtype_row(tensor->dtype);
    Py_ssize_t *block = mpy_calloc(2 * MCS_TENSOR_DIMS_MAX, sizeof(*block));
    if (block == NULL) {
        return -1;
    }
    for (int32_t i = 0; i < tensor->ndim; i++) {
        block[i] = (Py_ssize_t)tensor->shape[i];
        block[MCS_TENSOR_DIMS_MAX + i] = (Py_ssize_t)tensor->strides[i] * row->size;
    }
    union {
        const char *in;
        char *out; /* the field wants a char *; nobody writes there */
    } format = {.in = row->format};
    *view = (Py_buffer){
        .buf = tensor->data,
        .obj = Py_NewRef(self),
        .len = (Py_ssize_t)tensor->bytes,
        .itemsize = row->size,
        .readonly = tensor->readonly,
        .ndim = tensor->ndim,
        .format = (flags & PyBUF_FORMAT) != 0 ? format.out : NULL,
        .shape = (flags & PyBUF_ND) != 0 && tensor->ndim > 0 ? block : NULL,
        .strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES && tensor->ndim > 0 ? block + MCS_TENSOR_DIMS_MAX : NULL,
        .internal = block};
    return 0;
}

static int tensor_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    mpy_tensor_t *tensor = mpy_tensor_of(self);
    const char *problem = NULL;
    if (!mpy_tensor_is_here(self)) {
        view->obj = NULL;
        return -1;
    }
    if (tensor->device != MPY_ON_HOST) {
        problem = "the tensor is in GPU memory: use DLPack";
    } else if (tensor->readonly && (flags & PyBUF_WRITABLE) != 0) {
        problem = "the tensor shows the stored bytes themselves: it is read-only";
    } else if ((flags & PyBUF_F_CONTIGUOUS) == PyBUF_F_CONTIGUOUS && tensor->ndim > 1) {
        problem = "the tensor is in C order";
    } else if ((flags & PyBUF_FORMAT) != 0 && mcs_dtype_row(tensor->dtype)->format == NULL) {
        problem = "the buffer protocol has no format for this element type: use DLPack, or .data for the bytes";
    }
    if (problem != NULL) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, problem);
        return -1;
    }
    if ((flags & PyBUF_ND) == 0 && (flags & PyBUF_FORMAT) == 0) {
        return export_bytes(self, view, flags);
    }
    return export_typed(self, view, flags);
}

static void tensor_releasebuffer(PyObject *self, Py_buffer *view)
{
    (void)self;
    mcs_free(view->internal); /* NULL for bytes */
}

/* ---- attributes ---- */

static PyObject *get_shape(PyObject *self, void *closure)
{
    (void)closure;
    mpy_tensor_t *tensor = mpy_tensor_of(self);
    PyObject *shape = PyTuple_New(tensor->ndim);
    for (int32_t i = 0; shape != NULL && i < tensor->ndim; i++) {
        PyObject *extent = PyLong_FromLongLong(tensor->shape[i]);
        if (extent == NULL || PyTuple_SetItem(shape, i, extent) != 0) {
            Py_CLEAR(shape);
        }
    }
    return shape;
}

static PyObject *get_dtype(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(mcs_dtype_row(mpy_tensor_of(self)->dtype)->name);
}

static PyObject *get_ndim(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromLong(mpy_tensor_of(self)->ndim);
}

static PyObject *get_nbytes(PyObject *self, void *closure)
{
    (void)closure;
    return PyLong_FromUnsignedLongLong(mpy_tensor_of(self)->bytes);
}

static PyObject *get_readonly(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(mpy_tensor_of(self)->readonly);
}

static PyObject *get_device(PyObject *self, void *closure)
{
    (void)closure;
    int device = mpy_tensor_of(self)->device;
    return device == MPY_ON_HOST ? PyUnicode_FromString("cpu") : PyUnicode_FromFormat("cuda:%d", device);
}

/* A memoryview of bytes, of another StoredTensor on the same memory: one of uint8 in one dimension. */
static PyObject *get_data(PyObject *self, void *closure)
{
    (void)closure;
    mpy_tensor_t *tensor = mpy_tensor_of(self);
    PyObject *module = mpy_module_of_type(Py_TYPE(self));
    mcs_tensor_header_t header;
    int64_t shape[] = {(int64_t)tensor->bytes};
    if (tensor->device != MPY_ON_HOST) {
        PyErr_SetString(PyExc_BufferError, "the tensor is in GPU memory: use DLPack");
        return NULL;
    }
    if (module == NULL || mcs_tensor_full(MCS_DTYPE_UINT8, 1, shape, &header) != MCS_OK) {
        return NULL;
    }
    PyObject *bytes =
        mpy_tensor_new(mpy_state_of_module(module), &header, tensor->data, tensor->readonly, tensor->owner);
    if (bytes != NULL) {
        mpy_tensor_of(bytes)->process = tensor->process;
    }
    PyObject *view = bytes != NULL ? PyMemoryView_FromObject(bytes) : NULL;
    Py_XDECREF(bytes);
    return view;
}

static PyObject *tensor_repr(PyObject *self)
{
    const mpy_tensor_t *tensor = mpy_tensor_of(self);
    const char *dtype = mcs_dtype_row(tensor->dtype)->name;
    PyObject *shape = get_shape(self, NULL);
    PyObject *text = NULL;
    if (shape != NULL && tensor->device != MPY_ON_HOST) {
        text = PyUnicode_FromFormat("<StoredTensor dtype=%s shape=%R device=cuda:%d>", dtype, shape, tensor->device);
    } else if (shape != NULL) {
        text = PyUnicode_FromFormat("<StoredTensor dtype=%s shape=%R%s>", dtype, shape,
                                    tensor->readonly ? " readonly" : "");
    }
    Py_XDECREF(shape);
    return text;
}

static PyMethodDef tensor_methods[] = {
    MPY_METHOD("__dlpack__", mpy_tensor_dlpack,
               "__dlpack__($self, /, *, stream=None, max_version=None, dl_device=None, copy=None)\n--\n\n"
               "A DLPack capsule: versioned for max_version from (1, 0) on, else legacy. A read-only tensor is marked "
               "so in a\n"
               "versioned capsule; a legacy one, which has no mark, gets a copy (BufferError with copy=False). Of GPU "
               "memory `stream`\n"
               "may be any but 0 (its elements are there already), and dl_device=(1, 0) asks for a copy in host "
               "memory."),
    MPY_NOARGS("__dlpack_device__", mpy_tensor_dlpack_device,
               "__dlpack_device__($self, /)\n--\n\n(1, 0) of host memory, (2, N) of cuda:N."),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef tensor_getset[] = {
    {"shape", get_shape, NULL, "A tuple of ints.", NULL},
    {"dtype", get_dtype, NULL, "The element type's name, as torch and numpy have it: 'float32', 'bfloat16', ...", NULL},
    {"ndim", get_ndim, NULL, "Number of dimensions.", NULL},
    {"nbytes", get_nbytes, NULL, "Bytes of all elements.", NULL},
    {"device", get_device, NULL, "'cpu' or 'cuda:N'.", NULL},
    {"readonly", get_readonly, NULL, "True when it shows the stored bytes themselves.", NULL},
    {"data", get_data, NULL, "A memoryview of the elements' bytes, whatever their type; of host memory.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char tensor_doc[] =
    "A tensor in host or GPU memory, in C order.\n\n"
    "numpy.from_dlpack(t), torch.from_dlpack(t), numpy.asarray(t) and memoryview(t) show its memory without a copy; it "
    "is given\n"
    "back when the tensor and all of them are gone, also after the store's close(). Read-only when it shows the stored "
    "bytes.";

static PyType_Slot tensor_slots[] = {
    {Py_tp_doc, (void *)tensor_doc},
    {Py_tp_dealloc, (void *)tensor_dealloc},
    {Py_tp_repr, (void *)tensor_repr},
    {Py_tp_methods, (void *)tensor_methods},
    {Py_tp_getset, (void *)tensor_getset},
    {Py_bf_getbuffer, (void *)tensor_getbuffer},
    {Py_bf_releasebuffer, (void *)tensor_releasebuffer},
    {0, NULL},
};

/* Not immutable: the exchange table has to be an attribute of the type itself, and the limited API has no other way to
 * put it there. */
static PyType_Spec tensor_spec = {
    .name = "mooncake.store.StoredTensor",
    .basicsize = sizeof(mpy_tensor_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = tensor_slots,
};

int mpy_tensor_init(PyObject *module, mpy_state_t *state)
{
    if (mpy_add_type(module, &tensor_spec, &state->tensor_type) != 0) {
        return -1;
    }
    PyObject *table = mpy_exchange_capsule(state->tensor_type);
    int rc = table != NULL ? PyObject_SetAttrString(state->tensor_type, MCS_DL_EXCHANGE_ATTRIBUTE, table) : -1;
    Py_XDECREF(table);
    return rc;
}
