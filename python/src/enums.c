/* See enums.h. One table, one set of slots, one type for each row. */
#include "python/src/enums.h"
#include "python/src/args.h"

#include <string.h>

#define MEMBERS_MAX 10

typedef struct enum_row {
    const char *type_name; /* with the module */
    const char *name;
    bool exported;                        /* members are also names of the module */
    const char *members[MEMBERS_MAX + 1]; /* values count from 0 */
} enum_row_t;

/* Exported in this order: PROCESSING and FAILED of the module are TaskStatus's, as in the API. */
static const enum_row_t enum_rows[MPY_ENUM_COUNT] = {
    [MPY_OBJECT_DATA_TYPE] = {"mooncake.store.ObjectDataType",
                              "ObjectDataType",
                              true,
                              {"UNKNOWN", "KVCACHE", "TENSOR", "WEIGHT", "SAMPLE", "ACTIVATION", "GRADIENT",
                               "OPTIMIZER_STATE", "METADATA", "GENERAL"}},
    [MPY_SOFT_PIN_ACTION] = {"mooncake.store.SoftPinAction", "SoftPinAction", false, {"PRESERVE", "ENABLE", "DISABLE"}},
    [MPY_REPLICA_STATUS] = {"mooncake.store.ReplicaStatus",
                            "ReplicaStatus",
                            true,
                            {"UNDEFINED", "INITIALIZED", "PROCESSING", "COMPLETE", "REMOVED", "FAILED"}},
    [MPY_TASK_TYPE] = {"mooncake.store.TaskType", "TaskType", true, {"REPLICA_COPY", "REPLICA_MOVE"}},
    [MPY_TASK_STATUS] = {"mooncake.store.TaskStatus",
                         "TaskStatus",
                         true,
                         {"PENDING", "PROCESSING", "FAILED", "SUCCESS"}},
};

typedef struct mpy_enum {
    PyObject_HEAD const enum_row_t *row;
    int value;
} mpy_enum_t;

static mpy_enum_t *as_enum(PyObject *self)
{
    return (mpy_enum_t *)(void *)self;
}

static const char *name_of(PyObject *self)
{
    return as_enum(self)->row->members[as_enum(self)->value];
}

const char *mpy_enum_name(mpy_enum_id_t id, int value)
{
    return enum_rows[id].members[value];
}

static int members_of(const enum_row_t *row)
{
    int count = 0;
    while (row->members[count] != NULL) {
        count++;
    }
    return count;
}

/* ObjectDataType(1): the existing member. */
static PyObject *enum_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static const char *const params[] = {"value", NULL};
    static const mpy_sig_t sig = {"enum", 1, params};
    PyObject *values[MPY_PARAMS_MAX];
    PyObject *module = mpy_module_of_type(type);
    if (module == NULL || !mpy_bind_tuple(&sig, args, kwargs, values)) {
        return NULL;
    }
    mpy_state_t *state = mpy_state_of_module(module);
    uint64_t number;
    for (int id = 0; id < MPY_ENUM_COUNT; id++) {
        if (state->enum_types[id] != (PyObject *)type) {
            continue;
        }
        if (Py_TYPE(values[0]) == type) {
            return Py_NewRef(values[0]);
        }
        if (!mpy_u64(enum_rows[id].name, "value", values[0], &number)) {
            return NULL;
        }
        if (number < (uint64_t)members_of(&enum_rows[id])) {
            return mpy_enum_member(state, (mpy_enum_id_t)id, (int)number);
        }
        PyErr_Format(PyExc_ValueError, "%llu is not a valid %s", (unsigned long long)number, enum_rows[id].name);
        return NULL;
    }
    PyErr_SetString(PyExc_TypeError, "not an enumeration of mooncake.store");
    return NULL;
}

static PyObject *enum_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<%s.%s: %d>", as_enum(self)->row->name, name_of(self), as_enum(self)->value);
}

static PyObject *enum_str(PyObject *self)
{
    return PyUnicode_FromFormat("%s.%s", as_enum(self)->row->name, name_of(self));
}

static PyObject *enum_int(PyObject *self)
{
    return PyLong_FromLong(as_enum(self)->value);
}

static Py_hash_t enum_hash(PyObject *self)
{
    return as_enum(self)->value;
}

