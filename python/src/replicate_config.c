/* See replicate_config.h.
 *
 * Attributes are checked when they are set, so that a call finds nothing left to refuse but what only the store can
 * know. Lists are kept as tuples of str and given out as new lists: changing a list that was read changes nothing, as
 * in the API. `with_soft_pin` is the older spelling of soft_pin_action. */
#include "python/src/replicate_config.h"
#include "python/src/enums.h"

#include <string.h>

#include "core/base/alloc.h"
#include "core/base/log.h"

#define OWNER "ReplicateConfig"

typedef struct mpy_config {
    PyObject_HEAD PyObject *module;
    uint64_t replica_num;
    uint64_t nof_replica_num;
    uint64_t dfs_replica_num;
    uint64_t soft_pin_ttl_ms;
    bool has_soft_pin_ttl;
    bool with_hard_pin;
    bool prefer_alloc_in_same_node;
    int soft_pin_action;
    int data_type;
    PyObject *preferred_segment;      /* str */
    PyObject *preferred_segments;     /* tuple of str */
    PyObject *preferred_nof_segments; /* tuple of str */
    PyObject *group_ids;              /* tuple of str, or None */
} mpy_config_t;

enum { SOFT_PIN_PRESERVE, SOFT_PIN_ENABLE };

static mpy_config_t *as_config(PyObject *self)
{
    return (mpy_config_t *)(void *)self;
}

static PyObject *config_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    PyObject *module = mpy_module_of_type(type);
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PyObject *self = module != NULL ? alloc(type, 0) : NULL;
    if (self == NULL) {
        return NULL;
    }
    mpy_config_t *config = as_config(self);
    config->module = Py_NewRef(module);
    config->replica_num = 1;
    config->preferred_segment = PyUnicode_FromString("");
    config->preferred_segments = PyTuple_New(0);
    config->preferred_nof_segments = PyTuple_New(0);
    config->group_ids = Py_NewRef(Py_None);
    if (config->preferred_segment == NULL || config->preferred_segments == NULL ||
        config->preferred_nof_segments == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return self;
}

/* ReplicateConfig(), or with attributes as keywords. */
static int config_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_Size(args) != 0) {
        PyErr_SetString(PyExc_TypeError, OWNER "() takes keyword arguments only");
        return -1;
    }
    PyObject *keyword;
    PyObject *value;
    Py_ssize_t at = 0;
    while (kwargs != NULL && PyDict_Next(kwargs, &at, &keyword, &value)) {
        if (PyObject_SetAttr(self, keyword, value) != 0) {
            if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
                PyErr_Clear();
                PyErr_Format(PyExc_TypeError, OWNER "() got an unexpected keyword argument '%U'", keyword);
            }
            return -1;
        }
    }
    return 0;
}

static int config_clear(PyObject *self)
{
    (void)self; /* strings and tuples of strings make no cycles, and the attributes must never be NULL */
    return 0;
}

static int config_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(as_config(self)->module);
    return 0;
}

static void config_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    mpy_config_t *config = as_config(self);
    Py_CLEAR(config->preferred_segment);
    Py_CLEAR(config->preferred_segments);
    Py_CLEAR(config->preferred_nof_segments);
    Py_CLEAR(config->group_ids);
    Py_CLEAR(config->module);
    mpy_free_object(self);
}

/* ---- attributes ---- */

static int refuse_delete(const char *attribute)
{
    PyErr_Format(PyExc_AttributeError, "cannot delete " OWNER ".%s", attribute);
    return -1;
}

/* A number or a bool is found by its offset in the object: one row for each attribute. */
typedef struct field {
    const char *name;
    size_t offset;
} field_t;

static uint64_t *number_at(PyObject *self, const field_t *field)
{
    return (uint64_t *)(void *)((char *)(void *)self + field->offset);
}

static bool *flag_at(PyObject *self, const field_t *field)
{
    return (bool *)(void *)((char *)(void *)self + field->offset);
}

static PyObject **object_at(PyObject *self, const field_t *field)
{
    return (PyObject **)(void *)((char *)(void *)self + field->offset);
}

