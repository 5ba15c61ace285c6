/* See parallelism.h. The types only hold values: whether axes make sense is looked at by the calls that use them. */
#include "python/src/parallelism.h"

#include <string.h>
#include <strings.h>

#include "core/base/log.h"

typedef struct mpy_axis {
    PyObject_HEAD PyObject *kind; /* str */
    PyObject *numbers[5];         /* int, or None where that is allowed */
} mpy_axis_t;

typedef struct mpy_axes {
    PyObject_HEAD PyObject *axes; /* list */
} mpy_axes_t;

typedef struct mpy_target {
    PyObject_HEAD PyObject *parallelism; /* or None */
    mpy_read_mode_t mode;
} mpy_target_t;

static const char *const mode_names[] = {"as_stored", "shard", "full"};

static bool no_deletion(PyObject *value)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "the attribute cannot be deleted");
    }
    return value != NULL;
}

/* Constructors take attributes as keywords; the original's take nothing. */
static bool set_all(PyObject *self, PyObject *args, PyObject *kwargs)
{
    PyObject *key;
    PyObject *value;
    Py_ssize_t at = 0;
    if (PyTuple_Size(args) != 0) {
        PyErr_SetString(PyExc_TypeError, "attributes are given as keywords");
        return false;
    }
    while (kwargs != NULL && PyDict_Next(kwargs, &at, &key, &value)) {
        if (PyObject_SetAttr(self, key, value) != 0) {
            if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
                PyErr_Format(PyExc_TypeError, "unexpected keyword argument '%U'", key);
            }
            return false;
        }
    }
    return true;
}

static int init_with_keywords(PyObject *self, PyObject *args, PyObject *kwargs)
{
    return set_all(self, args, kwargs) ? 0 : -1;
}

static PyObject *alloc_self(PyTypeObject *type)
{
    return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

/* ---- ParallelAxis ---- */

typedef struct number_row {
    const char *name;
    size_t index;
    bool optional;
} number_row_t;
static number_row_t axis_numbers[] = {
    {"rank", 0, false}, {"size", 1, false}, {"split_dim", 2, true}, {"expert_id", 3, true}, {"stage_id", 4, true}};

static mpy_axis_t *as_axis(PyObject *self)
{
    return (mpy_axis_t *)(void *)self;
}

static PyObject *axis_get_kind(PyObject *self, void *closure)
{
    (void)closure;
    PyObject *kind = as_axis(self)->kind;
    return kind != NULL ? Py_NewRef(kind) : PyUnicode_FromString("");
}

static int axis_set_kind(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    if (!no_deletion(value)) {
        return -1;
    }
    if (!PyUnicode_Check(value)) {
        mpy_wrong_type("ParallelAxis", "kind", "str", value);
        return -1;
    }
    PyObject *old = as_axis(self)->kind;
    as_axis(self)->kind = Py_NewRef(value);
    Py_XDECREF(old);
    return 0;
}

static PyObject *axis_get_number(PyObject *self, void *closure)
{
    const number_row_t *row = closure;
    PyObject *number = as_axis(self)->numbers[row->index];
    return number != NULL ? Py_NewRef(number) : row->optional ? Py_NewRef(Py_None) : PyLong_FromLong((long)row->index);
}

static int axis_set_number(PyObject *self, PyObject *value, void *closure)
{
    const number_row_t *row = closure;
    PyObject *kept = NULL;
    int32_t number;
    if (!no_deletion(value)) {
        return -1;
    }
    if (value != Py_None || !row->optional) {
        if (!mpy_i32("ParallelAxis", row->name, value, &number)) {
            return -1;
        }
        kept = PyLong_FromLong(number);
        if (kept == NULL) {
            return -1;
        }
    }
    PyObject *old = as_axis(self)->numbers[row->index];
    as_axis(self)->numbers[row->index] = kept;
    Py_XDECREF(old);
    return 0;
}

static PyObject *axis_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    return alloc_self(type); /* zeroed: rank reads 0, size 1, the others None */
}

static void axis_dealloc(PyObject *self)
{
    Py_CLEAR(as_axis(self)->kind);
    for (size_t i = 0; i < MCS_ARRAY_LEN(as_axis(self)->numbers); i++) {
        Py_CLEAR(as_axis(self)->numbers[i]);
    }
    mpy_free_object(self);
}

