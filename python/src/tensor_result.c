/* See tensor.h. torch is looked for in sys.modules first and imported only here: a program that never asks for a
 * tensor, or has no torch, pays nothing.
 *
 * torch.frombuffer and, of host memory, not torch.from_dlpack: it takes every element type that torch has, in every
 * version since 1.10; DLPack was taught booleans, unsigned and 8-bit types one after another. */
#include "python/src/tensor.h"

PyObject *mpy_torch(mpy_state_t *state)
{
    PyObject *modules = PyImport_GetModuleDict(); /* borrowed, and so is what is in it */
    PyObject *torch = modules != NULL ? PyDict_GetItemString(modules, "torch") : NULL;
    if (torch != NULL) {
        return torch != Py_None ? Py_NewRef(torch) : NULL; /* None: somebody forbids it */
    }
    if (state->no_torch) {
        return NULL;
    }
    torch = PyImport_ImportModule("torch");
    if (torch == NULL && PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
        PyErr_Clear();
        state->no_torch = true; /* looked for once: the search is slow */
    }
    return torch;
}

PyObject *mpy_torch_dtype(PyObject *torch, mcs_dtype_t dtype)
{
    PyObject *found = PyObject_GetAttrString(torch, mcs_dtype_row(dtype)->name);
    if (found == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_RuntimeError, "the tensor is of %s, which this torch does not have: use get_dlpack",
                     mcs_dtype_row(dtype)->name);
    }
    return found;
}

/* torch.frombuffer(tensor, dtype=dtype); of no elements torch.empty(0, dtype=dtype). */
static PyObject *flat(PyObject *torch, PyObject *tensor, PyObject *dtype)
{
    bool empty = mpy_tensor_of(tensor)->bytes == 0;
    PyObject *make = PyObject_GetAttrString(torch, empty ? "empty" : "frombuffer");
    PyObject *args = make != NULL ? (empty ? Py_BuildValue("(i)", 0) : PyTuple_Pack(1, tensor)) : NULL;
    PyObject *kwargs = args != NULL ? Py_BuildValue("{sO}", "dtype", dtype) : NULL;
    PyObject *made = kwargs != NULL ? PyObject_Call(make, args, kwargs) : NULL;
    Py_XDECREF(make);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return made;
}

/* Of GPU memory there is no other way than DLPack. */
static PyObject *torch_on_device(PyObject *torch, PyObject *tensor)
{
    return PyObject_CallMethod(torch, "from_dlpack", "(O)", tensor);
}

static PyObject *torch_tensor(PyObject *torch, PyObject *tensor)
{
    PyObject *dtype = mpy_torch_dtype(torch, mpy_tensor_of(tensor)->dtype);
    PyObject *elements = dtype != NULL ? flat(torch, tensor, dtype) : NULL;
    PyObject *shape = elements != NULL ? PyObject_GetAttrString(tensor, "shape") : NULL;
    PyObject *shaped = shape != NULL ? PyObject_CallMethod(elements, "reshape", "(O)", shape) : NULL;
    Py_XDECREF(dtype);
    Py_XDECREF(elements);
    Py_XDECREF(shape);
    return shaped;
}

PyObject *mpy_tensor_result(mpy_state_t *state, PyObject *tensor)
{
    if (tensor == NULL) {
        return NULL;
    }
    PyObject *torch = mpy_torch(state);
    if (torch == NULL) {
        if (PyErr_Occurred() != NULL) {
            Py_CLEAR(tensor);
        }
        return tensor;
    }
    bool on_host = mpy_tensor_of(tensor)->device == MPY_ON_HOST;
    PyObject *result = on_host ? torch_tensor(torch, tensor) : torch_on_device(torch, tensor);
    Py_DECREF(torch);
    Py_DECREF(tensor);
    return result;
}