static PyObject *get_number(PyObject *self, void *closure)
{
    return PyLong_FromUnsignedLongLong(*number_at(self, closure));
}

static int set_number(PyObject *self, PyObject *value, void *closure)
{
    const field_t *field = closure;
    if (value == NULL) {
        return refuse_delete(field->name);
    }
    return mpy_u64(OWNER, field->name, value, number_at(self, field)) ? 0 : -1;
}

static PyObject *get_flag(PyObject *self, void *closure)
{
    return PyBool_FromLong(*flag_at(self, closure));
}

static int set_flag(PyObject *self, PyObject *value, void *closure)
{
    const field_t *field = closure;
    if (value == NULL) {
        return refuse_delete(field->name);
    }
    return mpy_bool(OWNER, field->name, value, flag_at(self, field)) ? 0 : -1;
}

/* A new tuple of str of any sequence of str and bytes (UTF-8). */
static PyObject *take_texts(const char *attribute, PyObject *value)
{
    PyObject *items = mpy_sequence(OWNER, attribute, value);
    if (items == NULL) {
        return NULL;
    }
    Py_ssize_t count = PyTuple_Size(items);
    PyObject *texts = PyTuple_New(count);
    for (Py_ssize_t i = 0; texts != NULL && i < count; i++) {
        const char *text;
        bool ok = mpy_text(OWNER, attribute, PyTuple_GetItem(items, i), &text);
        PyObject *copy = ok ? PyUnicode_FromString(text) : NULL;
        if (copy == NULL || PyTuple_SetItem(texts, i, copy) != 0) {
            Py_CLEAR(texts);
        }
    }
    Py_DECREF(items);
    return texts;
}

static PyObject *get_texts(PyObject *self, void *closure)
{
    PyObject *texts = *object_at(self, closure);
    return texts == Py_None ? Py_NewRef(Py_None) : PySequence_List(texts);
}

static int replace_object(PyObject **place, PyObject *value)
{
    PyObject *old = *place;
    if (value == NULL) {
        return -1;
    }
    *place = value;
    Py_XDECREF(old);
    return 0;
}

static int set_texts(PyObject *self, PyObject *value, void *closure)
{
    const field_t *field = closure;
    if (value == NULL) {
        return refuse_delete(field->name);
    }
    return replace_object(object_at(self, field), take_texts(field->name, value));
}

static int set_optional_texts(PyObject *self, PyObject *value, void *closure)
{
    if (value == Py_None) {
        return replace_object(object_at(self, closure), Py_NewRef(Py_None));
    }
    return set_texts(self, value, closure);
}

static PyObject *get_text(PyObject *self, void *closure)
{
    return Py_NewRef(*object_at(self, closure));
}

static int set_text(PyObject *self, PyObject *value, void *closure)
{
    const field_t *field = closure;
    const char *text;
    if (value == NULL) {
        return refuse_delete(field->name);
    }
    if (!mpy_text(OWNER, field->name, value, &text)) {
        return -1;
    }
    return replace_object(object_at(self, field), PyUnicode_FromString(text));
}

static PyObject *get_soft_pin_action(PyObject *self, void *closure)
{
    (void)closure;
    mpy_config_t *config = as_config(self);
    return mpy_enum_member(mpy_state_of_module(config->module), MPY_SOFT_PIN_ACTION, config->soft_pin_action);
}

static int set_enum(PyObject *self, PyObject *value, mpy_enum_id_t id, const char *attribute, int *place)
{
    if (value == NULL) {
        return refuse_delete(attribute);
    }
    return mpy_enum_value(mpy_state_of_module(as_config(self)->module), id, value, OWNER, attribute, place) ? 0 : -1;
}

static int set_soft_pin_action(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    return set_enum(self, value, MPY_SOFT_PIN_ACTION, "soft_pin_action", &as_config(self)->soft_pin_action);
}

static PyObject *get_with_soft_pin(PyObject *self, void *closure)
{
    (void)closure;
    return PyBool_FromLong(as_config(self)->soft_pin_action == SOFT_PIN_ENABLE);
}