static PyObject *axis_repr(PyObject *self)
{
    PyObject *values[MCS_ARRAY_LEN(axis_numbers)] = {NULL};
    PyObject *kind = axis_get_kind(self, NULL);
    PyObject *text = NULL;
    bool ready = kind != NULL;
    for (size_t i = 0; ready && i < MCS_ARRAY_LEN(axis_numbers); i++) {
        values[i] = axis_get_number(self, &axis_numbers[i]);
        ready = values[i] != NULL;
    }
    if (ready) {
        text = PyUnicode_FromFormat("ParallelAxis(kind=%R, rank=%S, size=%S, split_dim=%S, expert_id=%S, stage_id=%S)",
                                    kind, values[0], values[1], values[2], values[3], values[4]);
    }
    Py_XDECREF(kind);
    for (size_t i = 0; i < MCS_ARRAY_LEN(values); i++) {
        Py_XDECREF(values[i]);
    }
    return text;
}

static PyGetSetDef axis_getset[] = {
    {"kind", axis_get_kind, axis_set_kind, "'dp', 'tp', 'ep' or 'pp', in any case.", NULL},
    {"rank", axis_get_number, axis_set_number, "Which part, from 0.", &axis_numbers[0]},
    {"size", axis_get_number, axis_set_number, "How many parts.", &axis_numbers[1]},
    {"split_dim", axis_get_number, axis_set_number, "TP: the dimension that is split.", &axis_numbers[2]},
    {"expert_id", axis_get_number, axis_set_number, "EP: the expert.", &axis_numbers[3]},
    {"stage_id", axis_get_number, axis_set_number, "PP: the stage.", &axis_numbers[4]},
    {NULL, NULL, NULL, NULL, NULL},
};

static char axis_doc[] = "ParallelAxis(**attributes)\n--\n\nOne axis of parallelism: which part of how many.";

static PyType_Slot axis_slots[] = {
    {Py_tp_doc, (void *)axis_doc},
    {Py_tp_new, (void *)axis_new},
    {Py_tp_init, (void *)init_with_keywords},
    {Py_tp_repr, (void *)axis_repr},
    {Py_tp_dealloc, (void *)axis_dealloc},
    {Py_tp_getset, (void *)axis_getset},
    {0, NULL},
};

static PyType_Spec axis_spec = {
    .name = "mooncake.store.ParallelAxis",
    .basicsize = sizeof(mpy_axis_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = axis_slots,
};

/* ---- TensorParallelism ---- */

static mpy_axes_t *as_axes(PyObject *self)
{
    return (mpy_axes_t *)(void *)self;
}

static PyObject *axes_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    PyObject *self = alloc_self(type);
    if (self != NULL) {
        as_axes(self)->axes = PyList_New(0);
        if (as_axes(self)->axes == NULL) {
            Py_CLEAR(self);
        }
    }
    return self;
}

static PyObject *axes_get(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(as_axes(self)->axes);
}

static int axes_set(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    if (!no_deletion(value)) {
        return -1;
    }
    PyObject *items = mpy_sequence("TensorParallelism", "axes", value);
    PyObject *list = items != NULL ? PySequence_List(items) : NULL;
    Py_XDECREF(items);
    PyObject *module = list != NULL ? mpy_module_of_type(Py_TYPE(self)) : NULL;
    PyObject *type = module != NULL ? mpy_state_of_module(module)->axis_type : NULL;
    for (Py_ssize_t i = 0; type != NULL && i < PyList_Size(list); i++) {
        if (!PyObject_TypeCheck(PyList_GetItem(list, i), (PyTypeObject *)type)) {
            mpy_wrong_type("TensorParallelism", "axes", "a list of ParallelAxis", value);
            type = NULL;
        }
    }
    if (type == NULL) {
        Py_XDECREF(list);
        return -1;
    }
    PyObject *old = as_axes(self)->axes;
    as_axes(self)->axes = list;
    Py_XDECREF(old);
    return 0;
}

static int axes_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(as_axes(self)->axes);
    return 0;
}

