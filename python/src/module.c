/* The extension module `mooncake.store`: the one place that links the client library with its transport, its metadata
 * client and the embedded master (python/CMakeLists.txt builds the same file against an in-memory library for the tests
 * of the arguments).
 *
 * It works as `mooncake.store` inside the package and as a bare `import store` with its folder on the path.
 * Sub-interpreters are refused: the signal check uses PyGILState, which knows the main one only. */
#include "python/src/buffer_lease.h"
#include "python/src/host_memory.h"
#include "python/src/mpy.h"
#include "python/src/store.h"
#include "python/src/tensor.h"
#include "python/src/tensor_functions.h"

#include <stdio.h>

#ifndef MCS_PY_FAKE
#include "core/client/parts.h"
#include "gpu/gpu.h"
#include "master/embed.h"
#include "master/http_client_pages.h"
#include "ucx_transport/ucx_transport.h"
#endif

PyObject *mpy_module_of_type(PyTypeObject *type)
{
    for (PyTypeObject *t = type; t != NULL; t = PyType_GetSlot(t, Py_tp_base)) {
        if ((PyType_GetFlags(t) & Py_TPFLAGS_HEAPTYPE) == 0) {
            continue;
        }
        PyObject *module = PyType_GetModule(t);
        if (module != NULL && PyModule_GetDef(module) == &mpy_module_def) {
            return module;
        }
        PyErr_Clear(); /* a class written in Python, or of another module */
    }
    PyErr_SetString(PyExc_TypeError, "not a type of mooncake.store");
    return NULL;
}

mpy_state_t *mpy_state_of_module(PyObject *module)
{
    return PyModule_GetState(module);
}

int mpy_add_type(PyObject *module, PyType_Spec *spec, PyObject **type_out)
{
    *type_out = PyType_FromModuleAndSpec(module, spec, NULL);
    return *type_out != NULL ? PyModule_AddType(module, (PyTypeObject *)*type_out) : -1;
}

void mpy_free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF((PyObject *)type);
}

/* mooncake.store.BufferPool and its relatives are Python: found on first use in the package that the module was loaded
 * from, so that the bare module does without. */
static PyObject *find_in_pool(PyObject *module, PyObject *name)
{
    PyObject *package = PyObject_GetAttrString(module, "__package__");
    PyObject *pool_name = package != NULL ? PyUnicode_FromFormat("%S.buffer_pool", package) : NULL;
    PyObject *pool = pool_name != NULL ? PyImport_Import(pool_name) : NULL;
    PyObject *found = pool != NULL ? PyObject_GetAttr(pool, name) : NULL;
    Py_XDECREF(package);
    Py_XDECREF(pool_name);
    Py_XDECREF(pool);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_ImportError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_AttributeError, "module 'store' has no attribute '%S' without the package mooncake", name);
    }
    return found;
}

static PyObject *module_getattr(PyObject *module, PyObject *name)
{
    static const char *const pool_names[] = {"BufferPool", "BufferLeaseView", "RegisteredBufferPool",
                                             "RegisteredBufferLease", "RegisteredBufferLeaseView"};
    for (size_t i = 0; PyUnicode_Check(name) && i < MCS_ARRAY_LEN(pool_names); i++) {
        if (PyUnicode_CompareWithASCIIString(name, pool_names[i]) == 0) {
            return find_in_pool(module, name);
        }
    }
    PyErr_Format(PyExc_AttributeError, "module 'mooncake.store' has no attribute '%S'", name);
    return NULL;
}

