/* See descriptors.h. Four small classes without behaviour; the only replicas there are lie in memory. */
#include "python/src/descriptors.h"
#include "python/src/args.h"
#include "python/src/enums.h"

typedef struct mpy_descriptor {
    PyObject_HEAD uint64_t size;
    uint64_t buffer_address;
    PyObject *transport_endpoint; /* str; NULL reads as "" */
} mpy_descriptor_t;

typedef struct mpy_disk_descriptor {
    PyObject_HEAD uint64_t object_size;
    PyObject *file_path; /* str; NULL reads as "" */
} mpy_disk_descriptor_t;

typedef struct mpy_memory_descriptor {
    PyObject_HEAD PyObject *buffer_descriptor; /* Descriptor; NULL reads as None */
} mpy_memory_descriptor_t;

typedef struct mpy_replica {
    PyObject_HEAD PyObject *module;
    int status;
    PyObject *memory; /* MemoryDescriptor */
    PyObject *segment_name;
} mpy_replica_t;

/* ---- attributes by offset ---- */

typedef struct slot {
    const char *owner;
    const char *name;
    size_t offset;
} slot_t;

static PyObject *get_u64(PyObject *self, void *closure)
{
    const slot_t *slot = closure;
    return PyLong_FromUnsignedLongLong(*(uint64_t *)(void *)((char *)(void *)self + slot->offset));
}

static int set_u64(PyObject *self, PyObject *value, void *closure)
{
    const slot_t *slot = closure;
    if (value == NULL) {
        PyErr_Format(PyExc_AttributeError, "cannot delete %s.%s", slot->owner, slot->name);
        return -1;
    }
    return mpy_u64(slot->owner, slot->name, value, (uint64_t *)(void *)((char *)(void *)self + slot->offset)) ? 0 : -1;
}

static PyObject **object_at(PyObject *self, const slot_t *slot)
{
    return (PyObject **)(void *)((char *)(void *)self + slot->offset);
}

static PyObject *get_text(PyObject *self, void *closure)
{
    PyObject *text = *object_at(self, closure);
    return text != NULL ? Py_NewRef(text) : PyUnicode_FromString("");
}

static int set_text(PyObject *self, PyObject *value, void *closure)
{
    const slot_t *slot = closure;
    const char *text;
    if (value == NULL) {
        PyErr_Format(PyExc_AttributeError, "cannot delete %s.%s", slot->owner, slot->name);
        return -1;
    }
    if (!mpy_text(slot->owner, slot->name, value, &text)) {
        return -1;
    }
    PyObject *copy = PyUnicode_FromString(text);
    if (copy == NULL) {
        return -1;
    }
    PyObject *old = *object_at(self, slot);
    *object_at(self, slot) = copy;
    Py_XDECREF(old);
    return 0;
}

/* ---- Descriptor ---- */

static slot_t descriptor_size = {"Descriptor", "size", offsetof(mpy_descriptor_t, size)};
static slot_t descriptor_address = {"Descriptor", "buffer_address", offsetof(mpy_descriptor_t, buffer_address)};
static slot_t descriptor_endpoint = {"Descriptor", "transport_endpoint",
                                     offsetof(mpy_descriptor_t, transport_endpoint)};

static PyGetSetDef descriptor_getset[] = {
    {"size", get_u64, set_u64, "Bytes.", &descriptor_size},
    {"buffer_address", get_u64, set_u64, "Where it is in its owner: an offset that identifies it, not a pointer.",
     &descriptor_address},
    {"transport_endpoint", get_text, set_text, "host:port of the owner's data plane.", &descriptor_endpoint},
    {NULL, NULL, NULL, NULL, NULL},
};

static void descriptor_dealloc(PyObject *self)
{
    Py_CLEAR(((mpy_descriptor_t *)(void *)self)->transport_endpoint);
    mpy_free_object(self);
}

static PyObject *descriptor_repr(PyObject *self)
{
    mpy_descriptor_t *d = (mpy_descriptor_t *)(void *)self;
    PyObject *endpoint = get_text(self, &descriptor_endpoint);
    PyObject *text =
        endpoint != NULL
            ? PyUnicode_FromFormat("<Descriptor size=%llu buffer_address=%llu transport_endpoint=%U>",
                                   (unsigned long long)d->size, (unsigned long long)d->buffer_address, endpoint)
            : NULL;
    Py_XDECREF(endpoint);
    return text;
}

