/* Memory of the host for buffers of the engine: page-aligned, in huge pages when there are any; and binding to a NUMA
 * node. MooncakeHostMemAllocator, get_alloc_func_addr, get_free_func_addr, bind_to_numa_node. */
#ifndef MPY_HOST_MEMORY_H
#define MPY_HOST_MEMORY_H

#include "python/src/args.h"

int mpy_host_memory_init(PyObject *module, mpy_state_t *state);

/* Module functions. */
PyObject *mpy_get_alloc_func_addr(PyObject *module, PyObject *unused);
PyObject *mpy_get_free_func_addr(PyObject *module, PyObject *unused);
PyObject *mpy_bind_to_numa_node(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

#endif
