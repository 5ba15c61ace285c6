/* Arguments: binding names to values, and the conversions of the documented API (those of pybind11, with clearer
 * messages).
 *
 * Wrong types are TypeError, texts that are not UTF-8 are UnicodeEncodeError (a ValueError); messages begin with the
 * method's name and name the argument. Numbers are Python ints or anything with __index__, 0 to 2**64-1; floats,
 * negative and larger ones are TypeError. */
#ifndef MPY_ARGS_H
#define MPY_ARGS_H

#include "python/src/mpy.h"

/* The first `required` of `params` must be given; the list ends with NULL. */
typedef struct mpy_sig {
    const char *name;
    Py_ssize_t required;
    const char *const *params;
} mpy_sig_t;

/* values_out[i] is the argument of params[i] (borrowed) or NULL. At most MPY_PARAMS_MAX parameters. */
#define MPY_PARAMS_MAX 16
bool mpy_bind(const mpy_sig_t *sig, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **values_out);
/* The same for a method called with a tuple and a dict (constructors). */
bool mpy_bind_tuple(const mpy_sig_t *sig, PyObject *args, PyObject *kwargs, PyObject **values_out);

/* The name of the object's type (PyType_GetName is not in CPython 3.10). New reference. */
PyObject *mpy_type_name(PyObject *object);

/* TypeError "name(): argument 'param' must be <want>, not <type>". Returns false. */
bool mpy_wrong_type(const char *name, const char *param, const char *want, PyObject *got);

bool mpy_u64(const char *name, const char *param, PyObject *value, uint64_t *out);
/* The same, of 32 bits with a sign. */
bool mpy_i32(const char *name, const char *param, PyObject *value, int32_t *out);
/* bool, int, None, what defines __bool__ (numpy's), and the words "True" and "False". */
bool mpy_bool(const char *name, const char *param, PyObject *value, bool *out);
/* str (its UTF-8) or bytes, without a null character; valid as long as `value`. */
bool mpy_text(const char *name, const char *param, PyObject *value, const char **out);

/* One key: str (its UTF-8), bytes or bytearray. The bytes are valid until mpy_key_drop. */
typedef struct mpy_key {
    mcs_bytes_t bytes;
    PyObject *ref;
} mpy_key_t;
bool mpy_key(const char *name, const char *param, PyObject *value, mpy_key_t *out);
void mpy_key_drop(mpy_key_t *key);

/* Many keys: a list, tuple or other sequence (not str or bytes). Zeroed = empty. */
typedef struct mpy_keys {
    size_t count;
    mcs_bytes_t *items;
    PyObject *refs;   /* tuple: what the caller gave, as it was then */
    PyObject *copies; /* list of the bytes made of bytearrays, or NULL */
} mpy_keys_t;
bool mpy_keys(const char *name, const char *param, PyObject *value, mpy_keys_t *out);
void mpy_keys_drop(mpy_keys_t *keys);

/* A sequence (not str, bytes or bytearray) as a new tuple: what other threads do to the caller's list later changes
 * nothing. */
PyObject *mpy_sequence(const char *name, const char *param, PyObject *value);

/* A sequence of numbers. */
typedef struct mpy_numbers {
    size_t count;
    uint64_t *items;
} mpy_numbers_t;
bool mpy_numbers(const char *name, const char *param, PyObject *value, mpy_numbers_t *out);
void mpy_numbers_drop(mpy_numbers_t *numbers);

/* A sequence of sequences of numbers. */
typedef struct mpy_table {
    size_t count;
    mpy_numbers_t *rows;
    size_t numbers; /* in all rows */
} mpy_table_t;
bool mpy_table(const char *name, const char *param, PyObject *value, mpy_table_t *out);
void mpy_table_drop(mpy_table_t *table);

/* A new list of plain ints. */
PyObject *mpy_int_list(const int64_t *values, size_t count);
PyObject *mpy_same_int_list(int64_t value, size_t count);
/* Zeroed memory, or NULL with MemoryError. Free with mcs_free. */
void *mpy_calloc(size_t count, size_t size);

#endif
