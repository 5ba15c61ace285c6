/* See args.h. */
#include "python/src/args.h"

#include <string.h>

#include "core/base/alloc.h"

PyObject *mpy_type_name(PyObject *object)
{
    PyObject *name = PyObject_GetAttrString((PyObject *)Py_TYPE(object), "__name__");
    if (name == NULL || !PyUnicode_Check(name)) { /* a metaclass may say anything */
        PyErr_Clear();
        Py_XDECREF(name);
        name = PyUnicode_FromString("?");
    }
    return name;
}

bool mpy_wrong_type(const char *name, const char *param, const char *want, PyObject *got)
{
    PyObject *type_name = mpy_type_name(got);
    if (type_name != NULL) {
        PyErr_Format(PyExc_TypeError, "%s(): argument '%s' must be %s, not %U", name, param, want, type_name);
        Py_DECREF(type_name);
    }
    return false;
}

static Py_ssize_t param_count(const mpy_sig_t *sig)
{
    Py_ssize_t count = 0;
    while (sig->params[count] != NULL) {
        count++;
    }
    assert(count <= MPY_PARAMS_MAX);
    return count;
}

static bool bind_positional(const mpy_sig_t *sig, PyObject *const *args, Py_ssize_t nargs, PyObject **values)
{
    Py_ssize_t count = param_count(sig);
    if (nargs > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments (%zd given)", sig->name, count, nargs);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        values[i] = i < nargs ? args[i] : NULL;
    }
    return true;
}

static bool bind_keyword(const mpy_sig_t *sig, PyObject *keyword, PyObject *value, PyObject **values)
{
    for (Py_ssize_t i = 0; sig->params[i] != NULL; i++) {
        if (PyUnicode_CompareWithASCIIString(keyword, sig->params[i]) != 0) {
            continue;
        }
        if (values[i] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'", sig->name, sig->params[i]);
            return false;
        }
        values[i] = value;
        return true;
    }
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", sig->name, keyword);
    return false;
}

static bool check_required(const mpy_sig_t *sig, PyObject *const *values)
{
    for (Py_ssize_t i = 0; i < sig->required; i++) {
        if (values[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s' (position %zd)", sig->name,
                         sig->params[i], i + 1);
            return false;
        }
    }
    return true;
}

bool mpy_bind(const mpy_sig_t *sig, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **values_out)
{
    if (!bind_positional(sig, args, nargs, values_out)) {
        return false;
    }
    Py_ssize_t keywords = kwnames != NULL ? PyTuple_Size(kwnames) : 0;
    for (Py_ssize_t i = 0; i < keywords; i++) {
        if (!bind_keyword(sig, PyTuple_GetItem(kwnames, i), args[nargs + i], values_out)) {
            return false;
        }
    }
    return check_required(sig, values_out);
}

bool mpy_bind_tuple(const mpy_sig_t *sig, PyObject *args, PyObject *kwargs, PyObject **values_out)
{
    PyObject *positional[MPY_PARAMS_MAX];
    Py_ssize_t nargs = PyTuple_Size(args);
    for (Py_ssize_t i = 0; i < MCS_MIN(nargs, (Py_ssize_t)MPY_PARAMS_MAX); i++) {
        positional[i] = PyTuple_GetItem(args, i);
    }
    if (!bind_positional(sig, positional, nargs, values_out)) {
        return false;
    }
    PyObject *keyword;
    PyObject *value;
    Py_ssize_t at = 0;
    while (kwargs != NULL && PyDict_Next(kwargs, &at, &keyword, &value)) {
        if (!bind_keyword(sig, keyword, value, values_out)) {
            return false;
        }
    }
    return check_required(sig, values_out);
}

bool mpy_u64(const char *name, const char *param, PyObject *value, uint64_t *out)
{
    static const char want[] = "an int from 0 to 2**64-1";
    PyObject *number = PyNumber_Index(value);
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            return mpy_wrong_type(name, param, want, value);
        }
        return false;
    }
    unsigned long long converted = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (converted == (unsigned long long)-1 && PyErr_Occurred() != NULL) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s(): argument '%s' must be %s: out of range", name, param, want);
        return false;
    }
    *out = converted;
    return true;
}

