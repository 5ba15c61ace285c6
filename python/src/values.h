/* The bytes of a value that a put was given: any object with the buffer protocol, stored exactly.
 * Contiguous memory is used where it is; anything else (strided, Fortran order, indirect) is copied once, in C order.
 */
#ifndef MPY_VALUES_H
#define MPY_VALUES_H

#include "python/src/mpy.h"

typedef struct mpy_value {
    struct iovec bytes;
    PyObject *ref;  /* bytes object, or NULL */
    Py_buffer view; /* filled when has_view */
    bool has_view;
    void *copy; /* owned, or NULL */
} mpy_value_t;

/* TypeError for an object without the buffer protocol, or one of Python references (format 'O'). */
bool mpy_value_take(const char *name, const char *param, PyObject *object, mpy_value_t *out);
/* The same for one part of put_parts: RuntimeError unless one-dimensional with items of one byte. */
bool mpy_value_take_part(const char *name, PyObject *object, mpy_value_t *out);
void mpy_value_drop(mpy_value_t *value);

#endif