/* Whatever a caller appends to the list may refer back. */
static int axes_clear(PyObject *self)
{
    PyObject *axes = as_axes(self)->axes;
    return axes != NULL ? PyList_SetSlice(axes, 0, PyList_Size(axes), NULL) : 0;
}

static void axes_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(as_axes(self)->axes);
    mpy_free_object(self);
}

static PyObject *axes_repr(PyObject *self)
{
    return PyUnicode_FromFormat("TensorParallelism(axes=%R)", as_axes(self)->axes);
}

static PyGetSetDef axes_getset[] = {
    {"axes", axes_get, axes_set, "A list of ParallelAxis, at most four and one of a kind.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char axes_doc[] =
    "TensorParallelism(**attributes)\n--\n\nThe axes along which a tensor is spread over processes.";

static PyType_Slot axes_slots[] = {
    {Py_tp_doc, (void *)axes_doc},     {Py_tp_new, (void *)axes_new},         {Py_tp_init, (void *)init_with_keywords},
    {Py_tp_repr, (void *)axes_repr},   {Py_tp_dealloc, (void *)axes_dealloc}, {Py_tp_traverse, (void *)axes_traverse},
    {Py_tp_clear, (void *)axes_clear}, {Py_tp_getset, (void *)axes_getset},   {0, NULL},
};

static PyType_Spec axes_spec = {
    .name = "mooncake.store.TensorParallelism",
    .basicsize = sizeof(mpy_axes_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = axes_slots,
};

/* ---- ReadTarget ---- */

static mpy_target_t *as_target(PyObject *self)
{
    return (mpy_target_t *)(void *)self;
}

static PyObject *target_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    PyObject *self = alloc_self(type);
    if (self != NULL) {
        as_target(self)->parallelism = Py_NewRef(Py_None);
    }
    return self;
}

/* *out unchanged for another name. */
static bool mode_of(PyObject *text, mpy_read_mode_t *out)
{
    const char *name = PyUnicode_Check(text) ? PyUnicode_AsUTF8AndSize(text, NULL) : NULL;
    for (size_t i = 0; name != NULL && i < MCS_ARRAY_LEN(mode_names); i++) {
        if (strcasecmp(name, mode_names[i]) == 0) {
            *out = (mpy_read_mode_t)i;
            return true;
        }
    }
    return false;
}

static PyObject *target_get_mode(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(mode_names[as_target(self)->mode]);
}

static int target_set_mode(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    if (!no_deletion(value)) {
        return -1;
    }
    if (!PyUnicode_Check(value)) {
        mpy_wrong_type("ReadTarget", "mode", "str", value);
        return -1;
    }
    if (!mode_of(value, &as_target(self)->mode)) {
        PyErr_Clear();
        PyErr_SetString(PyExc_RuntimeError, "ReadTarget.mode must be 'as_stored', 'shard' or 'full'");
        return -1;
    }
    return 0;
}

static PyObject *target_get_parallelism(PyObject *self, void *closure)
{
    (void)closure;
    return Py_NewRef(as_target(self)->parallelism);
}

static int target_set_parallelism(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    PyObject *module = no_deletion(value) ? mpy_module_of_type(Py_TYPE(self)) : NULL;
    if (module == NULL) {
        return -1;
    }
    PyObject *type = mpy_state_of_module(module)->parallelism_type;
    if (value != Py_None && (type == NULL || !PyObject_TypeCheck(value, (PyTypeObject *)type))) {
        mpy_wrong_type("ReadTarget", "parallelism", "TensorParallelism or None", value);
        return -1;
    }
    PyObject *old = as_target(self)->parallelism;
    as_target(self)->parallelism = Py_NewRef(value);
    Py_XDECREF(old);
    return 0;
}

static int target_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(as_target(self)->parallelism);
    return 0;
}

static void target_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(as_target(self)->parallelism);
    mpy_free_object(self);
}

static PyObject *target_repr(PyObject *self)
{
    return PyUnicode_FromFormat("ReadTarget(mode='%s', parallelism=%R)", mode_names[as_target(self)->mode],
                                as_target(self)->parallelism);
}