static char descriptor_doc[] = "Descriptor()\n--\n\nA piece of a segment.";

static PyType_Slot descriptor_slots[] = {
    {Py_tp_doc, (void *)descriptor_doc},
    {Py_tp_dealloc, (void *)descriptor_dealloc},
    {Py_tp_getset, (void *)descriptor_getset},
    {Py_tp_repr, (void *)descriptor_repr},
    {0, NULL},
};

static PyType_Spec descriptor_spec = {
    .name = "mooncake.store.Descriptor",
    .basicsize = sizeof(mpy_descriptor_t),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = descriptor_slots,
};

/* ---- DiskDescriptor ---- */

static slot_t disk_path = {"DiskDescriptor", "file_path", offsetof(mpy_disk_descriptor_t, file_path)};
static slot_t disk_size = {"DiskDescriptor", "object_size", offsetof(mpy_disk_descriptor_t, object_size)};

static PyGetSetDef disk_getset[] = {
    {"file_path", get_text, set_text, "The file.", &disk_path},
    {"object_size", get_u64, set_u64, "Bytes.", &disk_size},
    {NULL, NULL, NULL, NULL, NULL},
};

static void disk_dealloc(PyObject *self)
{
    Py_CLEAR(((mpy_disk_descriptor_t *)(void *)self)->file_path);
    mpy_free_object(self);
}

static char disk_doc[] = "DiskDescriptor()\n--\n\nA replica in a file; this store makes none.";

static PyType_Slot disk_slots[] = {
    {Py_tp_doc, (void *)disk_doc},
    {Py_tp_dealloc, (void *)disk_dealloc},
    {Py_tp_getset, (void *)disk_getset},
    {0, NULL},
};

static PyType_Spec disk_spec = {
    .name = "mooncake.store.DiskDescriptor",
    .basicsize = sizeof(mpy_disk_descriptor_t),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = disk_slots,
};

/* ---- MemoryDescriptor ---- */

static PyObject *memory_get_buffer(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *buffer = ((mpy_memory_descriptor_t *)(void *)self)->buffer_descriptor;
    return Py_NewRef(buffer != NULL ? buffer : Py_None);
}

static int memory_set_buffer(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    mpy_memory_descriptor_t *memory = (mpy_memory_descriptor_t *)(void *)self;
    PyObject *module = mpy_module_of_type(Py_TYPE(self));
    if (module == NULL) {
        return -1;
    }
    if (value == NULL || (PyObject *)Py_TYPE(value) != mpy_state_of_module(module)->descriptor_type) {
        mpy_wrong_type("MemoryDescriptor", "buffer_descriptor", "Descriptor", value != NULL ? value : Py_None);
        return -1;
    }
    PyObject *old = memory->buffer_descriptor;
    memory->buffer_descriptor = Py_NewRef(value);
    Py_XDECREF(old);
    return 0;
}

static void memory_dealloc(PyObject *self)
{
    Py_CLEAR(((mpy_memory_descriptor_t *)(void *)self)->buffer_descriptor);
    mpy_free_object(self);
}