bool mpy_i32(const char *name, const char *param, PyObject *value, int32_t *out)
{
    static const char want[] = "an int from -2**31 to 2**31-1";
    PyObject *number = PyNumber_Index(value);
    if (number == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            return mpy_wrong_type(name, param, want, value);
        }
        return false;
    }
    long long converted = PyLong_AsLongLong(number);
    Py_DECREF(number);
    if (PyErr_Occurred() != NULL || converted < INT32_MIN || converted > INT32_MAX) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s(): argument '%s' must be %s: out of range", name, param, want);
        return false;
    }
    *out = (int32_t)converted;
    return true;
}

bool mpy_bool(const char *name, const char *param, PyObject *value, bool *out)
{
    /* the API's documentation has config.prefer_alloc_in_same_node = "True" */
    if (PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, "True") == 0) {
        *out = true;
        return true;
    }
    if (PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, "False") == 0) {
        *out = false;
        return true;
    }
    bool has_bool = value == Py_None || PyType_GetSlot(Py_TYPE(value), Py_nb_bool) != NULL;
    int truth = has_bool ? PyObject_IsTrue(value) : -1;
    if (truth < 0) {
        return PyErr_Occurred() != NULL ? false : mpy_wrong_type(name, param, "a bool", value);
    }
    *out = truth != 0;
    return true;
}

bool mpy_text(const char *name, const char *param, PyObject *value, const char **out)
{
    const char *text = NULL;
    Py_ssize_t len = 0;
    if (PyUnicode_Check(value)) {
        text = PyUnicode_AsUTF8AndSize(value, &len);
    } else if (PyBytes_Check(value)) {
        char *bytes = NULL;
        text = PyBytes_AsStringAndSize(value, &bytes, &len) == 0 ? bytes : NULL;
    } else {
        return mpy_wrong_type(name, param, "str", value);
    }
    if (text == NULL) {
        return false;
    }
    if (strlen(text) != (size_t)len) {
        PyErr_Format(PyExc_ValueError, "%s(): argument '%s' has a null character", name, param);
        return false;
    }
    *out = text;
    return true;
}

bool mpy_key(const char *name, const char *param, PyObject *value, mpy_key_t *out)
{
    Py_ssize_t len = 0;
    const char *text = NULL;
    PyObject *ref;
    if (PyUnicode_Check(value)) {
        ref = Py_NewRef(value);
        text = PyUnicode_AsUTF8AndSize(value, &len);
    } else if (PyBytes_Check(value) || PyByteArray_Check(value)) {
        /* a bytearray may be resized while the GIL is released: PyBytes_FromObject copies it, and returns bytes as they
         * are */
        ref = PyBytes_FromObject(value);
        char *bytes = NULL;
        text = ref != NULL && PyBytes_AsStringAndSize(ref, &bytes, &len) == 0 ? bytes : NULL;
    } else {
        return mpy_wrong_type(name, param, "str or bytes", value);
    }
    if (text == NULL) {
        Py_XDECREF(ref);
        return false;
    }
    out->bytes = (mcs_bytes_t){.ptr = text, .len = (size_t)len};
    out->ref = ref;
    return true;
}

void mpy_key_drop(mpy_key_t *key)
{
    Py_CLEAR(key->ref);
}

PyObject *mpy_sequence(const char *name, const char *param, PyObject *value)
{
    if (PyUnicode_Check(value) || PyBytes_Check(value) || PyByteArray_Check(value) || !PySequence_Check(value)) {
        mpy_wrong_type(name, param, "a list", value);
        return NULL;
    }
    return PySequence_Tuple(value);
}

void *mpy_calloc(size_t count, size_t size)
{
    void *memory = mcs_calloc(count, size);
    if (memory == NULL) {
        PyErr_NoMemory();
    }
    return memory;
}