static PyGetSetDef target_getset[] = {
    {"mode", target_get_mode, target_set_mode, "'as_stored', 'shard' or 'full', in any case.", NULL},
    {"parallelism", target_get_parallelism, target_set_parallelism, "A TensorParallelism, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char target_doc[] =
    "ReadTarget(**attributes)\n--\n\nWhat of a tensor a read wants: the value under the key, one "
    "shard, or the whole tensor.";

/* No tp_clear: the cycle that a list of axes may close is broken there. */
static PyType_Slot target_slots[] = {
    {Py_tp_doc, (void *)target_doc},          {Py_tp_new, (void *)target_new},
    {Py_tp_init, (void *)init_with_keywords}, {Py_tp_repr, (void *)target_repr},
    {Py_tp_dealloc, (void *)target_dealloc},  {Py_tp_traverse, (void *)target_traverse},
    {Py_tp_getset, (void *)target_getset},    {0, NULL},
};

static PyType_Spec target_spec = {
    .name = "mooncake.store.ReadTarget",
    .basicsize = sizeof(mpy_target_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = target_slots,
};

int mpy_parallelism_init(PyObject *module, mpy_state_t *state)
{
    if (mpy_add_type(module, &axis_spec, &state->axis_type) != 0 ||
        mpy_add_type(module, &axes_spec, &state->parallelism_type) != 0) {
        return -1;
    }
    return mpy_add_type(module, &target_spec, &state->target_type);
}

/* ---- taking them ---- */

static mpy_take_t refuse(const char *name, const char *why)
{
    mcs_warn("python", "%s refused: %s: %s", name, why, mcs_code_name(MCS_INVALID_PARAMS));
    return MPY_REFUSED;
}

/* object.attribute. NULL with MPY_REFUSED: there is none; with MPY_RAISED: an exception. */
static PyObject *attribute(PyObject *object, const char *attribute_name, mpy_take_t *taken_out)
{
    PyObject *value = PyObject_GetAttrString(object, attribute_name);
    *taken_out = MPY_TAKEN;
    if (value == NULL) {
        bool missing = PyErr_ExceptionMatches(PyExc_AttributeError) != 0;
        *taken_out = missing ? MPY_REFUSED : MPY_RAISED;
        if (missing) {
            PyErr_Clear();
        }
    }
    return value;
}

/* An int; with `has_out`, None is allowed, and so is that it is missing. */
static mpy_take_t number_of(PyObject *object, const char *attribute_name, int32_t *out, bool *has_out)
{
    mpy_take_t taken;
    PyObject *value = attribute(object, attribute_name, &taken);
    if (has_out != NULL) {
        *has_out = value != NULL && value != Py_None;
        if (!*has_out && taken != MPY_RAISED) {
            Py_XDECREF(value);
            return MPY_TAKEN;
        }
    }
    if (value != NULL && !mpy_i32("parallelism", attribute_name, value, out)) {
        taken = MPY_RAISED;
    }
    Py_XDECREF(value);
    return taken;
}

static mpy_take_t kind_of(PyObject *object, mcs_axis_kind_t *out)
{
    mpy_take_t taken;
    PyObject *value = attribute(object, "kind", &taken);
    const char *text = value != NULL && PyUnicode_Check(value) ? PyUnicode_AsUTF8AndSize(value, NULL) : NULL;
    if (value != NULL && (text == NULL || !mcs_axis_kind_by_name(text, out))) {
        PyErr_Clear();
        taken = MPY_REFUSED;
    }
    Py_XDECREF(value);
    return taken;
}

static mpy_take_t axis_of(PyObject *object, mcs_axis_t *out)
{
    mcs_axis_t axis = {.split_dim = -1};
    bool has_dim = false;
    bool has_expert = false;
    bool has_stage = false;
    int32_t dim = 0;
    int32_t expert = 0;
    int32_t stage = 0;
    mpy_take_t taken = kind_of(object, &axis.kind);
    taken = taken == MPY_TAKEN ? number_of(object, "rank", &axis.rank, NULL) : taken;
    taken = taken == MPY_TAKEN ? number_of(object, "size", &axis.size, NULL) : taken;
    taken = taken == MPY_TAKEN ? number_of(object, "split_dim", &dim, &has_dim) : taken;
    taken = taken == MPY_TAKEN ? number_of(object, "expert_id", &expert, &has_expert) : taken;
    taken = taken == MPY_TAKEN ? number_of(object, "stage_id", &stage, &has_stage) : taken;
    if (taken == MPY_TAKEN && has_dim && dim < 0) {
        taken = MPY_REFUSED;
    }
    if (taken == MPY_TAKEN) {
        axis.split_dim = has_dim ? dim : -1;
        axis.has_id = axis.kind == MCS_AXIS_EP ? has_expert : axis.kind == MCS_AXIS_PP && has_stage;
        axis.id = !axis.has_id ? 0 : axis.kind == MCS_AXIS_EP ? expert : stage;
        *out = axis;
    }
    return taken;
}

mpy_take_t mpy_parallelism_take(const char *name, PyObject *object, mcs_parallelism_t *out)
{
    mcs_parallelism_t parallelism = {0};
    mpy_take_t taken;
    PyObject *list = attribute(object, "axes", &taken);
    PyObject *axes = list != NULL ? mpy_sequence(name, "parallelism.axes", list) : NULL;
    Py_XDECREF(list);
    if (axes == NULL) {
        return taken == MPY_TAKEN ? MPY_RAISED
                                  : (taken == MPY_REFUSED ? refuse(name, "a parallelism has axes") : taken);
    }
    Py_ssize_t count = PyTuple_Size(axes);
    taken = count <= MCS_TENSOR_AXES_MAX ? MPY_TAKEN : MPY_REFUSED;
    for (Py_ssize_t i = 0; taken == MPY_TAKEN && i < count; i++) {
        taken = axis_of(PyTuple_GetItem(axes, i), &parallelism.axes[i]);
    }
    Py_DECREF(axes);
    parallelism.count = (size_t)MCS_MIN(count, (Py_ssize_t)MCS_TENSOR_AXES_MAX);
    if (taken == MPY_TAKEN && mcs_parallelism_check(&parallelism) != MCS_OK) {
        taken = MPY_REFUSED;
    }
    if (taken == MPY_REFUSED) {
        return refuse(name,
                      "1 to 4 axes, one of a kind, rank below size; tp has split_dim, dp, ep and pp have none, ep "
                      "has expert_id, pp has stage_id");
    }
    if (taken == MPY_TAKEN) {
        *out = parallelism;
    }
    return taken;
}

mpy_take_t mpy_read_target_take(const char *name, PyObject *object, mpy_read_target_t *out)
{
    mpy_read_target_t target = {.mode = MPY_READ_AS_STORED};
    if (object == NULL || object == Py_None) {
        *out = target;
        return MPY_TAKEN;
    }
    mpy_take_t taken;
    PyObject *mode = attribute(object, "mode", &taken);
    if (mode != NULL && !mode_of(mode, &target.mode)) {
        PyErr_Clear();
        taken = MPY_REFUSED;
    }
    Py_XDECREF(mode);
    PyObject *parallelism = taken == MPY_TAKEN ? attribute(object, "parallelism", &taken) : NULL;
    if (taken == MPY_REFUSED) {
        return refuse(name, "a target has a mode ('as_stored', 'shard', 'full') and a parallelism");
    }
    if (parallelism != NULL && parallelism != Py_None) {
        target.has_parallelism = true;
        taken = mpy_parallelism_take(name, parallelism, &target.parallelism);
    }
    Py_XDECREF(parallelism);
    if (taken == MPY_TAKEN) {
        *out = target;
    }
    return taken;
}

mpy_take_t mpy_writer_take(const char *name, PyObject *object, mcs_parallelism_t *out)
{
    int32_t rank = 0;
    int32_t size = 0;
    int32_t dim = 0;
    mpy_take_t taken = number_of(object, "rank", &rank, NULL);
    taken = taken == MPY_TAKEN ? number_of(object, "size", &size, NULL) : taken;
    taken = taken == MPY_TAKEN ? number_of(object, "split_dim", &dim, NULL) : taken;
    if (taken == MPY_TAKEN && (size <= 0 || rank < 0 || rank >= size || dim < 0)) {
        taken = MPY_REFUSED;
    }
    if (taken == MPY_REFUSED) {
        return refuse(name, "a writer partition has rank, size and split_dim, and its rank is below its size");
    }
    if (taken == MPY_TAKEN) {
        *out = mcs_parallelism_tp(rank, size, dim);
    }
    return taken;
}