static PyGetSetDef memory_getset[] = {
    {"buffer_descriptor", memory_get_buffer, memory_set_buffer, "A Descriptor.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char memory_doc[] = "MemoryDescriptor()\n--\n\nA replica in memory.";

static PyType_Slot memory_slots[] = {
    {Py_tp_doc, (void *)memory_doc},
    {Py_tp_dealloc, (void *)memory_dealloc},
    {Py_tp_getset, (void *)memory_getset},
    {0, NULL},
};

static PyType_Spec memory_spec = {
    .name = "mooncake.store.MemoryDescriptor",
    .basicsize = sizeof(mpy_memory_descriptor_t),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = memory_slots,
};

/* ---- ReplicaDescriptor ---- */

static mpy_replica_t *as_replica(PyObject *self)
{
    return (mpy_replica_t *)(void *)self;
}

static PyObject *replica_true(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_TRUE;
}

static PyObject *replica_false(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    Py_RETURN_FALSE;
}

static PyObject *replica_memory(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_NewRef(as_replica(self)->memory);
}

static PyObject *replica_disk(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    PyErr_SetString(PyExc_RuntimeError, "a memory replica has no disk descriptor");
    return NULL;
}

static PyObject *replica_get_status(PyObject *self, void *closure)
{
    (void)closure;
    return mpy_enum_member(mpy_state_of_module(as_replica(self)->module), MPY_REPLICA_STATUS, as_replica(self)->status);
}

static PyObject *replica_get_segment(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(as_replica(self)->segment_name);
}

static void replica_dealloc(PyObject *self)
{
    mpy_replica_t *replica = as_replica(self);
    Py_CLEAR(replica->memory);
    Py_CLEAR(replica->segment_name);
    Py_CLEAR(replica->module);
    mpy_free_object(self);
}

static PyMethodDef replica_methods[] = {
    MPY_NOARGS("is_memory_replica", replica_true,
               "is_memory_replica($self, /)\n--\n\nTrue: all replicas are in memory."),
    MPY_NOARGS("is_disk_replica", replica_false, "is_disk_replica($self, /)\n--\n\nFalse."),
    MPY_NOARGS("is_local_disk_replica", replica_false, "is_local_disk_replica($self, /)\n--\n\nFalse."),
    MPY_NOARGS("get_memory_descriptor", replica_memory, "get_memory_descriptor($self, /)\n--\n\nA MemoryDescriptor."),
    MPY_NOARGS("get_disk_descriptor", replica_disk,
               "get_disk_descriptor($self, /)\n--\n\nRuntimeError: not a disk replica."),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef replica_getset[] = {
    {"status", replica_get_status, NULL, "A ReplicaStatus.", NULL},
    {"segment_name", replica_get_segment, NULL, "host:port of the segment that holds it.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char replica_doc[] = "One copy of an object, made by get_replica_desc.";

static PyType_Slot replica_slots[] = {
    {Py_tp_doc, (void *)replica_doc},
    {Py_tp_dealloc, (void *)replica_dealloc},
    {Py_tp_methods, (void *)replica_methods},
    {Py_tp_getset, (void *)replica_getset},
    {0, NULL},
};

static PyType_Spec replica_spec = {
    .name = "mooncake.store.ReplicaDescriptor",
    .basicsize = sizeof(mpy_replica_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = replica_slots,
};

static PyObject *alloc_of(PyObject *type)
{
    if (type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "mooncake.store has been unloaded");
        return NULL;
    }
    allocfunc alloc = (allocfunc)PyType_GetSlot((PyTypeObject *)type, Py_tp_alloc);
    return alloc((PyTypeObject *)type, 0);
}

/* A host name from the network may be no UTF-8. */
static PyObject *decode(const char *text)
{
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)__builtin_strlen(text), "replace");
}

static PyObject *memory_of(mpy_state_t *state, const mcs_replica_info_t *info)
{
    PyObject *descriptor = alloc_of(state->descriptor_type);
    PyObject *memory = descriptor != NULL ? alloc_of(state->memory_descriptor_type) : NULL;
    PyObject *endpoint = memory != NULL ? decode(info->transport_endpoint) : NULL;
    if (endpoint == NULL) {
        Py_XDECREF(descriptor);
        Py_XDECREF(memory);
        return NULL;
    }
    mpy_descriptor_t *d = (mpy_descriptor_t *)(void *)descriptor;
    d->size = info->size;
    d->buffer_address = info->buffer_address;
    d->transport_endpoint = endpoint;
    ((mpy_memory_descriptor_t *)(void *)memory)->buffer_descriptor = descriptor;
    return memory;
}

PyObject *mpy_replica_new(mpy_state_t *state, const mcs_replica_info_t *info)
{
    PyObject *self = alloc_of(state->replica_type);
    if (self == NULL) {
        return NULL;
    }
    mpy_replica_t *replica = as_replica(self);
    replica->module = Py_XNewRef(mpy_module_of_type(Py_TYPE(self)));
    replica->status = info->status;
    replica->memory = replica->module != NULL ? memory_of(state, info) : NULL;
    replica->segment_name = replica->memory != NULL ? decode(info->segment_name) : NULL;
    if (replica->segment_name == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

int mpy_descriptors_init(PyObject *module, mpy_state_t *state)
{
    if (mpy_add_type(module, &descriptor_spec, &state->descriptor_type) != 0 ||
        mpy_add_type(module, &disk_spec, &state->disk_descriptor_type) != 0 ||
        mpy_add_type(module, &memory_spec, &state->memory_descriptor_type) != 0) {
        return -1;
    }
    return mpy_add_type(module, &replica_spec, &state->replica_type);
}