static int set_with_soft_pin(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    bool on;
    if (value == NULL) {
        return refuse_delete("with_soft_pin");
    }
    if (!mpy_bool(OWNER, "with_soft_pin", value, &on)) {
        return -1;
    }
    as_config(self)->soft_pin_action = on ? SOFT_PIN_ENABLE : SOFT_PIN_PRESERVE;
    return 0;
}

static PyObject *get_soft_pin_ttl(PyObject *self, void *closure)
{
    (void)closure;
    mpy_config_t *config = as_config(self);
    return config->has_soft_pin_ttl ? PyLong_FromUnsignedLongLong(config->soft_pin_ttl_ms) : Py_NewRef(Py_None);
}

static int set_soft_pin_ttl(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    mpy_config_t *config = as_config(self);
    if (value == NULL) {
        return refuse_delete("soft_pin_ttl_ms");
    }
    if (value == Py_None) {
        config->has_soft_pin_ttl = false;
        return 0;
    }
    if (!mpy_u64(OWNER, "soft_pin_ttl_ms", value, &config->soft_pin_ttl_ms)) {
        return -1;
    }
    config->has_soft_pin_ttl = true;
    return 0;
}

static PyObject *get_data_type(PyObject *self, void *closure)
{
    (void)closure;
    mpy_config_t *config = as_config(self);
    return mpy_enum_member(mpy_state_of_module(config->module), MPY_OBJECT_DATA_TYPE, config->data_type);
}

static int set_data_type(PyObject *self, PyObject *value, void *closure)
{
    (void)closure;
    return set_enum(self, value, MPY_OBJECT_DATA_TYPE, "data_type", &as_config(self)->data_type);
}

static field_t field_replica_num = {"replica_num", offsetof(mpy_config_t, replica_num)};
static field_t field_nof_replica_num = {"nof_replica_num", offsetof(mpy_config_t, nof_replica_num)};
static field_t field_dfs_replica_num = {"dfs_replica_num", offsetof(mpy_config_t, dfs_replica_num)};
static field_t field_with_hard_pin = {"with_hard_pin", offsetof(mpy_config_t, with_hard_pin)};
static field_t field_prefer_same_node = {"prefer_alloc_in_same_node",
                                         offsetof(mpy_config_t, prefer_alloc_in_same_node)};
static field_t field_preferred_segment = {"preferred_segment", offsetof(mpy_config_t, preferred_segment)};
static field_t field_preferred_segments = {"preferred_segments", offsetof(mpy_config_t, preferred_segments)};
static field_t field_preferred_nof_segments = {"preferred_nof_segments",
                                               offsetof(mpy_config_t, preferred_nof_segments)};
static field_t field_group_ids = {"group_ids", offsetof(mpy_config_t, group_ids)};