/* Equal members, or the equal int; the order is that of the values, within one type. */
static PyObject *enum_compare(PyObject *self, PyObject *other, int op)
{
    bool same_type = Py_TYPE(self) == Py_TYPE(other);
    if (!same_type && !(PyLong_Check(other) && (op == Py_EQ || op == Py_NE))) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *mine = enum_int(self);
    PyObject *theirs = same_type ? enum_int(other) : Py_NewRef(other);
    PyObject *result = mine != NULL && theirs != NULL ? PyObject_RichCompare(mine, theirs, op) : NULL;
    Py_XDECREF(mine);
    Py_XDECREF(theirs);
    return result;
}

static PyObject *enum_get_name(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(name_of(self));
}

static PyObject *enum_get_value(PyObject *self, void *closure)
{
    (void)closure;
    return enum_int(self);
}

static PyObject *enum_reduce(PyObject *self, PyObject *unused)
{
    (void)unused;
    return Py_BuildValue("(O(i))", (PyObject *)Py_TYPE(self), as_enum(self)->value);
}

static PyMethodDef enum_methods[] = {
    MPY_NOARGS("__reduce__", enum_reduce, "For pickle and copy."),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef enum_getset[] = {
    {"name", enum_get_name, NULL, "The member's name.", NULL},
    {"value", enum_get_value, NULL, "The member's value, an int.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot enum_slots[] = {
    {Py_tp_new, (void *)enum_new},
    {Py_tp_dealloc, (void *)mpy_free_object},
    {Py_tp_repr, (void *)enum_repr},
    {Py_tp_str, (void *)enum_str},
    {Py_tp_hash, (void *)enum_hash},
    {Py_nb_int, (void *)enum_int},
    {Py_nb_index, (void *)enum_int},
    {Py_tp_methods, (void *)enum_methods},
    {Py_tp_getset, (void *)enum_getset},
    {Py_tp_richcompare, (void *)enum_compare},
    {0, NULL},
};

PyObject *mpy_enum_member(mpy_state_t *state, mpy_enum_id_t id, int value)
{
    const enum_row_t *row = &enum_rows[id];
    PyObject *type = state->enum_types[id];
    if (type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "mooncake.store has been unloaded");
        return NULL;
    }
    return PyObject_GetAttrString(type, row->members[value >= 0 && value < members_of(row) ? value : 0]);
}

bool mpy_enum_value(mpy_state_t *state, mpy_enum_id_t id, PyObject *object, const char *owner, const char *attribute,
                    int *value_out)
{
    if ((PyObject *)Py_TYPE(object) != state->enum_types[id]) {
        return mpy_wrong_type(owner, attribute, enum_rows[id].name, object);
    }
    *value_out = as_enum(object)->value;
    return true;
}

static PyObject *make_member(PyObject *type, const enum_row_t *row, int value)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot((PyTypeObject *)type, Py_tp_alloc);
    PyObject *member = alloc((PyTypeObject *)type, 0);
    if (member != NULL) {
        as_enum(member)->row = row;
        as_enum(member)->value = value;
    }
    return member;
}

static int add_members(PyObject *module, PyObject *type, const enum_row_t *row)
{
    PyObject *members = PyDict_New();
    int rc = members != NULL ? 0 : -1;
    for (int value = 0; rc == 0 && row->members[value] != NULL; value++) {
        const char *name = row->members[value];
        PyObject *member = make_member(type, row, value);
        rc = member == NULL || PyDict_SetItemString(members, name, member) != 0 ||
                     PyObject_SetAttrString(type, name, member) != 0 ||
                     (row->exported && PyModule_AddObjectRef(module, name, member) != 0)
                 ? -1
                 : 0;
        Py_XDECREF(member);
    }
    if (rc == 0) {
        rc = PyObject_SetAttrString(type, "__members__", members);
    }
    Py_XDECREF(members);
    return rc;
}

int mpy_enums_init(PyObject *module, mpy_state_t *state)
{
    for (size_t id = 0; id < MPY_ENUM_COUNT; id++) {
        PyType_Spec spec = {
            .name = enum_rows[id].type_name,
            .basicsize = sizeof(mpy_enum_t),
            .flags = Py_TPFLAGS_DEFAULT,
            .slots = enum_slots,
        };
        if (mpy_add_type(module, &spec, &state->enum_types[id]) != 0 ||
            add_members(module, state->enum_types[id], &enum_rows[id]) != 0) {
            return -1;
        }
    }
    return 0;
}