static PyMethodDef module_methods[] = {
    {"__getattr__", module_getattr, METH_O, NULL},
    {"_make_lease", mpy_lease_make, METH_VARARGS, "For mooncake.buffer_pool."},
    MPY_METHOD(
        "bind_to_numa_node", mpy_bind_to_numa_node,
        "bind_to_numa_node(node)\n--\n\nRuns the calling thread on a NUMA node and prefers its memory; a failure is "
        "only logged."),
    MPY_NOARGS("get_alloc_func_addr", mpy_get_alloc_func_addr,
               "Address of void *alloc(ssize_t size, int device, void *stream): host memory in huge pages."),
    MPY_NOARGS("get_free_func_addr", mpy_get_free_func_addr,
               "Address of void free(void *ptr, ssize_t size, int device, void *stream)."),
    {"_serialize_tensor", mpy_serialize_tensor, METH_O,
     "_serialize_tensor(tensor)\n--\n\n(header, address of the elements, their bytes, what keeps them): header and "
     "elements, one after\nanother, are the tensor as an object of the store. ValueError for what is no tensor."},
    {"_deserialize_tensor", mpy_deserialize_tensor, METH_O,
     "_deserialize_tensor(bytes)\n--\n\nThe tensor of header and elements. ValueError for anything else."},
    MPY_NOARGS("_tensor_metadata_size", mpy_tensor_metadata_size,
               "_tensor_metadata_size()\n--\n\nBytes of a tensor's header."),
    {"_close_all", mpy_store_close_all, METH_NOARGS, "Closes every store that is set up; runs at interpreter exit."},
    {NULL, NULL, 0, NULL},
};

static int register_exit(PyObject *module)
{
    PyObject *close_all = PyObject_GetAttrString(module, "_close_all");
    PyObject *atexit = close_all != NULL ? PyImport_ImportModule("atexit") : NULL;
    PyObject *done = atexit != NULL ? PyObject_CallMethod(atexit, "register", "O", close_all) : NULL;
    int rc = done != NULL ? 0 : -1;
    Py_XDECREF(done);
    Py_XDECREF(atexit);
    Py_XDECREF(close_all);
    return rc;
}

#ifndef MCS_PY_FAKE
/* "hint:FOLDER" of an installed PyPI package libucx-*, which is found and not imported. Without one: "". The table of
 * parts is the process's, and so is this text. */
static char ucx_hint[4096];

static bool find_ucx_package(PyObject **folder_out)
{
    PyObject *util = PyImport_ImportModule("importlib.util");
    PyObject *spec = util != NULL ? PyObject_CallMethod(util, "find_spec", "s", "libucx") : NULL;
    PyObject *folders =
        spec != NULL && spec != Py_None ? PyObject_GetAttrString(spec, "submodule_search_locations") : NULL;
    *folder_out = folders != NULL && folders != Py_None ? PySequence_GetItem(folders, 0) : NULL;
    Py_XDECREF(util);
    Py_XDECREF(spec);
    Py_XDECREF(folders);
    return *folder_out != NULL;
}

static void set_ucx_hint(void)
{
    PyObject *folder;
    PyObject *encoded = NULL;
    if (find_ucx_package(&folder) && PyUnicode_FSConverter(folder, &encoded)) {
        int len = snprintf(ucx_hint, sizeof(ucx_hint), "hint:%s", PyBytes_AsString(encoded));
        if (len < 0 || (size_t)len >= sizeof(ucx_hint)) {
            ucx_hint[0] = '\0';
        }
    }
    Py_XDECREF(folder);
    Py_XDECREF(encoded);
    PyErr_Clear(); /* a broken package is as good as none */
}
#endif

static void plug_parts(void)
{
#ifndef MCS_PY_FAKE
    static const mcs_parts_t parts = {
        .transport = &ucxt_transport_ops,
        .metadata = &ucxt_metadata_http_ops,
        .embed = &mcs_master_embed_ops,
        .http = &mcs_client_http_ops,
        .mem_space = &mcs_gpu_space_ops,
        .ucx_hint = ucx_hint,
    };
    set_ucx_hint();
    mcs_parts_set(&parts);
#endif
}