static PyGetSetDef config_getset[] = {
    {"replica_num", get_number, set_number, "Copies wanted in memory, on distinct segments (default 1).",
     &field_replica_num},
    {"nof_replica_num", get_number, set_number, "Copies on NVMe-oF (default 0; there is no such tier here).",
     &field_nof_replica_num},
    {"dfs_replica_num", get_number, set_number, "Copies on a file system (default 0; there is no such tier here).",
     &field_dfs_replica_num},
    {"with_soft_pin", get_with_soft_pin, set_with_soft_pin,
     "Older spelling: True is soft_pin_action ENABLE, False is PRESERVE.", NULL},
    {"soft_pin_action", get_soft_pin_action, set_soft_pin_action, "A SoftPinAction (default PRESERVE).", NULL},
    {"soft_pin_ttl_ms", get_soft_pin_ttl, set_soft_pin_ttl,
     "Milliseconds that a soft pin lasts; None = the master's default. Only with ENABLE.", NULL},
    {"with_hard_pin", get_flag, set_flag, "Never evicted (default False).", &field_with_hard_pin},
    {"preferred_segment", get_text, set_text, "Segment (host:port) to try first; tried before preferred_segments.",
     &field_preferred_segment},
    {"preferred_segments", get_texts, set_texts, "Segments (host:port) to try, in order.", &field_preferred_segments},
    {"preferred_nof_segments", get_texts, set_texts, "Kept, without effect.", &field_preferred_nof_segments},
    {"prefer_alloc_in_same_node", get_flag, set_flag,
     "Only for batch_put_from_multi_buffers; the other puts refuse it (default False).", &field_prefer_same_node},
    {"data_type", get_data_type, set_data_type, "An ObjectDataType, stored with the object (default UNKNOWN).", NULL},
    {"group_ids", get_texts, set_optional_texts, "One group for each key of a batch ('' = none), or None.",
     &field_group_ids},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---- text ---- */

/* "a, b": the names joined. */
static PyObject *joined(PyObject *texts)
{
    PyObject *comma = PyUnicode_FromString(", ");
    PyObject *text = comma != NULL ? PyUnicode_Join(comma, texts) : NULL;
    Py_XDECREF(comma);
    return text;
}

/* "" without a value, else the format with it. */
static PyObject *optional_item(bool given, const char *format, PyObject *value)
{
    return given ? PyUnicode_FromFormat(format, value) : PyUnicode_FromString("");
}

static PyObject *config_str(PyObject *self)
{
    mpy_config_t *config = as_config(self);
    PyObject *text = NULL;
    PyObject *ttl = config->has_soft_pin_ttl ? PyUnicode_FromFormat("%llu", (unsigned long long)config->soft_pin_ttl_ms)
                                             : PyUnicode_FromString("default");
    PyObject *segments = joined(config->preferred_segments);
    PyObject *nof_segments = joined(config->preferred_nof_segments);
    PyObject *group_texts = config->group_ids != Py_None ? joined(config->group_ids) : PyUnicode_FromString("");
    bool has_segment = PyUnicode_CompareWithASCIIString(config->preferred_segment, "") != 0;
    PyObject *segment = optional_item(has_segment, ", preferred_segment (deprecated): %U", config->preferred_segment);
    PyObject *groups =
        group_texts != NULL ? optional_item(config->group_ids != Py_None, ", group_ids: [%U]", group_texts) : NULL;
    if (ttl != NULL && segments != NULL && nof_segments != NULL && segment != NULL && groups != NULL) {
        text = PyUnicode_FromFormat(
            "ReplicateConfig: { replica_num: %llu, nof_replica_num: %llu, dfs_replica_num: %llu, soft_pin_action: %s, "
            "soft_pin_ttl_ms: %U, with_hard_pin: %d, preferred_segments: [%U]%U, preferred_nof_segments: [%U], "
            "prefer_alloc_in_same_node: %d, data_type: %s%U }",
            (unsigned long long)config->replica_num, (unsigned long long)config->nof_replica_num,
            (unsigned long long)config->dfs_replica_num, mpy_enum_name(MPY_SOFT_PIN_ACTION, config->soft_pin_action),
            ttl, config->with_hard_pin, segments, segment, nof_segments, config->prefer_alloc_in_same_node,
            mpy_enum_name(MPY_OBJECT_DATA_TYPE, config->data_type), groups);
    }
    Py_XDECREF(ttl);
    Py_XDECREF(segments);
    Py_XDECREF(nof_segments);
    Py_XDECREF(group_texts);
    Py_XDECREF(segment);
    Py_XDECREF(groups);
    return text;
}

static char config_doc[] = "ReplicateConfig(**attributes)\n--\n\n"
                           "How an object is placed and kept. Attributes may be given as keywords or set afterwards.";

static PyType_Slot config_slots[] = {
    {Py_tp_doc, (void *)config_doc},           {Py_tp_new, (void *)config_new},
    {Py_tp_init, (void *)config_init},         {Py_tp_dealloc, (void *)config_dealloc},
    {Py_tp_traverse, (void *)config_traverse}, {Py_tp_clear, (void *)config_clear},
    {Py_tp_getset, (void *)config_getset},     {Py_tp_str, (void *)config_str},
    {Py_tp_repr, (void *)config_str},          {0, NULL},
};

static PyType_Spec config_spec = {
    .name = "mooncake.store.ReplicateConfig",
    .basicsize = sizeof(mpy_config_t),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = config_slots,
};

int mpy_config_init(PyObject *module, mpy_state_t *state)
{
    return mpy_add_type(module, &config_spec, &state->config_type);
}

/* ---- for a call ---- */

/* The deprecated single segment comes before the list. */
static bool take_segments(mpy_placement_t *p)
{
    PyObject *one = p->refs[0];
    PyObject *list = p->refs[1];
    size_t listed = (size_t)PyTuple_Size(list);
    p->segments = mpy_calloc(listed + 1, sizeof(*p->segments));
    if (p->segments == NULL) {
        return false;
    }
    size_t count = 0;
    const char *text = PyUnicode_AsUTF8AndSize(one, NULL);
    if (text != NULL && text[0] != '\0') {
        p->segments[count++] = text;
    }
    for (size_t i = 0; text != NULL && i < listed; i++) {
        text = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(list, (Py_ssize_t)i), NULL);
        p->segments[count++] = text;
    }
    p->c.preferred_segments = p->segments;
    p->c.preferred_segment_count = count;
    p->listed_segments = listed;
    return text != NULL;
}

