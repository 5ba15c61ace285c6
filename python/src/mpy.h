/* What all files of the module share: the limited API, the module's state, and one line about each type.
 *
 * The module is built once for CPython 3.10 and later (Py_LIMITED_API of 3.11, for the buffer protocol, but nothing
 * that 3.10 does not have): no macros that look into objects, heap types only, multi-phase initialisation, and no
 * global Python state; what there is lives in mpy_state_t. Every object that needs the state holds a reference to the
 * module, because during garbage collection a type may have lost its own.
 *
 * Rules of the folder:
 *  1. Between mpy_call_begin and mpy_call_end no Python API is used; everything that the library reads or writes there
 * is held by a reference or a Py_buffer that the calling function owns.
 *  2. A function that returns NULL or false has set an exception. Store failures are no exceptions: they are results.
 *  3. Dealloc functions never fail, keep a pending exception, and may release the GIL.
 * Thread-safety: the GIL, where a comment does not say otherwise. */
#ifndef MPY_H
#define MPY_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
/* after Python.h: its T_ and READONLY names are not in the limited API's header of 3.11 */
#include <structmember.h>

#include "core/base/macros.h"
#include "mcstore/mcstore.h"

typedef enum mpy_enum_id {
    MPY_OBJECT_DATA_TYPE,
    MPY_SOFT_PIN_ACTION,
    MPY_REPLICA_STATUS,
    MPY_TASK_TYPE,
    MPY_TASK_STATUS,
    MPY_ENUM_COUNT
} mpy_enum_id_t;

struct mpy_store;

typedef struct mpy_state {
    PyObject *store_type;
    PyObject *handle_type;
    PyObject *lease_type;
    PyObject *config_type;
    PyObject *descriptor_type;
    PyObject *memory_descriptor_type;
    PyObject *disk_descriptor_type;
    PyObject *replica_type;
    PyObject *task_type;
    PyObject *allocator_type;
    PyObject *tensor_type;
    PyObject *axis_type;
    PyObject *parallelism_type;
    PyObject *target_type;
    PyObject *enum_types[MPY_ENUM_COUNT];
    struct mpy_store *live; /* stores that are set up: closed at interpreter exit */
    pid_t setup_pid;        /* of the process in which the first setup ran, 0 = none yet */
    bool no_torch;          /* looked for and not found */
} mpy_state_t;

extern PyModuleDef mpy_module_def;

/* The module that made `type` or one of its bases: a borrowed reference, or NULL with an exception. */
PyObject *mpy_module_of_type(PyTypeObject *type);
mpy_state_t *mpy_state_of_module(PyObject *module);

/* Each makes its types and adds them to the module; called once, by the module's exec. */
int mpy_enums_init(PyObject *module, mpy_state_t *state);
int mpy_config_init(PyObject *module, mpy_state_t *state);
int mpy_handle_init(PyObject *module, mpy_state_t *state);
int mpy_lease_init(PyObject *module, mpy_state_t *state);
int mpy_descriptors_init(PyObject *module, mpy_state_t *state);
int mpy_tensor_init(PyObject *module, mpy_state_t *state);
int mpy_parallelism_init(PyObject *module, mpy_state_t *state);
int mpy_tasks_init(PyObject *module, mpy_state_t *state);
int mpy_store_init(PyObject *module, mpy_state_t *state);

/* Makes a type of `spec`, keeps it in *type_out and adds it to the module under its name. */
int mpy_add_type(PyObject *module, PyType_Spec *spec, PyObject **type_out);
/* Frees the memory of an object whose contents are gone, and its reference to its type. */
void mpy_free_object(PyObject *self);

/* A method called with an array of arguments and keywords. */
typedef PyObject *(*mpy_method_fn)(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
#define MPY_METHOD(name, fn, doc)                                                                                      \
    {                                                                                                                  \
        name, (PyCFunction)(void (*)(void))(fn), METH_FASTCALL | METH_KEYWORDS, doc                                    \
    }
#define MPY_NOARGS(name, fn, doc)                                                                                      \
    {                                                                                                                  \
        name, (fn), METH_NOARGS, doc                                                                                   \
    }

/* A blocking call into the library: the GIL is released, and on the process's main thread the interpreter's signal
 * handlers run every 100 ms (Ctrl-C ends the call). mpy_call_end is false when a handler raised: the exception is set,
 * whatever the call returned. */
typedef struct mpy_call {
    PyThreadState *thread;
    bool interruptible;
} mpy_call_t;
void mpy_call_begin(mpy_call_t *call);
bool mpy_call_end(mpy_call_t *call) MCS_MUST_CHECK;
/* The same without signal handlers, for destructors and interpreter exit: nothing can be raised there. */
void mpy_quiet_begin(mpy_call_t *call);
void mpy_quiet_end(mpy_call_t *call);

#endif