static int module_exec(PyObject *module)
{
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        PyErr_SetString(PyExc_ImportError, "mooncake.store works in the main interpreter only");
        return -1;
    }
    mpy_state_t *state = mpy_state_of_module(module);
    plug_parts();
    if (mpy_enums_init(module, state) != 0 || mpy_config_init(module, state) != 0 ||
        mpy_handle_init(module, state) != 0 || mpy_lease_init(module, state) != 0 ||
        mpy_descriptors_init(module, state) != 0 || mpy_tasks_init(module, state) != 0 ||
        mpy_host_memory_init(module, state) != 0 || mpy_tensor_init(module, state) != 0 ||
        mpy_parallelism_init(module, state) != 0 || mpy_store_init(module, state) != 0) {
        return -1;
    }
    if (PyModule_AddStringConstant(module, "__version__", mcs_version()) != 0) {
        return -1;
    }
    return register_exit(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    mpy_state_t *state = mpy_state_of_module(module);
    if (state == NULL) {
        return 0;
    }
    Py_VISIT(state->store_type);
    Py_VISIT(state->handle_type);
    Py_VISIT(state->lease_type);
    Py_VISIT(state->config_type);
    Py_VISIT(state->descriptor_type);
    Py_VISIT(state->memory_descriptor_type);
    Py_VISIT(state->disk_descriptor_type);
    Py_VISIT(state->replica_type);
    Py_VISIT(state->task_type);
    Py_VISIT(state->allocator_type);
    Py_VISIT(state->tensor_type);
    Py_VISIT(state->axis_type);
    Py_VISIT(state->parallelism_type);
    Py_VISIT(state->target_type);
    for (size_t i = 0; i < MPY_ENUM_COUNT; i++) {
        Py_VISIT(state->enum_types[i]);
    }
    return 0;
}

static int module_clear(PyObject *module)
{
    mpy_state_t *state = mpy_state_of_module(module);
    if (state == NULL) {
        return 0;
    }
    Py_CLEAR(state->store_type);
    Py_CLEAR(state->handle_type);
    Py_CLEAR(state->lease_type);
    Py_CLEAR(state->config_type);
    Py_CLEAR(state->descriptor_type);
    Py_CLEAR(state->memory_descriptor_type);
    Py_CLEAR(state->disk_descriptor_type);
    Py_CLEAR(state->replica_type);
    Py_CLEAR(state->task_type);
    Py_CLEAR(state->allocator_type);
    mpy_exchange_forget(state->tensor_type);
    Py_CLEAR(state->tensor_type);
    Py_CLEAR(state->axis_type);
    Py_CLEAR(state->parallelism_type);
    Py_CLEAR(state->target_type);
    for (size_t i = 0; i < MPY_ENUM_COUNT; i++) {
        Py_CLEAR(state->enum_types[i]);
    }
    return 0;
}

static void module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

PyDoc_STRVAR(module_doc,
             "Client of the Mooncake store: objects of bytes under keys, in the memory of all clients of a cluster.\n\n"
             "    from mooncake.store import MooncakeDistributedStore\n\n"
             "    store = MooncakeDistributedStore()\n"
             "    store.setup('localhost', 'P2PHANDSHAKE', 512 << 20, 128 << 20, 'tcp', '', '127.0.0.1:50051')\n"
             "    store.put('hello', b'world')\n"
             "    assert store.get('hello') == b'world'\n"
             "    store.close()\n\n"
             "Calls return 0 or a positive count for success and a negative code for failure; wrong argument types are "
             "TypeError.\n"
             "Sizes are bytes. Every call releases the GIL and may be made from any thread.");

PyModuleDef mpy_module_def = {
    PyModuleDef_HEAD_INIT,         .m_name = "mooncake.store",  .m_doc = module_doc,
    .m_size = sizeof(mpy_state_t), .m_methods = module_methods, .m_slots = module_slots,
    .m_traverse = module_traverse, .m_clear = module_clear,     .m_free = module_free,
};

PyMODINIT_FUNC PyInit_store(void);
PyMODINIT_FUNC PyInit_store(void)
{
    return PyModuleDef_Init(&mpy_module_def);
}