static bool take_groups(mpy_placement_t *p)
{
    PyObject *groups = p->refs[2];
    if (groups == Py_None) {
        return true;
    }
    size_t count = (size_t)PyTuple_Size(groups);
    p->groups = mpy_calloc(count, sizeof(*p->groups));
    for (size_t i = 0; p->groups != NULL && i < count; i++) {
        Py_ssize_t len;
        p->groups[i].ptr = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(groups, (Py_ssize_t)i), &len);
        if (p->groups[i].ptr == NULL) {
            return false;
        }
        p->groups[i].len = (size_t)len;
    }
    p->c.group_ids = p->groups;
    p->c.group_id_count = count;
    return p->groups != NULL;
}

bool mpy_placement_take(mpy_state_t *state, const char *name, PyObject *object, mpy_placement_t *out)
{
    mpy_placement_t p = {.c = {.struct_size = sizeof(p.c), .replica_num = 1, .replica_num_set = 1}};
    if (object == NULL) {
        *out = p;
        return true;
    }
    if (state->config_type == NULL || !PyObject_TypeCheck(object, (PyTypeObject *)state->config_type)) {
        return mpy_wrong_type(name, "config", "ReplicateConfig", object);
    }
    mpy_config_t *config = as_config(object);
    p.c.replica_num = config->replica_num;
    p.c.soft_pin_action = config->soft_pin_action;
    p.c.has_soft_pin_ttl = config->has_soft_pin_ttl;
    p.c.soft_pin_ttl_ms = config->soft_pin_ttl_ms;
    p.c.with_hard_pin = config->with_hard_pin;
    p.c.prefer_alloc_in_same_node = config->prefer_alloc_in_same_node;
    p.c.data_type = config->data_type;
    p.refs[0] = Py_NewRef(config->preferred_segment);
    p.refs[1] = Py_NewRef(config->preferred_segments);
    p.refs[2] = Py_NewRef(config->group_ids);
    if (!take_segments(&p) || !take_groups(&p)) {
        mpy_placement_drop(&p);
        return false;
    }
    p.unavailable = config->nof_replica_num != 0 || config->dfs_replica_num != 0;
    if (p.unavailable) {
        mcs_warn("python",
                 "%s refused: nof_replica_num and dfs_replica_num need tiers that this store does not have: %s", name,
                 mcs_code_name(MCS_INVALID_PARAMS));
    }
    *out = p;
    return true;
}

void mpy_placement_drop(mpy_placement_t *placement)
{
    mcs_free(placement->segments);
    mcs_free(placement->groups);
    for (size_t i = 0; i < MCS_ARRAY_LEN(placement->refs); i++) {
        Py_CLEAR(placement->refs[i]);
    }
    *placement = (mpy_placement_t){0};
}

bool mpy_placement_check(mpy_state_t *state, const char *name, PyObject *config)
{
    mpy_placement_t placement;
    if (!mpy_placement_take(state, name, config, &placement)) {
        return false;
    }
    mpy_placement_drop(&placement);
    return true;
}