/* A bytearray's copy must live as long as the keys. */
static bool keep_copy(mpy_keys_t *keys, PyObject *ref)
{
    if (keys->copies == NULL) {
        keys->copies = PyList_New(0);
    }
    return keys->copies != NULL && PyList_Append(keys->copies, ref) == 0;
}

bool mpy_keys(const char *name, const char *param, PyObject *value, mpy_keys_t *out)
{
    mpy_keys_t keys = {.refs = mpy_sequence(name, param, value)};
    if (keys.refs == NULL) {
        return false;
    }
    keys.count = (size_t)PyTuple_Size(keys.refs);
    keys.items = mpy_calloc(keys.count, sizeof(*keys.items));
    if (keys.items == NULL) {
        goto err_drop;
    }
    for (size_t i = 0; i < keys.count; i++) {
        mpy_key_t key;
        PyObject *item = PyTuple_GetItem(keys.refs, (Py_ssize_t)i);
        if (!mpy_key(name, param, item, &key)) {
            goto err_drop;
        }
        bool kept = key.ref == item || keep_copy(&keys, key.ref);
        keys.items[i] = key.bytes;
        mpy_key_drop(&key);
        if (!kept) {
            goto err_drop;
        }
    }
    *out = keys;
    return true;

err_drop:
    mpy_keys_drop(&keys);
    return false;
}

void mpy_keys_drop(mpy_keys_t *keys)
{
    Py_CLEAR(keys->refs);
    Py_CLEAR(keys->copies);
    mcs_free(keys->items);
    *keys = (mpy_keys_t){0};
}

bool mpy_numbers(const char *name, const char *param, PyObject *value, mpy_numbers_t *out)
{
    PyObject *items = mpy_sequence(name, param, value);
    if (items == NULL) {
        return false;
    }
    size_t count = (size_t)PyTuple_Size(items);
    uint64_t *numbers = mpy_calloc(count, sizeof(*numbers));
    bool ok = numbers != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        ok = mpy_u64(name, param, PyTuple_GetItem(items, (Py_ssize_t)i), &numbers[i]);
    }
    Py_DECREF(items);
    if (!ok) {
        mcs_free(numbers);
        return false;
    }
    *out = (mpy_numbers_t){.count = count, .items = numbers};
    return true;
}

void mpy_numbers_drop(mpy_numbers_t *numbers)
{
    mcs_free(numbers->items);
    *numbers = (mpy_numbers_t){0};
}

void mpy_table_drop(mpy_table_t *table)
{
    for (size_t i = 0; i < table->count; i++) {
        mpy_numbers_drop(&table->rows[i]);
    }
    mcs_free(table->rows);
    *table = (mpy_table_t){0};
}

bool mpy_table(const char *name, const char *param, PyObject *value, mpy_table_t *out)
{
    mpy_table_t table = {0};
    PyObject *rows = mpy_sequence(name, param, value);
    if (rows == NULL) {
        return false;
    }
    size_t count = (size_t)PyTuple_Size(rows);
    table.rows = mpy_calloc(count, sizeof(*table.rows));
    bool ok = table.rows != NULL;
    for (size_t i = 0; ok && i < count; i++) {
        ok = mpy_numbers(name, param, PyTuple_GetItem(rows, (Py_ssize_t)i), &table.rows[i]);
        if (ok) {
            table.numbers += table.rows[i].count;
            table.count++;
        }
    }
    Py_DECREF(rows);
    if (!ok) {
        mpy_table_drop(&table);
        return false;
    }
    *out = table;
    return true;
}

PyObject *mpy_int_list(const int64_t *values, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list != NULL && i < count; i++) {
        PyObject *item = PyLong_FromLongLong(values[i]);
        if (item == NULL || PyList_SetItem(list, (Py_ssize_t)i, item) != 0) {
            Py_CLEAR(list);
        }
    }
    return list;
}

PyObject *mpy_same_int_list(int64_t value, size_t count)
{
    int64_t *values = mpy_calloc(count, sizeof(*values));
    if (values == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        values[i] = value;
    }
    PyObject *list = mpy_int_list(values, count);
    mcs_free(values);
    return list;
}
